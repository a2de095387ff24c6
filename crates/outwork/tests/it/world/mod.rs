//! What the tests stand on: processes of the built binary, a client that hides nothing, streams, a rehearsal
//! model, and the rules that every session's log keeps.

pub mod api;
pub mod log;
pub mod process;
pub mod sse;

use std::time::Duration;

use outwork_rehearsal::{Options, Rehearsal, RehearsalHandle, Scenario};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use api::{Answer, Api};
pub use process::{Isolation, Server, ServerOptions, Worker, WorkerOptions};
pub use sse::Stream;

/// The admin key of every server here.
pub const ADMIN_KEY: &str = "admin-key-of-the-tests-0123456789";
/// The key of the rehearsal model.
pub const MODEL_KEY: &str = "key-of-the-rehearsal-model";
/// The model that plays the steps in the user message.
pub const SCRIPT: &str = "rehearsal/script";
/// How long anything may take that is expected at once.
pub const SOON: Duration = Duration::from_secs(30);

/// A rehearsal model with the plays that are always there.
pub async fn rehearsal() -> RehearsalHandle {
    rehearsal_with(Scenario::built_in()).await
}

/// A rehearsal model with these plays.
pub async fn rehearsal_with(scenario: Scenario) -> RehearsalHandle {
    let options = Options {
        api_key: Some(MODEL_KEY.into()),
        ..Options::new(scenario)
    };
    Rehearsal::start(options).await.unwrap()
}

/// A server with a rehearsal model, and a client with the admin key.
pub struct World {
    pub server: Server,
    pub model: RehearsalHandle,
    pub api: Api,
}

impl World {
    /// Starts both.
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    /// Starts both, the server with these options.
    pub async fn start_with(options: ServerOptions) -> Self {
        let model = rehearsal().await;
        let server = Server::start(options.model(&model.base_url(), MODEL_KEY)).await;
        let api = server.api();
        Self { server, model, api }
    }
}

/// The text of a user message that makes the model play these steps.
pub fn script(steps: Value) -> String {
    format!("Play this.\n```json\n{steps}\n```")
}

/// A user message that makes the model play these steps.
pub fn script_message(steps: Value) -> Value {
    message(&script(steps))
}

/// The same without a fence: if the model never answers it, the script of the next message is the one that counts.
pub fn bare_script_message(steps: Value) -> Value {
    message(&steps.to_string())
}

/// A user message.
pub fn message(text: &str) -> Value {
    json!({ "type": "user.message", "content": [{ "type": "text", "text": text }] })
}

/// Waits until `look` gives something.
pub async fn until<T, F, R>(what: &str, within: Duration, mut look: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "this did not come within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}
