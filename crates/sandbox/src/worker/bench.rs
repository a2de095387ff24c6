//! Where the calls of one session run: its workspace and its sandbox, within the session's boundary, launched ahead and
//! renewed when it dies or when its boundary has become another.
//!
//! A bench belongs to one call at a time: the call takes it and gives it back, so no two calls share a sandbox at
//! once. Dropping it ends the sandbox. A call is recorded before it runs, or does not run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outwork_wire::Time;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::boundary::{Boundary, BoundaryError, Plan, Registered, Standing};
use super::calls::Call;
use super::hand::{Hand, Provider};
use super::refused;
use crate::{SandboxError, ToolCall, ToolOutput};

/// How long a launch may take.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// What a call is given beyond its own timeout, to be stopped in order.
const GRACE: Duration = Duration::from_secs(20);

/// The workspace and the sandbox of one session.
pub(crate) struct Bench {
    provider: Arc<dyn Provider>,
    workspace: PathBuf,
    boundary: Arc<Boundary>,
    slot: Slot,
}

enum Slot {
    Empty,
    Launching(AbortOnDropHandle<Result<Stood, LaunchError>>),
    Ready(Stood),
}

/// A sandbox within its boundary.
struct Stood {
    hand: Arc<dyn Hand>,
    plan: Arc<Plan>,
    _registered: Registered,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error(transparent)]
    Boundary(#[from] BoundaryError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl LaunchError {
    /// What the session is told. What only concerns the machine is for its owner.
    fn told(&self) -> String {
        match self {
            Self::Boundary(error) => format!("The sandbox was not started, so nothing was run: {error}."),
            Self::Sandbox(error @ SandboxError::Option { .. }) => {
                format!("The sandbox was not started, so nothing was run: {error}.")
            }
            Self::Sandbox(_) => {
                "The sandbox could not be started, so nothing was run. The worker's log says why.".to_owned()
            }
        }
    }
}

impl Bench {
    /// A bench whose sandbox is being launched already.
    pub fn launch(provider: Arc<dyn Provider>, workspace: PathBuf, boundary: Arc<Boundary>) -> Self {
        let mut bench = Self {
            provider,
            workspace,
            boundary,
            slot: Slot::Empty,
        };
        bench.start();
        bench
    }

    fn start(&mut self) {
        let provider = Arc::clone(&self.provider);
        let workspace = self.workspace.clone();
        let boundary = Arc::clone(&self.boundary);
        let launch = async move {
            let plan = boundary.prepare().await?;
            let hand = tokio::time::timeout(LAUNCH_TIMEOUT, provider.launch(&workspace, &plan.furnishing))
                .await
                .unwrap_or_else(|_| Err(SandboxError::Ended(format!("no sandbox within {LAUNCH_TIMEOUT:?}"))))?;
            let registered = boundary.raise(&plan, &hand).await?;
            Ok(Stood {
                hand,
                plan,
                _registered: registered,
            })
        };
        self.slot = Slot::Launching(AbortOnDropHandle::new(tokio::spawn(launch)));
    }

    async fn hand(&mut self) -> Result<Arc<dyn Hand>, LaunchError> {
        loop {
            match &mut self.slot {
                Slot::Empty => self.start(),
                Slot::Launching(launch) => {
                    let launched = launch.await;
                    self.slot = Slot::Empty;
                    let broken_off = |_| Err(SandboxError::Ended("its launch was broken off".into()).into());
                    self.slot = Slot::Ready(launched.unwrap_or_else(broken_off)?);
                }
                Slot::Ready(stood) => {
                    let standing = match stood.hand.has_ended() {
                        true => Standing::Stale,
                        false => self.boundary.standing(&stood.plan),
                    };
                    match standing {
                        Standing::Good => return Ok(Arc::clone(&stood.hand)),
                        Standing::Broken(reason) => return Err(BoundaryError::Shut(reason).into()),
                        Standing::Stale => self.clear("a fresh one is needed").await,
                    }
                }
            }
        }
    }

    /// Ends the sandbox, if one stands.
    async fn clear(&mut self, reason: &str) {
        if let Slot::Ready(stood) = std::mem::replace(&mut self.slot, Slot::Empty) {
            stood.hand.end().await;
            self.boundary.lower(reason).await;
        }
    }

    /// Runs a call to its end and gives the bench back with the event that answers the call.
    pub async fn run(mut self, call: Call, timeout: Duration, cancel: CancellationToken) -> (Self, Value) {
        let hand = tokio::select! {
            biased;
            hand = self.hand() => hand,
            () = cancel.cancelled() => return (self, error_result(&call.id, INTERRUPTED)),
        };
        let hand = match hand {
            Ok(hand) => hand,
            Err(error) => {
                tracing::error!(call = call.id, %error, "the sandbox cannot be started");
                return (self, error_result(&call.id, &error.told()));
            }
        };
        if cancel.is_cancelled() {
            return (self, error_result(&call.id, INTERRUPTED));
        }
        if let Err(error) = self.boundary.journal.call_begins(&call).await {
            tracing::error!(call = call.id, %error, "the call is not run");
            return (self, error_result(&call.id, &format!("Nothing was run: {error}.")));
        }
        let (begun, at) = (Instant::now(), Time::now());
        let mut answer = self.run_in(&*hand, &call, timeout, &cancel).await;
        refused::tell(&mut answer, &self.boundary.refusals(), at);
        // What was cancelled has another answer already, which the server gave.
        let sent = (!cancel.is_cancelled()).then_some(&answer);
        self.boundary.journal.call_ended(&call, sent, begun.elapsed()).await;
        (self, answer)
    }

    async fn run_in(&mut self, hand: &dyn Hand, call: &Call, timeout: Duration, cancel: &CancellationToken) -> Value {
        let request = ToolCall {
            name: call.name.clone(),
            input: Value::Object(call.input.clone()),
            timeout,
        };
        let text = match tokio::time::timeout(timeout + GRACE, hand.call(request, cancel)).await {
            Ok(Ok(output)) => return result(&call.id, output),
            Ok(Err(error @ SandboxError::CallTooLarge { .. })) => {
                return error_result(&call.id, &format!("Nothing was run: {error}."));
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
        self.clear("it ended during a call, or did not answer").await;
        error_result(&call.id, &text)
    }

    /// Ends the sandbox, and returns when nothing of it runs any more.
    pub async fn end(mut self) {
        if let Slot::Launching(launch) = &mut self.slot {
            launch.abort();
            if let Ok(Ok(stood)) = launch.await {
                self.slot = Slot::Ready(stood);
            }
        }
        self.clear("the session was let go").await;
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
