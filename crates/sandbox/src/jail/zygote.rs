//! The launcher process: made afresh by the worker, with none of its memory, environment or descriptors.
//!
//! It keeps a few *cradles* ready: forks of itself that already have control groups and a network namespace of their
//! own, the two things that take long to make. All cradles wait for the worker's requests on the same socket. The one
//! that gets a request clones the sandbox, maps its ids, tells the worker, waits for the end and ends itself. The
//! launcher makes a new cradle for each that was taken.
//!
//! Every process here has one thread. If the worker dies, the socket closes and the launcher ends; if the launcher ends,
//! cradles and sandboxes get SIGKILL from the kernel.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, wait};
use rustix::thread::UnshareFlags;

use crate::options::Isolation;

use super::cgroup::{Backend, Group};
use super::cradle::{Nursery, Taken};
use super::ids::{Idmap, map_ids, open_folder};
use super::init;
use super::sys::{self, Side};
use super::wire::{self, Boot, InStep, Said, StepError};
use super::{seccomp, template};

const SPARE_CRADLES: usize = 2;
/// While one is left, others are made when the sandbox that was asked for is on its way.
const BREATH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 4_000_000,
};
/// Sandboxes of a privileged launcher run as this host uid plus the launcher's pid: of no user, and of no other launcher.
const HOST_ID_BASE: u32 = 0x7800_0000;

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
        usually_fenced: boot.fenced,
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
        if took.contains(PollFlags::IN)
            && let Ok(Some((record, _))) = wire::receive::<Taken>(taken)
        {
            note_taken(&mut nursery, &mut cradles, record);
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
        cradle.group.release();
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

fn note_taken(nursery: &mut Nursery, cradles: &mut [Cradle], record: Taken) {
    let Taken {
        pid,
        owner: (uid, gid),
        limits,
        fenced,
    } = record;
    for cradle in cradles.iter_mut().filter(|cradle| cradle.pid.as_raw_pid() == pid) {
        cradle.taken = true;
    }
    if limits.is_some() {
        nursery.usual_limits = limits;
        nursery.usually_fenced = fenced;
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
