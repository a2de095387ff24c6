//! Entries of the log as lines of a table: the event's type and the one detail that matters.

use outwork_wire::event::{Decision, IdleReason};
use outwork_wire::id::EventId;
use outwork_wire::log::{LogEntry, Private};
use outwork_wire::{ContentBlock, EventBody};

use super::World;

impl World {
    pub(super) fn line(&self, entry: &LogEntry) -> String {
        let body = &entry.event.body;
        let kind = body.kind();
        let detail = match body {
            EventBody::UserMessage { content } | EventBody::AgentMessage { content } => Some(texts(content)),
            EventBody::UserToolConfirmation {
                tool_use_id, result, ..
            } => Some(format!(
                "{} {}",
                self.model_id(tool_use_id),
                match result {
                    Decision::Allow => "allow",
                    Decision::Deny => "deny",
                }
            )),
            EventBody::UserCustomToolResult {
                custom_tool_use_id: id,
                is_error,
                ..
            }
            | EventBody::UserToolResult {
                tool_use_id: id,
                is_error,
                ..
            }
            | EventBody::AgentToolResult {
                tool_use_id: id,
                is_error,
                ..
            }
            | EventBody::AgentMcpToolResult {
                mcp_tool_use_id: id,
                is_error,
                ..
            } => Some(format!(
                "{} {}",
                self.model_id(id),
                if *is_error == Some(true) { "error" } else { "ok" }
            )),
            EventBody::AgentToolUse {
                name,
                evaluated_permission,
                ..
            } => Some(format!(
                "{} {name} {}",
                self.model_id(&entry.event.id),
                word(&evaluated_permission)
            )),
            EventBody::AgentMcpToolUse {
                mcp_server_name,
                name,
                evaluated_permission,
                ..
            } => Some(format!(
                "{} {mcp_server_name}/{name} {}",
                self.model_id(&entry.event.id),
                word(&evaluated_permission)
            )),
            EventBody::AgentCustomToolUse { name, .. } => Some(format!("{} {name}", self.model_id(&entry.event.id))),
            EventBody::SessionError { error } => Some(format!("{} {}", word(&error.kind), word(&error.retry_status))),
            EventBody::StatusIdle { stop_reason, .. } | EventBody::ThreadStatusIdle { stop_reason, .. } => {
                Some(self.reason(stop_reason))
            }
            EventBody::ModelRequestEnd { is_error, .. } => (*is_error == Some(true)).then(|| "error".to_owned()),
            _ => None,
        };
        let waits = if entry.event.processed_at.is_none() {
            "queued: "
        } else {
            ""
        };
        match detail {
            Some(detail) => format!("{waits}{kind} {detail}"),
            None => format!("{waits}{kind}"),
        }
    }

    fn reason(&self, reason: &IdleReason) -> String {
        match reason {
            IdleReason::RequiresAction { event_ids } => {
                let ids: Vec<String> = event_ids.iter().map(|id| self.model_id(id)).collect();
                format!("requires_action {}", ids.join(","))
            }
            IdleReason::EndTurn {} | IdleReason::RetriesExhausted {} | IdleReason::Refusal {} => word(reason),
        }
    }

    fn model_id(&self, id: &EventId) -> String {
        self.log
            .iter()
            .find_map(|entry| match &entry.private {
                Some(Private::Call { model_tool_use_id, .. }) if entry.event.id == *id => {
                    Some(model_tool_use_id.clone())
                }
                _ => None,
            })
            .unwrap_or_else(|| id.to_string())
    }
}

fn texts(content: &[ContentBlock]) -> String {
    let texts: Vec<&str> = content
        .iter()
        .map(|block| match block {
            ContentBlock::Text { text } => text.as_str(),
            other => other.kind(),
        })
        .collect();
    texts.join("|")
}

/// The word that an enum is on the wire: a string, or the `type` of an object.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).expect("enums of the wire are JSON");
    value
        .get("type")
        .unwrap_or(&value)
        .as_str()
        .expect("enums of the wire have a word")
        .to_owned()
}
