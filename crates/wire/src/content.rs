//! Content blocks of messages and tool results, with the names of the contract.
//!
//! Parsing is strict: an unknown block type, source type or field is refused by name.

use serde::{Deserialize, Serialize};

/// One block of a user message or of a tool result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ContentBlock {
    /// Plain text; never empty in what a client sends.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// Where it comes from.
        source: ImageSource,
    },
    /// A document.
    Document {
        /// Where it comes from.
        source: DocumentSource,
        /// What the document is for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<String>,
        /// Its title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    /// A search result, in tool results only.
    SearchResult {
        /// Whether the model may cite it.
        citations: Citations,
        /// Its text.
        content: Vec<SearchText>,
        /// Where it was found.
        source: String,
        /// Its title.
        title: String,
    },
    /// Content that was taken out.
    Redacted {},
}

/// Where a picture comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// In the block itself.
    Base64 {
        /// Base64 of the bytes.
        data: String,
        /// For example `image/png`.
        media_type: String,
    },
    /// Fetched by the model provider.
    Url {
        /// The address.
        url: String,
    },
    /// A stored file.
    File {
        /// Its id.
        file_id: String,
    },
}

/// Where a document comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DocumentSource {
    /// In the block itself.
    Base64 {
        /// Base64 of the bytes.
        data: String,
        /// For example `application/pdf`.
        media_type: String,
    },
    /// Plain text in the block itself.
    Text {
        /// The text.
        data: String,
        /// Always `text/plain`.
        media_type: String,
    },
    /// Fetched by the model provider.
    Url {
        /// The address.
        url: String,
    },
    /// A stored file.
    File {
        /// Its id.
        file_id: String,
    },
}

/// Whether a search result may be cited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Citations {
    /// True if the model may cite it.
    pub enabled: bool,
}

/// A text of a search result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SearchText {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
}

impl ContentBlock {
    /// A text block.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// The block's type on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Image { .. } => "image",
            Self::Document { .. } => "document",
            Self::SearchResult { .. } => "search_result",
            Self::Redacted {} => "redacted",
        }
    }

    /// How many bytes of text or data it holds, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text { text } => text.len(),
            Self::Image { source } => match source {
                ImageSource::Base64 { data, .. } => data.len(),
                ImageSource::Url { url } => url.len(),
                ImageSource::File { file_id } => file_id.len(),
            },
            Self::Document { source, .. } => match source {
                DocumentSource::Base64 { data, .. } | DocumentSource::Text { data, .. } => data.len(),
                DocumentSource::Url { url } => url.len(),
                DocumentSource::File { file_id } => file_id.len(),
            },
            Self::SearchResult { content, .. } => content.iter().map(|SearchText::Text { text }| text.len()).sum(),
            Self::Redacted {} => 0,
        }
    }

    /// The id of the stored file that the block refers to, if it refers to one.
    pub fn file_id(&self) -> Option<&str> {
        match self {
            Self::Image {
                source: ImageSource::File { file_id },
            }
            | Self::Document {
                source: DocumentSource::File { file_id },
                ..
            } => Some(file_id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_types_are_refused_by_name() {
        let error = serde_json::from_str::<ContentBlock>(r#"{"type":"text","text":"a","colour":1}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("colour"), "{error}");
        let error = serde_json::from_str::<ContentBlock>(r#"{"type":"video"}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("video"), "{error}");
    }
}
