//! WebSocket streams after the upgrade: messages from inside are substituted in, messages from the server are searched.
//!
//! Frames keep their sizes, since placeholders are as long as secrets; where a value would have to be escaped, the stream
//! is refused. A placeholder or secret may be split over the fragments of a message, but not over messages. Extensions
//! are taken out of the upgrade request, so a frame with reserved bits is refused.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::encode::Context;
use super::outcome::{Blocked, Limits, Location, Reason, ScrubError, Use};
use super::scrub::{Fit, ScrubFlow};
use super::set::{Inner, SecretSet};
use super::spec::Destination;
use super::substitute::{Mode, Place, Substituter};

impl SecretSet {
    /// Both directions of a WebSocket stream.
    pub fn web_socket(&self, to: &Destination, limits: &Limits) -> (ClientFrames, ServerFrames) {
        let place = Place {
            to,
            location: Location::WebSocket,
            context: Context::Plain,
        };
        let substituter = Substituter::new(self.inner.clone(), &place, Mode::SameLength, 0);
        let client = ClientFrames {
            frames: Frames::new(true, limits),
            substituter,
            failed: None,
        };
        let server = ServerFrames {
            frames: Frames::new(false, limits),
            set: self.inner.clone(),
            flow: ScrubFlow::new(self.inner.clone(), Fit::SameLength),
            hits: 0,
            failed: None,
        };
        (client, server)
    }
}

/// From inside to the server: placeholders become values.
pub struct ClientFrames {
    frames: Frames,
    substituter: Substituter,
    failed: Option<Blocked>,
}

impl ClientFrames {
    /// Gives what can be sent. After an error nothing more may be sent: close both directions.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, Blocked> {
        if let Some(blocked) = &self.failed {
            return Err(blocked.clone());
        }
        let substituter = &mut self.substituter;
        let done = self.frames.push(chunk, |event, out| match event {
            Event::Message(first) => {
                let json = matches!(first, Some(b'{' | b'[' | b'"' | b' ' | b'\n' | b'\t' | b'\r'));
                substituter.restart(if json { Context::Json } else { Context::Plain });
                Ok(())
            }
            Event::Data(bytes, last) => substituter.push(bytes, last, out),
            Event::Control(bytes) => substituter.aside(bytes, out),
        });
        if let Err(blocked) = &done {
            self.failed = Some(blocked.clone());
        }
        done.map(Bytes::from)
    }

    /// The end of the stream: an error if it ends within a frame.
    pub fn finish(&mut self) -> Result<Bytes, Blocked> {
        Ok(self.frames.finish().map(Bytes::from)?)
    }

    /// Credentials found so far.
    pub fn uses(&self) -> &[Use] {
        self.substituter.uses()
    }
}

/// From the server to the inside: secrets become placeholders.
pub struct ServerFrames {
    frames: Frames,
    set: Arc<Inner>,
    flow: ScrubFlow,
    hits: usize,
    failed: Option<ScrubError>,
}

impl ServerFrames {
    /// Gives what can be passed on. After an error nothing more may be: close both directions.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, ScrubError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let ServerFrames {
            frames,
            set,
            flow,
            hits,
            failed,
        } = self;
        let done = frames.push(chunk, |event, out| {
            match event {
                Event::Message(_) => {
                    *hits += flow.hits();
                    *flow = ScrubFlow::new(set.clone(), Fit::SameLength);
                }
                Event::Data(bytes, last) => flow.push(bytes, last, out),
                Event::Control(bytes) => {
                    let mut aside = ScrubFlow::new(set.clone(), Fit::SameLength);
                    aside.push(bytes, true, out);
                    *hits += aside.hits();
                }
            }
            Ok::<(), Wrong>(())
        });
        done.map(Bytes::from).map_err(|wrong| {
            let error = ScrubError::WebSocket(wrong.0);
            *failed = Some(error.clone());
            error
        })
    }

    /// The end of the stream: an error if it ends within a frame.
    pub fn finish(&mut self) -> Result<Bytes, ScrubError> {
        self.frames
            .finish()
            .map(Bytes::from)
            .map_err(|wrong| ScrubError::WebSocket(wrong.0))
    }

    /// Occurrences that were taken out so far.
    pub fn hits(&self) -> usize {
        self.hits + self.flow.hits()
    }
}

