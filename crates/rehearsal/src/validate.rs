//! Judges a request as the Messages API does: what it refuses, it refuses with the fault named by its path.
//!
//! The rules come from the public documentation of the Messages API and from its error messages. Beyond the shape
//! of single fields they cover what a loop gets wrong: the pairing of tool calls and results, thinking that was
//! altered or dropped while a tool is in use, empty texts, cache breakpoints.

mod content;
mod pairing;

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::play::Thinking;

/// At most so many cache breakpoints.
const CACHE_BREAKPOINTS: usize = 4;
/// Most output tokens of a rehearsal model.
pub(crate) const MAX_OUTPUT_TOKENS: u64 = 64_000;

const FIELDS: [&str; 24] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "metadata",
    "service_tier",
    "thinking",
    "output_config",
    "container",
    "context_management",
    "mcp_servers",
    "cache_control",
    "inference_geo",
    "speed",
    "diagnostics",
    "compaction",
    "fallbacks",
];
/// Fields that the service knows and a rehearsal model has no play for.
const UNPLAYED: [&str; 6] = [
    "container",
    "context_management",
    "mcp_servers",
    "diagnostics",
    "compaction",
    "fallbacks",
];

/// What the validation learned on its way.
#[derive(Debug)]
pub(crate) struct Checked {
    pub model: String,
    pub max_tokens: u64,
    pub stream: bool,
    pub thinking: Thinking,
    pub stop_sequences: Vec<String>,
    /// The last message is one of the assistant, which only a paused turn may send.
    pub ends_with_assistant: bool,
}

/// Whether the request is for an answer or for its size only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Answer,
    CountTokens,
}

type Checks = Result<(), ApiError>;

fn refuse<T>(path: &str, fault: impl std::fmt::Display) -> Result<T, ApiError> {
    Err(ApiError::invalid(format!("{path}: {fault}")))
}

/// Judges the body of a request.
pub(crate) fn request(body: &Value, purpose: Purpose) -> Result<Checked, ApiError> {
    let Some(fields) = body.as_object() else {
        return refuse("body", "Input should be an object");
    };
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return refuse(unknown, "Extra inputs are not permitted");
    }
    if let Some(unplayed) = UNPLAYED
        .iter()
        .find(|key| fields.get(**key).is_some_and(|value| !value.is_null()))
    {
        return refuse(unplayed, "a rehearsal model does not support this field; leave it out");
    }
    let Some(model) = required(fields, "", "model")?
        .as_str()
        .filter(|model| !model.is_empty())
    else {
        return refuse("model", "Input should be a valid string");
    };
    let max_tokens = match purpose {
        Purpose::CountTokens => MAX_OUTPUT_TOKENS,
        Purpose::Answer => max_tokens(fields, model)?,
    };
    let stream = optional_bool(fields, "stream")?;
    let thinking = thinking(fields, max_tokens)?;
    sampling(fields, thinking)?;
    let stop_sequences = stop_sequences(fields)?;
    metadata(fields)?;
    let mut breakpoints = Breakpoints::default();
    tools(fields, &mut breakpoints)?;
    tool_choice(fields, thinking)?;
    content::system(fields, &mut breakpoints)?;
    let ends_with_assistant = content::messages(fields, thinking, &mut breakpoints)?;
    if let Some(control) = present(fields, "cache_control") {
        breakpoints.count("cache_control", control)?;
    }
    breakpoints.check()?;
    Ok(Checked {
        model: model.to_owned(),
        max_tokens,
        stream,
        thinking,
        stop_sequences,
        ends_with_assistant,
    })
}

fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn required<'a>(fields: &'a Map<String, Value>, path: &str, name: &str) -> Result<&'a Value, ApiError> {
    let dot = if path.is_empty() { "" } else { "." };
    fields
        .get(name)
        .ok_or_else(|| ApiError::invalid(format!("{path}{dot}{name}: Field required")))
}

fn optional_bool(fields: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => refuse(name, "Input should be a valid boolean"),
    }
}

/// Refuses keys that the object does not have.
fn only(path: &str, fields: &Map<String, Value>, known: &[&str]) -> Checks {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => refuse(&format!("{path}.{unknown}"), "Extra inputs are not permitted"),
        None => Ok(()),
    }
}

fn max_tokens(fields: &Map<String, Value>, model: &str) -> Result<u64, ApiError> {
    let Some(max_tokens) = required(fields, "", "max_tokens")?.as_i64() else {
        return refuse("max_tokens", "Input should be a valid integer");
    };
    match u64::try_from(max_tokens) {
        Ok(0) | Err(_) => refuse("max_tokens", "Input should be greater than or equal to 1"),
        Ok(max_tokens) if max_tokens > MAX_OUTPUT_TOKENS => refuse(
            "max_tokens",
            format!(
                "{max_tokens} > {MAX_OUTPUT_TOKENS}, which is the maximum allowed number of output tokens for {model}"
            ),
        ),
        Ok(max_tokens) => Ok(max_tokens),
    }
}

