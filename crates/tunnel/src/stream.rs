//! A byte stream inside a tunnel connection, whatever carries it.
//!
//! `shutdown` ends the sending half and leaves the other open; it is no error where the other side has left. Dropping a
//! stream whose halves have not both ended resets it on the other side. A reset by the other side is an error of kind `ConnectionReset`, never an end of file.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::{RESET_DROPPED, Transport};

/// The most that one call of `poll_write` takes.
const MAX_WRITE: usize = 256 << 10;
/// What is read ahead from a QUIC stream that has more than the reader asked for.
const READ_AHEAD: usize = 64 << 10;

/// A stream to the other side of the tunnel: `AsyncRead` and `AsyncWrite`.
#[derive(Debug)]
pub struct Stream {
    carrier: Carrier,
    /// Bytes that were taken from the carrier and not yet read.
    ahead: Bytes,
    /// The last read filled what it was given, so more is likely waiting.
    hungry: bool,
    finished: bool,
    ended: bool,
}

#[derive(Debug)]
enum Carrier {
    Quic {
        send: quinn::SendStream,
        receive: quinn::RecvStream,
    },
    H2 {
        send: h2::SendStream<Bytes>,
        receive: h2::RecvStream,
    },
}

impl Stream {
    pub(crate) fn quic(send: quinn::SendStream, receive: quinn::RecvStream) -> Self {
        Self::new(Carrier::Quic { send, receive })
    }

    pub(crate) fn h2(send: h2::SendStream<Bytes>, receive: h2::RecvStream) -> Self {
        Self::new(Carrier::H2 { send, receive })
    }

    fn new(carrier: Carrier) -> Self {
        Self {
            carrier,
            ahead: Bytes::new(),
            hungry: false,
            finished: false,
            ended: false,
        }
    }

    /// What carries the stream.
    pub fn transport(&self) -> Transport {
        match &self.carrier {
            Carrier::Quic { .. } => Transport::Quic,
            Carrier::H2 { .. } => Transport::Tcp,
        }
    }

