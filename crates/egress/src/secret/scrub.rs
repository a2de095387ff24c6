//! The way back: secrets in responses become their placeholders, in the spelling in which they stood.
//!
//! Refuses a body whose coding cannot be read, is broken, or grows beyond its bound: what cannot be searched does not
//! pass. Nothing is held back but what may be the beginning of a secret.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::coding::{self, Decoder, Encoder};
use super::finder::{Finder, Found};
use super::outcome::{Limits, ScrubError};
use super::set::{Inner, SecretSet};

/// What happens to the length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Replacements are exact; where a secret was escaped, the length may change.
    Exact,
    /// The length stays: a replacement that came out shorter is filled up.
    SameLength,
}

/// A text that flows through a search, with what of it is not decided yet.
#[derive(Default)]
pub(super) struct Flow {
    carry: Zeroizing<Vec<u8>>,
    /// So many bytes of it were written already, as the end of a match: they are kept for matches that overlap it.
    written: usize,
}

/// What stands before a match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// A byte that was written as it is.
    Byte,
    /// Another match, or something that is not known any more.
    Unknown,
    /// A match that overlaps this one: only the end of what is written for this one counts.
    Overlap,
}

impl Flow {
    /// Appends to `out` what is decided of the text. `swap` writes what replaces a match, and gives its end.
    pub(super) fn push<E>(
        &mut self,
        finder: &Finder,
        chunk: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        mut swap: impl FnMut(&[u8], Found, Before, &mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<(), E> {
        let carried;
        let text = if self.carry.is_empty() {
            chunk
        } else {
            let mut joined = Zeroizing::new(Vec::with_capacity(self.carry.len() + chunk.len()));
            joined.extend_from_slice(&self.carry);
            joined.extend_from_slice(chunk);
            carried = joined;
            &carried[..]
        };
        out.reserve(text.len());
        let mut cursor = self.written;
        let hold = finder.search(text, cursor, last, |found| {
            if found.start < cursor {
                let mut whole = Vec::new();
                let end = swap(text, found, Before::Overlap, &mut whole)?;
                let beyond = end - cursor;
                if whole.len() == end - found.start {
                    out.extend_from_slice(&whole[whole.len() - beyond..]);
                } else {
                    out.resize(out.len() + beyond, b'0');
                }
                cursor = end;
                return Ok(cursor);
            }
            out.extend_from_slice(&text[cursor..found.start]);
            let before = if found.start > cursor {
                Before::Byte
            } else {
                Before::Unknown
            };
            cursor = swap(text, found, before, out)?;
            Ok(cursor)
        })?;
        if hold > cursor {
            out.extend_from_slice(&text[cursor..hold]);
        }
        self.written = cursor.saturating_sub(hold);
        self.carry = Zeroizing::new(text[hold..].to_vec());
        Ok(())
    }
}

/// A flow in which secrets become placeholders.
pub(super) struct ScrubFlow {
    set: Arc<Inner>,
    flow: Flow,
    fit: Fit,
    hits: usize,
    owners: Vec<usize>,
}

impl ScrubFlow {
    pub(super) fn new(set: Arc<Inner>, fit: Fit) -> Self {
        ScrubFlow {
            set,
            flow: Flow::default(),
            fit,
            hits: 0,
            owners: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) {
        let ScrubFlow {
            set,
            flow,
            fit,
            hits,
            owners,
        } = self;
        let finder = &set.back;
        let done: Result<(), std::convert::Infallible> =
            flow.push(finder, chunk, last, out, |text, found, before, out| {
                let needle = &finder.needles[found.needle];
                *hits += 1;
                if !owners.contains(&needle.owner) {
                    owners.push(needle.owner);
                }
                let start = out.len();
                let span = (found.start, found.end);
                let plain = |byte, out: &mut Vec<u8>| out.push(byte);
                let end = needle
                    .replace(text, span, before == Before::Byte, out, plain)
                    .unwrap_or_else(|| {
                        out.truncate(start);
                        found.end
                    });
                let length = end - found.start;
                let written = out.len() - start;
                if *fit == Fit::SameLength && written != length {
                    if written > length {
                        out.truncate(start);
                    }
                    out.resize(start + length, b'0');
                }
                Ok(end)
            });
        match done {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    pub(super) fn hits(&self) -> usize {
        self.hits
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.owners.iter().map(|o| self.set.specs[*o].name.clone()).collect()
    }
}

/// Takes secrets out of a response's body, chunk by chunk.
pub struct Scrubber {
    flow: ScrubFlow,
    /// For a coded body: read, search, write again.
    recode: Option<(Decoder, Encoder)>,
    failed: Option<ScrubError>,
}

impl Scrubber {
    /// Gives what can be passed on. An error ends the response: abort it towards the client.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, ScrubError> {
        self.step(chunk, false)
    }

    /// The end of the body; gives the rest. An error as in [`Scrubber::push`], also if a coded body was cut short.
    pub fn finish(&mut self) -> Result<Bytes, ScrubError> {
        self.step(&[], true)
    }

    /// Occurrences that were taken out so far.
    pub fn hits(&self) -> usize {
        self.flow.hits()
    }

    /// Names of the credentials whose values were taken out.
    pub fn names(&self) -> Vec<String> {
        self.flow.names()
    }

    fn step(&mut self, chunk: &[u8], last: bool) -> Result<Bytes, ScrubError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let done = self.advance(chunk, last);
        if let Err(error) = &done {
            self.failed = Some(error.clone());
        }
        done.map(Bytes::from)
    }

    fn advance(&mut self, chunk: &[u8], last: bool) -> Result<Vec<u8>, ScrubError> {
        let mut out = Vec::new();
        let Some((decoder, encoder)) = &mut self.recode else {
            self.flow.push(chunk, last, &mut out);
            return Ok(out);
        };
        let flow = &mut self.flow;
        decoder.push(chunk, |piece| {
            let mut clean = Vec::new();
            flow.push(piece, false, &mut clean);
            out.extend(encoder.push(&clean)?);
            Ok::<(), ScrubError>(())
        })?;
        if last {
            let mut clean = Vec::new();
            decoder.finish(|piece| {
                flow.push(piece, false, &mut clean);
                Ok::<(), ScrubError>(())
            })?;
            flow.push(&[], true, &mut clean);
            out.extend(encoder.push(&clean)?);
            out.extend(encoder.finish()?);
        }
        Ok(out)
    }
}

/// Headers that hold a hash of the body as it is coded.
const DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
];

impl SecretSet {
    /// Takes secrets out of headers or trailers; gives the number of headers that were changed or, where the name itself
    /// holds a secret, removed.
    pub fn scrub_headers(&self, headers: &mut HeaderMap) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut changed = 0;
        for value in headers.values_mut() {
            let (clean, hits) = self.scrub_bytes(value.as_bytes());
            if hits > 0 {
                // A placeholder is visible ASCII, but a spelling may be anything.
                *value = HeaderValue::from_bytes(&clean).unwrap_or_else(|_| HeaderValue::from_static("removed"));
                changed += 1;
            }
        }
        let named: Vec<HeaderName> = headers
            .keys()
            .filter(|name| {
                self.inner
                    .lower_values
                    .iter()
                    .any(|v| name.as_str().contains(v.as_str()))
            })
            .cloned()
            .collect();
        for name in named {
            headers.remove(name);
            changed += 1;
        }
        changed
    }

    /// Prepares the head of a response and gives the scrubber for its body: takes secrets out of the headers; a coded
    /// body is coded anew, so its length and the hashes of its bytes are removed (the body is then sent chunked).
    pub fn scrub_response(
        &self,
        head: &mut http::response::Parts,
        limits: &Limits,
    ) -> Result<(usize, Scrubber), ScrubError> {
        let changed = self.scrub_headers(&mut head.headers);
        let coding = joined(&head.headers, &CONTENT_ENCODING);
        let codings = if self.is_empty() {
            Vec::new()
        } else {
            coding::parse(&coding).map_err(ScrubError::Coding)?
        };
        let fit = if codings.is_empty() && head.headers.contains_key(CONTENT_LENGTH) {
            Fit::SameLength
        } else {
            Fit::Exact
        };
        if !codings.is_empty() {
            if head.status == StatusCode::PARTIAL_CONTENT {
                return Err(ScrubError::Coding(format!("{coding}, of which only a part was sent,")));
            }
            head.headers.remove(CONTENT_LENGTH);
            for digest in &DIGESTS {
                head.headers.remove(digest);
            }
        }
        Ok((changed, self.scrubber_of(&codings, fit, limits)?))
    }

    /// A scrubber for a body with this `Content-Encoding` (empty for none). A coded body is always [`Fit::Exact`].
    pub fn scrubber(&self, content_encoding: &str, fit: Fit, limits: &Limits) -> Result<Scrubber, ScrubError> {
        let codings = if self.is_empty() {
            Vec::new()
        } else {
            coding::parse(content_encoding).map_err(ScrubError::Coding)?
        };
        self.scrubber_of(&codings, fit, limits)
    }

    fn scrubber_of(&self, codings: &[coding::Coding], fit: Fit, limits: &Limits) -> Result<Scrubber, ScrubError> {
        let recode = if codings.is_empty() || self.is_empty() {
            None
        } else {
            Some((Decoder::new(codings, limits)?, Encoder::new(codings)?))
        };
        let fit = if recode.is_some() { Fit::Exact } else { fit };
        Ok(Scrubber {
            flow: ScrubFlow::new(self.inner.clone(), fit),
            recode,
            failed: None,
        })
    }

    /// Takes secrets out of a whole text, such as a tool's result or a line of a log; gives how many there were.
    pub fn scrub_text<'a>(&self, text: &'a str) -> (Cow<'a, str>, usize) {
        let (clean, hits) = self.scrub_bytes(text.as_bytes());
        match hits {
            0 => (Cow::Borrowed(text), 0),
            _ => (Cow::Owned(String::from_utf8_lossy(&clean).into_owned()), hits),
        }
    }

    /// Takes secrets out of whole bytes.
    pub fn scrub_bytes(&self, bytes: &[u8]) -> (Vec<u8>, usize) {
        if self.is_empty() || self.inner.back.first_in(bytes).is_none() {
            return (bytes.to_vec(), 0);
        }
        let mut flow = ScrubFlow::new(self.inner.clone(), Fit::Exact);
        let mut out = Vec::new();
        flow.push(bytes, true, &mut out);
        (out, flow.hits())
    }
}

/// All values of a header as one list.
pub(super) fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|v| String::from_utf8_lossy(v.as_bytes()))
        .collect();
    values.join(", ")
}
