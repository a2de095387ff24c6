//! Entries of a session's log: an event, and what the loop must remember with it but nobody outside may see.
//!
//! An entry whose event has no `processed_at` waits in the queue; when it is taken up, an entry with the same
//! event id and a `processed_at` takes its place at the end of the log. Folding the entries in order gives the
//! whole state of the session.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::{AgentConfig, EnvironmentKind};
use crate::id::{SessionId, ThreadId};
use crate::model::ModelAnswer;
use crate::{Event, Time};

/// What a session begins with; written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// The session.
    pub session_id: SessionId,
    /// Its primary thread.
    pub thread_id: ThreadId,
    /// The agent's configuration, overrides applied.
    pub agent: AgentConfig,
    /// Where its tools run.
    pub environment: EnvironmentKind,
    /// Its title.
    pub title: Option<String>,
    /// Its metadata: strings by name.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Time,
}

/// One entry of a session's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The event, as lists and streams show it.
    pub event: Event,
    /// When the event was first made.
    pub created_at: Time,
    /// What only the loop may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
}

/// What the loop remembers with an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Private {
    /// With `span.model_request_end`: the answer, block by block.
    Answer {
        /// The answer.
        answer: ModelAnswer,
    },
    /// With the events of tool calls: what the loop needs to carry the call through.
    Call {
        /// The model's own id of the call, for example `toolu_…`.
        model_tool_use_id: String,
        /// Of an MCP tool: whether the server says that a repeated call does no harm.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repeatable: bool,
    },
    /// With `session.error`: which attempt failed, and when the next one begins.
    Retry {
        /// The number of failed attempts in a row, from 1.
        attempt: u32,
        /// When the next one begins; absent if there is none.
        next_at: Option<Time>,
    },
    /// With `session.status_terminated`: the session was archived.
    Archived {},
}
