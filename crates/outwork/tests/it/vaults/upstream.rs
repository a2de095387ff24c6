//! An MCP server with a bearer token, and the authorization server that gives these out, in this process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::{any, post};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// What the two know, and what they were asked.
#[derive(Default)]
pub struct Knowledge {
    /// The token that the MCP server takes.
    pub access_token: String,
    /// The refresh token that the authorization server takes; each serves once.
    pub refresh_token: String,
    /// How many tokens were given out.
    pub granted: usize,
    /// What the client must show: `Authorization`, and a part of the form.
    pub client: (Option<String>, String),
    /// What the MCP server says instead, whoever asks: status and body.
    pub mcp_says: Option<(u16, String)>,
    /// What the authorization server says instead.
    pub token_says: Option<(u16, String)>,
    /// Whether the MCP server answers as a text stream that stays open.
    pub streams: bool,
    /// The methods that the MCP server was asked for, with a token that it took.
    pub methods: Vec<String>,
    /// The forms that the authorization server got.
    pub forms: Vec<String>,
}

/// Both servers.
#[derive(Clone)]
pub struct Upstream {
    pub knowledge: Arc<Mutex<Knowledge>>,
    address: SocketAddr,
}

impl Upstream {
    /// Starts both; they end with the test.
    pub async fn start() -> Self {
        let knowledge = Arc::new(Mutex::new(Knowledge::default()));
        let router = Router::new()
            .route("/mcp", any(mcp))
            .route("/token", post(token))
            .with_state(knowledge.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { knowledge, address }
    }

    pub fn mcp_url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub fn token_url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    pub fn set(&self, change: impl FnOnce(&mut Knowledge)) {
        change(&mut self.knowledge.lock().unwrap());
    }

    /// An OAuth credential for this server, as it is sent to the API.
    pub fn oauth(&self, access_token: &str, refresh_token: &str, client: Value) -> Value {
        json!({ "auth": {
            "type": "mcp_oauth", "access_token": access_token, "mcp_server_url": self.mcp_url(),
            "refresh": {
                "client_id": "client-of-the-test", "refresh_token": refresh_token,
                "token_endpoint": self.token_url(), "token_endpoint_auth": client,
            },
        } })
    }
}

type Shared = State<Arc<Mutex<Knowledge>>>;

fn answer(status: u16, kind: &str, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(body.into())
        .unwrap()
}

/// What the server answers to a request of the protocol, revision 2025-11-25.
fn result_of(method: &str) -> Value {
    match method {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
            "serverInfo": { "name": "upstream", "version": "1" },
        }),
        "tools/list" => json!({ "tools": [{
            "name": "lookup", "description": "Looks it up.", "inputSchema": { "type": "object" },
        }] }),
        "tools/call" => json!({ "content": [{ "type": "text", "text": "it is 42" }] }),
        _ => json!({}),
    }
}

async fn mcp(State(shared): Shared, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    if method == Method::GET {
        return answer(405, "text/plain", "");
    }
    let mut known = shared.lock().unwrap();
    if let Some((status, body)) = known.mcp_says.clone() {
        return answer(status, "text/plain", body);
    }
    let given = headers.get("authorization").map(|v| v.to_str().unwrap());
    if given != Some(&format!("Bearer {}", known.access_token)) {
        // A careless server repeats what it was sent.
        let body = json!({ "error": "unauthorized", "you_sent": given });
        return answer(401, "application/json", body.to_string());
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        known.methods.push("DELETE".into());
        return answer(200, "text/plain", "");
    };
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    known.methods.push(method.clone());
    if method != "initialize" && headers.get("mcp-session-id").is_none_or(|id| id != "session-1") {
        return answer(400, "text/plain", "no session");
    }
    if message.get("id").is_none() {
        return answer(202, "text/plain", "");
    }
    let result = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result_of(&method) }).to_string();
    let mut response = if known.streams {
        // It stays open after its event, as such streams may.
        let event = Ok::<_, std::convert::Infallible>(Bytes::from(format!("event: message\ndata: {result}\n\n")));
        let first = futures_util::stream::once(std::future::ready(event));
        let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        answer(200, "text/event-stream", Body::from_stream(stream))
    } else {
        answer(200, "application/json", result)
    };
    response
        .headers_mut()
        .insert("mcp-session-id", "session-1".parse().unwrap());
    response
}

async fn token(State(shared): Shared, headers: HeaderMap, form: String) -> Response {
    let mut known = shared.lock().unwrap();
    known.forms.push(form.clone());
    if let Some((status, body)) = known.token_says.clone() {
        return answer(status, "application/json", body);
    }
    let refused = |code: &str| answer(400, "application/json", json!({ "error": code }).to_string());
    let authorization = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned());
    if authorization != known.client.0 || !form.contains(&known.client.1) {
        return refused("invalid_client");
    }
    let expected = format!("grant_type=refresh_token&refresh_token={}", known.refresh_token);
    if form != expected && !form.starts_with(&format!("{expected}&")) {
        return refused("invalid_grant");
    }
    known.granted += 1;
    known.access_token = format!("granted-access-{}-s3cr3t", known.granted);
    known.refresh_token = format!("granted-refresh-{}-s3cr3t", known.granted);
    let body = json!({
        "access_token": known.access_token, "refresh_token": known.refresh_token, "token_type": "Bearer",
        "expires_in": 3600,
    });
    answer(200, "application/json", body.to_string())
}
