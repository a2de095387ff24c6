//! `/v1/tunnels/{tunnel_id}/certificates`: the authorities by which the plane knows a tunnel's gateways.

use outwork_store::TunnelCertificateRow;
use outwork_wire::Time;
use outwork_wire::id::{TunnelCertificateId, TunnelId};
use serde::{Deserialize, Serialize};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::render::Reply;
use super::tunnels::tunnel_id;
use crate::app::tunnel_certificates;
use crate::error::ApiError;

const MAX_PAGE: usize = 1000;

/// `POST /v1/tunnels/{tunnel_id}/certificates`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let tunnel = tunnel_id(&call)?;
    let pem = call.json::<CreateParams>()?.ca_certificate_pem;
    let row = tunnel_certificates::create(&call.app, &call.access, &tunnel, &pem).await?;
    Reply::json(&CertificateView::new(&row))
}

/// `GET /v1/tunnels/{tunnel_id}/certificates`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let include_archived = call.query.flag("include_archived")?.unwrap_or(false);
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let tunnel = tunnel_id(&call)?;
    let page = tunnel_certificates::list(&call.app, &call.access, &tunnel, include_archived, page).await?;
    list_page(page, CertificateView::new)
}

/// `GET /v1/tunnels/{tunnel_id}/certificates/{certificate_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (tunnel, id) = (tunnel_id(&call)?, certificate_id(&call)?);
    let row = tunnel_certificates::retrieve(&call.app, &call.access, &tunnel, &id).await?;
    Reply::json(&CertificateView::new(&row))
}

/// `POST /v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let (tunnel, id) = (tunnel_id(&call)?, certificate_id(&call)?);
    let row = tunnel_certificates::archive(&call.app, &call.access, &tunnel, &id).await?;
    Reply::json(&CertificateView::new(&row))
}

fn certificate_id(call: &Call) -> Result<TunnelCertificateId, ApiError> {
    call.id("certificate_id", "tunnel certificate")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    ca_certificate_pem: String,
}

/// A certificate as responses show it.
#[derive(Serialize)]
struct CertificateView {
    id: TunnelCertificateId,
    #[serde(rename = "type")]
    kind: &'static str,
    tunnel_id: TunnelId,
    fingerprint: String,
    created_at: Time,
    expires_at: Option<Time>,
    archived_at: Option<Time>,
}

impl CertificateView {
    fn new(row: &TunnelCertificateRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "tunnel_certificate",
            tunnel_id: row.tunnel_id.clone(),
            fingerprint: row.fingerprint.clone(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            archived_at: row.archived_at,
        }
    }
}
