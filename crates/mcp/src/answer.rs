//! Results of the protocol as tools and call results.
//!
//! The SDK parses strictly: one tool or one block that it does not know, and the whole result comes as bare JSON. What
//! can be read of such a result is read here; a block of an unknown type stays visible as such, and a tool that cannot
//! be read is left out, because nobody could call it.

use rmcp::model::{CallToolResult, ContentBlock, ListToolsResult, ResourceContents, Tool as WireTool};
use serde_json::Value;

use crate::{Block, CallResult, Tool};

/// Characters of a name that a server chose, where it stands in a text of ours.
const MAX_KIND: usize = 40;

/// One page of tools.
pub(crate) struct Page {
    pub(crate) tools: Vec<Tool>,
    pub(crate) bytes: usize,
    pub(crate) next: Option<String>,
}

pub(crate) fn page(result: ListToolsResult) -> Page {
    let bytes = result.tools.iter().map(size).sum();
    Page {
        tools: result.tools.into_iter().map(tool).collect(),
        bytes,
        next: result.next_cursor,
    }
}

/// A page that the SDK could not read.
pub(crate) fn loose_page(mut value: Value) -> Option<Page> {
    let object = value.as_object_mut()?;
    let next = object.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
    let Some(Value::Array(tools)) = object.remove("tools") else {
        return None;
    };
    let tools: Vec<WireTool> = tools
        .into_iter()
        .filter_map(|tool| serde_json::from_value(tool).ok())
        .collect();
    let bytes = tools.iter().map(size).sum();
    Some(Page {
        tools: tools.into_iter().map(tool).collect(),
        bytes,
        next,
    })
}

fn size(tool: &WireTool) -> usize {
    serde_json::to_string(tool).map_or(0, |json| json.len())
}

fn tool(tool: WireTool) -> Tool {
    let hints = tool.annotations.unwrap_or_default();
    let read_only = hints.read_only_hint.unwrap_or(false);
    Tool {
        name: tool.name.into_owned(),
        title: tool.title.or(hints.title),
        description: tool.description.map(|text| text.into_owned()).unwrap_or_default(),
        input_schema: tool.input_schema,
        output_schema: tool.output_schema,
        read_only,
        idempotent: hints.idempotent_hint.unwrap_or(false),
        destructive: hints.destructive_hint.unwrap_or(!read_only),
    }
}

pub(crate) fn result(result: CallToolResult) -> CallResult {
    CallResult {
        content: result.content.into_iter().map(block).collect(),
        structured: result.structured_content,
        is_error: result.is_error.unwrap_or(false),
    }
}

/// A result that the SDK could not read.
pub(crate) fn loose_result(mut value: Value) -> Option<CallResult> {
    let object = value.as_object_mut()?;
    let Some(Value::Array(content)) = object.remove("content") else {
        return None;
    };
    let content = content
        .into_iter()
        .map(|value| {
            let kind = value
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or("none")
                .chars()
                .take(MAX_KIND)
                .collect();
            serde_json::from_value(value).map_or(Block::Unknown { kind }, block)
        })
        .collect();
    Some(CallResult {
        content,
        structured: object.remove("structuredContent"),
        is_error: object.get("isError").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn block(block: ContentBlock) -> Block {
    match block {
        ContentBlock::Text(text) => Block::Text(text.text),
        ContentBlock::Image(image) => Block::Image {
            data: image.data,
            media_type: image.mime_type,
        },
        ContentBlock::Audio(audio) => Block::Audio {
            data: audio.data,
            media_type: audio.mime_type,
        },
        ContentBlock::ResourceLink(link) => Block::ResourceLink {
            uri: link.uri,
            name: link.name,
            description: link.description,
            media_type: link.mime_type,
        },
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents {
                uri, mime_type, text, ..
            } => Block::ResourceText {
                uri,
                media_type: mime_type,
                text,
            },
            ResourceContents::BlobResourceContents {
                uri, mime_type, blob, ..
            } => Block::ResourceBlob {
                uri,
                media_type: mime_type,
                data: blob,
            },
            _ => Block::Unknown {
                kind: "resource".into(),
            },
        },
        _ => Block::Unknown { kind: "unknown".into() },
    }
}
