//! Control groups: memory, processes and CPU of a whole sandbox.
//!
//! Version 2 first, version 1 where a host is hybrid. A group is made, and a cradle moved into it, before a sandbox is
//! asked for: moving waits for a grace period of the kernel, making does not fit into a millisecond either. The
//! limits are written when the sandbox's own are known. Where no group can be written, limits are rlimits, per
//! process, and the probe says so.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::options::Limits;

use super::wire::{InStep, StepError};

const PERIOD: u64 = 100_000;
const SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";
/// Groups are named after the pid namespace and pid of their launcher, and a serial number.
const PREFIX: &str = "outwork";

/// Which groups this process can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// One hierarchy; sandboxes' groups are made in this folder.
    V2(PathBuf),
    /// Folders of this process in the memory, pids and cpu hierarchies.
    V1 {
        memory: PathBuf,
        pids: PathBuf,
        cpu: Option<PathBuf>,
        freezer: Option<PathBuf>,
    },
    /// None, and why.
    Absent(String),
}

/// The groups of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    V2(PathBuf),
    V1 {
        memory: PathBuf,
        pids: PathBuf,
        cpu: Option<PathBuf>,
        freezer: Option<PathBuf>,
    },
    Absent,
}

/// Where writing holds a group's processes still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Freezer {
    V2(PathBuf),
    V1(PathBuf),
}

impl Freezer {
    /// The group's folder, which lists its processes.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::V2(group) | Self::V1(group) => group,
        }
    }

    /// Tells the group to stand still, or to go on.
    pub(crate) fn tell(&self, still: bool) -> io::Result<()> {
        let (file, value) = match (self, still) {
            (Self::V2(group), true) => (group.join("cgroup.freeze"), "1"),
            (Self::V2(group), false) => (group.join("cgroup.freeze"), "0"),
            (Self::V1(group), true) => (group.join("freezer.state"), "FROZEN"),
            (Self::V1(group), false) => (group.join("freezer.state"), "THAWED"),
        };
        // Never made: the group may be gone.
        let mut file = fs::OpenOptions::new().write(true).open(file)?;
        file.write_all(value.as_bytes())
    }

    /// Whether it does.
    pub(crate) fn is(&self, still: bool) -> io::Result<bool> {
        let (file, line) = match (self, still) {
            (Self::V2(group), true) => (group.join("cgroup.events"), "frozen 1"),
            (Self::V2(group), false) => (group.join("cgroup.events"), "frozen 0"),
            (Self::V1(group), true) => (group.join("freezer.state"), "FROZEN"),
            (Self::V1(group), false) => (group.join("freezer.state"), "THAWED"),
        };
        Ok(fs::read_to_string(file)?.lines().any(|one| one == line))
    }
}

