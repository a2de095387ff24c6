//! Files: what is known of them. Their bytes are blobs ([`crate::blobs`]), which only a file's row makes visible.
//!
//! A blob is noted as loose before it is written; the transaction that makes a file takes the note away, the one that
//! deletes a file sets it again. So a crash at any moment leaves a loose blob at worst, never a file without bytes, and
//! whoever removes loose blobs needs to look at nothing else.

use outwork_wire::Time;
use outwork_wire::id::{FileId, SessionId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use crate::columns::{count, maybe_time, micros, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// Its id.
    pub id: FileId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its name, without folders.
    pub filename: String,
    /// Its media type.
    pub mime_type: String,
    /// How many bytes it has, or had.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Whether clients may have its bytes.
    pub downloadable: bool,
    /// The session that brought it forth; may be gone.
    pub scope: Option<SessionId>,
    /// The key of its bytes; none once they are gone.
    pub blob: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When its bytes go.
    pub expires_at: Option<Time>,
}

impl FileRow {
    /// Whether its bytes are still to be had.
    pub fn has_bytes(&self, now: Time) -> bool {
        self.blob.is_some() && self.expires_at.is_none_or(|at| at > now)
    }
}

/// A file to be made, of a blob that was written.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Its id.
    pub id: FileId,
    /// Its name, without folders.
    pub filename: String,
    /// Its media type.
    pub mime_type: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Whether clients may have its bytes.
    pub downloadable: bool,
    /// The session that brings it forth.
    pub scope: Option<SessionId>,
    /// The key of its bytes.
    pub blob: String,
    /// When its bytes go.
    pub expires_at: Option<Time>,
}

const SELECT: &str = "SELECT id, workspace_id, filename, mime_type, size_bytes, sha256, downloadable, scope_session, \
    blob, created_at, expires_at FROM files";

impl Store {
    /// Notes a blob that is about to be written.
    pub async fn note_loose_blob(&self, blob: &str, now: Time) -> Result<(), StoreError> {
        let blob = blob.to_owned();
        self.write(move |conn| loosen(conn, &blob, now)).await
    }

    /// Makes a file of a blob that was noted as loose. `Conflict` if the note is gone: the blob may be, too.
    pub async fn create_file(&self, workspace: &WorkspaceId, new: NewFile, now: Time) -> Result<FileRow, StoreError> {
        let workspace = workspace.clone();
        self.write(move |conn| insert(conn, &workspace, &new, now)).await
    }

