//! What the process answers to who started it: one number per outcome, the same in every command.
//!
//! The numbers are documented in `--help` and never change their meaning. Errors of usage are 64 and not 2,
//! because 2 is an outcome of a session.

use std::process::ExitCode;

/// How a command ended, other than by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `run`, the agent ended its turn.
    Done,
    /// It did not work: an error was printed, a check of `doctor` failed, the demo's check still fails.
    Failed,
    /// The model refused.
    Refused,
    /// The model could not be reached, and nothing tries again.
    RetriesExhausted,
    /// The session waits for an answer that nobody here can give.
    NeedsAction,
    /// The session was terminated or deleted by somebody else.
    Terminated,
    /// Another worker may hold the work item now (`EX_TEMPFAIL`); it was not touched.
    LeaseLost,
    /// Ctrl-C.
    Interrupted,
}

/// Wrong flags or arguments (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;

/// The table of `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done (run: the agent ended its turn)
  1    failed; the error says what and what to do (policy check: refused)
  2    run: the model refused; policy check: it cannot be said
  3    run: the model could not be reached, retries are used up
  4    run: the session waits for an answer that nobody here can give
  5    run: the session was terminated or deleted
  64   wrong flags or arguments
  75   worker run: the lease was lost, the work item was not touched
  130  interrupted";

impl Exit {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Refused => 2,
            Self::RetriesExhausted => 3,
            Self::NeedsAction => 4,
            Self::Terminated => 5,
            Self::LeaseLost => 75,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_in_the_table() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Refused,
            Exit::RetriesExhausted,
            Exit::NeedsAction,
            Exit::Terminated,
            Exit::LeaseLost,
            Exit::Interrupted,
        ] {
            let row = format!("\n  {:<5}", exit.code());
            assert!(HELP.contains(&row), "no row for {exit:?}");
        }
        assert!(HELP.contains(&format!("\n  {USAGE:<5}")));
    }
}
