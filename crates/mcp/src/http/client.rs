//! The SDK's view of the HTTP client: posting a message, opening a stream, ending a session.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use hyper::body::Incoming;
use rmcp::{
    model::{
        ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorData, GetExtensions, RequestId,
        ServerJsonRpcMessage,
    },
    transport::streamable_http_client::{
        SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use sse_stream::Sse;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    HttpError, HttpErrorKind, Trace,
    body::collect,
    exchange::{Outbound, Server},
    sse::{self, Purpose},
};
use crate::{RequestInfo, ServerSpec};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";
/// Bytes of an answer that only tells of an error.
const ERROR_BYTES: u64 = 64 << 10;
/// How long a server may think about the first question. Old servers that do not know it and do not say so are then
/// asked in the old way; the SDK would wait ten seconds, and its next message as long as the first hangs.
const DISCOVER: Duration = Duration::from_secs(8);
/// The least time between two streams that no call waits for, and between two that take one up again. A server says
/// how long to wait; it may say zero.
const REOPEN_IDLE: Duration = Duration::from_secs(1);
const REOPEN_CALL: Duration = Duration::from_millis(100);

type Failure = StreamableHttpError<HttpError>;

/// The HTTP client of one connection.
#[derive(Clone)]
pub(crate) struct HttpClient(Arc<State>);

struct State {
    server: Server,
    /// When the next idle stream, and the next resumed one, may be opened.
    reopen: [Mutex<Option<Instant>>; 2],
}

impl HttpClient {
    pub(crate) fn new(spec: &ServerSpec) -> Result<Self, HttpError> {
        Ok(Self(Arc::new(State {
            server: Server::new(spec)?,
            reopen: Default::default(),
        })))
    }

    /// What failed last. The SDK does not hand on every error of the handshake.
    pub(crate) fn last_failure(&self) -> Option<HttpError> {
        self.0.server.last_failure()
    }

    /// Ends all exchanges at once.
    pub(crate) fn close(&self) {
        self.0.server.closed.cancel();
    }

    /// The tasks that drive connections.
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.0.server.tracker.clone()
    }

    fn server(&self) -> &Server {
        &self.0.server
    }

    async fn post(
        &self,
        message: &ClientJsonRpcMessage,
        session: Option<&str>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let posted = Posted::of(message);
        let body = serde_json::to_vec(message)
            .map_err(|_| HttpError::protocol("the request cannot be written as JSON"))
            .map_err(Failure::Client)?;
        let mut all = HeaderMap::from_iter(headers);
        all.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        all.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        insert(&mut all, SESSION_ID, session)?;
        let outbound = Outbound {
            method: Method::POST,
            info: posted.info,
            headers: all,
            body: Bytes::from(body),
            trace: posted.trace,
        };
        let response = self.server().send(outbound).await.map_err(Failure::Client)?;
        let answer = self.answer(response, &posted, session.is_some()).await?;
        Ok(answer)
    }

    /// What a server answered to a posted message.
    async fn answer(
        &self,
        response: Response<Incoming>,
        posted: &Posted<'_>,
        in_session: bool,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let status = response.status();
        if status == StatusCode::NOT_FOUND && in_session {
            return Err(Failure::SessionExpired);
        }
        let kind = Content::of(response.headers());
        if !status.is_success() {
            return self.refused(response, kind, posted).await;
        }
        let session = response
            .headers()
            .get(SESSION_ID)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let limits = &self.server().limits;
        let Some(request) = posted.request else {
            // Nothing but a status is expected, and servers send all sorts of things with it.
            return Ok(StreamableHttpPostResponse::Accepted);
        };
        match kind {
            _ if matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) => {
                Err(Failure::Client(HttpError::protocol(format!(
                    "the server took the request with HTTP {} and answered nothing",
                    status.as_u16()
                ))))
            }
            Content::Json => {
                let body = collect(response.into_body(), limits.response_bytes)
                    .await
                    .map_err(Failure::Client)?;
                let message = sse::parse(&body).and_then(|message| sse::answer_to(message, request));
                Ok(StreamableHttpPostResponse::Json(
                    message.map_err(Failure::Client)?,
                    session,
                ))
            }
            Content::EventStream => {
                let purpose = Purpose {
                    request: Some(request.clone()),
                    trace: posted.trace.cloned(),
                    total: (!posted.subscribes).then_some(limits.response_bytes),
                    event: limits.event_bytes,
                };
                Ok(StreamableHttpPostResponse::Sse(self.events(response, purpose), session))
            }
            Content::Other => Err(Failure::Client(HttpError::protocol(
                "the answer is neither JSON nor a stream of events; the URL may not be that of an MCP server",
            ))),
        }
    }

    /// What an answer with an error status means.
    async fn refused(
        &self,
        response: Response<Incoming>,
        kind: Content,
        posted: &Posted<'_>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let status = response.status();
        if status == StatusCode::FORBIDDEN {
            let what = "the server forbids the request with this credential (HTTP 403)";
            return Err(Failure::Client(HttpError::new(HttpErrorKind::Authentication, what)));
        }
        // A server may tell an error of the protocol with a status of its own.
        let told = match (kind, posted.request) {
            (Content::Json, Some(request)) => match collect(response.into_body(), ERROR_BYTES).await {
                Ok(body) => told(&body, request),
                Err(_) => None,
            },
            _ => None,
        };
        match (told, posted.request) {
            (Some(message), _) => Ok(StreamableHttpPostResponse::Json(message, None)),
            // Servers of before 2026-07-28 refuse the first question in any way they like, and are then asked in theirs.
            (None, Some(request)) if posted.discovers && status.is_client_error() => {
                Ok(StreamableHttpPostResponse::Json(not_discoverable(request), None))
            }
            (None, _) => Err(Failure::Client(of_status(status))),
        }
    }

    async fn open(
        &self,
        session: Option<&str>,
        last_event: Option<&str>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        self.pace(last_event.is_some()).await;
        let mut all = HeaderMap::from_iter(headers);
        all.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        insert(&mut all, SESSION_ID, session)?;
        insert(&mut all, LAST_EVENT_ID, last_event)?;
        let response = self
            .server()
            .send(plain(Method::GET, all))
            .await
            .map_err(Failure::Client)?;
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => Err(Failure::ServerDoesNotSupportSse),
            status if !status.is_success() => Err(Failure::Client(of_status(status))),
            _ if Content::of(response.headers()) != Content::EventStream => Err(Failure::Client(HttpError::protocol(
                "the answer is no stream of events",
            ))),
            _ => Ok(response),
        }
    }

    /// Waits until a stream of this sort may be opened again.
    async fn pace(&self, resumes: bool) {
        let (slot, gap) = if resumes {
            (&self.0.reopen[0], REOPEN_CALL)
        } else {
            (&self.0.reopen[1], REOPEN_IDLE)
        };
        let at = {
            let mut next = slot.lock().await;
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + gap);
            at
        };
        tokio::select! {
            _ = self.server().closed.cancelled() => {}
            _ = sleep_until(at) => {}
        }
    }

    fn events(&self, response: Response<Incoming>, purpose: Purpose) -> BoxStream<'static, Result<Sse, SseError>> {
        // Weak: a stream must not keep alive what ends it.
        let state = Arc::downgrade(&self.0);
        sse::events(
            response.into_body(),
            purpose,
            self.server().closed.clone(),
            move |error| {
                if let Some(state) = state.upgrade() {
                    state.server.note(error);
                }
            },
        )
    }

    /// Holds an exchange that belongs to no call to the time for those.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match timeout(self.server().limits.request, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Client(HttpError::new(
                HttpErrorKind::Timeout,
                "the server did not answer in time",
            ))),
        }
    }

    fn note<T>(&self, result: Result<T, Failure>, trace: Option<&Trace>) -> Result<T, Failure> {
        if let Err(Failure::Client(error)) = &result {
            self.server().note(error);
            if let Some(trace) = trace {
                trace.fail(error);
            }
        }
        result
    }
}

