//! What can go wrong when the gateway is set up, and what a person reads then.
//!
//! Failures of a single call are not here: they are [`crate::mcp::refusal::Refusal`], which a caller reads.

use std::path::PathBuf;

/// Why the gateway did not start, or did not take a new configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration file says something that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read`, `write`, `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A certificate, key or authority file does not hold what it should.
    #[error("{path}: {message}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A key set of the identity issuer cannot be used.
    #[error("identity keys from {source_name}: {message}")]
    Keys {
        /// The file or address.
        source_name: String,
        /// What is wrong.
        message: String,
    },
    /// The health endpoint could not be opened.
    #[error("cannot listen on health.listen_addr {address}: {source}")]
    Health {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The links to the edge could not be set up.
    #[error("cannot set up the links to the edge: {0}")]
    Links(String),
    /// The ledger could not be opened.
    #[error("cannot open the ledger: {0}")]
    Ledger(String),
}

/// What is wrong in a configuration file, and where.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{file}{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct ConfigError {
    /// The file as it was named.
    pub file: String,
    /// The line, where one is known.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl ConfigError {
    /// An error in `file` at no particular line.
    pub(crate) fn new(file: &str, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            line: None,
            message: message.into(),
        }
    }
}
