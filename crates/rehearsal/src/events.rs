//! The answer on the wire: the exact order of events of a stream, or one message object.
//!
//! `message_start`, then for each block `content_block_start`, its deltas and `content_block_stop` (a `ping` after the
//! first start), then `message_delta` with the stop reason and the usage, then `message_stop`.

use serde_json::{Value, json};

use crate::play::{Answer, AnswerBlock};
use crate::scenario::{Pace, StopReason};
use crate::usage::{PromptUsage, tokens};

/// Characters of a delta when the pace names none.
const CHUNK_CHARS: usize = 24;

/// One event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub name: &'static str,
    pub data: Value,
    /// Whether the pace's delay comes before it.
    pub paced: bool,
}

impl Event {
    fn new(name: &'static str, data: Value) -> Self {
        Self {
            name,
            data,
            paced: false,
        }
    }

    /// The bytes on the wire.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        format!("event: {}\ndata: {}\n\n", self.name, self.data).into_bytes()
    }
}

/// What an answer is sent with.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub message_id: String,
    pub model: String,
    pub usage: PromptUsage,
}

/// A `ping` event.
pub(crate) fn ping() -> Event {
    Event::new("ping", json!({"type": "ping"}))
}

/// Cuts an answer where the request's limits end it: at a stop sequence, or after `max_tokens`.
pub(crate) fn limit(answer: &mut Answer, max_tokens: u64, stop_sequences: &[String]) {
    let mut left = max_tokens.saturating_mul(4);
    for index in 0..answer.blocks.len() {
        if let AnswerBlock::Text(text) = &mut answer.blocks[index] {
            let first = stop_sequences
                .iter()
                .filter_map(|stop| text.find(stop).map(|at| (at, stop)))
                .min();
            if let Some((at, stop)) = first {
                text.truncate(at);
                answer.stop_reason = StopReason::StopSequence;
                answer.stop_sequence = Some(stop.clone());
                answer.blocks.truncate(index + 1);
                drop_empty_text(answer);
                return;
            }
        }
        let size = answer.blocks[index].chars();
        if size > left {
            answer.blocks[index].truncate(left);
            answer.blocks.truncate(index + 1);
            answer.stop_reason = StopReason::MaxTokens;
            drop_empty_text(answer);
            return;
        }
        left -= size;
    }
}

fn drop_empty_text(answer: &mut Answer) {
    if matches!(answer.blocks.last(), Some(AnswerBlock::Text(text)) if text.is_empty()) {
        answer.blocks.pop();
    }
}

impl AnswerBlock {
    fn chars(&self) -> u64 {
        let count = match self {
            AnswerBlock::Thinking { text, .. } | AnswerBlock::Text(text) => text.chars().count(),
            AnswerBlock::Redacted { data } => data.len(),
            AnswerBlock::ToolUse { name, input_json, .. } => name.chars().count() + input_json.chars().count(),
            AnswerBlock::Raw(raw) => raw.to_string().chars().count(),
        };
        count as u64
    }

    fn truncate(&mut self, chars: u64) {
        let (text, chars) = match self {
            // Thinking is signed as a whole and stays so.
            AnswerBlock::Thinking { .. } | AnswerBlock::Redacted { .. } | AnswerBlock::Raw(_) => {
                return;
            }
            AnswerBlock::Text(text) => (text, chars),
            AnswerBlock::ToolUse { name, input_json, .. } => {
                let chars = chars.saturating_sub(name.chars().count() as u64);
                (input_json, chars)
            }
        };
        let end = usize::try_from(chars)
            .ok()
            .and_then(|chars| text.char_indices().nth(chars));
        if let Some((end, _)) = end {
            text.truncate(end);
        }
    }