/// A stream that breaks its protocol.
#[derive(Debug)]
struct Wrong(&'static str);

impl From<Wrong> for Blocked {
    fn from(wrong: Wrong) -> Self {
        Blocked::request(StatusCode::BAD_REQUEST, Reason::WebSocket { what: wrong.0 })
    }
}

/// What the frames hold, unmasked.
enum Event<'a> {
    /// A message begins, with this byte if it is known.
    Message(Option<u8>),
    /// Bytes of the message; whether they are its last.
    Data(&'a [u8], bool),
    /// All bytes of a control frame.
    Control(&'a [u8]),
}

/// What is to be sent, in order.
enum Piece {
    /// As it is.
    Bytes(Vec<u8>),
    /// So many bytes of the message, masked from this offset.
    Message { left: u64, mask: [u8; 4], offset: usize },
}

enum State {
    Header(Vec<u8>),
    Control {
        header: Vec<u8>,
        mask: [u8; 4],
        length: usize,
        payload: Vec<u8>,
    },
    Data {
        left: u64,
        mask: [u8; 4],
        offset: usize,
        last: bool,
    },
}

/// Reads frames and writes them again with the same sizes and masks.
struct Frames {
    masked: bool,
    max: u64,
    state: State,
    /// Within a message: between its first frame and its last.
    open: bool,
    /// A message whose first byte has not come yet.
    fresh: bool,
    queue: VecDeque<Piece>,
    /// Rewritten bytes of the message that are not sent yet.
    ready: VecDeque<u8>,
}

struct Header {
    last: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

impl Frames {
    fn new(masked: bool, limits: &Limits) -> Self {
        Frames {
            masked,
            max: limits.frame,
            state: State::Header(Vec::new()),
            open: false,
            fresh: false,
            queue: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    fn finish(&mut self) -> Result<Vec<u8>, Wrong> {
        match &self.state {
            State::Header(bytes) if bytes.is_empty() => Ok(Vec::new()),
            State::Header(_) | State::Control { .. } | State::Data { .. } => Err(Wrong("it ends within a frame")),
        }
    }

    fn push<E: From<Wrong>>(
        &mut self,
        mut chunk: &[u8],
        mut rewrite: impl FnMut(Event<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        while !chunk.is_empty() {
            let used = match &mut self.state {
                State::Header(bytes) => {
                    bytes.push(chunk[0]);
                    let bytes = std::mem::take(bytes);
                    match self.header(&bytes)? {
                        None => self.state = State::Header(bytes),
                        Some(header) => self.begin(&header, bytes, &mut rewrite)?,
                    }
                    1
                }
                State::Control {
                    header,
                    mask,
                    length,
                    payload,
                } => {
                    let used = (*length - payload.len()).min(chunk.len());
                    payload.extend_from_slice(&chunk[..used]);
                    if payload.len() == *length {
                        let (mut frame, mask) = (std::mem::take(header), *mask);
                        let mut payload = std::mem::take(payload);
                        apply(mask, 0, &mut payload);
                        let mut written = Vec::new();
                        rewrite(Event::Control(&payload), &mut written)?;
                        apply(mask, 0, &mut written);
                        frame.append(&mut written);
                        self.queue.push_back(Piece::Bytes(frame));
                        self.state = State::Header(Vec::new());
                    }
                    used
                }
                State::Data {
                    left,
                    mask,
                    offset,
                    last,
                } => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                    let mut plain = chunk[..used].to_vec();
                    apply(*mask, *offset, &mut plain);
                    *offset = (*offset + used) % 4;
                    *left -= used as u64;
                    let (frame_ends, message_ends) = (*left == 0, *left == 0 && *last);
                    if std::mem::take(&mut self.fresh) {
                        rewrite(Event::Message(plain.first().copied()), &mut Vec::new())?;
                    }
                    let mut written = Vec::new();
                    rewrite(Event::Data(&plain, message_ends), &mut written)?;
                    self.ready.extend(written);
                    if frame_ends {
                        self.state = State::Header(Vec::new());
                    }
                    used
                }
            };
            chunk = &chunk[used..];
        }
        Ok(self.drain())
    }

    /// Reads a header that may not be whole yet.
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, Wrong> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(Wrong("a frame has reserved bits, and no extension was agreed on"));
        }
        if (second & 0x80 != 0) != self.masked {
            return Err(Wrong("a frame is masked that must not be, or is not that must be"));
        }
        let opcode = first & 15;
        let short = u64::from(second & 0x7f);
        if !matches!(opcode, 0..=2 | 8..=10) {
            return Err(Wrong("a frame has an unknown kind"));
        }
        let last = first & 0x80 != 0;
        if opcode >= 8 && (short > 125 || !last) {
            return Err(Wrong("a control frame is too long or in fragments"));
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masks = if self.masked { 4 } else { 0 };
        if rest.len() < extended + masks {
            return Ok(None);
        }
        let length = match extended {
            0 => short,
            _ => rest[..extended].iter().fold(0, |sum, b| sum << 8 | u64::from(*b)),
        };
        if length > self.max {
            return Err(Wrong("a frame is longer than the limit"));
        }
        let mut mask = [0; 4];
        mask[..masks].copy_from_slice(&rest[extended..extended + masks]);
        Ok(Some(Header {
            last,
            opcode,
            length,
            mask,
        }))
    }

    fn begin<E: From<Wrong>>(
        &mut self,
        header: &Header,
        bytes: Vec<u8>,
        rewrite: &mut impl FnMut(Event<'_>, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Header {
            last,
            opcode,
            length,
            mask,
        } = *header;
        if opcode >= 8 {
            if length == 0 {
                self.queue.push_back(Piece::Bytes(bytes));
            } else {
                self.state = State::Control {
                    header: bytes,
                    mask,
                    length: length as usize,
                    payload: Vec::new(),
                };
            }
            return Ok(());
        }
        if (opcode == 0) != self.open {
            return Err(Wrong("a message is continued that was not begun, or begun within another").into());
        }
        if opcode != 0 {
            self.fresh = true;
        }
        self.open = !last;
        self.queue.push_back(Piece::Bytes(bytes));
        if length > 0 {
            self.queue.push_back(Piece::Message {
                left: length,
                mask,
                offset: 0,
            });
            self.state = State::Data {
                left: length,
                mask,
                offset: 0,
                last,
            };
        } else if last {
            if std::mem::take(&mut self.fresh) {
                rewrite(Event::Message(None), &mut Vec::new())?;
            }
            let mut written = Vec::new();
            rewrite(Event::Data(&[], true), &mut written)?;
            self.ready.extend(written);
        }
        Ok(())
    }

    /// What can be sent now.
    fn drain(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(piece) = self.queue.front_mut() {
            match piece {
                Piece::Bytes(bytes) => out.append(bytes),
                Piece::Message { left, mask, offset } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(self.ready.len());
                    let start = out.len();
                    out.extend(self.ready.drain(..count));
                    apply(*mask, *offset, &mut out[start..]);
                    *offset = (*offset + count) % 4;
                    *left -= count as u64;
                    if *left > 0 {
                        break;
                    }
                }
            }
            self.queue.pop_front();
        }
        out
    }
}

/// Masks or unmasks bytes that begin at `offset` of their frame.
fn apply(mask: [u8; 4], offset: usize, bytes: &mut [u8]) {
    if mask != [0; 4] {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[(index + offset) % 4];
        }
    }
}
