//! Bodies: an upload with its limit and deadline, a download with its rules, its limits and its record.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::answered::Answered;
use super::trace::Trace;
use crate::mcp::edit::ResultEditor;
use crate::mcp::refusal::{INVALID, Refusal};
use crate::record::Decision;
use crate::redact::sse;
use crate::upstream::pool::{Pool, Reply};

/// Why a body ended early. The other side sees a broken connection.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It was too long.
    #[error("the body is longer than the route allows")]
    TooLarge,
    /// It came too slowly.
    #[error("the body did not come in time")]
    TooSlow,
    /// The route was killed.
    #[error("the route was killed")]
    Killed,
    /// The other side broke it off.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// Reads a request's body whole, up to `limit` bytes and within `time`.
pub async fn read(mut body: Incoming, limit: usize, time: Duration) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!("The request is longer than the {limit} bytes that this route takes.");
        Refusal::request("request_max", StatusCode::PAYLOAD_TOO_LARGE, INVALID, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let collect = async {
        let broken = |_| {
            let message = "The request's body broke off or is not well-formed.";
            Refusal::request("http.body", StatusCode::BAD_REQUEST, INVALID, message)
        };
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
            if so_far + data.len() > limit {
                return Err(too_large());
            }
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&data),
                None if first.is_empty() => first = data,
                None => {
                    let mut both = BytesMut::with_capacity(first.len() + data.len());
                    both.extend_from_slice(&first);
                    both.extend_from_slice(&data);
                    rest = Some(both);
                }
            }
        }
        Ok(rest.map_or(first, BytesMut::freeze))
    };
    tokio::time::timeout(time, collect).await.map_err(|_| {
        let message = "The request's body did not come in time.";
        Refusal::request("timeouts.body", StatusCode::REQUEST_TIMEOUT, INVALID, message)
    })?
}

/// A request's body on its way up, unread.
pub struct Upload {
    body: Incoming,
    left: usize,
    idle: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    counted: Arc<std::sync::atomic::AtomicU64>,
}

