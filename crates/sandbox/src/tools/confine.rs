//! Opening files of the workspace, and no others.
//!
//! A path is first made relative to the workspace by its words (`.` and `..` taken away, as the toolset does); then
//! the kernel opens it beneath the workspace's descriptor. A link that stays inside is followed. One that is absolute
//! but leads back inside is resolved here and then opened without links, so that the kernel's answer, not this
//! resolution, is what confines.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{ToolError, reason};

/// The workspace's name inside a sandbox; it is understood without isolation too.
const INSIDE_NAME: &str = "/workspace";
const MOST_LINKS: usize = 40;

/// The folder that file tools work in.
pub(crate) struct Workspace {
    /// Without links; results are given under this name.
    root: PathBuf,
    folder: OwnedFd,
}

/// A path inside the workspace, by its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    /// Relative; empty for the workspace itself.
    relative: PathBuf,
}

impl Workspace {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&root, flags, Mode::empty())?;
        Ok(Self { root, folder })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The full path that results are given under.
    pub(super) fn display(&self, inside: &Inside) -> PathBuf {
        if inside.relative.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(&inside.relative)
        }
    }

    /// Reads a path as a tool was given it.
    pub(super) fn locate(&self, tool: &str, path: &str) -> Result<Inside, ToolError> {
        let refuse = |why: &str| Err(ToolError(format!("{tool}: path {path:?} {why}")));
        if path.contains('\0') {
            return refuse("contains a NUL character");
        }
        match self.relative_to_root(Path::new(path)) {
            Some(relative) => Ok(Inside { relative }),
            None => refuse("is outside the session's working directory"),
        }
    }

    fn relative_to_root(&self, path: &Path) -> Option<PathBuf> {
        if !path.is_absolute() {
            return collapse(path);
        }
        let path = Path::new("/").join(collapse(path.strip_prefix("/").ok()?)?);
        path.strip_prefix(&self.root)
            .or_else(|_| path.strip_prefix(INSIDE_NAME))
            .ok()
            .map(Path::to_path_buf)
    }

    /// Opens what is there.
    pub(super) fn open_existing(&self, inside: &Inside, flags: OFlags) -> Result<OwnedFd, OpenError> {
        self.open_with(inside, flags, Mode::empty())
    }

    /// Opens a regular file for reading, without ever waiting for the other end of a pipe.
    pub(super) fn open_file(&self, inside: &Inside) -> Result<(File, u64), OpenError> {
        let fd = self.open_existing(inside, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        regular(fd)
    }

    /// Opens a regular file for writing, making it and the folders above it. Its content is untouched.
    pub(super) fn create_file(&self, inside: &Inside) -> Result<File, OpenError> {
        if let Some(parent) = inside.relative.parent() {
            self.make_folders(parent)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_with(inside, flags, Mode::from_raw_mode(0o666))?;
        regular(fd).map(|(file, _)| file)
    }

    /// Opens an existing regular file for reading and writing.
    pub(super) fn open_to_change(&self, inside: &Inside) -> Result<(File, u64), OpenError> {
        let fd = self.open_existing(inside, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        regular(fd)
    }

    /// Whether a path that a walk found still names something inside.
    pub(super) fn is_inside(&self, full: &Path) -> bool {
        full.strip_prefix(&self.root).is_ok_and(|relative| {
            let inside = Inside {
                relative: relative.to_path_buf(),
            };
            self.open_existing(&inside, OFlags::PATH).is_ok()
        })
    }

    /// Opens a file that a walk found, through no link at all.
    pub(super) fn open_walked(&self, full: &Path) -> Result<(File, u64), OpenError> {
        let relative = full.strip_prefix(&self.root).map_err(|_| OpenError::Outside)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self
            .open_beneath(relative, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(OpenError::of)?;
        regular(fd)
    }

    fn make_folders(&self, parent: &Path) -> Result<(), OpenError> {
        let mut made = PathBuf::new();
        for part in parent.components() {
            made.push(part);
            let inside = Inside { relative: made.clone() };
            match self.open_existing(&inside, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => continue,
                Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let above = Inside {
                relative: made.parent().map(Path::to_path_buf).unwrap_or_default(),
            };
            let above = self.open_existing(&above, OFlags::PATH | OFlags::DIRECTORY)?;
            let name = made.file_name().unwrap_or_default();
            match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(OpenError::of(error)),
            }
        }
        Ok(())
    }

    fn open_with(&self, inside: &Inside, flags: OFlags, mode: Mode) -> Result<OwnedFd, OpenError> {
        match self.open_beneath(&inside.relative, flags, mode, ResolveFlags::empty()) {
            Err(Errno::XDEV) => {
                let straight = self.straighten(&inside.relative)?;
                self.open_beneath(&straight, flags, mode, ResolveFlags::NO_SYMLINKS)
                    .map_err(OpenError::of)
            }
            other => other.map_err(OpenError::of),
        }
    }

    fn open_beneath(
        &self,
        relative: &Path,
        flags: OFlags,
        mode: Mode,
        more: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
        let path = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        // The kernel answers EAGAIN when something was renamed while it looked; then it is asked again.
        let mut tries = 0;
        loop {
            match openat2(&self.folder, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 64 => tries += 1,
                result => return result,
            }
        }
    }

    /// Follows links by hand, the absolute ones included, to a path inside without links.
    fn straighten(&self, relative: &Path) -> Result<PathBuf, OpenError> {
        let mut done = PathBuf::new();
        let mut left = words(relative);
        left.reverse();
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                if !done.pop() {
                    return Err(OpenError::Outside);
                }
                continue;
            }
            let next = done.join(&part);
            let target = match self.open_beneath(
                &next,
                OFlags::PATH | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::empty(),
            ) {
                Ok(fd) => rustix::fs::readlinkat(&fd, "", Vec::new()).ok(),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(OpenError::of(error)),
            };
            let Some(target) = target else {
                done = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(OpenError::of(Errno::LOOP));
            }
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            let target = if target.is_absolute() {
                done = PathBuf::new();
                self.relative_to_root(&target).ok_or(OpenError::Outside)?
            } else {
                target
            };
            left.extend(words(&target).into_iter().rev());
        }
        Ok(done)
    }
}

impl Inside {
    pub(super) fn relative(&self) -> &Path {
        &self.relative
    }
}

/// Why something was not opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It leads out of the workspace.
    Outside,
    /// It is a folder, a pipe, a socket or a device.
    NotRegular,
    /// The filesystem's answer.
    Io(io::Error),
}

impl OpenError {
    fn of(error: Errno) -> Self {
        match error {
            Errno::XDEV => Self::Outside,
            // A socket, or a pipe without a reader.
            Errno::NXIO | Errno::NODEV => Self::NotRegular,
            error => Self::Io(error.into()),
        }
    }

    /// The message for the model.
    pub(super) fn told(&self, tool: &str, path: &str) -> ToolError {
        ToolError(match self {
            Self::Outside => format!("{tool}: path {path:?} is outside the session's working directory"),
            Self::NotRegular => format!("{tool}: {path}: not a regular file"),
            Self::Io(error) => format!("{tool}: {path}: {}", reason(error)),
        })
    }
}

fn regular(fd: OwnedFd) -> Result<(File, u64), OpenError> {
    let found = rustix::fs::fstat(&fd).map_err(OpenError::of)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
        Ok((File::from(fd), u64::try_from(found.st_size).unwrap_or(0)))
    } else {
        Err(OpenError::NotRegular)
    }
}

fn words(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// Takes `.` and `..` away by words; `None` when the path climbs above where it starts.
fn collapse(path: &Path) -> Option<PathBuf> {
    let mut collapsed = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => collapsed.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !collapsed.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(collapsed)
}
