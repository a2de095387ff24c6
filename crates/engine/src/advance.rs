//! What is to be done from here: the decisions that need no further input.

use outwork_wire::agent::EnvironmentKind;
use outwork_wire::event::{IdleReason, RefusalDetails, RefusalKind, RetryStatus, SessionError, SessionErrorKind};
use outwork_wire::id::EventId;
use outwork_wire::log::{LogEntry, Private};
use outwork_wire::model::{ModelRequest, StopReason};
use outwork_wire::{ContentBlock, EventBody, Time};
use serde_json::Value;

use crate::mcp::McpCall;
use crate::session::{Call, CallState, Doer, Session, Status, result_target};
use crate::{Context, PromptOptions};

/// How often in a row the model may be asked though nothing came from outside.
const MAX_UNAIDED: u32 = 16;

/// What the caller has to carry out after the outbox is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Nothing: only further input goes on.
    Rest,
    /// Connect to the agent's MCP servers, and come back with a catalog of their tools.
    ConnectServers,
    /// Make these calls at MCP servers, those that are not under way, and bring back what they give.
    CallTools(Vec<McpCall>),
    /// Ask the model, and bring back its answer or failure.
    AskModel(Box<ModelRequest>),
    /// A model request is under way; wait for it.
    AwaitModel,
    /// End the model request that is under way, and bring back what there is of its answer.
    CancelModel,
    /// Come back at this time.
    WaitUntil(Time),
}

impl Session {
    /// Decides what follows from the state. Emits entries and says what to do.
    ///
    /// `requesting` is true while the caller has a model request under way. If it has none and the log holds an
    /// open one, that request was lost with its owner: it ends here, without an answer, and is asked again.
    pub fn advance(&mut self, requesting: bool, options: &PromptOptions, context: &mut Context<'_>) -> Effect {
        if self.status == Status::Terminated {
            return Effect::Rest;
        }
        self.process_answers(context);
        if self.open_request.is_some() {
            if requesting {
                return if self.interrupt_waits() {
                    Effect::CancelModel
                } else {
                    Effect::AwaitModel
                };
            }
            self.end_request_without_answer(context);
        }
        if self.interrupt_waits() {
            self.interrupt(context);
        }
        if !self.calls.is_empty() {
            self.wait_for_answers(context);
            let calls = self.mcp_calls();
            return if calls.is_empty() {
                Effect::Rest
            } else {
                Effect::CallTools(calls)
            };
        }
        if let Some(at) = self.retry_at
            && self.model_due
            && at > context.now
        {
            return Effect::WaitUntil(at);
        }
        self.take_up_messages(context);
        if self.model_due {
            self.run(context);
            if let Some(message) = self.over_limit(options) {
                self.stop_turn(message, context);
                return Effect::Rest;
            }
            if context.catalog.is_none() && self.mcp_servers().next().is_some() {
                return Effect::ConnectServers;
            }
            self.emit(EventBody::ModelRequestStart {}, None, context);
            return Effect::AskModel(Box::new(self.model_request(options, context.catalog)));
        }
        if matches!(self.status, Status::Running | Status::Rescheduling) {
            let (reason, details) = self.turn_end();
            self.rest(reason, details, context);
        }
        Effect::Rest
    }

    /// Why the model is not asked once more in this turn, if so.
    fn over_limit(&self, options: &PromptOptions) -> Option<String> {
        if self.unaided >= MAX_UNAIDED {
            return Some(format!(
                "The model was asked {MAX_UNAIDED} times in a row without anything new to tell it: it paused, or called tools that it may not use. The turn ends here; send another message to go on."
            ));
        }
        (self.requests >= options.max_turn_requests).then(|| {
            format!(
                "The turn reached its limit of {} model requests ([model] max_turn_requests). Send another message to go on.",
                options.max_turn_requests
            )
        })
    }

    /// Ends the turn with an error that a repetition would meet again.
    fn stop_turn(&mut self, message: String, context: &mut Context<'_>) {
        let error = SessionError {
            kind: SessionErrorKind::ToolUseLimitReachedError,
            message,
            retry_status: RetryStatus::Exhausted {},
            mcp_server_name: None,
        };
        let private = Private::Retry {
            attempt: 0,
            next_at: None,
        };
        self.emit(EventBody::SessionError { error }, Some(private), context);
        self.rest(IdleReason::RetriesExhausted {}, None, context);
    }

    /// Takes up results that waited for the answers to earlier calls.
    fn process_answers(&mut self, context: &mut Context<'_>) {
        loop {
            let ready = self
                .queue
                .iter()
                .find(|entry| result_target(&entry.event.body).is_some_and(|call| self.earlier_settled(call)));
            match ready.cloned() {
                Some(entry) => self.process(entry, context),
                None => return,
            }
        }
    }

    fn interrupt_waits(&self) -> bool {
        self.queue
            .iter()
            .any(|e| matches!(e.event.body, EventBody::UserInterrupt { .. }))
    }

