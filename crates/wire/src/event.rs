//! Session events, with the names, fields and order rules of the contract.
//!
//! [`Event`] is what the log holds and what streams and lists show. [`EventParams`] is what a client may send:
//! its parsing is strict. `processed_at` is null only while an event of a client waits in the queue.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::agent::AgentConfig;
use crate::id::{EventId, ThreadId};
use crate::{ContentBlock, Time};

/// One event of a session's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id; previews of it carry the same.
    pub id: EventId,
    /// When the loop took it up; null while it waits.
    pub processed_at: Option<Time>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum EventBody {
    /// A person, or a program for one, said something.
    #[serde(rename = "user.message")]
    UserMessage {
        /// What was said.
        content: Vec<ContentBlock>,
    },
    /// Stop what runs.
    #[serde(rename = "user.interrupt")]
    UserInterrupt {
        /// Only this thread.
        session_thread_id: Option<ThreadId>,
    },
    /// The answer to a call that asks.
    #[serde(rename = "user.tool_confirmation")]
    UserToolConfirmation {
        /// The call.
        tool_use_id: EventId,
        /// The decision.
        result: Decision,
        /// Why not, for the model.
        deny_message: Option<String>,
        /// The call's thread, unless it is the primary one.
        session_thread_id: Option<ThreadId>,
    },
    /// What a custom tool gave.
    #[serde(rename = "user.custom_tool_result")]
    UserCustomToolResult {
        /// The call.
        custom_tool_use_id: EventId,
        /// The result.
        content: Vec<ContentBlock>,
        /// True if it failed.
        is_error: Option<bool>,
        /// The call's thread, unless it is the primary one.
        session_thread_id: Option<ThreadId>,
    },
    /// What a built-in tool gave, from a worker of a self-hosted environment.
    #[serde(rename = "user.tool_result")]
    UserToolResult {
        /// The call.
        tool_use_id: EventId,
        /// The result.
        content: Vec<ContentBlock>,
        /// True if it failed.
        is_error: Option<bool>,
        /// The call's thread, unless it is the primary one.
        session_thread_id: Option<ThreadId>,
    },
    /// Instructions that are added on the way.
    #[serde(rename = "system.message")]
    SystemMessage {
        /// Text blocks.
        content: Vec<SystemBlock>,
    },
    /// The agent said something.
    #[serde(rename = "agent.message")]
    AgentMessage {
        /// What it said.
        content: Vec<ContentBlock>,
    },
    /// The agent thought; the thought itself is not shown.
    #[serde(rename = "agent.thinking")]
    AgentThinking {},
    /// The agent calls a built-in tool.
    #[serde(rename = "agent.tool_use")]
    AgentToolUse {
        /// The tool.
        name: String,
        /// Its input.
        input: Map<String, Value>,
        /// What the permission policy says.
        evaluated_permission: Option<EvaluatedPermission>,
        /// Which policy said so.
        evaluation: Option<Evaluation>,
        /// The call's thread, unless it is the primary one.
        session_thread_id: Option<ThreadId>,
    },
    /// The agent calls a custom tool.
    #[serde(rename = "agent.custom_tool_use")]
    AgentCustomToolUse {
        /// The tool.
        name: String,
        /// Its input.
        input: Map<String, Value>,
        /// The call's thread, unless it is the primary one.
        session_thread_id: Option<ThreadId>,
    },
    /// What a built-in tool gave, in a cloud environment.
    #[serde(rename = "agent.tool_result")]
    AgentToolResult {
        /// The call.
        tool_use_id: EventId,
        /// The result.
        content: Vec<ContentBlock>,
        /// True if it failed.
        is_error: Option<bool>,
    },
    /// Something went wrong.
    #[serde(rename = "session.error")]
    SessionError {
        /// What.
        error: SessionError,
    },
    /// The session is at work.
    #[serde(rename = "session.status_running")]
    StatusRunning {},
    /// The session waits to try again.
    #[serde(rename = "session.status_rescheduled")]
    StatusRescheduled {},
    /// The session rests.
    #[serde(rename = "session.status_idle")]
    StatusIdle {
        /// Why.
        stop_reason: IdleReason,
        /// Details of a refusal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop_details: Option<RefusalDetails>,
    },
    /// The session is over.
    #[serde(rename = "session.status_terminated")]
    StatusTerminated {},
    /// A thread is at work.
    #[serde(rename = "session.thread_status_running")]
    ThreadStatusRunning {
        /// The thread.
        session_thread_id: ThreadId,
        /// The name of its agent.
        agent_name: String,
    },
    /// A thread waits to try again.
    #[serde(rename = "session.thread_status_rescheduled")]
    ThreadStatusRescheduled {
        /// The thread.
        session_thread_id: ThreadId,
        /// The name of its agent.
        agent_name: String,
    },
    /// A thread rests.
    #[serde(rename = "session.thread_status_idle")]
    ThreadStatusIdle {
        /// The thread.
        session_thread_id: ThreadId,
        /// The name of its agent.
        agent_name: String,
        /// Why.
        stop_reason: IdleReason,
        /// Details of a refusal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop_details: Option<RefusalDetails>,
    },
    /// A thread is over.
    #[serde(rename = "session.thread_status_terminated")]
    ThreadStatusTerminated {
        /// The thread.
        session_thread_id: ThreadId,
        /// The name of its agent.
        agent_name: String,
    },
    /// The session was changed; only changed fields are given.
    #[serde(rename = "session.updated")]
    SessionUpdated {
        /// The new agent configuration.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Box<AgentConfig>>,
        /// The new metadata.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Map<String, Value>>,
        /// The new title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    /// The session was deleted; only open streams see this.
    #[serde(rename = "session.deleted")]
    SessionDeleted {},
    /// What the session has used so far; comes before each idle.
    #[serde(rename = "session.usage")]
    SessionUsage {
        /// The sums.
        usage: UsageSnapshot,
    },
    /// A model request begins.
    #[serde(rename = "span.model_request_start")]
    ModelRequestStart {},
    /// A model request ended.
    #[serde(rename = "span.model_request_end")]
    ModelRequestEnd {
        /// Its beginning.
        model_request_start_id: EventId,
        /// True if it brought no answer.
        is_error: Option<bool>,
        /// What it cost.
        model_usage: SpanUsage,
    },
}

impl EventBody {
    /// The event's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UserMessage { .. } => "user.message",
            Self::UserInterrupt { .. } => "user.interrupt",
            Self::UserToolConfirmation { .. } => "user.tool_confirmation",
            Self::UserCustomToolResult { .. } => "user.custom_tool_result",
            Self::UserToolResult { .. } => "user.tool_result",
            Self::SystemMessage { .. } => "system.message",
            Self::AgentMessage { .. } => "agent.message",
            Self::AgentThinking {} => "agent.thinking",
            Self::AgentToolUse { .. } => "agent.tool_use",
            Self::AgentCustomToolUse { .. } => "agent.custom_tool_use",
            Self::AgentToolResult { .. } => "agent.tool_result",
            Self::SessionError { .. } => "session.error",
            Self::StatusRunning {} => "session.status_running",
            Self::StatusRescheduled {} => "session.status_rescheduled",
            Self::StatusIdle { .. } => "session.status_idle",
            Self::StatusTerminated {} => "session.status_terminated",
            Self::ThreadStatusRunning { .. } => "session.thread_status_running",
            Self::ThreadStatusRescheduled { .. } => "session.thread_status_rescheduled",
            Self::ThreadStatusIdle { .. } => "session.thread_status_idle",
            Self::ThreadStatusTerminated { .. } => "session.thread_status_terminated",
            Self::SessionUpdated { .. } => "session.updated",
            Self::SessionDeleted {} => "session.deleted",
            Self::SessionUsage { .. } => "session.usage",
            Self::ModelRequestStart {} => "span.model_request_start",
            Self::ModelRequestEnd { .. } => "span.model_request_end",
        }
    }

    /// Whether a thread's own log shows it, and not only the session's.
    pub fn belongs_to_thread(&self) -> bool {
        let kind = self.kind();
        !kind.starts_with("session.") || kind.starts_with("session.thread_") || kind == "session.error"
    }
}