    /// The file of that id.
    pub async fn file(&self, workspace: &WorkspaceId, id: &FileId) -> Result<FileRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| find(conn, &workspace, &id)).await
    }

    /// Files, newest first; those of one session if it is given.
    pub async fn list_files(
        &self,
        workspace: &WorkspaceId,
        scope: Option<&str>,
        page: PageRequest,
    ) -> Result<Page<FileRow>, StoreError> {
        let filter = Filter::default()
            .and("workspace_id = ?", [workspace.to_string()])
            .and_if("scope_session = ?", scope.map(str::to_owned));
        self.read(move |conn| {
            Keyset {
                list: "files",
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

    /// Those of the files that there are, newest first; of one session if it is given.
    pub async fn files_of_ids(
        &self,
        workspace: &WorkspaceId,
        scope: Option<&str>,
        ids: &[FileId],
    ) -> Result<Vec<FileRow>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let filter = Filter::default()
            .and("workspace_id = ?", [workspace.to_string()])
            .and_if("scope_session = ?", scope.map(str::to_owned))
            .and_in("id", &ids);
        self.read(move |conn| {
            let sql = format!("{SELECT} WHERE {} ORDER BY created_at DESC, id DESC", filter.sql());
            let mut statement = conn.prepare(&sql)?;
            let rows = statement.query_map(params_from_iter(filter.values()), read)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Deletes a file; its blob, if it had one, is loose then.
    pub async fn delete_file(&self, workspace: &WorkspaceId, id: &FileId, now: Time) -> Result<FileRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let row = find(conn, &workspace, &id)?;
            conn.prepare_cached("DELETE FROM files WHERE id = ?1")?
                .execute([id.as_str()])?;
            if let Some(blob) = &row.blob {
                loosen(conn, blob, now)?;
            }
            Ok(row)
        })
        .await
    }

    /// Takes the bytes of files whose time is over, at most `limit` of them; what is known of them stays. How many it
    /// were.
    pub async fn expire_files(&self, now: Time, limit: usize) -> Result<usize, StoreError> {
        self.write(move |conn| {
            let ended: Vec<(String, String)> = conn
                .prepare_cached(
                    "SELECT id, blob FROM files WHERE expires_at IS NOT NULL AND blob IS NOT NULL AND expires_at <= ?1 \
                     ORDER BY expires_at LIMIT ?2",
                )?
                .query_map((now.as_micros(), limit as i64), |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (id, blob) in &ended {
                conn.prepare_cached("UPDATE files SET blob = NULL WHERE id = ?1")?
                    .execute([id])?;
                loosen(conn, blob, now)?;
            }
            Ok(ended.len())
        })
        .await
    }

    /// Loose blobs, those first that have been for the longest time.
    pub async fn loose_blobs(&self, limit: usize) -> Result<Vec<String>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT blob FROM loose_blobs ORDER BY since, blob LIMIT ?1")?;
            let blobs = statement.query_map([limit as i64], |row| row.get(0))?;
            Ok(blobs.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Those of the blobs that are loose now.
    pub async fn still_loose(&self, blobs: Vec<String>) -> Result<Vec<String>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT 1 FROM loose_blobs WHERE blob = ?1")?;
            let mut loose = Vec::new();
            for blob in blobs {
                if statement.exists([&blob])? {
                    loose.push(blob);
                }
            }
            Ok(loose)
        })
        .await
    }

    /// Notes that loose blobs were removed.
    pub async fn forget_loose_blobs(&self, blobs: Vec<String>) -> Result<(), StoreError> {
        self.write(move |conn| {
            for blob in &blobs {
                conn.prepare_cached("DELETE FROM loose_blobs WHERE blob = ?1")?
                    .execute([blob])?;
            }
            Ok(())
        })
        .await
    }
}

/// The file of that id in the workspace.
pub(crate) fn find(conn: &Connection, workspace: &WorkspaceId, id: &FileId) -> Result<FileRow, StoreError> {
    conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("file", id))
}

/// Writes the row of a file.
pub(crate) fn insert(
    conn: &Connection,
    workspace: &WorkspaceId,
    new: &NewFile,
    now: Time,
) -> Result<FileRow, StoreError> {
    let noted = conn
        .prepare_cached("DELETE FROM loose_blobs WHERE blob = ?1")?
        .execute([&new.blob])?;
    if noted == 0 {
        return Err(StoreError::conflict(format!(
            "the bytes of file `{}` were removed before it was made: send it again",
            new.id
        )));
    }
    conn.prepare_cached(
        "INSERT INTO files (id, workspace_id, filename, mime_type, size_bytes, sha256, downloadable, scope_session, \
         blob, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute((
        new.id.as_str(),
        workspace.as_str(),
        &new.filename,
        &new.mime_type,
        i64::try_from(new.size_bytes).unwrap_or(i64::MAX),
        &new.sha256,
        new.downloadable,
        new.scope.as_ref().map(SessionId::as_str),
        &new.blob,
        now.as_micros(),
        micros(new.expires_at),
    ))?;
    find(conn, workspace, &new.id)
}

/// Notes a blob that no file has.
pub(crate) fn loosen(conn: &Connection, blob: &str, now: Time) -> Result<(), StoreError> {
    conn.prepare_cached("INSERT INTO loose_blobs (blob, since) VALUES (?1, ?2) ON CONFLICT (blob) DO NOTHING")?
        .execute((blob, now.as_micros()))?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    Ok(FileRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        filename: row.get(2)?,
        mime_type: row.get(3)?,
        size_bytes: count(row, 4)?,
        sha256: row.get(5)?,
        downloadable: row.get(6)?,
        scope: match row.get::<_, Option<String>>(7)? {
            Some(_) => Some(parsed(row, 7)?),
            None => None,
        },
        blob: row.get(8)?,
        created_at: time(row, 9)?,
        expires_at: maybe_time(row, 10)?,
    })
}
