//! From the events of a stream to an answer. Pure: no I/O, no clock.
//!
//! The order is checked: `message_start` first, blocks one after the other with ascending indices, deltas only for
//! the open block, `message_delta` after the last block, `message_stop` last. Events of kinds that are not known are
//! passed over, as the API asks of its clients; what is unknown within a block is kept.

use outwork_wire::model::{BlockKind, ModelAnswer, ModelDelta, ModelFailure, ModelUsage, StopReason};
use outwork_wire::sse::SseEvent;
use serde_json::{Map, Value};

use crate::failure::{from_error_event, nonsense};

/// Puts an answer together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    state: State,
    blocks: Vec<Block>,
    usage: ModelUsage,
    stop_reason: Option<StopReason>,
    stop_details: Option<Value>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `message_start`.
    #[default]
    Before,
    /// Between blocks.
    Between,
    /// Within the last block.
    Open,
    /// After `message_delta`.
    Ending,
    /// After `message_stop`.
    Done,
}

#[derive(Debug)]
struct Block {
    fields: Map<String, Value>,
    /// The pieces of a tool's input.
    input_json: String,
    complete: bool,
    /// The input is not JSON, and why.
    broken: Option<String>,
}

impl Block {
    fn kind(&self) -> BlockKind {
        match self.name() {
            "text" => BlockKind::Text,
            "thinking" | "redacted_thinking" => BlockKind::Thinking,
            "tool_use" => BlockKind::ToolUse,
            _ => BlockKind::Other,
        }
    }

    fn name(&self) -> &str {
        self.fields.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn append(&mut self, field: &str, text: &str) {
        match self.fields.get_mut(field) {
            Some(Value::String(so_far)) => so_far.push_str(text),
            _ => {
                self.fields.insert(field.to_owned(), Value::String(text.to_owned()));
            }
        }
    }

    /// Whether the block can stand in an answer that was cut off here.
    fn is_usable(&self) -> bool {
        match self.name() {
            "text" => self.complete || !self.text("text").is_empty(),
            // Thinking without its signature would be refused when it is sent back.
            "thinking" => self.complete && !self.text("signature").is_empty(),
            _ => self.complete && self.broken.is_none(),
        }
    }
}

impl Assembler {
    /// Takes the next event; deltas go to `seen`.
    pub(crate) fn take(&mut self, event: &SseEvent, seen: &mut impl FnMut(ModelDelta)) -> Result<(), ModelFailure> {
        let name = event.event.as_deref();
        if name == Some("ping") || (name.is_none() && event.data.is_empty()) {
            return Ok(());
        }
        if name.is_some_and(|name| !KNOWN.contains(&name)) {
            return Ok(());
        }
        let data: Value = serde_json::from_str(&event.data).map_err(|error| {
            nonsense(format!(
                "the data of event `{}` is not JSON: {error}",
                name.unwrap_or("?")
            ))
        })?;
        let kind = data["type"].as_str().or(name).unwrap_or_default();
        if name.is_some_and(|name| name != kind) {
            return Err(nonsense(format!(
                "event `{}` carries data of type `{kind}`",
                name.unwrap_or_default()
            )));
        }
        match kind {
            "message_start" => self.message_start(&data),
            "content_block_start" => self.block_start(data, seen),
            "content_block_delta" => self.block_delta(&data, seen),
            "content_block_stop" => self.block_stop(&data, seen),
            "message_delta" => self.message_delta(&data),
            "message_stop" => {
                self.expect(State::Ending, kind)?;
                self.state = State::Done;
                Ok(())
            }
            "error" => Err(from_error_event(&data)),
            _ => Ok(()),
        }
    }

    /// Whether `message_stop` was seen.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The whole answer. Call it when it is done.
    pub(crate) fn finish(self) -> Result<ModelAnswer, ModelFailure> {
        // A tool call that was cut off by a limit is no call; anywhere else broken input is the provider's mistake.
        let limited = matches!(
            self.stop_reason,
            Some(StopReason::MaxTokens | StopReason::ModelContextWindowExceeded | StopReason::Refusal)
        );
        let mut content = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            match &block.broken {
                // Its place stays, so that previews keep their positions.
                Some(_) if limited => content.push(Value::Null),
                Some(fault) => {
                    let name = block.text("name");
                    return Err(nonsense(format!("the input of a call of tool `{name}` {fault}")));
                }
                None => content.push(Value::Object(block.fields)),
            }
        }
        let Self {
            stop_reason,
            stop_details,
            usage,
            ..
        } = self;
        Ok(ModelAnswer {
            content,
            stop_reason,
            stop_details,
            usage,
            partial: false,
        })
    }

