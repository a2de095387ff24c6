//! The data folder: its permissions and its lock.
//!
//! One server per folder: an exclusive `flock` on `outwork.lock`, released by the kernel when the process ends,
//! however it ends. The folder is readable by its owner only. A folder that holds other people's files and is
//! open to others is refused, not tightened.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::StoreError;

/// The database file's name.
pub(crate) const DATABASE: &str = "outwork.db";
const LOCK: &str = "outwork.lock";

/// A data folder that this process alone uses, until it is dropped.
pub(crate) struct Folder {
    database: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes or checks the folder, takes its lock, and makes an empty database file if there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let fail = |path: &Path, what: &str, e: std::io::Error| StoreError::Folder {
            path: path.to_owned(),
            problem: format!("{what}: {e}"),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| fail(dir, "it cannot be made", e))?;
        tighten(dir)?;

        let lock_path = dir.join(LOCK);
        let mut lock = private_file(&lock_path).map_err(|e| fail(&lock_path, "the lock file cannot be opened", e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = lock
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Locked {
                    path: dir.to_owned(),
                    pid,
                });
            }
            Err(e) => return Err(fail(&lock_path, "it cannot be locked", e.into())),
        }
        // The number is for people; a disk that is full must not keep a server from starting to make room.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));

        // SQLite gives its -wal and -shm files the mode of the database file.
        let database = dir.join(DATABASE);
        let file = private_file(&database).map_err(|e| fail(&database, "the database cannot be opened", e))?;
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|e| fail(&database, "its mode cannot be set to 0600", e))?;
        Ok(Self { database, _lock: lock })
    }

    /// The database file.
    pub(crate) fn database(&self) -> &Path {
        &self.database
    }
}

fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn tighten(dir: &Path) -> Result<(), StoreError> {
    let refuse = |problem: String| StoreError::Folder {
        path: dir.to_owned(),
        problem,
    };
    let meta = std::fs::metadata(dir).map_err(|e| refuse(format!("it cannot be read: {e}")))?;
    if !meta.is_dir() {
        return Err(refuse("it is not a folder".into()));
    }
    if meta.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let ours = dir.join(DATABASE).exists();
    let empty = std::fs::read_dir(dir)
        .map_err(|e| refuse(format!("it cannot be listed: {e}")))?
        .next()
        .is_none();
    if !ours && !empty {
        return Err(refuse(
            "it holds other files and is open to other users: choose an empty folder, or `chmod 700` this one".into(),
        ));
    }
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
        .map_err(|e| refuse(format!("its mode cannot be set to 0700: {e}")))
}
