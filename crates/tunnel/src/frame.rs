//! The messages that edge and gateway exchange outside of payload: pure encoding and decoding, no I/O.
//!
//! A frame is a version byte, a kind byte, a length of two bytes (big-endian) and that many bytes of payload.
//! Texts inside are a length of two bytes and UTF-8.
//!
//! [`decode`] refuses, before it reads a payload, an unknown version or kind and a length above the kind's bound;
//! afterwards, a text that is too long or not UTF-8, a host that is not a lower-case name, an unknown code, and bytes
//! that are left over. A frame that was decoded encodes to the same bytes again.

use std::fmt;

use bytes::{Buf, BufMut};
use secrecy::{ExposeSecret, SecretString};

/// The version of the frame layout, the first byte of every frame.
pub const LAYOUT: u8 = 1;

/// The version of the protocol that this build speaks, said in [`Hello`].
pub const PROTOCOL: u16 = 1;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 4;

/// The longest frame of any kind, header included.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + MAX_HELLO;

/// The host of a probe that tests a connection and no route.
pub const PROBE_HOST: &str = "probe.invalid";

const MAX_HELLO: usize = 2048;
const MAX_OTHER: usize = 640;
const MAX_ID: usize = 128;
const MAX_TOKEN: usize = 1024;
const MAX_SOFTWARE: usize = 64;
const MAX_MESSAGE: usize = 512;
const MAX_HOST: usize = 253;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte names a layout that this build does not know.
    #[error("frame layout {0} is not known here (this build knows {LAYOUT})")]
    Layout(u8),
    /// The second byte names no frame.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// The length is above the bound of the kind.
    #[error("a {kind} frame of {len} bytes is over the limit of {max}")]
    TooLong {
        /// The kind's name.
        kind: &'static str,
        /// The length that the header gave.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The payload ends inside a field.
    #[error("the frame ends inside `{0}`")]
    Short(&'static str),
    /// A field breaks its rule.
    #[error("the frame's `{0}` is not valid")]
    Field(&'static str),
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field of the frame")]
    Trailing(usize),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Gateway to edge, first on a connection.
    Hello(Hello),
    /// Edge to gateway: the connection is admitted.
    Welcome(Welcome),
    /// Edge to gateway: it is not, and ends here.
    Refused(Refused),
    /// Either way: are you there.
    Ping(u64),
    /// The answer to the ping of that number.
    Pong(u64),
    /// Either way: no new streams; what is open may end.
    Drain,
    /// Edge to gateway, first on a data stream.
    Open(Open),
    /// Gateway to edge: payload may follow.
    Accepted,
    /// Gateway to edge: the stream ends here.
    Rejected(Rejection),
}

/// What a gateway says of itself.
#[derive(Clone)]
pub struct Hello {
    /// The protocol version that the gateway speaks.
    pub protocol: u16,
    /// The tunnel that it belongs to.
    pub tunnel_id: String,
    /// The tunnel's token.
    pub token: SecretString,
    /// The gateway process, the same on all of its connections.
    pub instance: String,
    /// Which of the process's connections this is, from 0.
    pub index: u16,
    /// The gateway's software and version.
    pub software: String,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("protocol", &self.protocol)
            .field("tunnel_id", &self.tunnel_id)
            .field("instance", &self.instance)
            .field("index", &self.index)
            .field("software", &self.software)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Hello {
    fn eq(&self, other: &Self) -> bool {
        let plain = |h: &Hello| (h.protocol, h.tunnel_id.clone(), h.instance.clone(), h.index, h.software.clone());
        plain(self) == plain(other) && self.token.expose_secret() == other.token.expose_secret()
    }
}

impl Eq for Hello {}

/// What an admitted gateway is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The edge's name of the connection.
    pub connection_id: String,
    /// How often the edge pings and wants to be pinged, in milliseconds.
    pub heartbeat_ms: u32,
}

/// Why an edge refuses a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason, for programs.
    pub code: RefusedCode,
    /// The reason, for people.
    pub message: String,
}

/// The reasons of [`Refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedCode {
    /// The token is not the tunnel's, or not any more.
    BadToken,
    /// The tunnel is archived.
    Archived,
    /// The edge does not speak the gateway's version.
    UnsupportedVersion,
    /// The tunnel has as many connections as it may.
    TooManyConnections,
    /// The edge is shutting down.
    Draining,
    /// The edge could not decide now.
    Unavailable,
}

impl RefusedCode {
    const ALL: [(u8, Self); 6] = [
        (1, Self::BadToken),
        (2, Self::Archived),
        (3, Self::UnsupportedVersion),
        (4, Self::TooManyConnections),
        (5, Self::Draining),
        (6, Self::Unavailable),
    ];

    /// Whether trying again can not help until somebody changes something.
    pub fn is_final(self) -> bool {
        match self {
            Self::BadToken | Self::Archived | Self::UnsupportedVersion => true,
            Self::TooManyConnections | Self::Draining | Self::Unavailable => false,
        }
    }

