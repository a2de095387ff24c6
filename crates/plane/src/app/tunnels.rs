//! Tunnels: made, listed, archived, paused; their tokens shown and changed.
//!
//! What holds is in the store, and is there before the edge is told. A token exists in clear text in the answers that
//! show it and in the gateway that uses it; here it is kept sealed, and as a hash.

use std::sync::Arc;

use outwork_store::{
    KeyHash, NewTunnel, NewTunnelToken, Page, PageRequest, RouteUsage, Store, StoreError, TunnelRotation, TunnelRow,
};
use outwork_wire::Time;
use outwork_wire::id::{TunnelId, TunnelTokenId, WorkspaceId};
use rand::Rng;
use secrecy::ExposeSecret;

use super::App;
use crate::auth::{Access, SecretText, TUNNEL_TOKEN_PREFIX};
use crate::edge::{EdgeInfo, Meter, TunnelConnection, TunnelEdge};
use crate::error::ApiError;
use crate::options::TunnelOptions;
use crate::vault::seal::Sealer;

/// The most tunnels of a workspace that are not archived.
const MAX_TUNNELS: usize = 10;
/// Rotations that the status shows.
const ROTATIONS_SHOWN: usize = 10;
/// What a sealed token is, to the vaults.
const SEALED_AS: &str = "tunnel_token";
/// Of what labels of domains are made, 5 bits a character, and how long they are.
const LABEL_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const LABEL_LEN: usize = 16;

/// What operations on tunnels work with.
pub(crate) struct Tunnels {
    domain_suffix: String,
    edge: Arc<dyn TunnelEdge>,
    sealer: Arc<Sealer>,
    meter: Meter,
    /// Held while a tunnel's state is committed and the edge is told, so that the edge hears of changes in the order
    /// in which they hold.
    ruling: tokio::sync::Mutex<()>,
}

impl Tunnels {
    pub(crate) fn new(options: TunnelOptions, sealer: Arc<Sealer>, edge: Arc<dyn TunnelEdge>) -> Self {
        Self {
            domain_suffix: options.domain_suffix,
            edge,
            sealer,
            meter: Meter::default(),
            ruling: tokio::sync::Mutex::default(),
        }
    }

    /// Tells the edge what held before it was there. To be called before a gateway can connect.
    pub(crate) async fn tell_edge(&self, store: &Store) -> Result<(), StoreError> {
        for tunnel in store.paused_tunnels().await? {
            self.edge.pause(&tunnel);
        }
        Ok(())
    }

    /// Writes what passed through tunnels since the last time.
    pub(crate) async fn flush_usage(&self, store: &Store) -> Result<(), StoreError> {
        self.meter.flush(&*self.edge, store).await
    }

    /// The edge, to be told of what changed.
    pub(crate) fn edge(&self) -> &dyn TunnelEdge {
        &*self.edge
    }

    /// A fresh token of a tunnel, in clear text and as it is kept.
    async fn fresh_token(
        &self,
        workspace: &WorkspaceId,
        tunnel: &TunnelId,
    ) -> Result<(SecretText, NewTunnelToken), ApiError> {
        let secret = SecretText::fresh(TUNNEL_TOKEN_PREFIX);
        let id = TunnelTokenId::fresh();
        let sealed = self
            .sealer
            .seal_at(workspace, token_place(tunnel, &id), secret.expose())
            .await
            .map_err(ApiError::internal)?;
        let hash = KeyHash::of(secret.expose());
        Ok((secret, NewTunnelToken { id, sealed, hash }))
    }
}

fn token_place<'a>(tunnel: &'a TunnelId, token: &'a TunnelTokenId) -> [&'a str; 3] {
    [SEALED_AS, tunnel.as_str(), token.as_str()]
}

/// A tunnel's token, for the answer that shows it.
pub(crate) struct ShownToken {
    pub(crate) id: TunnelTokenId,
    pub(crate) secret: SecretText,
}

/// How a tunnel is doing.
pub(crate) struct TunnelStatus {
    pub(crate) row: TunnelRow,
    pub(crate) rotations: Vec<TunnelRotation>,
    /// How many authorities are trusted now.
    pub(crate) authorities: usize,
    /// Why no gateway can connect, if none can.
    pub(crate) edge_off: Option<&'static str>,
    pub(crate) connections: Vec<TunnelConnection>,
}

/// Makes a tunnel.
pub(crate) async fn create(app: &App, access: &Access, display_name: Option<String>) -> Result<TunnelRow, ApiError> {
    let workspace = access.workspace()?;
    let id = TunnelId::fresh();
    let (_, token) = app.tunnels.fresh_token(workspace, &id).await?;
    let new = NewTunnel {
        id,
        display_name,
        domain: format!("{}.{}", fresh_label(&mut rand::rng()), app.tunnels.domain_suffix),
        token,
    };
    let row = app
        .store
        .create_tunnel(workspace, new, MAX_TUNNELS, Time::now())
        .await?;
    tracing::info!(tunnel = %row.id, domain = row.domain, by = %access.principal(), "tunnel made");
    Ok(row)
}

