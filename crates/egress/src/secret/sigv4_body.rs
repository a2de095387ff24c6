//! Bodies that AWS clients sign chunk by chunk (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, with and without a signed
//! trailer): each chunk's signature is checked with the placeholder's key and made anew with the secret's.
//!
//! A chunk is held until it is whole, since its signature stands before it. Placeholders inside the chunks are refused:
//! the client may have sent hashes of its own over the data.

use std::sync::Arc;

use aws_lc_rs::hmac;
use http::StatusCode;

use super::outcome::{Blocked, Reason, Use};
use super::set::Inner;
use super::sigv4::{EMPTY, Signed, mac, sha256};
use super::substitute::Substituter;

/// The longest line of a chunk's head or of the trailer.
const MAX_LINE: usize = 16 << 10;
const MAX_TRAILER: usize = 64 << 10;

enum State {
    /// Before a chunk: its size and signature.
    Line,
    /// In a chunk, of which this many bytes with its line end are missing.
    Data {
        size: usize,
        signature: String,
    },
    /// After the last chunk.
    Trailer,
    End,
}

/// Renews the signatures of one body.
pub(super) struct ChunkSigner {
    set: Arc<Inner>,
    key: usize,
    time: String,
    scope: String,
    /// Key and last signature as the client has them, and as the server will.
    inside: (hmac::Key, String),
    outside: (hmac::Key, String),
    state: State,
    buffer: Vec<u8>,
    trailer: Vec<u8>,
    scan: Substituter,
    max_chunk: usize,
}

impl ChunkSigner {
    /// After the head was signed: `signature` is the new one.
    pub(super) fn new(
        set: &Arc<Inner>,
        signed: &Signed,
        signature: String,
        scan: Substituter,
        max_chunk: usize,
    ) -> Self {
        let spec = &set.specs[signed.key];
        ChunkSigner {
            key: signed.key,
            time: signed.time.clone(),
            scope: signed.scope.clone(),
            inside: (signed.signing_key(&spec.placeholder), signed.signature.clone()),
            outside: (signed.signing_key(spec.secret()), signature),
            state: State::Line,
            buffer: Vec::new(),
            trailer: Vec::new(),
            scan,
            max_chunk,
            set: set.clone(),
        }
    }

    pub(super) fn uses(&self) -> &[Use] {
        self.scan.uses()
    }