    /// Ends both halves at once, so that bytes that were written and not yet sent are not sent any more.
    pub fn reset(&mut self) {
        match &mut self.carrier {
            // Both report that the half has ended already, which is what is wanted.
            Carrier::Quic { send, receive } => {
                let _ = send.reset(RESET_DROPPED);
                let _ = receive.stop(RESET_DROPPED);
            }
            Carrier::H2 { send, .. } => send.send_reset(h2::Reason::CANCEL),
        }
        (self.finished, self.ended, self.ahead) = (true, true, Bytes::new());
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Quic { receive, .. } => {
                if self.hungry {
                    let mut room = BytesMut::zeroed(READ_AHEAD);
                    let read = ready!(receive.poll_read(cx, &mut room)).map_err(quic_read_error)?;
                    self.ended = read == 0;
                    self.hungry = read > READ_AHEAD / 8;
                    room.truncate(read);
                    self.ahead = room.freeze();
                } else {
                    let before = out.filled().len();
                    ready!(receive.poll_read_buf(cx, out)).map_err(quic_read_error)?;
                    self.ended = out.filled().len() == before;
                    self.hungry = out.remaining() == 0;
                }
                Poll::Ready(Ok(()))
            }
            Carrier::H2 { receive, .. } => loop {
                match ready!(receive.poll_data(cx)) {
                    None => {
                        self.ended = true;
                        return Poll::Ready(Ok(()));
                    }
                    Some(Err(error)) => return Poll::Ready(Err(h2_error(&error))),
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => {
                        // Credit goes back when the bytes leave the library: at most one frame waits here.
                        receive
                            .flow_control()
                            .release_capacity(bytes.len())
                            .map_err(|error| h2_error(&error))?;
                        self.ahead = bytes;
                        return Poll::Ready(Ok(()));
                    }
                }
            },
        }
    }

    /// Room for a write of `wanted` bytes on HTTP/2: the peer's credit.
    fn poll_room(send: &mut h2::SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        send.reserve_capacity(wanted);
        loop {
            let room = send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(h2_error(&error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>], total: usize) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        match &mut self.carrier {
            Carrier::Quic { send, .. } => {
                if let [only] = slices {
                    return Pin::new(send).poll_write(cx, only).map_err(quic_write_error);
                }
                let bytes = gather(slices, total.min(MAX_WRITE));
                pin!(send.write_chunks(&mut [bytes]))
                    .poll(cx)
                    .map_ok(|w| w.bytes)
                    .map_err(quic_write_error)
            }
            Carrier::H2 { send, .. } => {
                let room = ready!(Self::poll_room(send, cx, total.min(MAX_WRITE)))?;
                send.send_data(gather(slices, room), false)
                    .map_err(|error| h2_error(&error))?;
                Poll::Ready(Ok(room))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() && !this.ended {
            ready!(this.poll_take(cx, out))?;
        }
        if !this.ahead.is_empty() {
            let len = out.remaining().min(this.ahead.len());
            out.put_slice(&this.ahead[..len]);
            this.ahead.advance(len);
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, &[IoSlice::new(bytes)], bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        self.poll_put(cx, slices, total)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.finished {
            match &mut this.carrier {
                Carrier::Quic { send, .. } => send.finish().map_err(io::Error::other)?,
                // The only refusal is that the stream has been closed: the other side wants nothing more, as when it ended
                // its half and left before this one ended. That is no failure here, as it is none over QUIC; whether the
                // other side ended or broke off is for the reader to see.
                Carrier::H2 { send, .. } => {
                    let _ = send.send_data(Bytes::new(), true);
                }
            }
            this.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match &mut self.carrier {
            // A QUIC stream that is dropped would end as if it were complete; both calls only report an end that has
            // come already.
            Carrier::Quic { send, receive } => {
                if !self.finished {
                    let _ = send.reset(RESET_DROPPED);
                }
                if !self.ended {
                    let _ = receive.stop(RESET_DROPPED);
                }
            }
            // A sending half that has ended keeps what it wrote; the library cancels the receiving half.
            Carrier::H2 { send, .. } => {
                if !self.finished {
                    send.send_reset(h2::Reason::CANCEL);
                }
            }
        }
    }
}

fn gather(slices: &[IoSlice<'_>], len: usize) -> Bytes {
    if let [only] = slices {
        return Bytes::copy_from_slice(&only[..len]);
    }
    let mut out = BytesMut::with_capacity(len);
    for slice in slices {
        let take = slice.len().min(len - out.len());
        out.extend_from_slice(&slice[..take]);
        if out.len() == len {
            break;
        }
    }
    out.freeze()
}

fn quic_read_error(error: quinn::ReadError) -> io::Error {
    let kind = match error {
        quinn::ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
        quinn::ReadError::ConnectionLost(_) => io::ErrorKind::ConnectionAborted,
        quinn::ReadError::ClosedStream | quinn::ReadError::IllegalOrderedRead | quinn::ReadError::ZeroRttRejected => {
            io::ErrorKind::NotConnected
        }
    };
    io::Error::new(kind, error)
}

fn quic_write_error(error: quinn::WriteError) -> io::Error {
    let kind = match error {
        quinn::WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
        quinn::WriteError::ConnectionLost(_) => io::ErrorKind::ConnectionAborted,
        quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => io::ErrorKind::NotConnected,
    };
    io::Error::new(kind, error)
}

fn h2_error(error: &h2::Error) -> io::Error {
    let kind = if error.is_reset() {
        io::ErrorKind::ConnectionReset
    } else {
        io::ErrorKind::ConnectionAborted
    };
    // The library's error can carry text of the peer; its reason says enough.
    match error.reason() {
        Some(reason) => io::Error::new(kind, reason.description()),
        None => io::Error::new(kind, "the connection is lost"),
    }
}
