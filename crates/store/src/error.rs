//! The one error of this crate.
//!
//! Variants are named for what was attempted or found, so that the plane can turn each into a status in one
//! `match`. SQLite's own errors are sorted here, once: no space and failing disks are passing (`Unavailable`),
//! damaged files are not (`Corrupt`), everything else is a defect of ours (`Internal`).

use std::path::{Path, PathBuf};

use outwork_wire::id::{EventId, SessionId};
use rusqlite::ErrorCode;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of that id is in this workspace.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// What was looked for, for example `agent`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The request does not fit the present state of the thing.
    #[error("{message}")]
    Conflict {
        /// For a person: what is in the way and what to do.
        message: String,
    },
    /// An edit that the caller passed in refused what it saw.
    #[error("{message}")]
    Rejected {
        /// The caller's own words.
        message: String,
    },
    /// An append or a lease call carries a generation that is not the present one.
    #[error("session `{session}` is held by generation {current}, not by {given}: stop working on it")]
    StaleGeneration {
        /// The session.
        session: SessionId,
        /// What the caller believed.
        given: u64,
        /// What holds.
        current: u64,
    },
    /// An append was computed over a log that has grown since.
    #[error("the log of session `{session}` ends at {current}, not at {expected}: read it again")]
    LogMoved {
        /// The session.
        session: SessionId,
        /// Where the caller believed it to end.
        expected: u64,
        /// Where it ends.
        current: u64,
    },
    /// An append repeats an event that was already processed: a defect of the caller.
    #[error("event `{event}` of session `{session}` was already processed and cannot be written again")]
    DuplicateEvent {
        /// The session.
        session: SessionId,
        /// The event.
        event: EventId,
    },
    /// A page cursor that this list did not give out.
    #[error("`page` is not a cursor of this list with these filters: use `next_page` or `prev_page` unchanged")]
    InvalidCursor,
    /// Writing or reading is not possible now; nothing of the request was kept. Trying again later can help.
    #[error("the store cannot work at the moment: {reason}")]
    Unavailable {
        /// What SQLite or the system said.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The database file is damaged.
    #[error(
        "the database {} is damaged ({detail}). Keep a copy of it, remove the files ending in -wal and -shm, and restore \
         it from a backup. Without one, docs/operations.md says how to save what can still be read",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another server uses the folder.
    #[error(
        "the data folder {} is in use by another server{}: stop that one first, or give this one its own folder",
        path.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, if it left its number.
        pid: Option<u32>,
    },
    /// The database was written by a newer version.
    #[error(
        "the database {} has schema {found}, this version knows up to {known}: use the newer version, or restore the \
         backup from before the upgrade",
        path.display()
    )]
    SchemaTooNew {
        /// The file.
        path: PathBuf,
        /// The schema's number.
        found: i64,
        /// The newest number known here.
        known: i64,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {problem}", path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A defect, or something that should not be able to happen.
    #[error("the store failed: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Nothing of that id is in this workspace.
    pub fn not_found(what: &'static str, id: &impl ToString) -> Self {
        Self::NotFound {
            what,
            id: id.to_string(),
        }
    }

    /// The present state is in the way.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict {
            message: message.into(),
        }
    }

    /// For edits that callers pass in: what they see does not allow the change.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::Rejected {
            message: message.into(),
        }
    }

    /// A defect with nothing but words.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into().into())
    }

    /// The same error; one about damage names the whole path.
    pub(crate) fn at(self, database: &Path) -> Self {
        match self {
            Self::Corrupt { detail, .. } => Self::Corrupt {
                path: database.to_owned(),
                detail,
            },
            other => other,
        }
    }

    /// Whether the database itself failed, so that nothing else of the same transaction can be trusted.
    pub(crate) fn is_of_the_database(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Corrupt { .. })
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        sort(&error).unwrap_or_else(|| Self::Internal(Box::new(error)))
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(Box::new(error))
    }
}

/// The kind of a database error, unless it is a defect of ours.
fn sort(error: &rusqlite::Error) -> Option<StoreError> {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return None;
    };
    match failure.code {
        ErrorCode::DiskFull
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::OutOfMemory
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => Some(StoreError::Unavailable {
            reason: error.to_string(),
        }),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(StoreError::Corrupt {
            path: PathBuf::from(crate::folder::DATABASE),
            detail: error.to_string(),
        }),
        _ => None,
    }
}
