//! Credentials of vaults: made, shown, changed, ended, tried out.
//!
//! Secrets go in and never come out: they are sealed before the store sees them. What a credential is for, its type,
//! its client and its token endpoint never change.

use outwork_store::{NewVaultCredential, Page, PageRequest, SealedSecret, StoreError, VaultCredentialRow};
use outwork_wire::Time;
use outwork_wire::id::{VaultCredentialId, VaultId, WorkspaceId};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::App;
use super::fields::merge_metadata;
use super::vaults::as_request_error;
use crate::auth::Access;
use crate::error::{ApiError, ErrorKind};
use crate::run::changes::Changed;
use crate::vault::auth::{
    ACCESS_TOKEN, CLIENT_SECRET, ClientAuth, InjectionLocation, Networking, PublicAuth, REFRESH_TOKEN, SECRET_VALUE,
    TOKEN, addresses, check_address,
};
use crate::vault::validate::{Validation, validate as try_out};
use crate::vault::{TokenError, VaultError};

/// The most credentials in force that a vault has.
const MAX_CREDENTIALS: usize = 20;

/// A credential to be made.
pub(crate) struct CredentialDraft {
    pub(crate) auth: PublicAuth,
    /// Its secrets by field.
    pub(crate) secrets: Vec<(&'static str, SecretString)>,
    pub(crate) display_name: Option<String>,
    pub(crate) metadata: Map<String, Value>,
}

/// What an update changes; what is absent stays.
pub(crate) struct CredentialChange {
    pub(crate) auth: Option<AuthChange>,
    pub(crate) display_name: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// What an update changes of how a credential authenticates.
pub(crate) enum AuthChange {
    StaticBearer {
        token: Option<SecretString>,
    },
    McpOauth {
        access_token: Option<SecretString>,
        /// `Some(None)`: it is not known when it ends.
        expires_at: Option<Option<Time>>,
        refresh: Option<RefreshChange>,
    },
    EnvironmentVariable {
        secret_value: Option<SecretString>,
        networking: Option<Networking>,
        injection_location: InjectionChange,
    },
}

/// What an update changes of how a token is refreshed.
pub(crate) struct RefreshChange {
    pub(crate) refresh_token: Option<SecretString>,
    /// `Some(None)` takes the scope away.
    pub(crate) scope: Option<Option<String>>,
    /// That the client shows a secret at all, and a new one if there is one.
    pub(crate) client_secret: Option<Option<SecretString>>,
}

/// What an update changes of where a value is put.
#[derive(Default)]
pub(crate) struct InjectionChange {
    pub(crate) body: Option<bool>,
    pub(crate) header: Option<bool>,
}

/// Makes a credential.
pub(crate) async fn create(
    app: &App,
    access: &Access,
    vault: &VaultId,
    draft: CredentialDraft,
) -> Result<VaultCredentialRow, ApiError> {
    let workspace = access.workspace()?;
    if app.store.vault(workspace, vault).await?.archived_at.is_some() {
        return Err(ApiError::invalid(format!(
            "vault `{vault}` is archived and takes no credentials; use another one"
        )));
    }
    if !app.vaults.inner.outbound.plain_http(workspace)
        && let Some((field, _)) = addresses(&draft.auth).iter().find(|(_, url)| is_plain(url))
    {
        return Err(ApiError::invalid(format!(
            "{field}: must be https, as this server sends no secret in clear text (`mcp.plain_http`)"
        )));
    }
    let id = VaultCredentialId::fresh();
    let new = NewVaultCredential {
        vault_id: vault.clone(),
        slot: draft.auth.slot(),
        display_name: draft.display_name,
        auth: draft.auth.to_value(),
        metadata: draft.metadata,
        secrets: sealed(app, workspace, &id, draft.secrets).await?,
        limit: MAX_CREDENTIALS,
        id,
    };
    let row = app.store.create_vault_credential(workspace, new, Time::now()).await?;
    app.changes.ring(Changed::Vault(vault.clone()));
    Ok(row)
}

/// The credential of that id.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    vault: &VaultId,
    id: &VaultCredentialId,
) -> Result<VaultCredentialRow, ApiError> {
    Ok(app.store.vault_credential(access.workspace()?, vault, id).await?)
}

/// Credentials of a vault, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    vault: &VaultId,
    include_archived: bool,
    page: PageRequest,
) -> Result<Page<VaultCredentialRow>, ApiError> {
    Ok(app
        .store
        .list_vault_credentials(access.workspace()?, vault, include_archived, page)
        .await?)
}

