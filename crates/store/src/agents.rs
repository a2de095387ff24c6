//! Agents and their versions.
//!
//! Every change makes a new version; versions are never changed. An archived agent cannot be changed.

use outwork_wire::Time;
use outwork_wire::agent::{AgentConfig, AgentKind, ExecutionIdentity, McpServer, ModelConfig, Tool};
use outwork_wire::id::{AgentId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::columns::{count, json, maybe_time, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// What an agent is, in one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its system prompt.
    pub system: Option<String>,
    /// The model that it runs on.
    pub model: ModelConfig,
    /// The tools that it may call.
    pub tools: Vec<Tool>,
    /// MCP servers.
    pub mcp_servers: Vec<McpServer>,
    /// Skills.
    pub skills: Vec<Value>,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// Who it acts as.
    pub execution_identity: ExecutionIdentity,
    /// Other agents.
    pub multiagent: Option<Value>,
}

/// One version of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    /// The agent.
    pub id: AgentId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The version, from 1.
    pub version: u64,
    /// What it is in this version.
    pub spec: AgentSpec,
    /// When the agent was made.
    pub created_at: Time,
    /// When this version was made; of the newest version, when the agent was last changed or archived.
    pub updated_at: Time,
    /// When the agent was archived.
    pub archived_at: Option<Time>,
}

impl AgentRow {
    /// The agent as a session holds it.
    pub fn config(&self) -> AgentConfig {
        let spec = self.spec.clone();
        AgentConfig {
            id: self.id.clone(),
            kind: AgentKind::Agent,
            version: self.version,
            name: spec.name,
            description: spec.description,
            system: spec.system,
            model: spec.model,
            tools: spec.tools,
            mcp_servers: spec.mcp_servers,
            skills: spec.skills,
            execution_identity: spec.execution_identity,
            multiagent: spec.multiagent,
        }
    }
}

/// Which agents a list shows.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Archived ones too.
    pub include_archived: bool,
    /// Made then or later.
    pub created_at_gte: Option<Time>,
    /// Made then or earlier.
    pub created_at_lte: Option<Time>,
}

/// An agent with its newest version.
const NEWEST: &str = "SELECT a.id, a.workspace_id, a.version, v.spec, a.created_at, a.updated_at, a.archived_at \
    FROM agents a JOIN agent_versions v ON v.agent_id = a.id AND v.version = a.version";
/// An agent with each of its versions.
const EACH: &str = "SELECT a.id, a.workspace_id, v.version, v.spec, a.created_at, \
    CASE v.version WHEN a.version THEN a.updated_at ELSE v.created_at END, a.archived_at \
    FROM agents a JOIN agent_versions v ON v.agent_id = a.id";

