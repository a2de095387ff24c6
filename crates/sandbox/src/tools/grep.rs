//! `grep`: lines that match a regular expression, as ripgrep finds them.
//!
//! As with ripgrep, hidden and git-ignored files are skipped and so are binary ones. Each line is `path:number:line`,
//! in the order of paths.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grep_regex::RegexMatcherBuilder;
use grep_searcher::{BinaryDetection, SearcherBuilder, sinks::Lossy};
use ignore::WalkBuilder;
use rustix::fs::OFlags;
use serde::Deserialize;

use super::confine::Workspace;
use super::{GREP_OUTPUT_LIMIT, Stop, ToolError, WALK_MAX_ENTRIES};

/// Longest part of a line that is shown.
const MAX_LINE: usize = 2000;
/// How long one search may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pattern: String,
    path: Option<String>,
}

pub(super) fn run(workspace: &Workspace, input: &Input, stop: &mut Stop<'_>) -> Result<String, ToolError> {
    let matcher = RegexMatcherBuilder::new()
        .line_terminator(Some(b'\n'))
        .build(&input.pattern)
        .map_err(|error| ToolError(format!("grep: the pattern is not a valid regular expression: {error}")))?;
    let mut searcher = SearcherBuilder::new()
        .binary_detection(BinaryDetection::quit(0))
        .line_number(true)
        .build();
    let start = search_root("grep", workspace, input.path.as_deref())?;
    let deadline = Instant::now() + PATIENCE;
    let mut found = Found {
        text: String::new(),
        full: false,
    };
    let walk = WalkBuilder::new(&start)
        .follow_links(false)
        .sort_by_file_path(Path::cmp)
        .build();
    for (seen, entry) in walk.flatten().enumerate() {
        if seen > WALK_MAX_ENTRIES || found.full {
            break;
        }
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let Ok((file, _)) = workspace.open_walked(path) else {
            continue;
        };
        let mut interrupted = None;
        let reader = Watched {
            inner: file,
            stop: &mut *stop,
            deadline,
            interrupted: &mut interrupted,
        };
        let sink = Lossy(|number, line| Ok(found.take(path, number, line)));
        // A file that cannot be read on is left, as a search goes over many.
        let _ = searcher.search_reader(&matcher, reader, sink);
        match interrupted {
            Some(Interrupted::Cancelled) => return Err(ToolError("grep: interrupted".to_owned())),
            Some(Interrupted::Late) => {
                return Err(ToolError(format!(
                    "grep: stopped after {}s; search a smaller folder",
                    PATIENCE.as_secs()
                )));
            }
            None => {}
        }
    }
    if found.text.is_empty() {
        Ok("no matches".to_owned())
    } else {
        Ok(found.text)
    }
}

/// Where a search starts, as a full path without links.
pub(super) fn search_root(tool: &str, workspace: &Workspace, path: Option<&str>) -> Result<PathBuf, ToolError> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(workspace.root().to_path_buf());
    };
    let inside = workspace.locate(tool, path)?;
    // Opening says whether it is there and inside; the walk itself follows no link.
    workspace
        .open_existing(&inside, OFlags::PATH)
        .map_err(|error| error.told(tool, path))?;
    let full = workspace.display(&inside);
    match full.canonicalize() {
        Ok(full) if full.starts_with(workspace.root()) => Ok(full),
        Ok(_) | Err(_) => Err(ToolError(format!(
            "{tool}: path {path:?} is outside the session's working directory"
        ))),
    }
}

struct Found {
    text: String,
    full: bool,
}

impl Found {
    /// Adds a line; says whether more can come.
    fn take(&mut self, path: &Path, number: u64, line: &str) -> bool {
        let line = line.trim_end_matches(['\n', '\r']);
        let shown = if line.len() > MAX_LINE {
            let mut end = MAX_LINE;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            format!("{} [line cut at {MAX_LINE} bytes]", line.get(..end).unwrap_or_default())
        } else {
            line.to_owned()
        };
        let entry = format!("{}:{number}:{shown}", path.display());
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        if self.text.len() + entry.len() > GREP_OUTPUT_LIMIT {
            self.text
                .push_str(&format!("[output truncated at {GREP_OUTPUT_LIMIT} bytes]"));
            self.full = true;
            return false;
        }
        self.text.push_str(&entry);
        true
    }
}

#[derive(Clone, Copy)]
enum Interrupted {
    Cancelled,
    Late,
}

/// A reader that ends when the call is cancelled or late, so that one endless file cannot hold a search.
struct Watched<'a, 'b, R> {
    inner: R,
    stop: &'a mut Stop<'b>,
    deadline: Instant,
    interrupted: &'a mut Option<Interrupted>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reason = if Instant::now() >= self.deadline {
            Some(Interrupted::Late)
        } else if self.stop.now() {
            Some(Interrupted::Cancelled)
        } else {
            None
        };
        if reason.is_some() {
            *self.interrupted = reason;
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.inner.read(buffer)
    }
}