/// Changes a credential.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    vault: &VaultId,
    id: &VaultCredentialId,
    change: CredentialChange,
) -> Result<VaultCredentialRow, ApiError> {
    let workspace = access.workspace()?;
    let stored = app.store.vault_credential(workspace, vault, id).await?;
    if stored.archived_at.is_some() {
        return Err(ApiError::invalid(format!(
            "vault credential `{id}` is archived and cannot be changed"
        )));
    }
    let (patch, secrets) = match change.auth {
        Some(auth) => {
            let (patch, secrets) = resolve(&PublicAuth::of(&stored)?, auth)?;
            (Some(patch), sealed(app, workspace, id, secrets).await?)
        }
        None => (None, Vec::new()),
    };
    if !secrets.is_empty() {
        // A refresh under way would be void, and with it a refresh token that its endpoint has already replaced.
        app.vaults.settle(id).await;
    }
    let edit = move |row: &mut VaultCredentialRow| {
        if let Some(patch) = patch {
            let mut auth = PublicAuth::of(row).map_err(|error| StoreError::rejected(error.to_string()))?;
            apply(patch, &mut auth).map_err(StoreError::rejected)?;
            row.auth = auth.to_value();
        }
        if let Some(name) = change.display_name {
            row.display_name = Some(name);
        }
        if let Some(patch) = change.metadata {
            merge_metadata(&mut row.metadata, &patch, false).map_err(StoreError::rejected)?;
        }
        Ok(())
    };
    let row = app
        .store
        .update_vault_credential(workspace, vault, id, secrets, Time::now(), edit)
        .await
        .map_err(as_request_error)?;
    app.changes.ring(Changed::Vault(vault.clone()));
    Ok(row)
}

/// Archives a credential: its secrets are deleted, what it was for is free again.
pub(crate) async fn archive(
    app: &App,
    access: &Access,
    vault: &VaultId,
    id: &VaultCredentialId,
) -> Result<VaultCredentialRow, ApiError> {
    let row = app
        .store
        .archive_vault_credential(access.workspace()?, vault, id, Time::now())
        .await?;
    app.changes.ring(Changed::Vault(vault.clone()));
    Ok(row)
}

/// Deletes a credential.
pub(crate) async fn delete(
    app: &App,
    access: &Access,
    vault: &VaultId,
    id: &VaultCredentialId,
) -> Result<(), ApiError> {
    app.store
        .delete_vault_credential(access.workspace()?, vault, id)
        .await?;
    app.changes.ring(Changed::Vault(vault.clone()));
    Ok(())
}

/// Tries an OAuth credential out; whether it can be refreshed, and what came of it.
pub(crate) async fn validate(
    app: &App,
    access: &Access,
    vault: &VaultId,
    id: &VaultCredentialId,
) -> Result<(bool, Validation), ApiError> {
    let workspace = access.workspace()?;
    let row = app.store.vault_credential(workspace, vault, id).await?;
    if row.archived_at.is_some() {
        return Err(ApiError::invalid(format!(
            "vault credential `{id}` is archived and holds no token to try"
        )));
    }
    let (server, refresh) = match PublicAuth::of(&row)? {
        PublicAuth::McpOauth {
            mcp_server_url,
            refresh,
            ..
        } => (mcp_server_url, refresh),
        other @ (PublicAuth::StaticBearer { .. } | PublicAuth::EnvironmentVariable { .. }) => {
            return Err(ApiError::invalid(format!(
                "vault credential `{id}` is {}; only mcp_oauth credentials can be validated",
                other.kind()
            )));
        }
    };
    let server = check_address(&server).map_err(|_| VaultError::Incomplete(id.clone()))?;
    let validation = try_out(&app.vaults, workspace, vault, id, &server).await?;
    Ok((refresh.is_some(), validation))
}

fn is_plain(address: &str) -> bool {
    address
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"))
}

