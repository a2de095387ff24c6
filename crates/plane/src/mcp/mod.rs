//! How the sessions of a plane reach MCP servers: the way there, the credential, and who is calling.
//!
//! A server is reached directly, over addresses that are checked after resolving, or, if its host is under the domain
//! of a tunnel of the session's workspace, through that tunnel and never through DNS. Every call carries a signed
//! identity that names workspace, agent, session and tool. Which tokens go where is decided here and nowhere else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use outwork_engine::ServerFailure;
use outwork_mcp::dial::SystemResolver;
use outwork_mcp::{AddressPolicy, ConnectError, ConnectErrorKind, Connection, Connector, Direct, ServerSpec};
use outwork_wire::agent::McpServer;
use outwork_wire::id::{AgentId, SessionId, WorkspaceId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::PlaneError;

/// What a workspace may reach besides public servers over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct McpNetworks {
    /// Networks that are dialled though they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Whether `http://` is dialled.
    pub plain_http: bool,
}

/// Limits and ways of calls to MCP servers.
#[derive(Clone, Debug)]
pub struct McpOptions {
    /// How long connecting and listing the tools of a server may take.
    pub connect_timeout: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// What every workspace may reach.
    pub networks: McpNetworks,
    /// What single workspaces may reach instead.
    pub workspaces: HashMap<WorkspaceId, McpNetworks>,
    /// A PEM file with authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Default for McpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(120),
            networks: McpNetworks::default(),
            workspaces: HashMap::new(),
            ca_file: None,
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) workspace: WorkspaceId,
    pub(crate) session: SessionId,
    pub(crate) agent: AgentId,
    pub(crate) agent_version: u64,
}

/// Reaches MCP servers.
pub(crate) struct Reach {
    connector: Connector,
    direct: Arc<Direct>,
    options: McpOptions,
}

impl Reach {
    pub(crate) fn new(options: McpOptions) -> Result<Self, PlaneError> {
        let roots = match &options.ca_file {
            Some(path) => authorities(path)?,
            None => Vec::new(),
        };
        let direct =
            Direct::new(Arc::new(SystemResolver), roots).map_err(|error| PlaneError::Mcp(error.to_string()))?;
        Ok(Self {
            connector: Connector::new("outwork", env!("CARGO_PKG_VERSION")),
            direct: Arc::new(direct),
            options,
        })
    }

    /// How long a call may take.
    pub(crate) fn call_deadline(&self) -> Instant {
        Instant::now() + self.options.call_timeout
    }

    /// Connects to a server for a session.
    pub(crate) async fn connect(
        &self,
        caller: &Caller,
        server: &McpServer,
        cancel: &CancellationToken,
    ) -> Result<Connection, ServerFailure> {
        let spec = self.spec(caller, server)?;
        let deadline = Instant::now() + self.options.connect_timeout;
        let connected = self.connector.connect(spec, deadline, cancel).await;
        connected.map_err(|ConnectError { kind, message }| ServerFailure {
            server: server.name().to_owned(),
            authentication: kind == ConnectErrorKind::Authentication,
            message,
        })
    }

    /// Until when a connection may list its tools.
    pub(crate) fn list_deadline(&self) -> Instant {
        Instant::now() + self.options.connect_timeout
    }

    fn spec(&self, caller: &Caller, server: &McpServer) -> Result<ServerSpec, ServerFailure> {
        let url = Url::parse(server.url()).map_err(|error| ServerFailure {
            server: server.name().to_owned(),
            authentication: false,
            message: format!("{}: its url cannot be read: {error}", server.name()),
        })?;
        let networks = self
            .options
            .workspaces
            .get(&caller.workspace)
            .unwrap_or(&self.options.networks);
        Ok(ServerSpec {
            name: server.name().to_owned(),
            url,
            dial: self.direct.clone(),
            policy: AddressPolicy {
                allow: networks.allowed_networks.clone(),
                plain_http: networks.plain_http,
            },
            headers: None,
            credentials: None,
            limits: outwork_mcp::Limits::default(),
            watch_tools: false,
        })
    }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, PlaneError> {
    let fault = |reason: String| PlaneError::Mcp(format!("[mcp] ca_file {}: {reason}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| fault(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| fault(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fault("it holds no certificate".into()));
    }
    Ok(certificates)
}
