//! A stream as the plane holds it: counted, and cut from outside when its tunnel is paused or closed.
//!
//! Every poll goes through a lock that a cut takes too. Once the cut has it, the transport's stream is reset, so bytes
//! that were written and not yet sent are dropped, and every later poll fails.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::OpenError;
use super::connection::Place;
use super::meter::Meter;
use super::tap::{Direction, Tap};
use super::tunnel::Tunnel;
use crate::stream::Stream as Plain;
use crate::transport::Transport;

/// A stream to a gateway's handler. Dropping it resets the other side.
#[derive(Debug)]
pub struct Stream {
    gate: Arc<Gate>,
    meter: Arc<Meter>,
    tunnel: Arc<Tunnel>,
    key: u64,
    place: Place,
    tap: Option<(Tap, Arc<str>)>,
}

impl Stream {
    /// A stream of a tunnel, unless the tunnel has been paused or closed meanwhile.
    pub(super) fn new(
        plain: Plain,
        tunnel: Arc<Tunnel>,
        meter: Arc<Meter>,
        place: Place,
        tap: Option<(Tap, Arc<str>)>,
    ) -> Result<Self, OpenError> {
        let gate = Arc::new(Gate(Mutex::new(Inner {
            plain,
            cut: None,
            reader: None,
            writer: None,
        })));
        let key = tunnel.enter(&gate)?;
        meter.streams.fetch_add(1, Ordering::Relaxed);
        meter.open.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            gate,
            meter,
            tunnel,
            key,
            place,
            tap,
        })
    }

    /// The connection that carries the stream.
    pub fn connection_id(&self) -> &str {
        self.place.connection_id()
    }

    /// How it is carried.
    pub fn transport(&self) -> Transport {
        self.gate.lock().plain.transport()
    }

    /// Shows what passed to whoever looks on.
    fn show(&self, direction: Direction, bytes: &[u8]) {
        if let Some((tap, host)) = &self.tap
            && !bytes.is_empty()
        {
            tap.show(direction, host, bytes);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tunnel.leave(self.key);
        self.meter.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a stream was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    #[error("the tunnel was paused")]
    Paused,
    #[error("the tunnel was archived")]
    Closed,
}

#[derive(Debug)]
pub(super) struct Gate(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    plain: Plain,
    cut: Option<Cut>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Only polls run under the lock; a stream whose poll panicked fails in the next one by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream now; whoever waits for it is told.
    pub(super) fn cut(&self, why: Cut) {
        let mut inner = self.lock();
        if inner.cut.is_none() {
            inner.cut = Some(why);
            inner.plain.reset();
        }
        let wakers = [inner.reader.take(), inner.writer.take()];
        drop(inner);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Inner {
    fn check(&self) -> io::Result<()> {
        self.cut
            .map_or(Ok(()), |cut| Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut)))
    }
}

/// Remembers who waits, so that a cut can wake them: the transport forgets its waiters when a stream is reset.
fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        slot => *slot = Some(cx.waker().clone()),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let mut inner = self.gate.lock();
        inner.check()?;
        let read = Pin::new(&mut inner.plain).poll_read(cx, out);
        if read.is_pending() {
            remember(&mut inner.reader, cx);
        } else {
            self.meter
                .received
                .fetch_add((out.filled().len() - before) as u64, Ordering::Relaxed);
        }
        drop(inner);
        self.show(Direction::FromGateway, &out.filled()[before..]);
        read
    }
}

impl Stream {
    fn write(
        &self,
        cx: &mut Context<'_>,
        put: impl FnOnce(Pin<&mut Plain>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.gate.lock();
        inner.check()?;
        let written = put(Pin::new(&mut inner.plain), cx);
        match &written {
            Poll::Pending => remember(&mut inner.writer, cx),
            Poll::Ready(Ok(len)) => {
                self.meter.sent.fetch_add(*len as u64, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.write(cx, |plain, cx| plain.poll_write(cx, bytes));
        if let Poll::Ready(Ok(len)) = &written {
            self.show(Direction::ToGateway, &bytes[..*len]);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.write(cx, |plain, cx| plain.poll_write_vectored(cx, slices));
        if let Poll::Ready(Ok(len)) = &written {
            let mut left = *len;
            for slice in slices {
                let shown = left.min(slice.len());
                self.show(Direction::ToGateway, &slice[..shown]);
                left -= shown;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The transports flush by themselves.
        Poll::Ready(self.gate.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.gate.lock();
        inner.check()?;
        Pin::new(&mut inner.plain).poll_shutdown(cx)
    }
}
