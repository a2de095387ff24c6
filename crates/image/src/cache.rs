//! The cache folder: layers unpacked once, named by what they are.
//!
//! ```text
//! layers/CHAIN/     record.json, index, root/     a layer on top of certain others, named by its chain id
//! packages/KEY/     record.json, index, root/     installed packages, named by base and list
//! documents/DIGEST                                manifests and configurations
//! locks/NAME                                      held while a layer is being made
//! staging/RANDOM/                                 what is being made; locked, and swept when its maker is gone
//! ```
//!
//! Invariants: a layer appears by one rename, after its bytes are on disk. Whoever uses one holds a shared lock on its
//! folder; whoever removes one holds that lock alone. Locks are the kernel's (`flock`), so they end with their process.
//! Anybody who may write to the folder may choose what sandboxes run, so a folder that others can write to is refused.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use crate::build::{Built, open_root};
use crate::check::{Depth, Record, check};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::index::{self, Entry};
use crate::remove::remove_tree;

/// The shelves of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Shelf {
    Layers,
    Packages,
}

impl Shelf {
    pub(crate) const ALL: [Shelf; 2] = [Shelf::Layers, Shelf::Packages];

    pub(crate) fn folder(self) -> &'static str {
        match self {
            Shelf::Layers => "layers",
            Shelf::Packages => "packages",
        }
    }
}

/// A layer in use: it is not removed while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) root: PathBuf,
    /// Of its index: names, modes, times and contents.
    pub(crate) digest: Digest,
    index: PathBuf,
    _lock: OwnedFd,
}

impl Held {
    /// What the layer has.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        let bytes = fs::read(&self.index).map_err(Error::io("read", &self.index))?;
        index::read(&bytes).map_err(|error| Error::Cache {
            path: self.index.clone(),
            problem: format!("the index of a layer cannot be read: {error}"),
        })
    }
}

/// A folder that something is made in. Removed when dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    published: bool,
    _lock: OwnedFd,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The empty folder for a layer's files.
    pub(crate) fn root(&self) -> Result<PathBuf> {
        let root = self.path.join("root");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&root)
            .map_err(Error::io("make folder", &root))?;
        Ok(root)
    }

    /// A new file that has no name outside this folder.
    pub(crate) fn file(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("make file", &path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a staging folder; it is swept later");
        }
    }
}

/// The cache folder, opened.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// How old a staging folder without lock must be before it is swept: its maker locks it right after making it.
const SWEEP_AGE: Duration = Duration::from_secs(60);

