//! Short ways to make what tests feed a session.

use std::time::Duration;

use outwork_engine::McpTool;
use outwork_wire::agent::{
    AgentConfig, AgentKind, BuiltinTool, CustomTool, DefaultToolConfig, EnvironmentKind, ExecutionIdentity, McpServer,
    McpToolConfig, ModelConfig, PermissionPolicy, Tool, ToolConfig,
};
use outwork_wire::event::{Decision, SystemBlock};
use outwork_wire::id::EventId;
use outwork_wire::log::Genesis;
use outwork_wire::model::{FailureKind, ModelAnswer, ModelFailure, ModelUsage, StopReason};
use outwork_wire::{ContentBlock, EventParams, Time};
use serde_json::{Map, Value, json};

/// The name of the custom tool that [`agent`] has.
pub const CUSTOM: &str = "look_up_order";

/// The event id with that number.
pub fn event_id(number: u64) -> EventId {
    format!("sevt_{number:022}").parse().expect("digits make an id")
}

/// What a session begins with, with the tools of [`agent`].
pub fn genesis(environment: EnvironmentKind) -> Genesis {
    Genesis {
        session_id: "sesn_1".parse().expect("an id"),
        thread_id: "sthr_1".parse().expect("an id"),
        agent: agent(),
        environment,
        title: None,
        metadata: Map::new(),
        created_at: Time::from_micros(1_790_000_000_000_000),
    }
}

/// An agent: every built-in tool runs, but `write` asks and `edit` is disabled; and one custom tool.
pub fn agent() -> AgentConfig {
    AgentConfig {
        id: "agent_1".parse().expect("an id"),
        kind: AgentKind::Agent,
        version: 1,
        name: "tester".into(),
        description: None,
        system: Some("Be brief.".into()),
        model: ModelConfig {
            id: "claude-opus-5-5".into(),
            effort: None,
            inference_geo: None,
            speed: None,
        },
        tools: vec![toolset(), custom_tool()],
        mcp_servers: Vec::new(),
        skills: Vec::new(),
        execution_identity: ExecutionIdentity::ServiceAccount {},
        multiagent: None,
    }
}

/// The toolset of [`agent`].
pub fn toolset() -> Tool {
    let config = |name, enabled, permission_policy| ToolConfig {
        name,
        kind: name,
        enabled,
        permission_policy,
    };
    Tool::AgentToolset {
        configs: vec![
            config(BuiltinTool::Write, true, PermissionPolicy::AlwaysAsk {}),
            config(BuiltinTool::Edit, false, PermissionPolicy::AlwaysAllow {}),
        ],
        default_config: DefaultToolConfig {
            enabled: true,
            permission_policy: PermissionPolicy::AlwaysAllow {},
        },
    }
}

/// A genesis whose agent also has the MCP server `notes`, of whose tools `send` asks and `drop` is off.
pub fn genesis_with_mcp(environment: EnvironmentKind) -> Genesis {
    let mut genesis = genesis(environment);
    genesis.agent.mcp_servers = vec![McpServer::Url {
        name: "notes".into(),
        url: "https://notes.example/mcp".into(),
    }];
    let config = |name: &str, enabled, permission_policy| McpToolConfig {
        name: name.into(),
        enabled,
        permission_policy,
    };
    genesis.agent.tools.push(Tool::McpToolset {
        mcp_server_name: "notes".into(),
        configs: vec![
            config("send", true, PermissionPolicy::AlwaysAsk {}),
            config("drop", false, PermissionPolicy::AlwaysAllow {}),
        ],
        default_config: DefaultToolConfig {
            enabled: true,
            permission_policy: PermissionPolicy::AlwaysAllow {},
        },
    });
    genesis
}

/// The tools of the server `notes`. Only `find` may be called twice.
pub fn notes() -> Vec<McpTool> {
    let tool = |name: &str, repeatable| McpTool {
        server: "notes".into(),
        name: name.into(),
        description: format!("Does {name}."),
        input_schema: serde_json::Map::from_iter([("type".to_owned(), json!("object"))]),
        repeatable,
    };
    vec![
        tool("find", true),
        tool("add", false),
        tool("send", false),
        tool("drop", false),
    ]
}

