//! Sending one result: at once, then again with growing waits, until the call has an answer.
//!
//! A result that the server refuses for good is replaced by a short error that says so: a call without any answer
//! would hold its session for ever. Only if that is refused too, and the log shows no answer, is the call given up.
//!
//! It does not end by itself while the server cannot be reached: whoever holds it drops it when the lease ends.

use std::sync::Arc;
use std::time::Duration;

use outwork_client::{Client, ClientError, RetryPolicy};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::backoff;
use super::bench::error_result;
use super::feed::{PAGE_LIMIT, history};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of the server's words the model is told.
const REASON_CHARS: usize = 200;
/// How a server of this project refuses a second answer.
const HAS_ITS_ANSWER: &str = "has its answer already";

/// A result on its way.
pub(crate) struct Post {
    pub client: Client,
    pub session_id: String,
    pub call_id: String,
    pub event: Arc<Value>,
    /// Fires when the call is seen to have an answer: a request on its way is let finish, none is begun after it.
    pub answered: CancellationToken,
    /// Cuts a wait short.
    pub again: Arc<Notify>,
}

/// What became of it.
pub(crate) enum Posted {
    /// The server has it, or the error in its place.
    Sent,
    /// The call has another answer, or our own came through after all.
    Moot,
    /// The server takes neither it nor the error in its place.
    Refused(ClientError),
}

impl Post {
    /// Sends it.
    pub async fn send(self) -> Posted {
        let refusal = match self.deliver(&self.event).await {
            Ok(()) => return Posted::Sent,
            Err(Undelivered::Answered) => return Posted::Moot,
            Err(Undelivered::Refused(error)) => error,
        };
        tracing::warn!(call = self.call_id, error = %refusal, "result refused; sending an error in its place");
        let substitute = error_result(&self.call_id, &substitute_text(&refusal));
        match self.deliver(&substitute).await {
            Ok(()) => Posted::Sent,
            Err(Undelivered::Answered) => Posted::Moot,
            Err(Undelivered::Refused(_)) if self.answered.is_cancelled() || self.is_closed().await => Posted::Moot,
            Err(Undelivered::Refused(error)) => Posted::Refused(error),
        }
    }

    /// Sends this event until the server takes or refuses it.
    async fn deliver(&self, event: &Value) -> Result<(), Undelivered> {
        let events = self.client.sessions().events(self.session_id.clone());
        let mut attempt = 0;
        loop {
            if self.answered.is_cancelled() {
                return Err(Undelivered::Answered);
            }
            let sent = match events.send_request(std::slice::from_ref(event)) {
                Ok(request) => {
                    let request = request.timeout(ATTEMPT_TIMEOUT).retry(RetryPolicy::NONE);
                    request.send_unit().await
                }
                Err(error) => Err(error),
            };
            let error = match sent {
                Ok(()) => return Ok(()),
                Err(error) if error.api().is_some_and(|e| e.message.contains(HAS_ITS_ANSWER)) => {
                    return Err(Undelivered::Answered);
                }
                Err(error) if error.is_permanent() => return Err(Undelivered::Refused(error)),
                Err(error) => error,
            };
            attempt += 1;
            let wait = backoff::half_to_full(backoff::doubling(FIRST_WAIT, attempt, LONGEST_WAIT));
            tracing::warn!(call = self.call_id, attempt, ?wait, %error, "result not sent; trying again");
            tokio::select! {
                () = self.answered.cancelled() => return Err(Undelivered::Answered),
                () = self.again.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// True if the log shows that nobody waits for an answer. Other servers have other words for a second answer,
    /// so the log is asked.
    async fn is_closed(&self) -> bool {
        let mut page_limit = PAGE_LIMIT;
        match history(&self.client, &self.session_id, &mut page_limit).await {
            Ok(history) => history.closes(&self.call_id),
            Err(error) => {
                tracing::warn!(call = self.call_id, %error, "whether the call has an answer cannot be read");
                false
            }
        }
    }
}

/// Why an event did not reach the server.
enum Undelivered {
    /// The call has an answer.
    Answered,
    Refused(ClientError),
}

/// What the model is told. The body of a proxy's error page is no use to it, and may be refused as the result was.
fn substitute_text(refusal: &ClientError) -> String {
    let reason = match refusal.api() {
        Some(error) if error.kind.is_empty() => format!("HTTP status {}", error.status),
        Some(error) => {
            let message: String = error.message.chars().take(REASON_CHARS).collect();
            format!("{message} (HTTP status {})", error.status)
        }
        None => "it cannot be sent".to_owned(),
    };
    format!(
        "The server refused the result of this call: {reason}. What the call did stands, but its output is lost; \
         when it is made again, let it give less output or another kind."
    )
}
