//! What clients and workers send: checked against the state as a whole batch, then taken in.
//!
//! Either every event of a batch is accepted or none is. Answers to calls are processed on receipt, in the order
//! of the calls: a result that comes before the answer to an earlier call waits in the queue. Messages wait in
//! the queue until the loop takes them up.

use std::collections::HashMap;

use outwork_wire::agent::{CustomTool, EnvironmentKind, McpServer, Tool};
use outwork_wire::content::SearchText;
use outwork_wire::event::{Decision, IdleReason, SystemBlock};
use outwork_wire::id::{EventId, ThreadId};
use outwork_wire::log::Private;
use outwork_wire::{ContentBlock, Event, EventBody, EventParams};
use serde_json::{Map, Value};

use crate::Context;
use crate::session::{Call, CallState, Doer, Session, Status};
use crate::toolset;

/// The most pairs of metadata.
const MAX_METADATA: usize = 16;
/// The most events that may wait in a session's queue, and the most text and data that they may hold, in bytes.
const MAX_QUEUED: usize = 1000;
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// Who sends events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitter {
    /// A client with an API key.
    Client,
    /// A worker, with an environment key or the token of a work item.
    Worker,
}

/// A batch that was not accepted. Nothing of it was taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The events do not fit.
    #[error("{0}")]
    Invalid(String),
    /// The sender may not do this.
    #[error("{0}")]
    Forbidden(String),
}

/// A change of a session from outside its conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionChange {
    /// A new title; `Some(None)` takes it away.
    pub title: Option<Option<String>>,
    /// Pairs to set in the metadata; null takes one away.
    pub metadata: Option<Map<String, Value>>,
    /// The agent's whole new list of tools.
    pub tools: Option<Vec<Tool>>,
    /// The agent's whole new list of MCP servers.
    pub mcp_servers: Option<Vec<McpServer>>,
}

/// What an earlier event of the same batch did to a call.
#[derive(Default)]
struct InBatch {
    confirmed: bool,
    denied: bool,
    answered: bool,
}

impl Session {
    /// Takes in a batch of events. Returns them as they stand in the log, in the order they were given.
    pub fn submit(
        &mut self,
        events: Vec<EventParams>,
        by: Submitter,
        context: &mut Context<'_>,
    ) -> Result<Vec<Event>, Refused> {
        self.check(&events, by)?;
        Ok(events.into_iter().map(|event| self.take_in(event, context)).collect())
    }

    /// Changes title, metadata or tools. Returns whether anything changed.
    pub fn update(&mut self, change: SessionChange, context: &mut Context<'_>) -> Result<bool, Refused> {
        if self.status == Status::Terminated {
            return Err(archived());
        }
        let title = change
            .title
            .map(|title| title.filter(|t| !t.is_empty()))
            .filter(|t| *t != self.title);
        let metadata = match change.metadata {
            Some(patch) => Some(self.merged_metadata(patch)?).filter(|m| *m != self.metadata),
            None => None,
        };
        let mut agent = self.agent.clone();
        agent.tools = change.tools.unwrap_or(agent.tools);
        agent.mcp_servers = change.mcp_servers.unwrap_or(agent.mcp_servers);
        let agent = Some(agent).filter(|agent| *agent != self.agent);
        if title.is_none() && metadata.is_none() && agent.is_none() {
            return Ok(false);
        }
        let agent = match agent {
            Some(_) if self.interruptible() => {
                return Err(Refused::Invalid(format!(
                    "agent: the session is {}; its agent can only be changed while it is idle and no tool call waits for an answer. Interrupt it, or wait for session.status_idle with stop_reason end_turn",
                    self.status.as_str()
                )));
            }
            Some(agent) => {
                toolset::check_servers(&agent.tools, &agent.mcp_servers)
                    .map_err(|message| Refused::Invalid(format!("agent.{message}")))?;
                Some(Box::new(agent))
            }
            None => None,
        };
        let body = EventBody::SessionUpdated {
            agent,
            metadata,
            title: title.map(Option::unwrap_or_default),
        };
        self.emit(body, None, context);
        Ok(true)
    }

    fn merged_metadata(&self, patch: Map<String, Value>) -> Result<Map<String, Value>, Refused> {
        let mut merged = self.metadata.clone();
        for (key, value) in patch {
            match value {
                Value::Null => drop(merged.shift_remove(&key)),
                value => drop(merged.insert(key, value)),
            }
        }
        if merged.len() > MAX_METADATA {
            return Err(Refused::Invalid(format!(
                "metadata: at most {MAX_METADATA} keys are allowed, not {}",
                merged.len()
            )));
        }
        Ok(merged)
    }

