//! Vaults: credentials at rest and in use.
//!
//! `seal` and `master` keep secrets: each is sealed under its workspace's data key, that under a master key outside
//! the database. `auth` is what is public of a credential and which secrets it has. `oauth` gives tokens to whoever
//! calls an MCP server for a session, and refreshes them, one refresh at a time. `validate` tries a credential out.
//! Everything that leaves this machine from here goes through one [`Outbound`], which checks where it goes.
//!
//! Refused: a master key that does not open what is there (the plane does not start), a secret whose row was moved
//! or changed, calls to addresses that are not allowed. No secret has `Debug` or `Serialize`; errors and log lines
//! name credentials by id.

pub(crate) mod aead;
pub(crate) mod auth;
pub mod master;
pub mod oauth;
pub mod outbound;
pub mod rotate;
pub(crate) mod seal;
mod token;
pub(crate) mod validate;
mod words;

pub use master::{LocalMasterKeys, MasterKey, MasterKeyError};
pub use oauth::{McpCredential, Vaults};
pub use outbound::{Outbound, OutboundError, OutboundRequest, OutboundResponse};
pub use rotate::{KeyFile, Rotated, rotate_master_key};
pub use validate::HttpExcerpt;
pub use words::{AccessToken, OnRefreshFailure, RefreshFailure, TokenError};

use outwork_store::StoreError;
use outwork_wire::id::{ResourceId, VaultCredentialId};

/// Why a secret could not be kept or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master key did not do it.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// A secret is not what was sealed for this place.
    #[error(
        "the secret `{field}` of credential `{credential}` cannot be opened: its row was changed or moved. Restore the \
         database, or store the secret again"
    )]
    Unopened {
        /// The credential.
        credential: VaultCredentialId,
        /// Which of its secrets.
        field: String,
    },
    /// The same of a resource of a session.
    #[error(
        "the secret `{field}` of resource `{resource}` cannot be opened: its row was changed or moved. Restore the \
         database, or give the secret again"
    )]
    ResourceUnopened {
        /// The resource.
        resource: ResourceId,
        /// Which of its secrets.
        field: String,
    },
    /// A secret of a thing other than a credential is not what was sealed for this place.
    #[error(
        "the secret of `{0}` cannot be opened: its row was changed or moved. Restore the database, or make it anew"
    )]
    UnopenedAt(String),
    /// A credential has not the parts that its type must have.
    #[error("credential `{0}` is incomplete: delete it and make it anew")]
    Incomplete(VaultCredentialId),
}
