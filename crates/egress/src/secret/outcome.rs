//! What the rewriting of a request can end in: what was used, how its body is handled, or why it must not go out.

use std::fmt;

use http::StatusCode;

/// Bounds on what is kept in memory and what is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request bodies are held back up to this many bytes, so that a refusal is a clean 4xx; a longer one streams.
    pub hold: usize,
    /// The longest request body whose hash must be known before its head can be signed (AWS).
    pub signed_body: usize,
    /// The longest chunk of a body that is signed chunk by chunk (AWS).
    pub signed_chunk: usize,
    /// The most that one compressed body may decode to.
    pub decoded: u64,
    /// The most bytes that one compressed byte may become, once [`Limits::RATIO_FREE`] bytes came out.
    pub ratio: u32,
    /// The longest WebSocket control frame is fixed by its protocol; this is the longest data frame.
    pub frame: u64,
}

impl Limits {
    /// Decoded bytes before the ratio counts.
    pub const RATIO_FREE: u64 = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hold: 1 << 20,
            signed_body: 16 << 20,
            signed_chunk: 16 << 20,
            decoded: 8 << 30,
            ratio: 2000,
            frame: 1 << 32,
        }
    }
}

/// What happens to a placeholder that may not be substituted where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Handling {
    /// The request is refused.
    #[default]
    Block,
    /// The placeholder, which is no secret, goes out as it is, and the use says so.
    Pass,
}

/// What to do about misuse of placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rules {
    /// A placeholder on its way to a host that its credential does not name.
    pub foreign: Handling,
    /// A placeholder at a named host, in a location that its credential does not name.
    pub misplaced: Handling,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// A header's value.
    Header,
    /// User or password of Basic authentication.
    Basic,
    /// The query of the address.
    Query,
    /// The body.
    Body,
    /// A WebSocket message.
    WebSocket,
    /// An AWS signature.
    Signature,
    /// The path of the address; nothing is ever substituted here.
    Path,
    /// The host of the address; nothing is ever substituted here.
    Host,
    /// A header's name, or the method; nothing is ever substituted here.
    Name,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Location::Header => "a header",
            Location::Basic => "Basic authentication",
            Location::Query => "the query",
            Location::Body => "the body",
            Location::WebSocket => "a WebSocket message",
            Location::Signature => "the request's signature",
            Location::Path => "the path",
            Location::Host => "the host name",
            Location::Name => "a header's name or the method",
        })
    }
}

/// One credential found in one location of a request; for the record of the crossing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The credential's name.
    pub name: String,
    /// Where its placeholder stood.
    pub location: Location,
    /// False when the placeholder went out as it was (see [`Rules`]).
    pub substituted: bool,
}

/// How the body of a request goes out; [`super::BodyRewriter`] does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Nothing has to be looked for: send the body as it comes.
    Pass,
    /// The head may be sent at once, the body is rewritten as it flows.
    Stream,
    /// The body is held back until its end, or until `max` bytes; the head must wait for it.
    Buffer {
        /// Bytes that are held at most.
        max: usize,
    },
}

/// A request that must not go out, and what its sender is told. Carries neither secret nor placeholder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credential {name}: {reason}")]
pub struct Blocked {
    /// The status of the answer, when none of the request was sent yet.
    pub status: StatusCode,
    /// Why.
    pub reason: Reason,
    /// The credential's name; `-` if it is not about one credential.
    pub name: String,
}

/// Why a request is blocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The credential does not name the host.
    #[error("its placeholder was on its way to {host} in {location}, a host that the credential does not name")]
    Foreign {
        /// Where it would have gone.
        host: String,
        /// Where it stood.
        location: Location,
    },
    /// The credential does not name the location.
    #[error("its placeholder stood in {location}, where the credential may not be used")]
    Misplaced {
        /// Where it stood.
        location: Location,
    },
    /// The connection is not encrypted.
    #[error("it is not sent without TLS; use https, or allow cleartext for this credential")]
    Cleartext,
    /// The placeholder is there, in a form that cannot be swapped in place.
    #[error("its placeholder stood in {location}, encoded as {form}, which cannot be substituted; send it plainly")]
    Encoded {
        /// Where it stood.
        location: Location,
        /// The encoding.
        form: &'static str,
    },
    /// The value cannot stand there.
    #[error("its value has characters that cannot stand in {location}")]
    Unfit {
        /// Where it should have stood.
        location: Location,
    },
    /// The substituted value changes the length of a body whose length was announced.
    #[error("its value does not fit the announced length of the body; send less than {limit} bytes, or chunked")]
    Length {
        /// Bodies below this are held and measured anew.
        limit: usize,
    },
    /// A body that has to be held is too long.
    #[error("the body must be held for {purpose}, and is longer than {limit} bytes")]
    TooLarge {
        /// Why it must be held.
        purpose: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The body's coding cannot be rewritten.
    #[error("the body's Content-Encoding {coding} cannot be read; send it as identity, gzip, deflate, br or zstd")]
    Coding {
        /// The coding.
        coding: String,
    },
    /// The body is not what its headers say.
    #[error("the body is not what its headers say: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A signature of the request cannot be made anew.
    #[error("the request's AWS signature cannot be renewed: {what}")]
    Signature {
        /// What is wrong.
        what: &'static str,
    },
    /// A WebSocket stream breaks its protocol.
    #[error("the WebSocket stream is wrong: {what}")]
    WebSocket {
        /// What is wrong.
        what: &'static str,
    },
}

impl Blocked {
    pub(super) fn new(name: &str, status: StatusCode, reason: Reason) -> Self {
        Blocked {
            status,
            reason,
            name: name.to_owned(),
        }
    }

    /// Not about one credential.
    pub(super) fn request(status: StatusCode, reason: Reason) -> Self {
        Blocked::new("-", status, reason)
    }

    pub(super) fn foreign(name: &str, host: &str, location: Location) -> Self {
        let host = host.to_owned();
        Blocked::new(name, StatusCode::FORBIDDEN, Reason::Foreign { host, location })
    }
}

/// Adds a use, once for each credential and location.
pub(super) fn note(uses: &mut Vec<Use>, name: &str, location: Location, substituted: bool) {
    let known = uses
        .iter()
        .any(|u| u.name == name && u.location == location && u.substituted == substituted);
    if !known {
        uses.push(Use {
            name: name.to_owned(),
            location,
            substituted,
        });
    }
}

/// Why a response could not be searched to its end. What came before was searched; nothing after it may be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScrubError {
    /// The coding is not known, so the body cannot be searched.
    #[error("the response's Content-Encoding {0} cannot be searched for secrets")]
    Coding(String),
    /// The body is not what its coding says.
    #[error("the response's {0} body is broken")]
    Broken(&'static str),
    /// More came out of a compressed body than may.
    #[error("the response's compressed body grows beyond the limit")]
    Bomb,
    /// A WebSocket stream breaks its protocol.
    #[error("the WebSocket stream is wrong: {0}")]
    WebSocket(&'static str),
}
