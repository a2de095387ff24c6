//! `/v1/sessions` and the resources below a session.

use outwork_store::{Order, PageRequest, SessionFilter, SessionRow, SessionStatus, TimeRange};
use outwork_wire::Time;
use outwork_wire::agent::AgentConfig;
use outwork_wire::event::{CacheCreation, UsageSnapshot};
use outwork_wire::id::{AgentId, EnvironmentId, SessionId, VaultId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::body::parse_value;
use super::call::Call;
use super::events::event_params;
use super::query::Query;
use super::render::Reply;
use super::resources::ResourceView;
use crate::app::fields::{checked_metadata, given};
use crate::app::mcp_servers::{McpServerParams, resolve_mcp_servers};
use crate::app::model_params::{ModelParams, resolve_model};
use crate::app::sessions::{self, AgentChoice, AgentOverrides, SessionDraft, SessionPatch};
use crate::app::tools::{ToolParams, resolve_tools};
use crate::error::ApiError;

/// The most events that a session may begin with.
const MAX_INITIAL_EVENTS: usize = 50;
/// The longest title, in characters.
const MAX_TITLE: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    agent: Value,
    environment_id: EnvironmentId,
    #[serde(default)]
    budget: Option<Value>,
    #[serde(default)]
    initial_events: Vec<Value>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    resources: Vec<Value>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    vault_ids: Vec<VaultId>,
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum AgentObject {
    #[serde(rename = "agent")]
    Agent {
        id: AgentId,
        #[serde(default)]
        version: Option<u64>,
    },
    #[serde(rename = "agent_with_overrides")]
    WithOverrides {
        id: AgentId,
        #[serde(default)]
        version: Option<u64>,
        #[serde(default)]
        model: Option<ModelParams>,
        #[serde(default, deserialize_with = "given")]
        system: Option<Option<String>>,
        #[serde(default)]
        tools: Option<Vec<ToolParams>>,
        #[serde(default)]
        mcp_servers: Option<Vec<McpServerParams>>,
        #[serde(default)]
        skills: Vec<Value>,
    },
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let params: CreateParams = call.json()?;
    if params.budget.is_some() {
        return Err(unsupported("budget", "budgets"));
    }
    let resources = super::resources::drafts(params.resources)?;
    super::vaults::check_vault_ids(&params.vault_ids)?;
    if params.initial_events.len() > MAX_INITIAL_EVENTS {
        return Err(ApiError::invalid(format!(
            "initial_events: at most {MAX_INITIAL_EVENTS} events, not {}",
            params.initial_events.len()
        )));
    }
    for (index, event) in params.initial_events.iter().enumerate() {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind != "user.message" {
            return Err(ApiError::invalid(format!(
                "initial_events.{index}.type: `{}` is not supported here; a session begins with user.message events",
                super::shortened(kind)
            )));
        }
    }
    let draft = SessionDraft {
        agent: agent_choice(params.agent)?,
        environment: params.environment_id,
        vaults: params.vault_ids,
        resources,
        title: title(params.title)?,
        metadata: checked_metadata(params.metadata).map_err(ApiError::invalid)?,
        initial_events: event_params("initial_events", params.initial_events)?,
    };
    let row = sessions::create(&call.app, &call.access, draft).await?;
    Reply::json(&SessionBody::from(row))
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let query = &mut call.query;
    for (name, words) in [("deployment_id", "deployments"), ("memory_store_id", "memory stores")] {
        if query.text(name)?.is_some() {
            return Err(unsupported(name, words));
        }
    }
    let statuses = query.list("statuses", &["rescheduling", "running", "idle", "terminated"])?;
    let filter = SessionFilter {
        agent_id: query.parsed("agent_id", "the id of an agent")?,
        agent_version: query.parsed("agent_version", "a whole number")?,
        created_at: time_range(query)?,
        include_archived: query.flag("include_archived")?.unwrap_or(false),
        statuses: statuses
            .iter()
            .map(|s| s.parse::<SessionStatus>().map_err(|e| ApiError::invalid(e.to_string())))
            .collect::<Result<_, _>>()?,
        order: order(query, false)?,
    };
    if filter.agent_version.is_some() && filter.agent_id.is_none() {
        return Err(ApiError::invalid("agent_version: only goes together with agent_id"));
    }
    let page = page(query, 20, 100)?;
    call.finish_query()?;
    let found = sessions::list(&call.app, &call.access, filter, page).await?;
    Reply::json(&json!({
        "data": found.rows.into_iter().map(SessionBody::from).collect::<Vec<_>>(),
        "next_page": found.next,
        "prev_page": found.prev,
    }))
}

pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let row = sessions::find(&call.app, &call.access, &session_id(&call)?).await?;
    Reply::json(&SessionBody::from(row))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    #[serde(default, deserialize_with = "given")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Option<Map<String, Value>>>,
    #[serde(default)]
    agent: Option<AgentUpdate>,
    #[serde(default)]
    budget: Option<Value>,
    #[serde(default)]
    vault_ids: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentUpdate {
    #[serde(default)]
    tools: Option<Vec<ToolParams>>,
    #[serde(default)]
    mcp_servers: Option<Vec<McpServerParams>>,
}

pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = session_id(&call)?;
    let params: UpdateParams = call.json()?;
    if params.budget.is_some() {
        return Err(unsupported("budget", "budgets"));
    }
    if !params.vault_ids.is_empty() {
        return Err(ApiError::invalid(
            "vault_ids: the vaults of a session are given when it is made and cannot be changed; leave the field out",
        ));
    }
    let (tools, mcp_servers) = match params.agent {
        None => (None, None),
        Some(agent) => (
            agent.tools.map(|t| resolve_tools(&t, "agent.tools")).transpose()?,
            agent
                .mcp_servers
                .map(|servers| resolve_mcp_servers(servers, "agent.mcp_servers"))
                .transpose()?,
        ),
    };
    let patch = SessionPatch {
        title: params.title.map(title).transpose()?,
        // Null asks for no change, as everywhere in the contract where metadata is merged.
        metadata: params.metadata.flatten(),
        tools,
        mcp_servers,
    };
    let row = sessions::update(&call.app, &call.access, &id, patch).await?;
    Reply::json(&SessionBody::from(row))
}

pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let row = sessions::archive(&call.app, &call.access, &session_id(&call)?).await?;
    Reply::json(&SessionBody::from(row))
}

pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = session_id(&call)?;
    sessions::delete(&call.app, &call.access, &id).await?;
    Reply::json(&json!({ "id": id, "type": "session_deleted" }))
}

/// The session's id in the path.
pub(super) fn session_id(call: &Call) -> Result<SessionId, ApiError> {
    call.id("session_id", "session")
}

/// Takes the four limits of `created_at`.
pub(super) fn time_range(query: &mut Query) -> Result<TimeRange, ApiError> {
    Ok(TimeRange {
        gt: query.time("created_at[gt]")?,
        gte: query.time("created_at[gte]")?,
        lt: query.time("created_at[lt]")?,
        lte: query.time("created_at[lte]")?,
    })
}

/// Takes `order`.
pub(super) fn order(query: &mut Query, ascending: bool) -> Result<Order, ApiError> {
    Ok(if query.ascending(ascending)? {
        Order::Asc
    } else {
        Order::Desc
    })
}

/// Takes `limit` and `page`.
pub(super) fn page(query: &mut Query, default: usize, max: usize) -> Result<PageRequest, ApiError> {
    Ok(PageRequest {
        limit: query.limit(default, max)?,
        cursor: query.text("page")?,
    })
}

/// Refuses a cursor of a list that always fits on one page and so never gives one out.
pub(super) fn no_further_page(page: PageRequest) -> Result<(), ApiError> {
    match page.cursor {
        None => Ok(()),
        Some(_) => Err(outwork_store::StoreError::InvalidCursor.into()),
    }
}

/// A field of the contract that is not served.
pub(super) fn unsupported(field: &str, words: &str) -> ApiError {
    ApiError::invalid(format!(
        "{field}: {words} are not supported by this server; leave the field out"
    ))
}

