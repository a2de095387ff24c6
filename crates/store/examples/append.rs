//! Measures durable one-event appends over many sessions, and prints the figures as one JSON object.
//!
//! `cargo run --release -p outwork-store --example append -- [sessions] [appends per session] [folder]`

use std::time::Instant;

use outwork_store::{
    AgentSpec, Append, NewEnvironment, NewSession, Options, ProjectionChange, SessionProjection, SessionStatus, Store,
};
use outwork_wire::agent::{EnvironmentKind, ExecutionIdentity, ModelConfig};
use outwork_wire::event::UsageSnapshot;
use outwork_wire::id::{AgentId, EnvironmentId, EventId, SessionId, ThreadId, WorkspaceId};
use outwork_wire::log::{Genesis, LogEntry};
use outwork_wire::{ContentBlock, Event, EventBody, Time};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1);
    let sessions: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let per_session: usize = args.next().map_or(Ok(2000), |n| n.parse())?;
    let scratch = match args.next() {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };

    let opened = Instant::now();
    let store = Store::open(Options::new(scratch.path().join("data")))?;
    let open_ms = opened.elapsed().as_secs_f64() * 1e3;
    let ids = make_sessions(&store, sessions).await?;
    let before = store.counters();
    let begun = Instant::now();
    let tasks: Vec<_> = ids
        .into_iter()
        .map(|id| tokio::spawn(append_many(store.clone(), id, per_session)))
        .collect();
    let mut micros = Vec::with_capacity(sessions * per_session);
    for task in tasks {
        micros.extend(task.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    let after = store.counters();
    let commits = after.commits - before.commits;
    let figures = serde_json::json!({
        "sessions": sessions,
        "events": micros.len(),
        "events_per_second": (micros.len() as f64 / seconds).round(),
        "p50_ms": at(0.5),
        "p95_ms": at(0.95),
        "max_ms": at(1.0),
        "commits": commits,
        "events_per_commit": micros.len() as f64 / commits as f64,
        "open_ms": open_ms,
        "resident_kb": resident_kb(),
    });
    println!("{figures}");
    store.close().await;
    Ok(())
}

async fn append_many(store: Store, session: SessionId, count: usize) -> Result<Vec<u64>, AnyError> {
    let workspace = store.default_workspace().clone();
    let mut micros = Vec::with_capacity(count);
    for n in 0..count {
        let now = Time::now();
        let append = Append {
            session_id: session.clone(),
            at: now,
            generation: None,
            expected_last_seq: Some(n as u64),
            entries: vec![message(now)],
            drop_queued: Vec::new(),
            projection: ProjectionChange::Set(Box::new(projection(now))),
            enqueue_work: None,
        };
        let begun = Instant::now();
        store.append(&workspace, append).await?;
        micros.push(begun.elapsed().as_micros() as u64);
    }
    Ok(micros)
}

fn message(now: Time) -> LogEntry {
    LogEntry {
        event: Event {
            id: EventId::fresh(),
            processed_at: Some(now),
            body: EventBody::AgentMessage {
                content: vec![ContentBlock::text(
                    "A line of about one hundred characters, as an agent writes it between two calls of tools, or so.",
                )],
            },
        },
        created_at: now,
        private: None,
    }
}

fn projection(now: Time) -> SessionProjection {
    SessionProjection {
        status: SessionStatus::Running,
        usage: UsageSnapshot::default(),
        updated_at: now,
        archived_at: None,
        wake_at: None,
        needs_worker: false,
        needs_owner: true,
        profile: None,
    }
}

async fn make_sessions(store: &Store, count: usize) -> Result<Vec<SessionId>, AnyError> {
    let workspace: WorkspaceId = store.default_workspace().clone();
    let now = Time::now();
    let environment = EnvironmentId::fresh();
    let new = NewEnvironment {
        id: environment.clone(),
        kind: EnvironmentKind::SelfHosted,
        name: "bench".into(),
        description: None,
        config: serde_json::json!({ "type": "self_hosted" }),
        metadata: serde_json::Map::new(),
        scope: None,
    };
    store.create_environment(&workspace, new, now).await?;
    let spec = AgentSpec {
        name: "bench".into(),
        description: None,
        system: None,
        model: ModelConfig {
            id: "none".into(),
            effort: None,
            inference_geo: None,
            speed: None,
        },
        tools: Vec::new(),
        mcp_servers: Vec::new(),
        skills: Vec::new(),
        metadata: serde_json::Map::new(),
        execution_identity: ExecutionIdentity::ServiceAccount {},
        multiagent: None,
    };
    let agent = store.create_agent(&workspace, AgentId::fresh(), spec, now).await?;
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let new = NewSession {
            environment_id: environment.clone(),
            vault_ids: Vec::new(),
            resources: Vec::new(),
            genesis: Genesis {
                session_id: SessionId::fresh(),
                thread_id: ThreadId::fresh(),
                agent: agent.config(),
                environment: EnvironmentKind::SelfHosted,
                title: None,
                metadata: serde_json::Map::new(),
                created_at: now,
            },
            entries: Vec::new(),
            projection: projection(now),
            enqueue_work: None,
        };
        ids.push(store.create_session(&workspace, new).await?.id);
    }
    Ok(ids)
}

/// The memory that this process holds, from the kernel's own count; 0 where there is none.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}
