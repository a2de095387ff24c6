//! Ending every process of a sandbox from outside.
//!
//! Killing the first process of a pid namespace makes the kernel kill all others, but only once that process gets its
//! turn on a processor, which takes long among hundreds that spin. So the others are killed from here at the same
//! time. A number is only trusted together with what it was found as: a process that ended meanwhile must not be
//! mistaken for a stranger that has its number now.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::jail::cgroup::Freezer;

/// Rounds of looking and killing. Each finds what was forked during the last.
const ROUNDS: usize = 50;
const BREATH: Duration = Duration::from_millis(1);

/// Where to find the processes of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// The first process, by its number on the host.
    pub(crate) first: i32,
    /// Its parent, which is in the same group and is left alone: it says how the sandbox ended.
    pub(crate) cradle: i32,
    pub(crate) group: Option<Freezer>,
}

impl Sweep {
    /// Kills until nothing is found. Blocks for as long as that takes.
    pub(crate) fn run(&self) {
        for _ in 0..ROUNDS {
            let found = match &self.group {
                Some(group) => self.kill_group(group.folder()),
                None => self.kill_tree(),
            };
            if found == 0 {
                return;
            }
            std::thread::sleep(BREATH);
        }
    }

    /// Kills the members of the group; how many there were.
    fn kill_group(&self, group: &Path) -> usize {
        let Some(name) = group.file_name().and_then(|name| name.to_str()) else {
            return 0;
        };
        let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        members
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid != self.cradle)
            .filter(|pid| {
                kill_if(*pid, || {
                    // The name of a group is given once on a machine, and holds for as long as the process lives.
                    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                    groups.lines().any(|line| line.ends_with(&format!("/{name}")))
                })
            })
            .count()
    }

    /// Kills what descends from the first process; how many there were.
    fn kill_tree(&self) -> usize {
        let mut by_parent: HashMap<i32, Vec<(i32, u64)>> = HashMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && let Some((parent, started)) = stat(pid)
            {
                by_parent.entry(parent).or_default().push((pid, started));
            }
        }
        // Only as long as the first process is still this cradle's: its number may be a stranger's by now.
        let mine = |pid: &i32| stat(*pid).is_some_and(|(parent, _)| parent == self.cradle);
        let mut parents: Vec<i32> = Some(self.first).filter(mine).into_iter().collect();
        let mut found = parents.len();
        while let Some(parent) = parents.pop() {
            for (pid, started) in by_parent.remove(&parent).unwrap_or_default() {
                parents.push(pid);
                found += usize::from(kill_if(pid, || stat(pid).is_some_and(|(_, now)| now == started)));
            }
        }
        found
    }
}

/// Kills a process if it is, once it can no longer change, what it was found as.
fn kill_if(pid: i32, same: impl FnOnce() -> bool) -> bool {
    let Some(held) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    same() && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Parent and start of a process that lives.
fn stat(pid: i32) -> Option<(i32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}