fn thinking(fields: &Map<String, Value>, max_tokens: u64) -> Result<Thinking, ApiError> {
    let Some(config) = present(fields, "thinking") else {
        return Ok(Thinking::Off);
    };
    let Some(config) = config.as_object() else {
        return refuse("thinking", "Input should be an object");
    };
    let shown = match present(config, "display").map(Value::as_str) {
        None | Some(Some("summarized")) => Thinking::Shown,
        Some(Some("omitted")) => Thinking::Omitted,
        Some(_) => {
            return refuse("thinking.display", "Input should be 'summarized' or 'omitted'");
        }
    };
    match required(config, "thinking", "type")?.as_str() {
        Some("disabled") => only("thinking.disabled", config, &["type"]).map(|()| Thinking::Off),
        Some("between_tools") => only("thinking.between_tools", config, &["type"]).map(|()| Thinking::Shown),
        Some("adaptive") => only("thinking.adaptive", config, &["type", "display"]).map(|()| shown),
        Some("enabled") => {
            only("thinking.enabled", config, &["type", "display", "budget_tokens"])?;
            match required(config, "thinking.enabled", "budget_tokens")?.as_u64() {
                None => refuse("thinking.enabled.budget_tokens", "Input should be a valid integer"),
                Some(..1024) => refuse(
                    "thinking.enabled.budget_tokens",
                    "Input should be greater than or equal to 1024",
                ),
                Some(budget) if budget >= max_tokens => Err(ApiError::invalid(
                    "`max_tokens` must be greater than `thinking.budget_tokens`",
                )),
                Some(_) => Ok(shown),
            }
        }
        _ => refuse(
            "thinking.type",
            "Input should be 'enabled', 'disabled', 'adaptive' or 'between_tools'",
        ),
    }
}

fn sampling(fields: &Map<String, Value>, thinking: Thinking) -> Checks {
    for name in ["temperature", "top_p"] {
        match present(fields, name).map(Value::as_f64) {
            None => {}
            Some(Some(value)) if name == "temperature" && thinking != Thinking::Off && value != 1.0 => {
                return refuse(name, "may only be set to 1 when thinking is enabled");
            }
            Some(Some(0.0..=1.0)) => {}
            Some(_) => return refuse(name, "Input should be a number from 0 to 1"),
        }
    }
    match present(fields, "top_k") {
        Some(_) if thinking != Thinking::Off => refuse("top_k", "may not be set when thinking is enabled"),
        Some(value) if value.as_u64().is_none() => refuse("top_k", "Input should be a valid integer"),
        _ => Ok(()),
    }
}

fn stop_sequences(fields: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let Some(list) = present(fields, "stop_sequences") else {
        return Ok(Vec::new());
    };
    let Some(list) = list.as_array() else {
        return refuse("stop_sequences", "Input should be a valid list");
    };
    list.iter()
        .enumerate()
        .map(|(index, sequence)| match sequence.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            Some(_) => refuse(
                &format!("stop_sequences.{index}"),
                "each stop sequence must contain non-whitespace",
            ),
            None => refuse(&format!("stop_sequences.{index}"), "Input should be a valid string"),
        })
        .collect()
}

fn metadata(fields: &Map<String, Value>) -> Checks {
    match present(fields, "metadata") {
        None => {}
        Some(Value::Object(metadata)) => {
            only("metadata", metadata, &["user_id"])?;
            if present(metadata, "user_id").is_some_and(|id| !id.is_string()) {
                return refuse("metadata.user_id", "Input should be a valid string");
            }
        }
        Some(_) => return refuse("metadata", "Input should be an object"),
    }
    for (name, values) in [
        ("service_tier", &["auto", "standard_only"][..]),
        ("speed", &["standard", "fast"][..]),
    ] {
        if present(fields, name).is_some_and(|value| !value.as_str().is_some_and(|text| values.contains(&text))) {
            return refuse(name, format!("Input should be one of '{}'", values.join("', '")));
        }
    }
    match present(fields, "output_config") {
        None => Ok(()),
        Some(Value::Object(config)) => {
            only("output_config", config, &["effort", "format"])?;
            let efforts = ["low", "medium", "high", "xhigh", "max"];
            match present(config, "effort").map(Value::as_str) {
                Some(effort) if !effort.is_some_and(|effort| efforts.contains(&effort)) => refuse(
                    "output_config.effort",
                    format!("Input should be one of '{}'", efforts.join("', '")),
                ),
                _ => Ok(()),
            }
        }
        Some(_) => refuse("output_config", "Input should be an object"),
    }
}