impl Cache {
    /// Opens or makes the folder, and sweeps what makers that were killed left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let make = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(Error::io("make folder", path))
        };
        make(root)?;
        let root = root.canonicalize().map_err(Error::io("find folder", root))?;
        let metadata = fs::metadata(&root).map_err(Error::io("look at", &root))?;
        let refuse = |problem: &str| Error::Cache {
            path: root.clone(),
            problem: problem.into(),
        };
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse("belongs to another user; give a folder of your own"));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(refuse(
                "others may write to it; `chmod go-w` it, or give another folder",
            ));
        }
        for folder in ["layers", "packages", "documents", "locks", "staging"] {
            make(&root.join(folder))?;
        }
        let cache = Self { root };
        cache.sweep()?;
        Ok(cache)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn place(&self, shelf: Shelf, name: &Digest) -> PathBuf {
        self.root.join(shelf.folder()).join(name.hex())
    }

    /// Takes a layer into use. Nothing if it is not there; one that is damaged is taken away and is not there either.
    pub(crate) fn hold(&self, shelf: Shelf, name: &Digest) -> Result<Option<Held>> {
        let place = self.place(shelf, name);
        let Some(lock) = lock_folder(&place, FlockOperation::LockShared)? else {
            return Ok(None);
        };
        match check(&place, name, Depth::Sample) {
            Ok(record) => {
                // The time of last use, for pruning. Not being able to set it costs nothing but a longer life.
                let _ = rustix::fs::futimens(&lock, &crate::prune::now());
                Ok(Some(Held {
                    root: place.join("root"),
                    digest: record.index,
                    index: place.join("index"),
                    _lock: lock,
                }))
            }
            Err(problem) => {
                drop(lock);
                tracing::warn!(layer = %name, problem, "a cached layer is damaged; it is made again");
                self.remove(shelf, name)?.then_some(()).ok_or_else(|| Error::Cache {
                    path: place,
                    problem: format!("a layer is damaged ({problem}) and in use; stop the sandboxes that use it"),
                })?;
                Ok(None)
            }
        }
    }

    /// Removes a layer that nobody uses; false if somebody does.
    pub(crate) fn remove(&self, shelf: Shelf, name: &Digest) -> Result<bool> {
        let place = self.place(shelf, name);
        let lock = match lock_folder(&place, FlockOperation::NonBlockingLockExclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(true),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let staging = self.staging()?;
        let grave = staging.path().join("removed");
        fs::rename(&place, &grave).map_err(Error::io("remove", &place))?;
        drop(lock);
        Ok(true)
    }

    /// Waits until nobody else makes the named thing. The lock ends with what is returned.
    pub(crate) async fn making(&self, shelf: Shelf, name: &Digest, cancel: &CancellationToken) -> Result<File> {
        let path = self
            .root
            .join("locks")
            .join(format!("{}-{}", shelf.folder(), name.hex()));
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            let file = file.map_err(Error::io("open lock", &path))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if same(&file, &path) => return Ok(file),
                Ok(()) => continue,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::sys("lock", &path)(errno)),
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::Cancelled),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// A new folder to make something in.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let parent = self.root.join("staging");
        let made = tempfile::Builder::new().prefix("").rand_bytes(16).tempdir_in(&parent);
        let path = made.map_err(Error::io("make folder in", &parent))?.keep();
        let lock = open_root(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(Error::sys("lock", &path))?;
        Ok(Staging {
            path,
            published: false,
            _lock: lock,
        })
    }

    /// Gives a finished layer its name. Whoever calls holds [`Cache::making`] for it.
    pub(crate) fn publish(&self, mut staging: Staging, shelf: Shelf, name: &Digest, built: &Built) -> Result<Held> {
        let lines = index::write(&built.entries);
        let record = Record {
            version: 1,
            name: *name,
            index: Digest::of(&lines),
            bytes: built.bytes,
            left_out: built.left_out.clone(),
        };
        if built.left_out.count > 0 {
            let count = built.left_out.count;
            tracing::info!(layer = %name, count, first = ?built.left_out.first, "devices and pipes of a layer were left out");
        }
        let record = serde_json::to_vec(&record).expect("a record is plain data");
        for (file, bytes) in [("index", &lines), ("record.json", &record)] {
            let path = staging.path.join(file);
            fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        }
        // Downloads and the like that lie beside the layer are not part of it.
        for entry in fs::read_dir(&staging.path).map_err(Error::io("list", &staging.path))? {
            let entry = entry.map_err(Error::io("list", &staging.path))?;
            if !["root", "index", "record.json"]
                .iter()
                .any(|kept| entry.file_name() == *kept)
            {
                fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
            }
        }
        let folder = open_root(&staging.path)?;
        rustix::fs::syncfs(&folder).map_err(Error::sys("write to disk", &staging.path))?;
        let place = self.place(shelf, name);
        fs::rename(&staging.path, &place).map_err(Error::io("publish", &place))?;
        staging.published = true;
        drop(staging);
        let parent = open_root(&self.root.join(shelf.folder()))?;
        rustix::fs::fsync(parent).map_err(Error::sys("write to disk", &place))?;
        self.hold(shelf, name)?.ok_or_else(|| Error::Cache {
            path: place,
            problem: "a layer was removed while it was being made; is the folder cleaned by something else?".into(),
        })
    }

    /// A document by digest, if it is there and whole.
    pub(crate) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.root.join("documents").join(digest.hex());
        let bytes = fs::read(&path).ok()?;
        if Digest::of(&bytes) != *digest {
            tracing::warn!(document = %digest, "a cached document is damaged; it is fetched again");
            return None;
        }
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// Keeps a verified document.
    pub(crate) fn keep_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let folder = self.root.join("documents");
        let mut file =
            tempfile::NamedTempFile::new_in(self.root.join("staging")).map_err(Error::io("make file in", &folder))?;
        std::io::Write::write_all(&mut file, bytes).map_err(Error::io("write to", &folder))?;
        file.as_file().sync_all().map_err(Error::io("write to disk", &folder))?;
        let path = folder.join(digest.hex());
        file.persist(&path)
            .map_err(|error| Error::io("publish", &path)(error.error))?;
        Ok(())
    }

    /// Compares everything with its index, byte by byte. Says what is damaged; takes nothing away.
    pub(crate) fn verify(&self, cancel: &CancellationToken) -> Result<Vec<(PathBuf, String)>> {
        let mut damaged = Vec::new();
        for shelf in Shelf::ALL {
            for name in self.names(shelf.folder())? {
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                let place = self.place(shelf, &name);
                let Some(_lock) = lock_folder(&place, FlockOperation::LockShared)? else {
                    continue;
                };
                if let Err(problem) = check(&place, &name, Depth::Whole) {
                    damaged.push((place, problem));
                }
            }
        }
        for name in self.names("documents")? {
            if self.document(&name).is_none() {
                damaged.push((
                    self.root.join("documents").join(name.hex()),
                    "its digest is wrong".into(),
                ));
            }
        }
        Ok(damaged)
    }

    /// The names in a folder of the cache; whatever else lies there is not ours.
    pub(crate) fn names(&self, folder: &str) -> Result<Vec<Digest>> {
        let path = self.root.join(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let entry = entry.map_err(Error::io("list", &path))?;
            names.extend(entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Removes staging folders and files whose maker is gone.
    pub(crate) fn sweep(&self) -> Result<()> {
        let parent = self.root.join("staging");
        for entry in fs::read_dir(&parent).map_err(Error::io("list", &parent))? {
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            if age.is_none_or(|age| age < SWEEP_AGE) {
                continue;
            }
            let path = entry.path();
            let swept = if metadata.is_dir() {
                let Ok(lock) = open_root(&path) else { continue };
                if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                    continue;
                }
                remove_tree(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = swept {
                tracing::warn!(path = %path.display(), %error, "cannot sweep a staging folder");
            }
        }
        Ok(())
    }
}

/// True if a path still means the file that was opened.
pub(crate) fn same(file: impl AsFd, path: &Path) -> bool {
    let opened = rustix::fs::fstat(file);
    let named = rustix::fs::lstat(path);
    matches!((opened, named), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Locks a layer's folder. Nothing if it is not there, or went away while we waited for the lock.
fn lock_folder(place: &Path, operation: FlockOperation) -> Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = match rustix::fs::open(place, flags, Mode::empty()) {
        Ok(lock) => lock,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::sys("open", place)(errno)),
    };
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, operation)).map_err(Error::sys("lock", place))?;
    Ok(same(&lock, place).then_some(lock))
}
