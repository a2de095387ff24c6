//! A connection that carries requests, and how it is served.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Refusal};
use super::exchange::exchange;
use super::kept::Kept;
use super::strict::Strict;
use super::upstream::Upstream;
use crate::policy::Protocol;
use crate::shared::{Claim, Shared};

/// Streams of HTTP/2 at once.
const STREAMS: u32 = 128;
/// Windows of HTTP/2.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A connection of the sandbox that carries requests.
pub(crate) struct Flow {
    pub(super) shared: Arc<Shared>,
    pub(super) destination: SocketAddr,
    /// On TLS: the name that the client's greeting said, if it said one.
    pub(super) tls: Option<Option<Arc<str>>>,
    pub(super) upstream: Upstream,
    tally: Arc<(AtomicU64, AtomicU64)>,
    http2: bool,
    /// The client's side is no HTTP any more.
    pub(super) upgraded: Arc<AtomicBool>,
}

impl Flow {
    pub(crate) fn new(
        shared: Arc<Shared>,
        destination: SocketAddr,
        tls: Option<Option<Arc<str>>>,
        http2: bool,
    ) -> Flow {
        Flow {
            upstream: Upstream::new(shared.clone(), destination, tls.clone(), http2),
            shared,
            destination,
            tls,
            tally: Arc::default(),
            http2,
            upgraded: Arc::default(),
        }
    }

    /// Bytes of bodies: out, and in.
    pub(crate) fn tally(&self) -> Arc<(AtomicU64, AtomicU64)> {
        self.tally.clone()
    }

    /// Where what is left of a body is read.
    pub(super) fn draining(&self) -> Option<Tasks> {
        self.http2.then(|| Tasks::of(&self.shared))
    }

    pub(super) fn protocol(&self) -> Protocol {
        if self.tls.is_some() {
            Protocol::Https
        } else {
            Protocol::Http
        }
    }
}

/// Runs what HTTP/2 does on the side, until the boundary ends.
#[derive(Clone)]
pub(super) struct Tasks {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub(super) fn of(shared: &Shared) -> Tasks {
        Tasks {
            tasks: shared.tasks.clone(),
            stop: shared.stop.clone(),
        }
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = work => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Serves the requests of a connection until it ends.
pub(crate) async fn serve<S>(flow: Flow, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let flow = Arc::new(flow);
    let shared = flow.shared.clone();
    if flow.http2 {
        let service = {
            let flow = flow.clone();
            service_fn(move |request| {
                let flow = flow.clone();
                async move { Ok::<_, Infallible>(exchange(flow, request).await) }
            })
        };
        let served = builder2(&shared).serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of the sandbox ended");
        }
        return;
    }
    let service = {
        let flow = flow.clone();
        service_fn(move |request| {
            let flow = flow.clone();
            async move { Ok::<_, Infallible>(exchange(flow, request).await) }
        })
    };
    let unchecked = shared.policy.load().is_unchecked();
    let strict = Strict::new(stream, shared.limits.head, flow.upgraded.clone(), !unchecked);
    let violation = strict.violation();
    let served = builder1(&shared)
        .serve_connection(TokioIo::new(strict), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the sandbox ended");
    }
    if let Some(reason) = violation.get() {
        let claim = Claim {
            name: flow.tls.as_ref().and_then(|name| name.as_deref()),
            destination: flow.destination,
            protocol: flow.protocol(),
            http: None,
        };
        let _ = shared.refuse(&claim.unnamed(), "http-framing", reason).await;
    }
}

/// Why every request of a connection is refused.
pub(crate) enum Why<'a> {
    /// The policy, by a rule and for a reason.
    Policy(&'a str, &'a str),
    /// The record of the connection was not kept.
    Unrecorded,
}

/// Answers every request of a refused connection with the reason.
pub(crate) async fn serve_refusal<S>(shared: &Shared, stream: S, http2: bool, why: Why<'_>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let refusal = match why {
        Why::Policy(rule, reason) => Refusal::policy(rule, reason),
        Why::Unrecorded => Refusal::unrecorded(),
    };
    let draining = http2.then(|| Tasks::of(shared));
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer: http::Response<Answer> = refusal.answer();
        let body = Kept::new(request.into_body(), draining.clone());
        async move {
            drop(body);
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(stream);
    // One answer is all there is to say.
    let patience = shared.limits.greeting;
    let _ = match http2 {
        true => tokio::time::timeout(patience, builder2(shared).serve_connection(io, service)).await,
        false => {
            let mut builder = builder1(shared);
            builder.keep_alive(false);
            tokio::time::timeout(patience, builder.serve_connection(io, service)).await
        }
    };
}

fn builder1(shared: &Shared) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Counts from the end of the response before: also how long a kept connection may rest.
        .header_read_timeout(shared.limits.rest)
        .max_buf_size(shared.limits.head.max(16 * 1024))
        .auto_date_header(false)
        .half_close(true);
    builder
}

fn builder2(shared: &Shared) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks::of(shared));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(shared.limits.head).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(std::time::Duration::from_secs(60)))
        .keep_alive_timeout(std::time::Duration::from_secs(20))
        .auto_date_header(false);
    builder
}