    /// The code as it stands in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadToken => "bad_token",
            Self::Archived => "archived",
            Self::UnsupportedVersion => "unsupported_version",
            Self::TooManyConnections => "too_many_connections",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The head of a data stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Open {
    /// The host that the caller wants, a lower-case name.
    pub host: String,
    /// What the stream is for.
    pub kind: StreamKind,
}

/// What a data stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// A caller's request: inner TLS follows.
    Request,
    /// A test of the data path: the gateway's handler sends back what it gets.
    Probe,
}

impl StreamKind {
    /// The kind as it stands in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Probe => "probe",
        }
    }
}

/// Why a gateway does not take a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Rejection {
    /// The reason, for programs.
    pub code: RejectionCode,
    /// The reason, for people.
    pub message: String,
}

impl Rejection {
    /// A rejection; a message above 512 bytes is cut.
    pub fn new(code: RejectionCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(floor(&message, MAX_MESSAGE));
        Self { code, message }
    }
}

/// The reasons of [`Rejection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionCode {
    /// No route has that host.
    UnknownHost,
    /// A rule or the kill switch refuses it.
    Refused,
    /// The gateway has as many streams as it may.
    Overloaded,
    /// The gateway is shutting down; another connection may do.
    Draining,
    /// The gateway could not decide now.
    Unavailable,
}

impl RejectionCode {
    const ALL: [(u8, Self); 5] = [
        (1, Self::UnknownHost),
        (2, Self::Refused),
        (3, Self::Overloaded),
        (4, Self::Draining),
        (5, Self::Unavailable),
    ];

    /// The code as it stands in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown_host",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
        }
    }

    /// The code's number on the wire.
    pub fn as_u8(self) -> u8 {
        number(&Self::ALL, self)
    }

    /// The code of a number.
    pub fn from_u8(byte: u8) -> Option<Self> {
        code(&Self::ALL, byte)
    }
}

/// Whether `host` may stand in an [`Open`]: a lower-case name of at most 253 letters, digits, dots and hyphens whose
/// labels are neither empty nor over 63 bytes nor begin or end with a hyphen.
pub fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// The first frame of `input` and its length, or `None` if it has not arrived in full.
pub fn decode(input: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some(len) = frame_len(input)? else { return Ok(None) };
    if input.len() < len {
        return Ok(None);
    }
    let mut body = Body(&input[HEADER_LEN..len]);
    let frame = match Kind::of(input[1])? {
        Kind::Hello => Frame::Hello(Hello {
            protocol: body.u16("protocol")?,
            tunnel_id: body.text("tunnel_id", MAX_ID)?.to_owned(),
            token: body.text("token", MAX_TOKEN)?.to_owned().into(),
            instance: body.text("instance", MAX_ID)?.to_owned(),
            index: body.u16("index")?,
            software: body.text("software", MAX_SOFTWARE)?.to_owned(),
        }),
        Kind::Welcome => Frame::Welcome(Welcome {
            connection_id: body.text("connection_id", MAX_ID)?.to_owned(),
            heartbeat_ms: body.u32("heartbeat_ms")?,
        }),
        Kind::Refused => Frame::Refused(Refused {
            code: code(&RefusedCode::ALL, body.u8("code")?).ok_or(FrameError::Field("code"))?,
            message: body.text("message", MAX_MESSAGE)?.to_owned(),
        }),
        Kind::Ping => Frame::Ping(body.u64("nonce")?),
        Kind::Pong => Frame::Pong(body.u64("nonce")?),
        Kind::Drain => Frame::Drain,
        Kind::Open => Frame::Open(Open {
            kind: match body.u8("kind")? {
                1 => StreamKind::Request,
                2 => StreamKind::Probe,
                _ => return Err(FrameError::Field("kind")),
            },
            host: Some(body.text("host", MAX_HOST)?).filter(|h| is_host(h)).ok_or(FrameError::Field("host"))?.to_owned(),
        }),
        Kind::Accepted => Frame::Accepted,
        Kind::Rejected => Frame::Rejected(Rejection {
            code: RejectionCode::from_u8(body.u8("code")?).ok_or(FrameError::Field("code"))?,
            message: body.text("message", MAX_MESSAGE)?.to_owned(),
        }),
    };
    match body.0.len() {
        0 => Ok(Some((frame, len))),
        left => Err(FrameError::Trailing(left)),
    }
}

/// The length of the first frame of `input`, header included, or `None` if its header has not arrived in full. What the
/// header alone refutes is refused as soon as it is seen.
pub fn frame_len(input: &[u8]) -> Result<Option<usize>, FrameError> {
    match input.first() {
        Some(&LAYOUT) | None => {}
        Some(&other) => return Err(FrameError::Layout(other)),
    }
    let kind = match input.get(1) {
        Some(&byte) => Kind::of(byte)?,
        None => return Ok(None),
    };
    let Some(&[high, low]) = input.get(2..HEADER_LEN) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let max = if kind == Kind::Hello { MAX_HELLO } else { MAX_OTHER };
    if len > max {
        return Err(FrameError::TooLong { kind: kind.name(), len, max });
    }
    Ok(Some(HEADER_LEN + len))
}

