//! The connector under hyper's client: dials, and holds the tasks that drive connections.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::dial::{BoxStream, Dial, DialError, Target};

/// Dials the one server of a connection; the address in a request plays no part.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) dial: Arc<dyn Dial>,
    pub(super) target: Arc<Target>,
    pub(super) timeout: Duration,
}

impl tower::Service<Uri> for Dialer {
    type Response = Dialled;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Dialled, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dial, target, timeout } = self.clone();
        Box::pin(async move {
            let deadline = Instant::now() + timeout;
            // A dial that does not keep its deadline is held to it.
            match tokio::time::timeout_at(deadline, dial.dial(&target, deadline)).await {
                Ok(stream) => Ok(Dialled(TokioIo::new(stream?))),
                Err(_) => Err(DialError::Timeout {
                    host: target.host.clone(),
                }),
            }
        })
    }
}

/// A stream as hyper wants it.
pub(super) struct Dialled(TokioIo<BoxStream>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

/// Spawns what drives connections; all of it ends when the connection to the server is closed.
#[derive(Clone)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) closed: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let closed = self.closed.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                _ = closed.cancelled() => {}
                _ = task => {}
            }
        });
    }
}
