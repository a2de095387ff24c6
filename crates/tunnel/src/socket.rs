//! A TCP socket under the outer TLS: reads in large pieces, since the TLS library asks for 4 KiB at a time, and notes
//! when bytes last arrived.
//!
//! The buffer exists only while it holds unread bytes of a burst, so an idle connection costs none.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::control::Activity;

const BURST: usize = 128 << 10;

pub(crate) struct Socket {
    inner: TcpStream,
    activity: Arc<Activity>,
    /// Bytes that were read from the kernel and not yet handed up: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// The last direct read filled what it was given, so more is likely waiting.
    hungry: bool,
}

impl Socket {
    pub(crate) fn new(inner: TcpStream, activity: Arc<Activity>) -> io::Result<Self> {
        inner.set_nodelay(true)?;
        Ok(Self { inner, activity, buffer: Vec::new(), start: 0, hungry: false })
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.buffer.len() && this.hungry {
            this.start = 0;
            this.buffer.resize(BURST, 0);
            let mut burst = ReadBuf::new(&mut this.buffer);
            let read = Pin::new(&mut this.inner).poll_read(cx, &mut burst);
            let filled = burst.filled().len();
            this.buffer.truncate(filled);
            if filled < BURST / 4 {
                this.hungry = false;
            }
            ready!(read)?;
            this.activity.touch();
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if this.start < this.buffer.len() {
            let len = out.remaining().min(this.buffer.len() - this.start);
            out.put_slice(&this.buffer[this.start..this.start + len]);
            this.start += len;
            if this.start == this.buffer.len() && !this.hungry {
                (this.buffer, this.start) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        let before = out.remaining();
        ready!(Pin::new(&mut this.inner).poll_read(cx, out))?;
        this.hungry = before > 0 && out.remaining() == 0;
        this.activity.touch();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
