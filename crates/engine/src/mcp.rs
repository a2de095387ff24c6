//! Tools of MCP servers: what the model sees of them, and the calls that the owner of a session carries out.
//!
//! Which tools a server has is found out when a run begins, so it is no part of the log: it comes with the
//! [`Context`] of an input. What is called is written down whole, so that a call outlives its connection. A call
//! whose owner died may have had its effect: it is repeated only if the server says that this does no harm.

use std::collections::HashSet;

use outwork_wire::agent::{McpServer, Tool};
use outwork_wire::event::{RetryStatus, SessionError, SessionErrorKind};
use outwork_wire::id::EventId;
use outwork_wire::{ContentBlock, EventBody};
use serde_json::{Map, Value, json};

use crate::Context;
use crate::session::{Call, Doer, Session};
use crate::toolset;

/// The longest name of a tool in the Messages API.
const MAX_NAME: usize = 128;

/// A tool that a server offers.
#[derive(Clone, Debug, PartialEq)]
pub struct McpTool {
    /// The server, as the agent names it.
    pub server: String,
    /// The tool, as the server names it.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its input.
    pub input_schema: Map<String, Value>,
    /// Whether the server says that it only reads, or that a repeated call changes nothing more.
    pub repeatable: bool,
}

/// The tools of the servers that a run is connected to, under the names that the model calls them by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    tools: Vec<(String, McpTool)>,
}

impl Catalog {
    /// A catalog of tools. The same tools in the same order always get the same names.
    pub fn new(tools: impl IntoIterator<Item = McpTool>) -> Self {
        let mut names = HashSet::new();
        let tools = tools.into_iter().map(|tool| {
            let plain = model_name(&tool.server, &tool.name);
            let mut name = plain.clone();
            for number in 2.. {
                if names.insert(name.clone()) {
                    break;
                }
                name = with_suffix(&plain, number);
            }
            (name, tool)
        });
        Self { tools: tools.collect() }
    }

    /// The tool that the model calls by a name.
    pub(crate) fn find(&self, name: &str) -> Option<&McpTool> {
        self.tools.iter().find(|(n, _)| n == name).map(|(_, tool)| tool)
    }

    /// The definitions of those tools that the agent may use, in the order of its toolsets.
    pub(crate) fn definitions(&self, tools: &[Tool]) -> Vec<Value> {
        let servers = tools.iter().filter_map(|tool| match tool {
            Tool::McpToolset { mcp_server_name, .. } => Some(mcp_server_name),
            Tool::AgentToolset { .. } | Tool::Custom(_) => None,
        });
        servers
            .flat_map(|server| self.tools.iter().filter(move |(_, tool)| tool.server == *server))
            .filter(|(_, tool)| toolset::mcp_policy(tools, &tool.server, &tool.name).is_some())
            .map(|(name, tool)| {
                json!({
                    "name": name,
                    "description": tool.description,
                    "input_schema": tool.input_schema,
                })
            })
            .collect()
    }
}

/// A call that is to be made at an MCP server.
#[derive(Clone, Debug, PartialEq)]
pub struct McpCall {
    /// The `agent.mcp_tool_use`.
    pub id: EventId,
    /// The server, as the agent names it.
    pub server: String,
    /// The tool, as the server names it.
    pub tool: String,
    /// The arguments.
    pub input: Map<String, Value>,
    /// Whether it may be made twice.
    pub repeatable: bool,
}

/// Why the tools of a server are missing from a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFailure {
    /// The server, as the agent names it.
    pub server: String,
    /// Whether it refused the credential, or there is none for it.
    pub authentication: bool,
    /// For a person: what was wrong and what to do.
    pub message: String,
}

impl Session {
    /// The servers whose tools the agent may call.
    pub fn mcp_servers(&self) -> impl Iterator<Item = &McpServer> {
        self.agent.mcp_servers.iter().filter(|server| {
            let of_server = |tool: &Tool| matches!(tool, Tool::McpToolset { mcp_server_name, .. } if mcp_server_name == server.name());
            self.agent.tools.iter().any(of_server)
        })
    }

    /// Says that servers could not be reached. The run goes on without their tools; the next one tries them again.
    pub fn servers_failed(&mut self, failures: Vec<ServerFailure>, context: &mut Context<'_>) {
        for failure in failures {
            let error = SessionError {
                kind: if failure.authentication {
                    SessionErrorKind::McpAuthenticationFailedError
                } else {
                    SessionErrorKind::McpConnectionFailedError
                },
                message: failure.message,
                retry_status: RetryStatus::Retrying {},
                mcp_server_name: Some(failure.server),
            };
            self.emit(EventBody::SessionError { error }, None, context);
        }
    }

    /// The calls that the owner has to make now.
    pub(crate) fn mcp_calls(&self) -> Vec<McpCall> {
        let of_owner = |call: &Call| match &call.doer {
            Doer::Owner(mcp) if call.is_owners() => Some((**mcp).clone()),
            _ => None,
        };
        self.calls.iter().filter_map(of_owner).collect()
    }

    /// Takes in what a call gave. False, and nothing more, if the call was ended before.
    pub fn mcp_answered(
        &mut self,
        call: &EventId,
        content: Vec<ContentBlock>,
        is_error: bool,
        context: &mut Context<'_>,
    ) -> bool {
        if !self.calls.iter().any(|c| c.event_id == *call && c.is_owners()) {
            return false;
        }
        let body = EventBody::AgentMcpToolResult {
            mcp_tool_use_id: call.clone(),
            content,
            is_error: Some(is_error),
        };
        self.emit(body, None, context);
        true
    }

    /// Ends the calls that an owner before this one may have begun, unless a repetition does no harm.
    pub fn lose_mcp_calls(&mut self, context: &mut Context<'_>) {
        for call in self.mcp_calls() {
            if call.repeatable {
                continue;
            }
            let text = format!(
                "The server was restarted while the call to `{}` of `{}` was under way. Whether it had an effect is not known; find out before it is called again.",
                call.tool, call.server
            );
            self.mcp_answered(&call.id, vec![ContentBlock::text(text)], true, context);
        }
    }
}

/// `mcp__server__tool`, with what the Messages API does not take in names replaced.
fn model_name(server: &str, tool: &str) -> String {
    let plain = |text: &str| -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
    };
    let mut name = format!("mcp__{}__{}", plain(server), plain(tool));
    name.truncate(MAX_NAME);
    name
}

fn with_suffix(name: &str, number: u32) -> String {
    let suffix = format!("_{number}");
    format!("{}{suffix}", &name[..name.len().min(MAX_NAME - suffix.len())])
}
