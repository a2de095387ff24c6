//! Workspaces: the boundary of who sees what. One is made with the store.

use outwork_wire::Time;
use outwork_wire::id::WorkspaceId;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{parsed, time};
use crate::{Store, StoreError};

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
}

const SELECT: &str = "SELECT id, name, created_at FROM workspaces";

impl Store {
    /// Makes a workspace.
    pub async fn create_workspace(&self, name: &str, now: Time) -> Result<WorkspaceRow, StoreError> {
        let row = WorkspaceRow {
            id: WorkspaceId::fresh(),
            name: name.to_owned(),
            created_at: now,
        };
        self.write(move |conn| {
            insert(conn, &row, false)?;
            Ok(row)
        })
        .await
    }

    /// The workspace of that id.
    pub async fn workspace(&self, id: &WorkspaceId) -> Result<WorkspaceRow, StoreError> {
        let id = id.clone();
        self.read(move |conn| {
            conn.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?
                .query_row([id.as_str()], read)
                .optional()?
                .ok_or_else(|| StoreError::not_found("workspace", &id))
        })
        .await
    }

    /// Every workspace, oldest first.
    pub async fn list_workspaces(&self) -> Result<Vec<WorkspaceRow>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY created_at, id"))?;
            Ok(statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

/// The id of the default workspace; makes it in a new store.
pub(crate) fn ensure_default(conn: &Connection, now: Time) -> Result<WorkspaceId, StoreError> {
    let found = conn
        .query_row(&format!("{SELECT} WHERE is_default = 1"), [], read)
        .optional()?;
    if let Some(row) = found {
        return Ok(row.id);
    }
    let row = WorkspaceRow {
        id: WorkspaceId::fresh(),
        name: "default".into(),
        created_at: now,
    };
    insert(conn, &row, true)?;
    Ok(row.id)
}

fn insert(conn: &Connection, row: &WorkspaceRow, is_default: bool) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO workspaces (id, name, is_default, created_at) VALUES (?1, ?2, ?3, ?4)",
        (row.id.as_str(), &row.name, is_default, row.created_at.as_micros()),
    )?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<WorkspaceRow> {
    Ok(WorkspaceRow {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        created_at: time(row, 2)?,
    })
}
