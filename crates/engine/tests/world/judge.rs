//! Watches a session's log entry by entry, and panics at the first that breaks a rule of the wire.
//!
//! It knows nothing of the engine: what it holds is what a client could know from the events alone.

use std::collections::HashSet;

use outwork_engine::Status;
use outwork_wire::event::{Decision, EvaluatedPermission, IdleReason};
use outwork_wire::id::EventId;
use outwork_wire::log::LogEntry;
use outwork_wire::{EventBody, Time};

/// What the log has said so far.
#[derive(Default)]
pub struct Judge {
    last_time: Option<Time>,
    seen: HashSet<EventId>,
    queue: Vec<LogEntry>,
    processed: usize,
    calls: Vec<CallRecord>,
    state: Option<EventBody>,
    previous: Vec<EventBody>,
    span: Option<EventId>,
    active_seconds: f64,
    ending: bool,
    interrupted: bool,
}

/// What the log has said of one call.
pub struct CallRecord {
    /// Its event.
    pub id: EventId,
    /// Whether the client runs it.
    pub custom: bool,
    /// Whether it is made at an MCP server.
    pub mcp: bool,
    /// Whether it must be confirmed first.
    pub asks: bool,
    /// Whether it was denied, by policy or by a person.
    pub denied: bool,
    /// Whether a person allowed it.
    pub allowed: bool,
    /// How many results it has.
    pub results: usize,
}

impl CallRecord {
    /// Whether it has its one result or denial.
    pub fn settled(&self) -> bool {
        self.denied || self.results > 0
    }
}

impl Judge {
    /// Takes note of a committed entry.
    pub fn see(&mut self, entry: &LogEntry) {
        let event = &entry.event;
        assert!(self.status() != Status::Terminated, "{event:?} comes after the end");
        let Some(at) = event.processed_at else {
            assert!(self.seen.insert(event.id.clone()), "{} is in the log twice", event.id);
            self.queue.push(entry.clone());
            return;
        };
        assert!(
            self.last_time.is_none_or(|last| last < at),
            "{event:?} is not later than the one before"
        );
        self.last_time = Some(at);
        match self.queue.iter().position(|e| e.event.id == event.id) {
            Some(index) => {
                let queued = self.queue.remove(index);
                assert_eq!(queued.event.body, event.body, "an event changed while it waited");
                assert_eq!(queued.created_at, entry.created_at, "an event forgot when it was made");
                self.processed += 1;
            }
            None => {
                assert!(self.seen.insert(event.id.clone()), "{} is in the log twice", event.id);
            }
        }
        self.check_order(&event.body);
        self.note(&event.id, &event.body);
        self.previous.push(event.body.clone());
    }

    /// The status that the log says.
    pub fn status(&self) -> Status {
        match &self.state {
            None | Some(EventBody::StatusIdle { .. }) => Status::Idle,
            Some(EventBody::StatusRunning {}) => Status::Running,
            Some(EventBody::StatusRescheduled {}) => Status::Rescheduling,
            Some(EventBody::StatusTerminated {}) => Status::Terminated,
            Some(other) => unreachable!("{other:?} is no status"),
        }
    }

    /// The ids of what waits.
    pub fn queued_ids(&self) -> Vec<EventId> {
        self.queue.iter().map(|e| e.event.id.clone()).collect()
    }

    /// The calls so far.
    pub fn calls(&self) -> &[CallRecord] {
        &self.calls
    }

    /// Whether somebody outside has to act for a call.
    pub fn somebody_is_asked(&self) -> bool {
        self.calls.iter().any(|c| !c.settled() && !self.result_waits(&c.id))
    }

    /// Whether a result for this call waits in the queue.
    pub fn result_waits(&self, call: &EventId) -> bool {
        self.queue.iter().any(|e| target(&e.event.body) == Some(call))
    }

    fn check_order(&self, body: &EventBody) {
        let before = self.previous.last();
        if self.ending {
            let last = body.kind().starts_with("user.") || body.kind().ends_with("status_terminated");
            assert!(
                last || body.kind() == "system.message",
                "what waits is only taken up early at the end: {body:?}"
            );
        }
        if matches!(before, Some(EventBody::StatusRunning {})) {
            assert!(
                matches!(body, EventBody::ThreadStatusRunning { .. }),
                "session.status_running is followed by {body:?}"
            );
        }
        match body {
            EventBody::StatusRunning {} => {
                assert_ne!(self.status(), Status::Running, "it runs already")
            }
            EventBody::ThreadStatusRunning { .. } => {
                assert_eq!(
                    before,
                    Some(&EventBody::StatusRunning {}),
                    "a thread runs without its session"
                );
            }
            EventBody::StatusRescheduled {} => {
                assert!(matches!(before, Some(EventBody::ThreadStatusRescheduled { .. })));
                assert_eq!(self.status(), Status::Running, "only what runs is rescheduled");
            }
            EventBody::StatusIdle {
                stop_reason,
                stop_details,
            } => {
                let Some(EventBody::ThreadStatusIdle {
                    stop_reason: reason,
                    stop_details: details,
                    ..
                }) = before
                else {
                    panic!("session.status_idle comes after {before:?}")
                };
                assert_eq!(
                    (reason, details),
                    (stop_reason, stop_details),
                    "thread and session rest apart"
                );
                self.check_idle(stop_reason);
            }
            EventBody::ThreadStatusIdle { .. } => {
                assert!(
                    matches!(before, Some(EventBody::SessionUsage { .. })),
                    "session.usage does not precede idle"
                );
            }
            EventBody::StatusTerminated {} => {
                assert!(matches!(before, Some(EventBody::ThreadStatusTerminated { .. })));
            }
            EventBody::ModelRequestStart {} => {
                assert_eq!(self.status(), Status::Running, "the model is asked while nothing runs");
                assert!(self.span.is_none(), "two model requests at once");
                assert!(!self.interrupted, "after an interrupt the model is asked by nobody");
                assert!(
                    self.calls.iter().all(CallRecord::settled),
                    "the model is asked before its calls settle"
                );
            }
            EventBody::ModelRequestEnd {
                model_request_start_id, ..
            } => {
                assert_eq!(
                    self.span.as_ref(),
                    Some(model_request_start_id),
                    "no such request is open"
                );
            }
            EventBody::AgentMessage { content } => {
                assert!(self.span.is_some(), "the agent speaks outside a request");
                assert!(!content.is_empty(), "the agent says nothing");
            }
            EventBody::AgentThinking {}
            | EventBody::AgentToolUse { .. }
            | EventBody::AgentMcpToolUse { .. }
            | EventBody::AgentCustomToolUse { .. } => {
                assert!(self.span.is_some(), "the agent acts outside a request");
            }
            EventBody::SessionUsage { usage } => {
                assert!(
                    usage.active_seconds >= self.active_seconds,
                    "time at work ran backwards"
                );
            }
            _ => {}
        }
    }

