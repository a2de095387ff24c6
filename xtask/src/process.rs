//! Running other programs: one group of processes each, output kept in a file, a deadline that ends the
//! whole group, and signs of life while it runs. Nothing that a task starts outlives it.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const SAY_EVERY: Duration = Duration::from_secs(20);
const LINES_SHOWN: usize = 150;

/// How a program is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// After this long the program and everything that it started is ended.
    pub(crate) deadline: Duration,
    /// Whether its output goes to the terminal as it comes; otherwise to the log, shown on failure.
    pub(crate) stream: bool,
}

/// Runs a program to its end. On failure the error carries the end of its output.
pub(crate) fn run(mut command: Command, log: &Path, bounds: Bounds) -> Result<()> {
    let shown = format!("{command:?}");
    let started = Instant::now();
    command.stdin(Stdio::null()).process_group(0);
    if !bounds.stream {
        let file = File::create(log).with_context(|| format!("could not make the log {}", log.display()))?;
        let again = file.try_clone().context("could not share the log")?;
        command.stdout(file).stderr(again);
    }
    let child = command.spawn().with_context(|| format!("could not start {shown}"))?;
    let mut group = Group { child, ended: false };
    let mut said = Instant::now();
    loop {
        if let Some(status) = group.poll()? {
            return finish(status, &shown, log, bounds.stream);
        }
        if started.elapsed() > bounds.deadline {
            drop(group);
            bail!(
                "{shown} did not end within {} s and was stopped{}",
                bounds.deadline.as_secs(),
                tail_of(log, bounds.stream)
            );
        }
        if !bounds.stream && said.elapsed() > SAY_EVERY {
            said = Instant::now();
            sign_of_life(started, log);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A child that leads its own group; the group ends when this is dropped.
pub(crate) struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    /// Starts a program at the head of a new group.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {shown}"))?;
        Ok(Self { child, ended: false })
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status if it has ended.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("could not wait for a program")?;
        self.ended |= status.is_some();
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // A group that is already gone is what was wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::TERM);
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(5) {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        // What the leader left behind goes too; the leader is reaped below.
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn finish(status: ExitStatus, shown: &str, log: &Path, streamed: bool) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("{shown} ended with {status}{}", tail_of(log, streamed));
}

fn tail_of(log: &Path, streamed: bool) -> String {
    if streamed {
        return String::new();
    }
    let text = last_text(log, 256 * 1024);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES_SHOWN);
    format!(
        "; the whole output is in {}, its end:\n{}",
        log.display(),
        lines[from..].join("\n")
    )
}

fn sign_of_life(started: Instant, log: &Path) {
    let text = last_text(log, 4096);
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no output yet");
    let short: String = line.trim().chars().take(100).collect();
    let mut out = std::io::stdout();
    let mark = if out.is_terminal() { "\u{2026}" } else { "..." };
    // Losing a line of progress is no reason to fail.
    let _ = writeln!(out, "      {mark} {} s: {short}", started.elapsed().as_secs());
    let _ = out.flush();
}

fn last_text(path: &Path, most: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("xtask-process-{}-{name}.log", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const SHORT: Bounds = Bounds {
        deadline: Duration::from_secs(20),
        stream: false,
    };

    #[test]
    fn a_failure_carries_the_end_of_the_output() {
        let path = log("failure");
        let error = run(shell("echo first; echo wrong >&2; exit 3"), &path, SHORT)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("first") && error.contains("wrong") && error.contains('3'),
            "{error}"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_deadline_ends_what_the_program_started() {
        let path = log("deadline");
        let bounds = Bounds {
            deadline: Duration::from_millis(500),
            stream: false,
        };
        let error = run(shell("sleep 300 & echo $!; wait"), &path, bounds)
            .unwrap_err()
            .to_string();
        assert!(error.contains("was stopped"), "{error}");
        let pid: i32 = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        std::fs::remove_file(path).unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // The kill is delivered before the parent is told; the entry stays until init reaps it.
        let asked = Instant::now();
        loop {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            let gone = state.is_err() || state.is_ok_and(|text| text.contains(") Z "));
            if gone {
                break;
            }
            assert!(
                asked.elapsed() < Duration::from_secs(10),
                "the child of the program is still there"
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
