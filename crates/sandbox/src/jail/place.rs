//! Places to mount on, inside a sandbox's own root, whether or not the root has them.
//!
//! Everything here happens in the sandbox's own mount namespace, where the host's root does not exist, as the inside
//! user. Paths are resolved by the kernel within the root and never through `/proc`'s magic links, so a link of an
//! image leads to another place of that sandbox at worst. Below `/workspace`, where links are the workload's, none is
//! followed at all.
//!
//! A missing place is made where its folder can be written. Where it cannot, the folder is covered by something that
//! shows the same and can be: an empty one by a `tmpfs`; one with mounts in it (the root, `/dev`) by a mirror of its
//! entries; any other by an overlay. What was laid is made read-only when all places are there.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::sys::{self, ATTR_RDONLY};
use super::template;

const STEP_LIMIT: usize = 64;
/// Most entries of a folder that is mirrored.
const MOST_MIRRORED: usize = 512;
/// A place that every root has, where another root can stand while it is built.
pub(super) const SCAFFOLD: &str = "/sys";

const FOLDER_FLAGS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What is to be mounted somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// Makes places; remembers what it laid over the root for it.
#[derive(Default)]
pub(super) struct Places {
    laid: Vec<OwnedFd>,
}

impl Places {
    /// Also makes this mount read-only at the end.
    pub(super) fn seal_later(&mut self, tree: OwnedFd) {
        self.laid.push(tree);
    }

    /// Makes what was laid read-only. The places stay.
    pub(super) fn seal(self) -> std::io::Result<()> {
        self.laid
            .iter()
            .try_for_each(|tree| sys::set_one_mount_attributes(tree.as_fd(), ATTR_RDONLY))
    }

    /// Mounts a detached tree at an absolute path.
    pub(super) fn mount(&mut self, tree: &OwnedFd, at: &Path, kind: Kind) -> Result<(), String> {
        let place = self.place(at, kind)?;
        attach(tree, &place).map_err(|error| format!("{}: {error}", at.display()))
    }

    /// A place of this kind at an absolute path, made if need be.
    pub(super) fn place(&mut self, at: &Path, kind: Kind) -> Result<OwnedFd, String> {
        let failed = |error: Errno| format!("{}: {error}", at.display());
        let names: Vec<&OsStr> = at
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        for _ in 0..STEP_LIMIT {
            match open(at, OFlags::PATH) {
                Ok(found) => return of_kind(found, kind).map_err(|reason| format!("{}: {reason}", at.display())),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
            let (depth, folder) = deepest(&names).map_err(failed)?;
            let Some(missing) = names.get(depth) else {
                return Err(failed(Errno::NOENT));
            };
            let last = depth + 1 == names.len();
            let made = if last && kind == Kind::File {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&folder, *missing, flags, Mode::from_raw_mode(0o444)).map(drop)
            } else {
                rustix::fs::mkdirat(&folder, *missing, Mode::from_raw_mode(0o755))
            };
            match made {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(format!("{}: leads through a link to nowhere", at.display())),
                Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::OVERFLOW) => self.lay(&folder)?,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(format!("{}: no place for it can be made", at.display()))
    }

    /// Writes a file that only the root's maker writes, over an existing one.
    pub(super) fn write(&mut self, folder: &Path, name: &str, bytes: &[u8]) -> Result<OwnedFd, String> {
        let failed = |error: Errno| format!("{}/{name}: {error}", folder.display());
        let place = self.place(&folder.join(name), Kind::File)?;
        let path = format!("/proc/self/fd/{}", place.as_raw_fd());
        rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(0o644)).map_err(failed)?;
        let file =
            rustix::fs::open(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let mut left = bytes;
        while !left.is_empty() {
            let written = rustix::io::write(&file, left).map_err(failed)?;
            left = left.get(written..).unwrap_or_default();
        }
        Ok(place)
    }

    /// Covers a folder with something that shows the same and can be written.
    fn lay(&mut self, folder: &OwnedFd) -> Result<(), String> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            .map_err(|error| format!("the folder of a mount: {error}"))?;
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let names = entries(folder).map_err(|error| failed(&error))?;
        if path == Path::new("/") {
            return self.mirror_root(&names).map_err(|error| failed(&error));
        }
        let tree = if names.is_empty() {
            template::tmpfs(&[("size", "16m"), ("mode", "0755")], FOLDER_FLAGS).map_err(|error| failed(&error))?
        } else if has_mounts_below(&path).map_err(|error| failed(&error))? {
            let tree =
                template::tmpfs(&[("size", "16m"), ("mode", "0755")], FOLDER_FLAGS).map_err(|error| failed(&error))?;
            // It is mounted first: what is not mounted anywhere takes no mounts.
            attach(&tree, folder).map_err(|error| failed(&error))?;
            mirror(folder, &names, &path).map_err(|error| failed(&error))?;
            self.laid.push(tree);
            return Ok(());
        } else {
            overlay_over(folder).map_err(|error| failed(&error))?
        };
        attach(&tree, folder).map_err(|error| failed(&error))?;
        self.laid.push(tree);
        Ok(())
    }

    /// A root like the one there is, that can be written.
    fn mirror_root(&mut self, names: &[(CString, FileType)]) -> rustix::io::Result<()> {
        let tree = template::tmpfs(&[("size", "16m"), ("mode", "0755")], FOLDER_FLAGS)?;
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        template::attach(&tree, SCAFFOLD)?;
        let scaffold = OsStr::new(SCAFFOLD.trim_start_matches('/'));
        let names: Vec<_> = names
            .iter()
            .filter(|(name, _)| name.as_bytes() != scaffold.as_bytes())
            .cloned()
            .collect();
        rustix::fs::mkdirat(&tree, scaffold, Mode::from_raw_mode(0o755))?;
        mirror(&root, &names, Path::new(SCAFFOLD))?;
        enter_scaffold()?;
        self.laid.push(tree);
        Ok(())
    }
}

