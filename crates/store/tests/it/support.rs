//! What the tests begin with: a store in a folder of its own, and small valid things to put into it.

use outwork_store::{
    AgentSpec, Append, KeyHash, NewEnvironment, NewSession, Options, PageRequest, Poll, ProjectionChange,
    SessionProjection, SessionRow, SessionStatus, Store,
};
use outwork_wire::agent::{AgentConfig, AgentKind, EnvironmentKind, ExecutionIdentity, ModelConfig};
use outwork_wire::event::UsageSnapshot;
use outwork_wire::id::{AgentId, EnvironmentId, EventId, SessionId, ThreadId, WorkId, WorkspaceId};
use outwork_wire::log::{Genesis, LogEntry};
use outwork_wire::{ContentBlock, Event, EventBody, Time};
use serde_json::{Map, json};
use tempfile::TempDir;

pub struct Bed {
    pub store: Store,
    pub dir: TempDir,
    pub ws: WorkspaceId,
}

pub fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Options::new(dir.path())).unwrap();
    let ws = store.default_workspace().clone();
    Bed { store, dir, ws }
}

/// A fixed beginning; tests count seconds from it.
pub fn at(seconds: i64) -> Time {
    Time::from_micros(1_800_000_000_000_000).plus_seconds(seconds)
}

pub fn first(limit: usize) -> PageRequest {
    PageRequest { limit, cursor: None }
}

pub fn from(limit: usize, cursor: &str) -> PageRequest {
    PageRequest {
        limit,
        cursor: Some(cursor.to_owned()),
    }
}

pub fn spec(name: &str) -> AgentSpec {
    AgentSpec {
        name: name.into(),
        description: Some("an agent of a test".into()),
        system: None,
        model: ModelConfig {
            id: "rehearsal".into(),
            effort: None,
            inference_geo: None,
            speed: None,
        },
        tools: Vec::new(),
        mcp_servers: Vec::new(),
        skills: Vec::new(),
        metadata: Map::new(),
        execution_identity: ExecutionIdentity::ServiceAccount {},
        multiagent: None,
    }
}

pub fn config(agent: &AgentId) -> AgentConfig {
    let spec = spec("someone");
    AgentConfig {
        id: agent.clone(),
        kind: AgentKind::Agent,
        version: 1,
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

pub fn projection(status: SessionStatus, now: Time) -> SessionProjection {
    SessionProjection {
        status,
        usage: UsageSnapshot::default(),
        updated_at: now,
        archived_at: None,
        wake_at: None,
        needs_owner: false,
        needs_worker: false,
        profile: None,
    }
}

pub fn message(text: &str, now: Time, processed: bool) -> LogEntry {
    LogEntry {
        event: Event {
            id: EventId::fresh(),
            processed_at: processed.then_some(now),
            body: EventBody::UserMessage {
                content: vec![ContentBlock::text(text)],
            },
        },
        created_at: now,
        private: None,
    }
}

/// The same entry, taken up at a time.
pub fn processed(entry: &LogEntry, now: Time) -> LogEntry {
    let mut entry = entry.clone();
    entry.event.processed_at = Some(now);
    entry
}

pub fn append(session: &SessionId, entries: Vec<LogEntry>) -> Append {
    Append {
        session_id: session.clone(),
        at: at(0),
        generation: None,
        expected_last_seq: None,
        entries,
        drop_queued: Vec::new(),
        projection: ProjectionChange::Keep,
        enqueue_work: None,
    }
}

pub fn poll(worker: &str, token: &str, now: Time) -> Poll {
    Poll {
        worker_id: Some(worker.into()),
        key: None,
        reclaim_older_than_ms: 5000,
        token_hash: KeyHash::of(token),
        now,
    }
}

impl Bed {
    pub async fn environment(&self, kind: EnvironmentKind) -> EnvironmentId {
        self.environment_in(&self.ws, kind).await
    }

    pub async fn environment_in(&self, ws: &WorkspaceId, kind: EnvironmentKind) -> EnvironmentId {
        let new = NewEnvironment {
            id: EnvironmentId::fresh(),
            kind,
            name: "here".into(),
            description: None,
            config: json!({ "type": "self_hosted" }),
            metadata: Map::new(),
            scope: None,
        };
        self.store.create_environment(ws, new, at(0)).await.unwrap().id
    }

    pub async fn session(&self) -> SessionRow {
        let environment = self.environment(EnvironmentKind::SelfHosted).await;
        self.session_in(&environment, at(0), Vec::new(), None).await
    }

    pub async fn session_in(
        &self,
        environment: &EnvironmentId,
        now: Time,
        entries: Vec<LogEntry>,
        work: Option<WorkId>,
    ) -> SessionRow {
        let new = new_session(environment, &AgentId::fresh(), now, entries, work);
        self.store.create_session(&self.ws, new).await.unwrap()
    }

    /// A session with a queued work item.
    pub async fn session_with_work(&self, environment: &EnvironmentId, now: Time) -> (SessionId, WorkId) {
        let work = WorkId::fresh();
        let row = self.session_in(environment, now, Vec::new(), Some(work.clone())).await;
        (row.id, work)
    }
}

pub fn new_session(
    environment: &EnvironmentId,
    agent: &AgentId,
    now: Time,
    entries: Vec<LogEntry>,
    work: Option<WorkId>,
) -> NewSession {
    NewSession {
        environment_id: environment.clone(),
        vault_ids: Vec::new(),
        resources: Vec::new(),
        genesis: Genesis {
            session_id: SessionId::fresh(),
            thread_id: ThreadId::fresh(),
            agent: config(agent),
            environment: EnvironmentKind::SelfHosted,
            title: Some("a title".into()),
            metadata: Map::new(),
            created_at: now,
        },
        entries,
        projection: projection(SessionStatus::Idle, now),
        enqueue_work: work,
    }
}

/// Runs a future on a runtime of its own; for property tests, which are not async.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
