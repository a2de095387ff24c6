//! A small server with the worker's part of the contract, on loopback, that a test can script and look into.

#[path = "own.rs"]
pub mod own;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use outwork_wire::work::WorkSecret;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

pub const KEY: &str = "sk-environment-key-1";
pub const TOKEN: &str = "sessions-token-1";
pub const ENVIRONMENT: &str = "env_1";

/// One request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub query: HashMap<String, String>,
    pub bearer: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Seen {
    pub fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.ends_with(end)
    }
}

/// How heartbeats are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Beat {
    Extend,
    State(&'static str),
    NotExtended,
    Status(u16),
    /// Not at all, until this changes.
    Silence,
}

pub struct Script {
    pub queue: VecDeque<Value>,
    pub seen: Vec<Seen>,
    pub history: HashMap<String, Vec<Value>>,
    streams: Vec<(String, mpsc::UnboundedSender<String>)>,
    pub beat: Beat,
    pub ttl: f64,
    /// How many beats were accepted, by item.
    pub beats: HashMap<String, u32>,
    /// Statuses for the next polls, acknowledgements and sends, before they succeed again.
    pub poll_status: VecDeque<u16>,
    pub ack_status: VecDeque<u16>,
    pub send_status: VecDeque<u16>,
    /// Statuses for the next history lists.
    pub list_status: VecDeque<u16>,
    /// Histories are too large to be answered with more events a page than this.
    pub largest_page: usize,
    /// Sends are not answered while this is set.
    pub hold_sends: bool,
    pub session_status: String,
    /// What only this project's server has; without it, it is another one.
    pub own: Option<own::Own>,
}

#[derive(Clone)]
pub struct Plane {
    script: Arc<Mutex<Script>>,
    changed: watch::Sender<u64>,
    pub base_url: String,
    _server: Arc<AbortOnDropHandle<()>>,
}

impl Plane {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script {
            queue: VecDeque::new(),
            seen: Vec::new(),
            history: HashMap::new(),
            streams: Vec::new(),
            beat: Beat::Extend,
            ttl: 300.0,
            beats: HashMap::new(),
            poll_status: VecDeque::new(),
            ack_status: VecDeque::new(),
            send_status: VecDeque::new(),
            list_status: VecDeque::new(),
            largest_page: usize::MAX,
            hold_sends: false,
            session_status: "running".to_owned(),
            own: None,
        }));
        let changed = watch::Sender::new(0);
        let state = (Arc::clone(&script), changed.clone());
        let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (script, changed) = state.clone();
            async move { answer(script, changed, method, uri, headers, body).await }
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            script,
            changed,
            base_url,
            _server: Arc::new(AbortOnDropHandle::new(server)),
        }
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Changes the script and wakes whoever waits on it.
    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script());
        self.changed.send_modify(|n| *n += 1);
    }

    /// Waits until this holds; fails with everything that came if it does not.
    pub async fn until(&self, what: &str, holds: impl Fn(&Script) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !holds(&self.script()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), wait).await.is_err() {
            let seen: Vec<String> = self
                .script()
                .seen
                .iter()
                .map(|s| format!("{} {} {}", s.method, s.path, s.body))
                .collect();
            panic!("never happened: {what}\n{}", seen.join("\n"));
        }
    }

    /// Puts a session's item into the queue.
    pub fn offer(&self, work_id: &str, session_id: &str) {
        self.offer_item(item(work_id, json!({"type": "session", "id": session_id})));
    }

    pub fn offer_item(&self, item: Value) {
        self.set(|s| s.queue.push_back(item));
    }

    /// Adds an event to a session's log and sends it to its open streams.
    pub fn emit(&self, session_id: &str, event: Value) {
        self.set(|s| s.emit(session_id, event));
    }

    /// Cuts every open stream.
    pub fn cut(&self) {
        self.set(|s| s.streams.clear());
    }

    pub fn count(&self, method: &str, end: &str) -> usize {
        self.script().count(method, end)
    }

    /// The results that were accepted or refused: call, error flag, text.
    pub fn results(&self) -> Vec<(String, bool, String)> {
        self.script().results()
    }
}

