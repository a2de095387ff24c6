//! Usage figures: a token is four characters, and the prompt cache remembers prefixes as the service does.
//!
//! A cache breakpoint writes the prefix up to its block. A later request reads the longest remembered prefix that
//! ends at one of its breakpoints or at most twenty blocks before one. An entry lives for its ttl from the last
//! use. Unlike the service there is no smallest prefix, so that short tests see the cache at work.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Blocks before a breakpoint that are tried for a remembered prefix.
const LOOKBACK: usize = 20;
/// Remembered prefixes; the oldest are forgotten first.
const REMEMBERED: usize = 20_000;
/// What an image or a document counts.
const MEDIA_CHARS: u64 = 6_000;

/// Remembered prefixes.
#[derive(Debug, Default)]
pub(crate) struct PromptCache {
    entries: Mutex<HashMap<[u8; 32], Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: Instant,
    ttl: Duration,
}

/// What a prompt costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PromptUsage {
    pub uncached: u64,
    pub cache_read: u64,
    pub created_5m: u64,
    pub created_1h: u64,
}

/// A block of the prompt.
struct Part {
    /// Digest of everything up to and including this block.
    prefix: [u8; 32],
    /// Characters up to and including this block.
    chars: u64,
    breakpoint: Option<Duration>,
}

const FIVE_MINUTES: Duration = Duration::from_secs(300);
const ONE_HOUR: Duration = Duration::from_secs(3600);

/// Tokens of so many characters.
pub(crate) fn tokens(chars: u64) -> u64 {
    chars.div_ceil(4)
}

/// Tokens of the whole prompt.
pub(crate) fn prompt_tokens(request: &Value) -> u64 {
    parts(request).last().map_or(0, |part| tokens(part.chars))
}

impl PromptCache {
    /// Counts a prompt and remembers its prefixes.
    pub(crate) fn charge(&self, request: &Value, now: Instant) -> PromptUsage {
        let parts = parts(request);
        let total = parts.last().map_or(0, |part| tokens(part.chars));
        let breakpoints: Vec<usize> = (0..parts.len())
            .filter(|index| parts[*index].breakpoint.is_some())
            .collect();
        let Some(&last) = breakpoints.last() else {
            return PromptUsage {
                uncached: total,
                ..PromptUsage::default()
            };
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |index: &usize| {
            entries
                .get(&parts[*index].prefix)
                .is_some_and(|entry| entry.until > now)
        };
        let hit = breakpoints
            .iter()
            .flat_map(|point| (point.saturating_sub(LOOKBACK - 1)..=*point).rev())
            .filter(known)
            .max();
        let read = hit.map_or(0, |index| tokens(parts[index].chars));
        if let Some(entry) = hit.and_then(|index| entries.get_mut(&parts[index].prefix)) {
            entry.until = now + entry.ttl;
        }
        let mut usage = PromptUsage {
            cache_read: read,
            ..PromptUsage::default()
        };
        let mut counted = read;
        for index in breakpoints {
            let part = &parts[index];
            let ttl = part.breakpoint.unwrap_or(FIVE_MINUTES);
            let until = tokens(part.chars);
            if until > counted {
                let created = if ttl == ONE_HOUR {
                    &mut usage.created_1h
                } else {
                    &mut usage.created_5m
                };
                *created += until - counted;
                counted = until;
            }
            entries.insert(part.prefix, Entry { until: now + ttl, ttl });
        }
        if entries.len() > REMEMBERED {
            entries.retain(|_, entry| entry.until > now);
            while entries.len() > REMEMBERED {
                let Some(oldest) = entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| *key) else {
                    break;
                };
                entries.remove(&oldest);
            }
        }
        usage.uncached = total - tokens(parts[last].chars).max(read).min(total);
        usage
    }
}

impl PromptUsage {
    /// The usage object of an answer.
    pub(crate) fn to_json(self, output_tokens: u64, thinking_tokens: u64) -> Value {
        json!({
            "input_tokens": self.uncached,
            "cache_creation_input_tokens": self.created_5m + self.created_1h,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.created_5m,
                "ephemeral_1h_input_tokens": self.created_1h,
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": thinking_tokens},
            "service_tier": "standard",
        })
    }
}

