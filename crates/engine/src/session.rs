//! The state of a session, and how each entry of the log changes it.
//!
//! Invariants: `calls` holds the calls of the latest answer that are not all settled yet; `open_request` is set
//! exactly between `span.model_request_start` and its end; `transcript` alternates between user and assistant,
//! and every assistant message with tool calls is followed by a user message that begins with their results.

use std::collections::{HashSet, VecDeque};

use outwork_wire::agent::{AgentConfig, EnvironmentKind};
use outwork_wire::event::{IdleReason, UsageSnapshot};
use outwork_wire::id::EventId;
use outwork_wire::log::{Genesis, LogEntry, Private};
use outwork_wire::model::StopReason;
use outwork_wire::{ContentBlock, Event, EventBody, Time};
use serde_json::{Map, Value};

use crate::Context;
use crate::mcp::McpCall;

/// The status of a session on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It rests.
    Idle,
    /// It is at work.
    Running,
    /// It waits to try the model again.
    Rescheduling,
    /// It is over.
    Terminated,
}

impl Status {
    /// The status as the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Rescheduling => "rescheduling",
            Self::Terminated => "terminated",
        }
    }
}

/// A log that does not describe a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The end of a model request that did not begin.
    #[error("event {0} ends a model request that is not open")]
    NoOpenRequest(EventId),
    /// A result or a confirmation for a call that is not open.
    #[error("event {0} answers a call that is not open")]
    NoOpenCall(EventId),
    /// A call without the model's own id.
    #[error("event {0} is a tool call without the model's id")]
    NoModelId(EventId),
}

/// A session as folded from its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub(crate) genesis: Genesis,
    pub(crate) agent: AgentConfig,
    pub(crate) title: Option<String>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) status: Status,
    pub(crate) idle_reason: Option<IdleReason>,
    pub(crate) last_time: Time,
    pub(crate) transcript: Vec<Message>,
    pub(crate) added_system: Vec<String>,
    pub(crate) queue: VecDeque<LogEntry>,
    pub(crate) calls: Vec<Call>,
    pub(crate) answered: HashSet<EventId>,
    pub(crate) open_request: Option<EventId>,
    pub(crate) model_due: bool,
    pub(crate) attempts: u32,
    pub(crate) retry_at: Option<Time>,
    pub(crate) stop: Option<StopReason>,
    pub(crate) stop_details: Option<Value>,
    pub(crate) confirmed_since_idle: bool,
    /// Model requests since the turn began.
    pub(crate) requests: u32,
    /// Answers in a row after which the model was asked again though nothing came from outside.
    pub(crate) unaided: u32,
    pub(crate) usage: UsageSnapshot,
    pub(crate) running_since: Option<Time>,
    pub(crate) updated_at: Time,
    /// Who ordered the interrupt that waits, and why.
    pub(crate) stopped: Option<String>,
    outbox: Vec<LogEntry>,
}

/// One message of the conversation with the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Assistant,
}

/// A tool call of the latest answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) event_id: EventId,
    pub(crate) model_id: String,
    pub(crate) doer: Doer,
    pub(crate) state: CallState,
}

/// Who carries a call out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Doer {
    /// A worker, in the session's sandbox.
    Worker,
    /// The client: a custom tool.
    Client,
    /// The owner of the session, at an MCP server.
    Owner(Box<McpCall>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CallState {
    /// Waits for a confirmation.
    Asking,
    /// Waits for its result.
    Open,
    /// Has a result that waits for the calls before it.
    Queued,
    /// Has a result.
    Done { content: Vec<ContentBlock>, is_error: bool },
    /// May not run.
    Denied { message: String },
}

impl Call {
    pub(crate) fn settled(&self) -> bool {
        matches!(self.state, CallState::Done { .. } | CallState::Denied { .. })
    }

    /// Whether somebody outside still has to act for it.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.state, CallState::Asking | CallState::Open)
    }

    /// Whether the owner of the session has to carry it out now.
    pub(crate) fn is_owners(&self) -> bool {
        self.state == CallState::Open && matches!(self.doer, Doer::Owner(_))
    }
}

/// What the API shows of a session besides its genesis.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionView {
    /// The current configuration of the agent.
    pub agent: AgentConfig,
    /// The title.
    pub title: Option<String>,
    /// The metadata.
    pub metadata: Map<String, Value>,
    /// The status.
    pub status: Status,
    /// What it has used.
    pub usage: UsageSnapshot,
    /// When it last changed.
    pub updated_at: Time,
    /// When a retry is due.
    pub retry_at: Option<Time>,
    /// Whether the loop has something to do without further input.
    pub needs_owner: bool,
}

impl Session {
    /// A session that has just been made.
    pub fn new(genesis: Genesis) -> Self {
        Self {
            agent: genesis.agent.clone(),
            title: genesis.title.clone(),
            metadata: genesis.metadata.clone(),
            status: Status::Idle,
            idle_reason: None,
            last_time: genesis.created_at,
            transcript: Vec::new(),
            added_system: Vec::new(),
            queue: VecDeque::new(),
            calls: Vec::new(),
            answered: HashSet::new(),
            open_request: None,
            model_due: false,
            attempts: 0,
            retry_at: None,
            stop: None,
            stop_details: None,
            confirmed_since_idle: false,
            requests: 0,
            unaided: 0,
            usage: UsageSnapshot::default(),
            running_since: None,
            updated_at: genesis.created_at,
            stopped: None,
            outbox: Vec::new(),
            genesis,
        }
    }