impl Store {
    /// Makes an agent, in version 1.
    pub async fn create_agent(
        &self,
        workspace: &WorkspaceId,
        id: AgentId,
        spec: AgentSpec,
        now: Time,
    ) -> Result<AgentRow, StoreError> {
        let row = AgentRow {
            id,
            workspace_id: workspace.clone(),
            version: 1,
            spec,
            created_at: now,
            updated_at: now,
            archived_at: None,
        };
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO agents (id, workspace_id, version, created_at, updated_at) VALUES (?1, ?2, 1, ?3, ?3)",
            )?
            .execute((row.id.as_str(), row.workspace_id.as_str(), now.as_micros()))?;
            insert_version(conn, &row, now)?;
            Ok(row)
        })
        .await
    }

    /// The newest version of an agent.
    pub async fn agent(&self, workspace: &WorkspaceId, id: &AgentId) -> Result<AgentRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| newest(conn, &workspace, &id)).await
    }

    /// One version of an agent.
    pub async fn agent_version(
        &self,
        workspace: &WorkspaceId,
        id: &AgentId,
        version: u64,
    ) -> Result<AgentRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            conn.prepare_cached(&format!(
                "{EACH} WHERE a.id = ?1 AND a.workspace_id = ?2 AND v.version = ?3"
            ))?
            .query_row((id.as_str(), workspace.as_str(), clamp(version)), read)
            .optional()?
            .ok_or_else(|| match newest(conn, &workspace, &id) {
                Ok(_) => StoreError::not_found("agent version", &format!("{id} version {version}")),
                Err(e) => e,
            })
        })
        .await
    }

    /// Changes an agent by `edit`, which sees the newest version; a new version is made if it left a difference.
    ///
    /// Refused with `Conflict` if the agent is archived or `expected_version` is not the newest.
    pub async fn update_agent<F>(
        &self,
        workspace: &WorkspaceId,
        id: &AgentId,
        expected_version: Option<u64>,
        now: Time,
        edit: F,
    ) -> Result<AgentRow, StoreError>
    where
        F: FnOnce(&mut AgentSpec) -> Result<(), StoreError> + Send + 'static,
    {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let mut row = newest(conn, &workspace, &id)?;
            if row.archived_at.is_some() {
                return Err(StoreError::conflict(format!(
                    "agent `{id}` is archived and cannot be changed"
                )));
            }
            if let Some(expected) = expected_version.filter(|v| *v != row.version) {
                return Err(StoreError::conflict(format!(
                    "agent `{id}` is at version {}, not at {expected}: read it again and repeat the change",
                    row.version
                )));
            }
            let before = row.spec.clone();
            edit(&mut row.spec)?;
            if row.spec == before {
                return Ok(row);
            }
            row.version += 1;
            row.updated_at = now;
            insert_version(conn, &row, now)?;
            conn.prepare_cached("UPDATE agents SET version = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute((id.as_str(), clamp(row.version), now.as_micros()))?;
            Ok(row)
        })
        .await
    }

    /// Archives an agent; one that is archived stays as it is.
    pub async fn archive_agent(
        &self,
        workspace: &WorkspaceId,
        id: &AgentId,
        now: Time,
    ) -> Result<AgentRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            conn.prepare_cached(
                "UPDATE agents SET archived_at = ?3, updated_at = ?3 \
                 WHERE id = ?1 AND workspace_id = ?2 AND archived_at IS NULL",
            )?
            .execute((id.as_str(), workspace.as_str(), now.as_micros()))?;
            newest(conn, &workspace, &id)
        })
        .await
    }

    /// Agents, newest first.
    pub async fn list_agents(
        &self,
        workspace: &WorkspaceId,
        filter: AgentFilter,
        page: PageRequest,
    ) -> Result<Page<AgentRow>, StoreError> {
        let mut conditions = Filter::default()
            .and("a.workspace_id = ?", [workspace.to_string()])
            .and_if("a.created_at >= ?", filter.created_at_gte.map(Time::as_micros))
            .and_if("a.created_at <= ?", filter.created_at_lte.map(Time::as_micros));
        if !filter.include_archived {
            conditions = conditions.and_plain("a.archived_at IS NULL");
        }
        self.read(move |conn| {
            Keyset {
                list: "agents",
                select: NEWEST,
                key: ("a.created_at", "a.id"),
                order: Order::Desc,
                filter: conditions,
            }
            .page(conn, &page, read, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// The versions of an agent, newest first.
    pub async fn list_agent_versions(
        &self,
        workspace: &WorkspaceId,
        id: &AgentId,
        page: PageRequest,
    ) -> Result<Page<AgentRow>, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            newest(conn, &workspace, &id)?;
            Keyset {
                list: "agent_versions",
                select: EACH,
                key: ("v.version", "v.agent_id"),
                order: Order::Desc,
                filter: Filter::default()
                    .and("a.id = ?", [id.to_string()])
                    .and("a.workspace_id = ?", [workspace.to_string()]),
            }
            .page(conn, &page, read, |row| (clamp(row.version), row.id.to_string()))
        })
        .await
    }
}

fn newest(conn: &Connection, workspace: &WorkspaceId, id: &AgentId) -> Result<AgentRow, StoreError> {
    conn.prepare_cached(&format!("{NEWEST} WHERE a.id = ?1 AND a.workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("agent", id))
}

fn insert_version(conn: &Connection, row: &AgentRow, now: Time) -> Result<(), StoreError> {
    conn.prepare_cached("INSERT INTO agent_versions (agent_id, version, spec, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((
            row.id.as_str(),
            clamp(row.version),
            serde_json::to_string(&row.spec)?,
            now.as_micros(),
        ))?;
    Ok(())
}

fn clamp(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn read(row: &Row<'_>) -> rusqlite::Result<AgentRow> {
    Ok(AgentRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        version: count(row, 2)?,
        spec: json(row, 3)?,
        created_at: time(row, 4)?,
        updated_at: time(row, 5)?,
        archived_at: maybe_time(row, 6)?,
    })
}
