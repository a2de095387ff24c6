//! The root filesystem that sandboxes share, built once by the launcher in its own mount namespace.
//!
//! It is a small tmpfs with the host's system folders bound read-only, a composed `/etc`, five device nodes, and empty
//! places for what each sandbox mounts itself. It is read-only before the first sandbox sees it, and each sandbox
//! gets it inside a less privileged mount namespace, where the kernel locks these mounts and their flags.
//!
//! Links of the host's root (`/bin -> usr/bin`) are copied as links, never followed with the host's root in view.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};

use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY};
use super::wire::{InStep, StepError};

/// Where the template stands in the launcher's mount namespace. `/sys` is there on every Linux, is needed by nothing
/// that the launcher does afterwards, and no workspace lies in it.
pub(crate) const PLACE: &str = "/sys";

/// An empty file and an empty folder, to cover entries of `/proc` with.
pub(crate) const EMPTY_FILE: &str = "etc/.empty";
pub(crate) const EMPTY_FOLDER: &str = "sys";

const SYSTEM_FOLDERS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];
const STEP: &str = "root filesystem";

/// Builds the template at [`PLACE`].
pub(crate) fn build(read_only_paths: &[PathBuf]) -> Result<(), StepError> {
    let root = tmpfs(&[("size", "64m"), ("mode", "0755")], MountAttrFlags::MOUNT_ATTR_NOSUID).step(STEP)?;
    // Devices are taken before anything is covered.
    let devices: Vec<(&str, OwnedFd)> = DEVICES
        .iter()
        .map(|name| Ok((*name, copy_tree(&format!("/dev/{name}"))?)))
        .collect::<rustix::io::Result<_>>()
        .step("devices")?;
    attach(&root, Path::new(PLACE)).step(STEP)?;
    let at = Path::new(PLACE);
    for folder in ["dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var", "workspace"] {
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
    let Ok(found) = host.symlink_metadata() else { return Ok(()) };
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
    let refuse = |reason: &str| Err(StepError { step: step.to_owned(), reason: format!("{}: {reason}", path.display()) });
    // Resolved on the host, once, by the owner's own configuration; inside it stands under the name that was asked.
    let Ok(relative) = path.strip_prefix("/") else { return refuse("is not an absolute path") };
    if relative.components().count() == 0 || relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return refuse("must be an absolute path without `.` or `..`, and not `/` itself");
    }
    let first = relative.components().next().map(|part| part.as_os_str().to_owned()).unwrap_or_default();
    if ["proc", "sys", "dev", "tmp", "workspace", "etc", "run"].iter().any(|taken| first == *taken) {
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

/// Makes folders of the template readable by all, whatever the umask of the worker.
pub(crate) fn plain_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}
