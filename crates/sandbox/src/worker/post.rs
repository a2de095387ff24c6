//! Sending one result: at once, then again with growing waits, until the lease cannot be ours any more.

use std::sync::Arc;
use std::time::Duration;

use outwork_client::{Client, ClientError, RetryPolicy};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff;
use super::lease::LeaseState;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The window if no heartbeat has told a lease's length.
const DEFAULT_WINDOW: Duration = Duration::from_secs(300);

/// A result on its way.
pub(crate) struct Post {
    pub client: Client,
    pub session_id: String,
    pub call_id: String,
    pub event: Arc<Value>,
    /// Fires when the call is seen to have an answer: a request on its way is let finish, none is begun after it.
    pub answered: CancellationToken,
    pub lease: watch::Receiver<LeaseState>,
}

/// What became of it.
pub(crate) enum Posted {
    /// The server has it.
    Sent,
    /// The call has another answer, or our own came through after all.
    Moot,
    /// The server refuses it for good.
    Refused(ClientError),
    /// It could not be sent in time; it is kept.
    GaveUp(ClientError),
}

impl Post {
    /// Sends it.
    pub async fn send(self) -> (String, Arc<Value>, Posted) {
        let posted = self.try_send().await;
        (self.call_id, self.event, posted)
    }

    async fn try_send(&self) -> Posted {
        let events = self.client.sessions().events(self.session_id.clone());
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            if self.answered.is_cancelled() {
                return Posted::Moot;
            }
            let sent = match events.send_request(std::slice::from_ref(&*self.event)) {
                Ok(request) => {
                    let request = request.timeout(ATTEMPT_TIMEOUT).retry(RetryPolicy::NONE);
                    request.send_unit().await
                }
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(()) => return Posted::Sent,
                Err(error) if error.is_permanent() => return Posted::Refused(error),
                Err(error) => error,
            };
            attempt += 1;
            let window = self.lease.borrow().ttl.unwrap_or(DEFAULT_WINDOW);
            let left = window.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Posted::GaveUp(error);
            }
            let wait = backoff::half_to_full(backoff::doubling(FIRST_WAIT, attempt, LONGEST_WAIT)).min(left);
            tracing::warn!(call = self.call_id, attempt, ?wait, %error, "result not sent; trying again");
            tokio::select! {
                () = self.answered.cancelled() => return Posted::Moot,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}
