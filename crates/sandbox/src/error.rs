//! What can go wrong around a sandbox. A tool that fails is not an error here: it is an answer with `is_error`.

use std::path::PathBuf;

/// Why a sandbox could not be made, reached or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// One step of building the boundary failed, so nothing was run.
    #[error(
        "the sandbox was not started: step `{step}` failed: {reason}. Nothing was run. `outwork doctor` shows what this machine lacks"
    )]
    Step {
        /// The isolation step, by the name that the probe uses.
        step: String,
        /// What the kernel said, and on what.
        reason: String,
    },
    /// The process that sandboxes are cloned from could not be started.
    #[error("cannot start the sandbox launcher {program}: {source}")]
    StartLauncher {
        /// The program that was executed.
        program: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The launcher ended, and with it every sandbox that it made.
    #[error("the sandbox launcher has ended ({0}); every sandbox of this worker ended with it")]
    LauncherGone(String),
    /// The workspace cannot be used.
    #[error("workspace {path}: {reason}")]
    Workspace {
        /// The folder on the host.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The sandbox ended while, or before, the call was made.
    #[error("the sandbox has ended: {0}")]
    Ended(String),
    /// The sandbox did not answer in time, not even to a cancel, and was killed.
    #[error("the sandbox did not answer within {0:?} of being told to stop the call, and was killed")]
    Unresponsive(std::time::Duration),
    /// A limit of the whole sandbox was reached, and it was killed.
    #[error("the sandbox was killed: it reached its limit `{limit}` of {value}")]
    Limit {
        /// The limit's name.
        limit: &'static str,
        /// Its value, for people.
        value: String,
    },
    /// Its processes could not be held still, or let go on.
    #[error("the sandbox could not be {attempt}: {reason}")]
    Pause {
        /// `paused` or `resumed`.
        attempt: &'static str,
        /// What happened.
        reason: String,
    },
    /// A checkpoint could not be saved, or is not what was saved; nothing of it was restored.
    #[error("checkpoint {path}: {reason}")]
    Checkpoint {
        /// The checkpoint's file, or the file in question.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The call is larger than a frame may be.
    #[error("the call is {size} bytes; a sandbox takes at most {limit}")]
    CallTooLarge {
        /// Size of the encoded call.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The other side of the socket spoke nonsense; the sandbox is killed.
    #[error("the sandbox sent a frame that is not valid ({0}), and was killed")]
    BadFrame(String),
    /// An option has a value that cannot work.
    #[error("sandbox option `{option}`: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A call to the operating system failed on the worker's side.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl SandboxError {
    pub(crate) fn wall_clock(limit: std::time::Duration) -> Self {
        Self::Limit {
            limit: "wall_clock",
            value: format!("{limit:?}"),
        }
    }

    pub(crate) fn io(attempt: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { attempt, source }
    }
}