    /// Ends the session for good. It must not be at work.
    pub fn archive(&mut self, context: &mut Context<'_>) -> Result<(), Refused> {
        match self.status {
            Status::Terminated => return Ok(()),
            Status::Running | Status::Rescheduling => {
                return Err(Refused::Invalid(format!(
                    "the session is {} and cannot be archived now; send a user.interrupt, wait until it is idle, and try again",
                    self.status.as_str()
                )));
            }
            Status::Idle => {}
        }
        while let Some(entry) = self.queue.front().cloned() {
            self.process(entry, context);
        }
        let body = EventBody::ThreadStatusTerminated {
            session_thread_id: self.genesis.thread_id.clone(),
            agent_name: self.agent.name.clone(),
        };
        self.emit(body, None, context);
        self.emit(EventBody::StatusTerminated {}, Some(Private::Archived {}), context);
        Ok(())
    }

    fn take_in(&mut self, event: EventParams, context: &mut Context<'_>) -> Event {
        let mut body = event.into_body();
        match &mut body {
            EventBody::UserToolConfirmation { session_thread_id, .. }
            | EventBody::UserCustomToolResult { session_thread_id, .. }
            | EventBody::UserToolResult { session_thread_id, .. }
            | EventBody::UserInterrupt { session_thread_id } => *session_thread_id = None,
            _ => {}
        }
        if let EventBody::UserToolResult {
            tool_use_id,
            content,
            is_error,
            ..
        } = body
        {
            body = match self.genesis.environment {
                EnvironmentKind::SelfHosted => EventBody::UserToolResult {
                    tool_use_id,
                    content,
                    is_error,
                    session_thread_id: None,
                },
                EnvironmentKind::Cloud => EventBody::AgentToolResult {
                    tool_use_id,
                    content,
                    is_error,
                },
            };
        }
        let at_once = match &body {
            EventBody::UserToolConfirmation { .. } | EventBody::AgentToolResult { .. } => true,
            EventBody::UserToolResult { tool_use_id, .. } => self.earlier_settled(tool_use_id),
            EventBody::UserCustomToolResult { custom_tool_use_id, .. } => self.earlier_settled(custom_tool_use_id),
            EventBody::UserInterrupt { .. } => !self.interruptible(),
            _ => false,
        };
        if at_once {
            self.emit(body, None, context);
            self.last_emitted()
        } else {
            self.enqueue(body, context)
        }
    }

    /// Whether there is anything that an interrupt would end.
    pub(crate) fn interruptible(&self) -> bool {
        self.status == Status::Running
            || self.status == Status::Rescheduling
            || self.open_request.is_some()
            || self.model_due
            || !self.calls.is_empty()
    }

    /// Whether every call before this one has its answer.
    pub(crate) fn earlier_settled(&self, call_id: &EventId) -> bool {
        self.calls
            .iter()
            .take_while(|c| &c.event_id != call_id)
            .all(Call::settled)
    }