    /// Folds a session from its log. Entries come in the order of the log, those that wait in the queue last.
    pub fn fold<'a>(genesis: Genesis, entries: impl IntoIterator<Item = &'a LogEntry>) -> Result<Self, FoldError> {
        let mut session = Self::new(genesis);
        for entry in entries {
            session.apply(entry)?;
        }
        Ok(session)
    }

    /// The entries that were emitted since the last call; to be committed before anybody is told of them.
    ///
    /// An event that was queued and taken up in between is there once, as it was taken up.
    pub fn take_outbox(&mut self) -> Vec<LogEntry> {
        let mut entries = std::mem::take(&mut self.outbox);
        let taken_up: HashSet<EventId> = entries
            .iter()
            .filter(|e| e.event.processed_at.is_some())
            .map(|e| e.event.id.clone())
            .collect();
        entries.retain(|e| e.event.processed_at.is_some() || !taken_up.contains(&e.event.id));
        entries
    }

    /// What the session began with.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The status on the wire.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The current configuration of the agent.
    pub fn agent(&self) -> &AgentConfig {
        &self.agent
    }

    /// Why the session rests, if it does.
    pub fn idle_reason(&self) -> Option<&IdleReason> {
        self.idle_reason.as_ref()
    }

    /// The ids of events that wait in the queue.
    pub fn queued_ids(&self) -> Vec<EventId> {
        self.queue.iter().map(|e| e.event.id.clone()).collect()
    }

    /// Whether a worker has something to do, or soon will: the work item must be in the queue then.
    pub fn needs_worker(&self) -> bool {
        let mut of_workers = self.calls.iter().filter(|c| c.doer == Doer::Worker);
        match self.genesis.environment {
            EnvironmentKind::SelfHosted => {
                of_workers.any(Call::waits) || matches!(self.status, Status::Running | Status::Rescheduling)
            }
            EnvironmentKind::Cloud => of_workers.any(|c| c.state == CallState::Open),
        }
    }

    /// What the API shows.
    pub fn view(&self) -> SessionView {
        SessionView {
            agent: self.agent.clone(),
            title: self.title.clone(),
            metadata: self.metadata.clone(),
            status: self.status,
            usage: self.usage_at(self.last_time),
            updated_at: self.updated_at,
            retry_at: self.retry_at,
            needs_owner: self.needs_owner(),
        }
    }

    /// Exactly when `advance` would emit something or ask for something.
    fn needs_owner(&self) -> bool {
        if self.status == Status::Terminated {
            return false;
        }
        let can_be_taken_up = |entry: &LogEntry| {
            matches!(entry.event.body, EventBody::UserInterrupt { .. })
                || result_target(&entry.event.body).is_some_and(|call| self.earlier_settled(call))
        };
        if self.open_request.is_some() || self.queue.iter().any(can_be_taken_up) {
            return true;
        }
        if !self.calls.is_empty() {
            return !self.waiting_is_said() || self.calls.iter().any(Call::is_owners);
        }
        self.model_due || !self.queue.is_empty() || matches!(self.status, Status::Running | Status::Rescheduling)
    }

    /// The sums up to `now`, the span at work included.
    pub(crate) fn usage_at(&self, now: Time) -> UsageSnapshot {
        let mut usage = self.usage;
        if let Some(since) = self.running_since {
            usage.active_seconds += now.seconds_since(since).max(0.0);
        }
        usage
    }

    /// Emits an event that is processed now.
    pub(crate) fn emit(&mut self, body: EventBody, private: Option<Private>, context: &mut Context<'_>) -> EventId {
        let at = self.next_time(context.now);
        let id = (context.event_id)(at);
        self.emit_as(id, body, private, context.now)
    }

    /// The event that was emitted last and is not taken out yet.
    pub(crate) fn last_emitted(&self) -> Event {
        self.outbox
            .last()
            .expect("called right after an event was emitted")
            .event
            .clone()
    }

    /// Emits an event under an id that was given out before.
    pub(crate) fn emit_as(&mut self, id: EventId, body: EventBody, private: Option<Private>, now: Time) -> EventId {
        let at = self.next_time(now);
        let entry = LogEntry {
            event: Event {
                id: id.clone(),
                processed_at: Some(at),
                body,
            },
            created_at: at,
            private,
        };
        self.commit(entry);
        id
    }

    /// Puts a client's event in the queue.
    pub(crate) fn enqueue(&mut self, body: EventBody, context: &mut Context<'_>) -> Event {
        let id = (context.event_id)(context.now);
        let event = Event {
            id,
            processed_at: None,
            body,
        };
        self.commit(LogEntry {
            event: event.clone(),
            created_at: context.now,
            private: None,
        });
        event
    }

    /// Takes a queued event up now.
    pub(crate) fn process(&mut self, mut entry: LogEntry, context: &mut Context<'_>) {
        entry.event.processed_at = Some(self.next_time(context.now));
        self.commit(entry);
    }

    fn commit(&mut self, entry: LogEntry) {
        self.apply(&entry)
            .expect("an entry that the session itself emits fits its state");
        self.outbox.push(entry);
    }

    /// One microsecond after the last event at the earliest, so that times order the log.
    pub(crate) fn next_time(&self, now: Time) -> Time {
        now.max(self.last_time.plus_micros(1))
    }
}

/// The call that an event gives a result for.
pub(crate) fn result_target(body: &EventBody) -> Option<&EventId> {
    match body {
        EventBody::UserToolResult { tool_use_id, .. } | EventBody::AgentToolResult { tool_use_id, .. } => {
            Some(tool_use_id)
        }
        EventBody::UserCustomToolResult { custom_tool_use_id, .. } => Some(custom_tool_use_id),
        EventBody::AgentMcpToolResult { mcp_tool_use_id, .. } => Some(mcp_tool_use_id),
        _ => None,
    }
}
