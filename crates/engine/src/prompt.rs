//! The model request that a session's state asks for.
//!
//! Cache breakpoints (at most four in a request): after the tools, after the system prompt, at the end of the
//! conversation, and where the conversation ended one request before, so that the provider finds the longest
//! prefix that it has seen.

use outwork_wire::agent::Speed;
use outwork_wire::model::ModelRequest;
use serde_json::{Map, Value, json};

use crate::mcp::Catalog;
use crate::session::{Message, Role, Session};
use crate::toolset;

/// What every model request of a plane has in common.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptOptions {
    /// The most tokens of one answer.
    pub max_tokens: u32,
    /// Prefixes of model ids that take `thinking: {type: adaptive}`; others get no `thinking`.
    pub adaptive_thinking: Vec<String>,
    /// Whether cache breakpoints are set.
    pub cache: bool,
    /// The most model requests of one turn.
    pub max_turn_requests: u32,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self {
            max_tokens: 32_000,
            adaptive_thinking: [
                "claude-opus-4-6",
                "claude-opus-4-7",
                "claude-opus-4-8",
                "claude-sonnet-4-6",
                "claude-opus-5",
                "claude-sonnet-5",
                "claude-haiku-5",
                "claude-fable-5",
                "rehearsal",
            ]
            .map(str::to_owned)
            .to_vec(),
            cache: true,
            max_turn_requests: 500,
        }
    }
}

impl Session {
    /// The request that carries the whole conversation so far.
    pub(crate) fn model_request(&self, options: &PromptOptions, catalog: Option<&Catalog>) -> ModelRequest {
        let mut system: Vec<Value> = self
            .agent
            .system
            .iter()
            .filter(|text| !text.trim().is_empty())
            .chain(&self.added_system)
            .map(|text| json!({ "type": "text", "text": text }))
            .collect();
        let mut tools = toolset::definitions(&self.agent.tools);
        tools.extend(catalog.into_iter().flat_map(|c| c.definitions(&self.agent.tools)));
        let mut messages: Vec<Value> = self.transcript.iter().map(message).collect();
        if options.cache {
            for block in [tools.last_mut(), system.last_mut()].into_iter().flatten() {
                mark(block);
            }
            mark_messages(&mut messages);
        }
        ModelRequest {
            model: self.agent.model.id.clone(),
            max_tokens: options.max_tokens,
            system,
            tools,
            messages,
            extra: self.model_parameters(options),
        }
    }

    fn model_parameters(&self, options: &PromptOptions) -> Map<String, Value> {
        let model = &self.agent.model;
        let mut extra = Map::new();
        if options
            .adaptive_thinking
            .iter()
            .any(|prefix| model.id.starts_with(prefix.as_str()))
        {
            extra.insert("thinking".into(), json!({ "type": "adaptive" }));
        }
        if let Some(effort) = model.effort {
            extra.insert("output_config".into(), json!({ "effort": effort.as_str() }));
        }
        if model.speed == Some(Speed::Fast) {
            extra.insert("speed".into(), json!("fast"));
        }
        extra
    }
}

fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    json!({ "role": role, "content": message.content })
}

/// Marks the last user message and the one before it.
fn mark_messages(messages: &mut [Value]) {
    messages
        .iter_mut()
        .rev()
        .filter(|m| m["role"] == "user")
        .take(2)
        .for_each(|m| {
            if let Some(block) = m["content"].as_array_mut().and_then(|blocks| blocks.last_mut()) {
                mark(block);
            }
        });
}

fn mark(block: &mut Value) {
    if let Some(fields) = block.as_object_mut() {
        fields.insert("cache_control".into(), json!({ "type": "ephemeral" }));
    }
}
