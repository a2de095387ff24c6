//! Content: the system prompt, the messages and the blocks within them.

use serde_json::{Map, Value};

use super::pairing::Pairing;
use super::{Breakpoints, Checks, only, present, refuse, required};
use crate::error::ApiError;
use crate::play::Thinking;
use crate::seal;

/// Judges the system prompt.
pub(super) fn system(fields: &Map<String, Value>, breakpoints: &mut Breakpoints) -> Checks {
    match present(fields, "system") {
        None | Some(Value::String(_)) => Ok(()),
        Some(Value::Array(blocks)) => {
            for (index, block) in blocks.iter().enumerate() {
                let path = format!("system.{index}");
                let (kind, block) = typed(&path, block)?;
                if kind != "text" {
                    return refuse(&format!("{path}.type"), "Input should be 'text'");
                }
                text_block(&path, block, breakpoints)?;
            }
            Ok(())
        }
        Some(_) => refuse("system", "Input should be a string or a list of text blocks"),
    }
}

/// Judges the messages; says whether the last one is of the assistant.
pub(super) fn messages(
    fields: &Map<String, Value>,
    thinking: Thinking,
    breakpoints: &mut Breakpoints,
) -> Result<bool, ApiError> {
    let Some(messages) = required(fields, "", "messages")?.as_array() else {
        return refuse("messages", "Input should be a valid list");
    };
    if messages.is_empty() {
        return refuse("messages", "at least one message is required");
    }
    let mut pairing = Pairing::default();
    let mut last_role = "";
    let latest_human = messages.iter().rposition(is_human).unwrap_or(0);
    for (index, message) in messages.iter().enumerate() {
        let path = format!("messages.{index}");
        let Some(message) = message.as_object() else {
            return refuse(&path, "Input should be an object");
        };
        only(&path, message, &["role", "content"])?;
        let role = match required(message, &path, "role")?.as_str() {
            Some("user") => "user",
            Some("assistant") => "assistant",
            Some("system") => "system",
            _ => {
                return refuse(
                    &format!("{path}.role"),
                    "Input should be 'user', 'assistant' or 'system'",
                );
            }
        };
        if index == 0 && role != "user" {
            return refuse("messages", "first message must use the \"user\" role");
        }
        let content = required(message, &path, "content")?;
        let blocks = match content {
            Value::String(text) if text.is_empty() => return refuse(&path, EMPTY_CONTENT),
            Value::String(text) if text.trim().is_empty() => return refuse(&path, BLANK_TEXT),
            Value::String(_) => &[][..],
            Value::Array(blocks) if blocks.is_empty() => return refuse(&path, EMPTY_CONTENT),
            Value::Array(blocks) => blocks,
            _ => {
                return refuse(
                    &format!("{path}.content"),
                    "Input should be a string or a list of blocks",
                );
            }
        };
        match role {
            "assistant" => {
                pairing.settle()?;
                let in_tool_use = index > latest_human && thinking != Thinking::Off;
                assistant(&path, blocks, in_tool_use, &mut pairing, breakpoints)?;
            }
            "user" => user(&path, blocks, &mut pairing, breakpoints)?,
            _ => system_message(&path, blocks, last_role, &pairing, breakpoints)?,
        }
        last_role = role;
    }
    pairing.settle()?;
    if last_role == "assistant" && ends_with_blank(messages.last()) {
        return refuse(
            "messages",
            "final assistant content cannot end with trailing whitespace",
        );
    }
    Ok(last_role == "assistant")
}

const EMPTY_CONTENT: &str = "all messages must have non-empty content";
const BLANK_TEXT: &str = "text content blocks must contain non-whitespace text";

fn is_human(message: &Value) -> bool {
    message["role"] == "user"
        && message["content"]
            .as_array()
            .is_none_or(|blocks| blocks.iter().any(|block| block["type"] != "tool_result"))
}

fn ends_with_blank(message: Option<&Value>) -> bool {
    let Some(content) = message.map(|message| &message["content"]) else {
        return false;
    };
    let text = content
        .as_str()
        .or_else(|| content.as_array()?.last()?["text"].as_str());
    text.is_some_and(|text| text.ends_with(char::is_whitespace))
}

fn typed<'a>(path: &str, block: &'a Value) -> Result<(&'a str, &'a Map<String, Value>), ApiError> {
    let Some(fields) = block.as_object() else {
        return refuse(path, "Input should be an object");
    };
    match required(fields, path, "type")?.as_str() {
        Some(kind) => Ok((kind, fields)),
        None => refuse(&format!("{path}.type"), "Input should be a valid string"),
    }
}

