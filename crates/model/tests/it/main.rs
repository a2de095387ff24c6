//! The client against a real Messages API server that plays what can happen.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod failures;

use outwork_model::{ModelClient, Options};
use outwork_rehearsal::{Rehearsal, RehearsalHandle, Scenario};
use outwork_wire::model::{ModelAnswer, ModelFailure, ModelRequest};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const KEY: &str = "sk-rehearsal-0123456789";

async fn server() -> RehearsalHandle {
    let options = outwork_rehearsal::Options {
        api_key: Some(KEY.into()),
        ..outwork_rehearsal::Options::new(Scenario::built_in())
    };
    Rehearsal::start(options).await.unwrap()
}

fn options(server: &RehearsalHandle) -> Options {
    Options::new(server.base_url(), SecretString::from(KEY))
}

fn client(server: &RehearsalHandle) -> ModelClient {
    ModelClient::new(options(server)).unwrap()
}

/// A request whose user message is the script of the play.
fn request(steps: Value) -> ModelRequest {
    let tool =
        json!({"name": "bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}});
    ModelRequest {
        model: "rehearsal/script".into(),
        max_tokens: 8192,
        system: vec![json!({"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}})],
        tools: vec![tool],
        messages: vec![json!({"role": "user", "content": [{"type": "text", "text": steps.to_string()}]})],
        extra: Map::from_iter([("thinking".to_owned(), json!({"type": "adaptive"}))]),
    }
}

async fn ask(client: &ModelClient, request: &ModelRequest) -> Result<ModelAnswer, ModelFailure> {
    client.stream(request, CancellationToken::new(), |_| ()).await
}

/// The failure that a fault brings.
async fn fail(client: &ModelClient, fault: Value) -> ModelFailure {
    let steps = json!([{"say": [{"text": "some words that are long enough for a few deltas"}], "faults": [fault]}]);
    ask(client, &request(steps)).await.expect_err("the fault must show")
}
