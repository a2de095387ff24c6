//! Every tool call has exactly one result, in the next message.

use std::collections::HashSet;

use super::{Checks, refuse};

/// Tool calls that wait for their result.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    /// Ids of the calls of the last assistant message that have no result yet, in order.
    open: Vec<String>,
    /// Ids of the calls of the last assistant message.
    last: Vec<String>,
    /// Ids that have a result.
    answered: HashSet<String>,
    /// All ids of calls.
    seen: HashSet<String>,
    /// The message of the calls.
    message: usize,
}

impl Pairing {
    /// An assistant message begins; its calls follow.
    pub(super) fn begin(&mut self, message: usize) {
        self.last.clear();
        self.message = message;
    }

    /// The user message after it ends: later results come too late.
    pub(super) fn end(&mut self) {
        self.last.clear();
    }

    /// Whether calls wait for their result.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Refuses to go on while calls are open.
    pub(super) fn settle(&self) -> Checks {
        if self.open.is_empty() {
            return Ok(());
        }
        refuse(
            &format!("messages.{}", self.message),
            format!(
                "`tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block \
                 must have a corresponding `tool_result` block in the next message.",
                self.open.join(", ")
            ),
        )
    }

    pub(super) fn call(&mut self, path: &str, id: &str) -> Checks {
        if !self.seen.insert(id.to_owned()) {
            return refuse(path, format!("`tool_use` ids must be unique; `{id}` occurs twice"));
        }
        self.open.push(id.to_owned());
        self.last.push(id.to_owned());
        Ok(())
    }

    pub(super) fn result(&mut self, path: &str, id: &str) -> Checks {
        if let Some(place) = self.open.iter().position(|open| open == id) {
            self.open.remove(place);
            self.answered.insert(id.to_owned());
            return Ok(());
        }
        if self.last.iter().any(|last| last == id) && self.answered.contains(id) {
            return refuse(
                path,
                format!("each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id}"),
            );
        }
        refuse(
            path,
            format!(
                "unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a \
                 corresponding `tool_use` block in the previous message."
            ),
        )
    }
}
