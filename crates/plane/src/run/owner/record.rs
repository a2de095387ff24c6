//! What the owner of a session has recorded of its commits.

use outwork_wire::log::LogEntry;

use super::{Held, Owner};
use crate::error::ApiError;
use crate::evidence::{Records, log_hash};

impl Owner {
    /// Records what a commit lets through, what comes back with it and what it ends.
    pub(super) async fn record(&self, due: &mut Records) -> Result<(), ApiError> {
        let evidence = &self.shared.evidence;
        for record in std::mem::take(&mut due.tell) {
            evidence.tell(record).await;
        }
        while let Some(record) = due.note.front().cloned() {
            if due.ends {
                evidence.tell(record).await;
            } else {
                evidence.note(record).await?;
            }
            due.note.pop_front();
        }
        evidence.cross(due.cross.clone()).await
    }

    /// Records the hash of the log when the session comes to rest. The log is what it is whether that works or not.
    pub(super) async fn record_log(&self, held: &mut Held, entries: &[LogEntry]) {
        let (store, workspace, id) = (&self.shared.store, &self.workspace, &self.id);
        let whole = async || log_hash(store, workspace, id).await;
        match held.recorder.committed(&held.subject, entries, whole).await {
            Ok(Some(record)) => self.shared.evidence.tell(record).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(session = %self.id, cause = ?error.cause, "the hash of a log was not recorded; the next one covers it");
            }
        }
    }
}