pub fn item(work_id: &str, data: Value) -> Value {
    let secret = WorkSecret {
        sessions_token: TOKEN.to_owned(),
    };
    json!({
        "id": work_id, "type": "work", "environment_id": ENVIRONMENT, "data": data, "state": "queued",
        "created_at": "2026-01-01T00:00:00Z", "metadata": {}, "secret": secret.pack(),
    })
}

impl Script {
    /// How many beats were accepted.
    pub fn beats(&self) -> u32 {
        self.beats.values().sum()
    }

    pub fn count(&self, method: &str, end: &str) -> usize {
        self.seen.iter().filter(|s| s.is(method, end)).count()
    }

    pub fn results(&self) -> Vec<(String, bool, String)> {
        let sends = self.seen.iter().filter(|s| s.is("POST", "/events"));
        sends
            .flat_map(|s| s.body["events"].as_array().cloned().unwrap_or_default())
            .map(|e| {
                assert_eq!(e["type"], "user.tool_result");
                let text = e["content"][0]["text"].as_str().unwrap_or_default().to_owned();
                (
                    e["tool_use_id"].as_str().unwrap().to_owned(),
                    e["is_error"].as_bool().unwrap(),
                    text,
                )
            })
            .collect()
    }

    /// The calls whose results are in the log, in its order.
    pub fn answered(&self, session_id: &str) -> Vec<&str> {
        let log = self.history.get(session_id).into_iter().flatten();
        log.filter(|e| e["type"] == "user.tool_result")
            .map(|e| e["tool_use_id"].as_str().unwrap())
            .collect()
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.streams.iter().filter(|(_, s)| !s.is_closed()).count()
    }

    fn emit(&mut self, session_id: &str, event: Value) {
        let text = format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
        self.history.entry(session_id.to_owned()).or_default().push(event);
        for (id, stream) in &self.streams {
            if id == session_id {
                let _ = stream.send(text.clone());
            }
        }
    }
}

pub type Shared = Arc<Mutex<Script>>;

async fn answer(
    script: Shared,
    changed: watch::Sender<u64>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query: HashMap<String, String> = axum::extract::Query::try_from_uri(&uri)
        .map(|q| q.0)
        .unwrap_or_default();
    let bearer = headers
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let seen = Seen {
        at: Instant::now(),
        method: method.to_string(),
        path: uri.path().to_owned(),
        bearer: bearer.strip_prefix("Bearer ").unwrap_or_default().to_owned(),
        query,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        headers,
    };
    assert_eq!(seen.query.get("beta").map(String::as_str), Some("true"));
    assert_eq!(seen.headers["anthropic-version"], "2023-06-01");
    assert_eq!(seen.headers["anthropic-beta"], "managed-agents-2026-04-01");
    script.lock().unwrap().seen.push(seen.clone());
    changed.send_modify(|n| *n += 1);
    let path: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
    let response = match (seen.method.as_str(), &path[..]) {
        ("GET", [.., "work", "poll"]) => poll(&script, &changed, &seen).await,
        ("POST", [.., "ack"]) => {
            let status = script.lock().unwrap().ack_status.pop_front();
            status.map_or_else(|| ok(&json!({})), |s| fail(s, "not taken"))
        }
        ("POST", [.., "heartbeat"]) => beat(&script, &changed, &seen).await,
        ("POST", [.., "stop"]) => ok(&json!({"state": "stopped"})),
        ("GET", ["v1", "sessions", _]) => ok(&json!({"status": script.lock().unwrap().session_status})),
        ("GET", ["v1", "sessions", id, "events", "stream"]) => open_stream(&script, id),
        ("GET", ["v1", "sessions", id, "events"]) => list(&script, id, &seen),
        ("POST", ["v1", "sessions", id, "events"]) => send(&script, &changed, id, &seen.body).await,
        _ => own::answer(&script, &changed, &seen, &body).await,
    };
    changed.send_modify(|n| *n += 1);
    response
}

