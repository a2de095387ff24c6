//! The parts that events are made of: decisions, reasons, errors, usage.

use serde::{Deserialize, Serialize};

use crate::id::EventId;

/// A person's decision on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may run.
    Allow,
    /// It may not.
    Deny,
}

/// What the permission policy says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatedPermission {
    /// It runs.
    Allow,
    /// A person is asked.
    Ask,
    /// It does not run.
    Deny,
}

/// Which policy evaluated a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Evaluation {
    /// The policy `always_allow`.
    AlwaysAllow {},
    /// The policy `always_ask`.
    AlwaysAsk {},
}

/// Why a session or a thread rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum IdleReason {
    /// The turn is over.
    EndTurn {},
    /// Somebody must answer these calls.
    RequiresAction {
        /// The calls.
        event_ids: Vec<EventId>,
    },
    /// The model could not be reached.
    RetriesExhausted {},
    /// The model refused.
    Refusal {},
}

/// Details of a refusal, as the model gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalDetails {
    /// Always `refusal`.
    #[serde(rename = "type")]
    pub kind: RefusalKind,
    /// The kind of request that was refused.
    pub category: Option<RefusalCategory>,
    /// For a person.
    pub explanation: Option<String>,
}

/// The constant `refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The only value.
    Refusal,
}

/// Kinds of refused requests that the contract knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCategory {
    /// Attacks on computers.
    Cyber,
    /// Biology.
    Bio,
    /// Work on frontier models.
    FrontierLlm,
    /// Taking out the reasoning.
    ReasoningExtraction,
    /// Other harm.
    GeneralHarms,
}

/// An error of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionError {
    /// What kind.
    #[serde(rename = "type")]
    pub kind: SessionErrorKind,
    /// For a person: what was wrong and what to do.
    pub message: String,
    /// Whether it is tried again.
    pub retry_status: RetryStatus,
    /// The MCP server that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_server_name: Option<String>,
}

/// Kinds of session errors that the loop can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionErrorKind {
    /// None of the others.
    UnknownError,
    /// The model provider is overloaded.
    ModelOverloadedError,
    /// The model provider limits the rate.
    ModelRateLimitedError,
    /// The model request failed.
    ModelRequestFailedError,
    /// The provider refuses for reasons of payment.
    BillingError,
    /// The agent asked the model too often in one turn.
    ToolUseLimitReachedError,
    /// An MCP server could not be reached.
    McpConnectionFailedError,
    /// An MCP server did not accept the credential, or there is none for it.
    McpAuthenticationFailedError,
}

/// Whether an error is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RetryStatus {
    /// Yes, by itself.
    Retrying {},
    /// No more: this turn is over, queued input is dropped.
    Exhausted {},
    /// Never: repeating cannot help.
    Terminal {},
}

/// Tokens of one model request, as its span shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanUsage {
    /// Tokens written to the cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_input_tokens: u64,
    /// Tokens read from no cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// What a session has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageSnapshot {
    /// Tokens read from no cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_input_tokens: u64,
    /// Tokens written to the cache.
    pub cache_creation: CacheCreation,
    /// Seconds at work.
    pub active_seconds: f64,
}

/// Tokens written to the cache, by lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCreation {
    /// Five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// One hour.
    pub ephemeral_1h_input_tokens: u64,
}

/// A block of a `system.message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SystemBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}
