//! Session events, with the names, fields and order rules of the contract.
//!
//! [`Event`] is what the log holds and what streams and lists show. [`EventParams`] is what a client may send:
//! its parsing is strict. `processed_at` is null only while an event of a client waits in the queue.

mod params;
mod parts;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use params::{EventParams, InvalidEvent};
pub use parts::{
    CacheCreation, Decision, EvaluatedPermission, Evaluation, IdleReason, RefusalCategory, RefusalDetails, RefusalKind,
    RetryStatus, SessionError, SessionErrorKind, SpanUsage, SystemBlock, UsageSnapshot,
};

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
    /// The agent calls a tool of an MCP server.
    #[serde(rename = "agent.mcp_tool_use")]
    AgentMcpToolUse {
        /// The server, as the agent names it.
        mcp_server_name: String,
        /// The tool, as the server names it.
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
    /// What a tool of an MCP server gave.
    #[serde(rename = "agent.mcp_tool_result")]
    AgentMcpToolResult {
        /// The call.
        mcp_tool_use_id: EventId,
        /// The result.
        content: Vec<ContentBlock>,
        /// True if it failed.
        is_error: Option<bool>,
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
            Self::AgentMcpToolUse { .. } => "agent.mcp_tool_use",
            Self::AgentMcpToolResult { .. } => "agent.mcp_tool_result",
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
