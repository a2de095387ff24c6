//! Why a worker does not start, or ends by itself.

use std::path::PathBuf;

use outwork_client::ClientError;

use crate::SandboxError;

/// Why a worker did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// An option or a variable cannot be used.
    #[error("{what}: {reason}")]
    Option {
        /// Which.
        what: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The machine cannot isolate tools.
    #[error(
        "this machine cannot isolate tools, so the worker does not start:\n{0}\nMend what is missing (`outwork doctor` says how), \
         or ask for no isolation by name with --isolation=none on a machine that may be lost"
    )]
    Isolation(String),
    /// The sandboxes cannot be made ready.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The folder for workspaces cannot be used.
    #[error("the folder {path} for workspaces cannot be used: {source}")]
    Workdir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The worker's own folder cannot be used.
    #[error("the folder {path} for the worker's own state cannot be used: {source}")]
    State {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The worker's ledger cannot be used.
    #[error("the worker's ledger: {0}")]
    Ledger(outwork_ledger::Error),
    /// The client cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server refuses the polls of this worker for good.
    #[error("the server refuses to hand out work: {0}. Check the environment's id and that its key was not revoked")]
    PollRefused(#[source] ClientError),
    /// Signals cannot be listened for.
    #[error("signals cannot be listened for: {0}")]
    Signals(#[source] std::io::Error),
}
