//! Collecting results: reading a folder that a sandbox writes, from outside.
//!
//! What lies there was put there by the workload, and may change while it is read. So each file is opened by the
//! kernel beneath the folder, through no link, onto no other filesystem and without waiting for a pipe; it is measured
//! and read through that one descriptor. Only regular files are taken. What is not taken is listed with the reason, so
//! that nothing is missing silently.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::error::SandboxError;

/// How much is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectLimits {
    /// Files.
    pub max_files: usize,
    /// Size of one file, bytes.
    pub max_file_bytes: u64,
    /// Size of all files, bytes.
    pub max_total_bytes: u64,
    /// Folders within folders.
    pub max_depth: usize,
}

impl Default for CollectLimits {
    fn default() -> Self {
        Self {
            max_files: 1000,
            max_file_bytes: 500 << 20,
            max_total_bytes: 2 << 30,
            max_depth: 16,
        }
    }
}

/// A file that was collected.
#[derive(Debug)]
pub struct OutputFile {
    /// Relative to the folder, with `/` between names; plain names only.
    pub path: String,
    /// When it was opened, bytes.
    pub size: u64,
    file: File,
}

impl OutputFile {
    /// Reads it whole. A file that has grown since is an error, so that nobody keeps more than was counted.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.file).take(self.size + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} grew while it was collected", self.path),
            ));
        }
        Ok(bytes)
    }

    /// What the system says of the open file now.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    /// The open file, at its start.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Something that was not collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Relative to the folder; what is not UTF-8 in it is replaced.
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Collected {
    /// In the order of their paths.
    pub files: Vec<OutputFile>,
    /// What was not taken.
    pub left_out: Vec<LeftOut>,
}

/// Opens every regular file in a folder that a sandbox writes. Blocks.
///
/// A file can still change between this and its reading; [`crate::Sandbox::pause`] holds the workload still.
pub fn collect(folder: &Path, limits: &CollectLimits) -> Result<Collected, SandboxError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|error| SandboxError::io("open the folder of results")(error.into()))?;
    let mut walk = Walk {
        root,
        limits,
        entries: 0,
        total: 0,
        found: Collected::default(),
    };
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        folders.extend(walk.folder(&folder).into_iter().rev());
    }
    walk.found.files.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(walk.found)
}

struct Walk<'a> {
    root: OwnedFd,
    limits: &'a CollectLimits,
    entries: usize,
    total: u64,
    found: Collected,
}

impl Walk<'_> {
    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mut tries = 0;
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 64 => tries += 1,
                result => return result,
            }
        }
    }

    fn leave_out(&mut self, path: &Path, reason: impl Into<String>) {
        // As many as files may be; more would be the workload writing the worker's memory full.
        if self.found.left_out.len() <= self.limits.max_files {
            self.found.left_out.push(LeftOut {
                path: path.to_string_lossy().into_owned(),
                reason: reason.into(),
            });
        }
    }

    /// Takes the files of one folder; returns the folders in it.
    fn folder(&mut self, path: &Path) -> Vec<PathBuf> {
        let opened = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new);
        let listing = match opened {
            Ok(listing) => listing,
            Err(error) => {
                self.leave_out(path, error.to_string());
                return Vec::new();
            }
        };
        let mut folders = Vec::new();
        for entry in listing {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entries += 1;
            if self.entries > self.limits.max_files.saturating_mul(4) {
                self.leave_out(path, "there are too many entries; the rest was not looked at");
                return Vec::new();
            }
            match name.to_str() {
                Ok(name) if !name.chars().any(char::is_control) => {
                    if let Some(folder) = self.entry(path.join(name)) {
                        folders.push(folder);
                    }
                }
                _ => self.leave_out(
                    &path.join(name.to_string_lossy().as_ref()),
                    "its name is not plain text",
                ),
            }
        }
        folders.sort();
        folders
    }

    /// Takes a file; returns the path of a folder.
    fn entry(&mut self, path: PathBuf) -> Option<PathBuf> {
        let opened = self.open(
            &path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW,
        );
        let found = opened.and_then(|file| rustix::fs::fstat(&file).map(|found| (file, found)));
        let (file, found) = match found {
            Ok(found) => found,
            Err(Errno::LOOP) => {
                self.leave_out(&path, "is a link");
                return None;
            }
            Err(Errno::NXIO | Errno::NODEV) => {
                self.leave_out(&path, "is not a regular file");
                return None;
            }
            Err(error) => {
                self.leave_out(&path, error.to_string());
                return None;
            }
        };
        let size = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if path.components().count() <= self.limits.max_depth => return Some(path),
            FileType::Directory => self.leave_out(&path, "lies too deep"),
            FileType::RegularFile if self.found.files.len() >= self.limits.max_files => {
                self.leave_out(&path, format!("there are more than {} files", self.limits.max_files));
            }
            FileType::RegularFile if size > self.limits.max_file_bytes => {
                let most = self.limits.max_file_bytes;
                self.leave_out(&path, format!("has {size} bytes; at most {most} are taken"));
            }
            FileType::RegularFile if self.total.saturating_add(size) > self.limits.max_total_bytes => {
                let most = self.limits.max_total_bytes;
                self.leave_out(&path, format!("all files together have more than {most} bytes"));
            }
            FileType::RegularFile => {
                self.total += size;
                self.found.files.push(OutputFile {
                    path: path.to_string_lossy().into_owned(),
                    size,
                    file: File::from(file),
                });
            }
            _ => self.leave_out(&path, "is not a regular file"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_within_the_limits_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "SECRET").unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/deep.txt"), "deep").unwrap();
        std::fs::write(root.join("one"), "1").unwrap();
        std::fs::write(root.join("large"), vec![0; 100]).unwrap();
        std::fs::write(root.join("line\nbreak"), "x").unwrap();
        symlink(outside.path().join("secret"), root.join("link")).unwrap();
        symlink(outside.path(), root.join("folder-link")).unwrap();
        symlink("one", root.join("inner-link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let limits = CollectLimits {
            max_file_bytes: 50,
            ..CollectLimits::default()
        };
        let mut found = collect(root, &limits).unwrap();
        let paths: Vec<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/b/deep.txt", "one"]);
        assert_eq!(found.files[0].read().unwrap(), b"deep");
        let mut left: Vec<&str> = found.left_out.iter().map(|left| left.path.as_str()).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "folder-link",
                "inner-link",
                "large",
                "line\nbreak",
                "link",
                "pipe",
                "socket"
            ]
        );
        let few = CollectLimits {
            max_files: 1,
            max_depth: 1,
            ..CollectLimits::default()
        };
        let found = collect(root, &few).unwrap();
        assert!(found.files.len() <= 1 && !found.left_out.is_empty());
        assert!(collect(&root.join("folder-link"), &limits).is_err());
    }

    #[test]
    fn a_file_that_grows_is_not_read_past_its_size() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log"), "one").unwrap();
        let mut found = collect(folder.path(), &CollectLimits::default()).unwrap();
        std::fs::write(folder.path().join("log"), "one and more").unwrap();
        assert!(found.files[0].read().is_err());
    }
}
