//! Redaction and retention: dropping the bodies of records and leaving their hashes, so that the chain still verifies.
//!
//! The entry that tells of it is durable before the first body is dropped, so that a crash in between leaves a
//! redaction to finish (opening does it), never a body that is gone without a word.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::Error;
use crate::chain::{Depth, Place, Runs};
use crate::entry::{Entry, Redacted};
use crate::error::file_name;
use crate::expect::Expect;
use crate::filter::Filter;
use crate::folder::{Segment, create_temporary, segments, sync_dir};
use crate::ledger::{Ledger, prepare};
use crate::line::{EntryType, Line};
use crate::queue::Job;
use crate::reader::{LineEnd, read_line};
use crate::verify::{FaultKind, examine};

/// So many runs fit into the body of an entry.
const RUNS_PER_ENTRY: usize = 16_384;
/// The most that a reason or an actor has, so that an entry always fits.
pub(crate) const MAX_TEXT: usize = 4096;

/// What a redaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redaction {
    /// How many records lost their bodies.
    pub records: u64,
}

impl Ledger {
    /// Drops the bodies of the records that match and were kept before this call. For retention, use
    /// [`Filter::everything`] with [`Filter::before`]. The ledger stays in use meanwhile. Blocks, and reads all of it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the ledger is not sound; [`Error::Io`] if files could not be replaced, and then the rest
    /// is done when the ledger is opened the next time.
    pub fn redact(&self, filter: &Filter, actor: &str, reason: &str) -> Result<Redaction, Error> {
        let bytes = actor.len().max(reason.len());
        if bytes > MAX_TEXT {
            return Err(Error::TooLarge { bytes, limit: MAX_TEXT });
        }
        let _one = self.inner().redacting.lock().unwrap_or_else(PoisonError::into_inner);
        // The segment that is being written cannot be replaced, so everything that may be meant goes into closed ones.
        let closed = self.rotate_segment().wait()?.sequence;
        let expect = Expect::any_key();
        let mut runs = Runs::default();
        let found = examine(self.dir(), &expect, Depth::Records, &mut |line, entry| {
            if let Some(Entry::Record(record)) = entry
                && line.sequence <= closed
                && filter.matches(line.sequence, record)
            {
                runs.push(line.sequence);
            }
        })?;
        if let Some(fault) = found.fault {
            return Err(fault.into());
        }
        for part in runs.0.chunks(RUNS_PER_ENTRY) {
            let part = Runs(part.to_vec());
            let entry = Redacted {
                at: self.now(),
                actor: actor.to_owned(),
                reason: reason.to_owned(),
                records: part.total(),
                runs: part.0,
            };
            let body = prepare(&entry)?;
            self.ask(|reply| Job::Entry(EntryType::Redacted, body, reply)).wait()?;
        }
        let stub = found.chain.stub().map_or(0, |stub| stub.through.sequence);
        let closed_segments: Vec<Segment> = segments(self.dir())?
            .into_iter()
            .filter(|segment| segment.first > stub && segment.first <= closed)
            .collect();
        drop_bodies(self.dir(), &closed_segments, closed + 1, &runs)?;
        Ok(Redaction { records: runs.total() })
    }
}

/// Replaces those of the closed `segments` that hold records in `runs`. The segments end before the sequence `end`.
pub(crate) fn drop_bodies(dir: &Path, segments: &[Segment], end: u64, runs: &Runs) -> Result<(), Error> {
    for (i, segment) in segments.iter().enumerate() {
        let next = segments.get(i + 1).map_or(end, |next| next.first);
        if runs
            .0
            .iter()
            .any(|&(first, last)| first < next && last >= segment.first)
        {
            replace(segment, runs)?;
            sync_dir(dir)?;
        }
    }
    Ok(())
}

fn replace(segment: &Segment, runs: &Runs) -> Result<(), Error> {
    let path = &segment.path;
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("open", path))?);
    let temporary = path.with_extension("tmp");
    let file = create_temporary(&temporary).map_err(Error::io("make", &temporary))?;
    let mut writer = BufWriter::new(file);
    let mut place = Place {
        file: Arc::from(file_name(path)),
        line: 0,
    };
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    loop {
        let end = read_line(&mut reader, &mut bytes).map_err(Error::io("read", path))?;
        place.line += 1;
        let line = match end {
            LineEnd::Whole => Line::parse(&bytes).map_err(|e| place.fault(None, FaultKind::Malformed(e)))?,
            LineEnd::Nothing => break,
            LineEnd::Fragment => return Err(place.fault(None, FaultKind::Unterminated).into()),
            LineEnd::TooLong => return Err(place.fault(None, FaultKind::TooLong).into()),
        };
        // Nothing is replaced on the word of a line that was changed meanwhile.
        if !line.is_intact() {
            return Err(place.fault(Some(line.sequence), FaultKind::Hash).into());
        }
        out.clear();
        if line.entry_type == EntryType::Record && runs.contains(line.sequence) {
            line.without_body().write_to(&mut out);
        } else {
            line.write_to(&mut out);
        }
        writer.write_all(&out).map_err(Error::io("write", &temporary))?;
    }
    let file = writer
        .into_inner()
        .map_err(|e| Error::io("write", &temporary)(e.into_error()))?;
    file.sync_all().map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("replace", path))
}
