//! Environments: where the tools of sessions run.
//!
//! Errors that the contract has a code for carry it: not found, archived, type change, metadata. An environment is
//! deleted only when no session is left in it that could wait for its workers.

use outwork_ledger::{Hash, Kind, Record, Scope};
use outwork_store::{EnvironmentRow, NewEnvironment, Page, PageRequest, StoreError};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, WorkspaceId};
use serde_json::{Map, Value, json};

use super::App;
use super::environment_config::ConfigWish;
use super::fields::merge_metadata;
use crate::auth::Access;
use crate::error::ApiError;
use crate::run::changes::Changed;
use crate::run::registry::Halt;

/// What an update changes; what is absent stays.
pub(crate) struct EnvironmentChange {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<Option<String>>,
    pub(crate) config: Option<ConfigWish>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Makes an environment.
pub(crate) async fn create(app: &App, access: &Access, new: NewEnvironment) -> Result<EnvironmentRow, ApiError> {
    Ok(app
        .store
        .create_environment(access.workspace()?, new, Time::now())
        .await?)
}

/// The environment of that id in the caller's workspace.
pub(crate) async fn retrieve(app: &App, access: &Access, id: &EnvironmentId) -> Result<EnvironmentRow, ApiError> {
    find(app, access.workspace()?, id).await
}

/// The environment of that id in a workspace.
pub(crate) async fn find(app: &App, workspace: &WorkspaceId, id: &EnvironmentId) -> Result<EnvironmentRow, ApiError> {
    app.store.environment(workspace, id).await.map_err(with_code)
}

/// Environments, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    include_archived: bool,
    page: PageRequest,
) -> Result<Page<EnvironmentRow>, ApiError> {
    Ok(app
        .store
        .list_environments(access.workspace()?, include_archived, page)
        .await?)
}

/// Changes an environment; its type cannot change.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    id: &EnvironmentId,
    change: EnvironmentChange,
) -> Result<EnvironmentRow, ApiError> {
    let workspace = access.workspace()?;
    let stored = find(app, workspace, id).await?;
    if let Some(wish) = &change.config
        && wish.kind() != stored.kind
    {
        let error = ApiError::invalid(format!(
            "config.type: the environment is {} and its type cannot change; make another environment",
            kind_name(stored.kind)
        ));
        return Err(coded(error, "invalid_config_type_change"));
    }
    let updated = app
        .store
        .update_environment(workspace, id, Time::now(), move |row| {
            apply(change, row).map_err(|message| StoreError::Rejected { message })
        })
        .await;
    let row = updated.map_err(|error| match error {
        StoreError::Conflict { message } => coded(ApiError::invalid(message), "environment_archived"),
        StoreError::Rejected { message } if message.starts_with("config.") => ApiError::invalid(message),
        StoreError::Rejected { message } => invalid_metadata(message),
        other => with_code(other),
    })?;
    app.changes.ring(Changed::Environment(id.clone()));
    if row.config != stored.config {
        let record = Record::new(Kind::PolicyChange, Time::now())
            .workspace(workspace.as_str())
            .environment(id.as_str())
            .actor(access.principal().to_string())
            .input_hash(Hash::of_json(&stored.config))
            .output_hash(Hash::of_json(&row.config));
        app.evidence.tell(record).await;
    }
    Ok(row)
}

fn apply(change: EnvironmentChange, row: &mut EnvironmentRow) -> Result<(), String> {
    if let Some(name) = change.name {
        row.name = name;
    }
    if let Some(description) = change.description {
        row.description = description;
    }
    if let Some(wish) = change.config {
        row.config = wish.over(Some(&row.config))?;
    }
    match change.metadata {
        Some(patch) => merge_metadata(&mut row.metadata, &patch, true),
        None => Ok(()),
    }
}

/// Archives an environment: it serves the sessions that it has and takes no new ones.
pub(crate) async fn archive(app: &App, access: &Access, id: &EnvironmentId) -> Result<EnvironmentRow, ApiError> {
    app.store
        .archive_environment(access.workspace()?, id, Time::now())
        .await
        .map_err(with_code)
}

/// Deletes an environment with its keys. Sessions in it that are not over are in the way; by force they are
/// terminated first, each by its owner and in its log.
pub(crate) async fn delete(app: &App, access: &Access, id: &EnvironmentId, force: bool) -> Result<(), ApiError> {
    let workspace = access.workspace()?;
    if force {
        // An archived environment takes no new sessions, so this comes to an end.
        app.store
            .archive_environment(workspace, id, Time::now())
            .await
            .map_err(with_code)?;
        let order = Halt {
            actor: access.principal().to_string(),
            reason: "the environment is deleted".into(),
            scope: Scope::Environment,
            call: None,
            forced: true,
        };
        super::halt::all_of_environment(app, workspace, id, &order).await?;
    }
    app.store
        .delete_environment(workspace, id, Time::now())
        .await
        .map_err(with_code)
}

/// The type of an environment on the wire.
pub(crate) fn kind_name(kind: EnvironmentKind) -> &'static str {
    match kind {
        EnvironmentKind::SelfHosted => "self_hosted",
        EnvironmentKind::Cloud => "cloud",
    }
}

/// There is no such environment.
pub(crate) fn not_found(id: &str) -> ApiError {
    coded(ApiError::not_found("environment", id), "environment_not_found")
}

/// Metadata that does not fit; the message names the fault.
pub(crate) fn invalid_metadata(message: String) -> ApiError {
    coded(ApiError::invalid(message), "invalid_metadata")
}

/// Adds the code that the published SDKs know an error by.
pub(crate) fn coded(error: ApiError, code: &str) -> ApiError {
    error.with_details(json!({ "error_code": code, "error_visibility": "user_facing" }))
}

fn with_code(error: StoreError) -> ApiError {
    match error {
        StoreError::NotFound {
            what: "environment",
            id,
        } => not_found(&id),
        other => other.into(),
    }
}
