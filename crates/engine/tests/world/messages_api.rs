//! What the real Messages API refuses in a request, as far as a session could get it wrong.

use std::collections::HashSet;

use outwork_wire::model::ModelRequest;
use serde_json::{Value, json};

/// Says what the API would refuse. A request may end with an assistant message only after a paused turn.
pub fn validate(request: &ModelRequest, paused: bool) -> Result<(), String> {
    if request.model.is_empty() || request.max_tokens == 0 {
        return Err("model or max_tokens is missing".into());
    }
    validate_cache(request)?;
    validate_tools(&request.tools)?;
    for block in &request.system {
        if block["type"] != "text" || blank(block) {
            return Err(format!("system: not a text block with text: {block}"));
        }
    }
    if request.messages.first().is_none_or(|m| m["role"] != "user") {
        return Err("messages: the first must be the user's".into());
    }
    if !paused && request.messages.last().is_some_and(|m| m["role"] != "user") {
        return Err("messages: the last must be the user's".into());
    }
    let mut known = HashSet::new();
    for (index, message) in request.messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        let expected = if index % 2 == 0 { "user" } else { "assistant" };
        if role != expected {
            return Err(format!("messages.{index}: role {role} instead of {expected}"));
        }
        let content = content(message);
        if content.is_empty() {
            return Err(format!("messages.{index}: content is empty"));
        }
        match role {
            "user" => {
                let calls = index
                    .checked_sub(1)
                    .map_or_else(Vec::new, |i| call_ids(&request.messages[i]));
                validate_user(content, &calls).map_err(|e| format!("messages.{index}: {e}"))?;
            }
            _ => validate_assistant(content, &mut known).map_err(|e| format!("messages.{index}: {e}"))?,
        }
    }
    if let Some(last) = request.messages.last().filter(|m| m["role"] == "assistant")
        && !call_ids(last).is_empty()
    {
        return Err("messages: calls at the end have no results".into());
    }
    Ok(())
}

/// The blocks of all messages of a role.
pub fn blocks<'r>(request: &'r ModelRequest, role: &'r str) -> impl Iterator<Item = &'r Value> {
    request
        .messages
        .iter()
        .filter(move |m| m["role"] == role)
        .flat_map(content)
}

/// Whether it is a text block.
pub fn is_text(block: &Value) -> bool {
    block["type"] == "text"
}

/// Whether it is a thinking block, redacted or not.
pub fn is_thinking(block: &Value) -> bool {
    block["type"] == "thinking" || block["type"] == "redacted_thinking"
}

/// A message as one line, for tables.
pub fn line(message: &Value) -> String {
    let blocks: Vec<String> = content(message)
        .iter()
        .map(|block| match block["type"].as_str().unwrap_or_default() {
            "text" => format!("{:?}", block["text"].as_str().unwrap_or_default()),
            "tool_use" => format!("call {}", block["id"].as_str().unwrap_or_default()),
            "tool_result" => {
                let inner: Vec<&str> = block["content"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|b| b["text"].as_str().or(b["type"].as_str()).unwrap_or_default())
                    .collect();
                format!(
                    "{} {} {:?}",
                    if block["is_error"] == true { "error" } else { "result" },
                    block["tool_use_id"].as_str().unwrap_or_default(),
                    inner.join("|")
                )
            }
            other => other.to_owned(),
        })
        .collect();
    format!(
        "{}: {}",
        message["role"].as_str().unwrap_or_default(),
        blocks.join(", ")
    )
}

fn validate_cache(request: &ModelRequest) -> Result<(), String> {
    let all = request
        .tools
        .iter()
        .chain(&request.system)
        .chain(request.messages.iter().flat_map(content));
    let marked: Vec<&Value> = all.filter(|b| !b["cache_control"].is_null()).collect();
    if marked.len() > 4 {
        return Err(format!(
            "{} blocks with cache_control, at most 4 are allowed",
            marked.len()
        ));
    }
    for block in marked {
        if block["cache_control"] != json!({"type": "ephemeral"}) || is_thinking(block) {
            return Err(format!("cache_control does not fit: {block}"));
        }
    }
    Ok(())
}

fn validate_tools(tools: &[Value]) -> Result<(), String> {
    let mut names = HashSet::new();
    for tool in tools {
        if !tool["name"]
            .as_str()
            .is_some_and(|name| !name.is_empty() && names.insert(name))
        {
            return Err(format!("tools: a name is missing or not unique: {tool}"));
        }
        if tool["input_schema"]["type"] != "object" || !tool["description"].is_string() {
            return Err(format!("tools: no description or no schema of an object: {tool}"));
        }
    }
    Ok(())
}

fn validate_user(content: &[Value], calls: &[&str]) -> Result<(), String> {
    let results = content.iter().take_while(|b| b["type"] == "tool_result").count();
    let answered: Vec<&str> = content[..results]
        .iter()
        .map(|b| b["tool_use_id"].as_str().unwrap_or_default())
        .collect();
    if answered != calls {
        return Err(format!(
            "the calls {calls:?} must be answered first, found {answered:?}"
        ));
    }
    for block in &content[..results] {
        validate_result(block)?;
    }
    for block in &content[results..] {
        match block["type"].as_str().unwrap_or_default() {
            "text" if blank(block) => return Err("a text block without text".into()),
            "text" | "image" | "document" | "search_result" => {}
            other => {
                return Err(format!("a block {other} in a user message behind the results"));
            }
        }
    }
    Ok(())
}

fn validate_result(block: &Value) -> Result<(), String> {
    let inner = block["content"]
        .as_array()
        .ok_or("a result without a list of content")?;
    for part in inner {
        match part["type"].as_str().unwrap_or_default() {
            "text" if blank(part) => return Err("a text block without text in a result".into()),
            "text" => {}
            "image" | "document" | "search_result" if block["is_error"] != true => {}
            other => {
                return Err(format!(
                    "a block {other} in a result with is_error {}",
                    block["is_error"]
                ));
            }
        }
    }
    Ok(())
}

fn validate_assistant<'m>(content: &'m [Value], known: &mut HashSet<&'m str>) -> Result<(), String> {
    for block in content {
        match block["type"].as_str().unwrap_or_default() {
            "text" if blank(block) => return Err("a text block without text".into()),
            "text" => {}
            "thinking" if !block["signature"].is_string() => {
                return Err("thinking without a signature".into());
            }
            "redacted_thinking" if !block["data"].is_string() => {
                return Err("redacted thinking without data".into());
            }
            "thinking" | "redacted_thinking" => {}
            "tool_use" => {
                let id = block["id"].as_str().unwrap_or_default();
                if id.is_empty() || !known.insert(id) || !block["input"].is_object() {
                    return Err(format!("a call without an id of its own or without an input: {block}"));
                }
            }
            other => return Err(format!("a block {other} in an assistant message")),
        }
    }
    if content.last().is_some_and(is_thinking) {
        return Err("the final block of an assistant message must not be thinking".into());
    }
    Ok(())
}

fn call_ids(message: &Value) -> Vec<&str> {
    content(message)
        .iter()
        .filter(|b| b["type"] == "tool_use")
        .map(|b| b["id"].as_str().unwrap_or_default())
        .collect()
}

fn content(message: &Value) -> &[Value] {
    message["content"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn blank(block: &Value) -> bool {
    block["text"].as_str().is_none_or(|text| text.trim().is_empty())
}
