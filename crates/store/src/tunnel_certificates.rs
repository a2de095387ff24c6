//! The certificate authorities of tunnels: whom the plane believes that it speaks to a gateway.
//!
//! What is active is trusted. Two at most, so that one can follow the other; none means that nothing passes.

use outwork_wire::Time;
use outwork_wire::id::{TunnelCertificateId, TunnelId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{maybe_time, micros, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// A certificate authority of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelCertificateRow {
    /// Its id.
    pub id: TunnelCertificateId,
    /// The tunnel.
    pub tunnel_id: TunnelId,
    /// SHA-256 of its DER, in lowercase hexadecimal.
    pub fingerprint: String,
    /// When it was registered.
    pub created_at: Time,
    /// When it expires by itself; absent if never.
    pub expires_at: Option<Time>,
    /// Since when it is not trusted any more.
    pub archived_at: Option<Time>,
}

/// A certificate authority to be registered; its rules were checked.
#[derive(Clone, Debug)]
pub struct NewTunnelCertificate {
    /// Its id.
    pub id: TunnelCertificateId,
    /// SHA-256 of its DER, in lowercase hexadecimal.
    pub fingerprint: String,
    /// Its DER.
    pub der: Vec<u8>,
    /// When it expires by itself; absent if never.
    pub expires_at: Option<Time>,
}

const SELECT: &str = "SELECT id, tunnel_id, fingerprint, created_at, expires_at, archived_at FROM tunnel_certificates";

impl Store {
    /// Registers an authority. Refused with `Conflict` when the tunnel is archived, has this one already, or has
    /// `most` that are active.
    pub async fn create_tunnel_certificate(
        &self,
        workspace: &WorkspaceId,
        tunnel: &TunnelId,
        new: NewTunnelCertificate,
        most: usize,
        now: Time,
    ) -> Result<TunnelCertificateRow, StoreError> {
        let (workspace, tunnel) = (workspace.clone(), tunnel.clone());
        self.write(move |conn| {
            crate::tunnels::live(conn, &workspace, &tunnel)?;
            let active: Vec<(String, String)> = conn
                .prepare_cached(
                    "SELECT id, fingerprint FROM tunnel_certificates WHERE tunnel_id = ?1 AND archived_at IS NULL",
                )?
                .query_map([tunnel.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            if let Some((id, _)) = active.iter().find(|(_, fingerprint)| *fingerprint == new.fingerprint) {
                return Err(StoreError::conflict(format!(
                    "this certificate is registered for the tunnel already, as `{id}`"
                )));
            }
            if active.len() >= most {
                return Err(StoreError::conflict(format!(
                    "tunnel `{tunnel}` has {} active certificates, and {most} is the most: archive one first",
                    active.len()
                )));
            }
            conn.prepare_cached(
                "INSERT INTO tunnel_certificates (id, workspace_id, tunnel_id, fingerprint, der, created_at, \
                 expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                new.id.as_str(),
                workspace.as_str(),
                tunnel.as_str(),
                &new.fingerprint,
                &new.der,
                now.as_micros(),
                micros(new.expires_at),
            ))?;
            find(conn, &workspace, &tunnel, &new.id)
        })
        .await
    }

    /// The authority of that id.
    pub async fn tunnel_certificate(
        &self,
        workspace: &WorkspaceId,
        tunnel: &TunnelId,
        id: &TunnelCertificateId,
    ) -> Result<TunnelCertificateRow, StoreError> {
        let (workspace, tunnel, id) = (workspace.clone(), tunnel.clone(), id.clone());
        self.read(move |conn| {
            crate::tunnels::find(conn, &workspace, &tunnel)?;
            find(conn, &workspace, &tunnel, &id)
        })
        .await
    }

    /// The authorities of a tunnel, newest first.
    pub async fn list_tunnel_certificates(
        &self,
        workspace: &WorkspaceId,
        tunnel: &TunnelId,
        include_archived: bool,
        page: PageRequest,
    ) -> Result<Page<TunnelCertificateRow>, StoreError> {
        let (workspace, tunnel) = (workspace.clone(), tunnel.clone());
        self.read(move |conn| {
            crate::tunnels::find(conn, &workspace, &tunnel)?;
            let mut filter = Filter::default().and("tunnel_id = ?", [tunnel.to_string()]);
            if !include_archived {
                filter = filter.and_plain("archived_at IS NULL");
            }
            Keyset {
                list: "tunnel_certificates",
                select: SELECT,
                key: ("created_at", "id"),
                order: Order::Desc,
                filter,
            }
            .page(conn, &page, read, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// Takes an authority out of those that are trusted; one that is archived stays as it is. The last may go, too.
    pub async fn archive_tunnel_certificate(
        &self,
        workspace: &WorkspaceId,
        tunnel: &TunnelId,
        id: &TunnelCertificateId,
        now: Time,
    ) -> Result<TunnelCertificateRow, StoreError> {
        let (workspace, tunnel, id) = (workspace.clone(), tunnel.clone(), id.clone());
        self.write(move |conn| {
            crate::tunnels::find(conn, &workspace, &tunnel)?;
            conn.prepare_cached(
                "UPDATE tunnel_certificates SET archived_at = ?3 \
                 WHERE id = ?1 AND tunnel_id = ?2 AND archived_at IS NULL",
            )?
            .execute((id.as_str(), tunnel.as_str(), now.as_micros()))?;
            find(conn, &workspace, &tunnel, &id)
        })
        .await
    }

    /// The DER of every authority that a tunnel trusts at this time. None means that nothing may pass.
    pub async fn tunnel_authorities(&self, tunnel: &TunnelId, now: Time) -> Result<Vec<Vec<u8>>, StoreError> {
        let tunnel = tunnel.clone();
        self.read(move |conn| {
            let rows = conn
                .prepare_cached(
                    "SELECT der FROM tunnel_certificates WHERE tunnel_id = ?1 AND archived_at IS NULL \
                     AND (expires_at IS NULL OR expires_at > ?2) ORDER BY created_at, id",
                )?
                .query_map((tunnel.as_str(), now.as_micros()), |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
        .await
    }
}

fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    tunnel: &TunnelId,
    id: &TunnelCertificateId,
) -> Result<TunnelCertificateRow, StoreError> {
    conn.prepare_cached(&format!(
        "{SELECT} WHERE id = ?1 AND tunnel_id = ?2 AND workspace_id = ?3"
    ))?
    .query_row((id.as_str(), tunnel.as_str(), workspace.as_str()), read)
    .optional()?
    .ok_or_else(|| StoreError::not_found("tunnel certificate", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<TunnelCertificateRow> {
    Ok(TunnelCertificateRow {
        id: parsed(row, 0)?,
        tunnel_id: parsed(row, 1)?,
        fingerprint: row.get(2)?,
        created_at: time(row, 3)?,
        expires_at: maybe_time(row, 4)?,
        archived_at: maybe_time(row, 5)?,
    })
}
