//! A connection to one server: listing its tools and calling them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rmcp::{
    Peer, RoleClient,
    model::{
        CallToolRequest, CallToolRequestParams, ClientRequest, ErrorCode, GetExtensions, Implementation, JsonObject,
        ListToolsRequest, PaginatedRequestParams, ProtocolVersion, RequestMetaObject, ServerResult,
    },
    service::{
        ClientInitializeError, ClientLifecycleMode, PeerRequestOptions, RequestHandle, RunningService, ServiceError,
        serve_client_with_lifecycle_and_ct,
    },
    transport::{
        StreamableHttpClientTransport,
        common::client_side_sse::ExponentialBackoff,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
    },
};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    CallContext, CallError, CallErrorKind, CallResult, ConnectError, ConnectErrorKind, Limits, ServerSpec, Tool,
    answer::{self, Page},
    handler::Handler,
    http::{HttpClient, HttpError, Trace},
    watch,
};

/// Characters of a server's own words that are kept.
const MAX_SERVER_MESSAGE: usize = 1000;
/// How long telling a server that nobody waits any more may take.
const CANCEL: Duration = Duration::from_secs(5);

/// Opens connections.
#[derive(Clone, Debug)]
pub struct Connector {
    implementation: Implementation,
}

/// A connection to one server. It can be shared; calls run side by side. Dropping it closes it without waiting.
pub struct Connection {
    name: String,
    limits: Limits,
    service: RunningService<RoleClient, Handler>,
    http: HttpClient,
    version: ProtocolVersion,
    tools_changed: Arc<AtomicBool>,
    /// Ends the watching task.
    watching: CancellationToken,
    /// The watching task and the ones that tell servers of cancelled calls.
    tasks: TaskTracker,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that presents itself to servers under this name and version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            implementation: Implementation::new(name, version),
        }
    }

    /// Connects and agrees on the revision of the protocol.
    ///
    /// The server is asked with `server/discover` (2026-07-28) first; one that does not know it gets an `initialize`
    /// for 2025-11-25 and may settle for an older revision.
    pub async fn connect(
        &self,
        spec: ServerSpec,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Connection, ConnectError> {
        let refused = |error: &HttpError| ConnectError {
            kind: error.kind.of_connect(),
            message: format!("connecting to the MCP server {:?} failed: {error}", spec.name),
        };
        let failed = |what: &str| ConnectError {
            kind: ConnectErrorKind::Connection,
            message: format!("connecting to the MCP server {:?} failed: {what}", spec.name),
        };
        let http = HttpClient::new(&spec).map_err(|error| refused(&error))?;
        let tools_changed = Arc::new(AtomicBool::new(false));
        let handler = Handler {
            implementation: self.implementation.clone(),
            tools_changed: tools_changed.clone(),
        };
        let transport = StreamableHttpClientTransport::with_client(http.clone(), transport_config(&spec));
        // Whoever drops this future leaves nothing behind that still talks to the server.
        let abandoned = http.clone();
        let guard = OnDrop::new(move || abandoned.close());
        let lifecycle = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        };
        let serve = serve_client_with_lifecycle_and_ct(handler, transport, lifecycle, CancellationToken::new());
        let service = tokio::select! {
            biased;
            _ = cancel.cancelled() => return Err(failed("it was cancelled")),
            served = serve => served.map_err(|error| match http.last_failure() {
                Some(failure) => refused(&failure),
                None => failed(&handshake(&error)),
            })?,
            _ = sleep_until(deadline) => return Err(match http.last_failure() {
                Some(failure) => refused(&failure),
                None => failed("the server did not answer in time"),
            }),
        };
        let Some(info) = service.peer().peer_info() else {
            return Err(failed("the server did not present itself"));
        };
        guard.disarm();
        let connection = Connection {
            name: spec.name,
            limits: spec.limits,
            version: info.protocol_version.clone(),
            service,
            http,
            tools_changed,
            watching: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let tells = info
            .capabilities
            .tools
            .as_ref()
            .is_some_and(|tools| tools.list_changed == Some(true));
        if spec.watch_tools && tells && !connection.version.has_initialize() {
            let peer = connection.service.peer().clone();
            let (changed, stop) = (connection.tools_changed.clone(), connection.watching.clone());
            connection.tasks.spawn(watch::watch(peer, changed, stop));
        }
        Ok(connection)
    }
}

