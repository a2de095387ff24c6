//! One stream of a caller: its inner TLS, then requests one after another, or raw bytes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::patient::Patient;
use super::turns::Turns;
use super::{call, raw};
use crate::config::text::Scheme;
use crate::gateway::Gateway;
use crate::inner::Carries;

/// The most headers of a request, and the most bytes of its head.
const HEADERS: usize = 100;
const HEAD: usize = 32 * 1024;
/// How long a stream may stay after its route was killed: for the refusals of calls that waited.
const LAST_WORD: Duration = Duration::from_secs(1);
/// What is buffered of a stream.
const BUFFER: usize = 64 * 1024;

/// Serves a stream that was opened for `host` (as [`crate::route::host`] returns it) until it ends, or after the call
/// under way once `draining` is cancelled.
pub async fn stream<S>(gateway: &Arc<Gateway>, host: &str, stream: S, draining: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    gateway.metrics.streams.fetch_add(1, Relaxed);
    let _open = Open(gateway);
    let (carries, inner, timeouts, route) = {
        let live = gateway.live();
        let route = live.table.find(host).map(|route| &route.route);
        let raw = route.is_some_and(|route| route.target.scheme == Scheme::Tcp);
        let carries = if raw { Carries::Raw } else { Carries::Http };
        let name = route.map(|route| route.name.clone());
        (carries, live.inner.clone(), live.config.timeouts, name)
    };
    let stream = match inner.accept(stream, host, carries, timeouts.handshake).await {
        Ok(stream) => stream,
        Err(error) => {
            gateway.metrics.streams_refused.fetch_add(1, Relaxed);
            tracing::warn!(host, %error, "a stream was turned away");
            return;
        }
    };
    if carries == Carries::Raw {
        let live = gateway.live();
        // A reload may have changed the route during the handshake.
        match live
            .table
            .find(host)
            .filter(|route| route.route.target.scheme == Scheme::Tcp)
        {
            Some(route) => raw::join(gateway, route, host, stream).await,
            None => tracing::warn!(host, "no route for host"),
        }
        return;
    }
    let service = service_fn(|request| async move { Ok::<_, Infallible>(call::handle(gateway, host, request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.keep_alive)
        .max_headers(HEADERS)
        .max_header_size(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Patient::new(stream, timeouts.idle)), service);
    let mut connection = std::pin::pin!(connection);
    let turns = Turns::new();
    let killed = async {
        match &route {
            Some(route) => gateway.kill.cut(route).cancelled_owned().await,
            None => std::future::pending().await,
        }
        // Calls have ended themselves by now. What is left waits for a caller that does not read.
        tokio::time::sleep(LAST_WORD).await;
    };
    let drained = async {
        tokio::select! {
            () = draining.cancelled() => {}
            () = gateway.drain.cancelled() => {}
        }
    };
    let served = async {
        tokio::select! {
            ended = poll_fn(|cx| turns.poll(cx, |cx| connection.as_mut().poll(cx))) => return ended,
            () = drained => connection.as_mut().graceful_shutdown(),
        }
        poll_fn(|cx| turns.poll(cx, |cx| connection.as_mut().poll(cx))).await
    };
    let ended = tokio::select! {
        ended = served => ended,
        () = killed => return,
    };
    if let Err(error) = ended {
        // What a peer did wrong in HTTP, without its bytes.
        tracing::debug!(host, %error, "a stream ended early");
    }
}

struct Open<'a>(&'a Arc<Gateway>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.streams.fetch_sub(1, Relaxed);
    }
}
