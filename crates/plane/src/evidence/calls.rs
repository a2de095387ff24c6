//! The calls of a session that have no result yet: what a record of them has to say.

use std::collections::{HashMap, HashSet};

use outwork_ledger::Hash;
use outwork_wire::event::EvaluatedPermission;
use outwork_wire::id::EventId;
use outwork_wire::log::LogEntry;
use outwork_wire::{ContentBlock, EventBody};
use serde_json::{Map, Value};

/// What is known of a call.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) tool: String,
    /// The MCP server that has the tool.
    pub(super) server: Option<String>,
    pub(super) input: Hash,
    /// What let it through, once something did.
    pub(super) rule: String,
}

/// Calls without a result.
#[derive(Default)]
pub(super) struct Calls(HashMap<EventId, Known>);

impl Calls {
    /// Those that a log leaves open.
    pub(super) fn of_log<'e>(entries: impl Iterator<Item = &'e LogEntry> + Clone) -> Self {
        let answered: HashSet<&EventId> = entries.clone().filter_map(|entry| result(&entry.event.body)).map(|(id, ..)| id).collect();
        let mut calls = Self::default();
        for entry in entries.filter(|entry| !answered.contains(&entry.event.id)) {
            calls.begun(&entry.event.id, &entry.event.body);
        }
        calls
    }

    /// Takes note of a call, if this is one that runs in a sandbox or at an MCP server.
    pub(super) fn begun(&mut self, id: &EventId, body: &EventBody) -> Option<(&Known, EvaluatedPermission)> {
        let (tool, server, input, permission) = match body {
            EventBody::AgentToolUse {
                name,
                input,
                evaluated_permission,
                ..
            } => (name, None, input, evaluated_permission),
            EventBody::AgentMcpToolUse {
                mcp_server_name,
                name,
                input,
                evaluated_permission,
                ..
            } => (name, Some(mcp_server_name.clone()), input, evaluated_permission),
            _ => return None,
        };
        let permission = permission.unwrap_or(EvaluatedPermission::Allow);
        let known = Known {
            tool: tool.clone(),
            server,
            input: input_hash(input),
            rule: match permission {
                EvaluatedPermission::Allow => "always_allow".into(),
                EvaluatedPermission::Ask => "always_ask".into(),
                EvaluatedPermission::Deny => "denied".into(),
            },
        };
        self.0.insert(id.clone(), known);
        self.0.get(id).map(|known| (known, permission))
    }

    pub(super) fn get(&self, id: &EventId) -> Option<&Known> {
        self.0.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &EventId) -> Option<&mut Known> {
        self.0.get_mut(id)
    }

    /// The call has its result.
    pub(super) fn ended(&mut self, id: &EventId) -> Option<Known> {
        self.0.remove(id)
    }
}

/// The call, the content and whether it is an error, of an event that is the result of a call.
pub(super) fn result(body: &EventBody) -> Option<(&EventId, &[ContentBlock], bool)> {
    let (id, content, is_error) = match body {
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
        } => (tool_use_id, content, is_error),
        EventBody::AgentMcpToolResult {
            mcp_tool_use_id,
            content,
            is_error,
        } => (mcp_tool_use_id, content, is_error),
        _ => return None,
    };
    Some((id, content, is_error.unwrap_or(false)))
}

/// The hash of a call's input, as a worker records it too.
pub(super) fn input_hash(input: &Map<String, Value>) -> Hash {
    Hash::of_json(&Value::Object(input.clone()))
}

/// The hash of a call's content, as a worker records it too.
pub(super) fn output_hash(content: &[ContentBlock]) -> Hash {
    Hash::of_json(&serde_json::to_value(content).unwrap_or_default())
}
