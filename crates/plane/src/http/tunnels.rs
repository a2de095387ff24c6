//! `/v1/tunnels`: what clients send for tunnels and what they are shown.
//!
//! `pause`, `resume`, `status`, `connections` and `usage` are this server's own; the rest is the contract's.

use outwork_store::{RouteUsage, TunnelRotation, TunnelRow};
use outwork_wire::Time;
use outwork_wire::id::{TunnelId, TunnelTokenId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::agents::{list_page, page_request};
use super::call::Call;
use super::render::Reply;
use crate::app::fields::check_length;
use crate::app::tunnels::{self, ShownToken, TunnelStatus};
use crate::edge::TunnelConnection;
use crate::error::ApiError;

const MAX_NAME: usize = 255;
const MAX_REASON: usize = 1000;
const MAX_PAGE: usize = 1000;

/// `POST /v1/tunnels`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let params = call.json::<CreateParams>()?;
    if let Some(name) = &params.display_name {
        check_length("display_name", name, 1..=MAX_NAME)?;
    }
    let row = tunnels::create(&call.app, &call.access, params.display_name).await?;
    Reply::json(&TunnelView::new(&row))
}

/// `GET /v1/tunnels`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let include_archived = call.query.flag("include_archived")?.unwrap_or(false);
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = tunnels::list(&call.app, &call.access, include_archived, page).await?;
    list_page(page, TunnelView::new)
}

/// `GET /v1/tunnels/{tunnel_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let row = tunnels::retrieve(&call.app, &call.access, &tunnel_id(&call)?).await?;
    Reply::json(&TunnelView::new(&row))
}

/// `POST /v1/tunnels/{tunnel_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let row = tunnels::archive(&call.app, &call.access, &tunnel_id(&call)?).await?;
    Reply::json(&TunnelView::new(&row))
}

/// `POST /v1/tunnels/{tunnel_id}/reveal_token`
pub(crate) async fn reveal_token(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let token = tunnels::reveal_token(&call.app, &call.access, &tunnel_id(&call)?).await?;
    token_reply(&token)
}

/// `POST /v1/tunnels/{tunnel_id}/rotate_token`
pub(crate) async fn rotate_token(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = tunnel_id(&call)?;
    let reason = call.json::<RotateParams>()?.reason;
    if let Some(reason) = &reason {
        check_length("reason", reason, 0..=MAX_REASON)?;
    }
    let token = tunnels::rotate_token(&call.app, &call.access, &id, reason).await?;
    token_reply(&token)
}

/// `POST /v1/tunnels/{tunnel_id}/pause`
pub(crate) async fn pause(call: Call) -> Result<Reply, ApiError> {
    set_paused(call, true).await
}

/// `POST /v1/tunnels/{tunnel_id}/resume`
pub(crate) async fn resume(call: Call) -> Result<Reply, ApiError> {
    set_paused(call, false).await
}

async fn set_paused(mut call: Call, paused: bool) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let status = tunnels::set_paused(&call.app, &call.access, &tunnel_id(&call)?, paused).await?;
    Reply::json(&StatusView::new(&status))
}

/// `GET /v1/tunnels/{tunnel_id}/status`
pub(crate) async fn status(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let status = tunnels::status(&call.app, &call.access, &tunnel_id(&call)?).await?;
    Reply::json(&StatusView::new(&status))
}

/// `GET /v1/tunnels/{tunnel_id}/connections`; all of them are one page.
pub(crate) async fn connections(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let status = tunnels::status(&call.app, &call.access, &tunnel_id(&call)?).await?;
    Reply::json(&json!({
        "data": status.connections.iter().map(ConnectionView::new).collect::<Vec<_>>(),
        "edge": EdgeView::new(&status),
    }))
}

/// `GET /v1/tunnels/{tunnel_id}/usage`
pub(crate) async fn usage(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = tunnel_id(&call)?;
    let routes = tunnels::usage(&call.app, &call.access, &id).await?;
    let sum = |of: fn(&RouteUsage) -> u64| routes.iter().map(of).fold(0, u64::saturating_add);
    Reply::json(&json!({
        "type": "tunnel_usage",
        "tunnel_id": id,
        "calls": sum(|route| route.calls),
        "bytes_in": sum(|route| route.bytes_in),
        "bytes_out": sum(|route| route.bytes_out),
        "routes": routes.iter().map(RouteView::new).collect::<Vec<_>>(),
    }))
}