impl Backend {
    /// Finds out, and prepares what is shared by all sandboxes of this launcher.
    pub(crate) fn find_at(mount: &Path) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find_in(mount, &own)
    }

    fn find_in(mount: &Path, own: &str) -> Self {
        let mut reasons = Vec::new();
        match v2(mount, own) {
            Ok(found) => return found,
            Err(reason) => reasons.push(format!("cgroup v2: {reason}")),
        }
        match v1(mount, own) {
            Ok(found) => return found,
            Err(reason) => reasons.push(format!("cgroup v1: {reason}")),
        }
        Self::Absent(reasons.join("; "))
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::V2(_) => "cgroup v2".to_owned(),
            Self::V1 { cpu, .. } if cpu.is_some() => "cgroup v1 (memory, pids, cpu)".to_owned(),
            Self::V1 { .. } => "cgroup v1 (memory, pids)".to_owned(),
            Self::Absent(reason) => format!("rlimits, per process ({reason})"),
        }
    }

    fn parents(&self) -> Vec<&PathBuf> {
        match self {
            Self::V2(parent) => vec![parent],
            Self::V1 {
                memory,
                pids,
                cpu,
                freezer,
            } => [Some(memory), Some(pids), cpu.as_ref(), freezer.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Self::Absent(_) => Vec::new(),
        }
    }

    /// Takes away what launchers that were killed have left. A group that is in use stays by itself.
    pub(crate) fn sweep(&self) {
        let mine = format!("{PREFIX}-{}-", pid_namespace());
        let entries = self
            .parents()
            .into_iter()
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flatten()
            .flatten();
        for entry in entries {
            let name = entry.file_name();
            let launcher = name
                .to_str()
                .and_then(|name| name.strip_prefix(&mine))
                .and_then(|rest| rest.split('-').next());
            if launcher.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                thaw(&entry.path());
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Makes the groups of one sandbox.
    pub(crate) fn make(&self, serial: u64) -> io::Result<Group> {
        let name = format!("{PREFIX}-{}-{}-{serial}", pid_namespace(), std::process::id());
        self.make_named(&name)
    }

    fn make_named(&self, name: &str) -> io::Result<Group> {
        let make = |parent: &PathBuf| {
            let group = parent.join(name);
            fs::create_dir(&group).map(|()| group)
        };
        Ok(match self {
            Self::V2(parent) => Group::V2(make(parent)?),
            Self::V1 {
                memory,
                pids,
                cpu,
                freezer,
            } => Group::V1 {
                memory: make(memory)?,
                pids: make(pids)?,
                cpu: cpu.as_ref().map(make).transpose()?,
                freezer: freezer.as_ref().map(make).transpose()?,
            },
            Self::Absent(_) => Group::Absent,
        })
    }
}

impl Group {
    fn folders(&self) -> Vec<&PathBuf> {
        match self {
            Self::V2(group) => vec![group],
            Self::V1 {
                memory,
                pids,
                cpu,
                freezer,
            } => [Some(memory), Some(pids), cpu.as_ref(), freezer.as_ref()]
                .into_iter()
                .flatten()
                .collect(),
            Self::Absent => Vec::new(),
        }
    }

    /// Moves a process in.
    pub(crate) fn enter(&self, pid: i32) -> io::Result<()> {
        self.folders()
            .into_iter()
            .try_for_each(|group| write(group, "cgroup.procs", pid))
    }

    /// Writes a sandbox's limits.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(), StepError> {
        // The cradle is in the group too.
        let processes = u64::from(limits.max_processes) + 1;
        let quota = limits.cpu_percent.map(|percent| u64::from(percent) * PERIOD / 100);
        let memory_step = "memory limit";
        let cpu_step = "cpu limit";
        match self {
            Self::V2(group) => {
                write(group, "memory.max", limits.memory_bytes).step(memory_step)?;
                if group.join("memory.swap.max").exists() {
                    write(group, "memory.swap.max", 0).step(memory_step)?;
                }
                write(group, "pids.max", processes).step("process limit")?;
                match quota {
                    Some(quota) => write(group, "cpu.max", format!("{quota} {PERIOD}")).step(cpu_step)?,
                    // A group may have been given the last sandbox's limits ahead.
                    None if group.join("cpu.max").exists() => write(group, "cpu.max", "max").step(cpu_step)?,
                    None => {}
                }
            }
            Self::V1 { memory, pids, cpu, .. } => {
                let swap = memory.join(SWAP_LIMIT).exists();
                if swap {
                    // The kernel wants memory <= memory and swap at every moment. This write goes through when the
                    // limit grows; when it shrinks, the one at the end does.
                    let _ = write(memory, SWAP_LIMIT, limits.memory_bytes);
                }
                write(memory, "memory.limit_in_bytes", limits.memory_bytes).step(memory_step)?;
                if swap {
                    write(memory, SWAP_LIMIT, limits.memory_bytes).step(memory_step)?;
                }
                write(pids, "pids.max", processes).step("process limit")?;
                match (quota, cpu) {
                    (Some(quota), Some(cpu)) => {
                        write(cpu, "cpu.cfs_period_us", PERIOD).step(cpu_step)?;
                        write(cpu, "cpu.cfs_quota_us", quota).step(cpu_step)?;
                    }
                    (Some(_), None) => return Err(no_cpu("there is no cpu hierarchy")),
                    (None, Some(cpu)) => write(cpu, "cpu.cfs_quota_us", -1).step(cpu_step)?,
                    (None, None) => {}
                }
            }
            Self::Absent => {
                if quota.is_some() {
                    return Err(no_cpu("no cgroup can be written by this user"));
                }
            }
        }
        Ok(())
    }

    /// Where it can be held still, if it can.
    pub(crate) fn freezer(&self) -> Option<Freezer> {
        match self {
            Self::V2(group) => group.join("cgroup.freeze").exists().then(|| Freezer::V2(group.clone())),
            Self::V1 { freezer, .. } => freezer.clone().map(Freezer::V1),
            Self::Absent => None,
        }
    }

    /// Lets everything in it go on: what is held still cannot be ended.
    pub(crate) fn release(&self) {
        self.folders().into_iter().for_each(|group| thaw(group));
    }

    /// Takes the groups away; they are empty once the sandbox has ended.
    pub(crate) fn remove(&self) -> bool {
        self.folders().into_iter().fold(true, |gone, group| {
            let removed = match fs::remove_dir(group) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            gone && removed
        })
    }
}

fn thaw(group: &Path) {
    for (file, value) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
        if let Ok(mut file) = fs::OpenOptions::new().write(true).open(group.join(file)) {
            let _ = file.write_all(value.as_bytes());
        }
    }
}

/// The number of this process's pid namespace: containers may share a hierarchy, but not pids.
fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino())
}

fn no_cpu(reason: &str) -> StepError {
    StepError {
        step: "cpu limit".to_owned(),
        reason: format!("{reason}; unset `cpu_percent`, or run the worker in a delegated cgroup"),
    }
}

fn write(group: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    fs::write(group.join(file), value.to_string())
        .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))
}

fn path_in<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = if controller.is_empty() {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|one| one == controller)
        };
        found.then_some(path)
    })
}

