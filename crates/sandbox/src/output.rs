//! A tool call and its answer, as the worker sees them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One call of one of the six tools.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// `bash`, `read`, `write`, `edit`, `glob` or `grep`.
    pub name: String,
    /// The tool's input, an object.
    pub input: serde_json::Value,
    /// Bound on the whole call, over any `timeout_ms` inside the input; when it passes, the call is cancelled and
    /// its answer says so. The sandbox lives on.
    pub timeout: Duration,
}

impl ToolCall {
    /// The outer bound of a call that the published SDK's session runner uses.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(150);

    /// A call with the default outer bound.
    pub fn new(name: impl Into<String>, input: serde_json::Value) -> Self {
        Self {
            name: name.into(),
            input,
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }
}

/// One block of an answer, in the shape of a `user.tool_result` event's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ContentBlock {
    /// Text; never empty.
    Text {
        /// The text.
        text: String,
    },
    /// An image file.
    Image {
        /// Its bytes.
        source: MediaSource,
    },
    /// A PDF file.
    Document {
        /// Its bytes.
        source: MediaSource,
    },
}

/// Bytes of an image or a PDF.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MediaSource {
    /// Standard base64 with padding.
    Base64 {
        /// For example `image/png`.
        media_type: String,
        /// The encoded bytes.
        data: String,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolOutput {
    /// At least one block; no text block is empty.
    pub content: Vec<ContentBlock>,
    /// The tool failed: a bad input, a non-zero exit code, a timeout, an interrupt.
    pub is_error: bool,
    /// Exit code of the command, for `bash` calls that ran to their end.
    pub exit_code: Option<i32>,
    /// From the call being sent to its answer being read.
    pub duration: Duration,
}

impl ToolOutput {
    /// All text blocks, joined.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for block in &self.content {
            if let ContentBlock::Text { text: part } = block {
                text.push_str(part);
            }
        }
        text
    }
}
