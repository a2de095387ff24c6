//! The evidence of a session in one file: the records of the plane and of the workers, the documents, the event log.

use std::fs::{self, File};
use std::io::{self, BufReader, Seek, Write};

use outwork_ledger::evidence::{LedgerAt, Source, Sources, write_file};
use outwork_store::{EventQuery, PageRequest, Store};
use outwork_wire::Time;
use outwork_wire::id::{SessionId, WorkspaceId};
use serde::Deserialize;

use super::recorder::LogHash;
use super::worker_bundles::{Unfinished, unkept};
use super::{Evidence, Subject};
use crate::error::ApiError;

/// How many events are read at once.
const PAGE: usize = 1000;

/// A finished bundle. Its file has no name any more and goes when it is closed.
pub(crate) struct EvidenceFile {
    pub(crate) file: File,
    pub(crate) size: u64,
    /// The id of the key that sealed it.
    pub(crate) key: String,
}

/// The processed events of a session, one a line, and their hash.
pub(crate) struct Events {
    file: Unfinished,
    hash: LogHash,
}

#[derive(Deserialize)]
struct Processed {
    processed_at: Option<Time>,
}

/// Reads the processed events of a session and gives each, as it was written, in order.
async fn each_event(
    store: &Store,
    workspace: &WorkspaceId,
    session: &SessionId,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ApiError> {
    let mut cursor = None;
    loop {
        let page = PageRequest { limit: PAGE, cursor };
        let page = store
            .list_events(workspace, session, EventQuery::default(), page)
            .await?;
        for event in page.rows {
            let text = event.get().as_bytes();
            let head: Processed = serde_json::from_slice(text).map_err(ApiError::internal)?;
            // What waits in the queue comes after everything else, and changes.
            if head.processed_at.is_some() {
                take(text).map_err(|error| unkept(&error))?;
            }
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

/// The hash of a session's log as the store has it.
pub(crate) async fn log_hash(
    store: &Store,
    workspace: &WorkspaceId,
    session: &SessionId,
) -> Result<LogHash, ApiError> {
    let mut hash = LogHash::default();
    each_event(store, workspace, session, |event| {
        hash.add(event);
        Ok(())
    })
    .await?;
    Ok(hash)
}

/// Puts the events of a session into a file.
pub(crate) async fn events_file(
    evidence: &Evidence,
    store: &Store,
    workspace: &WorkspaceId,
    session: &SessionId,
) -> Result<Events, ApiError> {
    let mut file = evidence.unfinished().map_err(|error| unkept(&error))?;
    let mut hash = LogHash::default();
    each_event(store, workspace, session, |event| {
        hash.add(event);
        file.file.write_all(event)?;
        file.file.write_all(b"\n")
    })
    .await?;
    Ok(Events { file, hash })
}

impl Evidence {
    /// Makes the evidence of a session. The log is recorded as it is now first, so that its hash covers all of it.
    pub(crate) async fn of_session(self: &std::sync::Arc<Self>, subject: &Subject, events: Events) -> Result<EvidenceFile, ApiError> {
        self.cross(vec![events.hash.record(subject)]).await?;
        let (this, session) = (self.clone(), subject.session.clone());
        tokio::task::spawn_blocking(move || this.write(&session, events))
            .await
            .map_err(ApiError::internal)?
    }

    fn write(&self, session: &SessionId, events: Events) -> Result<EvidenceFile, ApiError> {
        let fault = |error: io::Error| unkept(&error);
        let mut log = events.file.file.try_clone().map_err(fault)?;
        log.rewind().map_err(fault)?;
        let (mut ledgers, documents) = self.of_workers(session).map_err(fault)?;
        ledgers.push(Source {
            name: "plane".into(),
            from: LedgerAt::Open(&self.ledger),
        });
        let place = self.unfinished().map_err(fault)?;
        let sources = Sources {
            session: session.to_string(),
            at: Time::now(),
            sealer: LedgerAt::Open(&self.ledger),
            ledgers,
            documents,
            events: Some(Box::new(BufReader::new(log))),
        };
        let path = place.path().to_owned();
        let written = write_file(sources, &path).map_err(|error| match error {
            outwork_ledger::Error::Io { .. } | outwork_ledger::Error::Stalled { .. } => super::unwritten(error),
            other => ApiError::internal(other),
        })?;
        let file = File::open(&path).map_err(fault)?;
        let size = file.metadata().map_err(fault)?.len();
        fs::remove_file(&path).map_err(fault)?;
        Ok(EvidenceFile {
            file,
            size,
            key: written.key.to_string(),
        })
    }
}
