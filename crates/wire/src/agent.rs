//! The resolved configuration of an agent, as a session holds it.
//!
//! These are the response shapes of the contract, with every default filled in. What a client may send is wider
//! (shorthands, absent fields) and is parsed by the plane, beside the route that takes it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::AgentId;

/// The agent of a session: one version, with the session's overrides applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The agent.
    pub id: AgentId,
    /// Always `agent`.
    #[serde(rename = "type")]
    pub kind: AgentKind,
    /// The agent's version, from 1.
    pub version: u64,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its system prompt.
    pub system: Option<String>,
    /// The model that it runs on.
    pub model: ModelConfig,
    /// The tools that it may call.
    pub tools: Vec<Tool>,
    /// The MCP servers whose tools it may call.
    pub mcp_servers: Vec<McpServer>,
    /// Skills; always empty until they are supported.
    pub skills: Vec<Value>,
    /// Who it acts as.
    pub execution_identity: ExecutionIdentity,
    /// Other agents; always null until they are supported.
    pub multiagent: Option<Value>,
}

/// The constant `agent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// The only value.
    Agent,
}

/// A model and how it is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The model's id, as the provider knows it.
    pub id: String,
    /// How much effort it spends.
    pub effort: Option<Effort>,
    /// Where inference may happen; always null until it is supported.
    pub inference_geo: Option<String>,
    /// How fast it answers.
    pub speed: Option<Speed>,
}

/// How much effort a model spends on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effort {
    /// The least.
    Low {},
    /// Some.
    Medium {},
    /// Much.
    High {},
    /// More.
    Xhigh {},
    /// All.
    Max {},
}

impl Effort {
    /// The word that a Messages API request carries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low {} => "low",
            Self::Medium {} => "medium",
            Self::High {} => "high",
            Self::Xhigh {} => "xhigh",
            Self::Max {} => "max",
        }
    }
}

/// How fast a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// As usual.
    Standard,
    /// Faster, at a higher price.
    Fast,
}

/// Who an agent acts as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecutionIdentity {
    /// The service itself.
    ServiceAccount {},
}

/// One entry of an agent's `tools`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Tool {
    /// The built-in tools that run in the sandbox.
    #[serde(rename = "agent_toolset_20260401")]
    AgentToolset {
        /// Settings of single tools.
        configs: Vec<ToolConfig>,
        /// Settings of the others.
        default_config: DefaultToolConfig,
    },
    /// The tools of an MCP server.
    #[serde(rename = "mcp_toolset")]
    McpToolset {
        /// The server's name in `mcp_servers`.
        mcp_server_name: String,
        /// Settings of single tools.
        configs: Vec<McpToolConfig>,
        /// Settings of the others.
        default_config: DefaultToolConfig,
    },
    /// A tool that the client runs.
    #[serde(rename = "custom")]
    Custom(CustomTool),
}

/// An MCP server that an agent connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum McpServer {
    /// One that is reached at a URL.
    Url {
        /// Its name, unique in the agent.
        name: String,
        /// Its endpoint.
        url: String,
    },
}

impl McpServer {
    /// Its name, unique in the agent.
    pub fn name(&self) -> &str {
        let Self::Url { name, .. } = self;
        name
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        let Self::Url { url, .. } = self;
        url
    }
}

/// Settings of one tool of an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpToolConfig {
    /// The tool, as the server names it.
    pub name: String,
    /// Whether the agent may call it.
    pub enabled: bool,
    /// Whether a person is asked first.
    pub permission_policy: PermissionPolicy,
}

/// A tool that the client runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CustomTool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its input; `type` is `object`.
    pub input_schema: Map<String, Value>,
}

/// Settings of one built-in tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolConfig {
    /// The tool; on the wire also its `type`.
    pub name: BuiltinTool,
    /// Same as `name`.
    #[serde(rename = "type")]
    pub kind: BuiltinTool,
    /// Whether the agent may call it.
    pub enabled: bool,
    /// Whether a person is asked first.
    pub permission_policy: PermissionPolicy,
}

/// Settings of the tools that `configs` does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultToolConfig {
    /// Whether the agent may call them.
    pub enabled: bool,
    /// Whether a person is asked first.
    pub permission_policy: PermissionPolicy,
}

/// Whether a person is asked before a tool runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PermissionPolicy {
    /// It runs.
    AlwaysAllow {},
    /// It waits for a `user.tool_confirmation`.
    AlwaysAsk {},
}

/// The tools of `agent_toolset_20260401`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuiltinTool {
    /// A persistent shell.
    Bash,
    /// Reads a file.
    Read,
    /// Writes a file.
    Write,
    /// Replaces text in a file.
    Edit,
    /// Finds files by name.
    Glob,
    /// Finds lines by content.
    Grep,
    /// Fetches a page; not served.
    WebFetch,
    /// Searches the web; not served.
    WebSearch,
}

impl BuiltinTool {
    /// The tools that a sandbox runs.
    pub const SANDBOXED: [Self; 6] = [Self::Bash, Self::Read, Self::Write, Self::Edit, Self::Glob, Self::Grep];

    /// The tool's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Read => "read",
            Self::Write => "write",
            Self::Edit => "edit",
            Self::Glob => "glob",
            Self::Grep => "grep",
            Self::WebFetch => "web_fetch",
            Self::WebSearch => "web_search",
        }
    }

    /// The sandboxed tool of that name.
    pub fn sandboxed(name: &str) -> Option<Self> {
        Self::SANDBOXED.into_iter().find(|t| t.as_str() == name)
    }
}

/// Where a session's tools run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentKind {
    /// On workers that the owner runs; results come as `user.tool_result`.
    SelfHosted,
    /// On the plane's own workers; results come as `agent.tool_result`.
    Cloud,
}
