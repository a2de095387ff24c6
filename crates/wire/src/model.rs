//! The words between the loop and a model provider: request, answer, preview, failure.
//!
//! A request is one call of the Messages API; the answer keeps every content block exactly as it came, in
//! order, because thinking blocks carry signatures over their text. A failure says what kind it is; whether and
//! when to try again is decided by the engine, not by who speaks to the provider.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One request of the Messages API, without `stream`, which the client adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// The model's id.
    pub model: String,
    /// The most tokens that the answer may have.
    pub max_tokens: u32,
    /// System blocks; left out when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub system: Vec<Value>,
    /// Tool definitions; left out when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// The conversation.
    pub messages: Vec<Value>,
    /// Further parameters, such as `thinking` or `output_config`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The content blocks as they came. Null stands in the place of a block that cannot be used, so that every block
    /// keeps its position until its previews are matched.
    pub content: Vec<Value>,
    /// Why the model stopped; absent when the answer was cut off by a cancellation.
    pub stop_reason: Option<StopReason>,
    /// Details of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_details: Option<Value>,
    /// What it cost.
    pub usage: ModelUsage,
    /// True if the stream was cancelled before its end; unfinished tool calls are then left out.
    #[serde(default)]
    pub partial: bool,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It was done.
    EndTurn,
    /// It wants tools to be run.
    ToolUse,
    /// The answer reached `max_tokens`.
    MaxTokens,
    /// A stop sequence was met.
    StopSequence,
    /// The provider paused a long turn; the same conversation is sent again.
    PauseTurn,
    /// It refused.
    Refusal,
    /// The conversation does not fit the model's context any more.
    ModelContextWindowExceeded,
    /// Anything else, as it came.
    #[serde(untagged)]
    Other(String),
}

/// Tokens of one model request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsage {
    /// Tokens read that came from no cache.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub output_tokens: u64,
    /// Tokens read from the cache.
    #[serde(default)]
    pub cache_read_input_tokens: u64,
    /// Tokens written to the cache, all lifetimes together.
    #[serde(default)]
    pub cache_creation_input_tokens: u64,
    /// Of these, with a lifetime of five minutes.
    #[serde(default)]
    pub ephemeral_5m_input_tokens: u64,
    /// Of these, with a lifetime of one hour.
    #[serde(default)]
    pub ephemeral_1h_input_tokens: u64,
}

impl ModelUsage {
    /// Adds another request's tokens to these.
    pub fn add(&mut self, other: &ModelUsage) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cache_read_input_tokens += other.cache_read_input_tokens;
        self.cache_creation_input_tokens += other.cache_creation_input_tokens;
        self.ephemeral_5m_input_tokens += other.ephemeral_5m_input_tokens;
        self.ephemeral_1h_input_tokens += other.ephemeral_1h_input_tokens;
    }
}

/// What is seen of an answer while it is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelDelta {
    /// A content block began.
    BlockStart {
        /// Its position in the answer.
        index: usize,
        /// What it is.
        kind: BlockKind,
    },
    /// A text block grew.
    Text {
        /// Its position in the answer.
        index: usize,
        /// What was added.
        text: String,
    },
    /// A content block is complete.
    BlockStop {
        /// Its position in the answer.
        index: usize,
    },
}

/// What a content block of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Text.
    Text,
    /// Thinking, redacted or not.
    Thinking,
    /// A tool call.
    ToolUse,
    /// A type that the client does not know; kept as it came.
    Other,
}

/// A model request that brought no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ModelFailure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// For a person: what went wrong, with the provider's own words; never a secret.
    pub message: String,
    /// How long the provider asks to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

/// Kinds of failure, by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// 529: the provider is overloaded. Try again.
    Overloaded,
    /// 429: too many requests. Try again when the provider says.
    RateLimited,
    /// Another 5xx. Try again.
    Server,
    /// No connection. Try again.
    Connection,
    /// No answer, or no further byte, in time. Try again.
    Timeout,
    /// The stream ended before the answer did. Try again.
    Cut,
    /// The answer is not what the protocol allows. Try again, a few times.
    Nonsense,
    /// 401 or 403: the key is not accepted. Of no use to repeat.
    Authentication,
    /// 402 or a billing error. Of no use to repeat.
    Billing,
    /// 400, 404, 413, 422: the request itself is refused. Of no use to repeat.
    Rejected,
    /// The conversation is too long for the model. Of no use to repeat.
    TooLong,
    /// No provider is configured. Of no use to repeat.
    NotConfigured,
}
