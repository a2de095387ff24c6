//! The launcher process: made afresh by the worker, with none of its memory, environment or descriptors.
//!
//! It keeps a few *cradles* ready: forks of itself that already have control groups and a network namespace of their
//! own, the two things that take long to make. All cradles wait for the worker's requests on the same socket. The one
//! that gets a request clones the sandbox, maps its ids, tells the worker, waits for the end and ends itself. The
//! launcher makes a new cradle for each that was taken.
//!
//! Every process here has one thread. If the worker dies, the socket closes and the launcher ends; if the launcher ends,
//! cradles and sandboxes get SIGKILL from the kernel.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, wait, waitpid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::options::{Isolation, Limits};

use super::cgroup::{Backend, Group};
use super::ids::{Idmap, map_ids, open_folder, write_at};
use super::init::{self, Plan};
use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, Instruction, Side};
use super::wire::{self, Boot, InStep, Launch, Said, StepError};
use super::{seccomp, template};

const SPARE_CRADLES: usize = 2;
/// While one is left, others are made when the sandbox that was asked for is on its way.
const BREATH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 4_000_000,
};
/// Sandboxes of a privileged launcher run as this host uid plus the launcher's pid: of no user, and of no other launcher.
const HOST_ID_BASE: u32 = 0x7800_0000;

/// What cradles need to know; the same for all.
struct Nursery {
    /// Mount namespace of the template; `None` without isolation.
    template: Option<OwnedFd>,
    proc_folder: OwnedFd,
    control: OwnedFd,
    taken: OwnedFd,
    /// Set when the launcher is privileged: the host uid of sandboxes.
    host_id: Option<u32>,
    /// A user namespace that maps the last seen workspace owner to `host_id`.
    idmap: Option<Idmap>,
    backend: Backend,
    /// The limits of the last sandbox, which cradles write ahead; the next has the same, as a rule.
    usual_limits: Option<Limits>,
    covered: Vec<(CString, bool)>,
    filter: Vec<Instruction>,
}

struct Cradle {
    pid: Pid,
    group: Group,
    taken: bool,
}

/// The launcher's life. Does not return.
pub(crate) fn live() -> ! {
    let code = match rise() {
        Ok((nursery, taken)) => tend(nursery, &taken),
        Err((control, error)) => {
            if let Some(control) = control {
                let _ = wire::send(&control, &Said::Down(error), &[]);
            }
            1
        }
    };
    sys::exit_now(code)
}

type RiseError = (Option<OwnedFd>, StepError);

fn rise() -> Result<(Nursery, OwnedFd), RiseError> {
    let control = take_control().map_err(|error| (None, error))?;
    match rise_with(&control) {
        Ok((parts, taken)) => Ok((parts(control), taken)),
        Err(error) => Err((Some(control), error)),
    }
}

type Parts = Box<dyn FnOnce(OwnedFd) -> Nursery>;

fn rise_with(control: &OwnedFd) -> Result<(Parts, OwnedFd), StepError> {
    let (boot, _) = wire::receive::<Boot>(control)
        .step("launcher")?
        .ok_or("the worker ended")
        .step("launcher")?;
    one_thread()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").step("launcher")?;
    let proc_folder = open_folder(Path::new("/proc")).step("launcher")?;
    let (host_id, backend, template) = match boot.isolation {
        Isolation::None => (None, Backend::Absent("isolation is off".to_owned()), None),
        Isolation::Full => {
            let host_id = own_mounts(&proc_folder)?;
            let template = template::build(&boot.read_only_paths)?;
            let backend = Backend::find_at(Path::new("/sys/fs/cgroup"));
            backend.sweep();
            (host_id, backend, Some(template))
        }
    };
    let covered = init::covered_here();
    let (taken, taken_in) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).step("launcher")?;
    let idmap = host_id
        .map(|host_id| Idmap::make(&proc_folder, 0, 0, host_id))
        .transpose()?;
    wire::send(
        control,
        &Said::Up {
            memory: backend.describe(),
        },
        &[],
    )
    .step("launcher")?;
    let parts: Parts = Box::new(move |control| Nursery {
        template,
        proc_folder,
        control,
        taken: taken_in,
        host_id,
        idmap,
        backend,
        usual_limits: None,
        covered,
        filter: seccomp::base_filter(),
    });
    Ok((parts, taken))
}

