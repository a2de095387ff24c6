//! Keys and workspaces: who may call this server.
//!
//! A key's text exists in the answer that makes it and nowhere else; what is kept is its hash. Admins make keys for
//! their own workspace; admins of the default workspace also for others, and they make workspaces.

use outwork_store::{
    ApiKeyRow, EnvironmentKeyRow, KeyHash, NewApiKey, NewEnvironmentKey, Page, PageRequest, WorkspaceRow,
};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{ApiKeyId, EnvironmentId, EnvironmentKeyId, WorkspaceId};

use super::{App, environments};
use crate::auth::{API_KEY_PREFIX, Access, ENVIRONMENT_KEY_PREFIX, Role, SecretText};
use crate::error::{ApiError, ErrorKind};

/// How long an environment key lasts if nothing is said: a year.
const ENVIRONMENT_KEY_SECONDS: i64 = 365 * 24 * 3600;

/// An API key to be made.
pub(crate) struct ApiKeyWish {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The caller's own if it is absent.
    pub(crate) workspace: Option<WorkspaceId>,
    /// Never if it is absent.
    pub(crate) expires_at: Option<Time>,
}

/// Makes an API key.
pub(crate) async fn create_api_key(
    app: &App,
    access: &Access,
    wish: ApiKeyWish,
) -> Result<(ApiKeyRow, SecretText), ApiError> {
    let workspace = reachable(app, access, wish.workspace).await?;
    let now = Time::now();
    check_expiry(wish.expires_at, now)?;
    let secret = SecretText::fresh(API_KEY_PREFIX);
    let new = NewApiKey {
        id: ApiKeyId::fresh(),
        name: wish.name,
        role: wish.role.as_str().to_owned(),
        hash: KeyHash::of(secret.expose()),
        expires_at: wish.expires_at,
    };
    let row = app.store.create_api_key(&workspace, new, now).await?;
    tracing::info!(key = %row.id, role = row.role, workspace = %row.workspace_id, by = %access.principal(), "API key made");
    Ok((row, secret))
}

/// The API keys of a workspace, newest first, revoked ones too.
pub(crate) async fn list_api_keys(
    app: &App,
    access: &Access,
    workspace: Option<WorkspaceId>,
    page: PageRequest,
) -> Result<Page<ApiKeyRow>, ApiError> {
    let workspace = reachable(app, access, workspace).await?;
    Ok(app.store.list_api_keys(&workspace, page).await?)
}

/// Revokes an API key; one that is revoked stays as it is.
pub(crate) async fn revoke_api_key(
    app: &App,
    access: &Access,
    workspace: Option<WorkspaceId>,
    id: &ApiKeyId,
) -> Result<ApiKeyRow, ApiError> {
    let workspace = reachable(app, access, workspace).await?;
    let row = app.store.revoke_api_key(&workspace, id, Time::now()).await?;
    tracing::info!(key = %row.id, by = %access.principal(), "API key revoked");
    Ok(row)
}

/// Makes a key for the queue of a self-hosted environment.
pub(crate) async fn create_environment_key(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    name: String,
    expires_at: Option<Time>,
) -> Result<(EnvironmentKeyRow, SecretText), ApiError> {
    let row = environments::retrieve(app, access, environment).await?;
    if row.kind == EnvironmentKind::Cloud {
        return Err(ApiError::invalid(format!(
            "environment `{environment}` is a cloud environment, which the server's own workers serve; only \
             self_hosted environments have keys"
        )));
    }
    let now = Time::now();
    check_expiry(expires_at, now)?;
    let secret = SecretText::fresh(ENVIRONMENT_KEY_PREFIX);
    let new = NewEnvironmentKey {
        id: EnvironmentKeyId::fresh(),
        name,
        hash: KeyHash::of(secret.expose()),
        expires_at: Some(expires_at.unwrap_or(now.plus_seconds(ENVIRONMENT_KEY_SECONDS))),
    };
    let row = app
        .store
        .create_environment_key(&row.workspace_id, environment, new, now)
        .await?;
    tracing::info!(key = %row.id, %environment, by = %access.principal(), "environment key made");
    Ok((row, secret))
}

/// The keys of an environment, newest first, revoked ones too.
pub(crate) async fn list_environment_keys(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    page: PageRequest,
) -> Result<Page<EnvironmentKeyRow>, ApiError> {
    let row = environments::retrieve(app, access, environment).await?;
    Ok(app
        .store
        .list_environment_keys(&row.workspace_id, environment, page)
        .await?)
}

/// Revokes an environment key; one that is revoked stays as it is. The tokens that it polled end with it, and the
/// items that it held go back into the queue.
pub(crate) async fn revoke_environment_key(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &EnvironmentKeyId,
) -> Result<EnvironmentKeyRow, ApiError> {
    let workspace = access.workspace()?;
    let (row, lapsed) = app
        .store
        .revoke_environment_key(workspace, environment, id, Time::now())
        .await?;
    for item in &lapsed {
        app.bells.ring(&item.environment_id);
    }
    tracing::info!(
        key = %row.id, %environment, by = %access.principal(), items = lapsed.len(), "environment key revoked"
    );
    Ok(row)
}

/// Makes a workspace.
pub(crate) async fn create_workspace(app: &App, access: &Access, name: &str) -> Result<WorkspaceRow, ApiError> {
    check_default(app, access)?;
    let row = app.store.create_workspace(name, Time::now()).await?;
    tracing::info!(workspace = %row.id, by = %access.principal(), "workspace made");
    Ok(row)
}

/// Every workspace, oldest first.
pub(crate) async fn list_workspaces(app: &App, access: &Access) -> Result<Vec<WorkspaceRow>, ApiError> {
    check_default(app, access)?;
    Ok(app.store.list_workspaces().await?)
}

/// The workspace that is named, if the caller may look after it.
async fn reachable(app: &App, access: &Access, named: Option<WorkspaceId>) -> Result<WorkspaceId, ApiError> {
    let own = access.workspace()?;
    match named {
        None => Ok(own.clone()),
        Some(named) if named == *own => Ok(named),
        Some(named) => {
            check_default(app, access)?;
            Ok(app.store.workspace(&named).await?.id)
        }
    }
}

fn check_default(app: &App, access: &Access) -> Result<(), ApiError> {
    if access.workspace()? == app.store.default_workspace() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::Permission,
        "other workspaces are looked after by admins of the default workspace only",
    ))
}

fn check_expiry(expires_at: Option<Time>, now: Time) -> Result<(), ApiError> {
    match expires_at {
        Some(at) if at <= now => Err(ApiError::invalid(format!(
            "expires_at: {at} has passed; name a time to come"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_in_the_future() {
        let now = Time::from_micros(1_000_000);
        assert!(check_expiry(None, now).is_ok());
        assert!(check_expiry(Some(now.plus_micros(1)), now).is_ok());
        let message = check_expiry(Some(now), now).unwrap_err().message;
        assert!(message.starts_with("expires_at: "), "{message}");
    }
}
