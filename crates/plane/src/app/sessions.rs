//! Sessions: made, shown, changed, ended.

use outwork_engine::{Session, SessionChange, Submitter, toolset};
use outwork_ledger::Kind;
use outwork_store::{AgentRow, NewSession, Page, PageRequest, SessionFilter, SessionRow};
use outwork_wire::agent::{AgentConfig, EnvironmentKind, McpServer, ModelConfig, Tool};
use outwork_wire::id::{AgentId, EnvironmentId, SessionId, ThreadId, VaultId, WorkId};
use outwork_wire::log::Genesis;
use outwork_wire::{EventParams, Time};
use serde_json::{Map, Value};

use super::App;
use super::resources::{self, ResourceDraft};
use crate::auth::Access;
use crate::error::ApiError;
use crate::evidence::Subject;
use crate::run::changes::Changed;
use crate::run::owner::{context, fresh_id, projection};
use crate::run::registry::Command;

/// Which agent a session gets.
pub(crate) struct AgentChoice {
    pub(crate) id: AgentId,
    /// The newest one if not given.
    pub(crate) version: Option<u64>,
    pub(crate) overrides: AgentOverrides,
}

/// What a session changes of its agent.
#[derive(Default)]
pub(crate) struct AgentOverrides {
    pub(crate) model: Option<ModelConfig>,
    /// `Some(None)` takes the system prompt away.
    pub(crate) system: Option<Option<String>>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) mcp_servers: Option<Vec<McpServer>>,
}

/// A session to be made.
pub(crate) struct SessionDraft {
    pub(crate) agent: AgentChoice,
    pub(crate) environment: EnvironmentId,
    pub(crate) vaults: Vec<VaultId>,
    pub(crate) resources: Vec<ResourceDraft>,
    pub(crate) title: Option<String>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) initial_events: Vec<EventParams>,
}

/// Makes a session. With initial events it is at work before the answer is given.
pub(crate) async fn create(app: &App, access: &Access, draft: SessionDraft) -> Result<SessionRow, ApiError> {
    let workspace = access.workspace()?;
    let agent = agent_config(app, access, draft.agent).await?;
    let environment = app.store.environment(workspace, &draft.environment).await?;
    if environment.archived_at.is_some() {
        return Err(ApiError::invalid(format!(
            "environment_id: environment `{}` is archived and takes no new sessions; use another one",
            environment.id
        )));
    }
    super::vaults::check_for_session(app, workspace, &draft.vaults).await?;
    let resources = resources::resolve(app, workspace, environment.kind, draft.resources).await?;
    let now = Time::now();
    let mut session = Session::new(Genesis {
        session_id: SessionId::fresh(),
        thread_id: ThreadId::fresh(),
        agent,
        environment: environment.kind,
        title: draft.title,
        metadata: draft.metadata,
        created_at: now,
    });
    let mut ids = fresh_id;
    if !draft.initial_events.is_empty() {
        session
            .submit(draft.initial_events, Submitter::Client, &mut context(&mut ids, None))
            .map_err(|refused| {
                let mut error = ApiError::from(refused);
                error.message = format!("initial_{}", error.message);
                error
            })?;
    }
    let at_work = !session.queued_ids().is_empty();
    let entries = session.take_outbox();
    let new = NewSession {
        environment_id: environment.id.clone(),
        vault_ids: draft.vaults,
        resources,
        genesis: session.genesis().clone(),
        projection: projection(&session, &entries, true),
        entries,
        // A session of a self-hosted environment is offered to its workers at once, so that one is ready for it.
        enqueue_work: (environment.kind == EnvironmentKind::SelfHosted).then(WorkId::fresh),
    };
    let genesis = session.genesis();
    let subject = Subject::new(workspace, &environment.id, &genesis.session_id, &genesis.agent);
    app.evidence
        .note(subject.record(Kind::SessionStart).actor(access.principal().to_string()))
        .await?;
    let row = app.store.create_session(workspace, new).await?;
    if environment.kind == EnvironmentKind::SelfHosted {
        app.bells.ring(&environment.id);
    }
    if !at_work {
        return Ok(row);
    }
    let id = row.id.clone();
    app.sessions.adopt(workspace, &environment.id, session, row.last_seq);
    // An owner answers only after it has committed what follows from the events: the session is at work then.
    let change = SessionChange::default();
    app.sessions
        .ask(workspace, &id, |reply| Command::Update { change, reply })
        .await?;
    Ok(app.store.session(workspace, &id).await?)
}

