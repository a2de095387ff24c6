//! A sandbox for installing packages: what it has that others have not, and no more than that.
//!
//! Inside, the user is root of the sandbox's own user namespace, with the few capabilities of [`KEPT`]: enough to unpack a
//! package, to give its files to users, and to become one of those. For a launcher of root, the ids of that namespace are
//! 65536 ids of the host that belong to nobody, chosen anew for each such sandbox; for an ordinary user there is one id,
//! their own.
//!
//! What is written goes to the upper folder of an overlay, which lies on the host in a folder that only the worker's
//! user gets into. The layers below are mapped to the sandbox's ids where the root filesystem is an image. The host's own
//! `/usr/local` is not: of what belongs to the host's users, only what everybody may read can be read, and it is not
//! changed. Folders of it are made anew in the upper folder, so that something can be put beside or in place of what is
//! there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::thread::CapabilitySet;

use super::furnish::OWN;
use super::ids::{map_range, namespace};
use super::place::{self, Kind, Places, SCAFFOLD};
use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY};
use super::template;
use super::wire::{InStep, StepError};

pub(super) const STEP: &str = "folder to install in";
/// Where packages go that are installed beside the host's system.
pub(super) const LOCAL: &str = "/usr/local";
/// The home of who installs: nothing in it is kept.
pub(super) const HOME: &str = "/tmp/.home";

/// What the user inside may do besides what everybody may.
pub(super) const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// Host ids for such sandboxes: blocks of a namespace's usual size, between those that container managers use and those
/// of other sandboxes.
const FIRST_BLOCK: u32 = 0x7000_0000;
const BLOCKS: u32 = 2048;
const IDS: u32 = 0x1_0000;

/// Folders of the host's that are made anew: how deep, and how many.
const DEEPEST: usize = 4;
const MOST: usize = 4096;

const ACCOUNTS: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/tmp/.home:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// What the cradle prepares.
pub(super) struct Site {
    /// Detached mount of the folder that has `upper` and `work`.
    pub tree: OwnedFd,
    /// Detached mount of an empty folder that is `/workspace`.
    pub workspace: OwnedFd,
    /// The host ids that the sandbox has; `None` for the launcher's own.
    pub range: Option<Range>,
}

/// Ids of the host that belong to nobody.
pub(super) struct Range {
    first: u32,
    /// A namespace that maps them.
    pub userns: OwnedFd,
}

impl Range {
    /// Chooses a block.
    fn take(proc_folder: &OwnedFd) -> Result<Self, StepError> {
        let first = FIRST_BLOCK + std::process::id() % BLOCKS * IDS;
        let line = line(first);
        let userns = namespace(STEP, proc_folder, |process| map_range(proc_folder, process, &line))?;
        Ok(Self { first, userns })
    }

    /// Maps the ids of the sandbox's first process.
    pub(super) fn map(&self, proc_folder: &OwnedFd, process: &str) -> Result<(), StepError> {
        map_range(proc_folder, process, &line(self.first))
    }
}

fn line(first: u32) -> String {
    format!("0 {first} {IDS}")
}

impl Site {
    /// Takes the folders of a request and gives them to the sandbox's root.
    pub(super) fn take(
        folder: &Path,
        workspace: &Path,
        proc_folder: &OwnedFd,
        privileged: bool,
    ) -> Result<Self, StepError> {
        let range = privileged.then(|| Range::take(proc_folder)).transpose()?;
        let first = range.as_ref().map(|range| range.first);
        let (folder, workspace) = (open(folder).step(STEP)?, open(workspace).step("workspace")?);
        for name in ["upper", "work"] {
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => give(&folder, name, first).step(STEP)?,
                Err(error) => return Err(error).step(STEP),
            }
        }
        give(&folder, "", first).step(STEP)?;
        give(&workspace, "", first).step("workspace")?;
        Ok(Self {
            tree: detach(&folder).step(STEP)?,
            workspace: detach(&workspace).step("workspace")?,
            range,
        })
    }

    /// The ids of the sandbox's root outside.
    pub(super) fn ids(&self, own: (u32, u32)) -> (u32, u32) {
        self.range.as_ref().map_or(own, |range| (range.first, range.first))
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn give(folder: &OwnedFd, name: &str, to: Option<u32>) -> rustix::io::Result<()> {
    let Some(id) = to else { return Ok(()) };
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rustix::fs::chownat(folder, name, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)), flags)
}

