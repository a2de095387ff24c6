//! Builds one layer in an empty folder: files, folders and links of this layer only, with overlayfs whiteouts (character
//! device 0/0, which Linux lets anybody make) for what it takes away from the layers below.
//!
//! Whiteouts are not made while entries come. They are what the finished tree lacks of the tree below, so neither the
//! order of an archive's entries nor duplicates matter, and no extended attribute (an opaque mark) is needed.
//!
//! Refuses: `..`, links on the way of a write (by the kernel, `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`),
//! hard links to what the image does not have, everything over its limits. Leaves out, and counts: devices, pipes,
//! sockets. Drops: owners, set-user-id and set-group-id, extended attributes, file capabilities.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};

use crate::digest::Digest;
use crate::error::{Error, Result, shown};
use crate::index::{self, Entry};
use crate::limits::Limits;
use crate::sink::Sink;
use crate::tree::{Body, Meta, Name, Node, Tree, joined, parts};

/// Nothing outside the folder, no link of any kind, no other file system.
pub(crate) const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a folder for use as the start of confined paths.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::sys("open folder", path))
}

/// A layer under construction.
pub(crate) struct Builder<'a> {
    root: OwnedFd,
    place: PathBuf,
    /// What the layers below show; whiteouts are reckoned against it.
    below: Tree,
    /// The roots of the layers below, lowest first: contents of files that a hard link needs.
    roots: &'a [PathBuf],
    tree: Tree,
    layer: u32,
    label: String,
    limits: &'a Limits,
    entries: u64,
    bytes: u64,
    left_out: LeftOut,
    parent: Option<(Vec<Name>, Rc<OwnedFd>)>,
}

/// Entries that were left out, counted, with the first names.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) count: u64,
    pub(crate) first: Vec<String>,
}

/// A finished layer.
pub(crate) struct Built {
    pub(crate) tree: Tree,
    pub(crate) entries: Vec<Entry>,
    pub(crate) bytes: u64,
    pub(crate) left_out: LeftOut,
}

impl<'a> Builder<'a> {
    /// `place` is an empty folder that nobody else writes to; `below` and `roots` are the layers below.
    pub(crate) fn new(
        place: &Path,
        below: Tree,
        roots: &'a [PathBuf],
        limits: &'a Limits,
        label: impl Into<String>,
    ) -> Result<Self> {
        let layer = roots.len() as u32;
        let mut tree = below.clone();
        tree.root.layer = layer;
        Ok(Self {
            root: open_root(place)?,
            place: place.to_owned(),
            below,
            roots,
            tree,
            layer,
            label: label.into(),
            limits,
            entries: 0,
            bytes: 0,
            left_out: LeftOut::default(),
            parent: None,
        })
    }

    /// A folder. One that is there keeps what it has.
    pub(crate) fn dir(&mut self, path: &[u8], meta: Meta) -> Result<()> {
        self.count()?;
        let Some((parent, name)) = self.place_of(path)? else {
            self.tree.root.meta = meta;
            return Ok(());
        };
        let mut full = parent.clone();
        full.push(name.clone());
        if self.tree.get(&full).is_some_and(|node| node.children().is_none()) {
            self.clear(&parent, &name)?;
        }
        self.make_dirs(&full)?;
        if let Some(node) = self.tree.get_mut(&full) {
            node.meta = meta;
        }
        Ok(())
    }

    /// A file, its content given by `fill`.
    pub(crate) fn file(&mut self, path: &[u8], meta: Meta, fill: impl FnOnce(&mut Sink) -> Result<()>) -> Result<()> {
        self.count()?;
        let (parent, name) = self.named(path)?;
        self.make_dirs(&parent)?;
        self.clear(&parent, &name)?;
        self.write_file(&parent, &name, meta, fill)
    }

