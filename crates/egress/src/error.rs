//! What can go wrong in this room, outside of what a sandbox's traffic meets (that is refused, not an error).

use std::io;
use std::path::PathBuf;

/// Why a policy could not be read or a boundary not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A policy is wrong.
    #[error("{file}:{line}: {rule}: {reason}")]
    Policy {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The rule or key, such as `allow[2].host`.
        rule: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file could not be read.
    #[error("could not read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket cannot be used.
    #[error("could not use the {what} socket of the sandbox: {source}")]
    Socket {
        /// Which one.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The session's certificate authority could not be made, or a certificate not be signed.
    #[error("could not {action}: {reason}")]
    Certificate {
        /// What was attempted.
        action: &'static str,
        /// What the library said.
        reason: String,
    },
    /// TLS could not be configured.
    #[error("could not configure TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The machine has no certificates to check servers with.
    #[error("no root certificates: install the system's ca-certificates, or configure roots")]
    NoRoots,
    /// The system's resolver is not configured.
    #[error("could not read the name servers of `{}`: {reason}", path.display())]
    Resolver {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
