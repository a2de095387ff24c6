//! What the model brings back: its answer becomes events, its failure a retry or the end of the turn.

use std::collections::BTreeMap;

use outwork_wire::agent::PermissionPolicy;
use outwork_wire::event::{EvaluatedPermission, Evaluation, IdleReason, RetryStatus, SessionError, SpanUsage};
use outwork_wire::id::EventId;
use outwork_wire::log::Private;
use outwork_wire::model::{FailureKind, ModelAnswer, ModelFailure, ModelUsage, StopReason};
use outwork_wire::{ContentBlock, EventBody};
use serde_json::{Map, Value};

use crate::retry::{Verdict, error_kind};
use crate::session::Session;
use crate::submit::custom_tool;
use crate::{Context, RetryPolicy, toolset};

/// The event ids that previews of an answer already carry, by the position of the block they began with.
pub type PreviewIds = BTreeMap<usize, EventId>;

impl Session {
    /// Takes in the model's answer to the open request.
    ///
    /// The text of consecutive text blocks becomes one `agent.message`, each thinking block one `agent.thinking`,
    /// each tool call one event. Calls of a partial answer are left out: they were never made.
    pub fn answered(&mut self, mut answer: ModelAnswer, previews: &PreviewIds, context: &mut Context<'_>) {
        let Some(start) = self.open_request.clone() else {
            return;
        };
        let mut message: Option<(usize, Vec<ContentBlock>)> = None;
        for (index, block) in answer.content.iter().enumerate() {
            if kind(block) == "text" {
                if !text(block).is_empty() {
                    let (_, blocks) = message.get_or_insert((index, Vec::new()));
                    blocks.push(ContentBlock::text(text(block)));
                }
                continue;
            }
            self.flush_message(&mut message, previews, context);
            if block.is_null() {
                // Text that was shown can always be used, so what was shown here was thinking.
                if let Some(id) = previews.get(&index) {
                    self.emit_preview(Some(id), EventBody::AgentThinking {}, context);
                }
                continue;
            }
            match kind(block) {
                "thinking" | "redacted_thinking" => {
                    self.emit_preview(previews.get(&index), EventBody::AgentThinking {}, context);
                }
                "tool_use" if !answer.partial => self.emit_call(block, context),
                // Blocks that only the provider understands stay in the conversation without an event.
                _ => {}
            }
        }
        self.flush_message(&mut message, previews, context);
        answer.content.retain(|block| !block.is_null());
        let body = EventBody::ModelRequestEnd {
            model_request_start_id: start,
            is_error: Some(false),
            model_usage: span_usage(&answer.usage),
        };
        self.emit(body, Some(Private::Answer { answer }), context);
    }

    /// Takes in the failure of the open request.
    pub fn failed(&mut self, failure: &ModelFailure, policy: &RetryPolicy, context: &mut Context<'_>) {
        if self.open_request.is_none() {
            return;
        }
        self.end_request_without_answer(context);
        let attempt = self.attempts + 1;
        let verdict = policy.decide(failure, attempt, context.now, context.jitter);
        let (retry_status, next_at) = match verdict {
            Verdict::RetryAt(at) => (RetryStatus::Retrying {}, Some(at)),
            Verdict::Exhausted => (RetryStatus::Exhausted {}, None),
            Verdict::Terminal => (RetryStatus::Terminal {}, None),
        };
        if next_at.is_none() {
            // The turn is dead. What waits is taken up without an answer, so that it is neither lost nor
            // able to start the next turn by itself. Interrupts among it have nothing left to end.
            while let Some(entry) = self.queue.front().cloned() {
                self.process(entry, context);
            }
        }
        let body = EventBody::SessionError {
            error: SessionError {
                kind: error_kind(failure.kind),
                message: failure.message.clone(),
                retry_status,
                mcp_server_name: None,
            },
        };
        self.emit(body, Some(Private::Retry { attempt, next_at }), context);
        match next_at {
            Some(_) => {
                let body = EventBody::ThreadStatusRescheduled {
                    session_thread_id: self.genesis.thread_id.clone(),
                    agent_name: self.agent.name.clone(),
                };
                self.emit(body, None, context);
                self.emit(EventBody::StatusRescheduled {}, None, context);
            }
            None => self.rest(IdleReason::RetriesExhausted {}, None, context),
        }
    }

    /// Ends the open request, if there is one, for a reason that is no failure of the provider: its owner goes
    /// away. The next owner asks again.
    pub fn end_request_without_answer(&mut self, context: &mut Context<'_>) {
        let Some(start) = self.open_request.clone() else {
            return;
        };
        let body = EventBody::ModelRequestEnd {
            model_request_start_id: start,
            is_error: Some(true),
            model_usage: SpanUsage::default(),
        };
        self.emit(body, None, context);
    }

