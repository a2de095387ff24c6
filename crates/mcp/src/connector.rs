//! How a connection comes about.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rmcp::{
    model::{Implementation, ProtocolVersion},
    service::{ClientInitializeError, ClientLifecycleMode, serve_client_with_lifecycle_and_ct},
    transport::{
        StreamableHttpClientTransport, common::client_side_sse::ExponentialBackoff,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ConnectError, ConnectErrorKind, Connection, ServerSpec,
    connection::CANCEL,
    handler::Handler,
    http::{HttpClient, HttpError},
    watch,
};

/// Opens connections.
#[derive(Clone, Debug)]
pub struct Connector {
    implementation: Implementation,
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
        let stop = CancellationToken::new();
        let connection = Connection {
            name: spec.name,
            limits: spec.limits,
            version: info.protocol_version.clone(),
            service,
            http,
            tools_changed,
            watching: stop.clone().drop_guard(),
            tasks: TaskTracker::new(),
        };
        let tells = info
            .capabilities
            .tools
            .as_ref()
            .is_some_and(|tools| tools.list_changed == Some(true));
        if spec.watch_tools && tells && !connection.version.has_initialize() {
            let peer = connection.service.peer().clone();
            let changed = connection.tools_changed.clone();
            connection.tasks.spawn(watch::watch(peer, changed, stop));
        }
        Ok(connection)
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
