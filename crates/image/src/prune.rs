//! Pruning the cache: what was not used for a while goes, then the least recently used until the rest is small enough.
//!
//! What is in use stays, whatever its age: removal needs the layer's lock alone, users hold it shared.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Timespec, Timestamps};

use crate::cache::{Cache, Shelf, same};
use crate::check::Record;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What may stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Only what was used within this time.
    pub used_within: Option<Duration>,
    /// Only so many bytes of file content, the most recently used first.
    pub bytes: Option<u64>,
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Layers that were removed.
    pub removed: u64,
    /// Bytes of file content that these had.
    pub removed_bytes: u64,
    /// Layers that stay.
    pub kept: u64,
    /// Bytes of file content that these have.
    pub kept_bytes: u64,
    /// Layers that should have gone and are in use.
    pub in_use: u64,
}

pub(crate) fn now() -> Timestamps {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timespec {
        tv_sec: since.as_secs() as i64,
        tv_nsec: since.subsec_nanos().into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(crate) fn prune(cache: &Cache, keep: &Keep) -> Result<Pruned> {
    cache.sweep()?;
    let mut layers: Vec<(SystemTime, u64, Shelf, Digest)> = Vec::new();
    for shelf in Shelf::ALL {
        for name in cache.names(shelf.folder())? {
            let place = cache.place(shelf, &name);
            // One that another process removes meanwhile is not ours to prune.
            let Ok(used) = fs::metadata(&place).and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let record = fs::read(place.join("record.json")).ok();
            let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            layers.push((used, record.map_or(0, |record| record.bytes), shelf, name));
        }
    }
    layers.sort();
    let mut done = Pruned::default();
    let mut total: u64 = layers.iter().map(|(_, bytes, ..)| bytes).sum();
    for (used, bytes, shelf, name) in layers {
        let old = keep.used_within.is_some_and(|within| too_old(used, within));
        let large = keep.bytes.is_some_and(|most| total > most);
        if (old || large) && cache.remove(shelf, &name)? {
            done.removed += 1;
            done.removed_bytes += bytes;
            total -= bytes;
            continue;
        }
        done.in_use += u64::from(old || large);
        done.kept += 1;
        done.kept_bytes += bytes;
    }
    if let Some(within) = keep.used_within {
        for name in cache.names("documents")? {
            let path = cache.root().join("documents").join(name.hex());
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| too_old(used, within)) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
    }
    locks(cache)?;
    Ok(done)
}

fn too_old(used: SystemTime, within: Duration) -> bool {
    used.elapsed().is_ok_and(|age| age > within)
}

/// Removes lock files that nobody holds. Who waits for one looks again whether it still has its name.
fn locks(cache: &Cache) -> Result<()> {
    let folder = cache.root().join("locks");
    for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
        let Ok(entry) = entry else { continue };
        let Ok(file) = fs::File::open(entry.path()) else {
            continue;
        };
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && same(&file, &entry.path()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}
