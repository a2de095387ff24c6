//! A stream that is asked for once the first bytes for it are known.
//!
//! TLS writes its first flight and then reads; the read asks for the stream, and the flight goes along.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::edge::{Handle, OpenError, Stream};

/// The most that goes along: far more than a first flight of TLS has.
const LIMIT: usize = 16 << 10;

/// A stream of a tunnel under the inner TLS.
pub struct Early(State);

enum State {
    Collecting { question: Question, first: BytesMut },
    Asking(BoxFuture<'static, Result<Stream, OpenError>>),
    Open(Stream),
    Failed,
}

struct Question {
    edge: Handle,
    tunnel_id: String,
    host: String,
    deadline: Instant,
}

impl std::fmt::Debug for Early {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Early").field(&self.stream()).finish()
    }
}

impl Early {
    pub(super) fn new(edge: Handle, tunnel_id: &str, host: &str, deadline: Instant) -> Self {
        let question = Question {
            edge,
            tunnel_id: tunnel_id.to_owned(),
            host: host.to_owned(),
            deadline,
        };
        Self(State::Collecting {
            question,
            first: BytesMut::new(),
        })
    }

    /// The stream, once the gateway has accepted it.
    pub fn stream(&self) -> Option<&Stream> {
        match &self.0 {
            State::Open(stream) => Some(stream),
            State::Collecting { .. } | State::Asking(_) | State::Failed => None,
        }
    }

    /// The stream, asked for if that has not been done.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut Stream>>> {
        if !matches!(self.0, State::Open(_)) {
            // Whatever goes wrong below leaves it failed.
            let mut asking = match std::mem::replace(&mut self.0, State::Failed) {
                State::Collecting { question, first } => Box::pin(ask(question, first.freeze())),
                State::Asking(asking) => asking,
                State::Open(_) | State::Failed => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            };
            match asking.as_mut().poll(cx) {
                Poll::Ready(opened) => self.0 = State::Open(opened.map_err(io::Error::other)?),
                Poll::Pending => {
                    self.0 = State::Asking(asking);
                    return Poll::Pending;
                }
            }
        }
        match &mut self.0 {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            State::Collecting { .. } | State::Asking(_) | State::Failed => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }
}

async fn ask(question: Question, first: Bytes) -> Result<Stream, OpenError> {
    let Question {
        edge,
        tunnel_id,
        host,
        deadline,
    } = question;
    edge.open_with(&tunnel_id, &host, &first, deadline).await
}

impl AsyncRead for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, out)
    }
}

impl AsyncWrite for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let State::Collecting { first, .. } = &mut self.0
            && first.len() + bytes.len() <= LIMIT
        {
            first.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let State::Collecting { first, .. } = &mut self.0 {
            let len: usize = slices.iter().map(|slice| slice.len()).sum();
            if first.len() + len <= LIMIT {
                slices.iter().for_each(|slice| first.extend_from_slice(slice));
                return Poll::Ready(Ok(len));
            }
        }
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Open(stream) => Pin::new(stream).poll_flush(cx),
            // What was collected goes with the first read.
            State::Collecting { .. } | State::Asking(_) => Poll::Ready(Ok(())),
            State::Failed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            // There is nothing on the other side to end yet.
            State::Collecting { .. } | State::Asking(_) | State::Failed => Poll::Ready(Ok(())),
        }
    }
}