    /// What there is of the answer when it is cut off now.
    pub(crate) fn finish_early(self) -> ModelAnswer {
        let place = |block: Block| match block.is_usable() {
            true => Value::Object(block.fields),
            false => Value::Null,
        };
        ModelAnswer {
            content: self.blocks.into_iter().map(place).collect(),
            stop_reason: self.stop_reason,
            stop_details: self.stop_details,
            usage: self.usage,
            partial: true,
        }
    }

    fn expect(&self, state: State, event: &str) -> Result<(), ModelFailure> {
        match self.state == state {
            true => Ok(()),
            false => Err(nonsense(format!(
                "event `{event}` comes out of order ({:?})",
                self.state
            ))),
        }
    }

    fn message_start(&mut self, data: &Value) -> Result<(), ModelFailure> {
        self.expect(State::Before, "message_start")?;
        if !data["message"].is_object() {
            return Err(nonsense("`message_start` has no message"));
        }
        if data["message"]["content"]
            .as_array()
            .is_some_and(|content| !content.is_empty())
        {
            return Err(nonsense("`message_start` already has content"));
        }
        self.add_usage(&data["message"]["usage"]);
        self.state = State::Between;
        Ok(())
    }

    fn block_start(&mut self, mut data: Value, seen: &mut impl FnMut(ModelDelta)) -> Result<(), ModelFailure> {
        self.expect(State::Between, "content_block_start")?;
        let index = self.blocks.len();
        if data["index"].as_u64() != Some(index as u64) {
            return Err(nonsense(format!(
                "`content_block_start` has the index {}, not {index}",
                data["index"]
            )));
        }
        let Value::Object(fields) = data["content_block"].take() else {
            return Err(nonsense("`content_block_start` has no content block"));
        };
        let block = Block {
            fields,
            input_json: String::new(),
            complete: false,
            broken: None,
        };
        if block.name().is_empty() {
            return Err(nonsense("a content block has no type"));
        }
        if block.name() == "tool_use" && (block.text("id").is_empty() || block.text("name").is_empty()) {
            return Err(nonsense("a tool call has no id or no name"));
        }
        seen(ModelDelta::BlockStart {
            index,
            kind: block.kind(),
        });
        if block.kind() == BlockKind::Text && !block.text("text").is_empty() {
            seen(ModelDelta::Text {
                index,
                text: block.text("text").to_owned(),
            });
        }
        self.blocks.push(block);
        self.state = State::Open;
        Ok(())
    }

    /// The open block, which must have the index of the event.
    fn open(&mut self, data: &Value, event: &str) -> Result<(usize, &mut Block), ModelFailure> {
        self.expect(State::Open, event)?;
        let index = self.blocks.len().wrapping_sub(1);
        match self.blocks.last_mut() {
            Some(block) if data["index"].as_u64() == Some(index as u64) => Ok((index, block)),
            _ => Err(nonsense(format!(
                "`{event}` has the index {}, but block {index} is open",
                data["index"]
            ))),
        }
    }

