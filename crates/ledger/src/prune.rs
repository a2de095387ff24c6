//! Retention: removing whole old segments, and leaving a signed stub from which the rest verifies.
//!
//! The entry that tells of a removal is durable before the stub is, and the stub before the first file goes: a crash
//! leaves a pruning to finish (opening does it), never lines that are gone without a word. What an export has not
//! delivered stays, unless that is forced; the entry then names the export and what it will never get.

use std::fs::{self, File};
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use outwork_wire::Time;

use crate::Error;
use crate::chain::{Chain, Depth, Place};
use crate::entry::{Checkpoint, Entry, Pruned, Receipt, Unsent};
use crate::error::file_name;
use crate::expect::Expect;
use crate::exports::cursor;
use crate::folder::{Segment, remove, segments, sync_dir};
use crate::key::{Signer, signer_of};
use crate::ledger::{Ledger, prepare};
use crate::line::{EntryType, Line};
use crate::queue::Job;
use crate::reader::{LineEnd, read_line};
use crate::redact::MAX_TEXT;
use crate::stub::{Removed, Stub};
use crate::verify::{FaultKind, examine};

/// How long a ledger is kept. Both may be set; a segment goes if either says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Remove segments whose last line was signed before this.
    pub before: Option<Time>,
    /// Remove the oldest segments until this many bytes are left, or only the segment that is being written.
    pub keep_bytes: Option<u64>,
    /// Remove also what exports have not delivered.
    pub force: bool,
}

/// What a pruning did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pruning {
    /// Segments that were removed.
    pub segments: u64,
    /// Their size.
    pub bytes: u64,
    /// The last line that was removed, if any was.
    pub through: Option<Receipt>,
    /// Segments that would have gone, and stay for these exports.
    pub held: u64,
    /// The exports that held them.
    pub held_for: Vec<String>,
    /// What exports will never get, since it was forced.
    pub unsent: Vec<Unsent>,
}

impl Ledger {
    /// Removes old segments as `retention` says; `actor` and `reason` go into the ledger. Blocks, and reads all of it
    /// if there is something to remove. Not for bodies of single records: [`redact`](Ledger::redact) does that.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the ledger is not sound; [`Error::Io`] if files could not be removed, and then the rest
    /// is done when the ledger is opened the next time.
    pub fn prune(&self, retention: &Retention, actor: &str, reason: &str) -> Result<Pruning, Error> {
        let bytes = actor.len().max(reason.len());
        if bytes > MAX_TEXT {
            return Err(Error::TooLarge { bytes, limit: MAX_TEXT });
        }
        let _one = self.inner().redacting.lock().unwrap_or_else(PoisonError::into_inner);
        self.flush().wait()?;
        if let Some(before) = retention.before
            && let Some(active) = segments(self.dir())?.last()
            && first_checkpoint(active)?.is_some_and(|checkpoint| checkpoint.at < before)
        {
            // A ledger with little in it would otherwise never fill a segment, and never lose one.
            self.rotate_segment().wait()?;
        }
        let mut done = Pruning::default();
        let chosen = self.choose(retention, &mut done)?;
        let Some((_, end)) = chosen.last() else {
            return Ok(done);
        };
        let through = *end;
        let expect = Expect::any_key();
        let found = examine(self.dir(), &expect, Depth::Hashes, &mut |_, _| {})?;
        if let Some(fault) = found.fault {
            return Err(fault.into());
        }
        let signer = signer_of(self.dir(), &found.chain.keys)?;
        let entry = Pruned {
            at: self.now(),
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            through,
            unsent: done.unsent.clone(),
        };
        let body = prepare(&entry)?;
        self.ask(|reply| Job::Entry(EntryType::Pruned, body, reply)).wait()?;
        self.checkpoint().wait()?;
        done.segments = chosen.len() as u64;
        done.bytes = chosen.iter().filter_map(|(segment, _)| size(segment).ok()).sum();
        done.through = Some(through);
        complete(self.dir(), &found.chain, &signer, through, self.now())?;
        Ok(done)
    }

    /// The segments to remove, each with its last line.
    fn choose(&self, retention: &Retention, done: &mut Pruning) -> Result<Vec<(Segment, Receipt)>, Error> {
        let stub = Stub::read(self.dir())?.map_or(0, |stub| stub.through.sequence);
        let mut all = segments(self.dir())?;
        all.retain(|segment| segment.first > stub);
        let mut left: u64 = all.iter().map(size).sum::<Result<u64, Error>>()?;
        all.pop();
        let mut chosen = Vec::new();
        for segment in all {
            let bytes = size(&segment)?;
            let (end, checkpoint) = last_checkpoint(&segment)?;
            let is_old = retention.before.is_some_and(|before| checkpoint.at < before);
            let is_much = retention.keep_bytes.is_some_and(|keep| left > keep);
            if !is_old && !is_much {
                break;
            }
            left -= bytes;
            chosen.push((segment, end));
        }
        let cursors = cursor::all(self.dir())?;
        let Some((_, last)) = chosen.last() else {
            return Ok(chosen);
        };
        if retention.force {
            let behind = cursors.iter().filter(|(_, at)| at.sequence < last.sequence);
            done.unsent = behind
                .map(|(name, at)| Unsent {
                    export: name.clone(),
                    first: at.sequence + 1,
                    last: last.sequence,
                })
                .collect();
            return Ok(chosen);
        }
        let last = last.sequence;
        let delivered = cursors.iter().map(|(_, at)| at.sequence).min().unwrap_or(u64::MAX);
        let all = chosen.len();
        chosen.retain(|(_, end)| end.sequence <= delivered);
        done.held = (all - chosen.len()) as u64;
        let holding = cursors.into_iter().filter(|(_, at)| at.sequence < last);
        done.held_for = holding.map(|(name, _)| name).collect();
        Ok(chosen)
    }
}

