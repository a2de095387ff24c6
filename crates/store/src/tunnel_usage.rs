//! What passed through tunnels: calls and bytes, by tunnel and route, added up for good.

use outwork_wire::Time;
use outwork_wire::id::{TunnelId, WorkspaceId};

use crate::columns::{count, time};
use crate::{Store, StoreError};

/// What passed through one route of a tunnel since it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteUsage {
    /// The host name that was called.
    pub route: String,
    /// Calls that were begun.
    pub calls: u64,
    /// Bytes from the gateway to the plane.
    pub bytes_in: u64,
    /// Bytes from the plane to the gateway.
    pub bytes_out: u64,
    /// When something was last added.
    pub updated_at: Time,
}

/// What passed since it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageDelta {
    /// The tunnel.
    pub tunnel_id: TunnelId,
    /// The host name that was called.
    pub route: String,
    /// Calls that were begun.
    pub calls: u64,
    /// Bytes from the gateway to the plane.
    pub bytes_in: u64,
    /// Bytes from the plane to the gateway.
    pub bytes_out: u64,
}

impl Store {
    /// Adds what passed: all of it or nothing.
    pub async fn add_tunnel_usage(&self, deltas: Vec<UsageDelta>, now: Time) -> Result<(), StoreError> {
        if deltas.is_empty() {
            return Ok(());
        }
        self.write(move |conn| {
            let mut statement = conn.prepare_cached(
                "INSERT INTO tunnel_usage (tunnel_id, route, calls, bytes_in, bytes_out, updated_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (tunnel_id, route) DO UPDATE SET calls = calls + excluded.calls, \
                 bytes_in = bytes_in + excluded.bytes_in, bytes_out = bytes_out + excluded.bytes_out, \
                 updated_at = excluded.updated_at",
            )?;
            for delta in &deltas {
                statement.execute((
                    delta.tunnel_id.as_str(),
                    &delta.route,
                    delta.calls as i64,
                    delta.bytes_in as i64,
                    delta.bytes_out as i64,
                    now.as_micros(),
                ))?;
            }
            Ok(())
        })
        .await
    }

    /// What passed through each route of a tunnel, by name.
    pub async fn tunnel_usage(&self, workspace: &WorkspaceId, id: &TunnelId) -> Result<Vec<RouteUsage>, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            crate::tunnels::find(conn, &workspace, &id)?;
            let rows = conn
                .prepare_cached(
                    "SELECT route, calls, bytes_in, bytes_out, updated_at FROM tunnel_usage WHERE tunnel_id = ?1 \
                     ORDER BY route",
                )?
                .query_map([id.as_str()], |row| {
                    Ok(RouteUsage {
                        route: row.get(0)?,
                        calls: count(row, 1)?,
                        bytes_in: count(row, 2)?,
                        bytes_out: count(row, 3)?,
                        updated_at: time(row, 4)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
        .await
    }
}
