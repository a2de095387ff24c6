//! A server to be connected to: it speaks one revision of the protocol by itself, and a test says what is different.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use outwork_mcp::{
    AddressPolicy, CallContext, CallError, CallResult, ConnectError, Connection, Connector, Direct, Limits, ServerSpec,
};
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, broadcast},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Long enough that only something that never happens takes it.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    Modern,
    Legacy,
}

pub const BOTH: [Revision; 2] = [Revision::Modern, Revision::Legacy];

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub http: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub message: Value,
}

impl Seen {
    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    pub fn is_call(&self) -> bool {
        self.method() == "tools/call"
    }

    /// An answer to this request.
    pub fn result(&self, result: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.message["id"], "result": result})
    }

    pub fn error(&self, code: i64, message: &str) -> Value {
        json!({"jsonrpc": "2.0", "id": self.message["id"], "error": {"code": code, "message": message}})
    }
}

type Special = Arc<dyn Fn(Seen) -> BoxFuture<'static, Option<Response<Body>>> + Send + Sync>;

pub struct Server {
    pub address: SocketAddr,
    pub revision: Revision,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    revision: Revision,
    special: Special,
    seen: Mutex<Vec<Seen>>,
    news: Notify,
    sessions: Mutex<HashSet<String>>,
    count: AtomicUsize,
    stream: broadcast::Sender<Value>,
}

impl Server {
    /// A server that answers by itself what `special` leaves.
    pub async fn start<F, R>(revision: Revision, special: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            revision,
            special: Arc::new(move |seen| Box::pin(special(seen))),
            seen: Mutex::default(),
            news: Notify::new(),
            sessions: Mutex::default(),
            count: AtomicUsize::new(0),
            stream: broadcast::channel(16).0,
        });
        let shared = state.clone();
        let app = Router::new().fallback(move |request: Request<Body>| answer(shared.clone(), request));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            revision,
            state,
            task,
        }
    }

    /// A server with nothing special.
    pub async fn plain(revision: Revision) -> Self {
        Self::start(revision, |_| async { None }).await
    }

    pub fn url(&self) -> url::Url {
        format!("http://{}/mcp", self.address).parse().unwrap()
    }

    pub fn spec(&self) -> ServerSpec {
        spec(self.url())
    }

    pub async fn connect(&self) -> Connection {
        connect(self.spec()).await.unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method() == method).count()
    }

    /// Waits until a request is there that `wanted` says yes to.
    pub async fn saw(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let look = async {
            loop {
                let news = self.state.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(seen) = self.seen().into_iter().find(|seen| wanted(seen)) {
                    return seen;
                }
                news.await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the request comes")
    }

    /// Forgets all sessions, as a server does that was started again.
    pub fn forget(&self) {
        self.state.sessions.lock().unwrap().clear();
    }

    /// Sends a message on the streams that no request waits for.
    pub fn tell(&self, message: Value) {
        self.state.stream.send(message).unwrap();
    }

    pub fn listeners(&self) -> usize {
        self.state.stream.receiver_count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(state: Arc<State>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let seen = Seen {
        http: parts.method,
        path: parts.uri.path().into(),
        headers: parts.headers,
        message: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    state.seen.lock().unwrap().push(seen.clone());
    state.news.notify_waiters();
    if let Some(special) = (state.special)(seen.clone()).await {
        return special;
    }
    match state.revision {
        Revision::Modern => modern(&state, &seen),
        Revision::Legacy => legacy(&state, &seen),
    }
}

fn modern(state: &State, seen: &Seen) -> Response<Body> {
    if seen.http != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    // What the revision asks of every request.
    if seen.header("mcp-protocol-version") != "2026-07-28"
        || seen.header("mcp-method") != seen.method()
        || seen.message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] != "2026-07-28"
    {
        return status_json(StatusCode::BAD_REQUEST, &seen.error(-32020, "headers do not match"));
    }
    match seen.method() {
        "server/discover" => reply(seen.result(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
            "capabilities": {"tools": {"listChanged": true}},
        }))),
        "subscriptions/listen" => {
            let id = seen.message["id"].clone();
            let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
            let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params":
                {"_meta": meta, "notifications": {"toolsListChanged": true}}});
            let news = listen(state).map(move |mut message| {
                message["params"]["_meta"] = meta.clone();
                message
            });
            sse(stream::once(async { ack }).chain(news))
        }
        _ => common(seen),
    }
}

