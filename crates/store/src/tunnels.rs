//! Tunnels: their domains, their tokens, whether they are paused.
//!
//! A row stays for good, so a domain is never given out twice. The token is kept twice: sealed, for the owner who asks
//! to see it, and as a hash, for the edge that compares. A rotation counts the generation up; what was admitted under
//! an earlier one can be told by it. An archived tunnel has no token, no trusted certificate, and does not come back.

use outwork_wire::Time;
use outwork_wire::id::{TunnelId, TunnelTokenId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{count, maybe_time, parsed, time};
use crate::keys::KeyHash;
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// Rotations that are kept of one tunnel.
const ROTATIONS_KEPT: i64 = 100;

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRow {
    /// Its id.
    pub id: TunnelId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its name for people.
    pub display_name: Option<String>,
    /// The domain under which its servers are.
    pub domain: String,
    /// When it was made.
    pub created_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
    /// Since when nothing passes.
    pub paused_at: Option<Time>,
    /// The present token's id.
    pub token_id: TunnelTokenId,
    /// Counts the tokens, from 1.
    pub generation: u64,
}

/// A tunnel to be made.
#[derive(Clone)]
pub struct NewTunnel {
    /// Its id.
    pub id: TunnelId,
    /// Its name for people.
    pub display_name: Option<String>,
    /// Its domain, which no other tunnel has or had.
    pub domain: String,
    /// Its first token.
    pub token: NewTunnelToken,
}

/// A token to be kept. Has no `Debug`: what is sealed does not belong into a log either.
#[derive(Clone)]
pub struct NewTunnelToken {
    /// Its id.
    pub id: TunnelTokenId,
    /// The token, sealed.
    pub sealed: Vec<u8>,
    /// The hash of the token.
    pub hash: KeyHash,
}

/// The present token of a tunnel, sealed. Has no `Debug`.
pub struct TunnelToken {
    /// Its id.
    pub id: TunnelTokenId,
    /// The token, sealed.
    pub sealed: Vec<u8>,
}

/// A rotation of a tunnel's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRotation {
    /// The token that it made.
    pub token_id: TunnelTokenId,
    /// When.
    pub rotated_at: Time,
    /// Who asked for it.
    pub rotated_by: String,
    /// Why, in their words.
    pub reason: Option<String>,
}

/// A gateway that showed the present token of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelAdmission {
    /// The tunnel.
    pub tunnel_id: TunnelId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its domain.
    pub domain: String,
    /// Which of the tunnel's tokens it was.
    pub generation: u64,
    /// Whether the tunnel is paused: it may connect, nothing passes.
    pub paused: bool,
}

/// Why a gateway is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelRefusal {
    /// There is no such tunnel.
    Unknown,
    /// The tunnel is archived.
    Archived,
    /// The token is not the present one: never was, or was rotated.
    Token,
}

const SELECT: &str = "SELECT id, workspace_id, display_name, domain, created_at, archived_at, paused_at, token_id, \
    generation FROM tunnels";

impl Store {
    /// Makes a tunnel. Refused with `Conflict` when the workspace has `most` that are not archived.
    pub async fn create_tunnel(
        &self,
        workspace: &WorkspaceId,
        new: NewTunnel,
        most: usize,
        now: Time,
    ) -> Result<TunnelRow, StoreError> {
        let workspace = workspace.clone();
        self.write(move |conn| {
            let there: i64 = conn
                .prepare_cached("SELECT count(*) FROM tunnels WHERE workspace_id = ?1 AND archived_at IS NULL")?
                .query_row([workspace.as_str()], |row| row.get(0))?;
            if there >= most as i64 {
                return Err(StoreError::conflict(format!(
                    "this workspace has {there} tunnels that are not archived, and {most} is the most: archive one first"
                )));
            }
            conn.prepare_cached(
                "INSERT INTO tunnels (id, workspace_id, display_name, domain, created_at, token_id, token_sealed, \
                 token_hash, generation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)",
            )?
            .execute((
                new.id.as_str(),
                workspace.as_str(),
                &new.display_name,
                &new.domain,
                now.as_micros(),
                new.token.id.as_str(),
                &new.token.sealed,
                new.token.hash.bytes(),
            ))?;
            find(conn, &workspace, &new.id)
        })
        .await
    }

