//! Compares a layer in the cache with its record and index.
//!
//! Nothing is followed out of the layer while looking, whatever was done to it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::build::{CONFINED, LeftOut, digest_of, open_root};
use crate::digest::Digest;
use crate::index::{Entry, Kind};

/// Lines of an index that are compared with the disk each time a layer is used.
const SAMPLES: usize = 1000;

/// What is known of a layer without looking into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) name: Digest,
    pub(crate) index: Digest,
    pub(crate) bytes: u64,
    pub(crate) left_out: LeftOut,
}

/// How closely to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Record, index, and a bounded number of files by kind, mode and size.
    Sample,
    /// Every byte, and nothing besides.
    Whole,
}

/// Says what is wrong with a layer, or gives its record.
pub(crate) fn check(place: &Path, name: &Digest, depth: Depth) -> Result<Record, String> {
    let read = |file: &str| fs::read(place.join(file)).map_err(|error| format!("{file}: {error}"));
    let record: Record =
        serde_json::from_slice(&read("record.json")?).map_err(|error| format!("record.json: {error}"))?;
    if record.version != 1 || record.name != *name {
        return Err("record.json: is of another layer or version".into());
    }
    let index = read("index")?;
    if Digest::of(&index) != record.index {
        return Err("index: its digest is wrong".into());
    }
    let root = open_root(&place.join("root")).map_err(|error| error.to_string())?;
    let lines: Vec<&[u8]> = index
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let step = match depth {
        Depth::Sample => lines.len().div_ceil(SAMPLES).max(1),
        Depth::Whole => 1,
    };
    for line in lines.iter().step_by(step) {
        let entry: Entry = serde_json::from_slice(line).map_err(|error| format!("index: {error}"))?;
        check_entry(&root, &entry, depth)
            .map_err(|problem| format!("{}: {problem}", crate::error::shown(entry.path.bytes())))?;
    }
    if depth == Depth::Whole {
        let found = count(&place.join("root")).map_err(|error| format!("root: {error}"))?;
        if found != lines.len() as u64 {
            return Err(format!("it has {found} files and folders, its index {}", lines.len()));
        }
    }
    Ok(record)
}

fn check_entry(root: &OwnedFd, entry: &Entry, depth: Depth) -> Result<(), String> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat2(root, entry.path.bytes(), flags, Mode::empty(), CONFINED);
    let describe = |errno: rustix::io::Errno| errno.to_string();
    // A link itself is looked at by its folder: `openat2` refuses links wherever they stand.
    let stat = match entry.kind {
        Kind::Link => rustix::fs::statat(root, entry.path.bytes(), AtFlags::SYMLINK_NOFOLLOW).map_err(describe)?,
        Kind::Dir | Kind::File | Kind::Whiteout => {
            rustix::fs::fstat(open(flags).map_err(describe)?).map_err(describe)?
        }
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = (stat.st_mode & 0o7777) as u16;
    let right = match entry.kind {
        Kind::Dir => kind == FileType::Directory && mode == entry.mode,
        Kind::File => kind == FileType::RegularFile && mode == entry.mode && stat.st_size as u64 == entry.size,
        Kind::Link => kind == FileType::Symlink,
        Kind::Whiteout => kind == FileType::CharacterDevice && stat.st_rdev == 0,
    };
    if !right {
        return Err("kind, mode or size is not what was unpacked".into());
    }
    match (entry.kind, depth) {
        (Kind::File, Depth::Whole) => {
            let mut file = File::from(open(OFlags::RDONLY | OFlags::CLOEXEC).map_err(describe)?);
            let (_, digest) = digest_of(&mut file).map_err(|error| error.to_string())?;
            (Some(digest) == entry.digest)
                .then_some(())
                .ok_or("its content was changed".into())
        }
        (Kind::Link, _) => {
            let target = rustix::fs::readlinkat(root, entry.path.bytes(), Vec::new()).map_err(describe)?;
            let same = entry
                .target
                .as_ref()
                .is_some_and(|expected| expected.bytes() == target.as_bytes());
            same.then_some(()).ok_or("its target was changed".into())
        }
        _ => Ok(()),
    }
}

fn count(folder: &Path) -> std::io::Result<u64> {
    let mut found = 1;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(found)
}
