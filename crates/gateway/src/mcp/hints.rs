//! What a server says about its tools: whether they only read.
//!
//! Learnt from answers to `tools/list` as they pass, or asked for when a call needs it. What was learnt is believed for
//! five minutes, and not at all after the server said that its list changed. A tool that is not known is not read-only.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long what was learnt is believed.
const BELIEVED: Duration = Duration::from_secs(300);
/// How long a tool that a complete list did not have is believed not to exist.
const ABSENT: Duration = Duration::from_secs(5);
/// The most tools that are remembered for one route.
const TOOLS: usize = 10_000;

/// What is known about a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The server says that it only reads.
    ReadOnly,
    /// The server does not say so.
    Writes,
    /// The server's list does not have it.
    Absent,
    /// Nothing: ask.
    Unknown,
}

/// What is known about the tools of one route.
#[derive(Default)]
pub struct Hints {
    state: Mutex<State>,
    /// Held while the server is asked, so that one question is under way at a time.
    pub(crate) asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    tools: HashMap<String, (bool, Instant)>,
    complete: Option<Instant>,
}

impl Hints {
    /// What is known about a tool at this time.
    pub fn of(&self, tool: &str, now: Instant) -> Hint {
        let state = self.state();
        match state.tools.get(tool) {
            Some((read_only, since)) if now.duration_since(*since) < BELIEVED => {
                if *read_only { Hint::ReadOnly } else { Hint::Writes }
            }
            _ if state.complete.is_some_and(|at| now.duration_since(at) < ABSENT) => Hint::Absent,
            _ => Hint::Unknown,
        }
    }

    /// The server said this about a tool.
    pub fn learn(&self, tool: &str, read_only: bool, now: Instant) {
        let mut state = self.state();
        if state.tools.len() >= TOOLS && !state.tools.contains_key(tool) {
            state.tools.retain(|_, (_, since)| now.duration_since(*since) < BELIEVED);
            if state.tools.len() >= TOOLS {
                return;
            }
        }
        state.tools.insert(tool.to_owned(), (read_only, now));
    }

    /// All of the server's list was learnt.
    pub fn complete(&self, now: Instant) {
        self.state().complete = Some(now);
    }

    /// The server's list changed.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_believed_for_a_while() {
        let hints = Hints::default();
        let now = Instant::now();
        assert_eq!(hints.of("a", now), Hint::Unknown);
        hints.learn("a", true, now);
        hints.learn("b", false, now);
        assert_eq!((hints.of("a", now), hints.of("b", now)), (Hint::ReadOnly, Hint::Writes));
        hints.learn("a", false, now);
        assert_eq!(hints.of("a", now), Hint::Writes);
        assert_eq!(hints.of("a", now + BELIEVED), Hint::Unknown);
        hints.complete(now);
        assert_eq!(hints.of("c", now), Hint::Absent);
        assert_eq!(hints.of("c", now + ABSENT), Hint::Unknown);
        hints.forget();
        assert_eq!(hints.of("b", now), Hint::Unknown);
    }

    #[test]
    fn a_server_with_endless_tools_fills_no_memory() {
        let hints = Hints::default();
        let now = Instant::now();
        for index in 0..TOOLS + 10 {
            hints.learn(&index.to_string(), true, now);
        }
        assert_eq!(hints.state().tools.len(), TOOLS);
        assert_eq!(hints.of(&TOOLS.to_string(), now), Hint::Unknown);
    }
}