impl StreamableHttpClient for HttpClient {
    type Error = HttpError;

    async fn post_message(
        &self,
        _uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let posted = Posted::of(&message);
        let work = self.post(&message, session_id.as_deref(), custom_headers);
        let result = match (posted.trace, posted.request) {
            // The caller holds its own deadline and drops this.
            (Some(_), _) => work.await,
            (None, Some(request)) if posted.discovers => match timeout(DISCOVER, work).await {
                Ok(result) => result,
                Err(_) => Ok(StreamableHttpPostResponse::Json(not_discoverable(request), None)),
            },
            (None, _) => self.within(work).await,
        };
        self.note(result, posted.trace)
    }

    async fn delete_session(
        &self,
        _uri: Arc<str>,
        session_id: Arc<str>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Failure> {
        let mut all = HeaderMap::from_iter(custom_headers);
        insert(&mut all, SESSION_ID, Some(&session_id))?;
        let send = async {
            self.server()
                .send(plain(Method::DELETE, all))
                .await
                .map_err(Failure::Client)
        };
        let response = self.within(send).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Err(Failure::ServerDoesNotSupportDeleteSession),
            StatusCode::NOT_FOUND => Ok(()),
            status => Err(Failure::Client(of_status(status))),
        }
    }

    async fn get_stream(
        &self,
        _uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Failure> {
        let work = self.open(session_id.as_deref(), last_event_id.as_deref(), custom_headers);
        let response = self.note(self.within(work).await, None)?;
        let limits = &self.server().limits;
        let total = last_event_id.is_some().then_some(limits.response_bytes);
        let purpose = Purpose {
            request: None,
            trace: None,
            total,
            event: limits.event_bytes,
        };
        Ok(self.events(response, purpose))
    }
}

/// What a message is, for HTTP.
struct Posted<'a> {
    info: RequestInfo<'a>,
    request: Option<&'a RequestId>,
    trace: Option<&'a Trace>,
    discovers: bool,
    subscribes: bool,
}

