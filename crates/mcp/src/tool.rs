//! Tools of a server and what calling one brings.

use std::sync::Arc;

use serde_json::{Map, Value};

/// A tool of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name on the server.
    pub name: String,
    /// A name for people.
    pub title: Option<String>,
    /// What it does; empty if the server does not say.
    pub description: String,
    /// The JSON schema of its arguments.
    pub input_schema: Arc<Map<String, Value>>,
    /// The JSON schema of [`CallResult::structured`].
    pub output_schema: Option<Arc<Map<String, Value>>>,
    /// The server says that the tool changes nothing. Like the other hints only a hint, and false if absent.
    pub read_only: bool,
    /// The server says that a second call with the same arguments changes nothing more.
    pub idempotent: bool,
    /// The server says that the tool may destroy something; true if absent, unless the tool is read-only.
    pub destructive: bool,
}

impl Tool {
    /// Whether a call that may have been taken up can be made again.
    pub fn repeatable(&self) -> bool {
        self.read_only || self.idempotent
    }
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq)]
pub struct CallResult {
    /// The blocks in order.
    pub content: Vec<Block>,
    /// The result as JSON, for tools with an output schema.
    pub structured: Option<Value>,
    /// Whether the tool says that it failed.
    pub is_error: bool,
}

/// A block of a tool's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Text.
    Text(String),
    /// A picture.
    Image {
        /// Base64 of its bytes, as the server sent it.
        data: String,
        /// For example `image/png`.
        media_type: String,
    },
    /// A sound.
    Audio {
        /// Base64 of its bytes, as the server sent it.
        data: String,
        /// For example `audio/wav`.
        media_type: String,
    },
    /// A reference to something that the server holds.
    ResourceLink {
        /// Its address, in a scheme of the server's own as a rule.
        uri: String,
        /// Its name.
        name: String,
        /// What it is.
        description: Option<String>,
        /// Its type.
        media_type: Option<String>,
    },
    /// A resource as text.
    ResourceText {
        /// Its address.
        uri: String,
        /// Its type.
        media_type: Option<String>,
        /// The text.
        text: String,
    },
    /// A resource as bytes.
    ResourceBlob {
        /// Its address.
        uri: String,
        /// Its type.
        media_type: Option<String>,
        /// Base64 of its bytes, as the server sent it.
        data: String,
    },
    /// A block of a type that this revision of the connector does not know.
    Unknown {
        /// The type that the server gave, shortened.
        kind: String,
    },
}