/// The blocks of a prompt in the order of the cache: tools, system, messages.
fn parts(request: &Value) -> Vec<Part> {
    let mut digest = Sha256::new();
    digest.update(request["model"].as_str().unwrap_or_default());
    let mut walk = Walk {
        digest,
        chars: 0,
        parts: Vec::new(),
    };
    for tool in request["tools"].as_array().into_iter().flatten() {
        walk.add("tool", tool);
    }
    walk.content("system", &request["system"]);
    for message in request["messages"].as_array().into_iter().flatten() {
        walk.content(message["role"].as_str().unwrap_or_default(), &message["content"]);
    }
    // The breakpoint of the request as a whole stands at its last block.
    if let (Some(ttl), Some(part)) = (breakpoint(request), walk.parts.last_mut()) {
        part.breakpoint.get_or_insert(ttl);
    }
    walk.parts
}

struct Walk {
    digest: Sha256,
    chars: u64,
    parts: Vec<Part>,
}

impl Walk {
    fn content(&mut self, role: &str, content: &Value) {
        match content {
            Value::String(text) => self.add(role, &json!({"type": "text", "text": text})),
            Value::Array(blocks) => blocks.iter().for_each(|block| self.add(role, block)),
            _ => {}
        }
    }

    fn add(&mut self, role: &str, block: &Value) {
        let breakpoint = breakpoint(block);
        let mut bare = block.clone();
        if let Some(fields) = bare.as_object_mut() {
            fields.shift_remove("cache_control");
        }
        let text = canonical(&bare).to_string();
        self.digest.update(role);
        self.digest.update((text.len() as u64).to_be_bytes());
        self.digest.update(&text);
        self.chars += chars(&bare);
        self.parts.push(Part {
            prefix: self.digest.clone().finalize().into(),
            chars: self.chars,
            breakpoint,
        });
    }
}

fn breakpoint(block: &Value) -> Option<Duration> {
    let control = block.get("cache_control").filter(|control| !control.is_null())?;
    Some(if control["ttl"] == "1h" { ONE_HOUR } else { FIVE_MINUTES })
}

/// The same value with sorted keys.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(key, field)| (key.clone(), canonical(field)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

fn chars(block: &Value) -> u64 {
    let count = |text: &str| text.chars().count() as u64;
    match block["type"].as_str() {
        Some("text") => count(block["text"].as_str().unwrap_or_default()),
        Some("thinking") => count(block["thinking"].as_str().unwrap_or_default()),
        Some("image" | "document") => MEDIA_CHARS,
        Some("tool_use") => count(block["name"].as_str().unwrap_or_default()) + count(&block["input"].to_string()),
        Some("tool_result") => match &block["content"] {
            Value::Array(blocks) => blocks.iter().map(chars).sum(),
            content => count(content.as_str().unwrap_or_default()),
        },
        _ => count(&block.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(messages: Value) -> Value {
        json!({
            "model": "rehearsal",
            "system": [{"type": "text", "text": "s".repeat(400), "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": messages,
        })
    }

    #[test]
    fn a_prefix_is_written_once_and_read_afterwards() {
        let cache = PromptCache::default();
        let now = Instant::now();
        let mark = json!({"type": "ephemeral"});
        let first = turn(json!([{"role": "user", "content": [
            {"type": "text", "text": "u".repeat(40), "cache_control": mark}]}]));
        let usage = cache.charge(&first, now);
        assert_eq!(
            usage,
            PromptUsage {
                uncached: 0,
                cache_read: 0,
                created_5m: 10,
                created_1h: 100
            }
        );
        let second = turn(json!([
            {"role": "user", "content": "u".repeat(40)},
            {"role": "assistant", "content": "a".repeat(80)},
            {"role": "user", "content": [{"type": "text", "text": "v".repeat(4), "cache_control": mark},
                                         {"type": "text", "text": "w".repeat(8)}]}]));
        let usage = cache.charge(&second, now);
        assert_eq!(
            usage,
            PromptUsage {
                uncached: 2,
                cache_read: 110,
                created_5m: 21,
                created_1h: 0
            }
        );
        let late = now + Duration::from_secs(301);
        let usage = cache.charge(&second, late);
        assert_eq!(
            usage,
            PromptUsage {
                uncached: 2,
                cache_read: 100,
                created_5m: 31,
                created_1h: 0
            }
        );
    }

    #[test]
    fn another_system_prompt_misses() {
        let cache = PromptCache::default();
        let now = Instant::now();
        let request = turn(json!([{"role": "user", "content": "hello"}]));
        cache.charge(&request, now);
        let mut other = request.clone();
        other["system"][0]["text"] = json!("t".repeat(400));
        assert_eq!(cache.charge(&other, now).cache_read, 0);
        assert_eq!(cache.charge(&request, now).cache_read, 100);
    }
}
