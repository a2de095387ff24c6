//! What can go wrong with a ledger. Errors go to many callers at once, so they are cheap to clone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outwork_wire::Time;

use crate::verify::Fault;

/// Why a ledger could not be opened, written, read or exported.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused something.
    #[error("could not {action} `{}`: {cause}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// Another process, or another part of this one, has the ledger open.
    #[error(
        "the ledger in `{}` is open elsewhere: a ledger has one writer; stop the other one or use another folder",
        dir.display()
    )]
    Locked {
        /// The ledger's folder.
        dir: PathBuf,
    },
    /// The ledger, or a bundle, is not what was written.
    #[error("{0}")]
    Damaged(Box<Fault>),
    /// The signing key is missing or is not the one that the ledger names.
    #[error("the signing key `{}` {problem}; put back the key file that belongs to this ledger, or start a new ledger in an empty folder", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An option has a value that makes no sense.
    #[error("the ledger's option `{0}` must be at least 1")]
    Options(&'static str),
    /// A file in the folder has a name that no file of a ledger has.
    #[error("`{}` is not a file of this ledger: {problem}", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A record is larger than a ledger takes.
    #[error(
        "the record has {bytes} bytes, and at most {limit} are kept: leave payloads out, or keep their hash instead"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A record lacks what its kind demands.
    #[error("a record of the kind `{kind}` needs {missing} as well: without it, it is no evidence")]
    Incomplete {
        /// The kind.
        kind: &'static str,
        /// The fields.
        missing: String,
    },
    /// A record holds a payload, and the owner of the ledger did not turn payloads on.
    #[error("the record holds a payload, and this ledger keeps none: turn payloads on, or leave it out")]
    PayloadsOff,
    /// The record was not kept: the ledger cannot be written. It accepts records again as soon as it can.
    #[error("the record was not kept: the ledger cannot be written since {since}: {cause}: make room on the disk of `{}`; the ledger goes on by itself", path.display())]
    Stalled {
        /// Since when.
        since: Time,
        /// The file that could not be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The ledger was closed while records that nobody waited for could not be written.
    #[error("the ledger was closed with {records} records that could not be written: {cause}")]
    Unwritten {
        /// How many.
        records: u64,
        /// What the system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The ledger is closed.
    #[error("the ledger is closed: nothing can be added to it any more")]
    Closed,
    /// An export cannot work.
    #[error("the export `{name}` of the ledger cannot work: {problem}")]
    Export {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Segments were removed while they were being read.
    #[error("old parts of the ledger in `{}` were removed while it was being read: read it again", dir.display())]
    PrunedMeanwhile {
        /// The ledger's folder.
        dir: PathBuf,
    },
    /// Something that was to go into an evidence bundle does not suit.
    #[error("the evidence cannot be written: {0}")]
    Evidence(String),
    /// Nothing in the ledger matches.
    #[error("no record of the ledger matches: nothing was exported")]
    NoMatch,
    /// The cryptographic library failed.
    #[error("could not {0}: the cryptographic library failed")]
    Crypto(&'static str),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            cause: Arc::new(cause),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Damaged(Box::new(fault))
    }
}

/// A path for people: only its last part, as bundles and reports go to other machines.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
