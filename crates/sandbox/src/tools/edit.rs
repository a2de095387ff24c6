//! `edit`: one string of a text file replaced by another.

use std::io::{Read, Seek, Write};

use serde::Deserialize;

use super::confine::Workspace;
use super::{MAX_FILE_BYTES, ToolError, reason};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    file_path: String,
    old_string: String,
    new_string: String,
    replace_all: Option<bool>,
}

pub(super) fn run(workspace: &Workspace, input: &Input) -> Result<String, ToolError> {
    let path = input.file_path.as_str();
    let inside = workspace.locate("edit", path)?;
    let failed = |error: std::io::Error| ToolError(format!("edit: {path}: {}", reason(&error)));
    let too_large = |size: u64| {
        ToolError(format!(
            "edit: {path} is {size} bytes, over the limit of {MAX_FILE_BYTES}; change so large a file with bash"
        ))
    };
    let (mut file, size) = workspace
        .open_to_change(&inside)
        .map_err(|error| error.told("edit", path))?;
    if size > MAX_FILE_BYTES {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    (&file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| ToolError(format!("edit: {path}: not UTF-8 text; binary files cannot be edited")))?;
    let all = input.replace_all.unwrap_or(false);
    let count = text.matches(input.old_string.as_str()).count();
    if count == 0 {
        return Err(ToolError(format!("edit: old_string is not in {path}")));
    }
    if count > 1 && !all {
        return Err(ToolError(format!(
            "edit: old_string is {count} times in {path}; it must be there once, or give replace_all: true"
        )));
    }
    let changed = if all {
        text.replace(&input.old_string, &input.new_string)
    } else {
        text.replacen(&input.old_string, &input.new_string, 1)
    };
    file.rewind()
        .and_then(|()| file.write_all(changed.as_bytes()))
        .and_then(|()| file.set_len(changed.len() as u64))
        .map_err(failed)?;
    Ok(format!(
        "edited {path} ({} replacement(s))",
        if all { count } else { 1 }
    ))
}
