//! What a client may send to a session: the strict counterpart of [`EventBody`].

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Decision, EventBody, SystemBlock};
use crate::ContentBlock;
use crate::id::{EventId, ThreadId};

/// What a client may send to a session.
///
/// On the wire the type is a field among the others. [`EventParams::from_value`] reads it so that a fault is named
/// with its path, which serde's own reading of such enums loses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub enum EventParams {
    /// See [`EventBody::UserMessage`].
    #[serde(rename = "user.message")]
    UserMessage {
        /// What is said; at least one block.
        content: Vec<ContentBlock>,
    },
    /// See [`EventBody::UserInterrupt`].
    #[serde(rename = "user.interrupt")]
    UserInterrupt {
        /// Only this thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserToolConfirmation`].
    #[serde(rename = "user.tool_confirmation")]
    UserToolConfirmation {
        /// The call.
        tool_use_id: EventId,
        /// The decision.
        result: Decision,
        /// Why not; only with `deny`.
        #[serde(default)]
        deny_message: Option<String>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserCustomToolResult`].
    #[serde(rename = "user.custom_tool_result")]
    UserCustomToolResult {
        /// The call.
        custom_tool_use_id: EventId,
        /// The result.
        #[serde(default)]
        content: Vec<ContentBlock>,
        /// True if it failed.
        #[serde(default)]
        is_error: Option<bool>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::UserToolResult`].
    #[serde(rename = "user.tool_result")]
    UserToolResult {
        /// The call.
        tool_use_id: EventId,
        /// The result.
        #[serde(default)]
        content: Vec<ContentBlock>,
        /// True if it failed.
        #[serde(default)]
        is_error: Option<bool>,
        /// The call's thread.
        #[serde(default)]
        session_thread_id: Option<ThreadId>,
    },
    /// See [`EventBody::SystemMessage`].
    #[serde(rename = "system.message")]
    SystemMessage {
        /// 1 to 1000 text blocks.
        content: Vec<SystemBlock>,
    },
}

/// A value that is no event that a client may send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", path, if path.is_empty() { "" } else { ": " })]
pub struct InvalidEvent {
    /// Where the fault is, within the event; empty for the event itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl<'de> Deserialize<'de> for EventParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl EventParams {
    /// Reads an event that a client sent.
    pub fn from_value(value: Value) -> Result<Self, InvalidEvent> {
        let fault = |path: &str, message: &str| InvalidEvent {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let Value::Object(mut fields) = value else {
            return Err(fault("", "must be an object"));
        };
        let kind = match fields.shift_remove("type") {
            Some(Value::String(kind)) => kind,
            Some(_) => return Err(fault("type", "must be a string")),
            None => return Err(fault("type", "is required")),
        };
        let mut tagged = Map::new();
        tagged.insert(kind.clone(), Value::Object(fields));
        let mut track = serde_path_to_error::Track::new();
        let reader = serde_path_to_error::Deserializer::new(Value::Object(tagged), &mut track);
        Self::deserialize(reader).map_err(|error: serde_json::Error| {
            let path = track.path().to_string();
            let inner = path.strip_prefix(&kind).unwrap_or(&path).trim_start_matches('.');
            fault(inner, &error.to_string())
        })
    }

    /// The event's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UserMessage { .. } => "user.message",
            Self::UserInterrupt { .. } => "user.interrupt",
            Self::UserToolConfirmation { .. } => "user.tool_confirmation",
            Self::UserCustomToolResult { .. } => "user.custom_tool_result",
            Self::UserToolResult { .. } => "user.tool_result",
            Self::SystemMessage { .. } => "system.message",
        }
    }

    /// The same as a log event.
    pub fn into_body(self) -> EventBody {
        match self {
            Self::UserMessage { content } => EventBody::UserMessage { content },
            Self::UserInterrupt { session_thread_id } => EventBody::UserInterrupt { session_thread_id },
            Self::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                session_thread_id,
            } => EventBody::UserToolConfirmation {
                tool_use_id,
                result,
                deny_message,
                session_thread_id,
            },
            Self::UserCustomToolResult {
                custom_tool_use_id,
                content,
                is_error,
                session_thread_id,
            } => EventBody::UserCustomToolResult {
                custom_tool_use_id,
                content,
                is_error,
                session_thread_id,
            },
            Self::UserToolResult {
                tool_use_id,
                content,
                is_error,
                session_thread_id,
            } => EventBody::UserToolResult {
                tool_use_id,
                content,
                is_error,
                session_thread_id,
            },
            Self::SystemMessage { content } => EventBody::SystemMessage { content },
        }
    }
}
