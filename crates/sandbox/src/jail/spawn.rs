//! Starting the shell from the hand.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::seccomp;
use super::sys::{self, Side};

/// The shell writes the end of each command to this descriptor. Commands run with it closed.
pub(crate) const STATUS: i32 = 199;
/// What the tool promises: this program, not another shell.
const SHELL: &str = "/bin/bash";

/// A shell that was started, with this side's ends of its pipes.
pub(crate) struct Spawned {
    pub pid: Pid,
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub status: OwnedFd,
}

/// Starts the shell in `folder`, in a session of its own.
pub(crate) fn shell(folder: &Path, environment: &[(String, String)], isolated: bool) -> io::Result<Spawned> {
    let (input_out, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (output, output_in) = pipe_with(PipeFlags::CLOEXEC)?;
    let (status, status_in) = pipe_with(PipeFlags::CLOEXEC)?;
    match sys::clone_process(0)? {
        Side::Parent { pid, pidfd: _ } => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
            Ok(Spawned {
                pid,
                input,
                output,
                status,
            })
        }
        Side::Child => {
            let start = || -> io::Result<std::convert::Infallible> {
                let _ = rustix::process::setsid();
                sys::place(input_out.as_fd(), 0)?;
                sys::place(output_in.as_fd(), 1)?;
                sys::place(output_in.as_fd(), 2)?;
                sys::place(status_in.as_fd(), STATUS)?;
                sys::reset_signals();
                std::env::set_current_dir(folder)?;
                if isolated {
                    sys::install_filter(&seccomp::workload_filter())?;
                }
                let mut command = std::process::Command::new(SHELL);
                command
                    .args(["--noprofile", "--norc"])
                    .env_clear()
                    .envs(environment.iter().map(|(name, value)| (name, value)));
                Err(command.env("PS1", "").env("PS2", "").env("TERM", "dumb").exec())
            };
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start));
            if let Ok(Err(error)) = failed {
                let _ = rustix::io::write(&output_in, format!("{SHELL}: {error}\n").as_bytes());
            }
            sys::exit_now(127)
        }
    }
}