    fn malformed(&self) -> Blocked {
        let what = "it is not a body in signed chunks";
        Blocked::new(
            self.set.name(self.key),
            StatusCode::BAD_REQUEST,
            Reason::Malformed { what },
        )
    }

    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), Blocked> {
        self.buffer.extend_from_slice(chunk);
        let mut used = 0;
        loop {
            let rest = &self.buffer[used..];
            match &self.state {
                State::Line => {
                    let Some(line) = line_of(rest).ok_or_else(|| self.malformed())? else {
                        break;
                    };
                    let (size, signature) = chunk_head(line).ok_or_else(|| self.malformed())?;
                    if size > self.max_chunk {
                        let reason = Reason::TooLarge {
                            purpose: "the signature of one of its chunks",
                            limit: self.max_chunk,
                        };
                        return Err(Blocked::new(
                            self.set.name(self.key),
                            StatusCode::PAYLOAD_TOO_LARGE,
                            reason,
                        ));
                    }
                    used += line.len() + 2;
                    if size == 0 {
                        self.renew(&signature, &[], out)?;
                        self.state = State::Trailer;
                    } else {
                        self.state = State::Data { size, signature };
                    }
                }
                State::Data { size, signature } => {
                    let (size, signature) = (*size, signature.clone());
                    if rest.len() < size + 2 {
                        break;
                    }
                    if &rest[size..size + 2] != b"\r\n" {
                        return Err(self.malformed());
                    }
                    let data = rest[..size].to_vec();
                    let mut scanned = Vec::new();
                    self.scan.push(&data, false, &mut scanned)?;
                    self.renew(&signature, &data, out)?;
                    out.extend_from_slice(&data);
                    out.extend_from_slice(b"\r\n");
                    used += size + 2;
                    self.state = State::Line;
                }
                State::Trailer => {
                    let Some(line) = line_of(rest).ok_or_else(|| self.malformed())? else {
                        break;
                    };
                    let line = line.to_vec();
                    used += line.len() + 2;
                    self.trailer_line(&line, out)?;
                }
                State::End => {
                    if !rest.is_empty() {
                        return Err(self.malformed());
                    }
                    break;
                }
            }
        }
        self.buffer.drain(..used);
        Ok(())
    }

    /// The end of the body: an error if the last chunk is missing.
    pub(super) fn finish(&mut self) -> Result<(), Blocked> {
        let mut scanned = Vec::new();
        self.scan.push(&[], true, &mut scanned)?;
        // Some clients leave out the empty line behind the last chunk.
        match self.state {
            State::End => Ok(()),
            State::Trailer if self.buffer.is_empty() && self.trailer.is_empty() => Ok(()),
            State::Line | State::Data { .. } | State::Trailer => Err(self.malformed()),
        }
    }

    fn renew(&mut self, signature: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), Blocked> {
        let hash = sha256(data);
        let new = self.chain("AWS4-HMAC-SHA256-PAYLOAD", &format!("{EMPTY}\n{hash}"), signature)?;
        out.extend_from_slice(format!("{:x};chunk-signature={new}\r\n", data.len()).as_bytes());
        Ok(())
    }

    /// Checks the client's signature over what follows the last one, and makes the new one.
    fn chain(&mut self, algorithm: &str, hashes: &str, signature: &str) -> Result<String, Blocked> {
        let (time, scope) = (&self.time, &self.scope);
        let of =
            |side: &(hmac::Key, String)| mac(&side.0, &format!("{algorithm}\n{time}\n{scope}\n{}\n{hashes}", side.1));
        if of(&self.inside) != signature {
            let what = "the signature of one of its chunks is wrong";
            let name = self.set.name(self.key);
            return Err(Blocked::new(name, StatusCode::BAD_REQUEST, Reason::Signature { what }));
        }
        let new = of(&self.outside);
        self.inside.1 = signature.to_owned();
        self.outside.1.clone_from(&new);
        Ok(new)
    }

    fn trailer_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Blocked> {
        if line.is_empty() {
            if !self.trailer.is_empty() {
                return Err(self.malformed());
            }
            out.extend_from_slice(b"\r\n");
            self.state = State::End;
            return Ok(());
        }
        if let Some(signature) = line.strip_prefix(b"x-amz-trailer-signature:") {
            let signature = String::from_utf8_lossy(signature).trim().to_owned();
            let hash = sha256(&std::mem::take(&mut self.trailer));
            let new = self.chain("AWS4-HMAC-SHA256-TRAILER", &hash, &signature)?;
            out.extend_from_slice(format!("x-amz-trailer-signature:{new}\r\n").as_bytes());
            return Ok(());
        }
        if self.trailer.len() + line.len() > MAX_TRAILER {
            return Err(self.malformed());
        }
        self.trailer.extend_from_slice(line);
        self.trailer.push(b'\n');
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// A line without its end; nothing if it is not whole yet; an outer nothing if it is too long.
fn line_of(rest: &[u8]) -> Option<Option<&[u8]>> {
    match rest.windows(2).take(MAX_LINE).position(|w| w == b"\r\n") {
        Some(end) => Some(Some(&rest[..end])),
        None if rest.len() > MAX_LINE => None,
        None => Some(None),
    }
}

fn chunk_head(line: &[u8]) -> Option<(usize, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (size, rest) = line.split_once(';')?;
    let signature = rest.trim().strip_prefix("chunk-signature=")?;
    if size.is_empty() || size.len() > 8 || !size.bytes().all(|b| b.is_ascii_hexdigit()) || signature.len() != 64 {
        return None;
    }
    Some((usize::from_str_radix(size, 16).ok()?, signature.to_owned()))
}
