//! A cradle: a fork of the launcher that makes one sandbox and sees it to its end.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal, WaitOptions, wait, waitpid};
use serde::{Deserialize, Serialize};

use super::build::Site;
use super::cgroup::{Backend, Group};
use super::furnish::Supplies;
use super::ids::{Idmap, map_ids, open_folder, write_at};
use super::init::{self, Plan};
use super::network::{self, Network};
use super::seccomp;
use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, Instruction, Side};
use super::template;
use super::wire::{self, InStep, Launch, Said, StepError};
use crate::options::Limits;

/// What cradles need to know; the same for all.
pub(super) struct Nursery {
    /// Mount namespace of the template; `None` without isolation.
    pub(super) template: Option<OwnedFd>,
    pub(super) proc_folder: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) taken: OwnedFd,
    /// Set when the launcher is privileged: the host uid of sandboxes.
    pub(super) host_id: Option<u32>,
    /// A user namespace that maps the last seen workspace owner to `host_id`.
    pub(super) idmap: Option<Idmap>,
    pub(super) backend: Backend,
    /// The limits of the last sandbox, which cradles write ahead; the next has the same, as a rule.
    pub(super) usual_limits: Option<Limits>,
    /// Whether the last sandbox had a fence; cradles prepare what the next is likely to ask for.
    pub(super) usually_fenced: bool,
    pub(super) covered: Vec<(CString, bool)>,
    pub(super) filter: Vec<Instruction>,
}

/// What a cradle tells the launcher when it has got a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Taken {
    pub(super) pid: i32,
    /// Uid and gid of the workspace's owner; zeros when they do not matter.
    pub(super) owner: (u32, u32),
    /// Of the sandbox that was made, if it was.
    pub(super) limits: Option<Limits>,
    /// Whether a fence was asked for.
    pub(super) fenced: bool,
}

/// A sandbox that was cloned.
struct Born {
    pid: Pid,
    id: u64,
}

impl Nursery {
    /// A cradle's life: one request.
    pub(super) fn cradle(&self, group: Result<Group, StepError>) -> ! {
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
        let network = match (&self.template, self.usually_fenced) {
            (None, _) => Ok(Network::Closed),
            (Some(_), false) => network::closed(),
            (Some(_), true) => network::fenced(),
        };
        let (launch, mut fds) = match wire::receive::<Launch>(&self.control) {
            Ok(Some(request)) => request,
            // A request that cannot be read has no number to answer to; the worker sees its socket close.
            Ok(None) | Err(_) => return,
        };
        let id = launch.id;
        let limits = launch.limits.clone();
        let fenced = launch.fenced;
        let mut owner = (0, 0);
        let outcome = match fds.len() {
            1 | 2 => {
                let output = if fds.len() == 2 { fds.pop() } else { None };
                match fds.pop() {
                    Some(socket) => self.bear(launch, (group, network), socket, output, &mut owner),
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
            fenced,
        };
        let _ = wire::send(&self.taken, &taken, &[]);
        match outcome {
            Err(error) => {
                let _ = wire::send(&self.control, &Said::Refused { id, error }, &[]);
            }
            Ok(born) => self.see_through(&born),
        }
    }

    /// The network namespace of this cradle, which the sandbox is born into, is the one that was asked for. It belongs
    /// to the launcher's user namespace, not to the sandbox's: whatever rights one may gain inside, none of them is
    /// over the network.
    fn network(&self, prepared: Result<Network, StepError>, fenced: bool) -> Result<Network, StepError> {
        if self.template.is_none() {
            if fenced {
                return Err("tools run on the host without isolation, where there is no fence").step(network::STEP);
            }
            return Ok(Network::Closed);
        }
        match (prepared, fenced) {
            (Ok(network @ Network::Closed), false) | (Ok(network @ Network::Fenced(_)), true) => Ok(network),
            // What the last sandbox asked for says nothing about this one.
            (_, false) => network::closed(),
            (_, true) => network::fenced(),
        }
    }

    fn bear(
        &self,
        launch: Launch,
        (group, network): (Result<Group, StepError>, Result<Network, StepError>),
        socket: OwnedFd,
        output: Option<OwnedFd>,
        owner: &mut (u32, u32),
    ) -> Result<Born, StepError> {
        let group = group?;
        let network = self.network(network, launch.fenced)?;
        let freezer = group.freezer();
        let id = launch.id;
        let (go, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("launcher")?;
        let mut ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut inside = init::INSIDE_ID;
        let mut range = None;
        let build_filter = launch.build.is_some().then(seccomp::build_filter);
        let side = if let Some(template) = &self.template {
            if self.usual_limits.as_ref() != Some(&launch.limits) {
                group.limit(&launch.limits)?;
            }
            let site = match &launch.build {
                Some(folder) => Some(Site::take(
                    folder,
                    &launch.workspace,
                    &self.proc_folder,
                    self.host_id.is_some(),
                )?),
                None => None,
            };
            let workspace;
            let mut supplies;
            if let Some(site) = site {
                ids = site.ids(ids);
                supplies = Supplies::take(&launch, self, ids, site.range.as_ref())?;
                supplies.set_site(site.tree);
                workspace = site.workspace;
                range = site.range;
            } else {
                let prepared = self.workspace(&launch.workspace, ids, owner)?;
                ids = prepared.ids;
                supplies = Supplies::take(&launch, self, ids, None)?;
                workspace = prepared.tree;
            }
            if let Some(folder) = &launch.outputs {
                supplies.set_outputs(self.results(folder, ids)?);
            }
            let program = init::Program::of(&launch, true)?;
            if launch.build.is_some() {
                inside = 0;
            }
            let plan = Plan {
                filter: build_filter.as_deref().unwrap_or(&self.filter),
                launch,
                workspace,
                supplies,
                covered: &self.covered,
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
        if let Some(range) = &range {
            range.map(&self.proc_folder, &process)?;
        } else if self.template.is_some() {
            map_ids(
                &self.proc_folder,
                &process,
                &format!("{inside} {} 1", ids.0),
                &format!("{inside} {} 1", ids.1),
            )?;
        }
        self.raise_oom_score(&process);
        rustix::io::write(&release, b"g").step("id mapping")?;
        let started = Said::Started {
            id,
            host_pid: pid,
            cradle: rustix::process::getpid().as_raw_pid(),
            freezer,
        };
        match &network {
            Network::Closed => wire::send(&self.control, &started, &[pidfd.as_fd()]),
            Network::Fenced(fence) => {
                let fds = [pidfd.as_fd(), fence.tcp.as_fd(), fence.dns.as_fd()];
                wire::send(&self.control, &started, &fds)
            }
        }
        .step("launcher")?;
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

    /// The folder for results, with the same ids as the workspace.
    fn results(&self, path: &Path, ids: (u32, u32)) -> Result<OwnedFd, StepError> {
        let step = "outputs";
        let mut owner = (0, 0);
        let results = self.workspace(path, ids, &mut owner).map_err(|error| StepError {
            step: step.to_owned(),
            reason: error.reason,
        })?;
        if results.ids == ids {
            Ok(results.tree)
        } else {
            Err(StepError {
                step: step.to_owned(),
                reason: format!(
                    "{}: belongs to another user than the workspace, on a filesystem that cannot map ids; give both to one user",
                    path.display()
                ),
            })
        }
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
