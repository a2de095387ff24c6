//! Environments: where the tools of sessions run.
//!
//! An archived environment serves the sessions that it has and takes no new ones. One with sessions that are not
//! over is not deleted, so that no session ever waits for workers that cannot come; its keys and its tokens end with
//! it.

use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::{Map, Value};

use crate::columns::{json, kind, kind_name, maybe_time, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// An environment.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentRow {
    /// Its id.
    pub id: EnvironmentId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Who runs its workers; never changes.
    pub kind: EnvironmentKind,
    /// Its name; several may have the same.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its configuration, as responses show it.
    pub config: Value,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// `organization` or `account`.
    pub scope: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// An environment to be made.
#[derive(Clone, Debug)]
pub struct NewEnvironment {
    /// Its id.
    pub id: EnvironmentId,
    /// Who runs its workers.
    pub kind: EnvironmentKind,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its configuration, as responses show it.
    pub config: Value,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// `organization` or `account`.
    pub scope: Option<String>,
}

const SELECT: &str = "SELECT id, workspace_id, kind, name, description, config, metadata, scope, created_at, \
    updated_at, archived_at FROM environments";

const LIVE_SESSIONS: &str = "FROM sessions s JOIN session_state t ON t.number = s.number \
    WHERE s.environment_id = ?1 AND s.workspace_id = ?2 AND t.status <> 'terminated'";

impl Store {
    /// Makes an environment.
    pub async fn create_environment(
        &self,
        workspace: &WorkspaceId,
        new: NewEnvironment,
        now: Time,
    ) -> Result<EnvironmentRow, StoreError> {
        let row = EnvironmentRow {
            id: new.id,
            workspace_id: workspace.clone(),
            kind: new.kind,
            name: new.name,
            description: new.description,
            config: new.config,
            metadata: new.metadata,
            scope: new.scope,
            created_at: now,
            updated_at: now,
            archived_at: None,
        };
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO environments (id, workspace_id, kind, name, description, config, metadata, scope, \
                 created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
            )?
            .execute((
                row.id.as_str(),
                row.workspace_id.as_str(),
                kind_name(row.kind),
                &row.name,
                &row.description,
                row.config.to_string(),
                serde_json::to_string(&row.metadata)?,
                &row.scope,
                now.as_micros(),
            ))?;
            Ok(row)
        })
        .await
    }

    /// The environment of that id.
    pub async fn environment(&self, workspace: &WorkspaceId, id: &EnvironmentId) -> Result<EnvironmentRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| find(conn, &workspace, &id)).await
    }

    /// The workspace and the kind of an environment, whosever it is: for the server's own workers, whose key
    /// opens no workspace.
    pub async fn locate_environment(&self, id: &EnvironmentId) -> Result<(WorkspaceId, EnvironmentKind), StoreError> {
        let id = id.clone();
        self.read(move |conn| {
            conn.prepare_cached("SELECT workspace_id, kind FROM environments WHERE id = ?1")?
                .query_row([id.as_str()], |row| Ok((parsed(row, 0)?, kind(row, 1)?)))
                .optional()?
                .ok_or_else(|| StoreError::not_found("environment", &id))
        })
        .await
    }

    /// Changes an environment by `edit`: name, description, config, metadata and scope are kept, changes of
    /// other fields are not. Refused with `Conflict` if it is archived.
    pub async fn update_environment<F>(
        &self,
        workspace: &WorkspaceId,
        id: &EnvironmentId,
        now: Time,
        edit: F,
    ) -> Result<EnvironmentRow, StoreError>
    where
        F: FnOnce(&mut EnvironmentRow) -> Result<(), StoreError> + Send + 'static,
    {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let before = find(conn, &workspace, &id)?;
            if before.archived_at.is_some() {
                return Err(StoreError::conflict(format!(
                    "environment `{id}` is archived and cannot be changed"
                )));
            }
            let mut row = before.clone();
            edit(&mut row)?;
            if row == before {
                return Ok(row);
            }
            conn.prepare_cached(
                "UPDATE environments SET name = ?2, description = ?3, config = ?4, metadata = ?5, scope = ?6, \
                 updated_at = ?7 WHERE id = ?1",
            )?
            .execute((
                id.as_str(),
                &row.name,
                &row.description,
                row.config.to_string(),
                serde_json::to_string(&row.metadata)?,
                &row.scope,
                now.as_micros(),
            ))?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// Environments, newest first.
    pub async fn list_environments(
        &self,
        workspace: &WorkspaceId,
        include_archived: bool,
        page: PageRequest,
    ) -> Result<Page<EnvironmentRow>, StoreError> {
        let mut filter = Filter::default().and("workspace_id = ?", [workspace.to_string()]);
        if !include_archived {
            filter = filter.and_plain("archived_at IS NULL");
        }
        self.read(move |conn| {
            Keyset {
                list: "environments",
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

    /// Archives an environment; one that is archived stays as it is.
    pub async fn archive_environment(
        &self,
        workspace: &WorkspaceId,
        id: &EnvironmentId,
        now: Time,
    ) -> Result<EnvironmentRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            conn.prepare_cached(
                "UPDATE environments SET archived_at = ?3, updated_at = ?3 \
                 WHERE id = ?1 AND workspace_id = ?2 AND archived_at IS NULL",
            )?
            .execute((id.as_str(), workspace.as_str(), now.as_micros()))?;
            find(conn, &workspace, &id)
        })
        .await
    }

    /// Deletes an environment and its keys; the tokens of its work items end at once. Refused with `Conflict` while
    /// sessions in it are not terminated, whether they have a work item or not.
    pub async fn delete_environment(
        &self,
        workspace: &WorkspaceId,
        id: &EnvironmentId,
        now: Time,
    ) -> Result<(), StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            find(conn, &workspace, &id)?;
            let place = (id.as_str(), workspace.as_str());
            let sessions: i64 = conn
                .prepare_cached(&format!("SELECT count(*) {LIVE_SESSIONS}"))?
                .query_row(place, |row| row.get(0))?;
            if sessions > 0 {
                let work: i64 = conn
                    .prepare_cached(
                        "SELECT count(*) FROM work WHERE environment_id = ?1 AND workspace_id = ?2 \
                         AND state <> 'stopped'",
                    )?
                    .query_row(place, |row| row.get(0))?;
                return Err(StoreError::conflict(format!(
                    "environment `{id}` still has {sessions} session(s) that are not terminated and {work} work item(s) \
                     that are not stopped: archive it and let them end, or delete it with `?force=true`, which \
                     terminates its sessions",
                )));
            }
            conn.prepare_cached(
                "UPDATE work SET state = 'stopped', stopped_at = coalesce(stopped_at, ?2), \
                 stop_requested_at = coalesce(stop_requested_at, ?2), lease_expires_at = NULL, token_hash = NULL \
                 WHERE environment_id = ?1 AND (state <> 'stopped' OR token_hash IS NOT NULL)",
            )?
            .execute((id.as_str(), now.as_micros()))?;
            conn.prepare_cached("DELETE FROM environment_keys WHERE environment_id = ?1")?
                .execute([id.as_str()])?;
            conn.prepare_cached("DELETE FROM environments WHERE id = ?1 AND workspace_id = ?2")?
                .execute(place)?;
            Ok(())
        })
        .await
    }
}

/// The environment of that id in the workspace.
pub(crate) fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
) -> Result<EnvironmentRow, StoreError> {
    conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("environment", id))
}

fn read(row: &Row<'_>) -> rusqlite::Result<EnvironmentRow> {
    Ok(EnvironmentRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        kind: kind(row, 2)?,
        name: row.get(3)?,
        description: row.get(4)?,
        config: json(row, 5)?,
        metadata: json(row, 6)?,
        scope: row.get(7)?,
        created_at: time(row, 8)?,
        updated_at: time(row, 9)?,
        archived_at: maybe_time(row, 10)?,
    })
}