    fn check_idle(&self, reason: &IdleReason) {
        assert!(self.span.is_none(), "it rests while the model is asked");
        if self.status() == Status::Idle {
            let waiting = matches!(
                &self.state,
                Some(EventBody::StatusIdle {
                    stop_reason: IdleReason::RequiresAction { .. },
                    ..
                })
            );
            assert!(waiting, "it rests already");
        }
        match reason {
            IdleReason::RequiresAction { event_ids } => {
                let open: Vec<&EventId> = self
                    .calls
                    .iter()
                    .filter(|c| !c.settled() && !self.result_waits(&c.id))
                    .map(|c| &c.id)
                    .collect();
                assert!(!open.is_empty(), "it asks for nothing");
                assert_eq!(
                    event_ids.iter().collect::<Vec<_>>(),
                    open,
                    "it asks for the wrong calls"
                );
            }
            IdleReason::EndTurn {} | IdleReason::RetriesExhausted {} | IdleReason::Refusal {} => {
                assert!(
                    self.calls.iter().all(CallRecord::settled),
                    "it ends the turn with open calls"
                );
            }
        }
    }

    fn note(&mut self, id: &EventId, body: &EventBody) {
        match body {
            EventBody::StatusRunning {}
            | EventBody::StatusIdle { .. }
            | EventBody::StatusRescheduled {}
            | EventBody::StatusTerminated {} => self.state = Some(body.clone()),
            EventBody::ModelRequestStart {} => self.span = Some(id.clone()),
            EventBody::UserInterrupt { .. } => self.interrupted = true,
            EventBody::UserMessage { .. } => self.interrupted = false,
            EventBody::ModelRequestEnd { .. } => self.span = None,
            EventBody::SessionUsage { usage } => self.active_seconds = usage.active_seconds,
            EventBody::AgentToolUse {
                evaluated_permission, ..
            }
            | EventBody::AgentMcpToolUse {
                evaluated_permission, ..
            } => self.calls.push(CallRecord {
                id: id.clone(),
                custom: false,
                mcp: matches!(body, EventBody::AgentMcpToolUse { .. }),
                asks: *evaluated_permission == Some(EvaluatedPermission::Ask),
                denied: *evaluated_permission == Some(EvaluatedPermission::Deny),
                allowed: false,
                results: 0,
            }),
            EventBody::AgentCustomToolUse { .. } => self.calls.push(CallRecord {
                id: id.clone(),
                custom: true,
                mcp: false,
                asks: false,
                denied: false,
                allowed: false,
                results: 0,
            }),
            EventBody::UserToolConfirmation {
                tool_use_id, result, ..
            } => {
                let call = self.call(tool_use_id);
                assert!(
                    call.asks && !call.settled() && !call.allowed,
                    "{tool_use_id} does not ask"
                );
                match result {
                    Decision::Allow => call.allowed = true,
                    Decision::Deny => call.denied = true,
                }
            }
            _ => {}
        }
        if let Some(target) = target(body) {
            let earlier_open = self.calls.iter().take_while(|c| c.id != *target).any(|c| !c.settled());
            let custom = matches!(body, EventBody::UserCustomToolResult { .. });
            let mcp = matches!(body, EventBody::AgentMcpToolResult { .. });
            let own_worker = mcp || matches!(body, EventBody::AgentToolResult { .. });
            // Only the end of the session releases a result that waits for the answer to an earlier call.
            self.ending |= earlier_open && !own_worker;
            let call = self.call(target);
            assert_eq!(
                (call.custom, call.mcp),
                (custom, mcp),
                "the result of another kind of tool"
            );
            assert!(!call.denied, "a denied call has a result");
            call.results += 1;
            assert_eq!(call.results, 1, "a call has two results");
        }
    }

    fn call(&mut self, id: &EventId) -> &mut CallRecord {
        self.calls
            .iter_mut()
            .find(|c| c.id == *id)
            .unwrap_or_else(|| panic!("there is no call {id}"))
    }
}

fn target(body: &EventBody) -> Option<&EventId> {
    match body {
        EventBody::UserToolResult { tool_use_id, .. } | EventBody::AgentToolResult { tool_use_id, .. } => {
            Some(tool_use_id)
        }
        EventBody::UserCustomToolResult { custom_tool_use_id, .. } => Some(custom_tool_use_id),
        EventBody::AgentMcpToolResult { mcp_tool_use_id, .. } => Some(mcp_tool_use_id),
        _ => None,
    }
}
