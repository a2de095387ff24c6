//! Outputs of sessions: what a worker took out of a sandbox and handed over, and what it kept back and why.
//!
//! The same bytes at the same path are one output, however often they are handed over; other bytes at that path are a
//! further one. An output whose file was deleted stays known, so that its worker does not bring it again. A session has
//! a limited number of outputs, and of bytes in them.

use outwork_wire::Time;
use outwork_wire::id::{FileId, SessionId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{count, time};
use crate::files::{FileRow, NewFile};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// What became of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputState {
    /// It is a file.
    Stored {
        /// Which one; it may have been deleted.
        file_id: FileId,
        /// Whether it was.
        deleted: bool,
    },
    /// The worker kept it back.
    Refused {
        /// Why, for a person.
        reason: String,
    },
}

/// An output of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRow {
    /// Its number: the order in which outputs came.
    pub number: u64,
    /// Where it was, below the folder of outputs.
    pub path: String,
    /// How many bytes it has, if that is known.
    pub size_bytes: Option<u64>,
    /// The SHA-256 of its bytes, if that is known.
    pub sha256: Option<String>,
    /// What became of it.
    pub state: OutputState,
    /// When it came.
    pub created_at: Time,
}

/// An output that was kept back.
#[derive(Clone, Debug)]
pub struct RefusedOutput {
    /// Where it was, below the folder of outputs.
    pub path: String,
    /// Why, for a person.
    pub reason: String,
    /// How many bytes it has, if that is known.
    pub size_bytes: Option<u64>,
    /// The SHA-256 of its bytes, if that is known.
    pub sha256: Option<String>,
}

/// The most that one session hands over.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimits {
    /// Outputs, those that were kept back included.
    pub outputs: u64,
    /// Bytes of what is stored.
    pub bytes: u64,
}

const SELECT: &str = "SELECT number, path, size_bytes, sha256, state, file_id, reason, created_at, \
    NOT EXISTS (SELECT 1 FROM files f WHERE f.id = file_id) FROM session_outputs";

impl Store {
    /// Makes a file of an output. If the session has these bytes at this path already, that output is given back and
    /// the new blob stays loose.
    pub async fn create_output(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        path: &str,
        file: NewFile,
        limits: OutputLimits,
        now: Time,
    ) -> Result<(OutputRow, Option<FileRow>), StoreError> {
        let (workspace, session, path) = (workspace.clone(), session.clone(), path.to_owned());
        self.write(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            if let Some(known) = find(conn, &workspace, &session, &path, &file.sha256)? {
                return Ok((known, None));
            }
            check_limits(conn, &session, file.size_bytes, limits)?;
            let made = crate::files::insert(conn, &workspace, &file, now)?;
            conn.prepare_cached(
                "INSERT INTO session_outputs (workspace_id, session_id, path, state, size_bytes, sha256, file_id, \
                 created_at) VALUES (?1, ?2, ?3, 'stored', ?4, ?5, ?6, ?7)",
            )?
            .execute((
                workspace.as_str(),
                session.as_str(),
                &path,
                made.size_bytes as i64,
                &made.sha256,
                made.id.as_str(),
                now.as_micros(),
            ))?;
            let row = find(conn, &workspace, &session, &path, &made.sha256)?
                .ok_or_else(|| StoreError::internal("an output that was just written is not there"))?;
            Ok((row, Some(made)))
        })
        .await
    }

    /// Notes an output that was kept back. One that was kept back for the same reason before is not noted again.
    pub async fn note_refused_output(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        refused: RefusedOutput,
        limits: OutputLimits,
        now: Time,
    ) -> Result<OutputRow, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            let known: Option<OutputRow> = conn
                .prepare_cached(&format!(
                    "{SELECT} WHERE session_id = ?1 AND state = 'refused' AND path = ?2 AND reason = ?3 \
                     AND sha256 IS ?4 ORDER BY number DESC LIMIT 1"
                ))?
                .query_row(
                    (session.as_str(), &refused.path, &refused.reason, &refused.sha256),
                    read,
                )
                .optional()?;
            if let Some(known) = known {
                return Ok(known);
            }
            check_limits(conn, &session, 0, limits)?;
            conn.prepare_cached(
                "INSERT INTO session_outputs (workspace_id, session_id, path, state, size_bytes, sha256, reason, \
                 created_at) VALUES (?1, ?2, ?3, 'refused', ?4, ?5, ?6, ?7)",
            )?
            .execute((
                workspace.as_str(),
                session.as_str(),
                &refused.path,
                refused.size_bytes.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
                &refused.sha256,
                &refused.reason,
                now.as_micros(),
            ))?;
            let number = conn.last_insert_rowid();
            Ok(conn
                .prepare_cached(&format!("{SELECT} WHERE number = ?1"))?
                .query_row([number], read)?)
        })
        .await
    }

    /// Outputs of a session, newest first.
    pub async fn list_outputs(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        page: PageRequest,
    ) -> Result<Page<OutputRow>, StoreError> {
        let filter = Filter::default()
            .and("workspace_id = ?", [workspace.to_string()])
            .and("session_id = ?", [session.to_string()]);
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            Keyset {
                list: "outputs",
                select: SELECT,
                key: ("number", "path"),
                order: Order::Desc,
                filter,
            }
            .page(conn, &page, read, |row| (row.number as i64, row.path.clone()))
        })
        .await
    }
}

/// Deletes what is known of a session's outputs; their files stay.
pub(crate) fn delete_all(conn: &Connection, session: &SessionId) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM session_outputs WHERE session_id = ?1")?
        .execute([session.as_str()])?;
    Ok(())
}

fn check_limits(conn: &Connection, session: &SessionId, more: u64, limits: OutputLimits) -> Result<(), StoreError> {
    let (outputs, bytes): (i64, i64) = conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(CASE state WHEN 'stored' THEN size_bytes END), 0) FROM session_outputs \
             WHERE session_id = ?1",
        )?
        .query_row([session.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if outputs as u64 >= limits.outputs {
        return Err(StoreError::rejected(format!(
            "session `{session}` has {outputs} outputs, which is the most that one may have (files.session_outputs)"
        )));
    }
    if (bytes as u64).saturating_add(more) > limits.bytes {
        return Err(StoreError::rejected(format!(
            "the outputs of session `{session}` would have more than {} bytes together (files.session_output_bytes)",
            limits.bytes
        )));
    }
    Ok(())
}

fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    path: &str,
    sha256: &str,
) -> Result<Option<OutputRow>, StoreError> {
    Ok(conn
        .prepare_cached(&format!(
            "{SELECT} WHERE session_id = ?1 AND workspace_id = ?2 AND path = ?3 AND sha256 = ?4 AND state = 'stored'"
        ))?
        .query_row((session.as_str(), workspace.as_str(), path, sha256), read)
        .optional()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<OutputRow> {
    let state = match row.get_ref(4)?.as_str()? {
        "stored" => OutputState::Stored {
            file_id: crate::columns::parsed(row, 5)?,
            deleted: row.get(8)?,
        },
        _ => OutputState::Refused { reason: row.get(6)? },
    };
    Ok(OutputRow {
        number: count(row, 0)?,
        path: row.get(1)?,
        size_bytes: row.get::<_, Option<i64>>(2)?.map(|n| n.max(0) as u64),
        sha256: row.get(3)?,
        state,
        created_at: time(row, 7)?,
    })
}
