//! How each entry of the log changes a session. Nothing else changes one.

use outwork_wire::event::{CacheCreation, Decision, EvaluatedPermission, IdleReason, SystemBlock};
use outwork_wire::id::EventId;
use outwork_wire::log::{LogEntry, Private};
use outwork_wire::model::StopReason;
use outwork_wire::{ContentBlock, EventBody, Time};
use serde_json::{Value, json};

use crate::answer::remembered;
use crate::mcp::McpCall;
use crate::session::{Call, CallState, Doer, FoldError, Message, Role, Session, Status, result_target};

impl Session {
    pub(crate) fn apply(&mut self, entry: &LogEntry) -> Result<(), FoldError> {
        let event = &entry.event;
        let Some(at) = event.processed_at else {
            self.apply_queued(entry)?;
            return Ok(());
        };
        if self.queue.front().is_some_and(|first| first.event.id == event.id) {
            self.queue.pop_front();
        } else {
            self.queue.retain(|queued| queued.event.id != event.id);
        }
        self.last_time = self.last_time.max(at);
        self.updated_at = at;
        match &event.body {
            EventBody::UserMessage { content } => {
                self.unaided = 0;
                self.say(Role::User, content.iter().map(block_for_model).collect());
                self.model_due = true;
            }
            EventBody::SystemMessage { content } => {
                self.added_system
                    .extend(content.iter().map(|SystemBlock::Text { text }| text.clone()));
            }
            EventBody::UserInterrupt { .. } => {
                self.model_due = false;
                self.retry_at = None;
                self.attempts = 0;
            }
            EventBody::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                ..
            } => {
                let call = self.call(tool_use_id, &event.id)?;
                call.state = match result {
                    Decision::Allow => CallState::Open,
                    Decision::Deny => CallState::Denied {
                        message: denied(deny_message.as_deref()),
                    },
                };
                self.confirmed_since_idle = true;
                self.unaided = 0;
                self.settle();
            }
            EventBody::UserToolResult {
                tool_use_id,
                content,
                is_error,
                ..
            }
            | EventBody::AgentToolResult {
                tool_use_id,
                content,
                is_error,
            }
            | EventBody::UserCustomToolResult {
                custom_tool_use_id: tool_use_id,
                content,
                is_error,
                ..
            }
            | EventBody::AgentMcpToolResult {
                mcp_tool_use_id: tool_use_id,
                content,
                is_error,
            } => {
                self.call(tool_use_id, &event.id)?.state = CallState::Done {
                    content: content.clone(),
                    is_error: is_error.unwrap_or(false),
                };
                self.answered.insert(tool_use_id.clone());
                self.unaided = 0;
                self.settle();
            }
            EventBody::AgentMessage { .. } | EventBody::AgentThinking {} => {}
            EventBody::AgentToolUse {
                name,
                evaluated_permission,
                ..
            } => self.add_call(entry, Doer::Worker, evaluated(name, *evaluated_permission))?,
            EventBody::AgentMcpToolUse {
                mcp_server_name,
                name,
                input,
                evaluated_permission,
                ..
            } => {
                let call = McpCall {
                    id: event.id.clone(),
                    server: mcp_server_name.clone(),
                    tool: name.clone(),
                    input: input.clone(),
                    repeatable: matches!(entry.private, Some(Private::Call { repeatable: true, .. })),
                };
                self.add_call(
                    entry,
                    Doer::Owner(Box::new(call)),
                    evaluated(name, *evaluated_permission),
                )?;
            }
            EventBody::AgentCustomToolUse { .. } => self.add_call(entry, Doer::Client, CallState::Open)?,
            EventBody::ModelRequestStart {} => {
                self.open_request = Some(event.id.clone());
                self.model_due = false;
                self.retry_at = None;
                self.requests += 1;
            }
            EventBody::ModelRequestEnd {
                model_request_start_id, ..
            } => self.apply_request_end(entry, model_request_start_id)?,
            // A server that cannot be reached takes its tools from the turn, not the turn itself.
            EventBody::SessionError { error } if error.mcp_server_name.is_some() => {}
            EventBody::SessionError { .. } => match &entry.private {
                Some(Private::Retry { attempt, next_at }) => {
                    self.attempts = *attempt;
                    self.retry_at = *next_at;
                    self.model_due = next_at.is_some();
                    if next_at.is_none() {
                        self.attempts = 0;
                    }
                }
                _ => self.model_due = false,
            },
            EventBody::StatusRunning {} => {
                self.status = Status::Running;
                self.idle_reason = None;
                self.confirmed_since_idle = false;
                self.running_since.get_or_insert(at);
            }
            EventBody::StatusRescheduled {} => {
                self.status = Status::Rescheduling;
                self.stop_clock(at);
            }
            EventBody::StatusIdle { stop_reason, .. } => {
                self.status = Status::Idle;
                self.idle_reason = Some(stop_reason.clone());
                self.confirmed_since_idle = false;
                if !matches!(stop_reason, IdleReason::RequiresAction { .. }) {
                    self.requests = 0;
                    self.unaided = 0;
                }
                self.stop_clock(at);
            }
            EventBody::StatusTerminated {} => {
                self.status = Status::Terminated;
                self.idle_reason = None;
                self.queue.clear();
                self.calls.clear();
                self.model_due = false;
                self.retry_at = None;
                self.stop_clock(at);
            }
            EventBody::SessionUpdated { agent, metadata, title } => {
                if let Some(agent) = agent {
                    self.agent = (**agent).clone();
                }
                if let Some(metadata) = metadata {
                    self.metadata = metadata.clone();
                }
                if let Some(title) = title {
                    self.title = Some(title.clone()).filter(|t| !t.is_empty());
                }
            }
            EventBody::ThreadStatusRunning { .. }
            | EventBody::ThreadStatusIdle { .. }
            | EventBody::ThreadStatusRescheduled { .. }
            | EventBody::ThreadStatusTerminated { .. }
            | EventBody::SessionUsage { .. }
            | EventBody::SessionDeleted {} => {}
        }
        Ok(())
    }

    fn apply_queued(&mut self, entry: &LogEntry) -> Result<(), FoldError> {
        if let Some(call_id) = result_target(&entry.event.body) {
            self.call(call_id, &entry.event.id)?.state = CallState::Queued;
        }
        self.queue.push_back(entry.clone());
        Ok(())
    }

    fn apply_request_end(&mut self, entry: &LogEntry, start: &EventId) -> Result<(), FoldError> {
        if self.open_request.take().as_ref() != Some(start) {
            return Err(FoldError::NoOpenRequest(entry.event.id.clone()));
        }
        self.stop = None;
        self.stop_details = None;
        match &entry.private {
            Some(Private::Answer { answer }) => {
                self.attempts = 0;
                self.unaided += 1;
                self.usage.input_tokens += answer.usage.input_tokens;
                self.usage.output_tokens += answer.usage.output_tokens;
                self.usage.cache_read_input_tokens += answer.usage.cache_read_input_tokens;
                let CacheCreation {
                    ephemeral_5m_input_tokens: five_minutes,
                    ephemeral_1h_input_tokens: one_hour,
                } = &mut self.usage.cache_creation;
                *five_minutes += answer.usage.ephemeral_5m_input_tokens;
                *one_hour += answer.usage.ephemeral_1h_input_tokens;
                let content = remembered(answer);
                if !content.is_empty() {
                    self.say(Role::Assistant, content);
                }
                self.stop = answer.stop_reason.clone();
                self.stop_details = answer.stop_details.clone();
                if answer.stop_reason == Some(StopReason::PauseTurn) {
                    self.model_due = true;
                }
                self.settle();
            }
            // No answer: the request is due again, unless what follows in the log says otherwise.
            _ => self.model_due = true,
        }
        Ok(())
    }

    fn add_call(&mut self, entry: &LogEntry, doer: Doer, state: CallState) -> Result<(), FoldError> {
        let Some(Private::Call { model_tool_use_id, .. }) = &entry.private else {
            return Err(FoldError::NoModelId(entry.event.id.clone()));
        };
        self.calls.push(Call {
            event_id: entry.event.id.clone(),
            model_id: model_tool_use_id.clone(),
            doer,
            state,
        });
        Ok(())
    }

    fn call(&mut self, call_id: &EventId, by: &EventId) -> Result<&mut Call, FoldError> {
        self.calls
            .iter_mut()
            .find(|c| &c.event_id == call_id)
            .ok_or_else(|| FoldError::NoOpenCall(by.clone()))
    }

    /// Hands the results of the latest calls to the model once all of them are there.
    fn settle(&mut self) {
        if self.open_request.is_some() || self.calls.is_empty() || !self.calls.iter().all(Call::settled) {
            return;
        }
        // What a provider refuses inside a failed result follows behind all results.
        let mut behind = Vec::new();
        let mut results: Vec<Value> = std::mem::take(&mut self.calls)
            .into_iter()
            .map(|call| {
                self.answered.insert(call.event_id);
                match call.state {
                    CallState::Done { content, is_error } => {
                        let (inside, outside): (Vec<_>, Vec<_>) = content
                            .iter()
                            .filter(|block| !is_blank(block))
                            .partition(|block| !is_error || matches!(block, ContentBlock::Text { .. }));
                        behind.extend(outside.into_iter().map(block_for_model));
                        json!({
                            "type": "tool_result",
                            "tool_use_id": call.model_id,
                            "content": inside.into_iter().map(block_for_model).collect::<Vec<_>>(),
                            "is_error": is_error,
                        })
                    }
                    CallState::Denied { message } => json!({
                        "type": "tool_result",
                        "tool_use_id": call.model_id,
                        "content": [{ "type": "text", "text": message }],
                        "is_error": true,
                    }),
                    CallState::Asking | CallState::Open | CallState::Queued => {
                        unreachable!("only settled calls are handed over")
                    }
                }
            })
            .collect();
        results.append(&mut behind);
        self.say(Role::User, results);
        self.model_due = true;
    }

    fn say(&mut self, role: Role, content: Vec<Value>) {
        match self.transcript.last_mut() {
            Some(last) if last.role == role => last.content.extend(content),
            _ => self.transcript.push(Message { role, content }),
        }
    }

    fn stop_clock(&mut self, at: Time) {
        if let Some(since) = self.running_since.take() {
            self.usage.active_seconds += at.seconds_since(since).max(0.0);
        }
    }
}

/// The state that a call begins with.
fn evaluated(name: &str, permission: Option<EvaluatedPermission>) -> CallState {
    match permission {
        Some(EvaluatedPermission::Allow) | None => CallState::Open,
        Some(EvaluatedPermission::Ask) => CallState::Asking,
        Some(EvaluatedPermission::Deny) => CallState::Denied {
            message: format!("There is no tool `{name}` that this agent may use."),
        },
    }
}

fn denied(message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => {
            format!("The user did not allow this call: {message}")
        }
        _ => "The user did not allow this call.".to_owned(),
    }
}

/// Text that the Messages API refuses: nothing but white space.
fn is_blank(block: &ContentBlock) -> bool {
    matches!(block, ContentBlock::Text { text } if text.trim().is_empty())
}

/// A block as the Messages API takes it. The shapes are the same but for fields that must be absent when empty.
fn block_for_model(block: &ContentBlock) -> Value {
    serde_json::to_value(block).expect("a content block is plain JSON")
}