    /// A symbolic link. Its target is kept as it is: it means something inside only.
    pub(crate) fn link(&mut self, path: &[u8], target: &[u8], mtime: i64) -> Result<()> {
        self.count()?;
        if target.is_empty() || target.len() > self.limits.path_bytes || target.contains(&0) {
            return Err(self.refuse(path, "the link's target is empty, too long or has a NUL byte"));
        }
        let (parent, name) = self.named(path)?;
        self.make_dirs(&parent)?;
        self.clear(&parent, &name)?;
        let meta = Meta {
            mode: 0,
            ..Meta::file(0, mtime)
        };
        self.write_link(&parent, &name, target, meta)
    }

    /// A further name of a file of the image.
    pub(crate) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.count()?;
        let (parent, name) = self.named(path)?;
        let (from, from_name) = self.named(target)?;
        if (&parent, &name) == (&from, &from_name) {
            return Err(self.refuse(path, "is a hard link to itself"));
        }
        self.make_dirs(&parent)?;
        self.clear(&parent, &name)?;
        let mut full = from.clone();
        full.push(from_name.clone());
        let Some(node) = self.tree.get(&full).cloned() else {
            return Err(self.refuse(path, "is a hard link to something that the image does not have"));
        };
        match &node.body {
            Body::Dir(_) => return Err(self.refuse(path, "is a hard link to a folder")),
            Body::Link(target) => return self.write_link(&parent, &name, target, node.meta),
            Body::File { .. } => {}
        }
        if node.layer != self.layer {
            self.copy_up(&from, &from_name, &node)?;
        }
        let source = self.open_dir(&from)?;
        let to = self.open_dir(&parent)?;
        rustix::fs::linkat(&source, &*from_name, &to, &*name, AtFlags::empty())
            .map_err(Error::sys("make hard link in", &self.place))?;
        let node = Node {
            layer: self.layer,
            ..node
        };
        self.tree.put(&parent, name, node);
        Ok(())
    }

    /// Takes away what the layers below have under this name. What this layer has stays.
    pub(crate) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.count()?;
        let (parent, name) = self.named(path)?;
        let layer = self.layer;
        let mut full = parent.clone();
        full.push(name.clone());
        match self.tree.get_mut(&full) {
            Some(node) if node.layer == layer => node.keep_only(layer),
            Some(_) => drop(self.tree.remove(&parent, &name)),
            None => {}
        }
        Ok(())
    }

    /// Takes away everything that the layers below have in this folder.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.count()?;
        let parts = parts(path, self.limits).map_err(|problem| self.refuse(path, &problem))?;
        let full = self
            .tree
            .resolve(&parts, self.limits)
            .map_err(|problem| self.refuse(path, &problem))?;
        self.make_dirs(&full)?;
        let layer = self.layer;
        if let Some(node) = self.tree.get_mut(&full) {
            node.keep_only(layer);
        }
        Ok(())
    }

    /// Notes an entry that is left out.
    pub(crate) fn leave_out(&mut self, path: &[u8]) -> Result<()> {
        self.count()?;
        self.left_out.count += 1;
        if self.left_out.first.len() < 20 {
            self.left_out.first.push(shown(path));
        }
        Ok(())
    }

    /// Makes the whiteouts, sets folders' attributes, and says what there is now.
    pub(crate) fn finish(mut self) -> Result<Built> {
        let mut gone = Vec::new();
        missing(&self.below.root, &self.tree.root, &mut Vec::new(), &mut gone);
        for path in &gone {
            let (name, parent) = path.split_last().expect("the root is never taken away");
            self.make_dirs(parent)?;
            let at = self.open_dir(parent)?;
            rustix::fs::mknodat(&at, &**name, FileType::CharacterDevice, Mode::empty(), 0).map_err(|errno| Error::Cache {
                path: self.place.clone(),
                problem: format!(
                    "its file system or this container refuses overlay whiteouts ({errno}); keep the cache on a local \
                     file system and allow mknod of device 0/0"
                ),
            })?;
        }
        let mut entries = index::entries_of(&self.tree, self.layer);
        // Deepest first: nothing is opened through a folder that has already been closed to its owner.
        for entry in entries.iter().rev().filter(|entry| entry.kind == index::Kind::Dir) {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let dir = rustix::fs::openat2(&self.root, entry.path.bytes(), flags, Mode::empty(), CONFINED)
                .map_err(Error::sys("open folder in", &self.place))?;
            self.attributes(
                dir.as_fd(),
                Meta {
                    mode: entry.mode,
                    mtime: entry.mtime,
                },
            )?;
        }
        entries.extend(gone.iter().map(|path| Entry::whiteout(path)));
        Ok(Built {
            tree: self.tree,
            entries,
            bytes: self.bytes,
            left_out: self.left_out,
        })
    }

    fn count(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::TooLarge {
                what: format!("layer {}", self.label),
                limit: self.limits.entries,
                unit: "entries",
            });
        }
        Ok(())
    }

    pub(crate) fn refuse(&self, entry: &[u8], problem: &str) -> Error {
        Error::Entry {
            layer: self.label.clone(),
            entry: shown(entry),
            problem: problem.to_owned(),
        }
    }

    /// Folder and name that a path means; nothing for the root.
    fn place_of(&self, path: &[u8]) -> Result<Option<(Vec<Name>, Name)>> {
        let mut parent = parts(path, self.limits).map_err(|problem| self.refuse(path, &problem))?;
        let Some(name) = parent.pop() else { return Ok(None) };
        let canonical = self
            .tree
            .resolve(&parent, self.limits)
            .map_err(|problem| self.refuse(path, &problem))?;
        if canonical.len() + 1 > self.limits.depth {
            return Err(self.refuse(path, &format!("it lies deeper than {} folders", self.limits.depth)));
        }
        Ok(Some((canonical, name)))
    }

    fn named(&self, path: &[u8]) -> Result<(Vec<Name>, Name)> {
        let place = self.place_of(path)?;
        place.ok_or_else(|| self.refuse(path, "stands for the root folder and is not a folder"))
    }

    /// Makes a canonical folder and those above it exist in this layer.
    fn make_dirs(&mut self, path: &[Name]) -> Result<()> {
        for end in 1..=path.len() {
            let (name, above) = path[..end].split_last().expect("`end` is at least one");
            let layer = self.layer;
            match self.tree.get_mut(&path[..end]) {
                Some(node) if node.children().is_some() => {
                    if node.layer == layer {
                        continue;
                    }
                    node.layer = layer;
                }
                Some(_) => return Err(self.refuse(&joined(path), "a folder of its path is a file")),
                None => drop(self.tree.put(above, name.clone(), Node::dir(Meta::IMPLIED, layer))),
            }
            let at = self.open_dir(above)?;
            rustix::fs::mkdirat(&at, &**name, Mode::RWXU).map_err(Error::sys("make folder in", &self.place))?;
        }
        Ok(())
    }

    /// Removes what a name stands for, from the tree and, where this layer has it, from its folder.
    fn clear(&mut self, parent: &[Name], name: &Name) -> Result<()> {
        let Some(node) = self.tree.remove(parent, name) else {
            return Ok(());
        };
        if node.layer == self.layer {
            let at = self.open_dir(parent)?;
            remove(at.as_fd(), name, &node, self.layer).map_err(Error::sys("remove in", &self.place))?;
            if node.children().is_some() {
                self.parent = None;
            }
        }
        Ok(())
    }

    /// A folder of this layer by canonical path. The last one is kept open, archives being sorted by folder.
    fn open_dir(&mut self, path: &[Name]) -> Result<Rc<OwnedFd>> {
        if let Some((_, fd)) = self.parent.as_ref().filter(|(open, _)| open == path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.root, joined(path), flags, Mode::empty(), CONFINED)
            .map_err(Error::sys("open folder in", &self.place))?;
        let fd = Rc::new(fd);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn write_file(
        &mut self,
        parent: &[Name],
        name: &Name,
        meta: Meta,
        fill: impl FnOnce(&mut Sink) -> Result<()>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = self.open_dir(parent)?;
        let file = rustix::fs::openat(&at, &**name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::sys("make file in", &self.place))?;
        let left = self.limits.layer_bytes - self.bytes;
        let mut sink = Sink::new(File::from(file), &self.place, &self.label, self.limits.file_bytes, left);
        fill(&mut sink)?;
        let (file, size, digest) = sink.finish()?;
        self.bytes += size;
        self.attributes(file.as_fd(), meta)?;
        let body = Body::File { size, digest };
        let layer = self.layer;
        self.tree.put(parent, name.clone(), Node { meta, layer, body });
        Ok(())
    }

    fn write_link(&mut self, parent: &[Name], name: &Name, target: &[u8], meta: Meta) -> Result<()> {
        let at = self.open_dir(parent)?;
        rustix::fs::symlinkat(target, &at, &**name).map_err(Error::sys("make link in", &self.place))?;
        rustix::fs::utimensat(&at, &**name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::sys("set time in", &self.place))?;
        let node = Node {
            meta,
            layer: self.layer,
            body: Body::Link(target.into()),
        };
        self.tree.put(parent, name.clone(), node);
        Ok(())
    }

    /// Brings a file of a layer below into this one, so that it can get a second name here.
    fn copy_up(&mut self, parent: &[Name], name: &Name, node: &Node) -> Result<()> {
        let mut full = parent.to_vec();
        full.push(name.clone());
        let path = joined(&full);
        let below = self.roots.get(node.layer as usize).cloned();
        let below = below.ok_or_else(|| self.refuse(&path, "is not in the layers below"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let source = rustix::fs::openat2(open_root(&below)?, &path, flags, Mode::empty(), CONFINED)
            .map_err(Error::sys("open file in", &below))?;
        self.make_dirs(parent)?;
        self.write_file(parent, name, node.meta, |sink| sink.copy(&mut File::from(source)))?;
        let same = self.tree.get(&full).is_some_and(|copy| copy.body == node.body);
        if same {
            Ok(())
        } else {
            Err(self.refuse(&path, "was changed in the layer below"))
        }
    }

    fn attributes(&self, fd: BorrowedFd<'_>, meta: Meta) -> Result<()> {
        rustix::fs::fchmod(fd, Mode::from_bits_truncate(meta.mode.into()))
            .map_err(Error::sys("set mode in", &self.place))?;
        rustix::fs::futimens(fd, &times(meta.mtime)).map_err(Error::sys("set time in", &self.place))
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Removes what the layer has of a node, by descriptors only.
fn remove(at: BorrowedFd<'_>, name: &Name, node: &Node, layer: u32) -> rustix::io::Result<()> {
    let Some(children) = node.children() else {
        return rustix::fs::unlinkat(at, &**name, AtFlags::empty());
    };
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = rustix::fs::openat2(at, &**name, flags, Mode::empty(), CONFINED)?;
    for (name, child) in children.iter().filter(|(_, child)| child.layer == layer) {
        remove(dir.as_fd(), name, child, layer)?;
    }
    rustix::fs::unlinkat(at, &**name, AtFlags::REMOVEDIR)
}

/// Paths that were there below and are not any more; what lies under such a path is not named again.
fn missing(below: &Node, now: &Node, path: &mut Vec<Name>, out: &mut Vec<Vec<Name>>) {
    let (Some(before), Some(after)) = (below.children(), now.children()) else {
        return;
    };
    for (name, child) in before {
        path.push(name.clone());
        match after.get(name) {
            None => out.push(path.clone()),
            Some(same) => missing(child, same, path, out),
        }
        path.pop();
    }
}

/// The digest of what a file has.
pub(crate) fn digest_of(file: &mut File) -> io::Result<(u64, Digest)> {
    crate::digest::Measured::new(file, u64::MAX).drain()
}
