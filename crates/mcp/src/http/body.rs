//! Bodies: the one that notes when it leaves, and reading one within a bound.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{HttpError, Trace};

/// A request's body. hyper asks for it after it has a connection and before it writes the first byte of the request,
/// header included, so being asked is the moment from which the server may know of the request.
pub(super) struct Outgoing {
    body: Full<Bytes>,
    trace: Option<Trace>,
}

impl Outgoing {
    pub(super) fn new(body: Bytes, trace: Option<Trace>) -> Self {
        Self {
            body: Full::new(body),
            trace,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(trace) = self.trace.take() {
            trace.sending();
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// All of a body, or an error as soon as it is over `limit`.
pub(super) async fn collect(mut body: Incoming, limit: u64) -> Result<Bytes, HttpError> {
    if body.size_hint().lower() > limit {
        return Err(HttpError::too_large("the answer", limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| HttpError::connection("the connection broke in the middle of the answer"))?;
        if let Ok(data) = frame.into_data() {
            if (bytes.len() + data.len()) as u64 > limit {
                return Err(HttpError::too_large("the answer", limit));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}
