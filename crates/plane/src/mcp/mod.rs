//! How the sessions of a plane reach MCP servers: the way there, the credential, and who is calling.
//!
//! A server is reached directly, over addresses that are checked after resolving, or, if its host is under the domain
//! of a tunnel of the session's workspace, through that tunnel and never through DNS. Every call carries a signed
//! identity that names workspace, agent, session and tool. Which tokens go where is decided here and nowhere else.

mod identity;
pub(crate) mod tunnel;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use outwork_engine::ServerFailure;
use outwork_mcp::dial::SystemResolver;
use outwork_mcp::{
    AddressPolicy, ConnectError, ConnectErrorKind, Connection, Connector, Dial, Direct, ServerSpec,
};
use outwork_store::StoreError;
use outwork_wire::agent::McpServer;
use outwork_wire::id::{AgentId, SessionId, TunnelId, WorkspaceId};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use self::identity::Signed;
use self::tunnel::{Through, Tunnelling, Under};
use crate::error::PlaneError;
use crate::identity::Identity;
use crate::vault::{McpCredential, Vaults};

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

/// The ways to servers: directly over checked addresses, or through a tunnel.
pub(crate) struct Ways {
    direct: Arc<Direct>,
    tunnelling: Arc<Tunnelling>,
    networks: McpNetworks,
    workspaces: HashMap<WorkspaceId, McpNetworks>,
}

/// The way to an address.
pub(crate) struct Way {
    /// Makes connections.
    pub(crate) dial: Arc<dyn Dial>,
    /// Which addresses may be dialled.
    pub(crate) policy: AddressPolicy,
    /// The tunnel that it goes through.
    tunnel: Option<TunnelId>,
}

impl Ways {
    pub(crate) fn new(options: &McpOptions, tunnelling: Tunnelling) -> Result<Self, PlaneError> {
        let roots = match &options.ca_file {
            Some(path) => authorities(path)?,
            None => Vec::new(),
        };
        let direct =
            Direct::new(Arc::new(SystemResolver), roots).map_err(|error| PlaneError::Mcp(error.to_string()))?;
        Ok(Self {
            direct: Arc::new(direct),
            tunnelling: Arc::new(tunnelling),
            networks: options.networks.clone(),
            workspaces: options.workspaces.clone(),
        })
    }

    /// The way to an address for a workspace.
    pub(crate) async fn way(&self, workspace: &WorkspaceId, url: &Url) -> Result<Way, StoreError> {
        let networks = self.networks(workspace);
        let policy = AddressPolicy {
            allow: networks.allowed_networks.clone(),
            plain_http: networks.plain_http,
        };
        let under = match url.host() {
            Some(Host::Domain(host)) => self.tunnelling.owner_of(host).await?,
            _ => Under::Nothing,
        };
        let tunnel = match under {
            Under::Nothing => {
                return Ok(Way {
                    dial: self.direct.clone(),
                    policy,
                    tunnel: None,
                });
            }
            Under::Suffix => None,
            Under::Tunnel(row) => (row.workspace_id == *workspace).then_some(row.id),
        };
        let through = Through {
            workspace: workspace.clone(),
            tunnelling: self.tunnelling.clone(),
        };
        Ok(Way {
            dial: Arc::new(through),
            policy,
            tunnel,
        })
    }

    /// Whether a workspace may call `http://`.
    pub(crate) fn plain_http(&self, workspace: &WorkspaceId) -> bool {
        self.networks(workspace).plain_http
    }

    fn networks(&self, workspace: &WorkspaceId) -> &McpNetworks {
        self.workspaces.get(workspace).unwrap_or(&self.networks)
    }
}

/// A server that was reached.
pub(crate) struct Reached {
    pub(crate) connection: Connection,
    /// The name of the credential that its requests carry.
    pub(crate) credential: Option<outwork_ledger::Credential>,
}

/// Reaches MCP servers.
pub(crate) struct Reach {
    connector: Connector,
    ways: Arc<Ways>,
    vaults: Vaults,
    identity: Arc<Identity>,
    connect_timeout: Duration,
    call_timeout: Duration,
}

impl Reach {
    pub(crate) fn new(options: &McpOptions, ways: Arc<Ways>, vaults: Vaults, identity: Arc<Identity>) -> Self {
        Self {
            connector: Connector::new("outwork", env!("CARGO_PKG_VERSION")),
            ways,
            vaults,
            identity,
            connect_timeout: options.connect_timeout,
            call_timeout: options.call_timeout,
        }
    }

    /// How long a call may take.
    pub(crate) fn call_deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    /// Connects to a server for a session.
    pub(crate) async fn connect(
        &self,
        caller: &Caller,
        server: &McpServer,
        cancel: &CancellationToken,
    ) -> Result<Reached, ServerFailure> {
        let mut spec = self.spec(caller, server).await?;
        let credential = match self.credential(caller, server).await? {
            Some(held) => {
                let named = held.named().await;
                spec.credentials = Some(Arc::new(held));
                Some(named)
            }
            None => None,
        };
        let deadline = Instant::now() + self.connect_timeout;
        let connected = self.connector.connect(spec, deadline, cancel).await;
        match connected {
            Ok(connection) => Ok(Reached { connection, credential }),
            Err(ConnectError { kind, message }) => Err(ServerFailure {
                server: server.name().to_owned(),
                authentication: kind == ConnectErrorKind::Authentication,
                message,
            }),
        }
    }

    /// Until when a connection may list its tools.
    pub(crate) fn list_deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// The credential for a server from the vaults of the session. One that cannot be used is said before the server is
    /// asked without it.
    async fn credential(
        &self,
        caller: &Caller,
        server: &McpServer,
    ) -> Result<Option<McpCredential>, ServerFailure> {
        let failed = |error: &dyn std::error::Error| ServerFailure {
            server: server.name().to_owned(),
            authentication: true,
            message: format!("{}: {error}", server.name()),
        };
        let found = self
            .vaults
            .credential_of_session(&caller.workspace, &caller.session, server.url())
            .await
            .map_err(|error| failed(&error))?;
        let Some(credential) = found else {
            return Ok(None);
        };
        credential.token().await.map_err(|error| failed(&error))?;
        Ok(Some(credential))
    }

    async fn spec(&self, caller: &Caller, server: &McpServer) -> Result<ServerSpec, ServerFailure> {
        let failed = |what: &str| ServerFailure {
            server: server.name().to_owned(),
            authentication: false,
            message: format!("{}: {what}", server.name()),
        };
        let url = Url::parse(server.url()).map_err(|error| failed(&format!("its url cannot be read: {error}")))?;
        let way = self.ways.way(&caller.workspace, &url).await.map_err(|error| {
            tracing::error!(%error, "the way to an MCP server could not be looked up");
            failed("the way to it could not be looked up")
        })?;
        let mut signed = Signed::new(self.identity.clone(), caller.clone(), &url);
        if let (Some(tunnel), Some(host)) = (way.tunnel, url.host_str()) {
            signed = signed.metered(self.ways.tunnelling.clone(), tunnel, host.to_owned());
        }
        Ok(ServerSpec {
            name: server.name().to_owned(),
            url,
            dial: way.dial,
            policy: way.policy,
            headers: Some(Arc::new(signed)),
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