fn user(path: &str, blocks: &[Value], pairing: &mut Pairing, breakpoints: &mut Breakpoints) -> Checks {
    let mut other_seen = false;
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content.{index}");
        let (kind, block) = typed(&path, block)?;
        if kind == "tool_result" {
            if other_seen && pairing.is_open() {
                return refuse(
                    &path,
                    "`tool_result` blocks must come first in the content of a user message",
                );
            }
            tool_result(&path, block, pairing, breakpoints)?;
        } else {
            other_seen = true;
            user_block(&path, kind, block, breakpoints)?;
        }
    }
    // The next message must bring all results, so what is open after it stays without.
    pairing.settle()?;
    pairing.end();
    Ok(())
}

fn tool_result(path: &str, block: &Map<String, Value>, pairing: &mut Pairing, breakpoints: &mut Breakpoints) -> Checks {
    let inner = format!("{path}.tool_result");
    only(
        &inner,
        block,
        &["type", "tool_use_id", "content", "is_error", "cache_control"],
    )?;
    let id = required(block, &inner, "tool_use_id")?.as_str().unwrap_or_default();
    if present(block, "is_error").is_some_and(|value| !value.is_boolean()) {
        return refuse(&format!("{inner}.is_error"), "Input should be a valid boolean");
    }
    pairing.result(path, id)?;
    match present(block, "content") {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(blocks)) => {
            for (index, part) in blocks.iter().enumerate() {
                let path = format!("{inner}.content.{index}");
                let (kind, part) = typed(&path, part)?;
                user_block(&path, kind, part, breakpoints)?;
            }
        }
        Some(_) => {
            return refuse(
                &format!("{inner}.content"),
                "Input should be a string or a list of blocks",
            );
        }
    }
    match present(block, "cache_control") {
        Some(control) => breakpoints.count(path, control),
        None => Ok(()),
    }
}

fn user_block(path: &str, kind: &str, block: &Map<String, Value>, breakpoints: &mut Breakpoints) -> Checks {
    match kind {
        "text" => return text_block(path, block, breakpoints),
        "image" => {
            only(path, block, &["type", "source", "cache_control"])?;
            source(path, block, &["image/jpeg", "image/png", "image/gif", "image/webp"])?;
        }
        "document" => {
            only(
                path,
                block,
                &["type", "source", "title", "context", "citations", "cache_control"],
            )?;
            source(path, block, &["application/pdf", "text/plain"])?;
        }
        "search_result" => {
            only(
                path,
                block,
                &["type", "source", "title", "content", "citations", "cache_control"],
            )?;
            required(block, path, "source")?;
            required(block, path, "title")?;
            required(block, path, "content")?;
        }
        other => {
            return refuse(
                path,
                format!(
                    "Input tag '{other}' found using 'type' does not match any of the expected tags of a user message: \
                         'text', 'image', 'document', 'search_result', 'tool_result'"
                ),
            );
        }
    }
    match present(block, "cache_control") {
        Some(control) => breakpoints.count(path, control),
        None => Ok(()),
    }
}

fn source(path: &str, block: &Map<String, Value>, media_types: &[&str]) -> Checks {
    use base64::Engine as _;
    let source = required(block, path, "source")?;
    let path = format!("{path}.source");
    let (kind, source) = typed(&path, source)?;
    match kind {
        "base64" | "text" => {
            let media_type = required(source, &path, "media_type")?.as_str().unwrap_or_default();
            if !media_types.contains(&media_type) {
                let allowed = media_types.join("', '");
                return refuse(
                    &format!("{path}.media_type"),
                    format!("Input should be one of '{allowed}'"),
                );
            }
            let data = required(source, &path, "data")?.as_str().unwrap_or_default();
            if kind == "base64" && base64::engine::general_purpose::STANDARD.decode(data).is_err() {
                return refuse(&format!("{path}.data"), "Input should be valid base64");
            }
        }
        "url" => {
            required(source, &path, "url")?;
        }
        "file" => {
            required(source, &path, "file_id")?;
        }
        "content" => {
            required(source, &path, "content")?;
        }
        other => {
            return refuse(&format!("{path}.type"), format!("'{other}' is no kind of source"));
        }
    }
    Ok(())
}

fn text_block(path: &str, block: &Map<String, Value>, breakpoints: &mut Breakpoints) -> Checks {
    only(path, block, &["type", "text", "citations", "cache_control"])?;
    let Some(text) = required(block, path, "text")?.as_str() else {
        return refuse(&format!("{path}.text"), "Input should be a valid string");
    };
    if let Some(control) = present(block, "cache_control") {
        if text.is_empty() {
            return refuse(path, "cache_control cannot be set for empty text blocks");
        }
        breakpoints.count(path, control)?;
    }
    match text {
        "" => refuse(path, "text content blocks must be non-empty"),
        text if text.trim().is_empty() => refuse(path, BLANK_TEXT),
        _ => Ok(()),
    }
}