    fn flush_message(
        &mut self,
        message: &mut Option<(usize, Vec<ContentBlock>)>,
        previews: &PreviewIds,
        context: &mut Context<'_>,
    ) {
        if let Some((index, content)) = message.take() {
            self.emit_preview(previews.get(&index), EventBody::AgentMessage { content }, context);
        }
    }

    fn emit_preview(&mut self, id: Option<&EventId>, body: EventBody, context: &mut Context<'_>) {
        match id {
            Some(id) => self.emit_as(id.clone(), body, None, context.now),
            None => self.emit(body, None, context),
        };
    }

    fn emit_call(&mut self, block: &Value, context: &mut Context<'_>) {
        let name = block.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let model_tool_use_id = block.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let input: Map<String, Value> = block
            .get("input")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        let mut repeatable = false;
        let body = if custom_tool(&self.agent.tools, &name).is_some() {
            EventBody::AgentCustomToolUse {
                name,
                input,
                session_thread_id: None,
            }
        } else if let Some(tool) = context.catalog.and_then(|catalog| catalog.find(&name)) {
            repeatable = tool.repeatable;
            let policy = toolset::mcp_policy(&self.agent.tools, &tool.server, &tool.name);
            let (permission, evaluation) = evaluate(policy);
            EventBody::AgentMcpToolUse {
                mcp_server_name: tool.server.clone(),
                name: tool.name.clone(),
                input,
                evaluated_permission: Some(permission),
                evaluation,
                session_thread_id: None,
            }
        } else {
            let (permission, evaluation) = evaluate(toolset::policy(&self.agent.tools, &name));
            EventBody::AgentToolUse {
                name,
                input,
                evaluated_permission: Some(permission),
                evaluation,
                session_thread_id: None,
            }
        };
        let private = Some(Private::Call {
            model_tool_use_id,
            repeatable,
        });
        self.emit(body, private, context);
    }
}

fn evaluate(policy: Option<PermissionPolicy>) -> (EvaluatedPermission, Option<Evaluation>) {
    match policy {
        Some(PermissionPolicy::AlwaysAllow {}) => (EvaluatedPermission::Allow, Some(Evaluation::AlwaysAllow {})),
        Some(PermissionPolicy::AlwaysAsk {}) => (EvaluatedPermission::Ask, Some(Evaluation::AlwaysAsk {})),
        None => (EvaluatedPermission::Deny, None),
    }
}

/// The blocks of an answer that the conversation keeps: what an answer may hold and a request may not is left out.
///
/// That is text without anything but white space, thinking at the end of a message, and of a partial answer all
/// but its text: its calls were never made, and its last thinking block may lack its signature.
pub(crate) fn remembered(answer: &ModelAnswer) -> Vec<Value> {
    let mut content: Vec<Value> = answer
        .content
        .iter()
        .filter(|block| match kind(block) {
            "text" => !text(block).trim().is_empty(),
            _ => !answer.partial,
        })
        .cloned()
        .collect();
    while content
        .last()
        .is_some_and(|block| matches!(kind(block), "thinking" | "redacted_thinking"))
    {
        content.pop();
    }
    content
}

/// Checks that an answer can be taken in: what a provider may get wrong and the stream's reader cannot know.
pub fn validate_answer(answer: &ModelAnswer) -> Result<(), ModelFailure> {
    let mut ids = std::collections::HashSet::new();
    let nonsense = |message: String| ModelFailure {
        kind: FailureKind::Nonsense,
        message: format!("The model's answer cannot be used: {message}."),
        retry_after: None,
    };
    let mut calls = 0;
    for (index, block) in answer.content.iter().enumerate() {
        if block.is_null() {
            continue;
        }
        if kind(block).is_empty() {
            return Err(nonsense(format!("block {index} has no type")));
        }
        if kind(block) == "tool_use" {
            calls += 1;
            let id = block.get("id").and_then(Value::as_str).unwrap_or_default();
            if id.is_empty() || !ids.insert(id) {
                return Err(nonsense(format!(
                    "block {index} is a tool call without an id of its own"
                )));
            }
            if block.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() {
                return Err(nonsense(format!("block {index} is a tool call without a name")));
            }
            if !block.get("input").is_some_and(Value::is_object) {
                return Err(nonsense(format!(
                    "the input of the tool call in block {index} is not an object"
                )));
            }
        }
    }
    if answer.stop_reason == Some(StopReason::ToolUse) && calls == 0 {
        return Err(nonsense("its stop reason is tool_use, but it calls no tool".into()));
    }
    if answer.stop_reason == Some(StopReason::PauseTurn) && answer.content.is_empty() {
        return Err(nonsense("it pauses before it says anything".into()));
    }
    Ok(())
}

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn text(block: &Value) -> &str {
    block.get("text").and_then(Value::as_str).unwrap_or_default()
}

fn span_usage(usage: &ModelUsage) -> SpanUsage {
    SpanUsage {
        cache_creation_input_tokens: usage.cache_creation_input_tokens,
        cache_read_input_tokens: usage.cache_read_input_tokens,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    }
}