async fn agent_config(app: &App, access: &Access, choice: AgentChoice) -> Result<AgentConfig, ApiError> {
    let workspace = access.workspace()?;
    let row: AgentRow = match choice.version {
        None => app.store.agent(workspace, &choice.id).await?,
        Some(version) => app.store.agent_version(workspace, &choice.id, version).await?,
    };
    if row.archived_at.is_some() {
        return Err(ApiError::invalid(format!(
            "agent: agent `{}` is archived and cannot be used for new sessions; use another one",
            row.id
        )));
    }
    let mut config = row.config();
    if let Some(model) = choice.overrides.model {
        config.model = model;
    }
    if let Some(system) = choice.overrides.system {
        config.system = system;
    }
    if let Some(tools) = choice.overrides.tools {
        config.tools = tools;
    }
    if let Some(servers) = choice.overrides.mcp_servers {
        config.mcp_servers = servers;
    }
    toolset::check_servers(&config.tools, &config.mcp_servers)
        .map_err(|message| ApiError::invalid(format!("agent.{message}")))?;
    Ok(config)
}

/// The session, if the caller may see it.
pub(crate) async fn find(app: &App, access: &Access, id: &SessionId) -> Result<SessionRow, ApiError> {
    let row = app.store.session(access.workspace()?, id).await?;
    if access.opens_session(&row.id, &row.environment_id) {
        Ok(row)
    } else {
        Err(ApiError::not_found("session", id.as_str()))
    }
}

/// The sessions of the workspace, newest first unless the filter says otherwise.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    filter: SessionFilter,
    page: PageRequest,
) -> Result<Page<SessionRow>, ApiError> {
    Ok(app.store.list_sessions(access.workspace()?, filter, page).await?)
}

/// A change that a client asks for. Metadata is merged: null takes a pair away.
#[derive(Default)]
pub(crate) struct SessionPatch {
    pub(crate) title: Option<Option<String>>,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) mcp_servers: Option<Vec<McpServer>>,
}

/// Changes a session.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    id: &SessionId,
    patch: SessionPatch,
) -> Result<SessionRow, ApiError> {
    find(app, access, id).await?;
    if let Some(patch) = &patch.metadata {
        // Each pair by itself; what is there already is merged where nobody else can change it.
        super::fields::merge_metadata(&mut Map::new(), patch, false).map_err(ApiError::invalid)?;
    }
    let change = SessionChange {
        title: patch.title,
        metadata: patch.metadata,
        tools: patch.tools,
        mcp_servers: patch.mcp_servers,
    };
    app.sessions
        .ask(access.workspace()?, id, |reply| Command::Update { change, reply })
        .await?;
    app.changes.ring(Changed::Session(id.clone()));
    find(app, access, id).await
}

/// Ends a session for good. Its log stays.
pub(crate) async fn archive(app: &App, access: &Access, id: &SessionId) -> Result<SessionRow, ApiError> {
    find(app, access, id).await?;
    app.sessions
        .ask(access.workspace()?, id, |reply| Command::Archive { reply })
        .await?;
    find(app, access, id).await
}

/// Deletes a session with its log.
pub(crate) async fn delete(app: &App, access: &Access, id: &SessionId) -> Result<(), ApiError> {
    find(app, access, id).await?;
    let deleted = app
        .sessions
        .ask(access.workspace()?, id, |reply| Command::Delete { reply })
        .await;
    match deleted {
        Err(error) if error.kind == crate::error::ErrorKind::Conflict => Err(ApiError::invalid(error.message)),
        other => other,
    }
}
