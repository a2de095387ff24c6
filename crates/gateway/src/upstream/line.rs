//! One connection to an upstream, driven by the call that uses it.
//!
//! A connection has no task of its own: whoever waits for something of it drives it, so a call goes to the upstream and
//! back without changing tasks. Between two calls nobody drives it; what happened meanwhile is seen when it is looked at
//! again. Dropped, it closes.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::dial::Io;
use crate::proxy::body::Upload;

/// The body of a request: read whole, or streamed.
pub type RequestBody = Either<Full<Bytes>, Upload>;

/// The most headers, and the most bytes of them, that an upstream's answer may have.
const HEADERS: usize = 128;
const HEAD: usize = 64 * 1024;

type Driven = Connection<TokioIo<Io>, RequestBody>;

/// A connection that carries one call at a time.
pub struct Line {
    sender: SendRequest<RequestBody>,
    /// Gone once it has ended. What ended it reaches whoever waits for an answer.
    connection: Option<Pin<Box<Driven>>>,
}

impl Line {
    /// HTTP/1.1 over a fresh connection.
    pub async fn new(io: Io) -> Result<Line, hyper::Error> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADERS)
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(io))
            .await?;
        Ok(Line {
            sender,
            connection: Some(Box::pin(connection)),
        })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Reply>, Box<TrySendError<Request<RequestBody>>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let answered = std::future::poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        });
        let response = answered.await.map_err(Box::new)?;
        Ok(response.map(|body| Reply { body, line: self }))
    }

    /// Waits until it can take a request. Whether it can.
    pub async fn ready(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await
        .is_ok()
    }

    /// Whether it can take a request now, by what has come from the upstream until now. Nobody is told of what comes later.
    pub fn is_ready(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.drive(&mut nobody);
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// The body of an answer, and the connection that it comes over.
pub struct Reply {
    body: Incoming,
    line: Line,
}

impl Reply {
    /// The connection, for the next request once this body has been read to its end.
    pub fn into_line(self) -> Line {
        self.line
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            return polled;
        }
        // The body has said that it wants more.
        this.line.drive(cx);
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
