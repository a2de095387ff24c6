//! The file tools `read`, `write`, `edit`, `glob` and `grep`, and the inputs of all six.
//!
//! Inputs, results and limits are those of the published SDK's own agent toolset (`agent_toolset_20260401`), so a
//! model sees no difference between workers. Paths are taken relative to the workspace, or absolute under it
//! (`/workspace/...`, or the workspace's own path). Every file is opened by the kernel's own confinement
//! (`openat2` with `RESOLVE_BENEATH` and without magic links), so no link and no race leads out.

mod confine;
mod edit;
mod glob;
mod grep;
mod read;
mod write;

use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(crate) use confine::Workspace;

use crate::output::{ContentBlock, MediaSource};

/// Largest file that `read` gives as a whole, and that `edit` loads.
pub(crate) const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most that `grep` gives.
pub(crate) const GREP_OUTPUT_LIMIT: usize = 100 * 1024;
/// Most paths that `glob` gives.
pub(crate) const GLOB_RESULT_LIMIT: usize = 200;
/// Most entries that a walk looks at.
pub(crate) const WALK_MAX_ENTRIES: usize = 50_000;

/// What a tool says when it fails; the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToolError(pub String);

/// Tells a tool that works for long whether to stop.
pub(crate) struct Stop<'a> {
    cancelled: &'a mut dyn FnMut() -> bool,
}

impl<'a> Stop<'a> {
    pub(crate) fn new(cancelled: &'a mut dyn FnMut() -> bool) -> Self {
        Self { cancelled }
    }

    fn now(&mut self) -> bool {
        (self.cancelled)()
    }
}

/// Input of `bash`.
#[derive(Debug)]
pub(crate) struct BashInput {
    pub command: Option<String>,
    pub restart: bool,
    /// Zero is as if it were not there.
    pub timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBashInput {
    command: Option<String>,
    restart: Option<bool>,
    timeout_ms: Option<u64>,
}

/// Reads the input of `bash`.
pub(crate) fn bash_input(input: serde_json::Value) -> Result<BashInput, ToolError> {
    let raw: RawBashInput = parse("bash", input)?;
    Ok(BashInput {
        command: raw.command,
        restart: raw.restart.unwrap_or(false),
        timeout_ms: raw.timeout_ms.filter(|limit| *limit > 0),
    })
}

/// Runs one of the file tools.
pub(crate) fn run(
    workspace: &Workspace,
    name: &str,
    input: serde_json::Value,
    stop: &mut Stop<'_>,
) -> Result<ContentBlock, ToolError> {
    let text = |text: String| ContentBlock::Text { text };
    match name {
        "read" => read::run(workspace, parse(name, input)?),
        "write" => write::run(workspace, &parse(name, input)?).map(text),
        "edit" => edit::run(workspace, &parse(name, input)?).map(text),
        "glob" => glob::run(workspace, &parse(name, input)?, stop).map(text),
        "grep" => grep::run(workspace, &parse(name, input)?, stop).map(text),
        other => Err(ToolError(format!(
            "this sandbox has no tool named {other:?}; it has bash, read, write, edit, glob and grep"
        ))),
    }
}

fn parse<T: DeserializeOwned>(tool: &str, input: serde_json::Value) -> Result<T, ToolError> {
    serde_json::from_value(input).map_err(|error| ToolError(format!("{tool}: the input is not valid: {error}")))
}

/// The standard wording of a filesystem error, without host paths.
fn reason(error: &std::io::Error) -> String {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else {
        return error.to_string();
    };
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS | Errno::PERM => "permission denied".to_owned(),
        Errno::EXIST => "file already exists".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        Errno::NOSPC => "no space left on device".to_owned(),
        Errno::FBIG => "the file would be larger than this sandbox may write".to_owned(),
        _ => format!("i/o error {}", errno.raw_os_error()),
    }
}

fn media(media_type: &str, bytes: &[u8]) -> MediaSource {
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    MediaSource::Base64 {
        media_type: media_type.to_owned(),
        data,
    }
}

#[cfg(test)]
mod tests;
