//! A client of the API that shows every answer as it is: status, headers, body. It retries nothing.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{SOON, Stream, until};

/// The beta header of the surface.
pub const BETA: &str = "managed-agents-2026-04-01";
/// Those of its other parts, by the beginning of their paths.
const BETAS: [(&str, &str); 2] = [
    ("/v1/tunnels", "mcp-tunnels-2026-06-22"),
    ("/v1/oauth/", "oauth-2025-04-20,oidc-federation-2026-04-01"),
];

/// A client with one credential.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base_url: String,
    credential: Option<Sent>,
}

/// How a credential is sent.
#[derive(Clone)]
enum Sent {
    ApiKey(String),
    Bearer(String),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.body
    }

    /// `error.message`.
    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    /// `error.type`.
    pub fn kind(&self) -> &str {
        self.body["error"]["type"].as_str().unwrap_or_default()
    }

    /// Checks the shape that every error has, and its status.
    #[track_caller]
    pub fn refused(self, status: u16, named: &[&str]) -> Self {
        let seen = format!("{} {}", self.status, self.text);
        assert_eq!(self.status, status, "{seen}");
        self.check_error();
        for name in named {
            assert!(
                self.message().contains(name),
                "the message does not name `{name}`: {seen}"
            );
        }
        self
    }

    /// Checks the shape that every error has.
    #[track_caller]
    pub fn check_error(&self) {
        let seen = format!("{} {} {:?}", self.status, self.text, self.headers);
        let fields: Vec<&String> = self.body.as_object().expect(&seen).keys().collect();
        assert_eq!(fields, ["type", "error", "request_id"], "{seen}");
        assert_eq!(self.body["type"], "error", "{seen}");
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 => "timeout_error",
            413 => "request_too_large",
            500..600 => "api_error",
            _ => "invalid_request_error",
        };
        assert_eq!(self.kind(), kind, "{seen}");
        assert!(self.message().len() > 8, "{seen}");
        let header = |name: &str| self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert!(header("request-id").starts_with("req_"), "{seen}");
        assert_eq!(self.body["request_id"], header("request-id"), "{seen}");
        assert_eq!(header("content-type"), "application/json", "{seen}");
        let again = if self.status == 408 || self.status >= 500 {
            "true"
        } else {
            "false"
        };
        assert_eq!(header("x-should-retry"), again, "{seen}");
    }
}

impl Api {
    /// A client with an API key.
    pub fn new(base_url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(4)
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .unwrap();
        Self::over(http, base_url, key)
    }

    /// A client with an API key over a client of one's own.
    pub fn over(http: reqwest::Client, base_url: &str, key: &str) -> Self {
        Self {
            http,
            base_url: base_url.to_owned(),
            credential: Some(Sent::ApiKey(key.to_owned())),
        }
    }

