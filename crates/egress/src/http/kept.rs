//! The body of a request, read to its end even if nobody wants it.
//!
//! On HTTP/2 a body that is dropped resets its stream. Clients that still send then report a broken stream and never show
//! the answer, although it is complete: an agent would not hear that its request was refused, and why. So what is left of a
//! body is read and thrown away, for a bounded time and up to a bounded size.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;

use super::flow::Tasks;

/// How long, and how much, is read of what nobody wants.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST: usize = 16 << 20;

/// A request's body.
pub(super) struct Kept {
    body: Option<Incoming>,
    /// Where the rest is read; none on HTTP/1, where the connection's end is understood.
    tasks: Option<Tasks>,
}

impl Kept {
    pub(super) fn new(body: Incoming, tasks: Option<Tasks>) -> Kept {
        Kept {
            body: Some(body),
            tasks,
        }
    }
}

impl Body for Kept {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_)) | None) = &polled {
            // Nothing is left.
            self.tasks = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let (Some(mut body), Some(tasks)) = (self.body.take(), self.tasks.take()) else {
            return;
        };
        if body.is_end_stream() {
            return;
        }
        tasks.execute(async move {
            let rest = async {
                let mut read = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    read += frame.data_ref().map_or(0, Bytes::len);
                    if read > MOST {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(PATIENCE, rest).await;
        });
    }
}
