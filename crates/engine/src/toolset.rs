//! The built-in tools as the model sees them, and which of them an agent may call.
//!
//! The input fields are those of `agent_toolset_20260401` in the contract; the descriptions are ours. A built-in
//! tool is offered only if it is enabled. `web_search` and `web_fetch` are never offered: nothing here runs them.

use outwork_wire::agent::{BuiltinTool, McpServer, PermissionPolicy, Tool};
use serde_json::{Value, json};

/// The permission policy of a built-in tool, or `None` if the agent may not call it.
pub fn policy(tools: &[Tool], name: &str) -> Option<PermissionPolicy> {
    let tool = BuiltinTool::sandboxed(name)?;
    tools.iter().find_map(|entry| match entry {
        Tool::AgentToolset {
            configs,
            default_config,
        } => {
            let (enabled, policy) = configs
                .iter()
                .find(|c| c.name == tool)
                .map_or((default_config.enabled, default_config.permission_policy), |c| {
                    (c.enabled, c.permission_policy)
                });
            enabled.then_some(policy)
        }
        Tool::McpToolset { .. } | Tool::Custom(_) => None,
    })
}

/// The policy of a tool of an MCP server, or `None` if the agent may not call it.
pub(crate) fn mcp_policy(tools: &[Tool], server: &str, name: &str) -> Option<PermissionPolicy> {
    tools.iter().find_map(|entry| match entry {
        Tool::McpToolset {
            mcp_server_name,
            configs,
            default_config,
        } if mcp_server_name == server => {
            let (enabled, policy) = configs
                .iter()
                .find(|c| c.name == name)
                .map_or((default_config.enabled, default_config.permission_policy), |c| {
                    (c.enabled, c.permission_policy)
                });
            enabled.then_some(policy)
        }
        Tool::McpToolset { .. } | Tool::AgentToolset { .. } | Tool::Custom(_) => None,
    })
}

/// Checks that toolsets and MCP servers belong together: every toolset names a server, every server has one toolset.
/// The error is a message with the path of the fault.
pub fn check_servers(tools: &[Tool], servers: &[McpServer]) -> Result<(), String> {
    let named = |tool: &Tool| match tool {
        Tool::McpToolset { mcp_server_name, .. } => Some(mcp_server_name.clone()),
        Tool::AgentToolset { .. } | Tool::Custom(_) => None,
    };
    for (index, tool) in tools.iter().enumerate() {
        let Some(name) = named(tool) else { continue };
        if !servers.iter().any(|server| server.name() == name) {
            return Err(format!(
                "tools.{index}.mcp_server_name: mcp_servers has no server `{name}`"
            ));
        }
        if tools[..index].iter().filter_map(named).any(|other| other == name) {
            return Err(format!(
                "tools.{index}.mcp_server_name: `{name}` has two toolsets; put all settings into one"
            ));
        }
    }
    match servers
        .iter()
        .enumerate()
        .find(|(_, server)| !tools.iter().filter_map(named).any(|name| name == server.name()))
    {
        Some((index, server)) => Err(format!(
            "mcp_servers.{index}: no mcp_toolset in tools names the server `{}`",
            server.name()
        )),
        None => Ok(()),
    }
}

/// The tool definitions of a model request, in a fixed order.
pub fn definitions(tools: &[Tool]) -> Vec<Value> {
    let builtin = BuiltinTool::SANDBOXED
        .into_iter()
        .filter(|tool| policy(tools, tool.as_str()).is_some())
        .filter_map(definition);
    let custom = tools.iter().filter_map(|tool| match tool {
        Tool::Custom(custom) => Some(json!({
            "name": custom.name,
            "description": custom.description,
            "input_schema": custom.input_schema,
        })),
        Tool::AgentToolset { .. } | Tool::McpToolset { .. } => None,
    });
    builtin.chain(custom).collect()
}

fn definition(tool: BuiltinTool) -> Option<Value> {
    let (description, properties, required): (&str, Value, &[&str]) = match tool {
        BuiltinTool::Bash => (
            "Runs a command in a bash session that stays open between calls: working directory, variables and background jobs persist. Returns what the command wrote to standard output and standard error, and its exit status if that is not 0. Give `restart: true` alone to begin a fresh session, for example after a timeout.",
            json!({
                "command": { "type": "string", "description": "The command to run." },
                "restart": { "type": "boolean", "description": "Begin a fresh session instead of running a command." },
                "timeout_ms": { "type": "integer", "description": "The longest that the command may take, in milliseconds. Two minutes if not given." },
            }),
            &[],
        ),
        BuiltinTool::Read => (
            "Reads a file. Text comes back as text; pictures and PDF documents come back as such. With `view_range` only these lines are read.",
            json!({
                "file_path": { "type": "string", "description": "The file, absolute or relative to the working directory." },
                "view_range": {
                    "type": "array", "items": { "type": "integer" }, "minItems": 2, "maxItems": 2,
                    "description": "First and last line to read, counted from 1; -1 as the last line means to the end.",
                },
            }),
            &["file_path"],
        ),
        BuiltinTool::Write => (
            "Writes a file, with the folders above it. What the file held before is replaced.",
            json!({
                "file_path": { "type": "string", "description": "The file, absolute or relative to the working directory." },
                "content": { "type": "string", "description": "The whole new content." },
            }),
            &["file_path", "content"],
        ),
        BuiltinTool::Edit => (
            "Replaces text in a file. `old_string` must occur in the file exactly as given, and only once unless `replace_all` is true.",
            json!({
                "file_path": { "type": "string", "description": "The file, absolute or relative to the working directory." },
                "old_string": { "type": "string", "description": "The text to replace." },
                "new_string": { "type": "string", "description": "The text to put in its place." },
                "replace_all": { "type": "boolean", "description": "Replace every occurrence." },
            }),
            &["file_path", "old_string", "new_string"],
        ),
        BuiltinTool::Glob => (
            "Finds files whose path matches a pattern such as `src/**/*.rs`. The newest come first.",
            json!({
                "pattern": { "type": "string", "description": "The glob pattern." },
                "path": { "type": "string", "description": "The folder to search; the working directory if not given." },
            }),
            &["pattern"],
        ),
        BuiltinTool::Grep => (
            "Finds lines that match a regular expression, in a file or in all files below a folder. Each line comes back with its file and line number.",
            json!({
                "pattern": { "type": "string", "description": "The regular expression." },
                "path": { "type": "string", "description": "The file or folder to search; the working directory if not given." },
            }),
            &["pattern"],
        ),
        BuiltinTool::WebFetch | BuiltinTool::WebSearch => return None,
    };
    Some(json!({
        "name": tool.as_str(),
        "description": description,
        "input_schema": { "type": "object", "properties": properties, "required": required },
    }))
}
