//! Tokens for MCP servers: which credential a session uses for an address, its present token, and a new one when the
//! old one ends or is rejected.
//!
//! However many sessions wait for a token of one credential, one task refreshes it; all of them get what it brings. The
//! task is its own: a caller that goes away does not interrupt it between the endpoint's answer and the commit, where a
//! rotated refresh token would be lost. What it brings is committed before anybody uses it. A refusal that is final
//! holds until the credential's secrets are replaced; after other failures the endpoint is left alone for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use outwork_mcp::{Credentials, Rejected};
use outwork_store::{SealedSecret, Store, StoreError, VaultCredentialSecrets};
use outwork_wire::Time;
use outwork_wire::id::{SessionId, VaultCredentialId, VaultId, WorkspaceId};
use rand::Rng;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::VaultError;
use super::auth::{ACCESS_TOKEN, CLIENT_SECRET, PublicAuth, REFRESH_TOKEN, TOKEN, mcp_slot};
use super::outbound::Outbound;
use super::seal::Sealer;
use super::token::{self, Denied, Granted, RefreshGrant};
use super::words::{AccessToken, OnRefreshFailure, RefreshFailure, TokenError};

/// How long before its end a token is replaced, in seconds.
const AHEAD_SECONDS: i64 = 60;
/// How long a refresh may take, with every attempt of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the endpoint is asked in that time.
const ATTEMPTS: u32 = 3;
/// The wait after the first attempt; it doubles.
const BACKOFF: Duration = Duration::from_millis(250);
/// The shortest and the longest time for which a credential is left alone after a refresh that failed.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often a result is offered to a store that cannot write.
const COMMITS: u32 = 6;

/// Tokens of credentials. Cheap to clone; all clones share their refreshes.
#[derive(Clone)]
pub struct Vaults {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) outbound: Arc<dyn Outbound>,
    on_refresh_failure: OnRefreshFailure,
    flights: Mutex<HashMap<VaultCredentialId, Flight>>,
    rests: Mutex<HashMap<VaultCredentialId, Rest>>,
    tasks: TaskTracker,
    deadline: Duration,
}

/// A refresh under way.
type Flight = Shared<BoxFuture<'static, Result<AccessToken, TokenError>>>;

/// What is remembered of refreshes that failed, until one succeeds.
struct Rest {
    generation: u64,
    failures: u32,
    until: Option<Instant>,
    error: TokenError,
}

/// A credential for an MCP server.
#[derive(Clone)]
pub struct McpCredential {
    vaults: Vaults,
    workspace: WorkspaceId,
    vault: VaultId,
    id: VaultCredentialId,
}

/// A credential with its secrets, read at one moment.
struct Held {
    kept: VaultCredentialSecrets,
    auth: PublicAuth,
    token: AccessToken,
}

