//! `read`: a text file, some of its lines, or an image or PDF as a block.

use std::fs::File;
use std::io::Read;

use serde::Deserialize;

use super::confine::Workspace;
use super::{MAX_FILE_BYTES, ToolError, media, reason};
use crate::output::ContentBlock;

/// Largest image, by its base64 form.
const MAX_IMAGE_BASE64_BYTES: u64 = 5 << 20;
/// Largest PDF.
const MAX_PDF_BYTES: u64 = 20 << 20;
const PDF: &str = "application/pdf";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    file_path: String,
    view_range: Option<Vec<i64>>,
}

pub(super) fn run(workspace: &Workspace, input: Input) -> Result<ContentBlock, ToolError> {
    let path = input.file_path.as_str();
    let inside = workspace.locate("read", path)?;
    let range = match input.view_range.as_deref() {
        None | Some([]) => None,
        Some([start, end]) => Some(Range::new(*start, *end)),
        Some(_) => {
            return Err(ToolError(
                "read: view_range takes two numbers, [start_line, end_line]".to_owned(),
            ));
        }
    };
    let (file, size) = workspace.open_file(&inside).map_err(|error| error.told("read", path))?;
    if let Some(media_type) = media_type(inside.relative()) {
        if range.is_some() {
            return Err(ToolError(
                "read: an image or PDF file has no lines; leave view_range out".to_owned(),
            ));
        }
        return whole_media(file, size, path, media_type);
    }
    let text = match range {
        None if size > MAX_FILE_BYTES => {
            return Err(ToolError(format!(
                "read: {path} is {size} bytes, over the limit of {MAX_FILE_BYTES} for a whole file. Give a view_range to read some of its lines, for example view_range: [1, 500]"
            )));
        }
        // The size may be a lie (a file that grows), so the reading is bounded too.
        None => bounded(file, MAX_FILE_BYTES, path)?,
        Some(range) if size <= MAX_FILE_BYTES => {
            let whole = utf8(bounded(file, MAX_FILE_BYTES, path)?, path)?;
            range.of(&whole).into_bytes()
        }
        Some(range) => range.stream(file, path)?,
    };
    Ok(ContentBlock::Text {
        text: utf8(text, path)?,
    })
}

fn bounded(file: File, limit: u64, path: &str) -> Result<Vec<u8>, ToolError> {
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ToolError(format!("read: {path}: {}", reason(&error))))?;
    if bytes.len() as u64 > limit {
        return Err(ToolError(format!(
            "read: {path} grew over the limit of {limit} bytes while it was read"
        )));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>, path: &str) -> Result<String, ToolError> {
    String::from_utf8(bytes).map_err(|_| {
        ToolError(format!(
            "read: {path}: not UTF-8 text (of binary files only images and PDFs can be read, by their extension)"
        ))
    })
}

fn media_type(path: &std::path::Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => PDF,
        _ => return None,
    })
}

fn whole_media(file: File, size: u64, path: &str, media_type: &str) -> Result<ContentBlock, ToolError> {
    let limit = if media_type == PDF {
        MAX_PDF_BYTES
    } else {
        MAX_IMAGE_BASE64_BYTES / 4 * 3
    };
    if size > limit {
        return Err(ToolError(format!(
            "read: {path} is {size} bytes, over the limit of {limit} for such a file"
        )));
    }
    let source = media(media_type, &bounded(file, limit, path)?);
    Ok(if media_type == PDF {
        ContentBlock::Document { source }
    } else {
        ContentBlock::Image { source }
    })
}

/// Lines from `start`, counted from 1, to `end` inclusive; an end of 0 or less is the end of the file.
struct Range {
    asked: (i64, i64),
    /// First line, counted from 0.
    first: u64,
    /// One past the last line.
    past: u64,
}

impl Range {
    fn new(start: i64, end: i64) -> Self {
        let first = u64::try_from(start.saturating_sub(1)).unwrap_or(0);
        let past = u64::try_from(end).ok().filter(|end| *end > 0).unwrap_or(u64::MAX);
        Self {
            asked: (start, end),
            first,
            past,
        }
    }

    fn of(&self, text: &str) -> String {
        let count = self.past.saturating_sub(self.first);
        let lines: Vec<&str> = text
            .split('\n')
            .skip(usize::try_from(self.first).unwrap_or(usize::MAX))
            .take(usize::try_from(count).unwrap_or(usize::MAX))
            .collect();
        lines.join("\n")
    }

    /// The same of a file that is too large to load; the limit holds for what was selected.
    fn stream(&self, mut file: File, path: &str) -> Result<Vec<u8>, ToolError> {
        let mut collected = Vec::new();
        let mut line = 0_u64;
        let mut chunk = vec![0_u8; 64 << 10];
        while line < self.past {
            let read = file
                .read(&mut chunk)
                .map_err(|error| ToolError(format!("read: {path}: {}", reason(&error))))?;
            if read == 0 {
                break;
            }
            for piece in chunk
                .get(..read)
                .unwrap_or_default()
                .split_inclusive(|byte| *byte == b'\n')
            {
                let ends = piece.last() == Some(&b'\n');
                if line >= self.first && line < self.past {
                    let keep_end = ends && line + 1 < self.past;
                    let kept = if ends && !keep_end {
                        piece.len() - 1
                    } else {
                        piece.len()
                    };
                    collected.extend_from_slice(piece.get(..kept).unwrap_or_default());
                    if collected.len() as u64 > MAX_FILE_BYTES {
                        return Err(self.too_much(path));
                    }
                }
                line += u64::from(ends);
            }
        }
        Ok(collected)
    }

    fn too_much(&self, path: &str) -> ToolError {
        let (start, end) = self.asked;
        ToolError(if self.past - self.first == 1 {
            format!(
                "read: line {} of {path} alone is over the limit of {MAX_FILE_BYTES} bytes; part of a line cannot be read with this tool",
                self.first + 1
            )
        } else {
            format!(
                "read: lines [{start}, {end}] of {path} are over the limit of {MAX_FILE_BYTES} bytes; ask for fewer"
            )
        })
    }
}
