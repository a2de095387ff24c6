//! The server: accepts connections, routes requests, answers as the play wants.
//!
//! Invariants: bodies are bounded; nothing runs for a client that has gone away (an answer is a stream that is
//! dropped with its connection); a shutdown stops accepting at once and cuts what has not ended by its deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::answer::{self, Attempts, NeverSent};
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::models;
use crate::play::{perform, select};
use crate::record::{RecordedRequest, Ring, public_headers};
use crate::scenario::Scenario;
use crate::seal::random_id;
use crate::usage::{PromptCache, prompt_tokens};
use crate::validate::{self, Purpose};
use crate::{Error, Options};

/// Versions of the API that are understood.
const VERSIONS: [&str; 2] = ["2023-06-01", "2026-10-21"];
/// Connections that are still open this long after a shutdown are cut.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);
const HEADER_DEADLINE: Duration = Duration::from_secs(30);

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub scenario: Scenario,
    pub api_key: Option<String>,
    pub max_body_bytes: usize,
    pub ring: Ring,
    pub cache: PromptCache,
    pub attempts: Attempts,
}

/// Marks an answer that is never sent: the connection closes instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disconnect;

/// The address of the client of a request.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// A running server.
pub(crate) struct Running {
    pub addr: SocketAddr,
    pub shared: Arc<Shared>,
    pub cancel: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

/// Binds and serves.
pub(crate) async fn start(options: Options) -> Result<Running, Error> {
    let listen = options.listen;
    let failed = |source| Error::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let shared = Arc::new(Shared {
        scenario: options.scenario,
        api_key: options.api_key,
        max_body_bytes: options.max_body_bytes,
        ring: Ring::default(),
        cache: PromptCache::default(),
        attempts: Attempts::default(),
    });
    let cancel = CancellationToken::new();
    let task = tokio::spawn(accept(listener, router(shared.clone()), cancel.clone()));
    Ok(Running {
        addr,
        shared,
        cancel,
        task,
    })
}

async fn accept(listener: TcpListener, router: Router, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    // Deltas are small; they must not wait for each other.
                    socket.set_nodelay(true).ok();
                    connections.spawn(serve(socket, peer, router.clone(), cancel.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_DEADLINE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve(socket: tokio::net::TcpStream, peer: SocketAddr, router: Router, cancel: CancellationToken) {
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let router = router.clone();
        async move {
            let response: Result<Response, Infallible> = router.oneshot(request.map(Body::new)).await;
            match response {
                Ok(response) if response.extensions().get::<Disconnect>().is_some() => {
                    Err(std::io::Error::other("the play disconnects"))
                }
                Ok(response) if response.extensions().get::<NeverSent>().is_some() => std::future::pending().await,
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE);
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/rehearsal/requests", get(recorded))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { failure(&ApiError::new(StatusCode::NOT_FOUND, "Not found"), &random_id("req_")) })
        .method_not_allowed_fallback(|| async {
            failure(
                &ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
                &random_id("req_"),
            )
        })
        .with_state(shared)
}

/// An error answer.
pub(crate) fn failure(error: &ApiError, request_id: &str) -> Response {
    with_request_id(
        (error.status, axum::Json(error.body(request_id))).into_response(),
        request_id,
    )
}

/// Sets the `request-id` header.
pub(crate) fn with_request_id(mut response: Response, request_id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert("request-id", value);
    }
    response
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Checks the key of a request.
fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &str| header_text(headers, name);
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let unauthorized = |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, message));
    let Some(key) = text("x-api-key").or(bearer).filter(|key| !key.is_empty()) else {
        return unauthorized("x-api-key header is required");
    };
    if let Some(wanted) = &shared.api_key {
        use subtle::ConstantTimeEq as _;
        if !bool::from(wanted.as_bytes().ct_eq(key.as_bytes())) {
            return unauthorized("invalid x-api-key");
        }
    }
    Ok(())
}

/// Checks the headers that every request of the API needs.
pub(crate) fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    authenticate(shared, headers)?;
    match header_text(headers, "anthropic-version") {
        None => Err(ApiError::invalid("anthropic-version: header is required")),
        Some(version) if VERSIONS.contains(&version) => Ok(()),
        Some(version) => Err(ApiError::invalid(format!(
            "anthropic-version: \"{version}\" is not a valid version. Use one of {}.",
            VERSIONS.join(", ")
        ))),
    }
}

/// Reads a bounded JSON body.
async fn read_body(shared: &Shared, headers: &HeaderMap, body: Body) -> Result<(usize, Value), ApiError> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if json.is_none_or(|kind| kind.split(';').next().unwrap_or_default().trim() != "application/json") {
        return Err(ApiError::invalid("content-type: must be application/json"));
    }
    let limit = shared.max_body_bytes;
    let bytes = axum::body::to_bytes(body, limit).await.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if inner.is::<http_body_util::LengthLimitError>() {
                let message = format!("Request exceeds the maximum size of {limit} bytes");
                return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message);
            }
            cause = inner.source();
        }
        ApiError::invalid(format!("The request body could not be read: {error}"))
    })?;
    serde_json::from_slice(&bytes)
        .map(|body| (bytes.len(), body))
        .map_err(|error| ApiError::invalid(format!("The request body is not valid JSON: {error}")))
}

