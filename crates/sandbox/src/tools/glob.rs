//! `glob`: paths that match a pattern, newest first.

use std::path::{Component, Path};
use std::time::SystemTime;

use globset::GlobBuilder;
use ignore::WalkBuilder;
use serde::Deserialize;

use super::confine::Workspace;
use super::{GLOB_RESULT_LIMIT, Stop, ToolError, WALK_MAX_ENTRIES};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pattern: String,
    path: Option<String>,
}

pub(super) fn run(workspace: &Workspace, input: &Input, stop: &mut Stop<'_>) -> Result<String, ToolError> {
    let pattern = Path::new(&input.pattern);
    if pattern.is_absolute() {
        return Err(ToolError(
            "glob: give a relative pattern (and, if need be, a path); an absolute one is not allowed".to_owned(),
        ));
    }
    if pattern.components().any(|part| part == Component::ParentDir) {
        return Err(ToolError("glob: a pattern may not contain '..'".to_owned()));
    }
    let matcher = GlobBuilder::new(input.pattern.trim_start_matches("./"))
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| ToolError(format!("glob: the pattern is not valid: {error}")))?
        .compile_matcher();
    let start = super::grep::search_root("glob", workspace, input.path.as_deref())?;
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    let walk = WalkBuilder::new(&start)
        .standard_filters(false)
        .follow_links(false)
        .build();
    for (seen, entry) in walk.flatten().enumerate() {
        if seen % 256 == 255 && stop.now() {
            return Err(ToolError("glob: interrupted".to_owned()));
        }
        if seen > WALK_MAX_ENTRIES {
            break;
        }
        let Ok(relative) = entry.path().strip_prefix(&start) else {
            continue;
        };
        if relative.as_os_str().is_empty() || !matcher.is_match(relative) || !workspace.is_inside(entry.path()) {
            continue;
        }
        let changed = entry
            .path()
            .metadata()
            .and_then(|found| found.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        found.push((changed, entry.path().to_string_lossy().into_owned()));
    }
    if found.is_empty() {
        return Ok("no matches".to_owned());
    }
    // Names settle what the clock does not.
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let paths: Vec<String> = found
        .into_iter()
        .take(GLOB_RESULT_LIMIT)
        .map(|(_, path)| path)
        .collect();
    Ok(paths.join("\n"))
}
