//! Connections of one route, kept for the next call.
//!
//! HTTP/1.1, one call at a time on each connection, the last used first. A connection that closed while it was kept is
//! dropped unseen; a request of which no byte was sent goes on another one, and a request that may be repeated is
//! repeated once when a kept connection died under it. Any other failure is the caller's: nothing is sent twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Either;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use super::dial::{DialError, Dialer};
use crate::proxy::body::Upload;

/// The body of a request: read whole, or streamed.
pub type RequestBody = Either<Full<Bytes>, Upload>;

/// How long a connection is kept unused.
const KEPT: Duration = Duration::from_secs(60);
/// How many are kept.
const KEPT_MAX: usize = 256;
/// How long a kept connection may take to be ready.
const SETTLE: Duration = Duration::from_millis(50);
/// The most headers, and the most bytes of them, that an upstream's answer may have.
const HEADERS: usize = 128;
const HEAD: usize = 64 * 1024;

/// Connections to one upstream.
pub struct Pool {
    dialer: Dialer,
    idle: Mutex<VecDeque<(SendRequest<RequestBody>, Instant)>>,
    tasks: TaskTracker,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or what came over it was not HTTP.
    #[error("the upstream broke the exchange: {0}")]
    Exchange(hyper::Error),
}

impl Pool {
    /// A pool over a dialler; connections run as tasks of `tasks`.
    pub fn new(dialer: Dialer, tasks: TaskTracker) -> Arc<Pool> {
        Arc::new(Pool {
            dialer,
            idle: Mutex::new(VecDeque::new()),
            tasks,
        })
    }

    /// The dialler.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends a request and returns the head of the answer, with the connection to give back when its body has ended.
    ///
    /// `again` makes the request once more, for one that may be repeated.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        again: Option<&(dyn Fn() -> Request<RequestBody> + Send + Sync)>,
    ) -> Result<(Response<Incoming>, SendRequest<RequestBody>), SendError> {
        let mut request = request;
        while let Some(mut sender) = self.kept().await {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut failed) => match (failed.take_message(), again) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(again)) => {
                        request = again();
                        break;
                    }
                    (None, None) => return Err(SendError::Exchange(failed.into_error())),
                },
            }
        }
        let io = self.dialer.dial().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(HEADERS)
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(SendError::Exchange)?;
        self.tasks.spawn(async move {
            // Its failures reach whoever waits for an answer; one that nobody uses may end as it likes.
            let _ = connection.await;
        });
        let response = sender.send_request(request).await.map_err(SendError::Exchange)?;
        Ok((response, sender))
    }

    /// Keeps a connection whose last answer has been read to its end.
    pub fn keep(&self, sender: SendRequest<RequestBody>) {
        if !sender.is_closed() {
            let mut idle = self.idle();
            if idle.len() >= KEPT_MAX {
                idle.pop_front();
            }
            idle.push_back((sender, Instant::now()));
        }
    }

    /// Drops what was not used for a while, and what closed.
    pub fn sweep(&self) {
        self.idle()
            .retain(|(sender, since)| since.elapsed() < KEPT && !sender.is_closed());
    }

    /// Drops every connection that is kept.
    pub fn clear(&self) {
        self.idle().clear();
    }

    /// A kept connection that is still good.
    async fn kept(&self) -> Option<SendRequest<RequestBody>> {
        loop {
            let (mut sender, since) = self.idle().pop_back()?;
            if since.elapsed() >= KEPT || sender.is_closed() {
                continue;
            }
            // Its last exchange may need a moment to end; one that does not end is not waited for.
            if sender.is_ready() || matches!(tokio::time::timeout(SETTLE, sender.ready()).await, Ok(Ok(()))) {
                return Some(sender);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<(SendRequest<RequestBody>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