fn legacy(state: &State, seen: &Seen) -> Response<Body> {
    let session = seen.header("mcp-session-id");
    if seen.method() == "initialize" {
        let session = format!("s-{}", state.count.fetch_add(1, Ordering::SeqCst));
        state.sessions.lock().unwrap().insert(session.clone());
        let mut response = reply(seen.result(json!({
            "protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": true}},
            "serverInfo": {"name": "old", "version": "1"},
        })));
        response
            .headers_mut()
            .insert("mcp-session-id", session.parse().unwrap());
        return response;
    }
    if session.is_empty() {
        return status_json(
            StatusCode::BAD_REQUEST,
            &json!({"jsonrpc": "2.0", "id": null,
            "error": {"code": -32000, "message": "no session"}}),
        );
    }
    if !state.sessions.lock().unwrap().contains(session) {
        return StatusCode::NOT_FOUND.into_response();
    }
    assert_eq!(seen.header("mcp-protocol-version"), "2025-11-25");
    match (&seen.http, seen.method()) {
        (&Method::GET, _) => sse(listen(state)),
        (&Method::DELETE, _) => {
            state.sessions.lock().unwrap().remove(session);
            StatusCode::OK.into_response()
        }
        _ => common(seen),
    }
}

fn common(seen: &Seen) -> Response<Body> {
    match seen.method() {
        "tools/list" => reply(seen.result(tools(&[echo()]))),
        "tools/call" => {
            let arguments = &seen.message["params"]["arguments"];
            reply(seen.result(text(&format!("echo {arguments}"))))
        }
        _ if seen.message["id"].is_null() => StatusCode::ACCEPTED.into_response(),
        _ if seen.message["result"].is_object() || seen.message["error"].is_object() => {
            StatusCode::ACCEPTED.into_response()
        }
        _ => reply(seen.error(-32601, "no such method")),
    }
}

fn listen(state: &State) -> impl Stream<Item = Value> + Send + 'static {
    let receiver = state.stream.subscribe();
    stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.ok().map(|message| (message, receiver))
    })
}

pub fn echo() -> Value {
    json!({"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"},
        "annotations": {"readOnlyHint": true}})
}

/// The result of a list, in the words of both revisions.
pub fn tools(tools: &[Value]) -> Value {
    json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"})
}

/// The result of a call, in the words of both revisions.
pub fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "resultType": "complete"})
}

pub fn reply(message: Value) -> Response<Body> {
    status_json(StatusCode::OK, &message)
}

pub fn status_json(status: StatusCode, message: &Value) -> Response<Body> {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        message.to_string(),
    )
        .into_response()
}

pub fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

pub fn sse(messages: impl Stream<Item = Value> + Send + 'static) -> Response<Body> {
    sse_bytes(messages.map(|message| Ok(event(&message))))
}

/// A stream of events as bytes; an error cuts the connection.
pub fn sse_bytes(bytes: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static) -> Response<Body> {
    // A first comment, so that the head leaves.
    let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b": hello\n\n")) });
    let body = Body::from_stream(first.chain(bytes));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Never ends.
pub fn silence<T: Send + 'static>() -> impl Stream<Item = T> + Send {
    stream::pending::<T>()
}

/// Says when it is dropped, as the stream of an answer is when the client closes it.
pub struct Dropped(pub Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

pub fn spec(url: url::Url) -> ServerSpec {
    ServerSpec {
        name: "files".into(),
        url,
        dial: Arc::new(Direct::new(Arc::new(outwork_mcp::dial::SystemResolver), []).unwrap()),
        policy: AddressPolicy {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            plain_http: true,
        },
        headers: None,
        credentials: None,
        limits: Limits::default(),
        watch_tools: false,
    }
}

pub async fn connect(spec: ServerSpec) -> Result<Connection, ConnectError> {
    Connector::new("outwork-test", "1")
        .connect(spec, deadline(), &CancellationToken::new())
        .await
}

pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

pub async fn call(connection: &Connection, name: &str) -> Result<CallResult, CallError> {
    let arguments = Map::from_iter([("secret_argument".to_owned(), json!(1))]);
    connection
        .call(
            name,
            arguments,
            CallContext::default(),
            deadline(),
            &CancellationToken::new(),
        )
        .await
}

pub async fn tools_of(connection: &Connection) -> Result<Vec<outwork_mcp::Tool>, CallError> {
    connection.tools(deadline(), &CancellationToken::new()).await
}

/// Waits for a condition that nobody announces.
pub async fn until(condition: impl Fn() -> bool) {
    let look = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("the condition comes true");
}
