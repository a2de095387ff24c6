//! From a fresh clone to a closed sandbox: the steps that the first process of a sandbox takes on itself.
//!
//! Each step has a name; the first that fails is reported over the sandbox's socket and the process ends. Nothing of
//! the workload runs before the last step is done. Mounts are made here, inside the sandbox's own user namespace, over
//! a copy of the template; only the workspace comes in as a detached mount that the cradle prepared.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::hand::frame::{FailedBody, FromHand};
use crate::hand::{self, HandOptions};
use crate::options::Limits;

use super::fence;
use super::sys;
use super::template::{self, EMPTY_FILE, EMPTY_FOLDER};
use super::wire::{InStep, Launch, StepError};
use super::sys::Instruction;

/// The user that everything inside runs as, by its number inside.
pub(crate) const INSIDE_ID: u32 = 1000;

/// Entries of `/proc` that tell about the host, covered with nothing. Those that tell by being written to need no
/// cover: `/proc` is read-only as a whole.
pub(crate) const COVERED: &[&str] = &[
    "acpi", "asound", "bus", "cmdline", "config.gz", "diskstats", "driver", "fs", "interrupts", "iomem", "ioports", "irq",
    "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats",
    "mdstat", "modules", "pagetypeinfo", "partitions", "sched_debug", "schedstat", "scsi", "slabinfo", "softirqs",
    "swaps", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo", "zoneinfo",
];

/// What was prepared before the clone.
pub(crate) struct Plan {
    pub launch: Launch,
    /// Detached mount of the workspace.
    pub workspace: OwnedFd,
    /// Those of [`COVERED`] that this kernel has, and whether each is a folder.
    pub covered: Vec<(String, bool)>,
    pub filter: Vec<Instruction>,
    /// Memory is limited by a cgroup; else by rlimit.
    pub grouped: bool,
}

/// The first process of an isolated sandbox. `go` yields a byte when its ids are mapped.
pub(crate) fn isolated(plan: Plan, go: OwnedFd, socket: OwnedFd, output: Option<OwnedFd>) -> ! {
    // `descriptors` closes by number what these own; the process never gives them back one by one.
    let (plan, output) = (ManuallyDrop::new(plan), ManuallyDrop::new(output));
    ending(socket, |socket| {
        wait_for(&go)?;
        drop(go);
        close_in(&plan)?;
        descriptors(socket, (*output).as_ref())?;
        after_descriptors(&plan.launch, true)
    })
}

/// The first process of a sandbox without isolation.
pub(crate) fn open(launch: Launch, go: OwnedFd, socket: OwnedFd, output: Option<OwnedFd>) -> ! {
    let output = ManuallyDrop::new(output);
    ending(socket, |socket| {
        wait_for(&go)?;
        drop(go);
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("parent death signal")?;
        rustix::process::setsid().step("session")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).step("subreaper")?;
        rustix::process::setrlimit(Resource::Core, limit(0)).step("limits")?;
        std::env::set_current_dir(&launch.workspace).step("workspace")?;
        descriptors(socket, (*output).as_ref())?;
        after_descriptors(&launch, false)
    })
}

/// Runs the steps; reports the one that fails; never returns into the launcher's code.
fn ending(socket: OwnedFd, steps: impl FnOnce(&OwnedFd) -> Result<std::convert::Infallible, StepError>) -> ! {
    let socket = ManuallyDrop::new(socket);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps(&socket)));
    let error = match outcome {
        Ok(Err(error)) => error,
        Ok(Ok(never)) => match never {},
        Err(_) => StepError { step: "start".to_owned(), reason: "the launcher panicked".to_owned() },
    };
    let frame = FromHand::Failed(FailedBody { step: error.step, reason: error.reason }).encode();
    // Before `descriptors` the handle is open; after it the socket has its number, and the handle may be closed.
    if rustix::io::write(&*socket, &frame).is_err()
        && let Some(socket) = sys::adopt(SOCKET)
    {
        let _ = rustix::io::write(socket, &frame);
    }
    sys::exit_now(EXIT_SETUP);
}

/// Exit code of a first process that could not set its sandbox up.
pub(crate) const EXIT_SETUP: i32 = 125;
/// The one descriptor that joins a sandbox to its worker.
const SOCKET: i32 = 3;

