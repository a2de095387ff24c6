//! Walks a folder that somebody else filled: by descriptors, never through a link, never onto another file system.
//!
//! Used for folders given as images (their digest) and for the upper folder of an overlay (installed packages).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tokio_util::sync::CancellationToken;

use crate::build::{digest_of, open_root};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, shown};
use crate::index::Entry;
use crate::limits::Limits;
use crate::tree::{Body, Meta, Name, Node, Tree};

/// One thing in a folder.
pub(crate) struct Found<'a> {
    /// From the walk's root, parts joined by `/`; empty for the root itself.
    pub(crate) path: &'a [Name],
    pub(crate) kind: FileType,
    pub(crate) stat: Stat,
    at: BorrowedFd<'a>,
    place: &'a Path,
}

impl Found<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        crate::tree::joined(self.path)
    }

    pub(crate) fn mtime(&self) -> i64 {
        self.stat.st_mtime
    }

    /// Opens a file or folder, and makes sure that it is what was looked at.
    pub(crate) fn open(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name: &[u8] = self.path.last().map_or(b".", |name| name);
        let fd = rustix::fs::openat(self.at, name, flags, Mode::empty()).map_err(self.failed("open"))?;
        let stat = rustix::fs::fstat(&fd).map_err(self.failed("look at"))?;
        if (stat.st_dev, stat.st_ino) != (self.stat.st_dev, self.stat.st_ino) {
            return Err(self.failed("read")(rustix::io::Errno::STALE));
        }
        Ok(File::from(fd))
    }

    pub(crate) fn target(&self) -> Result<Vec<u8>> {
        let name: &[u8] = self.path.last().map_or(b".", |name| name);
        let target = rustix::fs::readlinkat(self.at, name, Vec::new()).map_err(self.failed("read link"))?;
        Ok(target.into_bytes())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error + use<> {
        Error::sys(action, self.place.join(shown(&self.bytes())))
    }
}

/// Visits everything, parents first, names sorted.
pub(crate) fn walk(
    place: &Path,
    limits: &Limits,
    cancel: &CancellationToken,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<()>,
) -> Result<()> {
    walk_with(place, limits, cancel, false, visit)
}

/// The same; with `lenient`, what is in folders that may not be opened is left out.
fn walk_with(
    place: &Path,
    limits: &Limits,
    cancel: &CancellationToken,
    lenient: bool,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<()>,
) -> Result<()> {
    let root = open_root(place)?;
    let stat = rustix::fs::fstat(&root).map_err(Error::sys("look at", place))?;
    let mut walker = Walker {
        lenient,
        place,
        limits,
        cancel,
        device: stat.st_dev,
        seen: 0,
        visit,
    };
    walker.folder(&root, stat, &mut Vec::new(), None)
}

struct Walker<'a> {
    place: &'a Path,
    limits: &'a Limits,
    cancel: &'a CancellationToken,
    device: u64,
    lenient: bool,
    seen: u64,
    visit: &'a mut dyn FnMut(&Found<'_>) -> Result<()>,
}

impl Walker<'_> {
    fn folder(&mut self, fd: &OwnedFd, stat: Stat, path: &mut Vec<Name>, at: Option<BorrowedFd<'_>>) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let place = self.place;
        (self.visit)(&Found {
            path,
            kind: FileType::Directory,
            stat,
            at: at.unwrap_or(fd.as_fd()),
            place,
        })?;
        let shown_path = |path: &[Name]| place.join(shown(&crate::tree::joined(path)));
        if path.len() >= self.limits.depth {
            return Err(self.too_large(self.limits.depth as u64, "folders deep"));
        }
        let mut names = BTreeSet::<Name>::new();
        for entry in Dir::read_from(fd).map_err(Error::sys("list", shown_path(path)))? {
            let entry = entry.map_err(Error::sys("list", shown_path(path)))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.insert(name.into());
                if self.seen + names.len() as u64 > self.limits.entries {
                    return Err(self.too_large(self.limits.entries, "entries"));
                }
            }
        }
        self.seen += names.len() as u64;
        for name in names {
            path.push(name.clone());
            let stat = rustix::fs::statat(fd, &*name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(Error::sys("look at", shown_path(path)))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            // A mount inside (such as /proc) is not part of the tree; its empty place is.
            if kind == FileType::Directory && stat.st_dev == self.device {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(fd, &*name, flags, Mode::empty()) {
                    Ok(inner) => self.folder(&inner, stat, path, Some(fd.as_fd()))?,
                    Err(rustix::io::Errno::ACCESS) if self.lenient => {}
                    Err(errno) => return Err(Error::sys("open", shown_path(path))(errno)),
                }
            } else {
                (self.visit)(&Found {
                    path,
                    kind,
                    stat,
                    at: fd.as_fd(),
                    place,
                })?;
            }
            path.pop();
        }
        Ok(())
    }

    fn too_large(&self, limit: u64, unit: &'static str) -> Error {
        Error::TooLarge {
            what: self.place.display().to_string(),
            limit,
            unit,
        }
    }
}

/// The tree of a folder whose files are not read: their sizes and digests mean nothing.
pub(crate) fn names_of(place: &Path, limits: &Limits, cancel: &CancellationToken) -> Result<Tree> {
    let mut tree = Tree::new();
    walk_with(place, limits, cancel, true, &mut |found| {
        let body = match found.kind {
            FileType::Directory => Body::Dir(Default::default()),
            FileType::Symlink => Body::Link(found.target()?.into()),
            _ => Body::File {
                size: 0,
                digest: Digest::of(b""),
            },
        };
        let meta = Meta {
            mode: (found.stat.st_mode & 0o7777) as u16,
            mtime: 0,
        };
        let node = Node { meta, layer: 0, body };
        match found.path.split_last() {
            None => tree.root = node,
            Some((name, parent)) => drop(tree.put(parent, name.clone(), node)),
        }
        Ok(())
    })?;
    Ok(tree)
}

/// The tree of a folder, and a digest of it: kinds, names, modes, contents and link targets; neither owners nor times.
/// A folder can change at any time, so the digest says what it was, not what it is.
pub(crate) fn tree_of(place: &Path, limits: &Limits, cancel: &CancellationToken) -> Result<(Tree, Digest)> {
    let mut tree = Tree::new();
    let mut hasher = Hasher::default();
    walk(place, limits, cancel, &mut |found| {
        let mode = found.stat.st_mode & 0o7777;
        let meta = Meta {
            mode: mode as u16,
            mtime: 0,
        };
        let body = match found.kind {
            FileType::Directory => Body::Dir(Default::default()),
            FileType::RegularFile => {
                let mut file = found.open()?;
                let (size, digest) =
                    digest_of(&mut file).map_err(Error::io("read", place.join(shown(&found.bytes()))))?;
                Body::File { size, digest }
            }
            FileType::Symlink => Body::Link(found.target()?.into()),
            _ => return Ok(()),
        };
        let node = Node { meta, layer: 0, body };
        hasher.update(&crate::index::write(&[Entry::of(found.path, &node)]));
        match found.path.split_last() {
            None => tree.root = node,
            Some((name, parent)) => drop(tree.put(parent, name.clone(), node)),
        }
        Ok(())
    })?;
    Ok((tree, hasher.finish()))
}
