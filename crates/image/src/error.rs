//! What can go wrong between the text of `--image` and a root filesystem.
//!
//! Every variant says what was wrong, where, and (where a person can act on it) what to do. No variant carries a
//! credential, a token or a response body.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{Digest, Overflow};

/// Result with the error of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text given as image is not one.
    #[error("image `{text}`: {problem}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it, and what to write instead.
        problem: String,
    },
    /// The reference names a tag, which can mean something else tomorrow.
    #[error(
        "image `{reference}` is not pinned: a tag can be moved to other content at any time. Write `{reference}@sha256:…` \
         (the digest that you trust), or allow unpinned images"
    )]
    Unpinned {
        /// The reference without digest.
        reference: String,
    },
    /// The image was made for another kind of machine.
    #[error("image `{image}` is not for this machine ({wanted}); it offers: {offered}")]
    Platform {
        /// Reference of the image.
        image: String,
        /// This machine.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A manifest, index or configuration is not what it should be.
    #[error("{what}: {problem}")]
    Manifest {
        /// Which document.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Content is not what its digest promises.
    #[error("{what} is not what was asked for: expected {expected}, got {found}. Nothing of it was kept")]
    Mismatch {
        /// Which content.
        what: String,
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// Content ended early or went on too long.
    #[error("{what} has {found} bytes, its description says {expected}. Nothing of it was kept")]
    Size {
        /// Which content.
        what: String,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that came (at least).
        found: u64,
    },
    /// A bound was passed.
    #[error("{what} is over the limit of {limit} {unit}. If you trust the image, raise the limit")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound.
        limit: u64,
        /// What the bound counts.
        unit: &'static str,
    },
    /// A layer has an entry that is refused.
    #[error("layer {layer}: entry `{entry}`: {problem}")]
    Entry {
        /// The layer's digest.
        layer: String,
        /// The entry's path, escaped.
        entry: String,
        /// Why it is refused.
        problem: String,
    },
    /// A layer's archive cannot be read.
    #[error("layer {layer}: {problem}")]
    Layer {
        /// The layer's digest.
        layer: String,
        /// What is wrong.
        problem: String,
    },
    /// The registry answered with a refusal or nonsense.
    #[error("registry {host}: {problem}")]
    Registry {
        /// Host and port.
        host: String,
        /// What it said, in our words.
        problem: String,
    },
    /// The registry could not be reached.
    #[error("registry {host}: {action} failed: {source}")]
    Network {
        /// Host and port.
        host: String,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// The credentials file is not usable.
    #[error("credentials {place}: {problem}")]
    Credentials {
        /// File or entry.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A package name is not one.
    #[error("packages.{manager}: `{name}`: {problem}")]
    Package {
        /// The package manager.
        manager: &'static str,
        /// The name, escaped.
        name: String,
        /// Why it is refused.
        problem: &'static str,
    },
    /// The cache folder cannot be used.
    #[error("image cache {}: {problem}", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It took too long.
    #[error("image `{image}` was not ready within {deadline:?}")]
    Deadline {
        /// Which image.
        image: String,
        /// The bound.
        deadline: Duration,
    },
    /// Somebody asked to stop.
    #[error("preparing the image was cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn sys(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }

    pub(crate) fn manifest(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Manifest {
            what: what.into(),
            problem: problem.into(),
        }
    }

    /// A reader of a layer failed: a bound that was passed is told apart from damage.
    pub(crate) fn reading(layer: &str, error: io::Error) -> Self {
        match error.downcast::<Overflow>() {
            Ok(Overflow(limit)) => Self::TooLarge {
                what: format!("layer {layer}"),
                limit,
                unit: "bytes",
            },
            Err(error) => Self::Layer {
                layer: layer.to_owned(),
                problem: format!("the archive is damaged: {error}"),
            },
        }
    }
}

/// A name from an untrusted archive as it may be shown: control bytes escaped, length bounded.
pub(crate) fn shown(name: &[u8]) -> String {
    let bounded = &name[..name.len().min(200)];
    let mut text = bounded.escape_ascii().to_string();
    if bounded.len() < name.len() {
        text.push('…');
    }
    text
}
