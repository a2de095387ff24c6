//! `write`: a whole file, with the folders above it.

use std::io::Write;

use serde::Deserialize;

use super::confine::Workspace;
use super::{ToolError, reason};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    file_path: String,
    content: String,
}

pub(super) fn run(workspace: &Workspace, input: &Input) -> Result<String, ToolError> {
    let path = input.file_path.as_str();
    let inside = workspace.locate("write", path)?;
    let mut file = workspace
        .create_file(&inside)
        .map_err(|error| error.told("write", path))?;
    file.set_len(0)
        .and_then(|()| file.write_all(input.content.as_bytes()))
        .map_err(|error| ToolError(format!("write: {path}: {}", reason(&error))))?;
    Ok(format!("wrote {} bytes to {path}", input.content.len()))
}
