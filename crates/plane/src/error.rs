//! The errors of the plane: what a caller is told, and apart from it what went wrong inside.

use outwork_engine::Refused;
use outwork_store::StoreError;
use serde_json::Value;

/// An operation that was not carried out.
#[derive(Debug)]
pub struct ApiError {
    /// What kind; decides status and `error.type`.
    pub kind: ErrorKind,
    /// For the caller: what was wrong, where, and what to do. Never holds a secret or an internal detail.
    pub message: String,
    /// Machine-readable details, as the contract gives them for some errors.
    pub details: Option<Value>,
    /// For the log only.
    pub cause: Option<anyhow::Error>,
}

/// Kinds of errors on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    InvalidRequest,
    /// No valid credential.
    Authentication,
    /// A valid credential that may not do this.
    Permission,
    /// No such thing in the caller's workspace, or no such endpoint.
    NotFound,
    /// The endpoint does not have this method.
    MethodNotAllowed,
    /// The request does not fit the state of the thing.
    Conflict,
    /// A precondition of the request does not hold.
    PreconditionFailed,
    /// The request is too large.
    TooLarge,
    /// The body came too slowly.
    RequestTimeout,
    /// The server cannot do it now; try again.
    Unavailable,
    /// A fault of ours.
    Internal,
}

impl ApiError {
    /// An error with nothing but a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: None,
            cause: None,
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    /// There is no such thing.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::absent(format!("{what} `{id}` was not found in this workspace"))
    }

    /// What was asked for is not there, for a reason.
    pub fn absent(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A fault of ours.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            kind: ErrorKind::Internal,
            message: "The server met an internal error; its log has the details under this request_id.".into(),
            details: None,
            cause: Some(cause.into()),
        }
    }

    /// Adds machine-readable details.
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(message) => Self::invalid(message),
            Refused::Forbidden(message) => Self::new(ErrorKind::Permission, message),
        }
    }
}

/// A plane that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use {path} for TLS: {reason}")]
    Tls {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// The key file cannot be read or written.
    #[error("cannot use the key file {path}: {source}")]
    KeyFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder has an admin key that its database does not know.
    #[error(
        "the database in {} does not know the key in {}: it is empty or another one than before. Restore the database, \
         or, to begin anew without anything that was kept, remove that file",
        folder.display(), key.display()
    )]
    LostStore {
        /// The data folder.
        folder: std::path::PathBuf,
        /// The key file.
        key: std::path::PathBuf,
    },
    /// The keys of agent identities cannot be used.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// A federation rule cannot be used.
    #[error("the federation rule {rule} cannot be used: {reason}")]
    Federation {
        /// The rule's id.
        rule: String,
        /// Why.
        reason: String,
    },
    /// The first admin key is too weak.
    #[error("OUTWORK_API_KEY has {0} characters; use at least 16")]
    WeakKey(usize),
    /// The secrets of the vaults cannot be opened.
    #[error(transparent)]
    Vault(#[from] crate::vault::VaultError),
    /// The model provider's settings cannot be used.
    #[error("the model provider cannot be used: {0}")]
    Model(String),
    /// The bytes of files cannot be kept where they should be.
    #[error(transparent)]
    Blobs(#[from] outwork_store::BlobError),
    /// MCP servers cannot be reached at all.
    #[error("MCP servers cannot be reached from here: {0}")]
    Mcp(String),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] outwork_ledger::Error),
    /// What workers hand over for evidence cannot be kept.
    #[error("cannot use the folder {path} for evidence: {source}")]
    Evidence {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Gateways of tunnels cannot be taken.
    #[error("{0}")]
    Edge(String),
}
