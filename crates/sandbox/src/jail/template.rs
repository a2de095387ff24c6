//! The root filesystem that sandboxes share, built once by the launcher as a mount namespace of its own.
//!
//! It is a small tmpfs with the host's system folders bound read-only, a composed `/etc`, five device nodes, and empty
//! places for what each sandbox mounts itself. The host's root is not in that namespace at all. Each sandbox gets a
//! copy of it that belongs to a less privileged user namespace, where the kernel locks these mounts and their
//! flags; so no sandbox ever has a mount of the host to leave behind, and none waits for one to be taken away.
//!
//! Links of the host's root (`/bin -> usr/bin`) are copied as links, never followed with the host's root in view.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY, Side};
use super::wire::{InStep, StepError};

/// Where the template stands while it is built. `/sys` is there on every Linux.
const PLACE: &str = "/sys";

/// An empty file and an empty folder, to cover entries of `/proc` with.
pub(crate) const EMPTY_FILE: &str = "etc/.empty";
pub(crate) const EMPTY_FOLDER: &str = "sys";

const SYSTEM_FOLDERS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
const STEP: &str = "root filesystem";

/// Builds the template. Returns its mount namespace; the caller's is as it was.
pub(crate) fn build(read_only_paths: &[PathBuf]) -> Result<OwnedFd, StepError> {
    let own = namespace().step(STEP)?;
    build_in_place(read_only_paths)?;
    // The new namespace is a copy, from which the host's root is then taken away.
    sys::unshare(UnshareFlags::NEWNS).step("mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("mount namespace")?;
    let namespace = namespace().step(STEP)?;
    std::env::set_current_dir(PLACE).step(STEP)?;
    witness()?;
    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("pivot_root")?;
    enter(&own).step(STEP)?;
    unmount(PLACE, UnmountFlags::DETACH).step(STEP)?;
    Ok(namespace)
}

/// Moves this process to a mount namespace, and to its root.
pub(crate) fn enter(namespace: &OwnedFd) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
}

fn namespace() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The kernel lets a sandbox mount its own `/proc` only where one can be seen already. What it sees is the `/proc`
/// of a pid namespace in which nothing lives any more, so that even what lies covered tells of no process.
fn witness() -> Result<(), StepError> {
    let step = "proc";
    match sys::clone_process(libc::CLONE_NEWPID).step(step)? {
        Side::Child => sys::exit_now(match proc_filesystem().and_then(|tree| attach(&tree, "proc")) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error(),
        }),
        Side::Parent { pid, pidfd: _ } => {
            let status = waitpid(Pid::from_raw(pid), WaitOptions::empty()).step(step)?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(code) => Err(std::io::Error::from_raw_os_error(code)).step(step),
                None => Err("the process that mounts it was killed").step(step),
            }
        }
    }
}

/// A detached, read-only `/proc` of this process's pid namespace.
pub(crate) fn proc_filesystem() -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

fn build_in_place(read_only_paths: &[PathBuf]) -> Result<(), StepError> {
    let root = tmpfs(&[("size", "64m"), ("mode", "0755")], MountAttrFlags::MOUNT_ATTR_NOSUID).step(STEP)?;
    // Devices are taken before anything is covered.
    let devices: Vec<(&str, OwnedFd)> = DEVICES
        .iter()
        .map(|name| Ok((*name, copy_tree(format!("/dev/{name}"))?)))
        .collect::<rustix::io::Result<_>>()
        .step("devices")?;
    attach(&root, Path::new(PLACE)).step(STEP)?;
    let at = Path::new(PLACE);
    for folder in [
        "dev",
        "etc",
        "home",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "srv",
        "sys",
        "tmp",
        "var",
        "workspace",
    ] {
        fs::create_dir(at.join(folder)).step(STEP)?;
    }
    for (link, target) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/shm", "/tmp/.shm"),
        ("home/agent", "/tmp/.home"),
        ("var/tmp", "/tmp"),
    ] {
        symlink(target, at.join(link)).step(STEP)?;
    }
    super::etc::compose(Path::new("/etc"), &at.join("etc")).step("composed /etc")?;
    fs::write(at.join(EMPTY_FILE), b"").step(STEP)?;
    for (name, tree) in devices {
        let place = at.join("dev").join(name);
        fs::write(&place, b"").step("devices")?;
        attach(&tree, &place).step("devices")?;
        sys::set_mount_attributes(tree.as_fd(), ATTR_NOSUID).step("devices")?;
    }
    for name in SYSTEM_FOLDERS {
        system_folder(name, at)?;
    }
    for path in read_only_paths {
        extra_folder(path, at)?;
    }
    sys::set_mount_attributes(root.as_fd(), ATTR_RDONLY | ATTR_NOSUID).step("read-only root")?;
    Ok(())
}

fn system_folder(name: &str, at: &Path) -> Result<(), StepError> {
    let host = Path::new("/").join(name);
    let Ok(found) = host.symlink_metadata() else {
        return Ok(());
    };
    if found.file_type().is_symlink() {
        let target = fs::read_link(&host).step(STEP)?;
        return symlink(target, at.join(name)).step(STEP);
    }
    let place = at.join(name);
    fs::create_dir(&place).step(STEP)?;
    bind(&host, &place)
}

fn extra_folder(path: &Path, at: &Path) -> Result<(), StepError> {
    let step = "read_only_paths";
    let refuse = |reason: &str| {
        Err(StepError {
            step: step.to_owned(),
            reason: format!("{}: {reason}", path.display()),
        })
    };
    // Resolved on the host, once, by the owner's own configuration; inside it stands under the name that was asked.
    let Ok(relative) = path.strip_prefix("/") else {
        return refuse("is not an absolute path");
    };
    if relative.components().count() == 0
        || relative
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
    {
        return refuse("must be an absolute path without `.` or `..`, and not `/` itself");
    }
    let first = relative
        .components()
        .next()
        .map(|part| part.as_os_str().to_owned())
        .unwrap_or_default();
    if ["proc", "sys", "dev", "tmp", "workspace", "etc", "run"]
        .iter()
        .any(|taken| first == *taken)
    {
        return refuse("lies in a folder that the sandbox makes itself");
    }
    if SYSTEM_FOLDERS.iter().any(|folder| first == *folder) {
        return refuse("is in a system folder, which is offered anyway");
    }
    let place = at.join(relative);
    fs::create_dir_all(&place).step(step)?;
    bind(path, &place)
}

fn bind(host: &Path, place: &Path) -> Result<(), StepError> {
    let tree = copy_tree(host).step(&format!("bind {}", host.display()))?;
    sys::set_mount_attributes(tree.as_fd(), ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
        .step(&format!("read-only {}", host.display()))?;
    attach(&tree, place).step(&format!("bind {}", host.display()))
}

/// A detached copy of the mounts at and below a path.
pub(crate) fn copy_tree(path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// Attaches a detached mount.
pub(crate) fn attach(tree: &OwnedFd, place: impl rustix::path::Arg) -> rustix::io::Result<()> {
    move_mount(tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A detached tmpfs.
pub(crate) fn tmpfs(options: &[(&str, &str)], flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}