/// `GET /v1/outwork/edge`
pub(crate) async fn edge(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let edge = tunnels::edge(&call.app, &call.access)?;
    Reply::json(&json!({
        "type": "tunnel_edge",
        "listen": edge.listen,
        "address": edge.public_address,
        "fingerprint": edge.fingerprint,
    }))
}

/// The tunnel in the path.
pub(super) fn tunnel_id(call: &Call) -> Result<TunnelId, ApiError> {
    call.id("tunnel_id", "tunnel")
}

fn token_reply(token: &ShownToken) -> Result<Reply, ApiError> {
    Reply::uncached(&TokenView {
        kind: "tunnel_token",
        id: &token.id,
        tunnel_token: token.secret.expose(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    #[serde(default)]
    display_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateParams {
    #[serde(default)]
    reason: Option<String>,
}

/// A tunnel as responses show it.
#[derive(Serialize)]
struct TunnelView {
    id: TunnelId,
    #[serde(rename = "type")]
    kind: &'static str,
    display_name: Option<String>,
    domain: String,
    created_at: Time,
    archived_at: Option<Time>,
}

impl TunnelView {
    fn new(row: &TunnelRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "tunnel",
            display_name: row.display_name.clone(),
            domain: row.domain.clone(),
            created_at: row.created_at,
            archived_at: row.archived_at,
        }
    }
}

#[derive(Serialize)]
struct TokenView<'a> {
    id: &'a TunnelTokenId,
    #[serde(rename = "type")]
    kind: &'static str,
    tunnel_token: &'a str,
}

#[derive(Serialize)]
struct StatusView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    tunnel_id: &'a TunnelId,
    paused: bool,
    paused_at: Option<Time>,
    archived_at: Option<Time>,
    active_certificates: usize,
    token: TokenStatusView<'a>,
    edge: EdgeView,
    connections: Vec<ConnectionView<'a>>,
}

impl<'a> StatusView<'a> {
    fn new(status: &'a TunnelStatus) -> Self {
        let row = &status.row;
        Self {
            kind: "tunnel_status",
            tunnel_id: &row.id,
            paused: row.paused_at.is_some(),
            paused_at: row.paused_at,
            archived_at: row.archived_at,
            active_certificates: status.authorities,
            token: TokenStatusView {
                id: &row.token_id,
                generation: row.generation,
                rotations: status.rotations.iter().map(RotationView::new).collect(),
            },
            edge: EdgeView::new(status),
            connections: status.connections.iter().map(ConnectionView::new).collect(),
        }
    }
}

/// What may be told of a token: everything but the token.
#[derive(Serialize)]
struct TokenStatusView<'a> {
    id: &'a TunnelTokenId,
    generation: u64,
    rotations: Vec<RotationView<'a>>,
}

#[derive(Serialize)]
struct RotationView<'a> {
    id: &'a TunnelTokenId,
    rotated_at: Time,
    rotated_by: &'a str,
    reason: Option<&'a str>,
}

impl<'a> RotationView<'a> {
    fn new(rotation: &'a TunnelRotation) -> Self {
        Self {
            id: &rotation.token_id,
            rotated_at: rotation.rotated_at,
            rotated_by: &rotation.rotated_by,
            reason: rotation.reason.as_deref(),
        }
    }
}

/// Whether gateways can connect at all.
#[derive(Serialize)]
struct EdgeView {
    listening: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

impl EdgeView {
    fn new(status: &TunnelStatus) -> Self {
        Self {
            listening: status.edge_off.is_none(),
            message: status.edge_off,
        }
    }
}

#[derive(Serialize)]
struct ConnectionView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    connection: &'a TunnelConnection,
}

impl<'a> ConnectionView<'a> {
    fn new(connection: &'a TunnelConnection) -> Self {
        Self {
            kind: "tunnel_connection",
            connection,
        }
    }
}

#[derive(Serialize)]
struct RouteView<'a> {
    route: &'a str,
    calls: u64,
    bytes_in: u64,
    bytes_out: u64,
    updated_at: Time,
}

impl<'a> RouteView<'a> {
    fn new(usage: &'a RouteUsage) -> Self {
        Self {
            route: &usage.route,
            calls: usage.calls,
            bytes_in: usage.bytes_in,
            bytes_out: usage.bytes_out,
            updated_at: usage.updated_at,
        }
    }
}
