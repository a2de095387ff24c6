//! Bodies of requests: held back where they are short, so that a refusal is a clean 4xx and a changed length can be
//! announced; substituted as they flow where they are long.
//!
//! A body that flows and turns out to hold what must not go out ends in an error before the offending bytes are given:
//! what came before may have been sent, so the request must be aborted, never completed.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::coding::{self, Coding, Decoder, Encoder};
use super::encode::Context;
use super::outcome::{Blocked, BodyPlan, Limits, Location, Reason, ScrubError, Use};
use super::scrub::joined;
use super::set::Inner;
use super::sigv4::{self, Signed};
use super::sigv4_body::ChunkSigner;
use super::spec::Destination;
use super::substitute::{Mode, Place, Substituter};

/// What the body of one request goes through.
///
/// Push each chunk and send what comes out; while [`BodyRewriter::holds_head`] says so, the head must wait. At the end
/// of the body, [`BodyRewriter::finish`] gives the rest; a head that was held back until then is made to fit the body
/// (its length, its signature). After an error nothing more may be sent: if the head was held back, answer with the
/// status of the error, otherwise abort the request to the server.
pub struct BodyRewriter {
    state: State,
    uses: Vec<Use>,
    failed: Option<Blocked>,
}

enum State {
    Pass,
    Hold(Box<Hold>),
    Stream(Box<Substituter>),
    /// Too long to be coded anew: searched, and sent as it is.
    Search(Box<(Decoder, Substituter)>),
    Chunks(Box<ChunkSigner>),
}

struct Hold {
    set: Arc<Inner>,
    to: Destination,
    context: Context,
    codings: Vec<Coding>,
    held: Vec<u8>,
    max: usize,
    limits: Limits,
    /// How it goes on when it is longer.
    then: Mode,
    framed: bool,
    /// To be signed when the body is known.
    signed: Option<Signed>,
}

/// Starts of the names of headers that hold a hash of the body.
const DIGESTS: [&str; 6] = [
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
    "x-amz-checksum-",
    "x-goog-hash",
];
const HASHED: &str = "substitution in a body whose hash is in its headers";
const SIGNED: &str = "substitution in a signed body";
const CODED: &str = "substitution in a compressed body";

/// Plans the body of a request whose head was rewritten, and signs the head if it can be signed already.
pub(super) fn plan(
    set: &Arc<Inner>,
    to: &Destination,
    head: &mut Parts,
    signed: Option<Signed>,
    limits: &Limits,
) -> Result<BodyRewriter, Blocked> {
    let content_type = joined(&head.headers, &CONTENT_TYPE);
    let place = Place {
        to,
        location: Location::Body,
        context: Context::of(&content_type),
    };
    let length = length_of(&head.headers);
    let hashed = head
        .headers
        .keys()
        .any(|name| DIGESTS.iter().any(|d| name.as_str().starts_with(d)));
    let framed = is_framed(&content_type);
    let mut then = match (hashed, length.is_some() || framed) {
        (true, _) => Mode::Refuse(HASHED),
        (false, true) => Mode::SameLength,
        (false, false) => Mode::Exact,
    };
    let mut max = limits.hold;
    let mut later = None;
    if let Some(mut signed) = signed {
        match signature(set, head, &mut signed)? {
            Payload::Chunks(new) => {
                let scan = Substituter::new(set.clone(), &place, Mode::Refuse(SIGNED), 0);
                let signer = ChunkSigner::new(set, &signed, new, scan, limits.signed_chunk);
                return Ok(BodyRewriter::new(State::Chunks(Box::new(signer))));
            }
            Payload::Free => {}
            Payload::Fixed => then = Mode::Refuse(SIGNED),
            Payload::Hashed => {
                then = Mode::Refuse(SIGNED);
                later = Some(signed);
            }
            Payload::Unknown => {
                max = limits.signed_body;
                later = Some(signed);
            }
        }
    }
    let pending = later.as_ref().is_some_and(|s| !s.is_verified());
    if pending && length.is_some_and(|l| l > max as u64) {
        return Err(too_large("its AWS signature", max));
    }
    // A tunnel is no body; its frames are looked at elsewhere.
    let tunnel = head.method == Method::CONNECT || head.headers.contains_key(UPGRADE);
    if !pending && (length == Some(0) || tunnel) {
        return Ok(BodyRewriter::pass());
    }
    let codings = match coding::parse(&joined(&head.headers, &CONTENT_ENCODING)) {
        Ok(codings) => codings,
        Err(coding) if set.bodies_for(to) => {
            return Err(Blocked::request(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Reason::Coding { coding },
            ));
        }
        // No value belongs into this body, and what stands in it cannot be seen.
        Err(_) if !pending => return Ok(BodyRewriter::pass()),
        Err(_) => Vec::new(),
    };
    let hold = Hold {
        set: set.clone(),
        to: to.clone(),
        context: place.context,
        codings,
        held: Vec::new(),
        max,
        limits: *limits,
        then,
        framed,
        signed: later,
    };
    let long = length.is_some_and(|l| l > max as u64);
    let waits = length.is_none() && framed;
    let state = if !pending && (long || waits) {
        hold.overflow()?
    } else {
        State::Hold(Box::new(hold))
    };
    Ok(BodyRewriter::new(state))
}