fn tools(fields: &Map<String, Value>, breakpoints: &mut Breakpoints) -> Checks {
    let Some(tools) = present(fields, "tools") else {
        return Ok(());
    };
    let Some(tools) = tools.as_array() else {
        return refuse("tools", "Input should be a valid list");
    };
    let mut names = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools.{index}");
        let Some(tool) = tool.as_object() else {
            return refuse(&path, "Input should be an object");
        };
        match present(tool, "type").map(Value::as_str) {
            None | Some(Some("custom")) => custom_tool(&format!("{path}.custom"), tool)?,
            Some(Some(kind)) => {
                return refuse(
                    &path,
                    format!("a rehearsal model has no tool of type '{kind}', only 'custom'"),
                );
            }
            Some(None) => return refuse(&format!("{path}.type"), "Input should be a valid string"),
        }
        if let Some(name) = tool.get("name").and_then(Value::as_str)
            && !names.insert(name)
        {
            return Err(ApiError::invalid(format!(
                "tools: Tool names must be unique. `{name}` occurs twice."
            )));
        }
        if let Some(control) = present(tool, "cache_control") {
            breakpoints.count(&path, control)?;
        }
    }
    Ok(())
}

fn custom_tool(path: &str, tool: &Map<String, Value>) -> Checks {
    let known = [
        "type",
        "name",
        "description",
        "input_schema",
        "cache_control",
        "strict",
        "defer_loading",
        "allowed_callers",
        "eager_input_streaming",
        "input_examples",
    ];
    only(path, tool, &known)?;
    let name = required(tool, path, "name")?.as_str().unwrap_or_default();
    let well_formed = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if name.is_empty() || name.len() > 128 || !well_formed {
        return refuse(
            &format!("{path}.name"),
            "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        );
    }
    if present(tool, "description").is_some_and(|text| !text.is_string()) {
        return refuse(&format!("{path}.description"), "Input should be a valid string");
    }
    let Some(schema) = required(tool, path, "input_schema")?.as_object() else {
        return refuse(&format!("{path}.input_schema"), "Input should be an object");
    };
    let path = format!("{path}.input_schema");
    if required(schema, &path, "type")? != "object" {
        return refuse(&format!("{path}.type"), "Input should be 'object'");
    }
    for keyword in ["oneOf", "anyOf", "allOf"] {
        if schema.contains_key(keyword) {
            return refuse(
                &path,
                format!("input_schema does not support {keyword} at the top level"),
            );
        }
    }
    if present(schema, "properties").is_some_and(|properties| !properties.is_object()) {
        return refuse(&format!("{path}.properties"), "Input should be an object");
    }
    Ok(())
}

fn tool_choice(fields: &Map<String, Value>, thinking: Thinking) -> Checks {
    let Some(choice) = present(fields, "tool_choice") else {
        return Ok(());
    };
    let Some(choice) = choice.as_object() else {
        return refuse("tool_choice", "Input should be an object");
    };
    only("tool_choice", choice, &["type", "name", "disable_parallel_tool_use"])?;
    let tools = fields
        .get("tools")
        .and_then(Value::as_array)
        .filter(|tools| !tools.is_empty());
    let Some(tools) = tools else {
        return refuse("tool_choice", "may only be specified while providing tools");
    };
    match required(choice, "tool_choice", "type")?.as_str() {
        Some("auto" | "none") => Ok(()),
        Some("any" | "tool") if thinking != Thinking::Off => Err(ApiError::invalid(
            "Thinking may not be enabled when tool_choice forces tool use.",
        )),
        Some("any") => Ok(()),
        Some("tool") => {
            let name = required(choice, "tool_choice.tool", "name")?;
            match tools.iter().any(|tool| &tool["name"] == name) {
                true => Ok(()),
                false => Err(ApiError::invalid(format!("Tool {name} not found in provided tools"))),
            }
        }
        _ => refuse("tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'"),
    }
}

/// Counts cache breakpoints, in the order of the prompt: tools, system, messages.
#[derive(Debug, Default)]
struct Breakpoints {
    found: usize,
    short_lived: bool,
}

impl Breakpoints {
    fn count(&mut self, path: &str, control: &Value) -> Checks {
        let path = format!("{path}.cache_control");
        let Some(control) = control.as_object() else {
            return refuse(&path, "Input should be an object");
        };
        only(&path, control, &["type", "ttl"])?;
        if required(control, &path, "type")? != "ephemeral" {
            return refuse(&format!("{path}.type"), "Input should be 'ephemeral'");
        }
        match present(control, "ttl").map(Value::as_str) {
            None | Some(Some("5m")) => self.short_lived = true,
            Some(Some("1h")) if self.short_lived => {
                return refuse(
                    &format!("{path}.ttl"),
                    "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. \
                     Blocks are processed in the order `tools`, `system`, `messages`.",
                );
            }
            Some(Some("1h")) => {}
            Some(_) => return refuse(&format!("{path}.ttl"), "Input should be '5m' or '1h'"),
        }
        self.found += 1;
        Ok(())
    }

    fn check(&self) -> Checks {
        match self.found > CACHE_BREAKPOINTS {
            true => Err(ApiError::invalid(format!(
                "A maximum of {CACHE_BREAKPOINTS} blocks with cache_control may be provided. Found {}.",
                self.found
            ))),
            false => Ok(()),
        }
    }
}