impl Connection {
    /// The name of the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The revision of the protocol in use, for example `2026-07-28`.
    pub fn protocol_version(&self) -> &str {
        self.version.as_str()
    }

    /// Whether the connection cannot be used any more; make another one.
    pub fn is_closed(&self) -> bool {
        self.service.is_closed() || self.service.peer().is_transport_closed()
    }

    /// Whether the server told that its tools changed since [`Self::tools`] was last asked.
    pub fn tools_changed(&self) -> bool {
        self.tools_changed.load(Ordering::SeqCst)
    }

    /// All tools of the server, in its order. A second tool of the same name is left out.
    ///
    /// # Errors
    ///
    /// `TooLarge` if there are more than the limits allow: half a list would be a wrong one.
    pub async fn tools(&self, deadline: Instant, cancel: &CancellationToken) -> Result<Vec<Tool>, CallError> {
        self.tools_changed.store(false, Ordering::SeqCst);
        let mut tools: Vec<Tool> = Vec::new();
        let mut names = std::collections::HashSet::new();
        let mut bytes = 0;
        let mut cursor = None;
        for _ in 0..self.limits.pages {
            let page = self.page(cursor, deadline, cancel).await?;
            bytes += page.bytes;
            tools.extend(page.tools.into_iter().filter(|tool| names.insert(tool.name.clone())));
            if tools.len() > self.limits.tools || bytes > self.limits.tools_bytes {
                let Limits { tools, tools_bytes, .. } = self.limits;
                let what = format!("it has more than {tools} tools or {tools_bytes} bytes of them");
                return Err(self.error(CallErrorKind::TooLarge, true, LISTING, &what));
            }
            match page.next {
                Some(next) if !next.is_empty() => cursor = Some(next),
                _ => return Ok(tools),
            }
        }
        let what = format!("its list has more than {} pages", self.limits.pages);
        Err(self.error(CallErrorKind::TooLarge, true, LISTING, &what))
    }

