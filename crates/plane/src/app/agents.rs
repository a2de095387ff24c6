//! Agents: named, versioned configurations.
//!
//! Every change makes a new version; a change that changes nothing makes none. What is archived stays as it is.

use outwork_engine::toolset;
use outwork_store::{AgentFilter, AgentRow, AgentSpec, Page, PageRequest, StoreError};
use outwork_wire::Time;
use outwork_wire::agent::{McpServer, Tool};
use outwork_wire::id::AgentId;
use serde_json::{Map, Value};

use super::App;
use super::fields::merge_metadata;
use super::model_params::{ModelParams, resolve_model};
use crate::auth::Access;
use crate::error::ApiError;

/// What an update changes; what is absent stays.
pub(crate) struct AgentChange {
    /// The version that the caller believes to be the newest.
    pub(crate) version: Option<u64>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<Option<String>>,
    pub(crate) system: Option<Option<String>>,
    pub(crate) model: Option<ModelParams>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) mcp_servers: Option<Vec<McpServer>>,
    /// `Some(None)` takes every key away.
    pub(crate) metadata: Option<Option<Map<String, Value>>>,
}

impl AgentChange {
    fn apply(self, spec: &mut AgentSpec) -> Result<(), String> {
        if let Some(name) = self.name {
            spec.name = name;
        }
        if let Some(description) = self.description {
            spec.description = description;
        }
        if let Some(system) = self.system {
            spec.system = system;
        }
        if let Some(model) = self.model {
            spec.model = resolve_model(&model, Some(&spec.model), "model").map_err(|e| e.message)?;
        }
        if let Some(tools) = self.tools {
            spec.tools = tools;
        }
        if let Some(servers) = self.mcp_servers {
            spec.mcp_servers = servers;
        }
        toolset::check_servers(&spec.tools, &spec.mcp_servers)?;
        match self.metadata {
            None => Ok(()),
            Some(None) => {
                spec.metadata.clear();
                Ok(())
            }
            Some(Some(patch)) => merge_metadata(&mut spec.metadata, &patch, false),
        }
    }
}

/// Makes an agent, in version 1.
pub(crate) async fn create(app: &App, access: &Access, spec: AgentSpec) -> Result<AgentRow, ApiError> {
    let row = app
        .store
        .create_agent(access.workspace()?, AgentId::fresh(), spec, Time::now())
        .await?;
    Ok(row)
}

/// An agent, in its newest version or the one that is named.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    id: &AgentId,
    version: Option<u64>,
) -> Result<AgentRow, ApiError> {
    let workspace = access.workspace()?;
    Ok(match version {
        None => app.store.agent(workspace, id).await?,
        Some(version) => app.store.agent_version(workspace, id, version).await?,
    })
}

/// Changes an agent.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    id: &AgentId,
    change: AgentChange,
) -> Result<AgentRow, ApiError> {
    let workspace = access.workspace()?;
    let result = app
        .store
        .update_agent(workspace, id, change.version, Time::now(), move |spec| {
            change.apply(spec).map_err(|message| StoreError::Rejected { message })
        })
        .await;
    match result {
        // The store knows one kind of conflict; that it is archived is an error of the request, not of its timing.
        Err(StoreError::Conflict { message }) if app.store.agent(workspace, id).await?.archived_at.is_some() => {
            Err(ApiError::invalid(message))
        }
        other => Ok(other?),
    }
}

/// Archives an agent; one that is archived stays as it is.
pub(crate) async fn archive(app: &App, access: &Access, id: &AgentId) -> Result<AgentRow, ApiError> {
    Ok(app.store.archive_agent(access.workspace()?, id, Time::now()).await?)
}

/// Agents, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    filter: AgentFilter,
    page: PageRequest,
) -> Result<Page<AgentRow>, ApiError> {
    Ok(app.store.list_agents(access.workspace()?, filter, page).await?)
}

/// The versions of an agent, newest first.
pub(crate) async fn versions(
    app: &App,
    access: &Access,
    id: &AgentId,
    page: PageRequest,
) -> Result<Page<AgentRow>, ApiError> {
    Ok(app.store.list_agent_versions(access.workspace()?, id, page).await?)
}
