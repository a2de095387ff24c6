//! An upstream: a small MCP server on loopback that remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub type Body = BoxBody<Bytes, Infallible>;
type Handler = dyn Fn(Seen) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// A request as the upstream saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that were accepted, and requests whose handler was dropped before it answered.
    pub connections: Arc<AtomicUsize>,
    pub abandoned: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn whole(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::new(body.into()).boxed())
        .unwrap()
}

pub fn json_answer(value: &Value) -> Response<Body> {
    whole(StatusCode::OK, "application/json", value.to_string())
}

/// A body that comes piece by piece, as the sender gives them.
pub fn pieces(content_type: &str) -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver
            .recv()
            .await
            .map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let body = StreamBody::new(Box::pin(stream)).boxed();
    (
        sender,
        Response::builder()
            .header("content-type", content_type)
            .body(body)
            .unwrap(),
    )
}

struct Abandoned(Arc<AtomicUsize>, bool);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Server {
    /// A server with tools `read` (read-only), `write`, `drop` and `echo` (no hints).
    pub async fn mcp() -> Server {
        Server::with(|seen| Box::pin(async move { mcp(&seen) })).await
    }

    pub async fn with(handler: impl Fn(Seen) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (connections, abandoned) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, count, left) = (seen.clone(), connections.clone(), abandoned.clone());
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                count.fetch_add(1, Ordering::SeqCst);
                let (log, handler, left) = (log.clone(), handler.clone(), left.clone());
                tasks.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (log, handler, left) = (log.clone(), handler.clone(), left.clone());
                        async move {
                            let mut abandoned = Abandoned(left, false);
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                            let request = Seen {
                                method: head.method,
                                uri: head.uri.to_string(),
                                headers: head.headers,
                                body,
                            };
                            log.lock().unwrap().push(request.clone());
                            let response = handler(request).await;
                            abandoned.1 = true;
                            Ok::<_, Infallible>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Server {
            address,
            seen,
            connections,
            abandoned,
            task,
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The tools that were called.
    pub fn called(&self) -> Vec<String> {
        let call = |seen: &Seen| {
            let message: Value = serde_json::from_slice(&seen.body).ok()?;
            (message["method"] == "tools/call")
                .then(|| message["params"]["name"].as_str().unwrap_or_default().to_owned())
        };
        self.seen().iter().filter_map(call).collect()
    }
}

pub fn tools() -> Value {
    json!([
        {"name": "read", "annotations": {"readOnlyHint": true}},
        {"name": "write", "annotations": {"readOnlyHint": false}},
        {"name": "drop"},
        {"name": "echo"},
    ])
}

pub fn mcp(seen: &Seen) -> Response<Body> {
    if seen.method != Method::POST {
        return whole(StatusCode::OK, "text/plain", format!("{} {}", seen.method, seen.uri));
    }
    let Ok(message) = serde_json::from_slice::<Value>(&seen.body) else {
        return whole(StatusCode::OK, "text/plain", seen.body.clone());
    };
    let result = match message["method"].as_str() {
        Some("tools/list") => json!({"tools": tools()}),
        Some("tools/call") => {
            json!({"content": [{"type": "text", "text": message["params"]["arguments"].to_string()}]})
        }
        Some(_) if message.get("id").is_none() => return whole(StatusCode::ACCEPTED, "text/plain", ""),
        _ => json!({}),
    };
    json_answer(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
}