/// Finishes what a crash interrupted, and gives the sequence up to which there are no segments.
pub(crate) fn finish_pruning(dir: &Path, chain: &Chain<'_>, signer: &Signer, now: Time) -> Result<u64, Error> {
    if let Some(through) = chain.unfinished_pruning() {
        complete(dir, chain, signer, through, now)?;
        return Ok(through.sequence);
    }
    let through = chain.stub().map_or(0, |stub| stub.through.sequence);
    remove_through(dir, through)?;
    Ok(through)
}

/// Writes the stub and removes the segments. Everything was verified, and the ledger tells of it.
fn complete(dir: &Path, chain: &Chain<'_>, signer: &Signer, through: Receipt, now: Time) -> Result<(), Error> {
    let before = chain.stub();
    let after = before.map_or(0, |stub| stub.through.sequence);
    let mut removed = before.map_or(Removed::default(), |stub| stub.removed);
    let mut format = before.map_or(1, |stub| stub.format);
    let mut last = String::new();
    let going = segments(dir)?;
    let going = going
        .iter()
        .filter(|segment| segment.first > after && segment.first <= through.sequence);
    for segment in going {
        removed.segments += 1;
        removed.bytes += size(segment)?;
        each_line(segment, |line, bytes| {
            if line.entry_type == EntryType::Record {
                removed.records += 1;
            }
            if let EntryType::Format = line.entry_type
                && let Ok(Some(Entry::Format(entry))) = line.entry()
            {
                format = entry.format;
            }
            if line.receipt() == through {
                last = String::from_utf8_lossy(bytes).into_owned();
            }
        })?;
    }
    Stub::write(dir, signer, &chain.keys, (now, format), &last, removed)?;
    remove_through(dir, through.sequence)
}

/// Oldest first, so that what is left never has a hole.
fn remove_through(dir: &Path, through: u64) -> Result<(), Error> {
    let mut any = false;
    for segment in segments(dir)?.iter().filter(|segment| segment.first <= through) {
        remove(&segment.path)?;
        any = true;
    }
    if any { sync_dir(dir) } else { Ok(()) }
}

fn size(segment: &Segment) -> Result<u64, Error> {
    fs::metadata(&segment.path)
        .map(|metadata| metadata.len())
        .map_err(Error::io("look at", &segment.path))
}

fn each_line(segment: &Segment, mut visit: impl FnMut(&Line<'_>, &[u8])) -> Result<(), Error> {
    let path = &segment.path;
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
    let mut place = place(segment);
    let mut bytes = Vec::new();
    loop {
        let end = read_line(&mut reader, &mut bytes).map_err(Error::io("read", path))?;
        place.line += 1;
        match end {
            LineEnd::Whole => {
                let line = Line::parse(&bytes).map_err(|e| place.fault(None, FaultKind::Malformed(e)))?;
                visit(&line, &bytes);
            }
            LineEnd::Nothing => return Ok(()),
            LineEnd::Fragment => return Err(place.fault(None, FaultKind::Unterminated).into()),
            LineEnd::TooLong => return Err(place.fault(None, FaultKind::TooLong).into()),
        }
    }
}

fn place(segment: &Segment) -> Place {
    Place {
        file: Arc::from(file_name(&segment.path)),
        line: 0,
    }
}

/// The first signature in a segment that is being written.
fn first_checkpoint(segment: &Segment) -> Result<Option<Checkpoint>, Error> {
    let path = &segment.path;
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
    let mut bytes = Vec::new();
    while read_line(&mut reader, &mut bytes).map_err(Error::io("read", path))? == LineEnd::Whole {
        let Ok(line) = Line::parse(&bytes) else { break };
        if let Ok(Some(Entry::Checkpoint(checkpoint))) = line.entry_if(EntryType::Checkpoint) {
            return Ok(Some(checkpoint));
        }
    }
    Ok(None)
}

/// The last line of a closed segment: always a signature.
fn last_checkpoint(segment: &Segment) -> Result<(Receipt, Checkpoint), Error> {
    const ENOUGH: u64 = 4096;
    let path = &segment.path;
    let read = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(ENOUGH)))?;
        let mut bytes = Vec::new();
        file.take(ENOUGH).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(Error::io("read the end of", path))?;
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let start = body.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let line = Line::parse(&body[start..]).map_err(|e| place(segment).fault(None, FaultKind::Malformed(e)))?;
    match line.entry_if(EntryType::Checkpoint) {
        Ok(Some(Entry::Checkpoint(checkpoint))) => Ok((line.receipt(), checkpoint)),
        _ => {
            let what = FaultKind::Checkpoint("a segment that is followed by another ends with one".into());
            Err(place(segment).fault(Some(line.sequence), what).into())
        }
    }
}