fn detach(folder: &OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(folder, c"", flags)?;
    sys::set_mount_attributes(tree.as_fd(), ATTR_NOSUID | ATTR_NODEV)?;
    Ok(tree)
}

/// Lets the host's `/usr/local` be written, over this upper folder.
pub(super) fn over_local(tree: &OwnedFd, places: &mut Places) -> Result<(), StepError> {
    let local = local()?;
    // It needs a name while the overlay is made; afterwards the overlay holds it.
    template::attach(tree, SCAFFOLD).step(STEP)?;
    let upper = place::open(&Path::new(SCAFFOLD).join("upper"), OFlags::RDONLY | OFlags::DIRECTORY).step(STEP)?;
    same_folders(&local, &upper, 0, &mut 0).step(STEP)?;
    let made = place::overlay(&[LOCAL.to_owned()], SCAFFOLD);
    unmount(SCAFFOLD, UnmountFlags::DETACH).step(STEP)?;
    places
        .mount(&made.step(STEP)?, Path::new(LOCAL), Kind::Folder)
        .step(STEP)?;
    // The host's root has no name in the sandbox's own list.
    for (name, text) in ACCOUNTS {
        let written = places.write(Path::new(OWN), name, text.as_bytes()).step(STEP)?;
        let file = clone_of(&written).step(STEP)?;
        places
            .mount(&file, &Path::new("/etc").join(name), Kind::File)
            .step(STEP)?;
    }
    Ok(())
}

/// Lays a layer over the host's `/usr/local`, read-only.
pub(super) fn lay_over_local(layer: &OwnedFd, places: &mut Places) -> Result<(), StepError> {
    let step = "packages";
    local()?;
    template::attach(layer, SCAFFOLD).step(step)?;
    let made = place::lower_overlay(&[SCAFFOLD.to_owned(), LOCAL.to_owned()]);
    unmount(SCAFFOLD, UnmountFlags::DETACH).step(step)?;
    places
        .mount(&made.step(step)?, Path::new(LOCAL), Kind::Folder)
        .step(step)
}

/// The host's `/usr/local`, if something can be laid over it.
fn local() -> Result<OwnedFd, StepError> {
    let refuse = |reason: &str| {
        Err(format!(
            "{LOCAL} of this machine {reason}, so nothing can be installed beside its system; use an image"
        ))
        .step(STEP)
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match place::open(Path::new(LOCAL), flags) {
        Ok(_) if place::has_mounts_below(Path::new(LOCAL)).step(STEP)? => refuse("has mounts in it"),
        Ok(local) => Ok(local),
        Err(Errno::LOOP | Errno::NOTDIR) => refuse("is no folder"),
        Err(error) => refuse(&format!("cannot be used ({error})")),
    }
}

/// Makes the folders of `from` in `to`. What may be put beside a folder's entries is decided by who owns it.
fn same_folders(from: &OwnedFd, to: &OwnedFd, depth: usize, made: &mut usize) -> rustix::io::Result<()> {
    if depth == DEEPEST {
        return Ok(());
    }
    for (name, kind) in place::entries(from)? {
        if kind != FileType::Directory || *made == MOST {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // One that not everybody may look into stays as it is.
        let Ok(inner) = rustix::fs::openat(from, name.as_c_str(), flags, Mode::empty()) else {
            continue;
        };
        match rustix::fs::mkdirat(to, name.as_c_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        *made += 1;
        let place = rustix::fs::openat(to, name.as_c_str(), flags, Mode::empty())?;
        same_folders(&inner, &place, depth + 1, made)?;
    }
    Ok(())
}

fn clone_of(file: &OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(file, c"", flags)?;
    sys::set_one_mount_attributes(tree.as_fd(), ATTR_RDONLY)?;
    Ok(tree)
}

/// A fresh `/run` for a root that is written to, so that nothing of the sandbox's own is kept with the packages.
pub(super) fn fresh_run(places: &mut Places) -> Result<(), StepError> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let run = template::tmpfs(&[("size", "64m"), ("mode", "0755")], flags).step(STEP)?;
    rustix::fs::mkdirat(&run, "lock", Mode::from_raw_mode(0o777)).step(STEP)?;
    places.mount(&run, Path::new("/run"), Kind::Folder).step(STEP)
}