async fn messages(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let request_id = random_id("req_");
    let mut record = RecordedRequest {
        number: 0,
        received_at: jiff::Timestamp::now(),
        request_id: request_id.clone(),
        peer,
        path: "/v1/messages".into(),
        headers: public_headers(&headers),
        body: Value::Null,
        status: 200,
        play: None,
        scene: None,
        step: None,
        outcome: "refused".into(),
        refusal: None,
    };
    let mut size = 0;
    let result = async {
        admit(&shared, &headers)?;
        let (bytes, body) = read_body(&shared, &headers, body).await?;
        (size, record.body) = (bytes, body);
        answer_request(&shared, &request_id, &mut record)
    };
    let (response, after) = match result.await {
        Ok(response) => (response, None),
        Err(error) => {
            record.refusal = Some(error.message.clone());
            (failure(&error, &request_id), Some(error.status))
        }
    };
    record.status = after.unwrap_or(response.status()).as_u16();
    shared.ring.push(size, record);
    response
}

/// Judges a request and plays its step.
fn answer_request(shared: &Shared, request_id: &str, record: &mut RecordedRequest) -> Result<Response, ApiError> {
    let body = &record.body;
    let checked = validate::request(body, Purpose::Answer)?;
    let conversation = Conversation::read(body);
    let Some(selected) = select(&shared.scenario, &checked.model, conversation.first_user()) else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("model: {}", checked.model),
        ));
    };
    record.play = Some(selected.name().to_owned());
    if checked.ends_with_assistant && !selected.paused_before(&conversation, &checked.model) {
        return Err(ApiError::invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ));
    }
    let (size, window) = (prompt_tokens(body), selected.context_tokens());
    if size > window {
        return Err(ApiError::invalid(format!(
            "prompt is too long: {size} tokens > {window} maximum"
        )));
    }
    let performance = perform(selected, &conversation, &checked.model, checked.thinking);
    record.scene = Some(performance.scene + 1);
    record.step = Some(performance.step + 1);
    let place = answer::place(&conversation, selected.name(), &performance);
    if let Some(fault) = shared.attempts.next_fault(&place, &performance.faults) {
        record.outcome = "fault".into();
        let usage = || shared.cache.charge(body, Instant::now());
        return Ok(answer::faulty(fault, performance, &checked, request_id, usage));
    }
    record.outcome = if performance.astray { "astray" } else { "answer" }.into();
    let usage = shared.cache.charge(body, Instant::now());
    Ok(answer::regular(performance, &checked, request_id, usage))
}

async fn count_tokens(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let request_id = random_id("req_");
    let counted = async {
        admit(&shared, &headers)?;
        let (_, body) = read_body(&shared, &headers, body).await?;
        let checked = validate::request(&body, Purpose::CountTokens)?;
        let conversation = Conversation::read(&body);
        match select(&shared.scenario, &checked.model, conversation.first_user()) {
            Some(_) => Ok(prompt_tokens(&body)),
            None => Err(ApiError::new(
                StatusCode::NOT_FOUND,
                format!("model: {}", checked.model),
            )),
        }
    };
    match counted.await {
        Ok(tokens) => with_request_id(axum::Json(json!({"input_tokens": tokens})).into_response(), &request_id),
        Err(error) => failure(&error, &request_id),
    }
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn recorded(State(shared): State<Arc<Shared>>, headers: HeaderMap, Query(query): Query<After>) -> Response {
    if let Err(error) = authenticate(&shared, &headers) {
        return failure(&error, &random_id("req_"));
    }
    axum::Json(json!({"data": shared.ring.after(query.after)})).into_response()
}