async fn poll(script: &Shared, changed: &watch::Sender<u64>, seen: &Seen) -> Response {
    if let Some(status) = script.lock().unwrap().poll_status.pop_front() {
        return fail(status, "no work for you");
    }
    let mut changed = changed.subscribe();
    let next = async {
        loop {
            if let Some(item) = script.lock().unwrap().queue.pop_front() {
                return item;
            }
            changed.changed().await.unwrap();
        }
    };
    let block = seen.query.get("block_ms").map_or(0, |b| b.parse().unwrap());
    match tokio::time::timeout(Duration::from_millis(block), next).await {
        Ok(item) => ok(&item),
        Err(_) => ok(&Value::Null),
    }
}

async fn beat(script: &Shared, changed: &watch::Sender<u64>, seen: &Seen) -> Response {
    let mut changed = changed.subscribe();
    let (beat, ttl, expected, number) = loop {
        {
            let mut s = script.lock().unwrap();
            let (beat, ttl) = (s.beat, s.ttl);
            if beat != Beat::Silence {
                let beats = s.beats.entry(seen.path.clone()).or_default();
                let expected = if *beats == 0 {
                    "NO_HEARTBEAT".to_owned()
                } else {
                    format!("beat {beats}")
                };
                *beats += u32::from(beat == Beat::Extend);
                break (beat, ttl, expected, *beats);
            }
        }
        changed.changed().await.unwrap();
    };
    let answer = |state: &str, extended: bool| {
        ok(
            &json!({"type": "work_heartbeat", "last_heartbeat": format!("beat {number}"),
                   "lease_extended": extended, "state": state, "ttl_seconds": ttl}),
        )
    };
    match beat {
        Beat::Extend if seen.query["expected_last_heartbeat"] != expected => fail(412, "heartbeat does not fit"),
        Beat::Extend | Beat::Silence => answer("active", true),
        Beat::State(state) => answer(state, true),
        Beat::NotExtended => answer("active", false),
        Beat::Status(status) => fail(status, "no heartbeat"),
    }
}

fn open_stream(script: &Shared, session_id: &str) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    script.lock().unwrap().streams.push((session_id.to_owned(), sender));
    let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|text| (Ok::<_, Infallible>(text), receiver))
    }));
    ([("content-type", "text/event-stream")], body).into_response()
}

fn list(script: &Shared, session_id: &str, seen: &Seen) -> Response {
    let mut script = script.lock().unwrap();
    if let Some(status) = script.list_status.pop_front() {
        return fail(status, "no list");
    }
    let limit: usize = seen.query["limit"].parse().unwrap();
    if limit > script.largest_page {
        // More than the client reads, and said so beforehand; the rest never comes.
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let length = (1_u64 << 40).to_string();
        return ([("content-length", length)], body).into_response();
    }
    // At most two events a page, so that pages are followed.
    let events = script.history.get(session_id).cloned().unwrap_or_default();
    let from: usize = seen.query.get("page").map_or(0, |p| p.parse().unwrap());
    let to = (from + limit.min(2)).min(events.len());
    let next = (to < events.len()).then(|| to.to_string());
    ok(&json!({"data": events[from..to], "next_page": next}))
}

async fn send(script: &Shared, changed: &watch::Sender<u64>, session_id: &str, body: &Value) -> Response {
    let mut changed = changed.subscribe();
    while script.lock().unwrap().hold_sends {
        changed.changed().await.unwrap();
    }
    let mut script = script.lock().unwrap();
    if let Some(status) = script.send_status.pop_front() {
        return fail(status, "not accepted");
    }
    for event in body["events"].as_array().unwrap() {
        let call = &event["tool_use_id"];
        let log = script.history.entry(session_id.to_owned()).or_default();
        if log
            .iter()
            .any(|e| e["type"] == "user.tool_result" && e["tool_use_id"] == *call)
        {
            return fail(400, "the call has a result");
        }
        let mut event = event.clone();
        event["id"] = json!(format!("sevt_result_{}", log.len()));
        script.emit(session_id, event);
    }
    ok(&json!({"data": []}))
}

pub fn ok(body: &Value) -> Response {
    (StatusCode::OK, [("content-type", "application/json")], body.to_string()).into_response()
}

pub fn fail(status: u16, message: &str) -> Response {
    let body = json!({"type": "error", "error": {"type": "some_error", "message": message}, "request_id": "req_1"});
    (
        StatusCode::from_u16(status).unwrap(),
        [("content-type", "application/json")],
        body.to_string(),
    )
        .into_response()
}