impl Upload {
    /// A body of at most `limit` bytes, whose pieces come within `idle` of each other. `counted` counts them.
    pub fn new(body: Incoming, limit: usize, idle: Duration, counted: Arc<std::sync::atomic::AtomicU64>) -> Upload {
        Upload {
            body,
            left: limit,
            idle,
            sleep: None,
            counted,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.sleep = None;
                let Ok(data) = frame.into_data() else {
                    return Poll::Ready(None);
                };
                let Some(left) = this.left.checked_sub(data.len()) else {
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                };
                this.left = left;
                this.counted
                    .fetch_add(data.len() as u64, std::sync::atomic::Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => late(&mut this.sleep, this.idle, cx).map(|()| Some(Err(BodyError::TooSlow))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ready when nothing came for `idle`.
fn late(sleep: &mut Option<Pin<Box<Sleep>>>, idle: Duration, cx: &mut Context<'_>) -> Poll<()> {
    sleep
        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)))
        .as_mut()
        .poll(cx)
}

/// An answer's body on its way to the caller.
pub struct Download {
    kind: Kind,
    /// Given when the body has ended; the record is written when it is dropped.
    trace: Option<Trace>,
}

enum Kind {
    Whole(Bytes),
    Live(Box<Live>),
}

/// An answer that streams.
pub struct Live {
    /// The upstream's body; gone when it has ended.
    pub body: Option<Reply>,
    /// Where its connection is kept then.
    pub pool: Arc<Pool>,
    /// Cancelled when the route is killed.
    pub cut: CancellationToken,
    /// How long between two pieces.
    pub idle: Duration,
    /// The most bytes, where there is a limit on the whole.
    pub limit: Option<usize>,
    /// The rules for events, where events are read.
    pub events: Option<(sse::Stream, ResultEditor)>,
    /// Looks for the response among events, where there is one to come.
    pub answered: Option<Answered>,
    /// The state of waiting.
    pub wait: Wait,
}

/// What a live answer waits for besides its body.
#[derive(Default)]
pub struct Wait {
    sleep: Option<Pin<Box<Sleep>>>,
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
    /// The caller has its response: whatever ends the stream now, the call is complete.
    complete: bool,
}

impl Download {
    /// A body that is there.
    pub fn whole(bytes: Bytes, trace: Option<Trace>) -> Download {
        Download {
            kind: Kind::Whole(bytes),
            trace,
        }
    }

    /// A body that streams.
    pub fn live(live: Box<Live>, trace: Trace) -> Download {
        Download {
            kind: Kind::Live(live),
            trace: Some(trace),
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                if let Some(mut trace) = this.trace.take() {
                    trace.out(&bytes);
                }
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Live(live) => {
                let trace = &mut this.trace;
                let polled = live.poll(cx, trace);
                if live.wait.ended || matches!(polled, Poll::Ready(None | Some(Err(_)))) {
                    *trace = None;
                }
                polled.map(|frame| frame.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_empty(),
            // Only what was polled to its end gives its connection back and its record.
            Kind::Live(_) => self.trace.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Live(live) => match &live.body {
                Some(body) if live.events.is_none() => body.size_hint(),
                _ => SizeHint::default(),
            },
        }
    }
}

impl Live {
    fn poll(&mut self, cx: &mut Context<'_>, trace: &mut Option<Trace>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let complete = self.wait.complete;
            let mut end = |decision, rule: Option<&str>| {
                if let Some(trace) = trace.as_mut()
                    && (!complete || decision == Decision::Refused)
                {
                    trace.end(decision, rule);
                }
            };
            if self.wait.ended {
                return Poll::Ready(None);
            }
            if self.cut.is_cancelled() {
                end(Decision::Cut, Some("kill"));
                return Poll::Ready(Some(Err(BodyError::Killed)));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(None);
            };
            let (data, last) = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    // A reader that knows the length does not ask again after the last piece.
                    Ok(data) => (data, body.is_end_stream()),
                    // Trailers are of this hop.
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => {
                    end(Decision::Failed, Some("upstream.body"));
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => (Bytes::new(), true),
                Poll::Pending => {
                    let cut = &self.cut;
                    let killed = self
                        .wait
                        .killed
                        .get_or_insert_with(|| Box::pin(cut.clone().cancelled_owned()));
                    if killed.as_mut().poll(cx).is_ready() {
                        continue;
                    }
                    std::task::ready!(late(&mut self.wait.sleep, self.idle, cx));
                    end(Decision::Failed, Some("timeouts.idle"));
                    return Poll::Ready(Some(Err(BodyError::TooSlow)));
                }
            };
            self.wait.sleep = None;
            if let Some(left) = &mut self.limit {
                match left.checked_sub(data.len()) {
                    Some(now) => *left = now,
                    None => {
                        end(Decision::Failed, Some("response_max"));
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                }
            }
            let mut blocked = None;
            let data = match self.events.take() {
                None => data,
                Some((mut events, mut editor)) => {
                    let mut out = Vec::with_capacity(data.len());
                    if events.push(&data, &mut editor, &mut out).is_err() {
                        end(Decision::Failed, Some("response_max"));
                        return Poll::Ready(Some(Err(BodyError::TooLarge)));
                    }
                    if last {
                        events.finish(&mut editor, &mut out);
                        blocked = editor.blocked;
                    } else {
                        self.events = Some((events, editor));
                    }
                    Bytes::from(out)
                }
            };
            if last {
                self.wait.ended = true;
                if let Some(body) = self.body.take() {
                    self.pool.keep(body);
                }
                match blocked {
                    Some(rule) => end(Decision::Refused, Some(&rule)),
                    None => end(Decision::Allowed, None),
                }
            }
            if data.is_empty() {
                if last {
                    return Poll::Ready(None);
                }
                continue;
            }
            if let Some(trace) = trace {
                trace.out(&data);
                if !last && self.answered.as_mut().is_some_and(|answered| answered.pass(&data)) {
                    (self.answered, self.wait.complete) = (None, true);
                    match self.events.as_ref().and_then(|(_, editor)| editor.blocked.as_deref()) {
                        Some(rule) => trace.end(Decision::Refused, Some(rule)),
                        None => trace.end(Decision::Allowed, None),
                    }
                }
            }
            return Poll::Ready(Some(Ok(data)));
        }
    }
}