fn assistant(
    path: &str,
    blocks: &[Value],
    in_tool_use: bool,
    pairing: &mut Pairing,
    breakpoints: &mut Breakpoints,
) -> Checks {
    let message = path
        .rsplit('.')
        .next()
        .and_then(|index| index.parse().ok())
        .unwrap_or_default();
    pairing.begin(message);
    let mut signatures = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content.{index}");
        let (kind, block) = typed(&path, block)?;
        match kind {
            "text" => text_block(&path, block, breakpoints)?,
            "thinking" => signatures.push(thinking_block(&path, block)?),
            "redacted_thinking" => signatures.push(redacted_block(&path, block)?),
            "tool_use" => {
                let id = tool_use(&path, block, pairing, breakpoints)?;
                if in_tool_use && seal::tool_use_follows(id, &signatures) == Some(false) {
                    return refuse(&path, THINKING_CHANGED);
                }
            }
            "server_tool_use"
            | "web_search_tool_result"
            | "web_fetch_tool_result"
            | "code_execution_tool_result"
            | "bash_code_execution_tool_result"
            | "container_upload"
            | "tool_search_tool_result"
            | "text_editor_code_execution_tool_result"
            | "compaction"
            | "mcp_tool_use"
            | "mcp_tool_result" => {}
            // Kinds that a play made up with `raw`.
            own if own.starts_with("rehearsal_") => {}
            other => {
                return refuse(
                    &path,
                    format!(
                        "Input tag '{other}' found using 'type' does not match any of the expected tags of an \
                             assistant message"
                    ),
                );
            }
        }
    }
    Ok(())
}

const THINKING_CHANGED: &str = "`thinking` or `redacted_thinking` blocks before this `tool_use` were dropped, moved or \
    exchanged. In the latest assistant message these blocks must remain as they were in the original response.";

fn thinking_block(path: &str, block: &Map<String, Value>) -> Result<String, ApiError> {
    let path = format!("{path}.thinking");
    only(&path, block, &["type", "thinking", "signature"])?;
    let text = required(block, &path, "thinking")?.as_str();
    let signature = required(block, &path, "signature")?.as_str();
    match (text, signature) {
        (Some(text), Some(signature)) if seal::thinking_is_intact(text, signature) => Ok(signature.to_owned()),
        (Some(_), Some(_)) => refuse(&path, "Invalid `signature` in `thinking` block"),
        _ => refuse(&path, "`thinking` and `signature` should be valid strings"),
    }
}

fn redacted_block(path: &str, block: &Map<String, Value>) -> Result<String, ApiError> {
    let path = format!("{path}.redacted_thinking");
    only(&path, block, &["type", "data"])?;
    match required(block, &path, "data")?.as_str() {
        Some(data) if seal::redacted_is_intact(data) => Ok(data.to_owned()),
        _ => refuse(&path, "Invalid `data` in `redacted_thinking` block"),
    }
}

fn tool_use<'a>(
    path: &str,
    block: &'a Map<String, Value>,
    pairing: &mut Pairing,
    breakpoints: &mut Breakpoints,
) -> Result<&'a str, ApiError> {
    let inner = format!("{path}.tool_use");
    only(
        &inner,
        block,
        &["type", "id", "name", "input", "cache_control", "caller"],
    )?;
    let id = required(block, &inner, "id")?.as_str().unwrap_or_default();
    let well_formed = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if id.is_empty() || !well_formed {
        return refuse(&format!("{inner}.id"), "String should match pattern '^[a-zA-Z0-9_-]+$'");
    }
    let name = required(block, &inner, "name")?.as_str().unwrap_or_default();
    if name.is_empty() || name.len() > 200 {
        return refuse(&format!("{inner}.name"), "String should have 1 to 200 characters");
    }
    if !required(block, &inner, "input")?.is_object() {
        return refuse(&format!("{inner}.input"), "Input should be an object");
    }
    if let Some(control) = present(block, "cache_control") {
        breakpoints.count(path, control)?;
    }
    pairing.call(path, id)?;
    Ok(id)
}

/// A system message within the conversation: text only, after a user message.
fn system_message(
    path: &str,
    blocks: &[Value],
    last_role: &str,
    pairing: &Pairing,
    breakpoints: &mut Breakpoints,
) -> Checks {
    pairing.settle()?;
    if last_role != "user" {
        return refuse(path, "a system message must follow a user message");
    }
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content.{index}");
        let (kind, block) = typed(&path, block)?;
        if kind != "text" {
            return refuse(&format!("{path}.type"), "Input should be 'text'");
        }
        text_block(&path, block, breakpoints)?;
    }
    Ok(())
}
