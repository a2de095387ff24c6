//! From frames to bytes and back.

use bytes::{Buf, BufMut};
use secrecy::ExposeSecret;

use super::{
    Frame, FrameError, HEADER_LEN, Hello, LAYOUT, MAX_HELLO, MAX_HOST, MAX_ID, MAX_MESSAGE, MAX_OTHER, MAX_SOFTWARE,
    MAX_TOKEN, Open, Refused, RefusedCode, Rejection, RejectionCode, StreamKind, Welcome, code, is_host, number,
};

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
            host: Some(body.text("host", MAX_HOST)?)
                .filter(|h| is_host(h))
                .ok_or(FrameError::Field("host"))?
                .to_owned(),
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
    let Some(&[high, low]) = input.get(2..HEADER_LEN) else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let max = if kind == Kind::Hello { MAX_HELLO } else { MAX_OTHER };
    if len > max {
        return Err(FrameError::TooLong {
            kind: kind.name(),
            len,
            max,
        });
    }
    Ok(Some(HEADER_LEN + len))
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
        if self.0.len() < len {
            Err(FrameError::Short(field))
        } else {
            Ok(())
        }
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
