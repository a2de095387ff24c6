//! The way to a server through a tunnel: from the host to the tunnel, through its gateway, TLS inside.
//!
//! A host under the domain of a tunnel goes through that tunnel or nowhere: never through DNS, never over a tunnel of
//! another workspace, never to a gateway that shows a certificate of an authority that the tunnel's owner did not
//! register. Everything is asked anew for every connection, so that an archived tunnel or authority holds at once.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use outwork_mcp::dial::{BoxStream, Scheme};
use outwork_mcp::{Dial, DialError, Target};
use outwork_store::{Store, StoreError, TunnelRow};
use outwork_tunnel::edge::Handle;
use outwork_tunnel::inner::{Connector, InnerError, ReachError};
use outwork_wire::Time;
use outwork_wire::id::{TunnelId, WorkspaceId};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::edge::live::Calls;

/// TLS is spoken on this port of a host, and there is no other.
const PORT: u16 = 443;

/// What ways through tunnels are made from.
pub(crate) struct Tunnelling {
    store: Store,
    domain_suffix: String,
    edge: Option<LiveParts>,
    connector: Connector,
}

struct LiveParts {
    handle: Handle,
    calls: Arc<Calls>,
}

impl Tunnelling {
    pub(crate) fn new(store: Store, domain_suffix: String, edge: Option<(Handle, Arc<Calls>)>) -> Self {
        Self {
            store,
            domain_suffix,
            edge: edge.map(|(handle, calls)| LiveParts { handle, calls }),
            connector: Connector::new(),
        }
    }

    /// Whose tunnel a host is under. A host under the suffix of this server, of which there is no tunnel, is known too,
    /// so that it is never looked up elsewhere.
    pub(crate) async fn owner_of(&self, host: &str) -> Result<Under, StoreError> {
        let host = plain(host);
        // The domain itself and every name above, as the suffix may have been another when the tunnel was made.
        let mut rest = Some(host);
        while let Some(name) = rest.filter(|name| name.contains('.')) {
            if let Some(row) = self.store.tunnel_of_domain(name).await? {
                return Ok(Under::Tunnel(Box::new(row)));
            }
            rest = name.split_once('.').map(|(_, above)| above);
        }
        let below = host.strip_suffix(&self.domain_suffix);
        Ok(match below {
            Some(below) if below.is_empty() || below.ends_with('.') => Under::Suffix,
            _ => Under::Nothing,
        })
    }

    /// A call to a host of a tunnel begins.
    pub(crate) fn call_begun(&self, tunnel: &TunnelId, host: &str) {
        if let Some(edge) = &self.edge {
            edge.calls.begun(tunnel, plain(host));
        }
    }

    async fn open(&self, workspace: &WorkspaceId, target: &Target, deadline: Instant) -> Result<BoxStream, DialError> {
        let host = plain(&target.host);
        let failed = |reason: String| DialError::Connect {
            host: host.to_owned(),
            reason,
        };
        let unread = |error: StoreError| {
            tracing::error!(%error, "a tunnel could not be looked up");
            failed("the server could not look the tunnel up; its log says why".into())
        };
        if target.scheme != Scheme::Https || target.port != PORT {
            return Err(failed(
                "servers behind a tunnel are called with https:// on port 443".into(),
            ));
        }
        let found = match self.owner_of(host).await.map_err(unread)? {
            Under::Tunnel(row) if row.workspace_id == *workspace => Some(row),
            _ => None,
        };
        // One text for what is not there and what is somebody else's.
        let Some(row) = found else {
            return Err(failed("this workspace has no tunnel with that domain".into()));
        };
        if row.archived_at.is_some() {
            return Err(failed(format!("the tunnel {} is archived", row.id)));
        }
        let Some(edge) = &self.edge else {
            return Err(failed(
                "this server does not listen for the gateways of tunnels: start it with --tunnel-listen".into(),
            ));
        };
        let authorities = self
            .store
            .tunnel_authorities(&row.id, Time::now())
            .await
            .map_err(unread)?;
        let authorities: Vec<_> = authorities.into_iter().map(CertificateDer::from).collect();
        let opened = self
            .connector
            .open(&edge.handle, row.id.as_str(), host, &authorities, deadline)
            .await;
        opened.map(BoxStream::new).map_err(|error| match error {
            ReachError::Open(error) => failed(error.to_string()),
            ReachError::Inner(error @ (InnerError::NoAuthority | InnerError::Stream(_))) => failed(error.to_string()),
            ReachError::Inner(error) => DialError::Tls {
                host: host.to_owned(),
                reason: error.to_string(),
            },
            ReachError::TimedOut => DialError::Timeout { host: host.to_owned() },
        })
    }
}

/// What a host is under.
pub(crate) enum Under {
    /// This tunnel.
    Tunnel(Box<TunnelRow>),
    /// The suffix of this server's tunnels, but no tunnel.
    Suffix,
    /// No tunnel has to do with it.
    Nothing,
}

/// A host without the dot at its end, which means the same name.
fn plain(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Dials through the tunnel of a host, for one workspace.
pub(crate) struct Through {
    pub(crate) workspace: WorkspaceId,
    pub(crate) tunnelling: Arc<Tunnelling>,
}

impl Dial for Through {
    fn dial<'a>(&'a self, target: &'a Target, deadline: Instant) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.tunnelling.open(&self.workspace, target, deadline))
    }
}