async fn sealed(
    app: &App,
    workspace: &WorkspaceId,
    id: &VaultCredentialId,
    secrets: Vec<(&'static str, SecretString)>,
) -> Result<Vec<SealedSecret>, ApiError> {
    let mut sealed = Vec::with_capacity(secrets.len());
    for (field, secret) in &secrets {
        let sealer = &app.vaults.inner.sealer;
        sealed.push(sealer.seal(workspace, id, field, secret).await?);
    }
    Ok(sealed)
}

/// What is left of a change when its secrets are taken out.
#[derive(Default)]
struct PublicPatch {
    expires_at: Option<Option<Time>>,
    scope: Option<Option<String>>,
    networking: Option<Networking>,
    injection_location: InjectionChange,
}

type Secrets = Vec<(&'static str, SecretString)>;

/// Checks a change against what never changes of a credential, and takes it apart.
fn resolve(stored: &PublicAuth, change: AuthChange) -> Result<(PublicPatch, Secrets), ApiError> {
    let mut secrets = Secrets::new();
    let mut patch = PublicPatch::default();
    let mut keep = |field, secret: Option<SecretString>| secrets.extend(secret.map(|secret| (field, secret)));
    match (stored, change) {
        (PublicAuth::StaticBearer { .. }, AuthChange::StaticBearer { token }) => keep(TOKEN, token),
        (
            PublicAuth::McpOauth { refresh: stored, .. },
            AuthChange::McpOauth {
                access_token,
                expires_at,
                refresh,
            },
        ) => {
            keep(ACCESS_TOKEN, access_token);
            patch.expires_at = expires_at;
            if let Some(refresh) = refresh {
                let Some(stored) = stored else {
                    return Err(ApiError::invalid(
                        "auth.refresh: this credential was made without a way to refresh it; archive it and make \
                         another one",
                    ));
                };
                keep(REFRESH_TOKEN, refresh.refresh_token);
                patch.scope = refresh.scope;
                if let Some(secret) = refresh.client_secret {
                    if stored.token_endpoint_auth == (ClientAuth::None {}) {
                        return Err(ApiError::invalid(
                            "auth.refresh.token_endpoint_auth: the client of this credential shows no secret; archive \
                             it and make another one",
                        ));
                    }
                    keep(CLIENT_SECRET, secret);
                }
            }
        }
        (
            PublicAuth::EnvironmentVariable { .. },
            AuthChange::EnvironmentVariable {
                secret_value,
                networking,
                injection_location,
            },
        ) => {
            keep(SECRET_VALUE, secret_value);
            patch.networking = networking;
            patch.injection_location = injection_location;
        }
        (
            stored,
            AuthChange::StaticBearer { .. } | AuthChange::McpOauth { .. } | AuthChange::EnvironmentVariable { .. },
        ) => {
            return Err(ApiError::invalid(format!(
                "auth.type: the credential is {} and its type cannot change; make another credential",
                stored.kind()
            )));
        }
    }
    Ok((patch, secrets))
}

fn apply(patch: PublicPatch, auth: &mut PublicAuth) -> Result<(), String> {
    match auth {
        PublicAuth::StaticBearer { .. } => {}
        PublicAuth::McpOauth {
            expires_at, refresh, ..
        } => {
            if let Some(at) = patch.expires_at {
                *expires_at = at;
            }
            if let (Some(scope), Some(refresh)) = (patch.scope, refresh) {
                refresh.scope = scope;
            }
        }
        PublicAuth::EnvironmentVariable {
            networking,
            injection_location,
            ..
        } => {
            if let Some(new) = patch.networking {
                *networking = new;
            }
            let InjectionChange { body, header } = patch.injection_location;
            *injection_location = InjectionLocation {
                body: body.unwrap_or(injection_location.body),
                header: header.unwrap_or(injection_location.header),
            };
            check_injection(injection_location)?;
        }
    }
    Ok(())
}

/// A value that is put nowhere is no use to anybody.
pub(crate) fn check_injection(location: &InjectionLocation) -> Result<(), String> {
    if location.body || location.header {
        Ok(())
    } else {
        Err("auth.injection_location: at least one of body and header must be true".into())
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            error @ (VaultError::Unopened { .. }
            | VaultError::ResourceUnopened { .. }
            | VaultError::UnopenedAt(_)
            | VaultError::Incomplete(_)) => ApiError {
                message: error.to_string(),
                ..ApiError::internal(error)
            },
            error @ VaultError::MasterKey(_) => ApiError {
                kind: ErrorKind::Unavailable,
                message: "the server's master key cannot be used at the moment; the server's log says why".into(),
                ..ApiError::internal(error)
            },
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Gone(id) => ApiError::not_found("vault credential", id.as_str()),
            error @ (TokenError::NoRefresh(_) | TokenError::Dead { .. }) => ApiError::invalid(error.to_string()),
            error @ (TokenError::Passing { .. } | TokenError::Store { .. }) => ApiError {
                kind: ErrorKind::Unavailable,
                message: "the credential cannot be used at the moment; try again".into(),
                ..ApiError::internal(error)
            },
        }
    }
}