    /// The same with another API key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            credential: Some(Sent::ApiKey(key.to_owned())),
            ..self.clone()
        }
    }

    /// The same with a bearer token.
    pub fn with_bearer(&self, token: &str) -> Self {
        Self {
            credential: Some(Sent::Bearer(token.to_owned())),
            ..self.clone()
        }
    }

    /// The same without a credential.
    pub fn without_credential(&self) -> Self {
        Self {
            credential: None,
            ..self.clone()
        }
    }

    /// Where it calls.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// A request without the headers of the versions.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base_url));
        match &self.credential {
            None => request,
            Some(Sent::ApiKey(key)) => request.header("x-api-key", key),
            Some(Sent::Bearer(token)) => request.bearer_auth(token),
        }
    }

    /// A request with the headers of the versions.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let beta = BETAS.iter().find(|(prefix, _)| path.starts_with(prefix));
        self.bare(method, path)
            .header("anthropic-version", "2023-06-01")
            .header("anthropic-beta", beta.map_or(BETA, |(_, beta)| beta))
    }

    /// Sends a request; fails only if there is no whole answer.
    pub async fn try_send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.timeout(SOON).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer {
            status,
            headers,
            text,
            body,
        })
    }

    /// Sends a request.
    pub async fn send(request: RequestBuilder) -> Answer {
        Self::try_send(request).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request(Method::DELETE, path)).await
    }

    /// The `id` of what a POST makes.
    pub async fn make(&self, path: &str, body: Value) -> String {
        id(&self.post(path, body).await.ok())
    }

    /// An agent with these tools.
    pub async fn agent(&self, model: &str, tools: Value) -> String {
        self.make(
            "/v1/agents",
            json!({ "name": "tester", "model": model, "tools": tools }),
        )
        .await
    }

    /// An environment of this type.
    pub async fn environment(&self, kind: &str) -> String {
        self.make(
            "/v1/environments",
            json!({ "name": format!("a {kind} one"), "config": { "type": kind } }),
        )
        .await
    }

    /// A key for an environment.
    pub async fn environment_key(&self, environment: &str) -> String {
        let made = self
            .post(
                &format!("/v1/environments/{environment}/keys"),
                json!({ "name": "worker" }),
            )
            .await
            .ok();
        made["key"].as_str().unwrap().to_owned()
    }

    /// A session.
    pub async fn session(&self, agent: &str, environment: &str) -> String {
        self.make("/v1/sessions", json!({ "agent": agent, "environment_id": environment }))
            .await
    }

    /// Sends events to a session, which must be accepted.
    pub async fn send_events(&self, session: &str, events: &[Value]) -> Vec<Value> {
        let answer = self
            .post(&format!("/v1/sessions/{session}/events"), json!({ "events": events }))
            .await;
        answer.ok()["data"].as_array().unwrap().clone()
    }

    /// All events of a session, over all pages.
    pub async fn events(&self, session: &str) -> Vec<Value> {
        self.try_events(session).await.unwrap()
    }

    /// All events of a session, over all pages, if the server answers.
    pub async fn try_events(&self, session: &str) -> Result<Vec<Value>, String> {
        let mut events = Vec::new();
        let mut page = String::new();
        loop {
            let path = format!("/v1/sessions/{session}/events?limit=1000{page}");
            let answer = Self::try_send(self.request(Method::GET, &path))
                .await
                .map_err(|e| e.to_string())?;
            if answer.status != 200 {
                return Err(format!("{} {}", answer.status, answer.text));
            }
            events.extend(answer.body["data"].as_array().unwrap().iter().cloned());
            match answer.body["next_page"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => return Ok(events),
            }
        }
    }

    /// Waits until the last event of a session that is not usage is of this type.
    pub async fn wait_for(&self, session: &str, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut last = Vec::new();
        let end = tokio::time::Instant::now() + SOON;
        loop {
            let events = self.events(session).await;
            if fits(&events) {
                return events;
            }
            if tokio::time::Instant::now() > end {
                let shown: Vec<String> = events.iter().map(Value::to_string).collect();
                panic!(
                    "session {session}: no {what} within {SOON:?}; its log:\n{}",
                    shown.join("\n")
                );
            }
            if events == last {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            last = events;
        }
    }

    /// Waits until the session rests after `idles` idle events for another reason than requires_action.
    pub async fn wait_idle(&self, session: &str) -> Vec<Value> {
        self.wait_for(session, "end of its turn", |events| {
            queued(events) == 0 && last_status(events).is_some_and(is_rest)
        })
        .await
    }

    /// Opens the event stream of a session.
    pub async fn stream(&self, session: &str, query: &str) -> Stream {
        self.stream_of(&format!("/v1/sessions/{session}/events/stream{query}"))
            .await
    }

    /// Opens an event stream.
    pub async fn stream_of(&self, path: &str) -> Stream {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        Stream::new(response)
    }

    /// Waits until the server answers that it is ready.
    pub async fn wait_ready(&self) {
        until("/readyz answers 200", SOON, || async {
            let answer = Self::try_send(self.bare(Method::GET, "/readyz")).await;
            answer.is_ok_and(|a| a.status == 200).then_some(())
        })
        .await;
    }
}

/// The `id` field.
#[track_caller]
pub fn id(value: &Value) -> String {
    value["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id in {value}"))
        .to_owned()
}

/// The last event that says the session's status.
pub fn last_status(events: &[Value]) -> Option<&Value> {
    events
        .iter()
        .rev()
        .find(|e| e["type"].as_str().unwrap_or_default().starts_with("session.status_"))
}

/// How many events wait.
pub fn queued(events: &[Value]) -> usize {
    events.iter().filter(|e| e["processed_at"].is_null()).count()
}

/// Whether this is an idle event that ends a turn.
pub fn is_rest(event: &Value) -> bool {
    event["type"] == "session.status_idle" && event["stop_reason"]["type"] != "requires_action"
}

/// The events of a type.
pub fn of_type<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["type"] == kind).collect()
}

/// The text of an event's content.
pub fn text(event: &Value) -> String {
    let blocks = event["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    blocks
        .iter()
        .filter_map(|b| b["text"].as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The text of the last message of the agent.
pub fn last_message(events: &[Value]) -> String {
    of_type(events, "agent.message")
        .last()
        .map(|e| text(e))
        .unwrap_or_default()
}
