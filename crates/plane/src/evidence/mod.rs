//! The plane's ledger: one record for each crossing that the plane lets through, refuses or hears of.
//!
//! What lets something through is recorded first, and does not happen if it cannot be recorded
//! ([`Evidence::cross`]). What came back is queued before it is kept ([`Evidence::note`]); a ledger that cannot be
//! written refuses at once. What ends or denies something is never held up by the ledger ([`Evidence::tell`]): a record
//! that is lost then is counted by the ledger itself. Records hold names, ids and hashes, never what was said.

mod bundle;
mod calls;
mod options;
mod recorder;
mod worker_bundles;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outwork_ledger::exports::Exporter;
use outwork_ledger::{Kind, Ledger, Record, Retention};
use outwork_wire::Time;
use outwork_wire::agent::AgentConfig;
use outwork_wire::id::{EnvironmentId, SessionId, WorkspaceId};

pub(crate) use bundle::{EvidenceFile, events_file, log_hash};
pub use options::LedgerOptions;
pub(crate) use recorder::{Cause, Order, Recorder, Records, at_server};
pub(crate) use worker_bundles::{Received, Unfinished, WorkerPart};

use crate::error::{ApiError, ErrorKind, PlaneError};

/// How often retention looks for old segments.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// The plane's ledger, what leaves it, and what workers handed over for it.
pub(crate) struct Evidence {
    ledger: Ledger,
    exporters: Mutex<Vec<Exporter>>,
    /// Where the records of workers are kept.
    folder: PathBuf,
    retention: Option<options::Keep>,
}

/// Whose record it is.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) workspace: WorkspaceId,
    pub(crate) environment: Option<EnvironmentId>,
    pub(crate) session: SessionId,
    pub(crate) agent: Option<(String, u64)>,
}

impl Subject {
    /// A session with its agent.
    pub(crate) fn new(
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        session: &SessionId,
        agent: &AgentConfig,
    ) -> Self {
        Self {
            workspace: workspace.clone(),
            environment: Some(environment.clone()),
            session: session.clone(),
            agent: Some((agent.id.to_string(), agent.version)),
        }
    }

    /// The beginning of a record about it.
    pub(crate) fn record(&self, kind: Kind) -> Record {
        let mut record = Record::new(kind, Time::now())
            .workspace(self.workspace.as_str())
            .session(self.session.as_str());
        if let Some(environment) = &self.environment {
            record = record.environment(environment.as_str());
        }
        match &self.agent {
            Some((id, version)) => record.agent(id.as_str(), Some(*version)),
            None => record,
        }
    }
}

impl From<&outwork_store::SessionRow> for Subject {
    fn from(row: &outwork_store::SessionRow) -> Self {
        Self::new(&row.workspace_id, &row.environment_id, &row.id, &row.profile.agent)
    }
}

impl Evidence {
    /// Opens the ledger and begins its exports. Blocks while the ledger is verified.
    pub(crate) fn open(options: &LedgerOptions, data_dir: &Path) -> Result<Self, PlaneError> {
        let dir = options.dir.clone().unwrap_or_else(|| data_dir.join("ledger"));
        let folder = data_dir.join("evidence");
        worker_bundles::prepare(&folder).map_err(|source| PlaneError::Evidence {
            path: folder.clone(),
            source,
        })?;
        let settings = outwork_ledger::Options {
            complete: true,
            ..outwork_ledger::Options::default()
        };
        let ledger = Ledger::open(&dir, settings)?;
        let mut exporters = Vec::new();
        for export in &options.exports {
            let mut export = export.clone();
            export.listener.get_or_insert_with(options::log_trouble);
            exporters.push(ledger.start_export(export)?);
        }
        Ok(Self {
            ledger,
            exporters: Mutex::new(exporters),
            folder,
            retention: options.keep(),
        })
    }

    /// Records what is about to be let through. When this returns, the records are on disk, and it may be.
    pub(crate) async fn cross(&self, records: Vec<Record>) -> Result<(), ApiError> {
        // All of them are queued before the first is waited for, so they share a flush.
        let appends: Vec<_> = records.into_iter().map(|record| self.ledger.append(record)).collect();
        for append in appends {
            append.await.map_err(unwritten)?;
        }
        Ok(())
    }

    /// Records what came back. When this returns, the record is queued, and is on disk soon.
    pub(crate) async fn note(&self, record: Record) -> Result<(), ApiError> {
        self.ledger.append_later(record).await.map_err(unwritten)
    }

    /// Records what happens whether it can be recorded or not.
    pub(crate) async fn tell(&self, record: Record) {
        let kind = record.kind.name();
        if let Err(error) = self.ledger.append_later(record).await {
            tracing::warn!(kind, %error, "a record was not kept");
        }
    }

    /// Why nothing can be recorded, if that is so.
    pub(crate) fn trouble(&self) -> Option<ApiError> {
        self.ledger.status().stalled.map(unwritten)
    }

    /// How often [`prune`](Self::prune) is due; never without a retention.
    pub(crate) fn prune_every(&self) -> Option<Duration> {
        self.retention.as_ref().map(|_| PRUNE_EVERY)
    }

    /// Removes what is older, or more, than the settings keep. Blocks.
    pub(crate) fn prune(&self) -> Result<(), outwork_ledger::Error> {
        let Some(keep) = &self.retention else {
            return Ok(());
        };
        let before = keep
            .age
            .map(|age| Time::now().plus_micros(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
        let retention = Retention {
            before,
            keep_bytes: keep.bytes,
            force: false,
        };
        let done = self
            .ledger
            .prune(&retention, "outwork", "ledger.retention in the settings")?;
        if done.segments > 0 || done.held > 0 {
            tracing::info!(
                event = "ledger.pruned", segments = done.segments, bytes = done.bytes, held = done.held,
                held_for = ?done.held_for, "old records were removed from the ledger"
            );
        }
        Ok(())
    }

    /// Ends the exports and closes the ledger: what is queued is written. Blocks.
    pub(crate) fn close(&self) {
        let exporters = std::mem::take(&mut *self.exporters.lock().unwrap_or_else(PoisonError::into_inner));
        for exporter in exporters {
            let status = exporter.stop();
            if status.lag > 0 {
                tracing::info!(
                    export = status.name,
                    lag = status.lag,
                    "an export goes on at the next start"
                );
            }
        }
        if let Err(error) = self.ledger.close() {
            tracing::error!(%error, "the ledger was not closed well");
        }
    }
}

/// Nothing was let through, since it could not be recorded.
fn unwritten(error: outwork_ledger::Error) -> ApiError {
    ApiError {
        cause: Some(anyhow::anyhow!("{error}")),
        ..match error {
            outwork_ledger::Error::Incomplete { .. }
            | outwork_ledger::Error::PayloadsOff
            | outwork_ledger::Error::TooLarge { .. } => ApiError::internal(anyhow::anyhow!("a record does not fit")),
            _ => ApiError::new(
                ErrorKind::Unavailable,
                "The server cannot write its ledger at the moment. What is not recorded is not let through: nothing of \
                 this was done; try again.",
            ),
        }
    }
}