/// Makes what stands at the scaffold the root, and takes the old one away.
pub(super) fn enter_scaffold() -> rustix::io::Result<()> {
    rustix::process::chdir(SCAFFOLD)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Binds or copies each entry of `from` to a folder that is empty.
fn mirror(from: &OwnedFd, names: &[(CString, FileType)], to: &Path) -> rustix::io::Result<()> {
    if names.len() > MOST_MIRRORED {
        return Err(Errno::TOOBIG);
    }
    let to = rustix::fs::open(to, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for (name, kind) in names {
        match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name.as_c_str(), Vec::new())?;
                rustix::fs::symlinkat(target, &to, name.as_c_str())?;
                continue;
            }
            FileType::Directory => rustix::fs::mkdirat(&to, name.as_c_str(), Mode::from_raw_mode(0o755))?,
            _ => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(rustix::fs::openat(
                    &to,
                    name.as_c_str(),
                    flags,
                    Mode::from_raw_mode(0o444),
                )?);
            }
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = open_tree(from, name.as_c_str(), flags)?;
        move_mount(
            &tree,
            c"",
            &to,
            name.as_c_str(),
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
    }
    Ok(())
}

/// A detached overlay of a folder that can be written.
fn overlay_over(folder: &OwnedFd) -> Result<OwnedFd, String> {
    let text = |error: Errno| error.to_string();
    let upper = template::tmpfs(&[("size", "16m"), ("mode", "0755")], FOLDER_FLAGS).map_err(text)?;
    // It needs a name while the overlay is made; afterwards the overlay holds it.
    template::attach(&upper, SCAFFOLD).map_err(text)?;
    let made = overlay(&[format!("/proc/self/fd/{}", folder.as_raw_fd())], SCAFFOLD);
    unmount(SCAFFOLD, UnmountFlags::DETACH).map_err(text)?;
    made.map_err(|error| format!("overlay: {error}"))
}

/// A detached overlay of lower folders, the topmost first, on folders `upper` and `work` that it makes in `scratch`.
pub(super) fn overlay(lower: &[String], scratch: &str) -> rustix::io::Result<OwnedFd> {
    let (upper, work) = (format!("{scratch}/upper"), format!("{scratch}/work"));
    for folder in [&upper, &work] {
        match rustix::fs::mkdir(folder.as_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"lowerdir", lower.join(":"))?;
    fsconfig_set_string(&context, c"upperdir", upper)?;
    fsconfig_set_string(&context, c"workdir", work)?;
    fsconfig_set_flag(&context, c"userxattr")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, FOLDER_FLAGS)
}

/// A detached overlay of lower folders, the topmost first, that cannot be written.
pub(super) fn lower_overlay(lower: &[String]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"lowerdir", lower.join(":"))?;
    fsconfig_set_flag(&context, c"userxattr")?;
    fsconfig_create(&context)?;
    let flags = FOLDER_FLAGS.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Attaches a detached mount at an open place.
fn attach(tree: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", place, c"", flags)
}

/// Opens an absolute path inside the root, without the links that lead past paths.
pub(super) fn open(at: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    // The second is where the sandbox's own files are written, which an image must not lead elsewhere.
    let links = if at.starts_with("/workspace") || at.starts_with("/run/outwork") {
        ResolveFlags::NO_SYMLINKS
    } else {
        ResolveFlags::NO_MAGICLINKS
    };
    openat2(
        CWD,
        at,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        links | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Whether there is nothing at an absolute path, and no link on the way to it.
pub(super) fn is_free(at: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    matches!(
        openat2(CWD, at, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS),
        Err(Errno::NOENT)
    )
}

/// How many of these names, from the root on, are folders that exist, and the last of them.
fn deepest(names: &[&OsStr]) -> rustix::io::Result<(usize, OwnedFd)> {
    for depth in (0..names.len()).rev() {
        let path: PathBuf = std::iter::once(OsStr::new("/"))
            .chain(names.iter().take(depth).copied())
            .collect();
        match open(&path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => return Ok((depth, folder)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::NOENT)
}

fn of_kind(found: OwnedFd, kind: Kind) -> Result<OwnedFd, &'static str> {
    let is = rustix::fs::fstat(&found)
        .map(|found| FileType::from_raw_mode(found.st_mode))
        .map_err(|_| "cannot be looked at")?;
    match (is, kind) {
        (FileType::Directory, Kind::Folder) => Ok(found),
        (FileType::Directory, Kind::File) => Err("is a folder there, and a file is to be mounted"),
        (_, Kind::File) => Ok(found),
        (_, Kind::Folder) => Err("is not a folder there, and a folder is to be mounted"),
    }
}

pub(super) fn entries(folder: &OwnedFd) -> rustix::io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    let folder = rustix::fs::openat(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode)
            }
            kind => kind,
        };
        found.push((name.to_owned(), kind));
    }
    Ok(found)
}

/// Whether something is mounted in a folder, which an overlay would hide.
pub(super) fn has_mounts_below(path: &Path) -> std::io::Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let below = format!("{}/", path.display()).replace(' ', "\\040");
    Ok(mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| point.starts_with(&below)))
}
