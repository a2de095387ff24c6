//! Data keys: one per workspace, sealed under a master key that the database never sees.

use outwork_wire::Time;
use outwork_wire::id::{DataKeyId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{parsed, time};
use crate::{Store, StoreError};

/// A sealed data key. The bytes say nothing without the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKeyRow {
    /// Its id.
    pub id: DataKeyId,
    /// Whose secrets it seals.
    pub workspace_id: WorkspaceId,
    /// The master key that it is sealed under.
    pub master_key_id: String,
    /// The sealed key.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Time,
}

const SELECT: &str = "SELECT id, workspace_id, master_key_id, sealed, created_at FROM data_keys";

impl Store {
    /// The data key of a workspace.
    pub async fn data_key(&self, workspace: &WorkspaceId) -> Result<Option<DataKeyRow>, StoreError> {
        let workspace = workspace.clone();
        self.read(move |conn| find(conn, &workspace)).await
    }

    /// Every data key, oldest first.
    pub async fn data_keys(&self) -> Result<Vec<DataKeyRow>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY created_at, id"))?;
            Ok(statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Keeps the data key of a workspace, unless it has one; the one that it has.
    pub async fn keep_data_key(&self, row: DataKeyRow) -> Result<DataKeyRow, StoreError> {
        self.write(move |conn| {
            if let Some(found) = find(conn, &row.workspace_id)? {
                return Ok(found);
            }
            conn.prepare_cached(
                "INSERT INTO data_keys (id, workspace_id, master_key_id, sealed, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                row.id.as_str(),
                row.workspace_id.as_str(),
                &row.master_key_id,
                &row.sealed,
                row.created_at.as_micros(),
            ))?;
            Ok(row)
        })
        .await
    }

    /// Replaces the sealed form of data keys: all of them or none.
    pub async fn reseal_data_keys(&self, rows: Vec<DataKeyRow>) -> Result<(), StoreError> {
        self.write(move |conn| {
            for row in &rows {
                let changed = conn
                    .prepare_cached("UPDATE data_keys SET master_key_id = ?2, sealed = ?3 WHERE id = ?1")?
                    .execute((row.id.as_str(), &row.master_key_id, &row.sealed))?;
                if changed != 1 {
                    return Err(StoreError::not_found("data key", &row.id));
                }
            }
            Ok(())
        })
        .await
    }
}

fn find(conn: &Connection, workspace: &WorkspaceId) -> Result<Option<DataKeyRow>, StoreError> {
    Ok(conn
        .prepare_cached(&format!("{SELECT} WHERE workspace_id = ?1"))?
        .query_row([workspace.as_str()], read)
        .optional()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<DataKeyRow> {
    Ok(DataKeyRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        master_key_id: row.get(2)?,
        sealed: row.get(3)?,
        created_at: time(row, 4)?,
    })
}
