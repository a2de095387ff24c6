//! The persistent shell: one `/bin/bash` whose folder, variables and jobs stay from call to call.
//!
//! A command is handed over as one quoted word for `eval`, so nothing in it can unbalance what follows. Its input is
//! empty and its error output joins its output. When it is done the shell writes the exit code to a descriptor that
//! commands do not have, so output can neither hide nor pretend the end of a command.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::Timespec;
use rustix::fs::OFlags;

use super::link::{Gone, Link};
use super::processes::{Moment, ask_to_end, end_since};
use crate::jail::spawn::{self, STATUS, Spawned};

pub(super) struct Shell {
    spawned: Spawned,
    isolated: bool,
    serial: u64,
}

/// One command's output and end.
pub(super) struct Run {
    pub output: Vec<u8>,
    pub truncated: bool,
    pub ended: Ended,
}

/// How a command ended.
pub(super) enum Ended {
    /// By itself.
    Code(i32),
    /// By ending the shell.
    Shell,
    Timeout,
    Cancelled,
}

impl Shell {
    pub(super) fn start(folder: &Path, environment: &[(String, String)], isolated: bool) -> io::Result<Self> {
        let spawned = spawn::shell(folder, environment, isolated)?;
        for fd in [&spawned.input, &spawned.output, &spawned.status] {
            rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            spawned,
            isolated,
            serial: 0,
        })
    }

    /// Ends the shell. What it left in the background lives on, as it does when a terminal's shell ends.
    pub(super) fn end(self) {
        end_since(self.spawned.pid, Moment::NEVER, self.isolated);
    }

    /// Runs one command to its end, its deadline or its cancel. In the latter two cases everything that it
    /// started is dead when this returns, and the shell too.
    pub(super) fn run(
        &mut self,
        command: &str,
        deadline: Instant,
        most: usize,
        link: &mut Link,
        id: u64,
    ) -> Result<Run, Gone> {
        let begun = Moment::now();
        self.serial += 1;
        let line = format!(
            "eval {} </dev/null 2>&1 {STATUS}>&-; builtin printf '%d %d\\n' {} \"$?\" >&{STATUS}\n",
            quoted(command),
            self.serial
        );
        let mut unsent = line.as_bytes();
        let mut tail = Tail {
            bytes: Vec::new(),
            most,
            truncated: false,
        };
        let mut status = Vec::new();
        let mut output_open = true;
        loop {
            if !unsent.is_empty() {
                match rustix::io::write(&self.spawned.input, unsent) {
                    Ok(written) => unsent = unsent.get(written..).unwrap_or_default(),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    // The shell is gone; its output says so below.
                    Err(_) => unsent = &[],
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(self.stop(begun, tail, Ended::Timeout));
            }
            // While input is unsent the shell reads it byte by byte; look again soon.
            let patience = if unsent.is_empty() {
                left
            } else {
                left.min(std::time::Duration::from_millis(2))
            };
            let patience = Timespec {
                tv_sec: patience.as_secs() as i64,
                tv_nsec: i64::from(patience.subsec_nanos()),
            };
            let fds = [self.spawned.status.as_fd(), self.spawned.output.as_fd()];
            let watched = if output_open { &fds[..] } else { &fds[..1] };
            let ready = link.wait_with(watched, Some(&patience))?;
            if link.ending(id) {
                ask_to_end(self.spawned.pid, begun);
            }
            if link.cancelled(id) {
                return Ok(self.stop(begun, tail, Ended::Cancelled));
            }
            let [status_ready, output_ready @ ..] = ready.as_slice() else {
                return Err(Gone::Io);
            };
            if output_ready.first() == Some(&true) {
                output_open = !tail.read(&self.spawned.output);
            }
            if *status_ready {
                let closed = read_all(&self.spawned.status, &mut status);
                if let Some(code) = self.code_in(&status) {
                    // What the command wrote before it ended is in the pipe by now.
                    tail.read(&self.spawned.output);
                    return Ok(tail.into_run(Ended::Code(code)));
                }
                if closed {
                    // The shell may have become another program with `exec`.
                    end_since(self.spawned.pid, Moment::NEVER, self.isolated);
                    tail.read(&self.spawned.output);
                    return Ok(tail.into_run(Ended::Shell));
                }
            }
        }
    }

    fn code_in(&self, status: &[u8]) -> Option<i32> {
        let text = std::str::from_utf8(status).ok()?;
        text.split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .find_map(|line| {
                let (serial, code) = line.split_once(' ')?;
                (serial.parse() == Ok(self.serial)).then(|| code.parse().ok())?
            })
    }

    fn stop(&self, begun: Moment, mut tail: Tail, ended: Ended) -> Run {
        end_since(self.spawned.pid, begun, self.isolated);
        tail.read(&self.spawned.output);
        tail.into_run(ended)
    }
}

/// The end of the output, which is what is kept.
struct Tail {
    bytes: Vec<u8>,
    most: usize,
    truncated: bool,
}

impl Tail {
    /// Reads what is there; says whether all writers are gone.
    fn read(&mut self, from: impl AsFd) -> bool {
        let mut chunk = [0_u8; 64 << 10];
        loop {
            match rustix::io::read(&from, &mut chunk) {
                Ok(0) => return true,
                Ok(read) => {
                    self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
                    if self.bytes.len() > self.most {
                        self.bytes.drain(..self.bytes.len() - self.most);
                        self.truncated = true;
                    }
                    // A command that never stops writing must not keep this loop from hearing a cancel.
                    if read < chunk.len() {
                        return false;
                    }
                    return self.drain_once_more(from);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn drain_once_more(&mut self, from: impl AsFd) -> bool {
        let mut chunk = [0_u8; 64 << 10];
        if let Ok(read) = rustix::io::read(&from, &mut chunk) {
            self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
            if self.bytes.len() > self.most {
                self.bytes.drain(..self.bytes.len() - self.most);
                self.truncated = true;
            }
        }
        false
    }

    fn into_run(self, ended: Ended) -> Run {
        Run {
            output: self.bytes,
            truncated: self.truncated,
            ended,
        }
    }
}

/// Reads what is there; says whether all writers are gone.
fn read_all(from: impl AsFd, into: &mut Vec<u8>) -> bool {
    let mut chunk = [0_u8; 256];
    loop {
        match rustix::io::read(&from, &mut chunk) {
            Ok(0) => return true,
            Ok(read) => into.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A command as one word of the shell.
fn quoted(command: &str) -> String {
    format!("'{}'", command.replace('\'', r"'\''"))
}