/// Every event type of the contract, for filters.
pub const ALL_EVENT_TYPES: &[&str] = &[
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.custom_tool_result",
    "agent.custom_tool_use",
    "agent.message",
    "agent.thinking",
    "agent.mcp_tool_use",
    "agent.mcp_tool_result",
    "agent.tool_use",
    "agent.tool_result",
    "agent.thread_message_received",
    "agent.thread_message_sent",
    "agent.thread_context_compacted",
    "session.error",
    "session.status_rescheduled",
    "session.status_running",
    "session.status_idle",
    "session.status_terminated",
    "session.thread_created",
    "span.outcome_evaluation_start",
    "span.outcome_evaluation_end",
    "span.model_request_start",
    "span.model_request_end",
    "span.outcome_evaluation_ongoing",
    "user.define_outcome",
    "session.deleted",
    "session.thread_status_running",
    "session.thread_status_idle",
    "session.thread_status_terminated",
    "user.tool_result",
    "session.thread_status_rescheduled",
    "session.updated",
    "system.message",
    "session.usage",
    "workflow_run.created",
    "workflow_run.status_running",
    "workflow_run.status_idle",
    "workflow_run.status_ended",
    "workflow_run.error",
    "workflow_run.phase_started",
    "workflow_run.phase_ended",
];