/// What the client's signature says about the body.
enum Payload {
    /// Nothing: it may change.
    Free,
    /// It must stay as it is.
    Fixed,
    /// Its hash is in a header: where it changes, the head is signed once more.
    Hashed,
    /// It must be known before the head can be signed.
    Unknown,
    /// It is signed in chunks, the first of which follows this signature.
    Chunks(String),
}

fn signature(set: &Arc<Inner>, head: &mut Parts, signed: &mut Signed) -> Result<Payload, Blocked> {
    let stated = head
        .headers
        .get(sigv4::CONTENT_HASH)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let Some(stated) = stated else {
        let tries: &[&str] = if signed.in_header() {
            &[sigv4::EMPTY]
        } else {
            &[sigv4::UNSIGNED, sigv4::EMPTY]
        };
        for tried in tries {
            if signed.verify(set, tried) {
                signed.sign(set, head, tried)?;
                let free = *tried == sigv4::UNSIGNED;
                return Ok(if free { Payload::Free } else { Payload::Fixed });
            }
        }
        return Ok(Payload::Unknown);
    };
    if !signed.verify(set, &stated) {
        return Err(signed.mismatch(set));
    }
    let new = signed.sign(set, head, &stated)?;
    Ok(match stated.as_str() {
        sigv4::UNSIGNED => Payload::Free,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Payload::Fixed,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Payload::Chunks(new),
        other if other.starts_with("STREAMING-") => {
            let what = "its streaming kind is not known";
            let name = set.name(signed.key);
            return Err(Blocked::new(name, StatusCode::BAD_REQUEST, Reason::Signature { what }));
        }
        _ => Payload::Hashed,
    })
}

/// Bodies whose two directions may wait for each other, and whose inner lengths must stay.
fn is_framed(content_type: &str) -> bool {
    let lower = content_type.trim_start().to_ascii_lowercase();
    lower.starts_with("application/grpc") || lower.starts_with("application/connect+")
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn too_large(purpose: &'static str, limit: usize) -> Blocked {
    Blocked::request(StatusCode::PAYLOAD_TOO_LARGE, Reason::TooLarge { purpose, limit })
}

impl From<ScrubError> for Blocked {
    fn from(error: ScrubError) -> Self {
        let (status, what) = match error {
            ScrubError::Bomb => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "its compressed content grows beyond the limit",
            ),
            ScrubError::Coding(_) | ScrubError::Broken(_) | ScrubError::WebSocket(_) => {
                (StatusCode::BAD_REQUEST, "its compressed content is broken")
            }
        };
        Blocked::request(status, Reason::Malformed { what })
    }
}