fn agent_choice(value: Value) -> Result<AgentChoice, ApiError> {
    if let Value::String(text) = &value {
        let id = text
            .parse()
            .map_err(|error: outwork_wire::id::InvalidId| ApiError::invalid(format!("agent: {error}")))?;
        return Ok(AgentChoice {
            id,
            version: None,
            overrides: AgentOverrides::default(),
        });
    }
    match parse_value("agent", value)? {
        AgentObject::Agent { id, version } => Ok(AgentChoice {
            id,
            version,
            overrides: AgentOverrides::default(),
        }),
        AgentObject::WithOverrides {
            id,
            version,
            model,
            system,
            tools,
            mcp_servers,
            skills,
        } => {
            if !skills.is_empty() {
                return Err(unsupported("agent.skills", "skills"));
            }
            Ok(AgentChoice {
                id,
                version,
                overrides: AgentOverrides {
                    model: model.map(|m| resolve_model(&m, None, "agent.model")).transpose()?,
                    system,
                    tools: tools.map(|t| resolve_tools(&t, "agent.tools")).transpose()?,
                    mcp_servers: mcp_servers
                        .map(|servers| resolve_mcp_servers(servers, "agent.mcp_servers"))
                        .transpose()?,
                },
            })
        }
    }
}

fn title(title: Option<String>) -> Result<Option<String>, ApiError> {
    match title {
        Some(text) if text.chars().count() > MAX_TITLE => Err(ApiError::invalid(format!(
            "title: at most {MAX_TITLE} characters, not {}",
            text.chars().count()
        ))),
        other => Ok(other.filter(|t| !t.is_empty())),
    }
}

/// A session on the wire.
#[derive(Serialize)]
struct SessionBody {
    id: SessionId,
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    title: Option<String>,
    agent: AgentConfig,
    environment_id: EnvironmentId,
    metadata: Map<String, Value>,
    resources: Vec<ResourceView>,
    vault_ids: Vec<VaultId>,
    outcome_evaluations: [(); 0],
    budget: Option<()>,
    deployment_id: Option<()>,
    stats: StatsBody,
    usage: UsageBody,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

/// How long a session or a thread was at work, and how long it has been there.
#[derive(Serialize)]
pub(super) struct StatsBody {
    active_seconds: f64,
    duration_seconds: f64,
}

/// What a session or a thread has used.
#[derive(Serialize)]
pub(super) struct UsageBody {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation: CacheCreation,
    active_seconds: f64,
    /// Null: this server knows no prices.
    list_cost: Option<()>,
    server_tool_use: ServerToolUse,
}

#[derive(Serialize)]
struct ServerToolUse {
    web_fetch_requests: u64,
    web_search_requests: u64,
}

impl From<&UsageSnapshot> for UsageBody {
    fn from(usage: &UsageSnapshot) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_input_tokens: usage.cache_read_input_tokens,
            cache_creation: usage.cache_creation,
            active_seconds: usage.active_seconds,
            list_cost: None,
            server_tool_use: ServerToolUse {
                web_fetch_requests: 0,
                web_search_requests: 0,
            },
        }
    }
}

/// The times of a session.
pub(super) fn stats(row: &SessionRow) -> StatsBody {
    let end = row.archived_at.unwrap_or_else(Time::now);
    StatsBody {
        active_seconds: row.usage.active_seconds,
        duration_seconds: end.seconds_since(row.created_at).max(0.0),
    }
}

impl From<SessionRow> for SessionBody {
    fn from(row: SessionRow) -> Self {
        Self {
            stats: stats(&row),
            usage: UsageBody::from(&row.usage),
            status: row.status.as_str(),
            id: row.id,
            kind: "session",
            title: row.profile.title,
            agent: row.profile.agent,
            environment_id: row.environment_id,
            metadata: row.profile.metadata,
            resources: row.resources.iter().map(ResourceView::new).collect(),
            vault_ids: row.vault_ids,
            outcome_evaluations: [],
            budget: None,
            deployment_id: None,
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        }
    }
}
