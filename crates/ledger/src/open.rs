//! Opening a ledger: check all of it, mend what a crash left, begin to write.
//!
//! Only three things are mended: a torn last line is cut (and an entry says so), a rotation of the key and a
//! redaction that were recorded are finished. Everything else that is not as it was written makes opening fail.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::Error;
use crate::batch::Active;
use crate::chain::{Depth, Keys};
use crate::entry::{KeyEntry, Recovered};
use crate::error::file_name;
use crate::folder::{Lock, Segment, create_dir, open_segment, sync_dir};
use crate::key::{Signer, key_file, load_key, next_key_file, store_key};
use crate::ledger::{Options, prepare};
use crate::line::EntryType;
use crate::queue::Queue;
use crate::redact::drop_bodies;
use crate::verify::{Expect, examine};
use crate::writer::{Progress, Writer};

/// Opens the ledger and starts its writer.
#[allow(clippy::type_complexity, reason = "the two halves of a running writer")]
pub(crate) fn start(
    dir: &Path,
    options: &Options,
    queue: &Arc<Queue>,
) -> Result<(Arc<Mutex<Progress>>, JoinHandle<Result<(), Error>>), Error> {
    create_dir(dir)?;
    let lock = Lock::take(dir)?;
    remove_temporaries(dir)?;
    let expect = Expect::any_key();
    let found = examine(dir, &expect, Depth::Hashes, &mut |_, _| {})?;
    if let Some(fault) = found.fault {
        return Err(fault.into());
    }
    let chain = found.chain;
    let now = (options.clock)();
    let mut entries = Vec::new();
    let (signer, key) = match current_key(dir, &chain.keys)? {
        Some(current) => current,
        None => {
            let signer = first_key(dir)?;
            let key = KeyEntry::first(&signer, now)?;
            entries.push((EntryType::Key, prepare(&key)?));
            (signer, key)
        }
    };
    let unfinished = chain.unfinished();
    if let Some((_, closed)) = found.segments.split_last()
        && !unfinished.is_empty()
    {
        drop_bodies(dir, closed, chain.next(), &unfinished)?;
    }
    let torn = found.tail.as_ref().map_or(0, |tail| tail.bytes);
    if let Some(tail) = &found.tail {
        tracing::warn!(file = %tail.path.display(), offset = tail.offset, bytes = torn, "a torn line is cut");
        let cut = Recovered {
            at: now,
            file: file_name(&tail.path),
            bytes: torn,
            hash: tail.hash,
        };
        entries.push((EntryType::Recovered, prepare(&cut)?));
    }
    let segment = found.segments.last().cloned().unwrap_or_else(|| Segment::new(dir, 1));
    let file = open_segment(&segment).map_err(Error::io("open the segment", &segment.path))?;
    sync_dir(dir)?;
    let last = chain.last();
    let progress = Progress {
        last,
        signed_up_to: chain.covered(),
        key: key.public_key,
    };
    let progress = Arc::new(Mutex::new(progress));
    let mut writer = Writer {
        dir: dir.to_owned(),
        options: options.clone(),
        queue: queue.clone(),
        progress: progress.clone(),
        active: Active {
            file,
            segment,
            len: found.last_len,
            dirty: false,
            #[cfg(test)]
            faults: options.faults.clone(),
        },
        tail: last,
        unsigned: last.sequence - chain.covered(),
        unsigned_since: None,
        signer,
        key,
        head_due: None,
        head_at: Instant::now(),
        stalled_since: None,
        retained: Default::default(),
        _lock: lock,
    };
    writer.begin(&entries, torn)?;
    let thread = thread::Builder::new()
        .name("ledger".into())
        .spawn(move || writer.run())
        .map_err(Error::io("start a thread for", dir))?;
    Ok((progress, thread))
}

/// The key that the chain names last, with its private part; `None` if the chain is empty.
fn current_key(dir: &Path, keys: &Keys) -> Result<Option<(Signer, KeyEntry)>, Error> {
    let Some((entry, _)) = keys.newest() else {
        return Ok(None);
    };
    let (path, next) = (key_file(dir), next_key_file(dir));
    let current = load_key(&path)?;
    if let Some(signer) = current.filter(|signer| signer.id() == entry.key) {
        // A rotation that the chain does not know did not happen.
        remove(&next)?;
        return Ok(Some((signer, entry.clone())));
    }
    if let Some(signer) = load_key(&next)?.filter(|signer| signer.id() == entry.key) {
        fs::rename(&next, &path).map_err(Error::io("replace the signing key", &path))?;
        sync_dir(dir)?;
        return Ok(Some((signer, entry.clone())));
    }
    let problem = if path.exists() {
        "is not the one that the ledger names"
    } else {
        "is missing"
    };
    Err(Error::Key {
        path,
        problem: problem.into(),
    })
}

/// The key of a new ledger. A crash may have left it without a ledger.
fn first_key(dir: &Path) -> Result<Signer, Error> {
    let path = key_file(dir);
    if let Some(signer) = load_key(&path)? {
        return Ok(signer);
    }
    let signer = Signer::generate()?;
    store_key(&signer, &path)?;
    Ok(signer)
}

/// Removes what a crash left of files that were about to replace others.
fn remove_temporaries(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = file_name(&path);
        let ours = name.starts_with("ledger-") || name.starts_with("signing.") || name == "head.tmp";
        if ours && name.ends_with(".tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}
