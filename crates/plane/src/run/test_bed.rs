//! What the tests of owners begin with: a real store, a registry over it, and a model that answers when it is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outwork_engine::{PromptOptions, RetryPolicy, Session, Submitter};
use outwork_model::ModelClient;
use outwork_store::{
    Append, NewEnvironment, NewSession, Options, ProjectionChange, SessionRow, SessionStatus, Store, StoreError,
};
use outwork_wire::agent::{AgentConfig, AgentKind, EnvironmentKind, ExecutionIdentity, ModelConfig};
use outwork_wire::event::SpanUsage;
use outwork_wire::id::{AgentId, EnvironmentId, EventId, SessionId, ThreadId, WorkspaceId};
use outwork_wire::log::{Genesis, LogEntry};
use outwork_wire::{ContentBlock, Event, EventBody, EventParams, Time};
use serde_json::{Map, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::owner::{context, fresh_id, projection};
use super::registry::{Failing, Registry, Shared};
use crate::evidence::{Evidence, LedgerOptions};
use crate::identity::{Identity, MIN_KEY_LIFETIME};
use crate::mcp::tunnel::Tunnelling;
use crate::mcp::{McpOptions, Reach, Ways};
use crate::metrics::Metrics;
use crate::vault::outbound::Dialled;
use crate::vault::seal::Sealer;
use crate::vault::{LocalMasterKeys, Vaults};

pub(crate) struct TestBed {
    pub(crate) store: Store,
    pub(crate) workspace: WorkspaceId,
    pub(crate) environment: EnvironmentId,
    pub(crate) sessions: Registry,
    _dir: tempfile::TempDir,
}

/// Waits until something holds; a test that waits for ever is ended by its bound.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let bound = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < bound, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn message(text: &str) -> EventParams {
    EventParams::UserMessage {
        content: vec![ContentBlock::text(text)],
    }
}

/// A model provider that takes requests and says nothing.
pub(crate) async fn silent_model() -> (TcpListener, ModelClient) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = ModelClient::new(outwork_model::Options::new(url, "key".to_owned().into())).unwrap();
    (listener, client)
}

fn reach(store: &Store, folder: &Path) -> Reach {
    let keys = folder.join("identity.keys");
    let identity = Identity::open(&keys, "http://plane.example".into(), MIN_KEY_LIFETIME, Time::now()).unwrap();
    let options = McpOptions::default();
    let tunnelling = Tunnelling::new(store.clone(), "tunnel.example".into(), None);
    let ways = Arc::new(Ways::new(&options, tunnelling).unwrap());
    let master = LocalMasterKeys::new(&[crate::vault::aead::fresh_key()]);
    let vaults = Vaults::new(
        store.clone(),
        Arc::new(Sealer::new(store.clone(), Arc::new(master))),
        Arc::new(Dialled::new(ways.clone())),
        Arc::new(|_| ()),
    );
    Reach::new(&options, ways, vaults, Arc::new(identity))
}

impl TestBed {
    pub(crate) const OWNER: &str = "plane-of-a-test";

    pub(crate) async fn new(model: Option<ModelClient>, max_bytes: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(dir.path());
        options.max_bytes = max_bytes;
        let store = Store::open(options).unwrap();
        let workspace = store.default_workspace().clone();
        let new = NewEnvironment {
            id: EnvironmentId::fresh(),
            kind: EnvironmentKind::SelfHosted,
            name: "here".into(),
            description: None,
            config: json!({ "type": "self_hosted" }),
            metadata: Map::new(),
            scope: None,
        };
        let environment = store.create_environment(&workspace, new, Time::now()).await.unwrap().id;
        let sessions = Registry::new(Shared {
            store: store.clone(),
            hub: Arc::default(),
            bells: Arc::default(),
            changes: Arc::default(),
            model: model.map(Arc::new),
            reach: Arc::new(reach(&store, dir.path())),
            evidence: Arc::new(Evidence::open(&LedgerOptions::default(), dir.path()).unwrap()),
            prompt: PromptOptions::default(),
            retry: RetryPolicy::default(),
            metrics: Metrics::new(),
            owner: Self::OWNER.to_owned(),
            linger: Duration::from_secs(600),
            draining: CancellationToken::new(),
            aborting: CancellationToken::new(),
            failing: Failing::default(),
        });
        Self {
            store,
            workspace,
            environment,
            sessions,
            _dir: dir,
        }
    }

    /// A session with a message that nobody took up.
    pub(crate) async fn session_with_message(&self) -> SessionId {
        self.session(vec![message("hello")]).await
    }

    pub(crate) async fn session(&self, events: Vec<EventParams>) -> SessionId {
        let agent = AgentConfig {
            id: AgentId::fresh(),
            kind: AgentKind::Agent,
            version: 1,
            name: "someone".into(),
            description: None,
            system: None,
            model: ModelConfig {
                id: "model".into(),
                effort: None,
                inference_geo: None,
                speed: None,
            },
            tools: Vec::new(),
            mcp_servers: Vec::new(),
            skills: Vec::new(),
            execution_identity: ExecutionIdentity::ServiceAccount {},
            multiagent: None,
        };
        let mut session = Session::new(Genesis {
            session_id: SessionId::fresh(),
            thread_id: ThreadId::fresh(),
            agent,
            environment: EnvironmentKind::SelfHosted,
            title: None,
            metadata: Map::new(),
            created_at: Time::now(),
        });
        let mut ids = fresh_id;
        if !events.is_empty() {
            session
                .submit(events, Submitter::Client, &mut context(&mut ids, None))
                .unwrap();
        }
        let entries = session.take_outbox();
        let new = NewSession {
            environment_id: self.environment.clone(),
            vault_ids: Vec::new(),
            resources: Vec::new(),
            genesis: session.genesis().clone(),
            projection: projection(&session, &entries, true),
            entries,
            enqueue_work: None,
        };
        self.store.create_session(&self.workspace, new).await.unwrap().id
    }

    /// A session that needs an owner and whose log describes none.
    pub(crate) async fn session_with_broken_log(&self) -> SessionId {
        let session = self.session_with_message().await;
        let body = EventBody::ModelRequestEnd {
            model_request_start_id: EventId::fresh(),
            is_error: None,
            model_usage: SpanUsage::default(),
        };
        self.append(&session, body).await.unwrap();
        session
    }

    pub(crate) async fn append(&self, session: &SessionId, body: EventBody) -> Result<(), StoreError> {
        let now = Time::now();
        let entry = LogEntry {
            event: Event {
                id: EventId::fresh(),
                processed_at: Some(now),
                body,
            },
            created_at: now,
            private: None,
        };
        let append = Append {
            session_id: session.clone(),
            at: now,
            generation: None,
            expected_last_seq: None,
            entries: vec![entry],
            drop_queued: Vec::new(),
            projection: ProjectionChange::Keep,
            enqueue_work: None,
        };
        self.store.append(&self.workspace, append).await.map(drop)
    }

    pub(crate) async fn row(&self, session: &SessionId) -> SessionRow {
        self.store.session(&self.workspace, session).await.unwrap()
    }

    pub(crate) async fn status(&self, session: &SessionId) -> SessionStatus {
        self.row(session).await.status
    }

    /// The types of the events in a session's log, in order.
    pub(crate) async fn kinds(&self, session: &SessionId) -> Vec<&'static str> {
        let log = self.store.load(&self.workspace, session).await.unwrap();
        log.entries.iter().map(|(_, entry)| entry.event.body.kind()).collect()
    }
}
