//! A raw route: bytes between the caller and the upstream, inside the inner TLS, without any rule of HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::trace::Trace;
use crate::gateway::Gateway;
use crate::generation::RouteState;
use crate::record::{Call, Decision};

/// What is copied at once.
const BUFFER: usize = 64 * 1024;

/// Joins a caller's stream with a connection to the route's upstream until both sides have ended.
pub async fn join<S>(gateway: &Arc<Gateway>, route: &Arc<RouteState>, host: &str, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = &route.route.name;
    let Some(place) = gateway.journal.place().await else {
        tracing::warn!(
            route = name,
            rule = "ledger",
            "refused: the stream cannot be put on record now"
        );
        return;
    };
    let call = Call {
        at: jiff::Timestamp::now(),
        tunnel: gateway.tunnel_id.clone(),
        hostname: host.to_owned(),
        route: name.clone(),
        http_method: None,
        mcp_method: None,
        tool: None,
        workspace: None,
        agent: None,
        agent_version: None,
        session: None,
        decision: Decision::Cut,
        rule: Some("caller.left".to_owned()),
        approval: None,
        approver: None,
        status: None,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        arguments: None,
        result: None,
    };
    let mut trace = Trace::begin(call, place, route.metrics.clone(), false);
    let cut = gateway.kill.cut(name);
    if cut.is_cancelled() {
        tracing::warn!(route = name, rule = "kill", "refused: the route is killed");
        return trace.end(Decision::Refused, Some("kill"));
    }
    let dialled = tokio::select! {
        dialled = route.pool.dialer().dial() => dialled,
        () = cut.cancelled() => return trace.end(Decision::Cut, Some("kill")),
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::warn!(route = name, %error, "the upstream cannot be reached");
            return trace.end(Decision::Failed, Some(&error.refusal().rule));
        }
    };
    let mut upstream = Counted {
        io: upstream,
        read: 0,
        written: 0,
    };
    let copied = tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut upstream, BUFFER, BUFFER) => Some(copied),
        () = cut.cancelled() => None,
    };
    match copied {
        Some(Ok(_)) => trace.end(Decision::Allowed, None),
        Some(Err(_)) => trace.end(Decision::Cut, Some("connection")),
        None => trace.end(Decision::Cut, Some("kill")),
    }
    trace.call().bytes_in = upstream.written;
    trace.call().bytes_out = upstream.read;
}

/// Counts what passes, so that a stream that is cut is counted too.
struct Counted<T> {
    io: T,
    read: u64,
    written: u64,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        this.read += (buf.filled().len() - before) as u64;
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            this.written += *written as u64;
        }
        polled
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