    fn start(&self) -> Value {
        match self {
            AnswerBlock::Thinking { .. } => {
                json!({"type": "thinking", "thinking": "", "signature": ""})
            }
            AnswerBlock::Redacted { data } => json!({"type": "redacted_thinking", "data": data}),
            AnswerBlock::Text(_) => json!({"type": "text", "text": ""}),
            AnswerBlock::ToolUse { id, name, .. } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": {}})
            }
            AnswerBlock::Raw(raw) => raw.clone(),
        }
    }

    fn deltas(&self, chunk_chars: usize) -> Vec<Value> {
        match self {
            AnswerBlock::Thinking { text, signature } => {
                let mut deltas: Vec<Value> = chunks(text, chunk_chars)
                    .map(|chunk| json!({"type": "thinking_delta", "thinking": chunk}))
                    .collect();
                deltas.push(json!({"type": "signature_delta", "signature": signature}));
                deltas
            }
            AnswerBlock::Text(text) => chunks(text, chunk_chars)
                .map(|chunk| json!({"type": "text_delta", "text": chunk}))
                .collect(),
            AnswerBlock::ToolUse { input_json, .. } => {
                let parts = std::iter::once("").chain(chunks(input_json, chunk_chars));
                parts
                    .map(|chunk| json!({"type": "input_json_delta", "partial_json": chunk}))
                    .collect()
            }
            AnswerBlock::Redacted { .. } | AnswerBlock::Raw(_) => Vec::new(),
        }
    }

    fn whole(&self) -> Value {
        match self {
            AnswerBlock::Thinking { text, signature } => {
                json!({"type": "thinking", "thinking": text, "signature": signature})
            }
            AnswerBlock::Text(text) => json!({"type": "text", "text": text}),
            AnswerBlock::ToolUse { id, name, input_json } => {
                let input = serde_json::from_str(input_json).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
            AnswerBlock::Redacted { .. } | AnswerBlock::Raw(_) => self.start(),
        }
    }
}

fn chunks(text: &str, chars: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.char_indices().nth(chars).map_or(rest.len(), |(end, _)| end);
        let (chunk, tail) = rest.split_at(end);
        rest = tail;
        Some(chunk)
    })
}

fn output_tokens(answer: &Answer) -> (u64, u64) {
    let thinking = |block: &&AnswerBlock| matches!(block, AnswerBlock::Thinking { .. } | AnswerBlock::Redacted { .. });
    let all: u64 = answer.blocks.iter().map(AnswerBlock::chars).sum();
    let thought: u64 = answer.blocks.iter().filter(thinking).map(AnswerBlock::chars).sum();
    (tokens(all).max(1), tokens(thought))
}

fn head(envelope: &Envelope, content: Vec<Value>, usage: Value) -> Value {
    json!({
        "id": envelope.message_id,
        "type": "message",
        "role": "assistant",
        "model": envelope.model,
        "content": content,
        "stop_reason": null,
        "stop_sequence": null,
        "stop_details": null,
        "usage": usage,
    })
}

/// The events of a streamed answer.
pub(crate) fn stream(answer: &Answer, envelope: &Envelope, pace: Pace) -> Vec<Event> {
    let chunk_chars = if pace.chunk_chars == 0 {
        CHUNK_CHARS
    } else {
        pace.chunk_chars
    };
    let message = head(envelope, Vec::new(), envelope.usage.to_json(1, 0));
    let mut events = vec![Event::new(
        "message_start",
        json!({"type": "message_start", "message": message}),
    )];
    for (index, block) in answer.blocks.iter().enumerate() {
        let start = json!({"type": "content_block_start", "index": index, "content_block": block.start()});
        events.push(Event::new("content_block_start", start));
        if index == 0 {
            events.push(ping());
        }
        for delta in block.deltas(chunk_chars) {
            let data = json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.push(Event {
                name: "content_block_delta",
                data,
                paced: true,
            });
        }
        events.push(Event::new(
            "content_block_stop",
            json!({"type": "content_block_stop", "index": index}),
        ));
    }
    let (output, thought) = output_tokens(answer);
    let delta = json!({
        "stop_reason": answer.stop_reason.as_str(),
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
    });
    let usage = envelope.usage.to_json(output, thought);
    let data = json!({"type": "message_delta", "delta": delta, "usage": usage});
    events.push(Event::new("message_delta", data));
    events.push(Event::new("message_stop", json!({"type": "message_stop"})));
    events
}

/// The answer as one object.
pub(crate) fn message(answer: &Answer, envelope: &Envelope) -> Value {
    let (output, thought) = output_tokens(answer);
    let content = answer.blocks.iter().map(AnswerBlock::whole).collect();
    let mut message = head(envelope, content, envelope.usage.to_json(output, thought));
    message["stop_reason"] = json!(answer.stop_reason.as_str());
    message["stop_sequence"] = json!(answer.stop_sequence);
    message["stop_details"] = json!(answer.stop_details);
    message
}
