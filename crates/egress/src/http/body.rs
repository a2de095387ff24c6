//! Bodies on their way: counted, rewritten, searched.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::answer::{Answer, Refusal};
use super::kept::Kept;
use super::upstream::Lease;
use crate::policy::{Meter, Way};
use crate::secret::{BodyRewriter, Scrubber, SecretSet, Use};
use crate::shared::Shared;

/// Why a body ended early.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(String);

/// The time that a body may pause.
struct Pause {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    fn new(limit: Duration) -> Pause {
        Pause { limit, sleep: None }
    }

    /// Called when there is nothing: ready when that was too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)))
            .as_mut()
            .poll(cx)
    }

    fn moved(&mut self) {
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

/// Counts what passes, everywhere it is counted.
pub(super) struct Counting {
    pub(super) shared: Arc<Shared>,
    pub(super) meter: Meter,
    pub(super) tally: Arc<(std::sync::atomic::AtomicU64, std::sync::atomic::AtomicU64)>,
}

impl Counting {
    fn count(&self, way: Way, bytes: usize) -> Result<(), crate::policy::Exhausted> {
        let bytes = bytes as u64;
        self.meter.count(way, bytes)?;
        self.shared.stats.bytes(way, bytes);
        let tally = match way {
            Way::Out => &self.tally.0,
            Way::In => &self.tally.1,
        };
        tally.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// What stopped a request whose head was sent already.
pub(super) type Fault = Arc<OnceLock<Refusal>>;

/// A request's body towards the server.
pub(crate) enum Outgoing {
    /// What was held, or nothing.
    Held(Option<Bytes>, Option<HeaderMap>),
    /// What streams.
    Stream(Box<Upload>),
}

/// Is told what a body used.
pub(super) type Report = Box<dyn FnOnce(&[Use]) + Send>;

/// A body that streams towards the server.
pub(crate) struct Upload {
    /// What was held before it began to stream.
    pub(super) first: Bytes,
    pub(super) incoming: Kept,
    pub(super) rewriter: Option<BodyRewriter>,
    pub(super) counting: Counting,
    pub(super) fault: Fault,
    /// Told what the body used, when it ends.
    pub(super) report: Option<Report>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) ended: bool,
    pause: Pause,
}

impl Upload {
    pub(super) fn new(incoming: Kept, counting: Counting, fault: Fault) -> Upload {
        let pause = Pause::new(counting.shared.limits.body_idle);
        Upload {
            first: Bytes::new(),
            incoming,
            rewriter: None,
            counting,
            fault,
            report: None,
            trailers: None,
            ended: false,
            pause,
        }
    }

    fn fail(&mut self, refusal: Refusal) -> Broken {
        let broken = Broken(refusal.reason.clone());
        let _ = self.fault.set(refusal);
        self.ended = true;
        broken
    }

    /// What is left at the end.
    fn finish(&mut self) -> Result<Bytes, crate::secret::Blocked> {
        let last = match &mut self.rewriter {
            Some(rewriter) => rewriter.finish(&mut http::Request::new(()).into_parts().0)?,
            None => Bytes::new(),
        };
        self.end();
        Ok(last)
    }

    fn end(&mut self) {
        self.ended = true;
        if let (Some(report), Some(rewriter)) = (self.report.take(), &self.rewriter) {
            report(rewriter.uses());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if !self.first.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
            }
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.pause.poll(cx));
                    let refusal =
                        Refusal::failed(StatusCode::REQUEST_TIMEOUT, "the request's body paused for too long");
                    return Poll::Ready(Some(Err(self.fail(refusal))));
                }
            };
            self.pause.moved();
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        None
                    }
                },
                Some(Err(_)) => {
                    let refusal = Refusal::failed(StatusCode::BAD_REQUEST, "the request's body broke off");
                    return Poll::Ready(Some(Err(self.fail(refusal))));
                }
                None => None,
            };
            let data = match data {
                Some(data) => {
                    if let Err(exhausted) = self.counting.count(Way::Out, data.len()) {
                        let refusal =
                            Refusal::new(StatusCode::TOO_MANY_REQUESTS, &exhausted.rule, &exhausted.to_string());
                        return Poll::Ready(Some(Err(self.fail(refusal))));
                    }
                    let out = match &mut self.rewriter {
                        Some(rewriter) => rewriter.push(&data),
                        None => Ok(data),
                    };
                    match out {
                        // Nobody asks again after the last byte of a body whose length is known.
                        Ok(out) if self.incoming.is_end_stream() => self.finish().map(|last| joined(out, last)),
                        out => out,
                    }
                }
                None => self.finish(),
            };
            match data {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(blocked) => {
                    let refusal = Refusal::new(blocked.status, "secret", &blocked.to_string());
                    return Poll::Ready(Some(Err(self.fail(refusal))));
                }
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Outgoing::Held(data, trailers) => Poll::Ready(match data.take().filter(|data| !data.is_empty()) {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Outgoing::Stream(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Held(data, trailers) => data.as_ref().is_none_or(Bytes::is_empty) && trailers.is_none(),
            Outgoing::Stream(upload) => {
                upload.first.is_empty()
                    && upload.trailers.is_none()
                    && (upload.ended || (upload.rewriter.is_none() && upload.incoming.is_end_stream()))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Held(data, None) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Outgoing::Held(_, Some(_)) => SizeHint::default(),
            Outgoing::Stream(upload) if upload.rewriter.is_none() && upload.first.is_empty() => {
                upload.incoming.size_hint()
            }
            Outgoing::Stream(_) => SizeHint::default(),
        }
    }
}

fn joined(first: Bytes, last: Bytes) -> Bytes {
    match (first.is_empty(), last.is_empty()) {
        (_, true) => first,
        (true, false) => last,
        (false, false) => [first, last].concat().into(),
    }
}

/// A response's body towards the sandbox.
pub(crate) struct Reply {
    incoming: Incoming,
    scrubber: Option<Scrubber>,
    secrets: Arc<SecretSet>,
    counting: Counting,
    /// The connection to the server, given back at the end.
    lease: Option<Lease>,
    trailers: Option<HeaderMap>,
    ended: bool,
    pause: Pause,
}

impl Reply {
    pub(super) fn new(
        incoming: Incoming,
        scrubber: Option<Scrubber>,
        secrets: Arc<SecretSet>,
        counting: Counting,
        lease: Lease,
    ) -> Reply {
        let pause = Pause::new(counting.shared.limits.body_idle);
        let mut reply = Reply {
            incoming,
            scrubber,
            secrets,
            counting,
            lease: Some(lease),
            trailers: None,
            ended: false,
            pause,
        };
        if reply.incoming.is_end_stream() && reply.scrubber.is_none() {
            reply.end();
        }
        reply
    }

    /// What is left at the end.
    fn finish(&mut self) -> Result<Bytes, crate::secret::ScrubError> {
        let last = match &mut self.scrubber {
            Some(scrubber) => scrubber.finish()?,
            None => Bytes::new(),
        };
        self.end();
        Ok(last)
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        if let Some(scrubber) = &self.scrubber {
            for _ in 0..scrubber.hits() {
                self.counting.shared.stats.scrubbed();
            }
        }
    }

    fn fail(&mut self, reason: String) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.ended = true;
        self.lease = None;
        tracing::debug!(reason, "a response was cut");
        Poll::Ready(Some(Err(Broken(reason))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.pause.poll(cx));
                    return self.fail("the response paused for too long".to_owned());
                }
            };
            self.pause.moved();
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().ok();
                        if let (Some(trailers), Some(_)) = (&mut trailers, &self.scrubber) {
                            self.secrets.scrub_headers(trailers);
                        }
                        self.trailers = trailers;
                        None
                    }
                },
                Some(Err(error)) => return self.fail(format!("the response broke off: {error}")),
                None => None,
            };
            let data = match data {
                Some(data) => {
                    if let Err(exhausted) = self.counting.count(Way::In, data.len()) {
                        return self.fail(exhausted.to_string());
                    }
                    let out = match &mut self.scrubber {
                        Some(scrubber) => scrubber.push(&data),
                        None => Ok(data),
                    };
                    match out {
                        // Nobody asks again after the last byte of a body whose length is known.
                        Ok(out) if self.incoming.is_end_stream() => self.finish().map(|last| joined(out, last)),
                        out => out,
                    }
                }
                None => self.finish(),
            };
            match data {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Answer::Own(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Answer::Reply(reply) => reply.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Own(data) => data.is_none(),
            Answer::Reply(reply) => reply.ended && reply.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Own(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Answer::Reply(reply) if reply.scrubber.is_none() => reply.incoming.size_hint(),
            Answer::Reply(_) => SizeHint::default(),
        }
    }
}
