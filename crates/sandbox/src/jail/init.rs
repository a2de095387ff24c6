//! From a fresh clone to a closed sandbox: the steps that the first process of a sandbox takes on itself.
//!
//! Each step has a name; the first that fails is reported over the sandbox's socket and the process ends. Nothing of
//! the workload runs before the last step is done. Mounts are made here, inside the sandbox's own user namespace, over
//! a copy of the template; only the workspace comes in as a detached mount that the cradle prepared.

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::mount::{MountAttrFlags, mount_bind};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::hand::frame::{FailedBody, FromHand};
use crate::hand::{self, HandOptions};
use crate::options::{Limits, RootImage};

use super::build;
use super::fence;
use super::furnish::{self, Supplies};
use super::network;
use super::sys;
use super::sys::Instruction;
use super::template::{self, EMPTY_FILE, EMPTY_FOLDER};
use super::wire::{InStep, Launch, StepError};

/// The user that everything inside runs as, by its number inside.
pub(crate) const INSIDE_ID: u32 = 1000;

/// Entries of `/proc` that tell an ordinary user about the host or its other users, covered with nothing. What only
/// root may read needs no cover, as nothing inside is root outside; what tells by being written to needs none
/// either, as `/proc` is read-only as a whole. The first few are covered all the same: they are worth two locks.
pub(crate) const COVERED: &[&str] = &[
    "kcore",
    "kmsg",
    "sysrq-trigger",
    "timer_list",
    "acpi",
    "asound",
    "bus",
    "cmdline",
    "diskstats",
    "driver",
    "fs",
    "interrupts",
    "irq",
    "kallsyms",
    "key-users",
    "keys",
    "latency_stats",
    "modules",
    "partitions",
    "sched_debug",
    "scsi",
];

/// What was prepared before the clone.
pub(crate) struct Plan<'a> {
    pub launch: Launch,
    /// Detached mount of the workspace.
    pub workspace: OwnedFd,
    pub supplies: Supplies,
    /// Those of [`COVERED`] that this kernel has, and whether each is a folder.
    pub covered: &'a [(CString, bool)],
    pub filter: &'a [Instruction],
    /// Made before the clone: what a process allocates after it is copied page by page.
    pub program: Option<Program>,
    /// Memory is limited by a cgroup; else by rlimit.
    pub grouped: bool,
}

/// The first process of an isolated sandbox. `go` yields a byte when its ids are mapped.
pub(crate) fn isolated(plan: Plan<'_>, go: OwnedFd, socket: OwnedFd, output: Option<OwnedFd>) -> ! {
    // `descriptors` closes by number what these own; the process never gives them back one by one.
    let (plan, output) = (ManuallyDrop::new(plan), ManuallyDrop::new(output));
    ending(socket, |socket| {
        close_in(&plan, &go)?;
        drop(go);
        descriptors(socket, (*output).as_ref())?;
        after_descriptors(&plan.launch, plan.program.as_ref(), true)
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
        let program = Program::of(&launch, false)?;
        after_descriptors(&launch, program.as_ref(), false)
    })
}

/// Runs the steps; reports the one that fails; never returns into the launcher's code.
fn ending(socket: OwnedFd, steps: impl FnOnce(&OwnedFd) -> Result<std::convert::Infallible, StepError>) -> ! {
    let socket = ManuallyDrop::new(socket);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps(&socket)));
    let error = match outcome {
        Ok(Err(error)) => error,
        Ok(Ok(never)) => match never {},
        Err(_) => StepError {
            step: "start".to_owned(),
            reason: "the launcher panicked".to_owned(),
        },
    };
    let frame = FromHand::Failed(FailedBody {
        step: error.step,
        reason: error.reason,
    })
    .encode();
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
            Ok(_) => {
                return Err(StepError {
                    step: "id mapping".to_owned(),
                    reason: "the launcher ended".to_owned(),
                });
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("id mapping"),
        }
    }
}

fn close_in(plan: &Plan<'_>, go: &OwnedFd) -> Result<(), StepError> {
    // What needs no ids comes first, so that they are mapped meanwhile and nothing waits.
    rustix::system::sethostname(plan.launch.hostname.as_bytes()).step("uts namespace")?;
    mounts(plan)?;
    wait_for(go)?;
    let builds = plan.launch.build.is_some();
    let inside = if builds { 0 } else { INSIDE_ID };
    let (id, uid, gid) = ("inside user", Uid::from_raw(inside), Gid::from_raw(inside));
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(id)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(id)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("parent death signal")?;
    rustix::process::setsid().step("session")?;
    temporary_files(plan.launch.limits.disk_bytes)?;
    furnish::furnish(&plan.launch, &plan.supplies)?;
    std::env::set_current_dir("/workspace").step("workspace")?;
    limits(&plan.launch.limits, plan.grouped)?;
    rustix::thread::set_no_new_privs(true).step("no_new_privs")?;
    let writes = match (builds, &plan.launch.image) {
        (false, _) => plan.launch.outputs.is_some().then_some(furnish::OUTPUTS),
        (true, RootImage::Layers(_)) => Some("/"),
        (true, RootImage::HostSystem | RootImage::HostSystemWith(_)) => Some(build::LOCAL),
    };
    fence::restrict(writes).step("landlock")?;
    let kept = if builds { build::KEPT } else { CapabilitySet::empty() };
    sys::drop_bounding_set(kept.bits()).step("capabilities")?;
    rustix::thread::clear_ambient_capability_set().step("capabilities")?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
    .step("capabilities")?;
    sys::install_filter(plan.filter).step("seccomp")
}

