//! Which user of the host a sandbox's user is, and whose files it owns.
//!
//! Files of `/proc` are reached through a descriptor: a cradle that has moved to the template has no other way to the
//! host's.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::sys::{self, Side};
use super::wire::{InStep, StepError};

/// A user namespace that exists only for its id map.
pub(super) struct Idmap {
    pub uid: u32,
    pub gid: u32,
    /// The host id that both are mapped to.
    pub to: u32,
    pub userns: OwnedFd,
}

impl Idmap {
    /// A user namespace in which `uid` and `gid` are the host's `host_id`.
    pub(super) fn make(proc_folder: &OwnedFd, uid: u32, gid: u32, host_id: u32) -> Result<Self, StepError> {
        let (uids, gids) = (format!("{uid} {host_id} 1"), format!("{gid} {host_id} 1"));
        let userns = namespace("id-mapped workspace", proc_folder, |process| {
            map_ids(proc_folder, process, &uids, &gids)
        })?;
        Ok(Self {
            uid,
            gid,
            to: host_id,
            userns,
        })
    }
}

/// A user namespace in which ids are mapped as `map` does it. It needs no process once it is open.
pub(super) fn namespace(
    step: &str,
    proc_folder: &OwnedFd,
    map: impl FnOnce(&str) -> Result<(), StepError>,
) -> Result<OwnedFd, StepError> {
    let (wait, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(step)?;
    match sys::clone_process(libc::CLONE_NEWUSER).step(step)? {
        Side::Child => {
            drop(release);
            let _ = rustix::io::read(&wait, &mut [0_u8; 1]);
            sys::exit_now(0)
        }
        Side::Parent { pid, pidfd: _ } => {
            let process = pid.to_string();
            let made = map(&process).and_then(|()| {
                let path = format!("{process}/ns/user");
                rustix::fs::openat(proc_folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(step)
            });
            drop(release);
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            made
        }
    }
}

/// Maps the ids of a process, or of this one (`self`), through a descriptor of `/proc`: a cradle has no other.
pub(super) fn map_ids(proc_folder: &OwnedFd, process: &str, uids: &str, gids: &str) -> Result<(), StepError> {
    write_at(proc_folder, &format!("{process}/setgroups"), "deny").step("id mapping")?;
    map_all(proc_folder, process, uids, gids)
}

/// The same, for a namespace whose root may choose its groups. Needs privilege.
pub(super) fn map_range(proc_folder: &OwnedFd, process: &str, range: &str) -> Result<(), StepError> {
    map_all(proc_folder, process, range, range)
}

fn map_all(proc_folder: &OwnedFd, process: &str, uids: &str, gids: &str) -> Result<(), StepError> {
    let write = |file: &str, text: &str| write_at(proc_folder, &format!("{process}/{file}"), text);
    write("uid_map", uids).step("id mapping")?;
    write("gid_map", gids).step("id mapping")
}

pub(super) fn write_at(folder: &OwnedFd, path: &str, text: &str) -> std::io::Result<()> {
    let file = rustix::fs::openat(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::File::from(file).write_all(text.as_bytes())
}

pub(super) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