/// A person's decision on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may run.
    Allow,
    /// It may not.
    Deny,
}

/// What the permission policy says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatedPermission {
    /// It runs.
    Allow,
    /// A person is asked.
    Ask,
    /// It does not run.
    Deny,
}

/// Which policy evaluated a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Evaluation {
    /// The policy `always_allow`.
    AlwaysAllow {},
    /// The policy `always_ask`.
    AlwaysAsk {},
}

/// Why a session or a thread rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum IdleReason {
    /// The turn is over.
    EndTurn {},
    /// Somebody must answer these calls.
    RequiresAction {
        /// The calls.
        event_ids: Vec<EventId>,
    },
    /// The model could not be reached.
    RetriesExhausted {},
    /// The model refused.
    Refusal {},
}

/// Details of a refusal, as the model gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDetails {
    /// Always `refusal`.
    #[serde(rename = "type")]
    pub kind: RefusalKind,
    /// The kind of request that was refused.
    pub category: Option<RefusalCategory>,
    /// For a person.
    pub explanation: Option<String>,
}

/// The constant `refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The only value.
    Refusal,
}

/// Kinds of refused requests that the contract knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCategory {
    /// Attacks on computers.
    Cyber,
    /// Biology.
    Bio,
    /// Work on frontier models.
    FrontierLlm,
    /// Taking out the reasoning.
    ReasoningExtraction,
    /// Other harm.
    GeneralHarms,
}

/// An error of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionError {
    /// What kind.
    #[serde(rename = "type")]
    pub kind: SessionErrorKind,
    /// For a person: what was wrong and what to do.
    pub message: String,
    /// Whether it is tried again.
    pub retry_status: RetryStatus,
}

/// Kinds of session errors that the loop can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionErrorKind {
    /// None of the others.
    UnknownError,
    /// The model provider is overloaded.
    ModelOverloadedError,
    /// The model provider limits the rate.
    ModelRateLimitedError,
    /// The model request failed.
    ModelRequestFailedError,
    /// The provider refuses for reasons of payment.
    BillingError,
    /// The agent asked the model too often in one turn.
    ToolUseLimitReachedError,
}

/// Whether an error is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RetryStatus {
    /// Yes, by itself.
    Retrying {},
    /// No more: this turn is over, queued input is dropped.
    Exhausted {},
    /// Never: repeating cannot help.
    Terminal {},
}

/// Tokens of one model request, as its span shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanUsage {
    /// Tokens written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_input_tokens: u64,
    /// Tokens read from no cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// What a session has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageSnapshot {
    /// Tokens read from no cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_input_tokens: u64,
    /// Tokens written to the cache.
    pub cache_creation: CacheCreation,
    /// Seconds at work.
    pub active_seconds: f64,
}

/// Tokens written to the cache, by lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCreation {
    /// Five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// One hour.
    pub ephemeral_1h_input_tokens: u64,
}

/// A block of a `system.message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SystemBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}