impl<'a> Posted<'a> {
    fn of(message: &'a ClientJsonRpcMessage) -> Self {
        let none = RequestInfo {
            method: "",
            tool: None,
            call_id: None,
        };
        match message {
            ClientJsonRpcMessage::Request(request) => {
                let trace = request.request.extensions().get::<Trace>();
                let tool = match &request.request {
                    ClientRequest::CallToolRequest(call) => Some(call.params.name.as_ref()),
                    _ => None,
                };
                Self {
                    info: RequestInfo {
                        method: request.request.method(),
                        tool,
                        call_id: trace.and_then(Trace::call_id),
                    },
                    request: Some(&request.id),
                    trace,
                    discovers: matches!(request.request, ClientRequest::DiscoverRequest(_)),
                    subscribes: matches!(request.request, ClientRequest::SubscriptionsListenRequest(_)),
                }
            }
            ClientJsonRpcMessage::Notification(notification) => {
                let method = match &notification.notification {
                    ClientNotification::InitializedNotification(_) => "notifications/initialized",
                    ClientNotification::CancelledNotification(_) => "notifications/cancelled",
                    // No other is ever sent from here.
                    _ => "notifications",
                };
                let info = RequestInfo { method, ..none };
                Self {
                    info,
                    request: None,
                    trace: None,
                    discovers: false,
                    subscribes: false,
                }
            }
            ClientJsonRpcMessage::Response(_) | ClientJsonRpcMessage::Error(_) => Self {
                info: none,
                request: None,
                trace: None,
                discovers: false,
                subscribes: false,
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Json,
    EventStream,
    Other,
}

impl Content {
    fn of(headers: &HeaderMap) -> Self {
        let value = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(JSON) {
            Self::Json
        } else if essence.eq_ignore_ascii_case(EVENT_STREAM) {
            Self::EventStream
        } else {
            Self::Other
        }
    }
}

fn plain(method: Method, headers: HeaderMap) -> Outbound<'static> {
    let info = RequestInfo {
        method: "",
        tool: None,
        call_id: None,
    };
    Outbound {
        method,
        info,
        headers,
        body: Bytes::new(),
        trace: None,
    }
}

/// Sets a field to a value that a server chose.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) -> Result<(), Failure> {
    if let Some(value) = value {
        let value = HeaderValue::from_str(value).map_err(|_| {
            Failure::Client(HttpError::protocol(format!(
                "the server chose a {name} that a header cannot hold"
            )))
        })?;
        headers.insert(name, value);
    }
    Ok(())
}

/// The error of the protocol in a body, as the answer to `request`.
fn told(body: &[u8], request: &RequestId) -> Option<ServerJsonRpcMessage> {
    match sse::parse(body).ok()? {
        // Whatever its id: what refuses a request before reading it cannot know that.
        ServerJsonRpcMessage::Error(error) => Some(ServerJsonRpcMessage::error(error.error, Some(request.clone()))),
        _ => None,
    }
}

/// What the SDK takes as the sign of a server of before 2026-07-28.
fn not_discoverable(request: &RequestId) -> ServerJsonRpcMessage {
    let error = ErrorData::invalid_request("the server does not know server/discover", None);
    ServerJsonRpcMessage::error(error, Some(request.clone()))
}

fn of_status(status: StatusCode) -> HttpError {
    HttpError::connection(match status.as_u16() {
        404 => "nothing answers at this URL (HTTP 404)".into(),
        code if status.is_redirection() => {
            format!(
                "the server redirects with HTTP {code}, which is not followed; only 307 and 308 within its origin are"
            )
        }
        code => format!("the server answered HTTP {code}"),
    })
}