    async fn page(
        &self,
        cursor: Option<String>,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Page, CallError> {
        let params = PaginatedRequestParams::default().with_cursor(cursor);
        let request = ListToolsRequest {
            method: Default::default(),
            params: Some(params),
            extensions: Default::default(),
        };
        let asked = Asked {
            what: LISTING.into(),
            tool: false,
        };
        let request = ClientRequest::ListToolsRequest(request);
        let answer = self
            .ask(request, &asked, CallContext::default(), deadline, cancel)
            .await?;
        let page = match answer {
            ServerResult::ListToolsResult(result) => Some(answer::page(result)),
            ServerResult::CustomResult(result) => answer::loose_page(result.0),
            _ => None,
        };
        page.ok_or_else(|| self.error(CallErrorKind::Protocol, true, LISTING, "the answer is no list of tools"))
    }

    /// Calls a tool.
    ///
    /// The request is sent once. It is sent again only if the server said that it did not take it: after a 401 with a
    /// renewed credential, after a 404 in a new session, and after a mismatch of headers that follow the tool's schema
    /// with the schema read again.
    ///
    /// When the deadline passes or `cancel` is cancelled, this returns at once and the server is told in the
    /// background: by closing the answer's stream (2026-07-28) or with `notifications/cancelled` (before).
    pub async fn call(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        context: CallContext,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<CallResult, CallError> {
        let what = format!("calling the tool {name:?}");
        let asked = Asked { what, tool: true };
        let request = || {
            let params = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments.clone());
            ClientRequest::CallToolRequest(CallToolRequest::new(params))
        };
        let answer = match self.ask(request(), &asked, context.clone(), deadline, cancel).await {
            Err(Failed {
                code: Some(ErrorCode::HEADER_MISMATCH),
                ..
            }) if !self.version.has_initialize() => {
                self.tools(deadline, cancel).await?;
                self.ask(request(), &asked, context, deadline, cancel).await?
            }
            answer => answer?,
        };
        let unsupported = |what: &str| Err(self.error(CallErrorKind::Protocol, true, &asked.what, what));
        match answer {
            ServerResult::CallToolResult(result) => Ok(answer::result(result)),
            ServerResult::CustomResult(result) => match answer::loose_result(result.0) {
                Some(result) => Ok(result),
                None => unsupported("the answer is no result of a tool"),
            },
            ServerResult::InputRequiredResult(_) => unsupported(
                "the tool asks for input (from a person, a model or the caller's files), which is not supported here",
            ),
            ServerResult::CreateTaskResult(_) => {
                unsupported("the tool answers with a task to be polled, which is not supported here")
            }
            _ => unsupported("the answer is no result of a tool"),
        }
    }

    /// Ends the session at the server and waits until everything has come to rest, at most until `deadline`.
    pub async fn close(self, deadline: Instant) {
        self.watching.cancel();
        self.tasks.close();
        let _ = timeout_at(deadline, self.tasks.wait()).await;
        // The SDK sends the DELETE of a session while it shuts down.
        let _ = timeout_at(deadline, self.service.cancel()).await;
        self.http.close();
        let tasks = self.http.tasks();
        tasks.close();
        let _ = timeout_at(deadline, tasks.wait()).await;
    }

    /// Sends a request and waits for its answer.
    async fn ask(
        &self,
        mut request: ClientRequest,
        asked: &Asked,
        context: CallContext,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<ServerResult, Failed> {
        let CallContext { call_id, meta } = context;
        let trace = Trace::new(call_id);
        request.extensions_mut().insert(trace.clone());
        let options = PeerRequestOptions::no_options().with_meta(own_meta(meta));
        let peer: &Peer<RoleClient> = self.service.peer();
        let timed_out = || self.failed(CallErrorKind::Timeout, &trace, asked, "the deadline passed");
        let mut handle = tokio::select! {
            biased;
            _ = cancel.cancelled() => return Err(self.failed(CallErrorKind::Cancelled, &trace, asked, "it was cancelled")),
            handle = peer.send_request_with_option(request, options) => {
                handle.map_err(|error| self.explain(error, &trace, asked))?
            }
            _ = sleep_until(deadline) => return Err(timed_out()),
        };
        let error = tokio::select! {
            biased;
            answer = &mut handle.rx => {
                return match answer {
                    Ok(answer) => answer.map_err(|error| self.explain(error, &trace, asked)),
                    Err(_) => Err(self.explain(ServiceError::TransportClosed, &trace, asked)),
                };
            }
            failure = trace.failed() => self.failed(failure.kind.of_call(), &trace, asked, &failure.message),
            _ = cancel.cancelled() => self.failed(CallErrorKind::Cancelled, &trace, asked, "it was cancelled"),
            _ = sleep_until(deadline) => timed_out(),
        };
        self.abandon(handle);
        Err(error)
    }

    /// Tells the server that nobody waits for a request any more.
    fn abandon(&self, handle: RequestHandle<RoleClient>) {
        self.tasks.spawn(async move {
            let cancelled = handle.cancel(Some("the caller does not wait any more".into()));
            if tokio::time::timeout(CANCEL, cancelled).await.is_err() {
                tracing::debug!("a server was not told in time that a call was cancelled");
            }
        });
    }

    fn explain(&self, error: ServiceError, trace: &Trace, asked: &Asked) -> Failed {
        if let Some(failure) = trace.failure() {
            return self.failed(failure.kind.of_call(), trace, asked, &failure.message);
        }
        match error {
            ServiceError::McpError(error) => {
                let gone = asked.tool && is_gone(error.code, &error.message);
                let kind = match error.code {
                    _ if gone => CallErrorKind::ToolGone,
                    // The SDK's own, for calls that were under way when their session ended.
                    ErrorCode::INTERNAL_ERROR if error.message.starts_with(SESSION_LOST) => CallErrorKind::Connection,
                    _ => CallErrorKind::Protocol,
                };
                let what = match kind {
                    CallErrorKind::ToolGone => "the server has no such tool any more".to_owned(),
                    CallErrorKind::Connection => "the session ended before the answer".to_owned(),
                    _ => format!("the server answered with the error {}", error.code.0),
                };
                let mut failed = self.failed(kind, trace, asked, &what);
                failed.code = Some(error.code);
                failed.error.server_message = Some(error.message.chars().take(MAX_SERVER_MESSAGE).collect());
                failed
            }
            ServiceError::TransportSend(error) => {
                let error = error.error.downcast_ref::<StreamableHttpError<HttpError>>();
                match error {
                    Some(StreamableHttpError::Client(error)) => {
                        self.failed(error.kind.of_call(), trace, asked, &error.message)
                    }
                    Some(
                        StreamableHttpError::SessionExpired
                        | StreamableHttpError::SessionRecoveryTimeout
                        | StreamableHttpError::ReinitializationFailed(_),
                    ) => {
                        let what = "the session expired, and there was no new one";
                        self.failed(CallErrorKind::Connection, trace, asked, what)
                    }
                    _ => self.failed(CallErrorKind::Connection, trace, asked, "the request could not be sent"),
                }
            }
            ServiceError::Cancelled { .. } => self.failed(
                CallErrorKind::Protocol,
                trace,
                asked,
                "the server cancelled the request",
            ),
            ServiceError::TransportClosed => self.failed(
                CallErrorKind::Connection,
                trace,
                asked,
                "the connection broke before the answer",
            ),
            _ => self.failed(
                CallErrorKind::Protocol,
                trace,
                asked,
                "the answer is not one to this request",
            ),
        }
    }

    fn failed(&self, kind: CallErrorKind, trace: &Trace, asked: &Asked, what: &str) -> Failed {
        Failed {
            error: self.error(kind, trace.sent(), &asked.what, what),
            code: None,
        }
    }

    fn error(&self, kind: CallErrorKind, sent: bool, asked: &str, what: &str) -> CallError {
        let message = format!("{asked} of the MCP server {:?} failed: {what}", self.name);
        CallError {
            kind,
            sent,
            message,
            server_message: None,
        }
    }
}

const LISTING: &str = "listing the tools";
const SESSION_LOST: &str = "streamable HTTP session was re-initialized";

/// What is being asked, for errors.
struct Asked {
    what: String,
    tool: bool,
}

/// A failed request with the server's code.
struct Failed {
    error: CallError,
    code: Option<ErrorCode>,
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

fn transport_config(spec: &ServerSpec) -> StreamableHttpClientTransportConfig {
    let mut config = StreamableHttpClientTransportConfig::with_uri(spec.url.as_str())
        .max_concurrent_requests(spec.limits.concurrent)
        .control_request_timeout(CANCEL)
        .max_sse_event_size(spec.limits.event_bytes);
    let mut retry = ExponentialBackoff::default();
    retry.max_times = Some(5);
    retry.max_delay = Some(Duration::from_secs(30));
    config.retry_config = Arc::new(retry);
    config
}

/// The caller's fields without those of the protocol, which the SDK would let them overwrite.
fn own_meta(mut meta: JsonObject) -> RequestMetaObject {
    meta.retain(|key, _| key != "progressToken" && !key.starts_with("io.modelcontextprotocol/"));
    RequestMetaObject::from(meta)
}

/// Whether an error means that there is no such tool. The specification gives invalid params to that and to others.
fn is_gone(code: ErrorCode, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    match code {
        ErrorCode::METHOD_NOT_FOUND => true,
        ErrorCode::INVALID_PARAMS => {
            message.contains("unknown tool")
                || (message.contains("tool") && (message.contains("not found") || message.contains("not exist")))
        }
        _ => false,
    }
}

/// Why a handshake failed, without the server's words.
fn handshake(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::JsonRpcError(error) => {
            format!("the server answered the handshake with the error {}", error.code.0)
        }
        ClientInitializeError::NoCompatibleProtocolVersion { .. } => {
            "the server speaks no revision of the protocol that is known here".into()
        }
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => handshake(fallback),
        ClientInitializeError::ConnectionClosed(_) | ClientInitializeError::TransportError { .. } => {
            "the connection broke during the handshake".into()
        }
        ClientInitializeError::Cancelled => "it was cancelled".into(),
        _ => "what the server answered to the handshake is not an answer to it".into(),
    }
}

/// Runs something when it is dropped, unless it was disarmed.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    fn new(run: F) -> Self {
        Self(Some(run))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}
