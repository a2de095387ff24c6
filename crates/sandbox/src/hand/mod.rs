//! The hand: the first process inside a sandbox. It holds the shell and runs the file tools.
//!
//! It serves one call after the other, in the order in which they came, and stays able to hear a cancel while one
//! runs. It has one thread. It refuses everything that is not a well-formed frame by ending, and the sandbox with it.
//! It reaps every process whose parent has gone.
//!
//! The workload runs as the same user, so the hand protects itself: it is not dumpable (nobody opens its memory,
//! descriptors or environment), the kernel drops signals to it as the first process of its namespace, and its socket
//! is close-on-exec.

pub mod frame;
mod link;
mod processes;
mod shell;
mod terminal;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use frame::{AnswerBody, CallBody};
use link::{Gone, Link};
use shell::{Ended, Shell};

use crate::output::ContentBlock;
use crate::tools::{self, Stop, ToolError, Workspace};

/// How the hand works.
#[derive(Clone, Debug)]
pub(crate) struct HandOptions {
    /// The workspace, as a path of the hand's own view.
    pub root: PathBuf,
    /// The shell's variables.
    pub environment: Vec<(String, String)>,
    /// How much of a command's output is kept.
    pub max_output_bytes: usize,
    /// Whether there is a boundary around it.
    pub isolated: bool,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
const NO_OUTPUT: &str = "(no output)";

/// Serves until the worker is gone. Returns the exit code.
pub(crate) fn serve(socket: OwnedFd, options: HandOptions) -> i32 {
    match Hand::start(socket, options) {
        Ok(mut hand) => match hand.live() {
            Gone::Worker => 0,
            Gone::BadFrame => 3,
            Gone::Io => 4,
        },
        Err(_) => 4,
    }
}

struct Hand {
    link: Link,
    options: HandOptions,
    workspace: Workspace,
    shell: ShellState,
}

enum ShellState {
    /// None was needed yet.
    NotStarted,
    Running(Shell),
    /// It ended by itself; the model must ask for a new one, so that it knows that its state is lost.
    Ended,
}

impl Hand {
    fn start(socket: OwnedFd, options: HandOptions) -> std::io::Result<Self> {
        let workspace = Workspace::open(&options.root)?;
        let children = crate::jail::sys::child_signal_fd()?;
        let link = Link::new(socket, children);
        link.ready()?;
        Ok(Self {
            link,
            options,
            workspace,
            shell: ShellState::NotStarted,
        })
    }

    fn live(&mut self) -> Gone {
        loop {
            while let Some((id, call)) = self.link.next_call() {
                let answer = match self.run(id, call) {
                    Ok(answer) => answer,
                    Err(gone) => return gone,
                };
                if self.link.answer(id, &answer).is_err() {
                    return Gone::Io;
                }
            }
            if let Err(gone) = self.link.wait() {
                return gone;
            }
        }
    }

    fn run(&mut self, id: u64, call: CallBody) -> Result<AnswerBody, Gone> {
        if call.name == "bash" {
            return self.bash(id, call.input);
        }
        let link = &mut self.link;
        let mut gone = None;
        let mut stop = || match link.poll_cancelled(id) {
            Ok(cancelled) => cancelled,
            Err(reason) => {
                gone = Some(reason);
                true
            }
        };
        let outcome = tools::run(&self.workspace, &call.name, call.input, &mut Stop::new(&mut stop));
        if let Some(gone) = gone {
            return Err(gone);
        }
        Ok(match outcome {
            Ok(block) => AnswerBody {
                content: vec![never_empty(block)],
                is_error: false,
                exit_code: None,
            },
            Err(ToolError(text)) => failed(text),
        })
    }

    fn bash(&mut self, id: u64, input: serde_json::Value) -> Result<AnswerBody, Gone> {
        let input = match tools::bash_input(input) {
            Ok(input) => input,
            Err(ToolError(text)) => return Ok(failed(text)),
        };
        if input.restart {
            self.end_shell();
            return Ok(match self.fresh_shell() {
                Ok(shell) => {
                    self.shell = ShellState::Running(shell);
                    text("bash session restarted".to_owned(), false, None)
                }
                Err(error) => failed(error),
            });
        }
        let Some(command) = input.command.filter(|command| !command.is_empty()) else {
            return Ok(failed("bash: give a `command`, or `restart: true`".to_owned()));
        };
        if command.contains('\0') {
            return Ok(failed("bash: the command contains a NUL character".to_owned()));
        }
        if matches!(self.shell, ShellState::NotStarted) {
            match self.fresh_shell() {
                Ok(shell) => self.shell = ShellState::Running(shell),
                Err(error) => return Ok(failed(error)),
            }
        }
        let ShellState::Running(shell) = &mut self.shell else {
            return Ok(failed(
                "bash: the shell has ended; call bash with `restart: true` for a new one".to_owned(),
            ));
        };
        let timeout = input.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        let run = shell.run(
            &command,
            Instant::now() + timeout,
            self.options.max_output_bytes,
            &mut self.link,
            id,
        )?;
        let output = terminal::plain(&run.output);
        Ok(match run.ended {
            Ended::Code(code) => text(
                framed(output.trim_end_matches('\n'), run.truncated),
                code != 0,
                Some(code),
            ),
            Ended::Shell => {
                self.shell = ShellState::Ended;
                text(framed(output.trim(), run.truncated), true, None)
            }
            Ended::Timeout => {
                self.renew_shell();
                failed(format!(
                    "bash: the command was stopped after {}s, its limit. The shell was started anew: its folder and variables are as at first",
                    timeout.as_secs_f64()
                ))
            }
            Ended::Cancelled => {
                self.renew_shell();
                failed("bash: interrupted. The command was stopped and the shell was started anew: its folder and variables are as at first".to_owned())
            }
        })
    }

    fn fresh_shell(&self) -> Result<Shell, String> {
        Shell::start(&self.options.root, &self.options.environment, self.options.isolated)
            .map_err(|error| format!("bash: cannot start /bin/bash: {error}"))
    }

    fn end_shell(&mut self) {
        if let ShellState::Running(shell) = std::mem::replace(&mut self.shell, ShellState::NotStarted) {
            shell.end();
        }
    }

    /// After a stopped command; its processes are dead already. If no shell can be started now, the next call tries.
    fn renew_shell(&mut self) {
        self.shell = ShellState::NotStarted;
        if let Ok(shell) = self.fresh_shell() {
            self.shell = ShellState::Running(shell);
        }
    }
}

fn framed(output: &str, truncated: bool) -> String {
    if truncated {
        format!("[output truncated]\n{output}")
    } else {
        output.to_owned()
    }
}

fn failed(message: String) -> AnswerBody {
    text(message, true, None)
}

fn text(text: String, is_error: bool, exit_code: Option<i32>) -> AnswerBody {
    AnswerBody {
        content: vec![never_empty(ContentBlock::Text { text })],
        is_error,
        exit_code,
    }
}

/// The API takes no empty text block.
fn never_empty(block: ContentBlock) -> ContentBlock {
    match block {
        ContentBlock::Text { text } if text.is_empty() => ContentBlock::Text {
            text: NO_OUTPUT.to_owned(),
        },
        block @ (ContentBlock::Text { .. } | ContentBlock::Image { .. } | ContentBlock::Document { .. }) => block,
    }
}