/// The worker's socket comes as standard input; nothing else that was inherited stays open.
fn take_control() -> Result<OwnedFd, StepError> {
    const CONTROL: i32 = 3;
    let step = "launcher";
    let stdin = sys::adopt(0).ok_or("no control socket").step(step)?;
    sys::place(stdin.as_fd(), CONTROL).step(step)?;
    drop(stdin);
    sys::close_from(CONTROL as u32 + 1).step(step)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).step(step)?;
    for number in 0..2 {
        if null.as_raw_fd() != number {
            sys::place(null.as_fd(), number).step(step)?;
        }
    }
    // It took number 0 and stays there.
    std::mem::forget(null);
    sys::set_close_on_exec(CONTROL, true).step(step)?;
    let control = sys::adopt(CONTROL).ok_or("no control socket").step(step)?;
    let kind = rustix::net::sockopt::socket_type(&control).step(step)?;
    if kind == rustix::net::SocketType::SEQPACKET {
        Ok(control)
    } else {
        Err(StepError {
            step: step.to_owned(),
            reason: "this mode is started by outwork itself, not by hand".to_owned(),
        })
    }
}

fn one_thread() -> Result<(), StepError> {
    let threads = fs::read_dir("/proc/self/task").step("launcher")?.count();
    if threads == 1 {
        Ok(())
    } else {
        Err(StepError {
            step: "launcher".to_owned(),
            reason: format!("the launcher has {threads} threads; `entry()` must come first in `main`"),
        })
    }
}

/// A mount namespace to build the root filesystem in. For an ordinary user, in a user namespace that maps only
/// themselves. Returns the host uid for sandboxes when privileged.
fn own_mounts(proc_folder: &OwnedFd) -> Result<Option<u32>, StepError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let host_id = if uid == 0 {
        sys::unshare(UnshareFlags::NEWNS).map_err(|error| StepError {
            step: "mount namespace".to_owned(),
            reason: format!("{error}; this is uid 0 without CAP_SYS_ADMIN: run the worker as an ordinary user, or give it the capability"),
        })?;
        rustix::thread::set_thread_groups(&[]).step("inside user")?;
        Some(HOST_ID_BASE + std::process::id())
    } else {
        sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).step("user namespace")?;
        map_ids(
            proc_folder,
            "self",
            &format!("{uid} {uid} 1"),
            &format!("{gid} {gid} 1"),
        )?;
        None
    };
    // Later mounts of the host arrive; nothing that is mounted here leaves.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).step("mount namespace")?;
    Ok(host_id)
}

/// Keeps cradles ready until the worker is gone.
fn tend(mut nursery: Nursery, taken: &OwnedFd) -> i32 {
    let Ok(children) = sys::child_signal_fd() else { return 1 };
    let mut cradles: Vec<Cradle> = Vec::new();
    let mut lingering: Vec<Group> = Vec::new();
    let mut serial = 0_u64;
    let mut rested = true;
    loop {
        while spare_of(&cradles) == 0 || (rested && spare_of(&cradles) < SPARE_CRADLES) {
            serial += 1;
            let group = nursery.backend.make(serial).step("control group");
            let left = group.as_ref().map_or(Group::Absent, Group::clone);
            match sys::clone_process(0) {
                Ok(Side::Child) => nursery.cradle(group),
                Ok(Side::Parent { pid, pidfd: _ }) => match Pid::from_raw(pid) {
                    Some(pid) => cradles.push(Cradle {
                        pid,
                        group: left,
                        taken: false,
                    }),
                    None => return 1,
                },
                Err(_) if cradles.is_empty() => return 1,
                // No process can be made now; try again when something has changed.
                Err(_) => {
                    left.remove();
                    break;
                }
            }
        }
        let mut ready = [
            PollFd::new(&nursery.control, PollFlags::empty()),
            PollFd::new(taken, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        let spare = spare_of(&cradles);
        let breath = (spare < SPARE_CRADLES).then_some(BREATH);
        let polled = poll(&mut ready, breath.as_ref());
        rested = polled == Ok(0);
        if polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
            return 1;
        }
        let [control, took, ended] = ready.map(|fd| fd.revents());
        if took.contains(PollFlags::IN) {
            if let Ok(Some((record, _))) = wire::receive::<Taken>(taken) {
                note_taken(&mut nursery, &mut cradles, record);
            }
        }
        if ended.contains(PollFlags::IN) {
            let _ = rustix::io::read(&children, &mut [0_u8; 128]);
            while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
                if let Some(at) = cradles.iter().position(|cradle| cradle.pid == pid) {
                    lingering.push(cradles.swap_remove(at).group);
                }
            }
            lingering.retain(|group| !group.remove());
        }
        if control.intersects(PollFlags::HUP | PollFlags::ERR) {
            end(&cradles, &lingering);
            return 0;
        }
    }
}

fn spare_of(cradles: &[Cradle]) -> usize {
    cradles.iter().filter(|cradle| !cradle.taken).count()
}

