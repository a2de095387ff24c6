//! What is said of tokens to those who use them: the token itself, why there is none, and that a refresh failed.

use std::sync::Arc;

use outwork_wire::Time;
use outwork_wire::id::{VaultCredentialId, VaultId, WorkspaceId};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::validate::HttpExcerpt;

/// An access token, or a static one.
#[derive(Clone)]
pub struct AccessToken(Arc<SecretString>);

impl AccessToken {
    pub(crate) fn new(text: SecretString) -> Self {
        Self(Arc::new(text))
    }

    /// The token, for the one header that carries it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether it is that one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        bool::from(self.expose().as_bytes().ct_eq(other.expose().as_bytes()))
    }
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The credential was archived or deleted.
    #[error("vault credential `{0}` was archived or deleted")]
    Gone(VaultCredentialId),
    /// The server rejected the token, and there is no way to a new one.
    #[error(
        "the token of vault credential `{0}` was rejected and cannot be refreshed: store a new one in the credential"
    )]
    NoRefresh(VaultCredentialId),
    /// The token endpoint refused for good.
    #[error("vault credential `{credential}` cannot be refreshed: {reason}. Authorize again and store the new tokens")]
    Dead {
        /// The credential.
        credential: VaultCredentialId,
        /// What the endpoint answered.
        reason: String,
        /// Its answer, scrubbed.
        response: Option<Box<HttpExcerpt>>,
    },
    /// It did not work this time.
    #[error("vault credential `{credential}` could not be refreshed: {reason}; it is tried again later")]
    Passing {
        /// The credential.
        credential: VaultCredentialId,
        /// What went wrong.
        reason: String,
        /// The endpoint's answer, scrubbed.
        response: Option<Box<HttpExcerpt>>,
        /// Whether there was no connection.
        unreachable: bool,
    },
    /// The secrets could not be read or kept.
    #[error("vault credential `{credential}` could not be used: {reason}")]
    Store {
        /// The credential.
        credential: VaultCredentialId,
        /// Why.
        reason: String,
    },
}

impl TokenError {
    pub(crate) fn store(credential: &VaultCredentialId, error: &dyn std::error::Error) -> Self {
        Self::Store {
            credential: credential.clone(),
            reason: error.to_string(),
        }
    }

    /// Whether trying again later, without anybody doing anything, can help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Passing { .. } | Self::Store { .. })
    }
}

/// A refresh that failed: what a `vault_credential.refresh_failed` event says, and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshFailure {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its vault.
    pub vault_id: VaultId,
    /// The credential.
    pub credential_id: VaultCredentialId,
    /// Whether asking again cannot help.
    pub permanent: bool,
    /// For a person; holds no secret.
    pub reason: String,
    /// When.
    pub at: Time,
}

/// Called with every refresh that failed.
pub type OnRefreshFailure = Arc<dyn Fn(RefreshFailure) + Send + Sync>;