impl Hold {
    fn substituter(&self, mode: Mode) -> Substituter {
        let place = Place {
            to: &self.to,
            location: Location::Body,
            context: self.context,
        };
        Substituter::new(self.set.clone(), &place, mode, self.max)
    }

    /// How it goes on without holding.
    fn overflow(&self) -> Result<State, Blocked> {
        if self.signed.as_ref().is_some_and(|s| !s.is_verified()) {
            return Err(too_large("its AWS signature", self.max));
        }
        if self.codings.is_empty() {
            return Ok(State::Stream(Box::new(self.substituter(self.then))));
        }
        let decoder = Decoder::new(&self.codings, &self.limits)?;
        Ok(State::Search(Box::new((
            decoder,
            self.substituter(Mode::Refuse(CODED)),
        ))))
    }

    /// The whole body is here.
    fn finish(mut self, head: &mut Parts, uses: &mut Vec<Use>) -> Result<Bytes, Blocked> {
        let held = std::mem::take(&mut self.held);
        let written = match self.rewritten(&held, uses)? {
            Some(_) if matches!(self.then, Mode::Refuse(HASHED)) => {
                return Err(too_large(HASHED, 0));
            }
            Some(written) => written,
            None => held.clone(),
        };
        if head.headers.contains_key(CONTENT_LENGTH) {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(written.len()));
        }
        if let Some(mut signed) = self.signed.take()
            && (!signed.is_verified() || written != held)
        {
            if !signed.is_verified() && !signed.verify(&self.set, &sigv4::sha256(&held)) {
                return Err(signed.mismatch(&self.set));
            }
            let hash = sigv4::sha256(&written);
            if head.headers.contains_key(sigv4::CONTENT_HASH) {
                let value = HeaderValue::try_from(&hash).expect("hexadecimal digits are a header value");
                head.headers.insert(sigv4::CONTENT_HASH, value);
            }
            signed.sign(&self.set, head, &hash)?;
        }
        Ok(Bytes::from(written))
    }

    /// The body with values in it; nothing if it stays as it is.
    fn rewritten(&self, held: &[u8], uses: &mut Vec<Use>) -> Result<Option<Vec<u8>>, Blocked> {
        // Lengths inside the frames of gRPC are not ours to change; the body's own length is announced anew.
        let mode = if self.framed { Mode::SameLength } else { Mode::Exact };
        let mut substituter = self.substituter(mode);
        let mut written = Vec::new();
        if self.codings.is_empty() {
            substituter.push(held, true, &mut written)?;
        } else {
            match self.decoded(held, &mut substituter, &mut written) {
                Ok(()) => {}
                // Not what it says it is, and no value belongs into it: the server may say so.
                Err(Blocked {
                    reason: Reason::Malformed { .. },
                    ..
                }) if !self.set.bodies_for(&self.to) => return Ok(None),
                Err(blocked) => return Err(blocked),
            }
        }
        uses.extend(substituter.uses().iter().cloned());
        if !substituter.substituted() {
            return Ok(None);
        }
        if !self.codings.is_empty() {
            let mut encoder = Encoder::new(&self.codings)?;
            let mut coded = encoder.push(&written)?;
            coded.extend(encoder.finish()?);
            return Ok(Some(coded));
        }
        Ok(Some(written))
    }

    fn decoded(&self, held: &[u8], substituter: &mut Substituter, out: &mut Vec<u8>) -> Result<(), Blocked> {
        let limits = Limits {
            // All of it is in memory at once.
            decoded: self.limits.decoded.min(64 << 20),
            ..self.limits
        };
        let mut decoder = Decoder::new(&self.codings, &limits)?;
        decoder.push(held, |piece| substituter.push(piece, false, out))?;
        decoder.finish(|piece| substituter.push(piece, false, out))?;
        substituter.push(&[], true, out)
    }
}