    /// The tunnel of that id.
    pub async fn tunnel(&self, workspace: &WorkspaceId, id: &TunnelId) -> Result<TunnelRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| find(conn, &workspace, &id)).await
    }

    /// Tunnels, newest first.
    pub async fn list_tunnels(
        &self,
        workspace: &WorkspaceId,
        include_archived: bool,
        page: PageRequest,
    ) -> Result<Page<TunnelRow>, StoreError> {
        let mut filter = Filter::default().and("workspace_id = ?", [workspace.to_string()]);
        if !include_archived {
            filter = filter.and_plain("archived_at IS NULL");
        }
        self.read(move |conn| {
            Keyset {
                list: "tunnels",
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

    /// Archives a tunnel with its certificates and forgets its token; one that is archived stays as it is.
    pub async fn archive_tunnel(
        &self,
        workspace: &WorkspaceId,
        id: &TunnelId,
        now: Time,
    ) -> Result<TunnelRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let changed = conn
                .prepare_cached(
                    "UPDATE tunnels SET archived_at = ?3, token_sealed = NULL, token_hash = NULL \
                     WHERE id = ?1 AND workspace_id = ?2 AND archived_at IS NULL",
                )?
                .execute((id.as_str(), workspace.as_str(), now.as_micros()))?;
            if changed > 0 {
                conn.prepare_cached(
                    "UPDATE tunnel_certificates SET archived_at = ?2 WHERE tunnel_id = ?1 AND archived_at IS NULL",
                )?
                .execute((id.as_str(), now.as_micros()))?;
            }
            find(conn, &workspace, &id)
        })
        .await
    }

    /// Pauses a tunnel, or lets it go on. What is as it should be stays as it is. Refused with `Conflict` if the
    /// tunnel is archived.
    pub async fn set_tunnel_paused(
        &self,
        workspace: &WorkspaceId,
        id: &TunnelId,
        paused: bool,
        now: Time,
    ) -> Result<TunnelRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            live(conn, &workspace, &id)?;
            let at = paused.then_some(now.as_micros());
            conn.prepare_cached("UPDATE tunnels SET paused_at = ?2 WHERE id = ?1 AND (paused_at IS NULL) = ?3")?
                .execute((id.as_str(), at, paused))?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// The present token of a tunnel, sealed. Refused with `Conflict` if the tunnel is archived.
    pub async fn tunnel_token(&self, workspace: &WorkspaceId, id: &TunnelId) -> Result<TunnelToken, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            let found: Option<(TunnelRow, Option<Vec<u8>>)> = conn
                .prepare_cached(&with_column("token_sealed"))?
                .query_row([id.as_str()], |row| Ok((read(row)?, row.get(9)?)))
                .optional()?
                .filter(|(row, _)| row.workspace_id == workspace);
            match found {
                None => Err(StoreError::not_found("tunnel", &id)),
                Some((_, None)) => Err(archived(&id)),
                Some((row, Some(sealed))) => Ok(TunnelToken {
                    id: row.token_id,
                    sealed,
                }),
            }
        })
        .await
    }

    /// Gives a tunnel another token; the one before is void when this returns. Refused with `Conflict` if the tunnel
    /// is archived.
    pub async fn rotate_tunnel_token(
        &self,
        workspace: &WorkspaceId,
        id: &TunnelId,
        token: NewTunnelToken,
        by: &str,
        reason: Option<String>,
        now: Time,
    ) -> Result<TunnelRow, StoreError> {
        let (workspace, id, by) = (workspace.clone(), id.clone(), by.to_owned());
        self.write(move |conn| {
            let before = live(conn, &workspace, &id)?;
            let generation = before.generation as i64 + 1;
            conn.prepare_cached(
                "UPDATE tunnels SET token_id = ?2, token_sealed = ?3, token_hash = ?4, generation = ?5 WHERE id = ?1",
            )?
            .execute((
                id.as_str(),
                token.id.as_str(),
                &token.sealed,
                token.hash.bytes(),
                generation,
            ))?;
            conn.prepare_cached(
                "INSERT INTO tunnel_rotations (tunnel_id, generation, token_id, rotated_at, rotated_by, reason) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                id.as_str(),
                generation,
                token.id.as_str(),
                now.as_micros(),
                &by,
                &reason,
            ))?;
            conn.prepare_cached("DELETE FROM tunnel_rotations WHERE tunnel_id = ?1 AND generation <= ?2")?
                .execute((id.as_str(), generation - ROTATIONS_KEPT))?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// The last rotations of a tunnel's token, newest first.
    pub async fn tunnel_rotations(
        &self,
        workspace: &WorkspaceId,
        id: &TunnelId,
        limit: usize,
    ) -> Result<Vec<TunnelRotation>, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            find(conn, &workspace, &id)?;
            let rows = conn
                .prepare_cached(
                    "SELECT token_id, rotated_at, rotated_by, reason FROM tunnel_rotations WHERE tunnel_id = ?1 \
                     ORDER BY generation DESC LIMIT ?2",
                )?
                .query_map((id.as_str(), limit as i64), |row| {
                    Ok(TunnelRotation {
                        token_id: parsed(row, 0)?,
                        rotated_at: time(row, 1)?,
                        rotated_by: row.get(2)?,
                        reason: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
        .await
    }

    /// Whether a gateway with this token may serve this tunnel, whosever it is: for the edge, which has no workspace
    /// until this tells it. The hashes are compared in constant time.
    pub async fn admit_to_tunnel(
        &self,
        id: &TunnelId,
        token: KeyHash,
    ) -> Result<Result<TunnelAdmission, TunnelRefusal>, StoreError> {
        let id = id.clone();
        self.read(move |conn| {
            // One query, so that the generation is that of the token which was compared.
            let found = conn
                .prepare_cached(&with_column("token_hash"))?
                .query_row([id.as_str()], |row| {
                    let stored = row.get_ref(9)?.as_blob_or_null()?;
                    Ok((read(row)?, stored.is_some_and(|stored| token.is(stored))))
                })
                .optional()?;
            let Some((row, same)) = found else {
                return Ok(Err(TunnelRefusal::Unknown));
            };
            if row.archived_at.is_some() {
                return Ok(Err(TunnelRefusal::Archived));
            }
            if !same {
                return Ok(Err(TunnelRefusal::Token));
            }
            Ok(Ok(TunnelAdmission {
                tunnel_id: row.id,
                workspace_id: row.workspace_id,
                domain: row.domain,
                generation: row.generation,
                paused: row.paused_at.is_some(),
            }))
        })
        .await
    }

    /// Every tunnel that is paused, of all workspaces: for the edge, when it starts.
    pub async fn paused_tunnels(&self) -> Result<Vec<TunnelId>, StoreError> {
        self.read(|conn| {
            let rows = conn
                .prepare_cached("SELECT id FROM tunnels WHERE paused_at IS NOT NULL AND archived_at IS NULL")?
                .query_map([], |row| parsed(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows)
        })
        .await
    }

    /// The tunnel with that domain, whosever it is and archived or not: for whoever decides where a URL goes.
    pub async fn tunnel_of_domain(&self, domain: &str) -> Result<Option<TunnelRow>, StoreError> {
        let domain = domain.to_owned();
        self.read(move |conn| {
            Ok(conn
                .prepare_cached(&format!("{SELECT} WHERE domain = ?1"))?
                .query_row([&domain], read)
                .optional()?)
        })
        .await
    }
}

/// The tunnel of that id in the workspace.
pub(crate) fn find(conn: &Connection, workspace: &WorkspaceId, id: &TunnelId) -> Result<TunnelRow, StoreError> {
    conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("tunnel", id))
}

/// The same; refused if it is archived.
pub(crate) fn live(conn: &Connection, workspace: &WorkspaceId, id: &TunnelId) -> Result<TunnelRow, StoreError> {
    let row = find(conn, workspace, id)?;
    if row.archived_at.is_some() {
        return Err(archived(id));
    }
    Ok(row)
}

fn archived(id: &TunnelId) -> StoreError {
    StoreError::conflict(format!(
        "tunnel `{id}` is archived, which cannot be undone: make another tunnel"
    ))
}

/// The tunnel of an id with one more column, the tenth.
fn with_column(name: &str) -> String {
    format!(
        "{} WHERE id = ?1",
        SELECT.replace(" FROM tunnels", &format!(", {name} FROM tunnels"))
    )
}

fn read(row: &Row<'_>) -> rusqlite::Result<TunnelRow> {
    Ok(TunnelRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        display_name: row.get(2)?,
        domain: row.get(3)?,
        created_at: time(row, 4)?,
        archived_at: maybe_time(row, 5)?,
        paused_at: maybe_time(row, 6)?,
        token_id: parsed(row, 7)?,
        generation: count(row, 8)?,
    })
}
