//! Vaults: the credentials of one end user, for sessions that name the vault.
//!
//! An archived vault stays to be read, without any secret: archiving it archives its credentials. Deleting one deletes
//! them. Sessions keep the id of a vault that is gone and find nothing in it.

use outwork_wire::Time;
use outwork_wire::id::{VaultId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::{Map, Value};

use crate::columns::{json, maybe_time, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// A vault.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultRow {
    /// Its id.
    pub id: VaultId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its name; several may have the same.
    pub display_name: String,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// A vault to be made.
#[derive(Clone, Debug)]
pub struct NewVault {
    /// Its id.
    pub id: VaultId,
    /// Its name.
    pub display_name: String,
    /// Strings by name.
    pub metadata: Map<String, Value>,
}

const SELECT: &str = "SELECT id, workspace_id, display_name, metadata, created_at, updated_at, archived_at FROM vaults";

impl Store {
    /// Makes a vault.
    pub async fn create_vault(
        &self,
        workspace: &WorkspaceId,
        new: NewVault,
        now: Time,
    ) -> Result<VaultRow, StoreError> {
        let row = VaultRow {
            id: new.id,
            workspace_id: workspace.clone(),
            display_name: new.display_name,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            archived_at: None,
        };
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO vaults (id, workspace_id, display_name, metadata, created_at, updated_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            )?
            .execute((
                row.id.as_str(),
                row.workspace_id.as_str(),
                &row.display_name,
                serde_json::to_string(&row.metadata)?,
                now.as_micros(),
            ))?;
            Ok(row)
        })
        .await
    }

    /// The vault of that id.
    pub async fn vault(&self, workspace: &WorkspaceId, id: &VaultId) -> Result<VaultRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| find(conn, &workspace, &id)).await
    }

    /// Changes a vault by `edit`: name and metadata are kept, changes of other fields are not. Refused with `Conflict`
    /// if it is archived.
    pub async fn update_vault<F>(
        &self,
        workspace: &WorkspaceId,
        id: &VaultId,
        now: Time,
        edit: F,
    ) -> Result<VaultRow, StoreError>
    where
        F: FnOnce(&mut VaultRow) -> Result<(), StoreError> + Send + 'static,
    {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let before = find_in_force(conn, &workspace, &id)?;
            let mut row = before.clone();
            edit(&mut row)?;
            if row == before {
                return Ok(row);
            }
            conn.prepare_cached("UPDATE vaults SET display_name = ?2, metadata = ?3, updated_at = ?4 WHERE id = ?1")?
                .execute((
                    id.as_str(),
                    &row.display_name,
                    serde_json::to_string(&row.metadata)?,
                    now.as_micros(),
                ))?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// Vaults, newest first.
    pub async fn list_vaults(
        &self,
        workspace: &WorkspaceId,
        include_archived: bool,
        page: PageRequest,
    ) -> Result<Page<VaultRow>, StoreError> {
        let mut filter = Filter::default().and("workspace_id = ?", [workspace.to_string()]);
        if !include_archived {
            filter = filter.and_plain("archived_at IS NULL");
        }
        self.read(move |conn| {
            Keyset {
                list: "vaults",
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

    /// Archives a vault and its credentials, whose secrets are deleted; one that is archived stays as it is.
    pub async fn archive_vault(
        &self,
        workspace: &WorkspaceId,
        id: &VaultId,
        now: Time,
    ) -> Result<VaultRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let row = find(conn, &workspace, &id)?;
            if row.archived_at.is_some() {
                return Ok(row);
            }
            conn.prepare_cached("UPDATE vaults SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")?
                .execute((id.as_str(), now.as_micros()))?;
            crate::vault_credentials::archive_all(conn, &id, now)?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// Deletes a vault with its credentials.
    pub async fn delete_vault(&self, workspace: &WorkspaceId, id: &VaultId) -> Result<(), StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            find(conn, &workspace, &id)?;
            crate::vault_credentials::delete_all(conn, &id)?;
            conn.prepare_cached("DELETE FROM vaults WHERE id = ?1 AND workspace_id = ?2")?
                .execute((id.as_str(), workspace.as_str()))?;
            Ok(())
        })
        .await
    }
}

/// The vault of that id in the workspace.
pub(crate) fn find(conn: &Connection, workspace: &WorkspaceId, id: &VaultId) -> Result<VaultRow, StoreError> {
    conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("vault", id))
}

/// The same; `Conflict` if it is archived.
pub(crate) fn find_in_force(conn: &Connection, workspace: &WorkspaceId, id: &VaultId) -> Result<VaultRow, StoreError> {
    let row = find(conn, workspace, id)?;
    if row.archived_at.is_some() {
        return Err(StoreError::conflict(format!(
            "vault `{id}` is archived: it cannot be changed and serves no session"
        )));
    }
    Ok(row)
}

fn read(row: &Row<'_>) -> rusqlite::Result<VaultRow> {
    Ok(VaultRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        display_name: row.get(2)?,
        metadata: json(row, 3)?,
        created_at: time(row, 4)?,
        updated_at: time(row, 5)?,
        archived_at: maybe_time(row, 6)?,
    })
}
