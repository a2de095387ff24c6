//! The certificate authorities of tunnels. Which is taken says [`Authority::parse`].

use outwork_store::{NewTunnelCertificate, Page, PageRequest, TunnelCertificateRow};
use outwork_tunnel::certificate::Authority;
use outwork_wire::Time;
use outwork_wire::id::{TunnelCertificateId, TunnelId};
use serde_json::json;

use super::{App, tunnels};
use crate::auth::Access;
use crate::error::ApiError;

/// The most authorities that a tunnel trusts: one, and the one that follows it.
const MAX_ACTIVE: usize = 2;
/// The end of time in certificates: RFC 5280, 4.1.2.5, gives it to those that do not expire.
const NEVER: Time = Time::from_micros(253_402_300_799_000_000);

/// Registers an authority.
pub(crate) async fn create(
    app: &App,
    access: &Access,
    tunnel: &TunnelId,
    pem: &str,
) -> Result<TunnelCertificateRow, ApiError> {
    // Whose tunnel it is comes before what is wrong with the certificate.
    tunnels::retrieve(app, access, tunnel).await?;
    let now = Time::now();
    let authority = Authority::parse(pem, now).map_err(|broken| {
        ApiError::invalid(format!("ca_certificate_pem: {}: {broken}", broken.rule()))
            .with_details(json!({ "rule": broken.rule() }))
    })?;
    let new = NewTunnelCertificate {
        id: TunnelCertificateId::fresh(),
        fingerprint: authority.fingerprint,
        der: authority.der.to_vec(),
        expires_at: (authority.expires_at < NEVER).then_some(authority.expires_at),
    };
    let row = app
        .store
        .create_tunnel_certificate(access.workspace()?, tunnel, new, MAX_ACTIVE, now)
        .await?;
    app.tunnels.edge().authorities_changed(tunnel);
    tracing::info!(
        %tunnel, certificate = %row.id, fingerprint = row.fingerprint, by = %access.principal(),
        "tunnel certificate registered"
    );
    Ok(row)
}

/// The authority of that id.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    tunnel: &TunnelId,
    id: &TunnelCertificateId,
) -> Result<TunnelCertificateRow, ApiError> {
    Ok(app.store.tunnel_certificate(access.workspace()?, tunnel, id).await?)
}

/// The authorities of a tunnel, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    tunnel: &TunnelId,
    include_archived: bool,
    page: PageRequest,
) -> Result<Page<TunnelCertificateRow>, ApiError> {
    Ok(app
        .store
        .list_tunnel_certificates(access.workspace()?, tunnel, include_archived, page)
        .await?)
}

/// Takes an authority out of those that are trusted. With the last one gone nothing passes.
pub(crate) async fn archive(
    app: &App,
    access: &Access,
    tunnel: &TunnelId,
    id: &TunnelCertificateId,
) -> Result<TunnelCertificateRow, ApiError> {
    let row = app
        .store
        .archive_tunnel_certificate(access.workspace()?, tunnel, id, Time::now())
        .await?;
    app.tunnels.edge().authorities_changed(tunnel);
    tracing::info!(%tunnel, certificate = %id, by = %access.principal(), "tunnel certificate archived");
    Ok(row)
}
