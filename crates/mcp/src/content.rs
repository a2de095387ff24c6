//! Tool answers as blocks of the plane's own wire, and answers that are too long for a conversation.
//!
//! What a block of the wire cannot hold (sounds, bytes of unknown type, references) becomes text that says what it was:
//! nothing is left out in silence.

use outwork_wire::content::{ContentBlock, DocumentSource, ImageSource};

use crate::{Block, CallResult};

/// Text of one result above this many characters is moved out of the conversation.
pub const OVERSIZE_CHARS: usize = 100_000;
/// How many characters of it stay.
pub const PREVIEW_CHARS: usize = 2_000;

/// Pictures that a model takes.
const IMAGE_TYPES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// A result whose text is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// The beginning, for the conversation.
    pub preview: String,
    /// All of it, for a file.
    pub full: String,
}

/// The blocks of a result as blocks of the wire. Never empty.
///
/// The structured result is added as JSON only where the server sent no text: servers repeat it there as a rule.
pub fn to_wire(result: &CallResult) -> Vec<ContentBlock> {
    let mut blocks: Vec<ContentBlock> = result.content.iter().filter_map(block).collect();
    if blocks.is_empty()
        && let Some(structured) = &result.structured
    {
        blocks.push(ContentBlock::text(structured.to_string()));
    }
    if blocks.is_empty() {
        let text = if result.is_error {
            "The tool failed without saying why."
        } else {
            "The tool returned nothing."
        };
        blocks.push(ContentBlock::text(text));
    }
    blocks
}

fn block(block: &Block) -> Option<ContentBlock> {
    Some(match block {
        // The contract has no empty text block.
        Block::Text(text) if text.is_empty() => return None,
        Block::Text(text) => ContentBlock::text(text),
        Block::Image { data, media_type } => match image(data, media_type) {
            Some(block) => block,
            None => left_out("A picture", media_type, data, None),
        },
        Block::Audio { data, media_type } => left_out("A sound", media_type, data, None),
        Block::ResourceLink {
            uri,
            name,
            description,
            media_type,
        } => {
            let mut text = format!("[Resource \"{name}\" at {uri}");
            if let Some(media_type) = media_type {
                text.push_str(&format!(", {media_type}"));
            }
            if let Some(description) = description {
                text.push_str(&format!(": {description}"));
            }
            text.push(']');
            ContentBlock::text(text)
        }
        Block::ResourceText { uri, text, .. } if text.is_empty() => {
            ContentBlock::text(format!("[Resource {uri} is empty]"))
        }
        Block::ResourceText { uri, text, .. } => ContentBlock::Document {
            source: DocumentSource::Text {
                data: text.clone(),
                media_type: "text/plain".into(),
            },
            context: None,
            title: Some(uri.clone()),
        },
        Block::ResourceBlob { uri, media_type, data } => {
            let media_type = media_type.as_deref().unwrap_or("application/octet-stream");
            if let Some(block) = image(data, media_type) {
                block
            } else if essence(media_type) == "application/pdf" && !data.is_empty() {
                ContentBlock::Document {
                    source: DocumentSource::Base64 {
                        data: data.clone(),
                        media_type: "application/pdf".into(),
                    },
                    context: None,
                    title: Some(uri.clone()),
                }
            } else {
                left_out("A resource", media_type, data, Some(uri))
            }
        }
        Block::Unknown { kind } => ContentBlock::text(format!(
            "[A block of the type \"{kind}\", which cannot be shown, was left out]"
        )),
    })
}

fn image(data: &str, media_type: &str) -> Option<ContentBlock> {
    let media_type = essence(media_type);
    let media_type = if media_type == "image/jpg" {
        "image/jpeg".to_owned()
    } else {
        media_type
    };
    (!data.is_empty() && IMAGE_TYPES.contains(&media_type.as_str())).then(|| ContentBlock::Image {
        source: ImageSource::Base64 {
            data: data.to_owned(),
            media_type,
        },
    })
}

/// The type without parameters, in lower case.
fn essence(media_type: &str) -> String {
    media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn left_out(what: &str, media_type: &str, data: &str, uri: Option<&str>) -> ContentBlock {
    let bytes = data.trim_end_matches('=').len() * 3 / 4;
    let at = uri.map(|uri| format!(" at {uri}")).unwrap_or_default();
    ContentBlock::text(format!(
        "[{what}{at} of the type {media_type}, {bytes} bytes, which cannot be shown, was left out]"
    ))
}

/// The text of a result, if it has over [`OVERSIZE_CHARS`] characters in all.
///
/// Pictures do not count. The blocks of `result` that are text are joined by blank lines in `full`.
pub fn oversize(result: &CallResult) -> Option<Oversize> {
    let texts: Vec<&str> = result.content.iter().filter_map(text_of).collect();
    let structured = match (&result.structured, texts.is_empty()) {
        (Some(structured), true) => Some(structured.to_string()),
        _ => None,
    };
    let texts: Vec<&str> = texts.into_iter().chain(structured.as_deref()).collect();
    // A character is at least a byte: most results are short and need no counting.
    if texts.iter().map(|text| text.len()).sum::<usize>() <= OVERSIZE_CHARS {
        return None;
    }
    let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
    if chars <= OVERSIZE_CHARS {
        return None;
    }
    let full = texts.join("\n\n");
    let preview = full.chars().take(PREVIEW_CHARS).collect();
    Some(Oversize { preview, full })
}

fn text_of(block: &Block) -> Option<&str> {
    match block {
        Block::Text(text) | Block::ResourceText { text, .. } => Some(text),
        Block::Image { .. }
        | Block::Audio { .. }
        | Block::ResourceLink { .. }
        | Block::ResourceBlob { .. }
        | Block::Unknown { .. } => None,
    }
}
