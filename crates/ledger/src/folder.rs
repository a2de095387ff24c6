//! The files of a ledger: segments, the head, the lock, and what reads and replaces small files.
//!
//! A segment is named after the sequence of its first line, so that a missing one is seen. A file that is named like
//! a segment and is none is refused; other files are not touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;
use crate::entry::Receipt;

const PREFIX: &str = "ledger-";
const SUFFIX: &str = ".jsonl";
/// The most that the file of a receipt has.
pub(crate) const MAX_HEAD: usize = 256;

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The sequence of its first line, by its name.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Segment {
    pub(crate) fn new(dir: &Path, first: u64) -> Self {
        Self {
            first,
            path: dir.join(format!("{PREFIX}{first:020}{SUFFIX}")),
        }
    }
}

/// The segments in order.
pub(crate) fn segments(dir: &Path) -> Result<Vec<Segment>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(middle) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) else {
            continue;
        };
        let first = middle
            .parse::<u64>()
            .ok()
            .filter(|first| middle == format!("{first:020}"));
        let Some(first) = first else {
            return Err(Error::Stray {
                path,
                problem: "the name of a segment has 20 digits".into(),
            });
        };
        found.push(Segment { first, path });
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Makes the folder, readable by its owner only, if it is not there.
pub(crate) fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::io("make the folder", dir))
}

/// Waits until the names in the folder are durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("sync the folder", dir))
}

/// Opens a segment for writing; makes it if it is not there.
pub(crate) fn open_segment(segment: &Segment) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&segment.path)
}

/// The right to write. It ends with this value, or with the process.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held for its lock")] File);

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { dir: dir.to_owned() }),
            Err(errno) => Err(Error::io("lock", &path)(errno.into())),
        }
    }
}

/// Removes a file; that it is gone already is as good.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Reads a file of at most `limit` bytes; `None` if it is not there.
pub(crate) fn read_small(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    Ok(Some(bytes))
}

/// The file that names the last checkpoint that was seen durable.
pub(crate) fn head_file(dir: &Path) -> PathBuf {
    dir.join("head")
}

/// Reads the head. Whoever reads it before the segments finds there at least what it names.
pub(crate) fn read_head(dir: &Path) -> Result<Option<Receipt>, Error> {
    let path = head_file(dir);
    let Some(bytes) = read_small(&path, MAX_HEAD)? else {
        return Ok(None);
    };
    match decode_receipt(&bytes) {
        Some(receipt) => Ok(Some(receipt)),
        None => Err(Error::Stray {
            path,
            problem: "it does not name a checkpoint in the form that is written".into(),
        }),
    }
}

/// Replaces the head. A crash leaves the old one or the new one.
pub(crate) fn write_head(dir: &Path, receipt: Receipt) -> Result<(), Error> {
    let path = head_file(dir);
    replace(&path, &encode_receipt(receipt)).map_err(Error::io("write", &path))
}

/// Reads the one form that [`encode_receipt`] writes.
pub(crate) fn decode_receipt(bytes: &[u8]) -> Option<Receipt> {
    let receipt = serde_json::from_slice::<Receipt>(bytes.strip_suffix(b"\n")?).ok()?;
    (bytes.len() <= MAX_HEAD && encode_receipt(receipt) == bytes).then_some(receipt)
}

/// A receipt as a line.
pub(crate) fn encode_receipt(receipt: Receipt) -> Vec<u8> {
    format!("{{\"sequence\":{},\"hash\":\"{}\"}}\n", receipt.sequence, receipt.hash).into_bytes()
}

/// Replaces a small file. A crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = create_temporary(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// A file that is going to replace another; what a crash left of it is overwritten.
pub(crate) fn create_temporary(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}
