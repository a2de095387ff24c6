//! Ending what one command runs, and nothing that an earlier command left in the background.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::link::reap_all;

/// How long to kill one by one before everything is killed: longer means that something forks as fast as this kills.
const PATIENCE: Duration = Duration::from_millis(500);

/// A point in time, in the unit in which the kernel notes when a process started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

impl Moment {
    /// After every start.
    pub(super) const NEVER: Self = Self(DEAD - 1);

    pub(super) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds * ticks + nanoseconds * ticks / 1_000_000_000)
    }
}

/// Kills the shell and all descendants of this process that started at or after `since`.
pub(super) fn end_since(shell: Pid, since: Moment, isolated: bool) {
    let own = rustix::process::getpid();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut left = 0;
        for process in descendants(own) {
            if process.pid == shell || process.started >= since.0 {
                left += 1;
                let _ = kill_process(process.pid, Signal::KILL);
            }
        }
        reap_all();
        if left == 0 {
            return;
        }
        // What was killed needs a moment to be gone.
        std::thread::sleep(Duration::from_micros(500));
    }
    if isolated {
        // Everything but this process, in one step of the kernel.
        let deadline = Instant::now() + Duration::from_secs(5);
        while descendants(own).next().is_some() && Instant::now() < deadline {
            crate::jail::sys::kill_everything();
            reap_all();
        }
    }
}

/// Asks what a command started to end by itself. The shell lives on and says how the command ended.
pub(super) fn ask_to_end(shell: Pid, since: Moment) {
    for process in descendants(rustix::process::getpid()) {
        if process.pid != shell && process.started >= since.0 {
            let _ = kill_process(process.pid, Signal::TERM);
        }
    }
}

/// Stops every process below this one; says whether all of them stand still.
pub(super) fn pause() -> bool {
    let own = rustix::process::getpid();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let mut moving = false;
        for process in descendants(own).filter(|process| !process.stopped) {
            moving = true;
            let _ = kill_process(process.pid, Signal::STOP);
        }
        if !moving {
            return true;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    // Something forks as fast as this stops, and is left as it was.
    resume();
    false
}

/// Lets every process below this one go on.
pub(super) fn resume() {
    for process in descendants(rustix::process::getpid()) {
        let _ = kill_process(process.pid, Signal::CONT);
    }
}

struct Process {
    pid: Pid,
    parent: i32,
    started: u64,
    /// By a signal.
    stopped: bool,
}

/// Living processes below this one.
fn descendants(own: Pid) -> impl Iterator<Item = Process> {
    let mut by_parent: HashMap<i32, Vec<Process>> = HashMap::new();
    if let Ok(entries) = std::fs::read_dir("/proc") {
        for entry in entries.flatten() {
            if let Some(process) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .and_then(read)
            {
                by_parent.entry(process.parent).or_default().push(process);
            }
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![own.as_raw_pid()];
    while let Some(parent) = parents.pop() {
        for process in by_parent.remove(&parent).unwrap_or_default() {
            parents.push(process.pid.as_raw_pid());
            found.push(process);
        }
    }
    found.into_iter().filter(|process| process.started != DEAD)
}

/// Marks a zombie, which stays in the tree for its children's sake.
const DEAD: u64 = u64::MAX;

fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything, parentheses included.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let [state, parent] = [fields.first()?, fields.get(1)?];
    let started = if matches!(*state, "Z" | "X") {
        DEAD
    } else {
        fields.get(19)?.parse().ok()?
    };
    Some(Process {
        pid: Pid::from_raw(pid)?,
        parent: parent.parse().ok()?,
        started,
        stopped: matches!(*state, "T" | "t"),
    })
}
