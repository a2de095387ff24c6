//! Vaults: made, shown, changed, ended.
//!
//! What is archived stays as it is. Archiving a vault archives its credentials and deletes their secrets.

use outwork_store::{NewVault, Page, PageRequest, StoreError, VaultRow};
use outwork_wire::Time;
use outwork_wire::id::{VaultId, WorkspaceId};
use serde_json::{Map, Value};

use super::App;
use super::fields::merge_metadata;
use crate::auth::Access;
use crate::error::ApiError;
use crate::run::changes::Changed;

/// What an update changes; what is absent stays.
pub(crate) struct VaultChange {
    pub(crate) display_name: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Makes a vault.
pub(crate) async fn create(app: &App, access: &Access, new: NewVault) -> Result<VaultRow, ApiError> {
    Ok(app.store.create_vault(access.workspace()?, new, Time::now()).await?)
}

/// The vault of that id.
pub(crate) async fn retrieve(app: &App, access: &Access, id: &VaultId) -> Result<VaultRow, ApiError> {
    Ok(app.store.vault(access.workspace()?, id).await?)
}

/// Vaults, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    include_archived: bool,
    page: PageRequest,
) -> Result<Page<VaultRow>, ApiError> {
    Ok(app
        .store
        .list_vaults(access.workspace()?, include_archived, page)
        .await?)
}

/// Changes a vault.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    id: &VaultId,
    change: VaultChange,
) -> Result<VaultRow, ApiError> {
    let result = app
        .store
        .update_vault(access.workspace()?, id, Time::now(), move |row| {
            if let Some(name) = change.display_name {
                row.display_name = name;
            }
            if let Some(patch) = change.metadata {
                merge_metadata(&mut row.metadata, &patch, false).map_err(StoreError::rejected)?;
            }
            Ok(())
        })
        .await;
    result.map_err(as_request_error)
}

/// Archives a vault with its credentials.
pub(crate) async fn archive(app: &App, access: &Access, id: &VaultId) -> Result<VaultRow, ApiError> {
    let row = app.store.archive_vault(access.workspace()?, id, Time::now()).await?;
    app.changes.ring(Changed::Vault(id.clone()));
    Ok(row)
}

/// Deletes a vault with its credentials.
pub(crate) async fn delete(app: &App, access: &Access, id: &VaultId) -> Result<(), ApiError> {
    app.store.delete_vault(access.workspace()?, id).await?;
    app.changes.ring(Changed::Vault(id.clone()));
    Ok(())
}

/// Checks that a session may be given these vaults.
pub(crate) async fn check_for_session(app: &App, workspace: &WorkspaceId, ids: &[VaultId]) -> Result<(), ApiError> {
    for id in ids {
        if app.store.vault(workspace, id).await?.archived_at.is_some() {
            return Err(ApiError::invalid(format!(
                "vault_ids: vault `{id}` is archived and serves no new sessions; use another one"
            )));
        }
    }
    Ok(())
}

/// That something is archived is an error of the request, not of its timing.
pub(super) fn as_request_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Conflict { message } => ApiError::invalid(message),
        other => other.into(),
    }
}
