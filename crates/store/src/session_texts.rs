//! Results of tools that are too long for a conversation: the whole text, by the event of the call.
//!
//! A text is kept before the result that refers to it is in the log, so the log never speaks of a text that is not
//! there. It goes with its session.

use outwork_wire::Time;
use outwork_wire::id::{EventId, SessionId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use sha2::{Digest, Sha256};

use crate::columns::{count, parsed, time};
use crate::{Store, StoreError};

/// What is known of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTextRow {
    /// The event of the call.
    pub event_id: EventId,
    /// How many characters it has.
    pub characters: u64,
    /// How many bytes it has as UTF-8.
    pub size_bytes: u64,
    /// The SHA-256 of these bytes, in hexadecimal digits.
    pub sha256: String,
    /// When it came.
    pub created_at: Time,
}

const SELECT: &str = "SELECT event_id, characters, octet_length(text), sha256, created_at FROM session_texts";

impl Store {
    /// Keeps the text of a call's result. One that is there for this call is replaced.
    pub async fn keep_session_text(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        event: &EventId,
        text: String,
        now: Time,
    ) -> Result<(), StoreError> {
        let (workspace, session, event) = (workspace.clone(), session.clone(), event.clone());
        let characters = text.chars().count() as i64;
        let sha256 = hex(&Sha256::digest(text.as_bytes()));
        self.write(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            conn.prepare_cached(
                "INSERT INTO session_texts (session_id, event_id, workspace_id, text, characters, sha256, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (session_id, event_id) DO UPDATE SET text = ?4, \
                 characters = ?5, sha256 = ?6, created_at = ?7",
            )?
            .execute((
                session.as_str(),
                event.as_str(),
                workspace.as_str(),
                &text,
                characters,
                &sha256,
                now.as_micros(),
            ))?;
            Ok(())
        })
        .await
    }

    /// The texts of a session, in the order of their calls.
    pub async fn session_texts(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
    ) -> Result<Vec<SessionTextRow>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE session_id = ?1 ORDER BY event_id"))?;
            let rows = statement.query_map([session.as_str()], read)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The text of a call's result.
    pub async fn session_text(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        event: &EventId,
    ) -> Result<String, StoreError> {
        let (workspace, session, event) = (workspace.clone(), session.clone(), event.clone());
        self.read(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            conn.prepare_cached("SELECT text FROM session_texts WHERE session_id = ?1 AND event_id = ?2")?
                .query_row((session.as_str(), event.as_str()), |row| row.get(0))
                .optional()?
                .ok_or_else(|| StoreError::not_found("text", &event))
        })
        .await
    }
}

/// Deletes the texts of a session.
pub(crate) fn delete_all(conn: &Connection, session: &SessionId) -> Result<(), StoreError> {
    conn.prepare_cached("DELETE FROM session_texts WHERE session_id = ?1")?
        .execute([session.as_str()])?;
    Ok(())
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<SessionTextRow> {
    Ok(SessionTextRow {
        event_id: parsed(row, 0)?,
        characters: count(row, 1)?,
        size_bytes: count(row, 2)?,
        sha256: row.get(3)?,
        created_at: time(row, 4)?,
    })
}