/// What a fuzz target calls: bytes are refused, incomplete, or a frame that encodes to the same bytes.
///
/// # Panics
///
/// If a frame that was decoded does not encode to what it was decoded from.
pub fn fuzz(input: &[u8]) {
    if let Ok(Some((frame, len))) = decode(input) {
        let mut again = Vec::new();
        frame.encode(&mut again).expect("a frame that was decoded is within its bounds");
        assert_eq!(&input[..len], &again[..]);
    }
}

impl Frame {
    /// The frame's bytes at the end of `out`. Nothing is written if a field breaks its rule.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = out.len();
        out.extend_from_slice(&[LAYOUT, self.kind() as u8, 0, 0]);
        let written = self.encode_body(out).and_then(|()| {
            let len = out.len() - start - HEADER_LEN;
            u16::try_from(len).map_err(|_| FrameError::Field("length"))
        });
        match written {
            Ok(len) => {
                out[start + 2..start + HEADER_LEN].copy_from_slice(&len.to_be_bytes());
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Hello(hello) => {
                out.put_u16(hello.protocol);
                put(out, "tunnel_id", &hello.tunnel_id, MAX_ID)?;
                put(out, "token", hello.token.expose_secret(), MAX_TOKEN)?;
                put(out, "instance", &hello.instance, MAX_ID)?;
                out.put_u16(hello.index);
                put(out, "software", &hello.software, MAX_SOFTWARE)
            }
            Self::Welcome(welcome) => {
                put(out, "connection_id", &welcome.connection_id, MAX_ID)?;
                out.put_u32(welcome.heartbeat_ms);
                Ok(())
            }
            Self::Refused(refused) => {
                out.put_u8(number(&RefusedCode::ALL, refused.code));
                put(out, "message", &refused.message, MAX_MESSAGE)
            }
            Self::Ping(nonce) | Self::Pong(nonce) => {
                out.put_u64(*nonce);
                Ok(())
            }
            Self::Drain | Self::Accepted => Ok(()),
            Self::Open(open) => {
                out.put_u8(match open.kind {
                    StreamKind::Request => 1,
                    StreamKind::Probe => 2,
                });
                if !is_host(&open.host) {
                    return Err(FrameError::Field("host"));
                }
                put(out, "host", &open.host, MAX_HOST)
            }
            Self::Rejected(rejection) => {
                out.put_u8(rejection.code.as_u8());
                put(out, "message", &rejection.message, MAX_MESSAGE)
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Refused(_) => Kind::Refused,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(_) => Kind::Pong,
            Self::Drain => Kind::Drain,
            Self::Open(_) => Kind::Open,
            Self::Accepted => Kind::Accepted,
            Self::Rejected(_) => Kind::Rejected,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Ping = 4,
    Pong = 5,
    Drain = 6,
    Open = 16,
    Accepted = 17,
    Rejected = 18,
}

impl Kind {
    fn of(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refused,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Drain,
            16 => Self::Open,
            17 => Self::Accepted,
            18 => Self::Rejected,
            other => return Err(FrameError::Kind(other)),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Refused => "refused",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Drain => "drain",
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn need(&self, field: &'static str, len: usize) -> Result<(), FrameError> {
        if self.0.len() < len { Err(FrameError::Short(field)) } else { Ok(()) }
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.need(field, 1).map(|()| self.0.get_u8())
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        self.need(field, 2).map(|()| self.0.get_u16())
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.need(field, 4).map(|()| self.0.get_u32())
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.need(field, 8).map(|()| self.0.get_u64())
    }

    fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, FrameError> {
        let len = usize::from(self.u16(field)?);
        if len > max {
            return Err(FrameError::Field(field));
        }
        self.need(field, len)?;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| FrameError::Field(field))
    }
}

fn put(out: &mut Vec<u8>, field: &'static str, text: &str, max: usize) -> Result<(), FrameError> {
    if text.len() > max {
        return Err(FrameError::Field(field));
    }
    out.put_u16(u16::try_from(text.len()).map_err(|_| FrameError::Field(field))?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn code<C: Copy, const N: usize>(all: &[(u8, C); N], byte: u8) -> Option<C> {
    all.iter().find(|(number, _)| *number == byte).map(|(_, code)| *code)
}

fn number<C: Copy + PartialEq, const N: usize>(all: &[(u8, C); N], wanted: C) -> u8 {
    all.iter().find(|(_, code)| *code == wanted).map_or(0, |(number, _)| *number)
}

/// The longest prefix of `text` of at most `max` bytes that ends between two characters.
fn floor(text: &str, max: usize) -> usize {
    (0..=max.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