impl Vaults {
    pub(crate) fn new(
        store: Store,
        sealer: Arc<Sealer>,
        outbound: Arc<dyn Outbound>,
        on_refresh_failure: OnRefreshFailure,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                sealer,
                outbound,
                on_refresh_failure,
                flights: Mutex::default(),
                rests: Mutex::default(),
                tasks: TaskTracker::new(),
                deadline: DEADLINE,
            }),
        }
    }

    /// The credential for an MCP server: of the first of the vaults that has one in force for this address.
    pub async fn credential_for(
        &self,
        workspace: &WorkspaceId,
        vault_ids: &[VaultId],
        mcp_server_url: &str,
    ) -> Result<Option<McpCredential>, VaultError> {
        let slot = mcp_slot(mcp_server_url);
        let found = self
            .inner
            .store
            .find_vault_credential(workspace, vault_ids, &slot)
            .await?;
        Ok(found.map(|row| self.credential(workspace, &row.vault_id, &row.id)))
    }

    /// The same, with the vaults that a session was made with.
    pub(crate) async fn credential_of_session(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        mcp_server_url: &str,
    ) -> Result<Option<McpCredential>, VaultError> {
        let row = self.inner.store.session(workspace, session).await?;
        self.credential_for(workspace, &row.vault_ids, mcp_server_url).await
    }

    pub(crate) fn credential(&self, workspace: &WorkspaceId, vault: &VaultId, id: &VaultCredentialId) -> McpCredential {
        McpCredential {
            vaults: self.clone(),
            workspace: workspace.clone(),
            vault: vault.clone(),
            id: id.clone(),
        }
    }

    /// Waits until no refresh of a credential is under way, so that a change of its secrets does not meet one.
    pub(crate) async fn settle(&self, id: &VaultCredentialId) {
        let flight = self.flights().get(id).cloned();
        if let Some(flight) = flight {
            // Whatever came of it is for those who asked for it.
            let _ = flight.await;
        }
    }

    /// Lets refreshes under way end. For the end of the plane, before the store is closed.
    pub(crate) async fn close(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<VaultCredentialId, Flight>> {
        self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl McpCredential {
    /// Its names, as a ledger keeps them.
    pub(crate) async fn named(&self) -> outwork_ledger::Credential {
        let row = self
            .vaults
            .inner
            .store
            .vault_credential(&self.workspace, &self.vault, &self.id)
            .await
            .ok();
        outwork_ledger::Credential {
            id: Some(self.id.to_string()),
            method: row
                .as_ref()
                .and_then(|row| PublicAuth::of(row).ok())
                .map(|auth| auth.kind().to_owned()),
            name: row.and_then(|row| row.display_name),
        }
    }

    /// The credential's id.
    pub fn id(&self) -> &VaultCredentialId {
        &self.id
    }

    /// The vault's id.
    pub fn vault_id(&self) -> &VaultId {
        &self.vault
    }

    /// The token to call the server with. One that ends within a minute is refreshed first; if that fails, one that
    /// has not ended yet still serves.
    pub async fn token(&self) -> Result<AccessToken, TokenError> {
        let held = self.held().await?;
        if !held.is_due(Time::now()) || held.refresh().is_none() {
            return Ok(held.token);
        }
        match self.refreshed(None, false).await {
            Err(error) if held.has_ended(Time::now()) => Err(error),
            Err(TokenError::Gone(id)) => Err(TokenError::Gone(id)),
            Err(_) => Ok(held.token),
            Ok(token) => Ok(token),
        }
    }

    /// A token that is another one than that which the server rejected.
    pub async fn refresh_after_rejection(&self, rejected: &AccessToken) -> Result<AccessToken, TokenError> {
        self.after_rejection(rejected, false).await
    }

    /// The same, also while the credential is left alone after a failure. For somebody who asked for it.
    pub(crate) async fn refresh_in_any_case(&self, rejected: &AccessToken) -> Result<AccessToken, TokenError> {
        self.after_rejection(rejected, true).await
    }

    async fn after_rejection(&self, rejected: &AccessToken, in_any_case: bool) -> Result<AccessToken, TokenError> {
        // A flight that others began may bring the very token that was rejected here; then a further one is due.
        for _ in 0..2 {
            let token = self.refreshed(Some(rejected.clone()), in_any_case).await?;
            if !token.is(rejected) {
                return Ok(token);
            }
        }
        Err(TokenError::NoRefresh(self.id.clone()))
    }

    /// Joins the refresh under way, or begins one.
    async fn refreshed(&self, rejected: Option<AccessToken>, in_any_case: bool) -> Result<AccessToken, TokenError> {
        let flight = {
            let mut flights = self.vaults.flights();
            match flights.get(&self.id) {
                Some(flight) => flight.clone(),
                None => {
                    let (ended, end) = oneshot::channel();
                    let interrupted = TokenError::Store {
                        credential: self.id.clone(),
                        reason: "the refresh was interrupted".into(),
                    };
                    let flight = end.map(|result| result.unwrap_or(Err(interrupted))).boxed().shared();
                    flights.insert(self.id.clone(), flight.clone());
                    let landing = Landing(self.clone());
                    self.vaults.inner.tasks.spawn(async move {
                        let result = landing.0.refresh(rejected.as_ref(), in_any_case).await;
                        // Whoever asks from here on reads what was committed.
                        drop(landing);
                        let _ = ended.send(result);
                    });
                    flight
                }
            }
        };
        flight.await
    }

    async fn held(&self) -> Result<Held, TokenError> {
        let failed = |error: &dyn std::error::Error| TokenError::store(&self.id, error);
        let inner = &self.vaults.inner;
        let kept = match inner.store.vault_credential_secrets(&self.workspace, &self.id).await {
            Ok(kept) if kept.row.archived_at.is_none() => kept,
            Ok(_) | Err(StoreError::NotFound { .. }) => return Err(TokenError::Gone(self.id.clone())),
            Err(error) => return Err(failed(&error)),
        };
        let auth = PublicAuth::of(&kept.row).map_err(|e| failed(&e))?;
        let field = match &auth {
            PublicAuth::StaticBearer { .. } => TOKEN,
            PublicAuth::McpOauth { .. } => ACCESS_TOKEN,
            PublicAuth::EnvironmentVariable { .. } => {
                return Err(failed(&VaultError::Incomplete(self.id.clone())));
            }
        };
        let token = self.secret(&kept, field).await?;
        let token = token.ok_or_else(|| failed(&VaultError::Incomplete(self.id.clone())))?;
        Ok(Held {
            kept,
            auth,
            token: AccessToken::new(token),
        })
    }

    async fn secret(&self, kept: &VaultCredentialSecrets, field: &str) -> Result<Option<SecretString>, TokenError> {
        let Some(sealed) = kept.secrets.iter().find(|secret| secret.field == field) else {
            return Ok(None);
        };
        let opened = self.vaults.inner.sealer.open(&self.workspace, &self.id, sealed).await;
        opened.map(Some).map_err(|error| TokenError::store(&self.id, &error))
    }

    /// What the one task does.
    async fn refresh(&self, rejected: Option<&AccessToken>, in_any_case: bool) -> Result<AccessToken, TokenError> {
        // Twice at most: a second time if somebody replaced the secrets in the meantime.
        for _ in 0..2 {
            let held = self.held().await?;
            let replaced = match rejected {
                Some(rejected) => !held.token.is(rejected),
                None => !held.is_due(Time::now()),
            };
            if replaced {
                return Ok(held.token);
            }
            let Some(public) = held.refresh() else {
                return Err(TokenError::NoRefresh(self.id.clone()));
            };
            let Some(refresh_token) = self.secret(&held.kept, REFRESH_TOKEN).await? else {
                return Err(TokenError::NoRefresh(self.id.clone()));
            };
            let generation = held.kept.row.generation;
            if !in_any_case && let Some(error) = self.resting(generation) {
                return Err(error);
            }
            let client_secret = self.secret(&held.kept, CLIENT_SECRET).await?;
            let grant = RefreshGrant {
                workspace: &self.workspace,
                public,
                refresh_token: &refresh_token,
                client_secret: client_secret.as_ref(),
            };
            let granted = match self.ask(&grant).await {
                Ok(granted) => granted,
                Err(denied) => return Err(self.failed(generation, denied)),
            };
            if let Some(token) = self.commit(generation, granted).await? {
                self.rests().remove(&self.id);
                return Ok(token);
            }
        }
        Err(TokenError::Store {
            credential: self.id.clone(),
            reason: "its secrets are being replaced all the time".into(),
        })
    }

    async fn ask(&self, grant: &RefreshGrant<'_>) -> Result<Granted, Denied> {
        let end = Instant::now() + self.vaults.inner.deadline;
        let mut wait = BACKOFF;
        let mut attempt = 1;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let denied = match token::ask(self.vaults.inner.outbound.as_ref(), grant, left).await {
                Ok(granted) => return Ok(granted),
                Err(denied) => denied,
            };
            let pause = denied
                .retry_after
                .unwrap_or_else(|| wait.mul_f64(rand::rng().random_range(0.75..1.25)));
            if denied.permanent || attempt == ATTEMPTS || Instant::now() + pause >= end {
                return Err(denied);
            }
            sleep(pause).await;
            wait *= 2;
            attempt += 1;
        }
    }

    /// Seals and commits what the endpoint gave; nothing if the secrets were replaced or taken away meanwhile.
    async fn commit(&self, generation: u64, granted: Granted) -> Result<Option<AccessToken>, TokenError> {
        let failed = |error: &dyn std::error::Error| TokenError::store(&self.id, error);
        let mut secrets = vec![self.sealed(ACCESS_TOKEN, &granted.access_token).await?];
        if let Some(refresh_token) = &granted.refresh_token {
            secrets.push(self.sealed(REFRESH_TOKEN, refresh_token).await?);
        }
        let now = Time::now();
        let expires_at = granted
            .expires_in
            .map(|life| now.plus_micros(i64::try_from(life.as_micros()).unwrap_or(i64::MAX)));
        let mut wait = BACKOFF;
        for attempt in 1.. {
            let kept = self
                .vaults
                .inner
                .store
                .keep_refreshed_secrets(
                    &self.workspace,
                    &self.id,
                    generation,
                    secrets.clone(),
                    now,
                    move |auth| {
                        auth["expires_at"] = expires_at.map_or(Value::Null, |at| at.to_string().into());
                    },
                )
                .await;
            match kept {
                Ok(row) => return Ok(row.map(|_| AccessToken::new(granted.access_token))),
                // The endpoint may have voided the old refresh token: what it gave is not thrown away lightly.
                Err(StoreError::Unavailable { .. }) if attempt < COMMITS => {
                    sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => {
                    tracing::error!(
                        credential = %self.id, %error,
                        "the tokens of a refresh could not be kept; the credential may have to be authorized again"
                    );
                    return Err(failed(&error));
                }
            }
        }
        Ok(None)
    }

    async fn sealed(&self, field: &str, secret: &SecretString) -> Result<SealedSecret, TokenError> {
        let sealer = &self.vaults.inner.sealer;
        let sealed = sealer.seal(&self.workspace, &self.id, field, secret).await;
        sealed.map_err(|error| TokenError::store(&self.id, &error))
    }

    fn rests(&self) -> std::sync::MutexGuard<'_, HashMap<VaultCredentialId, Rest>> {
        self.vaults.inner.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last failure, while the credential is left alone for it.
    fn resting(&self, generation: u64) -> Option<TokenError> {
        let rests = self.rests();
        let rest = rests.get(&self.id).filter(|rest| rest.generation == generation)?;
        let rests_still = rest.until.is_none_or(|until| Instant::now() < until);
        rests_still.then(|| rest.error.clone())
    }

    fn failed(&self, generation: u64, denied: Denied) -> TokenError {
        let error = if denied.permanent {
            TokenError::Dead {
                credential: self.id.clone(),
                reason: denied.reason.clone(),
                response: denied.response.map(Box::new),
            }
        } else {
            TokenError::Passing {
                credential: self.id.clone(),
                reason: denied.reason.clone(),
                response: denied.response.map(Box::new),
                unreachable: denied.unreachable,
            }
        };
        {
            let mut rests = self.rests();
            let earlier = rests.get(&self.id).filter(|rest| rest.generation == generation);
            let failures = earlier.map_or(0, |rest| rest.failures) + 1;
            let pause = REST.0.saturating_mul(1 << failures.min(16)) / 2;
            let pause = denied.retry_after.unwrap_or_default().max(pause).min(REST.1);
            let rest = Rest {
                generation,
                failures,
                until: (!denied.permanent).then(|| Instant::now() + pause),
                error: error.clone(),
            };
            rests.insert(self.id.clone(), rest);
        }
        (self.vaults.inner.on_refresh_failure)(RefreshFailure {
            workspace_id: self.workspace.clone(),
            vault_id: self.vault.clone(),
            credential_id: self.id.clone(),
            permanent: denied.permanent,
            reason: denied.reason,
            at: Time::now(),
        });
        error
    }
}

impl Credentials for McpCredential {
    fn token(&self) -> BoxFuture<'_, Option<SecretString>> {
        Box::pin(async move {
            match self.token().await {
                Ok(token) => Some(SecretString::from(token.expose())),
                Err(error) => {
                    // The server is asked without one and says that it wants one.
                    tracing::warn!(credential = %self.id, %error, "a credential gave no token");
                    None
                }
            }
        })
    }

    fn refresh_after_rejection<'a>(
        &'a self,
        rejected: &'a SecretString,
    ) -> BoxFuture<'a, Result<Option<SecretString>, Rejected>> {
        Box::pin(async move {
            let rejected = AccessToken::new(rejected.clone());
            match self.refresh_after_rejection(&rejected).await {
                Ok(token) => Ok(Some(SecretString::from(token.expose()))),
                Err(TokenError::NoRefresh(_)) => Ok(None),
                Err(error) => Err(Rejected(error.to_string())),
            }
        })
    }
}

impl Held {
    fn refresh(&self) -> Option<&super::auth::PublicRefresh> {
        match &self.auth {
            PublicAuth::McpOauth { refresh, .. } => refresh.as_ref(),
            PublicAuth::StaticBearer { .. } | PublicAuth::EnvironmentVariable { .. } => None,
        }
    }

    fn expires_at(&self) -> Option<Time> {
        match &self.auth {
            PublicAuth::McpOauth { expires_at, .. } => *expires_at,
            PublicAuth::StaticBearer { .. } | PublicAuth::EnvironmentVariable { .. } => None,
        }
    }

    fn is_due(&self, now: Time) -> bool {
        self.expires_at()
            .is_some_and(|at| at <= now.plus_seconds(AHEAD_SECONDS))
    }

    fn has_ended(&self, now: Time) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }
}

/// Takes a flight off the list when its task ends, however it ends.
struct Landing(McpCredential);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.vaults.flights().remove(&self.0.id);
    }
}

#[cfg(test)]
mod tests;
