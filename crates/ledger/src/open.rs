//! Opening a ledger: check all of it, mend what a crash left, begin to write.
//!
//! Only four things are mended: a torn last line is cut (and an entry says so), a rotation of the key, a redaction
//! and a pruning that were recorded are finished. Everything else that is not as it was written makes opening fail.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::Error;
use crate::FORMAT;
use crate::batch::Active;
use crate::chain::{Depth, Keys};
use crate::entry::{Format, KeyEntry, Recovered};
use crate::error::file_name;
use crate::expect::Expect;
use crate::folder::{Lock, Segment, create_dir, open_segment, remove, sync_dir};
use crate::key::{Signer, key_file, load_key, next_key_file, store_key};
use crate::ledger::{Options, prepare};
use crate::line::EntryType;
use crate::prune::finish_pruning;
use crate::queue::Queue;
use crate::redact::drop_bodies;
use crate::verify::examine;
use crate::watch::{Progress, Watch};
use crate::writer::Writer;

/// Opens the ledger and starts its writer.
#[allow(clippy::type_complexity, reason = "the two halves of a running writer")]
pub(crate) fn start(
    dir: &Path,
    options: &Options,
    queue: &Arc<Queue>,
) -> Result<(Arc<Watch>, JoinHandle<Result<(), Error>>), Error> {
    create_dir(dir)?;
    let lock = Lock::take(dir)?;
    remove_temporaries(dir)?;
    let expect = Expect::any_key();
    let mut found = examine(dir, &expect, Depth::Hashes, &mut |_, _| {})?;
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
    if chain.format() < FORMAT {
        let format = Format {
            at: now,
            format: FORMAT,
        };
        entries.push((EntryType::Format, prepare(&format)?));
    }
    let pruned = finish_pruning(dir, &chain, &signer, now)?;
    found.segments.retain(|segment| segment.first > pruned);
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
    let segment = found
        .segments
        .last()
        .cloned()
        .unwrap_or_else(|| Segment::new(dir, chain.next()));
    let file = open_segment(&segment).map_err(Error::io("open the segment", &segment.path))?;
    sync_dir(dir)?;
    let last = chain.last();
    let progress = Progress {
        last,
        signed_up_to: chain.covered(),
        key: key.public_key,
    };
    let progress = Arc::new(Watch::new(progress));
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
        let ours = ["ledger-", "signing.", "export-"]
            .iter()
            .any(|ours| name.starts_with(ours))
            || ["head.tmp", "pruned.tmp"].contains(&name.as_str());
        if ours && name.ends_with(".tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}