    fn block_delta(&mut self, data: &Value, seen: &mut impl FnMut(ModelDelta)) -> Result<(), ModelFailure> {
        let (index, block) = self.open(data, "content_block_delta")?;
        let Some(delta) = data["delta"].as_object() else {
            return Err(nonsense("`content_block_delta` has no delta"));
        };
        let kind = delta.get("type").and_then(Value::as_str).unwrap_or_default();
        let piece = |field: &str| match delta.get(field).and_then(Value::as_str) {
            Some(text) => Ok(text),
            None => Err(nonsense(format!("a `{kind}` has no `{field}`"))),
        };
        let block_is_text = block.name() == "text";
        match (kind, block.name()) {
            ("text_delta", "text") => {
                let text = piece("text")?;
                block.append("text", text);
                if !text.is_empty() {
                    seen(ModelDelta::Text {
                        index,
                        text: text.to_owned(),
                    });
                }
            }
            ("thinking_delta", "thinking") => block.append("thinking", piece("thinking")?),
            ("signature_delta", "thinking") => block.append("signature", piece("signature")?),
            ("input_json_delta", name) if !matches!(name, "text" | "thinking" | "redacted_thinking") => {
                block.input_json.push_str(piece("partial_json")?);
            }
            ("citations_delta", "text") => {
                let citation = delta.get("citation").cloned().unwrap_or_default();
                match block.fields.get_mut("citations") {
                    Some(Value::Array(citations)) => citations.push(citation),
                    _ => {
                        block.fields.insert("citations".into(), Value::Array(vec![citation]));
                    }
                }
            }
            (
                "text_delta" | "thinking_delta" | "signature_delta" | "input_json_delta" | "citations_delta" | "",
                name,
            ) => {
                return Err(nonsense(format!(
                    "a delta of type `{kind}` in a block of type `{name}`"
                )));
            }
            // A delta of a kind that nobody here knows: texts grow, the rest is set.
            _ => {
                // A text that grew unseen would not be what its preview said.
                let shown = |field: &str| field == "text" && block_is_text;
                for (field, value) in delta.iter().filter(|(field, _)| *field != "type" && !shown(field)) {
                    match value.as_str() {
                        Some(text) => block.append(field, text),
                        None => drop(block.fields.insert(field.clone(), value.clone())),
                    }
                }
            }
        }
        Ok(())
    }

    fn block_stop(&mut self, data: &Value, seen: &mut impl FnMut(ModelDelta)) -> Result<(), ModelFailure> {
        let (index, block) = self.open(data, "content_block_stop")?;
        block.complete = true;
        if !block.input_json.trim().is_empty() {
            match serde_json::from_str::<Value>(&block.input_json) {
                Ok(input @ Value::Object(_)) => drop(block.fields.insert("input".into(), input)),
                Ok(_) => block.broken = Some("is not a JSON object".into()),
                Err(error) => block.broken = Some(format!("is not JSON: {error}")),
            }
            block.input_json = String::new();
        } else if block.name() == "tool_use" && !block.fields.get("input").is_some_and(Value::is_object) {
            block.fields.insert("input".into(), Value::Object(Map::new()));
        }
        seen(ModelDelta::BlockStop { index });
        self.state = State::Between;
        Ok(())
    }

    fn message_delta(&mut self, data: &Value) -> Result<(), ModelFailure> {
        // There may be several; each brings the figures so far.
        if self.state != State::Ending {
            self.expect(State::Between, "message_delta")?;
        }
        if !data["delta"].is_object() {
            return Err(nonsense("`message_delta` has no delta"));
        }
        match &data["delta"]["stop_reason"] {
            Value::Null => {}
            reason => {
                let reason = serde_json::from_value(reason.clone())
                    .map_err(|_| nonsense(format!("the stop reason is {reason}, not a text")))?;
                self.stop_reason = Some(reason);
            }
        }
        if let Some(details) = data["delta"].get("stop_details").filter(|details| !details.is_null()) {
            self.stop_details = Some(details.clone());
        }
        self.add_usage(&data["usage"]);
        if self.stop_reason.is_some() {
            self.state = State::Ending;
        }
        Ok(())
    }

    /// The figures of each event replace those before.
    fn add_usage(&mut self, usage: &Value) {
        let set = |figure: &mut u64, value: &Value| {
            if let Some(value) = value.as_u64() {
                *figure = value;
            }
        };
        let own = &mut self.usage;
        set(&mut own.input_tokens, &usage["input_tokens"]);
        set(&mut own.output_tokens, &usage["output_tokens"]);
        set(&mut own.cache_read_input_tokens, &usage["cache_read_input_tokens"]);
        set(
            &mut own.cache_creation_input_tokens,
            &usage["cache_creation_input_tokens"],
        );
        set(
            &mut own.ephemeral_5m_input_tokens,
            &usage["cache_creation"]["ephemeral_5m_input_tokens"],
        );
        set(
            &mut own.ephemeral_1h_input_tokens,
            &usage["cache_creation"]["ephemeral_1h_input_tokens"],
        );
    }
}

const KNOWN: [&str; 7] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
];

#[cfg(test)]
mod tests;