fn v2(mount: &Path, own: &str) -> Result<Backend, String> {
    let path = path_in(own, "").ok_or("this process is in no group of it")?;
    if !mount.join("cgroup.controllers").exists() {
        return Err("it is not mounted at /sys/fs/cgroup".to_owned());
    }
    let group = mount.join(path.trim_start_matches('/'));
    let offered = fs::read_to_string(group.join("cgroup.controllers")).map_err(|error| error.to_string())?;
    let offered: Vec<&str> = offered.split_whitespace().collect();
    for needed in ["memory", "pids"] {
        if !offered.contains(&needed) {
            return Err(format!("the {needed} controller is not offered to this group"));
        }
    }
    let wanted: Vec<String> = ["memory", "pids", "cpu"]
        .iter()
        .filter(|name| offered.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    let wanted = wanted.join(" ");
    if fs::write(group.join("cgroup.subtree_control"), &wanted).is_err() {
        // A group with processes of its own cannot hand controllers on: everything moves one level down first.
        let own_leaf = group.join("outwork-worker");
        fs::create_dir_all(&own_leaf).map_err(|error| format!("this group is not writable ({error})"))?;
        let processes = fs::read_to_string(group.join("cgroup.procs")).map_err(|error| error.to_string())?;
        for process in processes.lines() {
            fs::write(own_leaf.join("cgroup.procs"), process)
                .map_err(|error| format!("cannot move process {process} ({error})"))?;
        }
        fs::write(group.join("cgroup.subtree_control"), &wanted).map_err(|error| error.to_string())?;
    }
    Ok(Backend::V2(group))
}

fn v1(mount: &Path, own: &str) -> Result<Backend, String> {
    let find = |controller: &str| {
        let path = path_in(own, controller).ok_or(format!("there is no {controller} hierarchy"))?;
        // In a container the path may be of the host; then the mount is the own group.
        let group = [
            mount.join(controller).join(path.trim_start_matches('/')),
            mount.join(controller),
        ]
        .into_iter()
        .find(|group| group.is_dir())
        .ok_or(format!("the {controller} hierarchy is not mounted"))?;
        writable(&group).map(|()| group)
    };
    Ok(Backend::V1 {
        memory: find("memory")?,
        pids: find("pids")?,
        cpu: find("cpu").ok(),
        freezer: find("freezer").ok(),
    })
}

/// Whether groups can be made here: by making one.
fn writable(group: &Path) -> Result<(), String> {
    let trial = group.join(format!("outwork-trial-{}", std::process::id()));
    fs::create_dir(&trial)
        .and_then(|()| fs::remove_dir(&trial))
        .map_err(|error| format!("{} is not writable ({error})", group.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:memory:/\n8:pids:/\n2:cpu,cpuacct:/user\n0::/\n";

    fn limits() -> Limits {
        Limits {
            memory_bytes: 1 << 20,
            max_processes: 7,
            cpu_percent: Some(50),
            ..Limits::default()
        }
    }

    #[test]
    fn version_two_is_taken_where_it_has_the_controllers() {
        let mount = tempfile::tempdir().unwrap();
        let group = mount.path().join("user.slice");
        fs::create_dir(&group).unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        fs::write(group.join("cgroup.controllers"), "cpu memory pids io").unwrap();
        let backend = Backend::find_in(mount.path(), "0::/user.slice\n");
        assert_eq!(backend, Backend::V2(group.clone()));
        assert_eq!(
            fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(),
            "+memory +pids +cpu"
        );
        let sandbox = backend.make_named("one").unwrap();
        sandbox.limit(&limits()).unwrap();
        sandbox.enter(42).unwrap();
        let read = |file: &str| fs::read_to_string(group.join("one").join(file)).unwrap();
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("pids.max"), "8");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("cgroup.procs"), "42");
    }

    #[test]
    fn a_hybrid_host_falls_back_to_version_one() {
        let mount = tempfile::tempdir().unwrap();
        for folder in ["memory", "pids", "cpu/user"] {
            fs::create_dir_all(mount.path().join(folder)).unwrap();
        }
        let backend = Backend::find_in(mount.path(), HYBRID);
        assert_eq!(backend.describe(), "cgroup v1 (memory, pids, cpu)");
        let sandbox = backend.make_named("one").unwrap();
        sandbox.limit(&limits()).unwrap();
        let read = |file: &str| fs::read_to_string(mount.path().join(file)).unwrap();
        assert_eq!(read("memory/one/memory.limit_in_bytes"), "1048576");
        assert_eq!(read("cpu/user/one/cpu.cfs_quota_us"), "50000");
    }

    #[test]
    fn without_groups_a_cpu_limit_is_refused() {
        let mount = tempfile::tempdir().unwrap();
        let backend = Backend::find_in(mount.path(), "");
        let Backend::Absent(reason) = &backend else {
            panic!("{backend:?}")
        };
        assert!(reason.contains("v1") && reason.contains("v2"), "{reason}");
        let sandbox = backend.make_named("one").unwrap();
        assert!(sandbox.limit(&limits()).is_err());
        assert!(
            sandbox
                .limit(&Limits {
                    cpu_percent: None,
                    ..limits()
                })
                .is_ok()
        );
    }
}
