//! Connections of one route, kept for the next call.
//!
//! HTTP/1.1, one call at a time on each connection, the last used first. A connection that closed while it was kept is
//! dropped unseen; a request of which no byte was sent goes on another one, and a request that may be repeated is
//! repeated once when a kept connection died under it. Any other failure is the caller's: nothing is sent twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};

use super::dial::{DialError, Dialer};
pub use super::line::{Line, Reply, RequestBody};

/// How long a connection is kept unused.
const KEPT: Duration = Duration::from_secs(60);
/// How many are kept.
const KEPT_MAX: usize = 256;
/// How long a kept connection may take to be ready.
const SETTLE: Duration = Duration::from_millis(50);

/// Connections to one upstream.
pub struct Pool {
    dialer: Dialer,
    idle: Mutex<VecDeque<(Line, Instant)>>,
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
    /// A pool over a dialler.
    pub fn new(dialer: Dialer) -> Arc<Pool> {
        Arc::new(Pool {
            dialer,
            idle: Mutex::new(VecDeque::new()),
        })
    }

    /// The dialler.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends a request and returns the head of the answer. Its body has the connection, to give back when it has ended.
    ///
    /// `again` makes the request once more, for one that may be repeated.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        again: Option<&(dyn Fn() -> Request<RequestBody> + Send + Sync)>,
    ) -> Result<Response<Reply>, SendError> {
        let mut request = request;
        while let Some(line) = self.kept().await {
            match line.send(request).await {
                Ok(response) => return Ok(response),
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
        let line = Line::new(self.dialer.dial().await?)
            .await
            .map_err(SendError::Exchange)?;
        line.send(request)
            .await
            .map_err(|failed| SendError::Exchange(failed.into_error()))
    }

    /// Keeps the connection of an answer that has been read to its end, unless it has something left to do.
    pub fn keep(&self, reply: Reply) {
        let mut line = reply.into_line();
        if line.is_ready() {
            let mut idle = self.idle();
            if idle.len() >= KEPT_MAX {
                idle.pop_front();
            }
            idle.push_back((line, Instant::now()));
        }
    }

    /// Drops what was not used for a while, and what closed.
    pub fn sweep(&self) {
        self.idle()
            .retain_mut(|(line, since)| since.elapsed() < KEPT && line.is_ready());
    }

    /// Drops every connection that is kept.
    pub fn clear(&self) {
        self.idle().clear();
    }

    /// A kept connection that is still good.
    async fn kept(&self) -> Option<Line> {
        loop {
            let (mut line, since) = self.idle().pop_back()?;
            if since.elapsed() >= KEPT {
                continue;
            }
            // Its last exchange may need a moment to end; one that does not end is not waited for.
            if line.is_ready() || matches!(tokio::time::timeout(SETTLE, line.ready()).await, Ok(true)) {
                return Some(line);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<(Line, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
