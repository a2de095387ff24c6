//! A small client: sends requests and reads streams, nothing more.

use outwork_rehearsal::{Options, Rehearsal, RehearsalHandle, Scenario};
use serde_json::{Value, json};

pub const KEY: &str = "test-key";

pub struct Server {
    pub handle: RehearsalHandle,
    pub http: reqwest::Client,
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Server {
    pub async fn new(scenario: &str) -> Self {
        Self::with(Scenario::from_toml(scenario).unwrap()).await
    }

    pub async fn with(scenario: Scenario) -> Self {
        let options = Options {
            api_key: Some(KEY.into()),
            ..Options::new(scenario)
        };
        Self {
            handle: Rehearsal::start(options).await.unwrap(),
            http: reqwest::Client::new(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.handle.base_url())
    }

    pub fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(self.url("/v1/messages"))
            .header("x-api-key", KEY)
            .header("anthropic-version", "2023-06-01")
            .json(body)
    }

    /// Status and JSON body.
    pub async fn call(&self, body: &Value) -> (u16, Value) {
        let response = self.post(body).send().await.unwrap();
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("request-id"));
        (status, response.json().await.unwrap())
    }

    /// The message of a request that must succeed.
    pub async fn message(&self, body: &Value) -> Value {
        let (status, message) = self.call(body).await;
        assert_eq!(status, 200, "{message}");
        message
    }

    /// The message of a refusal with 400.
    pub async fn refusal(&self, body: &Value) -> String {
        let (status, error) = self.call(body).await;
        assert_eq!(
            (status, error["error"]["type"].as_str()),
            (400, Some("invalid_request_error")),
            "{error}"
        );
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The events of a streamed request that must succeed.
    pub async fn stream(&self, body: &Value) -> Vec<Event> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = self.post(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        let text = response.text().await.unwrap();
        text.split_terminator("\n\n").map(read_event).collect()
    }
}

fn read_event(text: &str) -> Event {
    let (name, data) = text.split_once('\n').unwrap();
    Event {
        name: name.strip_prefix("event: ").unwrap().to_owned(),
        data: serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
    }
}

/// A tool definition.
pub fn tool(name: &str) -> Value {
    json!({"name": name, "description": "A tool", "input_schema": {"type": "object", "properties": {}}})
}

/// A request with these messages.
pub fn request(model: &str, messages: Value) -> Value {
    json!({"model": model, "max_tokens": 4096, "messages": messages})
}

/// The messages after an answer and its tool results.
pub fn go_on(request: &Value, message: &Value, result: impl Fn(&Value) -> (String, bool)) -> Value {
    let mut next = request.clone();
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": message["content"]}));
    let calls = message["content"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|block| block["type"] == "tool_use");
    let results: Vec<Value> = calls
        .map(|call| {
            let (text, is_error) = result(call);
            json!({"type": "tool_result", "tool_use_id": call["id"], "content": text, "is_error": is_error})
        })
        .collect();
    if !results.is_empty() {
        messages.push(json!({"role": "user", "content": results}));
    }
    next
}

/// Adds a user message.
pub fn say(request: &Value, text: &str) -> Value {
    let mut next = request.clone();
    next["messages"]
        .as_array_mut()
        .unwrap()
        .push(json!({"role": "user", "content": text}));
    next
}

/// The text of a message.
pub fn text_of(message: &Value) -> String {
    let blocks = message["content"].as_array().unwrap();
    blocks.iter().filter_map(|block| block["text"].as_str()).collect()
}
