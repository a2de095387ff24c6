//! Where the calls of one session run: its workspace and its sandbox, launched ahead and renewed when it dies.
//!
//! A bench belongs to one call at a time: the call takes it and gives it back, so no two calls share a sandbox at
//! once. Dropping it ends the sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::calls::Call;
use super::hand::{Hand, Provider};
use crate::{SandboxError, ToolCall, ToolOutput};

/// How long a launch may take.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// What a call is given beyond its own timeout, to be stopped in order.
const GRACE: Duration = Duration::from_secs(20);

/// The workspace and the sandbox of one session.
pub(crate) struct Bench {
    provider: Arc<dyn Provider>,
    workspace: PathBuf,
    slot: Slot,
}

enum Slot {
    Empty,
    Launching(AbortOnDropHandle<Result<Arc<dyn Hand>, SandboxError>>),
    Ready(Arc<dyn Hand>),
}

impl Bench {
    /// A bench whose sandbox is being launched already.
    pub fn launch(provider: Arc<dyn Provider>, workspace: PathBuf) -> Self {
        let mut bench = Self {
            provider,
            workspace,
            slot: Slot::Empty,
        };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let provider = Arc::clone(&self.provider);
        let workspace = self.workspace.clone();
        let launch = async move {
            tokio::time::timeout(LAUNCH_TIMEOUT, provider.launch(&workspace))
                .await
                .unwrap_or_else(|_| Err(SandboxError::Ended(format!("no sandbox within {LAUNCH_TIMEOUT:?}"))))
        };
        self.slot = Slot::Launching(AbortOnDropHandle::new(tokio::spawn(launch)));
    }

    async fn hand(&mut self) -> Result<Arc<dyn Hand>, SandboxError> {
        let usable = match &self.slot {
            Slot::Empty => false,
            Slot::Launching(_) => true,
            Slot::Ready(hand) => !hand.has_ended(),
        };
        if !usable {
            self.start();
        }
        let hand = match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Ready(hand) => hand,
            Slot::Launching(launch) => launch
                .await
                .unwrap_or_else(|_| Err(SandboxError::Ended("its launch was broken off".into())))?,
            Slot::Empty => return Err(SandboxError::Ended("it was not launched".into())),
        };
        self.slot = Slot::Ready(Arc::clone(&hand));
        Ok(hand)
    }

    /// Runs a call to its end and gives the bench back with the event that answers the call.
    pub async fn run(mut self, call: Call, timeout: Duration, cancel: CancellationToken) -> (Self, Value) {
        let hand = match self.hand().await {
            Ok(hand) => hand,
            Err(error) => {
                tracing::error!(call = call.id, %error, "the sandbox cannot be started");
                let text = "The sandbox could not be started, so nothing was run. The worker's log says why.";
                return (self, error_result(&call.id, text));
            }
        };
        if cancel.is_cancelled() {
            return (self, error_result(&call.id, INTERRUPTED));
        }
        let request = ToolCall {
            name: call.name.clone(),
            input: Value::Object(call.input),
            timeout,
        };
        let text = match tokio::time::timeout(timeout + GRACE, hand.call(request, &cancel)).await {
            Ok(Ok(output)) => return (self, result(&call.id, output)),
            Ok(Err(error @ SandboxError::CallTooLarge { .. })) => {
                return (self, error_result(&call.id, &format!("Nothing was run: {error}.")));
            }
            Ok(Err(error)) => {
                tracing::error!(call = call.id, %error, "the sandbox ended during a call");
                "The sandbox ended while this call ran, so its outcome is not known. Files in the workspace are kept; \
                 the next call gets a fresh sandbox without the shell's variables, folder and processes."
                    .to_owned()
            }
            Err(_) => {
                tracing::error!(call = call.id, "the sandbox did not answer in time; ending it");
                format!("tool \"{}\" timed out", call.name)
            }
        };
        self.slot = Slot::Empty;
        hand.end().await;
        (self, error_result(&call.id, &text))
    }

    /// Ends the sandbox, and returns when nothing of it runs any more.
    pub async fn end(mut self) {
        match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Empty => {}
            Slot::Ready(hand) => hand.end().await,
            Slot::Launching(launch) => {
                launch.abort();
                if let Ok(Ok(hand)) = launch.await {
                    hand.end().await;
                }
            }
        }
    }
}

/// What a call that was stopped before it began is answered with.
pub(crate) const INTERRUPTED: &str = "The call was interrupted before it ran.";

/// The event that answers a call with an error text.
pub(crate) fn error_result(call_id: &str, text: &str) -> Value {
    json!({
        "type": "user.tool_result",
        "tool_use_id": call_id,
        "content": [{ "type": "text", "text": text }],
        "is_error": true,
    })
}

fn result(call_id: &str, output: ToolOutput) -> Value {
    let mut content = serde_json::to_value(&output.content).unwrap_or_default();
    if let Value::Array(blocks) = &mut content {
        if blocks.is_empty() {
            blocks.push(json!({ "type": "text", "text": "" }));
        }
        for block in blocks {
            // Servers refuse empty text.
            if block.get("text").and_then(Value::as_str) == Some("") {
                block["text"] = Value::from("(no output)");
            }
        }
    }
    json!({
        "type": "user.tool_result",
        "tool_use_id": call_id,
        "content": content,
        "is_error": output.is_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ContentBlock;

    #[test]
    fn an_empty_output_says_so() {
        for content in [vec![], vec![ContentBlock::Text { text: String::new() }]] {
            let output = ToolOutput {
                content,
                is_error: false,
                exit_code: Some(0),
                duration: Duration::ZERO,
            };
            let event = result("sevt_1", output);
            assert_eq!(event["content"][0]["text"], "(no output)");
            assert_eq!(event["tool_use_id"], "sevt_1");
            assert_eq!(event["is_error"], false);
        }
    }
}