/// Ends every cradle, and takes the groups away.
fn end(cradles: &[Cradle], lingering: &[Group]) {
    for cradle in cradles {
        let _ = rustix::process::kill_process(cradle.pid, Signal::KILL);
    }
    while wait(WaitOptions::empty()).is_ok() {}
    for group in cradles.iter().map(|cradle| &cradle.group).chain(lingering) {
        // A sandbox is not this process's child: its end is awaited by its group becoming empty.
        for _ in 0..200 {
            if group.remove() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// What a cradle tells the launcher when it has got a request.
#[derive(Serialize, Deserialize)]
struct Taken {
    pid: i32,
    /// Uid and gid of the workspace's owner; zeros when they do not matter.
    owner: (u32, u32),
    /// Of the sandbox that was made, if it was.
    limits: Option<Limits>,
}

fn note_taken(nursery: &mut Nursery, cradles: &mut [Cradle], record: Taken) {
    let Taken {
        pid,
        owner: (uid, gid),
        limits,
    } = record;
    for cradle in cradles.iter_mut().filter(|cradle| cradle.pid.as_raw_pid() == pid) {
        cradle.taken = true;
    }
    if limits.is_some() {
        nursery.usual_limits = limits;
    }
    let Some(host_id) = nursery.host_id else { return };
    let known = nursery
        .idmap
        .as_ref()
        .is_some_and(|idmap| idmap.uid == uid && idmap.gid == gid);
    if !known {
        // Without it a cradle makes its own; this only saves the time.
        if let Ok(idmap) = Idmap::make(&nursery.proc_folder, uid, gid, host_id) {
            nursery.idmap = Some(idmap);
        }
    }
}

/// A sandbox that was cloned.
struct Born {
    pid: Pid,
    id: u64,
}

impl Nursery {
    /// A cradle's life: one request.
    fn cradle(&self, group: Result<Group, StepError>) -> ! {
        let life = std::panic::AssertUnwindSafe(|| self.serve_one(group));
        sys::exit_now(match std::panic::catch_unwind(life) {
            Ok(()) => 0,
            Err(_) => 101,
        })
    }

    fn serve_one(&self, group: Result<Group, StepError>) {
        let launcher = rustix::process::getppid();
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        // The signal is only for deaths from now on.
        if rustix::process::getppid() != launcher {
            return;
        }
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let group = group.and_then(|group| {
            group
                .enter(rustix::process::getpid().as_raw_pid())
                .step("control group")
                .map(|()| group)
        });
        let group = group.and_then(|group| {
            self.usual_limits
                .as_ref()
                .map_or(Ok(()), |limits| group.limit(limits))
                .map(|()| group)
        });
        let group = group.and_then(|group| self.network().map(|()| group));
        let (launch, mut fds) = match wire::receive::<Launch>(&self.control) {
            Ok(Some(request)) => request,
            // A request that cannot be read has no number to answer to; the worker sees its socket close.
            Ok(None) | Err(_) => return,
        };
        let id = launch.id;
        let limits = launch.limits.clone();
        let mut owner = (0, 0);
        let outcome = match fds.len() {
            1 | 2 => {
                let output = if fds.len() == 2 { fds.pop() } else { None };
                match fds.pop() {
                    Some(socket) => self.bear(launch, group, socket, output, &mut owner),
                    None => return,
                }
            }
            _ => Err(StepError {
                step: "launcher".to_owned(),
                reason: "a request comes with one or two descriptors".to_owned(),
            }),
        };
        let taken = Taken {
            pid: rustix::process::getpid().as_raw_pid(),
            owner,
            limits: outcome.is_ok().then_some(limits),
        };
        let _ = wire::send(&self.taken, &taken, &[]);
        match outcome {
            Err(error) => {
                let _ = wire::send(&self.control, &Said::Refused { id, error }, &[]);
            }
            Ok(born) => self.see_through(&born),
        }
    }

    /// A network namespace of this cradle, which the sandbox is born into. It belongs to the launcher's user
    /// namespace, not to the sandbox's: whatever rights one may gain inside, none of them is over the network.
    fn network(&self) -> Result<(), StepError> {
        if self.template.is_none() {
            return Ok(());
        }
        sys::unshare(UnshareFlags::NEWNET).step("net namespace")?;
        sys::interface_up(b"lo").step("loopback")
    }

    fn bear(
        &self,
        launch: Launch,
        group: Result<Group, StepError>,
        socket: OwnedFd,
        output: Option<OwnedFd>,
        owner: &mut (u32, u32),
    ) -> Result<Born, StepError> {
        let group = group?;
        let id = launch.id;
        let (go, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("launcher")?;
        let mut ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let side = if let Some(template) = &self.template {
            if self.usual_limits.as_ref() != Some(&launch.limits) {
                group.limit(&launch.limits)?;
            }
            let prepared = self.workspace(&launch.workspace, ids, owner)?;
            ids = prepared.ids;
            let program = init::Program::of(&launch, true)?;
            let plan = Plan {
                launch,
                workspace: prepared.tree,
                covered: &self.covered,
                filter: &self.filter,
                program,
                grouped: group != Group::Absent,
            };
            // The clone copies the mount namespace that this process is in.
            template::enter(template).step("mount namespace")?;
            match sys::clone_process(sys::CLONED_NAMESPACES).step("namespaces")? {
                Side::Child => {
                    drop(release);
                    init::isolated(plan, go, socket, output)
                }
                parent @ Side::Parent { .. } => parent,
            }
        } else {
            match sys::clone_process(0).step("fork")? {
                Side::Child => {
                    drop(release);
                    init::open(launch, go, socket, output)
                }
                parent @ Side::Parent { .. } => parent,
            }
        };
        let Side::Parent { pid, pidfd } = side else {
            return Err("not a parent").step("namespaces");
        };
        drop((go, socket, output));
        let process = pid.to_string();
        if self.template.is_some() {
            let inside = init::INSIDE_ID;
            map_ids(
                &self.proc_folder,
                &process,
                &format!("{inside} {} 1", ids.0),
                &format!("{inside} {} 1", ids.1),
            )?;
        }
        self.raise_oom_score(&process);
        rustix::io::write(&release, b"g").step("id mapping")?;
        wire::send(&self.control, &Said::Started { id, host_pid: pid }, &[pidfd.as_fd()]).step("launcher")?;
        let pid = Pid::from_raw(pid).ok_or("no pid").step("namespaces")?;
        Ok(Born { pid, id })
    }

    /// The workspace as a detached mount, and the host ids of the inside user. For a privileged launcher the mount
    /// maps ids, so that the inside user owns what the workspace's owner owns.
    fn workspace(&self, path: &Path, own: (u32, u32), owner: &mut (u32, u32)) -> Result<Workspace, StepError> {
        let step = "workspace";
        let folder = open_folder(path).step(step)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&folder, c"", flags).step(step)?;
        let ids = match self.host_id {
            None => own,
            Some(host_id) => {
                let found = rustix::fs::fstat(&folder).step(step)?;
                *owner = (found.st_uid, found.st_gid);
                self.map_workspace(path, &tree, *owner, host_id)?
            }
        };
        sys::set_mount_attributes(tree.as_fd(), ATTR_NOSUID | ATTR_NODEV).step(step)?;
        Ok(Workspace { tree, ids })
    }

    fn map_workspace(
        &self,
        path: &Path,
        tree: &OwnedFd,
        (uid, gid): (u32, u32),
        host_id: u32,
    ) -> Result<(u32, u32), StepError> {
        let mut made = None;
        let idmap = match &self.idmap {
            Some(known) if known.uid == uid && known.gid == gid => known,
            _ => made.insert(Idmap::make(&self.proc_folder, uid, gid, host_id)?),
        };
        match sys::set_mount_idmap(tree.as_fd(), idmap.userns.as_fd()) {
            Ok(()) => Ok((host_id, host_id)),
            // The filesystem cannot map ids. An ordinary owner can be the inside user directly; root must not be.
            Err(_) if uid != 0 && gid != 0 => Ok((uid, gid)),
            Err(error) => Err(StepError {
                step: "id-mapped workspace".to_owned(),
                reason: format!(
                    "{}: its filesystem cannot map ids ({error}) and it belongs to root; put it on ext4, xfs, btrfs or tmpfs, or give it to an ordinary user with chown",
                    path.display()
                ),
            }),
        }
    }

    /// The host prefers a sandbox over itself when memory runs out. A comfort, not a boundary: failing is ignored.
    fn raise_oom_score(&self, process: &str) {
        let _ = write_at(&self.proc_folder, &format!("{process}/oom_score_adj"), "500");
    }

    /// Waits for the sandbox's end and tells it.
    fn see_through(&self, born: &Born) {
        let mut said = Said::Exited {
            id: born.id,
            code: None,
            signal: None,
        };
        loop {
            match waitpid(Some(born.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    said = Said::Exited {
                        id: born.id,
                        code: status.exit_status(),
                        signal: status.terminating_signal(),
                    };
                    break;
                }
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Err(_) => break,
            }
        }
        if self.template.is_none() {
            end_orphans();
        }
        let _ = wire::send(&self.control, &said, &[]);
    }
}

struct Workspace {
    tree: OwnedFd,
    /// Host ids of the inside user.
    ids: (u32, u32),
}

/// Without a pid namespace, what a sandbox left running falls to its cradle, which ends it.
fn end_orphans() {
    let own = rustix::process::getpid().as_raw_pid();
    loop {
        let children = fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter_map(Pid::from_raw)
        {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