fn wait_for(go: &OwnedFd) -> Result<(), StepError> {
    let mut byte = [0_u8; 1];
    loop {
        match rustix::io::read(go, &mut byte) {
            Ok(1) => return Ok(()),
            Ok(_) => return Err(StepError { step: "id mapping".to_owned(), reason: "the launcher ended".to_owned() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("id mapping"),
        }
    }
}

fn close_in(plan: &Plan) -> Result<(), StepError> {
    let id = "inside user";
    rustix::thread::set_thread_res_gid(Gid::from_raw(INSIDE_ID), Gid::from_raw(INSIDE_ID), Gid::from_raw(INSIDE_ID)).step(id)?;
    rustix::thread::set_thread_res_uid(Uid::from_raw(INSIDE_ID), Uid::from_raw(INSIDE_ID), Uid::from_raw(INSIDE_ID)).step(id)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("parent death signal")?;
    rustix::process::setsid().step("session")?;
    rustix::system::sethostname(plan.launch.hostname.as_bytes()).step("uts namespace")?;
    sys::interface_up(b"lo").step("loopback")?;
    mounts(plan)?;
    limits(&plan.launch.limits, plan.grouped)?;
    rustix::thread::set_no_new_privs(true).step("no_new_privs")?;
    fence::restrict().step("landlock")?;
    sys::drop_bounding_set().step("capabilities")?;
    rustix::thread::clear_ambient_capability_set().step("capabilities")?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .step("capabilities")?;
    sys::install_filter(&plan.filter).step("seccomp")
}

/// The root is this namespace's root already; what is this sandbox's own is mounted in it.
fn mounts(plan: &Plan) -> Result<(), StepError> {
    std::env::set_current_dir("/").step("root filesystem")?;
    template::attach(&plan.workspace, "workspace").step("workspace")?;
    let size = plan.launch.limits.disk_bytes.to_string();
    let options = [("size", size.as_str()), ("nr_inodes", "1048576"), ("mode", "1777")];
    let tmp = template::tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV).step("tmpfs")?;
    rustix::fs::mkdirat(&tmp, ".home", Mode::from_raw_mode(0o700)).step("tmpfs")?;
    rustix::fs::mkdirat(&tmp, ".shm", Mode::from_raw_mode(0o777)).step("tmpfs")?;
    template::attach(&tmp, "tmp").step("tmpfs")?;
    let proc_tree = template::proc_filesystem().step("proc")?;
    template::attach(&proc_tree, "proc").step("proc")?;
    for (name, is_folder) in &plan.covered {
        let cover = if *is_folder { EMPTY_FOLDER } else { EMPTY_FILE };
        let tree = open_tree(CWD, cover, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).step("covered /proc")?;
        template::attach(&tree, Path::new("proc").join(name)).step("covered /proc")?;
    }
    std::env::set_current_dir("/workspace").step("workspace")
}

fn limits(limits: &Limits, grouped: bool) -> Result<(), StepError> {
    let processes = u64::from(limits.max_processes);
    let mut set = vec![
        (Resource::Core, 0),
        (Resource::Fsize, limits.disk_bytes),
        (Resource::Nproc, processes),
        (Resource::Nofile, 65_536),
        (Resource::Memlock, 8 << 20),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    if !grouped {
        set.push((Resource::Data, limits.memory_bytes));
    }
    for (resource, value) in set {
        let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        rustix::process::setrlimit(resource, limit(value.min(hard))).step("limits")?;
    }
    Ok(())
}

fn limit(value: u64) -> Rlimit {
    Rlimit { current: Some(value), maximum: Some(value) }
}

/// Leaves the standard descriptors and the socket, and closes all others.
fn descriptors(socket: &OwnedFd, output: Option<&OwnedFd>) -> Result<(), StepError> {
    let step = "descriptors";
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, Mode::empty()).step(step)?;
    let null = ManuallyDrop::new(null);
    let written = output.unwrap_or(&null);
    // Numbers 0 to 2 are open in every process of the launcher, so none of these handles is one of them.
    for number in 0..3 {
        sys::place(if number == 0 { null.as_fd() } else { written.as_fd() }, number).step(step)?;
    }
    if socket.as_raw_fd() != SOCKET {
        sys::place(socket.as_fd(), SOCKET).step(step)?;
    }
    sys::set_close_on_exec(SOCKET, true).step(step)?;
    sys::close_from(SOCKET as u32 + 1).step(step)
}

fn after_descriptors(launch: &Launch, isolated: bool) -> Result<std::convert::Infallible, StepError> {
    if let Some(arguments) = &launch.run {
        let (program, rest) = arguments.split_first().ok_or("no program was named").step("exec")?;
        sys::reset_signals();
        let error = std::process::Command::new(program).args(rest).env_clear().envs(environment(launch, isolated)).exec();
        return Err(error).step("exec");
    }
    // From here on the workload cannot look into this process: not its memory, descriptors or environment.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).step("undumpable")?;
    let _ = rustix::thread::set_name(c"outwork-hand");
    let socket = sys::adopt(SOCKET).ok_or("the socket is gone").step("descriptors")?;
    let root = if isolated { PathBuf::from("/workspace") } else { launch.workspace.clone() };
    let code = hand::serve(socket, HandOptions {
        root,
        environment: environment(launch, isolated),
        max_output_bytes: launch.limits.max_output_bytes,
        isolated,
    });
    sys::exit_now(code);
}

/// The variables that programs inside see. Without isolation the worker passes what they need of its own.
fn environment(launch: &Launch, isolated: bool) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    if isolated {
        for (name, value) in [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/home/agent"),
            ("USER", "agent"),
            ("LOGNAME", "agent"),
            ("SHELL", "/bin/bash"),
            ("LANG", "C.UTF-8"),
        ] {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    for (name, value) in &launch.env {
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

/// Those entries of `/proc` to cover that this kernel has.
pub(crate) fn covered_here() -> Vec<(String, bool)> {
    COVERED
        .iter()
        .filter_map(|name| {
            let found = Path::new("/proc").join(name).symlink_metadata().ok()?;
            (!found.file_type().is_symlink()).then(|| ((*name).to_owned(), found.is_dir()))
        })
        .collect()
}
