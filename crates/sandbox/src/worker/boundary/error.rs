//! Why a session's boundary could not be made. Nothing runs then, and the session is told these words.

use std::path::PathBuf;

use outwork_client::ClientError;

/// Why a session's boundary could not be made, or not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoundaryError {
    /// The server did not say what holds for the session, or not give what belongs to it.
    #[error("the server did not give {what}: {source}")]
    Server {
        /// What was asked for.
        what: String,
        /// Its answer.
        source: ClientError,
    },
    /// Sessions of `cloud` environments are served with the policy of their environment, or not at all.
    #[error("the server does not know the boundary of its sessions; it is older than this worker")]
    Unknown,
    /// What the server said cannot be read, so it is not known what is allowed.
    #[error("what the server said about the session's boundary cannot be read: {0}")]
    Unreadable(String),
    /// The environment's policy cannot be used.
    #[error("the network of the environment cannot be used: {0}")]
    Policy(outwork_egress::Error),
    /// The secrets cannot be told apart or are not what they should be.
    #[error("the credentials cannot be used: {0}")]
    Secrets(String),
    /// A secret of the worker's own cannot be had.
    #[error("the worker's secret `{name}` cannot be had: {reason}")]
    OwnSecret {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Tools run without isolation, so nothing can be enforced.
    #[error("this worker runs tools without isolation, so it cannot give them {0}")]
    NoIsolation(&'static str),
    /// The sandbox came without the fence that was asked for.
    #[error("the sandbox has no network fence")]
    NoFence,
    /// The proxy could not be started.
    #[error("the way out could not be made: {0}")]
    Egress(#[source] outwork_egress::Error),
    /// A record was not kept, so what it is about was not done.
    #[error("the worker's ledger took no record ({0})")]
    Ledger(String),
    /// A file could not be brought.
    #[error("the file for {place} could not be brought: {reason}")]
    File {
        /// Where it belongs.
        place: String,
        /// Why.
        reason: String,
    },
    /// A repository could not be brought.
    #[error("the repository {url} could not be brought to {place}: {reason}")]
    Repository {
        /// Its address.
        url: String,
        /// Where it belongs.
        place: String,
        /// What git or the policy said.
        reason: String,
    },
    /// The packages of the environment cannot be installed.
    #[error("the packages of the environment cannot be installed: {0}")]
    Packages(String),
    /// A folder of the worker cannot be used.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("it was not ready within {0:?}")]
    Deadline(std::time::Duration),
    /// It is not known any more what holds.
    #[error("the session's boundary is shut: {0}")]
    Shut(String),
    /// The worker was told to stop everything.
    #[error("the worker was halted")]
    Halted,
}

impl BoundaryError {
    /// Whether the server was away or busy, so that the same may go well later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Server { source, .. } if !source.is_permanent())
    }

    pub(crate) fn folder(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Folder {
            path: path.into(),
            source,
        }
    }
}
