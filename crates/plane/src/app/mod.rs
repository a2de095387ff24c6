//! The operations: what a caller wants, carried out on its [`Access`](crate::auth::Access).
//!
//! One file per resource. Everything here is in terms of the store and the sessions' owners; nothing here knows
//! HTTP but the kinds of its errors.

pub(crate) mod agents;
pub(crate) mod boundary;
pub(crate) mod environment_config;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod evidence;
pub(crate) mod federation;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod halt;
pub(crate) mod keys;
pub(crate) mod mcp_servers;
pub(crate) mod model_params;
pub(crate) mod models;
pub(crate) mod outputs;
pub(crate) mod resources;
pub(crate) mod session_secrets;
pub(crate) mod sessions;
pub(crate) mod texts;
pub(crate) mod tools;
pub(crate) mod tunnel_certificates;
pub(crate) mod tunnels;
pub(crate) mod vault_credentials;
pub(crate) mod vaults;
pub(crate) mod work;

use std::sync::Arc;

use outwork_model::ModelClient;
use outwork_store::{Blobs, Credential, KeyHash, Store, StoreError};
use outwork_wire::Time;
use tokio_util::sync::CancellationToken;

use crate::auth::{Principal, SecretText, unauthenticated};
use crate::error::{ApiError, ErrorKind};
use crate::evidence::Evidence;
use crate::federation::Federation;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::options::{FileOptions, Limits};
use crate::run::changes::Changes;
use crate::run::hub::Hub;
use crate::run::queue::QueueBells;
use crate::run::registry::Registry;
use crate::vault::Vaults;

/// What operations work on.
pub struct App {
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) bells: Arc<QueueBells>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) sessions: Registry,
    pub(crate) model: Option<Arc<ModelClient>>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) guard: guard::Guard,
    pub(crate) vaults: Vaults,
    pub(crate) blobs: Blobs,
    pub(crate) files: FileOptions,
    pub(crate) tunnels: tunnels::Tunnels,
    pub(crate) federation: Federation,
    pub(crate) identity: Arc<Identity>,
    pub(crate) evidence: Arc<Evidence>,
    /// Cancelled when the plane stops taking requests: long polls and streams end then.
    pub(crate) closing: CancellationToken,
}

impl App {
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Finds out whose credential it is. Revocation counts at once: every request asks the store.
    pub(crate) async fn authenticate(&self, secret: Option<SecretText>) -> Result<Principal, ApiError> {
        let Some(secret) = secret else {
            return Ok(Principal::Anybody);
        };
        let now = Time::now();
        let standing = |revoked: Option<Time>, expires: Option<Time>| match (revoked, expires) {
            (Some(_), _) => Err(unauthenticated("this key has been revoked; use another one")),
            (None, Some(at)) if at <= now => Err(unauthenticated("this key has expired; use another one")),
            _ => Ok(()),
        };
        match self.store.find_credential(KeyHash::of(secret.expose()), now).await? {
            Some(Credential::Api(row)) => {
                standing(row.revoked_at, row.expires_at)?;
                self.store.note_api_key_use(&row.id, now);
                Ok(Principal::ApiKey {
                    role: row
                        .role
                        .parse()
                        .map_err(|e: String| ApiError::internal(anyhow::anyhow!(e)))?,
                    id: row.id,
                    workspace: row.workspace_id,
                })
            }
            Some(Credential::Environment(row)) => {
                standing(row.revoked_at, row.expires_at)?;
                self.store.note_environment_key_use(&row.id, now);
                Ok(Principal::EnvironmentKey {
                    id: row.id,
                    workspace: row.workspace_id,
                    environment: row.environment_id,
                })
            }
            Some(Credential::Session(grant)) => Ok(Principal::Session {
                workspace: grant.workspace_id,
                environment: grant.environment_id,
                work: grant.work_id,
                session: grant.session_id,
            }),
            Some(Credential::Worker(_)) => Ok(Principal::Worker),
            Some(Credential::Federated(row)) => {
                standing(None, Some(row.expires_at))?;
                // Whoever takes a rule out of the settings, or changes what it gives, ends its tokens.
                let rule = self.federation.rule(&row.rule_id).filter(|rule| {
                    rule.workspace == row.workspace_id
                        && rule.asks.scope.as_str() == row.scope
                        && rule.asks.subject.matches(&row.subject)
                });
                let rule = rule.ok_or_else(|| {
                    unauthenticated(
                        "the federation rule that this token was given by is not as it was; ask for another",
                    )
                })?;
                Ok(Principal::Workload {
                    scope: rule.asks.scope,
                    rule: row.rule_id,
                    subject: row.subject,
                    workspace: row.workspace_id,
                })
            }
            None => Err(unauthenticated("invalid x-api-key or bearer token")),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound { what, id } => ApiError::not_found(what, &id),
            StoreError::Conflict { message } => ApiError::new(ErrorKind::Conflict, message),
            StoreError::Rejected { message } => ApiError::invalid(message),
            StoreError::InvalidCursor => ApiError::invalid(message),
            StoreError::Unavailable { .. } | StoreError::Closed => ApiError {
                kind: ErrorKind::Unavailable,
                message:
                    "The server cannot store anything at the moment and has kept nothing of this request; try again."
                        .into(),
                details: None,
                cause: Some(anyhow::anyhow!(message)),
            },
            other => ApiError::internal(other),
        }
    }
}