/// The tunnel of that id.
pub(crate) async fn retrieve(app: &App, access: &Access, id: &TunnelId) -> Result<TunnelRow, ApiError> {
    Ok(app.store.tunnel(access.workspace()?, id).await?)
}

/// Tunnels, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    include_archived: bool,
    page: PageRequest,
) -> Result<Page<TunnelRow>, ApiError> {
    Ok(app
        .store
        .list_tunnels(access.workspace()?, include_archived, page)
        .await?)
}

/// Archives a tunnel for good: its token is void, its certificates are archived, its connections are closed.
pub(crate) async fn archive(app: &App, access: &Access, id: &TunnelId) -> Result<TunnelRow, ApiError> {
    let row = app.store.archive_tunnel(access.workspace()?, id, Time::now()).await?;
    app.tunnels.edge().close(id);
    tracing::info!(tunnel = %id, by = %access.principal(), "tunnel archived");
    Ok(row)
}

/// Shows the present token.
pub(crate) async fn reveal_token(app: &App, access: &Access, id: &TunnelId) -> Result<ShownToken, ApiError> {
    let workspace = access.workspace()?;
    let token = app.store.tunnel_token(workspace, id).await?;
    let secret = app
        .tunnels
        .sealer
        .open_at(workspace, token_place(id, &token.id), &token.sealed)
        .await
        .map_err(|error| {
            let mut fault = ApiError::internal(error);
            fault.message = format!(
                "the token of tunnel `{id}` cannot be opened: its row was changed or moved. Restore the database, or \
                 rotate the token"
            );
            fault
        })?;
    let secret = SecretText::new(secret.expose_secret().to_owned());
    tracing::info!(tunnel = %id, token = %token.id, by = %access.principal(), "tunnel token shown");
    Ok(ShownToken { id: token.id, secret })
}

/// Makes another token; the one before is refused from now on.
pub(crate) async fn rotate_token(
    app: &App,
    access: &Access,
    id: &TunnelId,
    reason: Option<String>,
) -> Result<ShownToken, ApiError> {
    let workspace = access.workspace()?;
    let (secret, token) = app.tunnels.fresh_token(workspace, id).await?;
    let by = access.principal().to_string();
    let _ruling = app.tunnels.ruling.lock().await;
    let row = app
        .store
        .rotate_tunnel_token(workspace, id, token, &by, reason, Time::now())
        .await?;
    app.tunnels.edge().token_rotated(id, row.generation);
    tracing::info!(tunnel = %id, token = %row.token_id, by, "tunnel token rotated");
    Ok(ShownToken {
        id: row.token_id,
        secret,
    })
}

/// Pauses a tunnel, or lets it go on.
pub(crate) async fn set_paused(
    app: &App,
    access: &Access,
    id: &TunnelId,
    paused: bool,
) -> Result<TunnelStatus, ApiError> {
    let ruling = app.tunnels.ruling.lock().await;
    let row = app
        .store
        .set_tunnel_paused(access.workspace()?, id, paused, Time::now())
        .await?;
    if paused {
        app.tunnels.edge().pause(id);
    } else {
        app.tunnels.edge().resume(id);
    }
    drop(ruling);
    tracing::info!(tunnel = %id, paused, by = %access.principal(), "tunnel paused or resumed");
    status_of(app, row).await
}

/// How a tunnel is doing.
pub(crate) async fn status(app: &App, access: &Access, id: &TunnelId) -> Result<TunnelStatus, ApiError> {
    status_of(app, retrieve(app, access, id).await?).await
}

async fn status_of(app: &App, row: TunnelRow) -> Result<TunnelStatus, ApiError> {
    let edge = app.tunnels.edge();
    Ok(TunnelStatus {
        rotations: app
            .store
            .tunnel_rotations(&row.workspace_id, &row.id, ROTATIONS_SHOWN)
            .await?,
        authorities: app.store.tunnel_authorities(&row.id, Time::now()).await?.len(),
        edge_off: edge.off(),
        connections: edge.connections(&row.id),
        row,
    })
}

/// Where gateways connect.
pub(crate) fn edge(app: &App, _: &Access) -> Result<EdgeInfo, ApiError> {
    let edge = app.tunnels.edge();
    edge.info()
        .cloned()
        .ok_or_else(|| ApiError::absent(edge.off().unwrap_or_default()))
}

/// What passed through a tunnel, by route.
pub(crate) async fn usage(app: &App, access: &Access, id: &TunnelId) -> Result<Vec<RouteUsage>, ApiError> {
    let workspace = access.workspace()?;
    retrieve(app, access, id).await?;
    app.tunnels.flush_usage(&app.store).await?;
    Ok(app.store.tunnel_usage(workspace, id).await?)
}

/// A label that nobody guesses and that no tunnel had before.
fn fresh_label(random: &mut impl Rng) -> String {
    (0..LABEL_LEN)
        .map(|_| char::from(LABEL_ALPHABET[random.random_range(0..LABEL_ALPHABET.len())]))
        .collect()
}