impl BodyRewriter {
    fn new(state: State) -> Self {
        BodyRewriter {
            state,
            uses: Vec::new(),
            failed: None,
        }
    }

    pub(super) fn pass() -> Self {
        Self::new(State::Pass)
    }

    pub(super) fn plan(&self) -> BodyPlan {
        match &self.state {
            State::Pass => BodyPlan::Pass,
            State::Hold(hold) => BodyPlan::Buffer { max: hold.max },
            State::Stream(_) | State::Search(_) | State::Chunks(_) => BodyPlan::Stream,
        }
    }

    /// Whether the head must still wait.
    pub fn holds_head(&self) -> bool {
        matches!(self.state, State::Hold(_))
    }

    /// Credentials found in the body so far.
    pub fn uses(&self) -> &[Use] {
        match &self.state {
            State::Pass | State::Hold(_) => &self.uses,
            State::Stream(substituter) => substituter.uses(),
            State::Search(both) => both.1.uses(),
            State::Chunks(signer) => signer.uses(),
        }
    }

    /// Takes a chunk; gives what can be sent.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, Blocked> {
        self.guarded(|this| this.advance(chunk))
    }

    /// Stops holding back, where the body can flow: for a client that waits for an answer before it sends more.
    pub fn release(&mut self) -> Result<Bytes, Blocked> {
        self.guarded(|this| match &this.state {
            State::Hold(hold) if hold.codings.is_empty() && hold.signed.is_none() => this.flow(),
            _ => Ok(Bytes::new()),
        })
    }

    /// The end of the body. Gives the rest of it; `head` is made to fit if it was held back until now, and is not
    /// touched otherwise.
    pub fn finish(&mut self, head: &mut Parts) -> Result<Bytes, Blocked> {
        self.guarded(|this| {
            let mut out = Vec::new();
            match &mut this.state {
                State::Pass => {}
                State::Hold(_) => {
                    let State::Hold(hold) = std::mem::replace(&mut this.state, State::Pass) else {
                        return Ok(Bytes::new());
                    };
                    return hold.finish(head, &mut this.uses);
                }
                State::Stream(substituter) => substituter.push(&[], true, &mut out)?,
                State::Search(both) => {
                    let (decoder, substituter) = &mut **both;
                    let mut seen = Vec::new();
                    decoder.finish(|piece| substituter.push(piece, false, &mut seen))?;
                    substituter.push(&[], true, &mut seen)?;
                }
                State::Chunks(signer) => signer.finish()?,
            }
            Ok(Bytes::from(out))
        })
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<Bytes, Blocked>) -> Result<Bytes, Blocked> {
        if let Some(blocked) = &self.failed {
            return Err(blocked.clone());
        }
        let done = work(self);
        if let Err(blocked) = &done {
            self.failed = Some(blocked.clone());
        }
        done
    }

    fn advance(&mut self, chunk: &[u8]) -> Result<Bytes, Blocked> {
        let mut out = Vec::new();
        match &mut self.state {
            State::Pass => out.extend_from_slice(chunk),
            State::Hold(hold) => {
                hold.held.extend_from_slice(chunk);
                if hold.held.len() > hold.max {
                    return self.flow();
                }
            }
            State::Stream(substituter) => substituter.push(chunk, false, &mut out)?,
            State::Search(both) => {
                let (decoder, substituter) = &mut **both;
                decoder.push(chunk, |piece| substituter.push(piece, false, &mut Vec::new()))?;
                out.extend_from_slice(chunk);
            }
            State::Chunks(signer) => signer.push(chunk, &mut out)?,
        }
        Ok(Bytes::from(out))
    }

    /// From holding to flowing.
    fn flow(&mut self) -> Result<Bytes, Blocked> {
        let State::Hold(hold) = &mut self.state else {
            return Ok(Bytes::new());
        };
        let next = hold.overflow()?;
        let held = std::mem::take(&mut hold.held);
        self.state = next;
        self.advance(&held)
    }
}