/// The custom tool of [`agent`].
pub fn custom_tool() -> Tool {
    let Value::Object(input_schema) = json!({"type": "object", "properties": {"order": {"type": "string"}}}) else {
        unreachable!("the literal is an object")
    };
    Tool::Custom(CustomTool {
        name: CUSTOM.into(),
        description: "Looks up an order.".into(),
        input_schema,
    })
}

/// A text block of an answer.
pub fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A thinking block of an answer.
pub fn thinking(text: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": format!("signed:{text}")})
}

/// A call of an answer.
pub fn call(id: &str, name: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": name, "input": {"for": id}})
}

/// An answer.
pub fn answer(content: Vec<Value>, stop_reason: StopReason) -> ModelAnswer {
    ModelAnswer {
        content,
        stop_reason: Some(stop_reason),
        stop_details: None,
        usage: ModelUsage {
            input_tokens: 100,
            output_tokens: 20,
            cache_read_input_tokens: 50,
            cache_creation_input_tokens: 7,
            ephemeral_5m_input_tokens: 4,
            ephemeral_1h_input_tokens: 3,
        },
        partial: false,
    }
}

/// An answer that says something and ends the turn.
pub fn says(words: &str) -> ModelAnswer {
    answer(vec![text(words)], StopReason::EndTurn)
}

/// An answer that makes calls, each given as id and name.
pub fn calls(calls: &[(&str, &str)]) -> ModelAnswer {
    answer(
        calls.iter().map(|(id, name)| call(id, name)).collect(),
        StopReason::ToolUse,
    )
}

/// What there was of an answer when it was cancelled.
pub fn partial(content: Vec<Value>) -> ModelAnswer {
    ModelAnswer {
        stop_reason: None,
        partial: true,
        ..answer(content, StopReason::EndTurn)
    }
}

/// A failure.
pub fn failure(kind: FailureKind) -> ModelFailure {
    ModelFailure {
        kind,
        message: "the provider said no".into(),
        retry_after: None,
    }
}

/// A failure with a wait that the provider asks for.
pub fn failure_after(kind: FailureKind, seconds: u64) -> ModelFailure {
    ModelFailure {
        retry_after: Some(Duration::from_secs(seconds)),
        ..failure(kind)
    }
}

/// A message of a person.
pub fn message(words: &str) -> EventParams {
    EventParams::UserMessage {
        content: vec![ContentBlock::text(words)],
    }
}

/// A system message.
pub fn system(words: &str) -> EventParams {
    EventParams::SystemMessage {
        content: vec![SystemBlock::Text { text: words.into() }],
    }
}

/// An interrupt.
pub fn interrupt() -> EventParams {
    EventParams::UserInterrupt {
        session_thread_id: None,
    }
}

/// A result of a built-in tool.
pub fn tool_result(tool_use_id: EventId, content: Vec<ContentBlock>, is_error: bool) -> EventParams {
    EventParams::UserToolResult {
        tool_use_id,
        content,
        is_error: Some(is_error),
        session_thread_id: None,
    }
}

/// A result of a custom tool.
pub fn custom_result(custom_tool_use_id: EventId, content: Vec<ContentBlock>, is_error: bool) -> EventParams {
    EventParams::UserCustomToolResult {
        custom_tool_use_id,
        content,
        is_error: Some(is_error),
        session_thread_id: None,
    }
}

/// A decision on a call.
pub fn confirmation(tool_use_id: EventId, result: Decision, deny_message: Option<&str>) -> EventParams {
    EventParams::UserToolConfirmation {
        tool_use_id,
        result,
        deny_message: deny_message.map(str::to_owned),
        session_thread_id: None,
    }
}

/// A small picture.
pub fn image() -> ContentBlock {
    ContentBlock::Image {
        source: outwork_wire::content::ImageSource::Base64 {
            data: "aGk=".into(),
            media_type: "image/png".into(),
        },
    }
}