    fn check(&self, events: &[EventParams], by: Submitter) -> Result<(), Refused> {
        if events.is_empty() {
            return Err(Refused::Invalid("events: must hold at least one event".into()));
        }
        if self.status == Status::Terminated {
            return Err(archived());
        }
        self.check_room(events)?;
        let mut batch: HashMap<&EventId, InBatch> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            self.check_one(index, event, events, by, &mut batch)
                .map_err(|refused| match refused {
                    Refused::Invalid(message) => Refused::Invalid(format!("events.{index}: {message}")),
                    Refused::Forbidden(message) => Refused::Forbidden(format!("events.{index}: {message}")),
                })?;
        }
        Ok(())
    }

    /// Whether the queue has room. Answers and interrupts always find some: they make room.
    fn check_room(&self, events: &[EventParams]) -> Result<(), Refused> {
        let new = events.iter().filter_map(|event| match event {
            EventParams::UserMessage { content } => Some(content.iter().map(ContentBlock::bytes).sum::<usize>()),
            _ => None,
        });
        let waiting = self.queue.iter().map(|entry| match &entry.event.body {
            EventBody::UserMessage { content } => content.iter().map(ContentBlock::bytes).sum(),
            _ => 0,
        });
        let (mut count, mut bytes) = (0, 0);
        for size in new {
            count += 1;
            bytes += size;
        }
        if count == 0 {
            return Ok(());
        }
        let (before, before_bytes) = waiting.fold((0, 0), |(n, sum): (usize, usize), size: usize| (n + 1, sum + size));
        if before > 0 && (before + count > MAX_QUEUED || before_bytes + bytes > MAX_QUEUED_BYTES) {
            return Err(Refused::Invalid(format!(
                "events: {before} events wait in the queue of this session already; it holds at most {MAX_QUEUED}, and {MAX_QUEUED_BYTES} bytes. Wait until it has taken some up"
            )));
        }
        Ok(())
    }

    fn check_one<'e>(
        &self,
        index: usize,
        event: &'e EventParams,
        all: &[EventParams],
        by: Submitter,
        batch: &mut HashMap<&'e EventId, InBatch>,
    ) -> Result<(), Refused> {
        match event {
            EventParams::UserMessage { content } => check_message(content),
            EventParams::UserInterrupt { session_thread_id } => self.check_thread(session_thread_id.as_ref()),
            EventParams::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                session_thread_id,
            } => {
                if by == Submitter::Worker {
                    return Err(Refused::Forbidden(
                        "a worker's credential may not confirm tool calls; send user.tool_confirmation with an API key"
                            .into(),
                    ));
                }
                self.check_thread(session_thread_id.as_ref())?;
                if *result == Decision::Allow && deny_message.is_some() {
                    return Err(Refused::Invalid("deny_message: only goes with result `deny`".into()));
                }
                let done = batch.entry(tool_use_id).or_default();
                let call = self.find_call("tool_use_id", tool_use_id)?;
                if call.state != CallState::Asking || done.confirmed || done.denied {
                    return Err(Refused::Invalid(format!(
                        "tool_use_id: {tool_use_id} does not wait for a confirmation; only a call whose evaluated_permission is `ask` takes one, and only once"
                    )));
                }
                match result {
                    Decision::Allow => done.confirmed = true,
                    Decision::Deny => done.denied = true,
                }
                Ok(())
            }
            EventParams::UserToolResult {
                tool_use_id,
                content,
                session_thread_id,
                ..
            } => {
                self.check_thread(session_thread_id.as_ref())?;
                if self.genesis.environment == EnvironmentKind::Cloud && by == Submitter::Client {
                    return Err(Refused::Invalid(
                        "user.tool_result: the tools of a cloud environment run on the server's own workers; only custom tools take a result from a client".into(),
                    ));
                }
                let call = self.find_call("tool_use_id", tool_use_id)?;
                match call.doer {
                    Doer::Worker => {}
                    Doer::Client => {
                        return Err(Refused::Invalid(format!(
                            "tool_use_id: {tool_use_id} is a custom tool call; answer it with user.custom_tool_result"
                        )));
                    }
                    Doer::Owner(_) => {
                        return Err(Refused::Invalid(format!(
                            "tool_use_id: {tool_use_id} is a call to an MCP server; this server makes it itself"
                        )));
                    }
                }
                check_answer("tool_use_id", call, batch.entry(tool_use_id).or_default())?;
                check_content(content, true)
            }
            EventParams::UserCustomToolResult {
                custom_tool_use_id,
                content,
                session_thread_id,
                ..
            } => {
                self.check_thread(session_thread_id.as_ref())?;
                let call = self.find_call("custom_tool_use_id", custom_tool_use_id)?;
                if call.doer != Doer::Client {
                    return Err(Refused::Invalid(format!(
                        "custom_tool_use_id: {custom_tool_use_id} is not a custom tool call; answer it with user.tool_result"
                    )));
                }
                check_answer("custom_tool_use_id", call, batch.entry(custom_tool_use_id).or_default())?;
                check_content(content, true)
            }
            EventParams::SystemMessage { content } => self.check_system(index, content, all, by),
        }
    }

    fn check_system(
        &self,
        index: usize,
        content: &[SystemBlock],
        all: &[EventParams],
        by: Submitter,
    ) -> Result<(), Refused> {
        if by == Submitter::Worker {
            return Err(Refused::Forbidden(
                "a worker's credential may not send system.message; use an API key".into(),
            ));
        }
        if index + 1 != all.len() {
            return Err(Refused::Invalid(
                "system.message: at most one, and as the last event of the request".into(),
            ));
        }
        let waiting = matches!(self.idle_reason, Some(IdleReason::RequiresAction { .. }));
        let fits = match index.checked_sub(1).map(|i| &all[i]) {
            Some(EventParams::UserMessage { .. }) => !waiting,
            Some(EventParams::UserToolResult { .. } | EventParams::UserCustomToolResult { .. }) => true,
            _ => false,
        };
        if !fits {
            return Err(Refused::Invalid(
                "system.message: must come right after a user.message or a tool result of the same request; while the session requires action, only after a tool result".into(),
            ));
        }
        if content.is_empty() || content.len() > 1000 {
            return Err(Refused::Invalid(format!(
                "content: a system.message has 1 to 1000 text blocks, not {}",
                content.len()
            )));
        }
        if content.iter().any(|SystemBlock::Text { text }| text.trim().is_empty()) {
            return Err(Refused::Invalid(
                "content: text blocks must not be empty or only white space".into(),
            ));
        }
        Ok(())
    }

    fn check_thread(&self, thread: Option<&ThreadId>) -> Result<(), Refused> {
        match thread {
            Some(id) if *id != self.genesis.thread_id => Err(Refused::Invalid(format!(
                "session_thread_id: this session has no thread {id}"
            ))),
            _ => Ok(()),
        }
    }

    fn find_call(&self, field: &str, id: &EventId) -> Result<&Call, Refused> {
        if let Some(call) = self.calls.iter().find(|c| &c.event_id == id) {
            return Ok(call);
        }
        Err(Refused::Invalid(if self.answered.contains(id) {
            format!("{field}: {id} has its answer already; a call takes exactly one")
        } else {
            format!(
                "{field}: this session has no open tool call {id}; use the id of an agent.tool_use or agent.custom_tool_use event that has no result"
            )
        }))
    }
}