/// What a client may send to a session.
///
/// On the wire the type is a field among the others. [`EventParams::from_value`] reads it so that a fault is named
/// with its path, which serde's own reading of such enums loses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub enum EventParams {
    /// See [`EventBody::UserMessage`].
    #[serde(rename = "user.message")]
    UserMessage {
        /// What is said; at least one block.
        content: Vec<ContentBlock>,
    },
    /// See [`EventBody::UserInterrupt`].
    #[serde(rename = "user.interrupt")]
    UserInterrupt {
        /// Only this thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserToolConfirmation`].
    #[serde(rename = "user.tool_confirmation")]
    UserToolConfirmation {
        /// The call.
        tool_use_id: EventId,
        /// The decision.
        result: Decision,
        /// Why not; only with `deny`.
        #[serde(default)]
        deny_message: Option<String>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserCustomToolResult`].
    #[serde(rename = "user.custom_tool_result")]
    UserCustomToolResult {
        /// The call.
        custom_tool_use_id: EventId,
        /// The result.
        #[serde(default)]
        content: Vec<ContentBlock>,
        /// True if it failed.
        #[serde(default)]
        is_error: Option<bool>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserToolResult`].
    #[serde(rename = "user.tool_result")]
    UserToolResult {
        /// The call.
        tool_use_id: EventId,
        /// The result.
        #[serde(default)]
        content: Vec<ContentBlock>,
        /// True if it failed.
        #[serde(default)]
        is_error: Option<bool>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::SystemMessage`].
    #[serde(rename = "system.message")]
    SystemMessage {
        /// 1 to 1000 text blocks.
        content: Vec<SystemBlock>,
    },
}

/// A value that is no event that a client may send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
pub struct InvalidEvent {
    /// Where the fault is, within the event; empty for the event itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl<'de> Deserialize<'de> for EventParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl EventParams {
    /// Reads an event that a client sent.
    pub fn from_value(value: Value) -> Result<Self, InvalidEvent> {
        let fault = |path: &str, message: &str| InvalidEvent {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let Value::Object(mut fields) = value else {
            return Err(fault("", "must be an object"));
        };
        let kind = match fields.shift_remove("type") {
            Some(Value::String(kind)) => kind,
            Some(_) => return Err(fault("type", "must be a string")),
            None => return Err(fault("type", "is required")),
        };
        let mut tagged = Map::new();
        tagged.insert(kind.clone(), Value::Object(fields));
        let mut track = serde_path_to_error::Track::new();
        let reader = serde_path_to_error::Deserializer::new(Value::Object(tagged), &mut track);
        Self::deserialize(reader).map_err(|error: serde_json::Error| {
            let path = track.path().to_string();
            let inner = path.strip_prefix(&kind).unwrap_or(&path).trim_start_matches('.');
            fault(inner, &error.to_string())
        })
    }

    /// The event's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UserMessage { .. } => "user.message",
            Self::UserInterrupt { .. } => "user.interrupt",
            Self::UserToolConfirmation { .. } => "user.tool_confirmation",
            Self::UserCustomToolResult { .. } => "user.custom_tool_result",
            Self::UserToolResult { .. } => "user.tool_result",
            Self::SystemMessage { .. } => "system.message",
        }
    }

    /// The same as a log event.
    pub fn into_body(self) -> EventBody {
        match self {
            Self::UserMessage { content } => EventBody::UserMessage { content },
            Self::UserInterrupt { session_thread_id } => EventBody::UserInterrupt { session_thread_id },
            Self::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                session_thread_id,
            } => EventBody::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                session_thread_id,
            },
            Self::UserCustomToolResult {
                custom_tool_use_id,
                content,
                is_error,
                session_thread_id,
            } => EventBody::UserCustomToolResult {
                custom_tool_use_id,
                content,
                is_error,
                session_thread_id,
            },
            Self::UserToolResult {
                tool_use_id,
                content,
                is_error,
                session_thread_id,
            } => EventBody::UserToolResult {
                tool_use_id,
                content,
                is_error,
                session_thread_id,
            },
            Self::SystemMessage { content } => EventBody::SystemMessage { content },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let event = Event {
            id: EventId::fresh(),
            processed_at: None,
            body: EventBody::UserMessage {
                content: vec![ContentBlock::text("hello")],
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""processed_at":null"#), "{text}");
        assert!(text.contains(r#""type":"user.message""#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn what_a_client_sends_is_parsed_strictly() {
        for (text, name) in [
            (
                r#"{"type":"user.message","content":[],"processed_at":null}"#,
                "processed_at",
            ),
            (r#"{"type":"user.shout"}"#, "user.shout"),
            (
                r#"{"type":"user.tool_confirmation","tool_use_id":"sevt_a","result":"maybe"}"#,
                "maybe",
            ),
            (r#"{"type":"user.tool_result","tool_use_id":"agent_a"}"#, "sevt_"),
        ] {
            let error = serde_json::from_str::<EventParams>(text).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let error = serde_json::from_str::<EventParams>(r#"{"type":"user.message","content":"words"}"#).unwrap_err();
        assert!(error.to_string().starts_with("content: "), "{error}");
    }

    #[test]
    fn every_event_type_that_we_write_is_in_the_contract() {
        for kind in [
            "user.message",
            "session.usage",
            "span.model_request_end",
            "session.deleted",
        ] {
            assert!(ALL_EVENT_TYPES.contains(&kind));
        }
    }
}