    /// Ends the turn: every open call gets an error result, then the interrupt is processed, then all rests.
    fn interrupt(&mut self, context: &mut Context<'_>) {
        // Results that are there already count: they are processed before those that are made up.
        while let Some(call) = self.calls.iter().find(|c| !c.settled()) {
            let id = call.event_id.clone();
            match call.state {
                CallState::Queued => {
                    let entry = self
                        .queue
                        .iter()
                        .find(|e| result_target(&e.event.body) == Some(&id))
                        .cloned()
                        .expect("a queued call has its result in the queue");
                    self.process(entry, context);
                }
                _ => {
                    let body = self.interrupted_result(id, &call.doer);
                    self.emit(body, None, context);
                }
            }
        }
        let interrupts: Vec<LogEntry> = self
            .queue
            .iter()
            .filter(|e| matches!(e.event.body, EventBody::UserInterrupt { .. }))
            .cloned()
            .collect();
        for entry in interrupts {
            self.process(entry, context);
        }
        self.stopped = None;
        self.rest(IdleReason::EndTurn {}, None, context);
    }

    pub(crate) fn interrupted_result(&self, id: EventId, doer: &Doer) -> EventBody {
        const INTERRUPTED: &str = "The call was interrupted before its result was there. Whether it had an effect is not known; run it again if it is still needed.";
        let text = match &self.stopped {
            Some(why) => format!("{why} Whether the call had an effect is not known."),
            None => INTERRUPTED.to_owned(),
        };
        let content = vec![ContentBlock::text(text)];
        let is_error = Some(true);
        match (doer, self.genesis.environment) {
            (Doer::Owner(_), _) => EventBody::AgentMcpToolResult {
                mcp_tool_use_id: id,
                content,
                is_error,
            },
            (Doer::Client, _) => EventBody::UserCustomToolResult {
                custom_tool_use_id: id,
                content,
                is_error,
                session_thread_id: None,
            },
            (Doer::Worker, EnvironmentKind::SelfHosted) => EventBody::UserToolResult {
                tool_use_id: id,
                content,
                is_error,
                session_thread_id: None,
            },
            (Doer::Worker, EnvironmentKind::Cloud) => EventBody::AgentToolResult {
                tool_use_id: id,
                content,
                is_error,
            },
        }
    }

    /// Says who has to act, if that is not yet said.
    fn wait_for_answers(&mut self, context: &mut Context<'_>) {
        if self.waiting_is_said() {
            return;
        }
        let Some(reason) = self.awaited() else {
            self.run(context);
            return;
        };
        if self.status == Status::Idle && self.idle_reason.as_ref() == Some(&reason) {
            // A confirmation changed who has to act, though not for which calls: it is said again.
            self.run(context);
        }
        self.rest(reason, None, context);
    }

    /// Whether the log says already who has to act for the open calls.
    pub(crate) fn waiting_is_said(&self) -> bool {
        match self.awaited() {
            None => self.status == Status::Running,
            Some(reason) => {
                self.status == Status::Idle && self.idle_reason == Some(reason) && !self.confirmed_since_idle
            }
        }
    }

    /// What the session waits for from outside. Nothing while the server itself or its own workers are at a call: it
    /// is at work then.
    fn awaited(&self) -> Option<IdleReason> {
        let cloud = self.genesis.environment == EnvironmentKind::Cloud;
        let at_work = |c: &Call| c.is_owners() || (cloud && c.doer == Doer::Worker && c.state == CallState::Open);
        if self.calls.iter().any(at_work) {
            return None;
        }
        let event_ids = self
            .calls
            .iter()
            .filter(|c| c.waits())
            .map(|c| c.event_id.clone())
            .collect();
        Some(IdleReason::RequiresAction { event_ids })
    }

    fn take_up_messages(&mut self, context: &mut Context<'_>) {
        let waiting: Vec<LogEntry> = self.queue.iter().cloned().collect();
        if waiting.is_empty() {
            return;
        }
        if waiting
            .iter()
            .any(|e| matches!(e.event.body, EventBody::UserMessage { .. }))
        {
            self.run(context);
        }
        for entry in waiting {
            self.process(entry, context);
        }
    }

    /// Puts the session to work, unless it is.
    fn run(&mut self, context: &mut Context<'_>) {
        if self.status == Status::Running {
            return;
        }
        self.emit(EventBody::StatusRunning {}, None, context);
        let body = EventBody::ThreadStatusRunning {
            session_thread_id: self.genesis.thread_id.clone(),
            agent_name: self.agent.name.clone(),
        };
        self.emit(body, None, context);
    }

    /// Puts the session to rest.
    pub(crate) fn rest(&mut self, reason: IdleReason, details: Option<RefusalDetails>, context: &mut Context<'_>) {
        let usage = self.usage_at(context.now);
        self.emit(EventBody::SessionUsage { usage }, None, context);
        let body = EventBody::ThreadStatusIdle {
            session_thread_id: self.genesis.thread_id.clone(),
            agent_name: self.agent.name.clone(),
            stop_reason: reason.clone(),
            stop_details: details.clone(),
        };
        self.emit(body, None, context);
        let body = EventBody::StatusIdle {
            stop_reason: reason,
            stop_details: details,
        };
        self.emit(body, None, context);
    }

    fn turn_end(&self) -> (IdleReason, Option<RefusalDetails>) {
        if self.stop == Some(StopReason::Refusal) {
            return (
                IdleReason::Refusal {},
                Some(refusal_details(self.stop_details.as_ref())),
            );
        }
        (IdleReason::EndTurn {}, None)
    }
}

/// The details of a refusal, as far as the contract knows them.
fn refusal_details(details: Option<&Value>) -> RefusalDetails {
    let field = |name: &str| details.and_then(|d| d.get(name)).cloned().unwrap_or(Value::Null);
    RefusalDetails {
        kind: RefusalKind::Refusal,
        category: serde_json::from_value(field("category")).ok().flatten(),
        explanation: field("explanation").as_str().map(str::to_owned),
    }
}