fn check_answer(field: &str, call: &Call, done: &mut InBatch) -> Result<(), Refused> {
    let id = &call.event_id;
    let open = match call.state {
        CallState::Asking => {
            if !done.confirmed {
                return Err(Refused::Invalid(format!(
                    "{field}: {id} waits for a user.tool_confirmation and must not run before it is allowed"
                )));
            }
            true
        }
        CallState::Open => true,
        CallState::Queued | CallState::Done { .. } | CallState::Denied { .. } => false,
    };
    if !open || done.answered || done.denied {
        return Err(Refused::Invalid(format!(
            "{field}: {id} has its answer already; a call takes exactly one"
        )));
    }
    done.answered = true;
    Ok(())
}

fn check_message(content: &[ContentBlock]) -> Result<(), Refused> {
    if content.is_empty() {
        return Err(Refused::Invalid("content: must hold at least one block".into()));
    }
    check_content(content, false)
}

fn check_content(content: &[ContentBlock], in_result: bool) -> Result<(), Refused> {
    for (index, block) in content.iter().enumerate() {
        let problem = match block {
            ContentBlock::Text { text } if text.is_empty() => Some("text: must not be empty".to_owned()),
            ContentBlock::Text { text } if !in_result && text.trim().is_empty() => {
                Some("text: must hold more than white space".to_owned())
            }
            ContentBlock::SearchResult { content, .. }
                if content.is_empty() || content.iter().any(|SearchText::Text { text }| text.trim().is_empty()) =>
            {
                Some("content: a `search_result` must hold text, and no blocks without".to_owned())
            }
            ContentBlock::Redacted {} => Some("type: a `redacted` block cannot be sent".to_owned()),
            ContentBlock::SearchResult { .. } if !in_result => {
                Some("type: `search_result` blocks are only taken in tool results".to_owned())
            }
            _ => block.file_id().map(|id| {
                format!("source: files ({id}) are not supported yet; send the content as base64, text or url")
            }),
        };
        if let Some(problem) = problem {
            return Err(Refused::Invalid(format!("content.{index}.{problem}")));
        }
    }
    Ok(())
}

fn archived() -> Refused {
    Refused::Invalid("the session is archived and takes no more events or changes; create a new session".into())
}

/// The custom tool of that name, if the agent has one.
pub(crate) fn custom_tool<'t>(tools: &'t [Tool], name: &str) -> Option<&'t CustomTool> {
    tools.iter().find_map(|tool| match tool {
        Tool::Custom(custom) if custom.name == name => Some(custom),
        _ => None,
    })
}