/// The root is this namespace's root already; what is this sandbox's own is mounted in it.
fn mounts(plan: &Plan<'_>) -> Result<(), StepError> {
    std::env::set_current_dir("/").step("root filesystem")?;
    template::attach(&plan.workspace, "workspace").step("workspace")?;
    let proc_tree = template::proc_filesystem().step("proc")?;
    template::attach(&proc_tree, "proc").step("proc")?;
    for (path, is_folder) in plan.covered {
        let cover = if *is_folder { EMPTY_FOLDER } else { EMPTY_FILE };
        mount_bind(cover, path.as_c_str()).step("covered /proc")?;
    }
    if plan.launch.fenced {
        mount_bind(c"etc/.resolv.conf", c"etc/resolv.conf").step(network::STEP)?;
    }
    Ok(())
}

/// `/tmp`, which holds the home folder and shared memory too. It belongs to the inside user, who makes it.
fn temporary_files(size: u64) -> Result<(), StepError> {
    let size = size.to_string();
    let options = [("size", size.as_str()), ("nr_inodes", "1048576"), ("mode", "1777")];
    let tmp = template::tmpfs(
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .step("tmpfs")?;
    rustix::fs::mkdirat(&tmp, ".home", Mode::from_raw_mode(0o700)).step("tmpfs")?;
    rustix::fs::mkdirat(&tmp, ".shm", Mode::from_raw_mode(0o777)).step("tmpfs")?;
    template::attach(&tmp, "tmp").step("tmpfs")
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
    Rlimit {
        current: Some(value),
        maximum: Some(value),
    }
}

/// Leaves the standard descriptors and the socket, and closes all others.
fn descriptors(socket: &OwnedFd, output: Option<&OwnedFd>) -> Result<(), StepError> {
    let step = "descriptors";
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(step)?;
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

fn after_descriptors(
    launch: &Launch,
    program: Option<&Program>,
    isolated: bool,
) -> Result<std::convert::Infallible, StepError> {
    if let Some(Program { arguments, variables }) = program {
        sys::reset_signals();
        return Err(sys::execute(arguments, variables)).step("exec");
    }
    // From here on the workload cannot look into this process: not its memory, descriptors or environment.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).step("undumpable")?;
    let _ = rustix::thread::set_name(c"outwork-hand");
    let socket = sys::adopt(SOCKET).ok_or("the socket is gone").step("descriptors")?;
    let root = if isolated {
        PathBuf::from("/workspace")
    } else {
        launch.workspace.clone()
    };
    let code = hand::serve(
        socket,
        HandOptions {
            root,
            environment: environment(launch, isolated),
            max_output_bytes: launch.limits.max_output_bytes,
            isolated,
        },
    );
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
    if launch.build.is_some() {
        for (name, value) in [("HOME", build::HOME), ("USER", "root"), ("LOGNAME", "root")] {
            variables.retain(|(known, _)| known != name);
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    variables.extend(furnish::trusting_variables(launch));
    for (name, value) in &launch.env {
        let known = variables.iter().find(|(known, _)| known == name);
        let value = furnish::joined(name, known.map(|(_, value)| value.as_str()), value);
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), value));
    }
    variables
}

/// Those entries of `/proc` to cover that this kernel has.
pub(crate) fn covered_here() -> Vec<(CString, bool)> {
    COVERED
        .iter()
        .filter_map(|name| {
            let found = Path::new("/proc").join(name).symlink_metadata().ok()?;
            let place = CString::new(format!("proc/{name}")).ok()?;
            (!found.file_type().is_symlink()).then(|| (place, found.is_dir()))
        })
        .collect()
}

/// A program to become, with its arguments and variables.
pub(crate) struct Program {
    arguments: Vec<CString>,
    variables: Vec<CString>,
}

impl Program {
    /// The program that a request names, if it names one.
    pub(crate) fn of(launch: &Launch, isolated: bool) -> Result<Option<Self>, StepError> {
        let Some(arguments) = &launch.run else { return Ok(None) };
        let words = |words: Vec<String>| {
            words
                .into_iter()
                .map(CString::new)
                .collect::<Result<Vec<_>, _>>()
                .step("exec")
        };
        let variables = environment(launch, isolated)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Ok(Some(Self {
            arguments: words(arguments.clone())?,
            variables: words(variables)?,
        }))
    }
}
