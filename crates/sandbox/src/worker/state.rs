//! The folder in which a worker keeps what must outlive it: its ledger, cached files, results that were not sent yet.
//!
//! It belongs to the worker alone and lies outside of every workspace, so that no session can reach it. What is in it of
//! one session has a folder of that session's id.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use outwork_ledger::Ledger;
use tempfile::TempDir;

use super::error::WorkerError;
use super::item::{folder_name, make_folder};
use super::options::{Layout, ServiceOptions};

/// Below the folder of workspaces, where each session has one of its own.
const BESIDE: &str = ".outwork-worker";
/// Workers that may share a folder of state: each has a ledger of its own.
const MOST_LEDGERS: u32 = 64;

/// A worker's own folder.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    /// Removed with the last handle, where nobody said where to keep things.
    _temporary: Option<Arc<TempDir>>,
}

impl StateFolder {
    /// Finds and makes it. `workdir` has no links in it.
    pub fn open(options: &ServiceOptions, workdir: &Path) -> Result<Self, WorkerError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| WorkerError::State { path, source }
        };
        let (path, temporary) = match (&options.state_dir, options.layout) {
            (Some(path), _) => (path.clone(), None),
            (None, Layout::PerSession) => (workdir.join(BESIDE), None),
            (None, Layout::Shared) => {
                // The folder of workspaces is the workspace itself: nothing of the worker's may lie there.
                let temporary = tempfile::Builder::new().prefix("outwork-worker-").tempdir();
                let temporary = temporary.map_err(failed(&std::env::temp_dir()))?;
                tracing::warn!(
                    "there is no folder for the worker's own state; its ledger and results that were not sent go with it"
                );
                (temporary.path().to_path_buf(), Some(Arc::new(temporary)))
            }
        };
        make_folder(&path).map_err(failed(&path))?;
        let path = path.canonicalize().map_err(failed(&path))?;
        if options.layout == Layout::Shared && path.starts_with(workdir) {
            return Err(WorkerError::Option {
                what: "state-dir",
                reason: format!(
                    "{} lies in the workspace {}, where sessions could change it; name a folder elsewhere",
                    path.display(),
                    workdir.display()
                ),
            });
        }
        Ok(Self {
            path,
            _temporary: temporary,
        })
    }

    /// A folder in it, made if it is missing.
    pub fn folder(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.path.join(name);
        make_folder(&path)?;
        Ok(path)
    }

    /// The folder of a session, made if it is missing.
    pub fn session(&self, session: &str) -> Result<PathBuf, std::io::Error> {
        let name = folder_name(session).map_err(std::io::Error::other)?;
        let path = self.path.join("sessions").join(name);
        make_folder(&path)?;
        Ok(path)
    }

    /// Opens a ledger that no other worker has open. Blocks.
    pub fn ledger(&self) -> Result<Ledger, WorkerError> {
        for number in 1..=MOST_LEDGERS {
            let name = match number {
                1 => "ledger".to_owned(),
                number => format!("ledger-{number}"),
            };
            match Ledger::open(self.path.join(name), outwork_ledger::Options::default()) {
                Err(outwork_ledger::Error::Locked { .. }) => {}
                opened => return opened.map_err(WorkerError::Ledger),
            }
        }
        Err(WorkerError::Option {
            what: "state-dir",
            reason: format!(
                "{MOST_LEDGERS} workers use {} already; name another folder",
                self.path.display()
            ),
        })
    }
}
