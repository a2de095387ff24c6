//! Verification: reading a whole ledger, line by line, and naming the first fault.
//!
//! Nothing is trusted but the keys that the caller names ([`Expect`]). Memory does not grow with the ledger, save for
//! runs of redacted records.

use std::fmt;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outwork_wire::Time;

use crate::Error;
use crate::chain::{Chain, Depth, Place};
use crate::entry::{Checkpoint, Entry, KeyEntry, Receipt};
use crate::error::file_name;
use crate::expect::Expect;
use crate::folder::{Segment, head_file, read_head};
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::line::{InvalidLine, Line};
use crate::reader::{FolderReader, LineEnd, Step, read_line};
use crate::stub::Stub;

/// The first thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// The name of the file.
    pub file: String,
    /// The line in it, counted from 1.
    pub line: u64,
    /// The sequence that the line has, or should have had.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, line {}", self.file, self.line)?;
        if let Some(sequence) = self.sequence {
            write!(f, " (sequence {sequence})")?;
        }
        write!(f, ": {}", self.kind)
    }
}

/// What can be wrong with a ledger or a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// It does not have the form of a line.
    #[error("this is not a line of a ledger: {0}")]
    Malformed(InvalidLine),
    /// It is longer than a line can be.
    #[error("the line is longer than a line of a ledger can be")]
    TooLong,
    /// It has no end, and is not the last line of a ledger that a crash interrupted.
    #[error("the line has no end: bytes are missing or changed")]
    Unterminated,
    /// Another sequence was due: lines are missing, doubled or in another order.
    #[error("the line has the sequence {found}: lines are missing, doubled or out of order")]
    Sequence {
        /// The sequence that is there.
        found: u64,
    },
    /// It does not name the hash of the line before it.
    #[error("the line does not follow the one before it: one of the two was replaced")]
    Previous,
    /// Its bytes do not give its hash.
    #[error("the line was changed: its bytes do not give the hash that it names")]
    Hash,
    /// Its hash is right, and what it holds is not what a ledger writes.
    #[error("the line holds nothing that a ledger writes: {0}")]
    Entry(String),
    /// A checkpoint is about something else.
    #[error("the checkpoint is wrong: {0}")]
    Checkpoint(String),
    /// A signature is wrong.
    #[error("the signature is not that of the key it names")]
    Signature,
    /// A key is wrong.
    #[error("the key is wrong: {0}")]
    Key(String),
    /// A body is gone, and no entry of the ledger says so.
    #[error("the body of the record is gone, and no entry of the ledger records that it was redacted")]
    BodyMissing,
    /// A segment is missing, or is named wrongly.
    #[error("the segment does not begin with the sequence that is due: a segment is missing or was renamed")]
    Segment,
    /// The end is missing.
    #[error("the ledger ends here, and is known to have had the sequence {expected}: its end was removed")]
    Truncated {
        /// A sequence that it is known to have had.
        expected: u64,
    },
    /// A line is not the one that a receipt, or the head, names.
    #[error("the line is not the one that was recorded here before: the ledger was written anew from some line on")]
    Witness,
    /// No key that is trusted has signed.
    #[error("none of the trusted keys has signed anything: the ledger belongs to another key")]
    Untrusted,
    /// The head cannot be read.
    #[error("the file does not name a checkpoint: it was changed")]
    Head,
    /// What stands for removed segments is wrong.
    #[error("what stands for the segments that were removed is wrong: {0}")]
    Pruned(String),
    /// Its records are of a newer version.
    #[error("from here on the ledger has the format {found}, and this program knows up to {known}: use a newer one")]
    Format {
        /// The version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// An evidence bundle is wrong in its own parts.
    #[error("the evidence is wrong: {0}")]
    Evidence(String),
    /// A bundle is wrong in its own parts.
    #[error("the bundle is wrong: {0}")]
    Bundle(String),
}

/// What was removed from a ledger, whole segments at a time. The ledger verifies from the checkpoint on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedPart {
    /// The last line that was removed.
    pub through: Receipt,
    /// What that line is: a signature over everything before it.
    pub checkpoint: Checkpoint,
    /// When it was last removed from.
    pub at: Time,
    /// How many records were removed.
    pub records: u64,
    /// How many bytes of segment files.
    pub bytes: u64,
}

/// What was found in a ledger.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The first fault; everything else is counted up to it.
    pub fault: Option<Fault>,
    /// The id of the ledger.
    pub ledger: Option<String>,
    /// The last line that is sound.
    pub last: Option<Receipt>,
    /// The last sequence that a signature of a trusted key covers.
    pub signed_up_to: u64,
    /// How many lines follow it. They are chained, and nobody has signed them yet.
    pub unsigned: u64,
    /// Records with their bodies.
    pub records: u64,
    /// Records whose bodies were redacted.
    pub redacted: u64,
    /// Records that the ledger says were redacted, and whose bodies are still there.
    pub redaction_unfinished: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// How often a torn tail was cut after a crash.
    pub recovered: u64,
    /// How often the ledger could not be written for a while.
    pub interrupted: u64,
    /// The keys, in order.
    pub keys: Vec<PublicKey>,
    /// What was removed; everything else in this report is about what is left.
    pub pruned: Option<PrunedPart>,
    /// The version of its newest records.
    pub format: u32,
    /// Receipts of the caller's that are about removed lines: nothing can be said about them.
    pub unconfirmed: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes after the last whole line: a line that is being written, or that a crash tore.
    pub unfinished_bytes: u64,
}

impl Report {
    /// Whether no fault was found.
    pub fn is_sound(&self) -> bool {
        self.fault.is_none()
    }

    /// The report if no fault was found.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the fault.
    pub fn sound(self) -> Result<Self, Error> {
        match self.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self),
        }
    }

    fn of(chain: &Chain<'_>, fault: Option<Fault>, segments: u64, unfinished_bytes: u64) -> Self {
        let keys: Vec<&KeyEntry> = chain.keys.iter().map(|(_, key)| key).collect();
        let last = chain.last();
        Self {
            fault,
            ledger: keys.first().map(|key| key.ledger_id()),
            last: (last.sequence > 0).then_some(last),
            signed_up_to: chain.vouched(),
            unsigned: last.sequence - chain.vouched(),
            records: chain.counts.records,
            redacted: chain.counts.dropped,
            redaction_unfinished: chain.unfinished().total(),
            checkpoints: chain.counts.checkpoints,
            recovered: chain.counts.recovered,
            interrupted: chain.counts.interrupted,
            keys: keys.iter().map(|key| key.public_key).collect(),
            pruned: chain.stub().map(|stub| PrunedPart {
                through: stub.through,
                checkpoint: stub.checkpoint.clone(),
                at: stub.at,
                records: stub.removed.records,
                bytes: stub.removed.bytes,
            }),
            format: chain.format(),
            unconfirmed: chain.unconfirmed(),
            segments,
            unfinished_bytes,
        }
    }
}

/// Verifies the ledger in `dir`, which may be in use.
///
/// # Errors
/// If a file cannot be read. A fault of the ledger is in the report.
pub fn verify(dir: impl AsRef<Path>, expect: &Expect) -> Result<Report, Error> {
    let mut tries = 0;
    let found = loop {
        match examine(dir.as_ref(), expect, Depth::Records, &mut |_, _| {}) {
            Err(Error::PrunedMeanwhile { .. }) if tries < 10 => tries += 1,
            other => break other?,
        }
    };
    let unfinished = found.tail.as_ref().map_or(0, |tail| tail.bytes);
    Ok(Report::of(
        &found.chain,
        found.fault,
        found.segments.len() as u64,
        unfinished,
    ))
}

/// Verifies a ledger that comes as one stream: its segments, one after the other. `name` stands for the file in a
/// fault. Without the folder's head, an end that was removed is seen only with [`Expect::witness`].
///
/// # Errors
/// If the stream cannot be read. A fault of the ledger is in the report.
pub fn verify_reader(mut reader: impl BufRead, name: &str, expect: &Expect) -> Result<Report, Error> {
    let mut place = Place {
        file: Arc::from(name),
        line: 0,
    };
    let mut chain = match Chain::new(expect, Depth::Records, None, None) {
        Ok(chain) => chain,
        Err(kind) => unreachable!("without a head no two witnesses differ: {kind}"),
    };
    let mut line = Vec::new();
    let fault = loop {
        let end = read_line(&mut reader, &mut line).map_err(Error::io("read", name))?;
        place.line += 1;
        let step = match end {
            LineEnd::Whole => take(&mut chain, &place, &line, &mut |_, _| {}),
            LineEnd::Fragment => Err(place.fault(Some(chain.next()), FaultKind::Unterminated)),
            LineEnd::TooLong => Err(place.fault(Some(chain.next()), FaultKind::TooLong)),
            LineEnd::Nothing => break chain.finish(&place),
        };
        if let Err(fault) = step {
            break Some(fault);
        }
    };
    Ok(Report::of(&chain, fault, 1, 0))
}

/// What a reader does with each sound line and what it holds, if it was looked at.
pub(crate) type OnLine<'a> = dyn FnMut(&Line<'_>, Option<&Entry>) + 'a;

/// The bytes after the last whole line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) hash: Hash,
}

/// What a look at all lines of a folder gave.
pub(crate) struct Examination<'e> {
    pub(crate) chain: Chain<'e>,
    pub(crate) segments: Vec<Segment>,
    /// The length of the last segment without the tail.
    pub(crate) last_len: u64,
    pub(crate) tail: Option<Tail>,
    pub(crate) fault: Option<Fault>,
}

/// Looks at all lines of a folder, up to the first fault.
pub(crate) fn examine<'e>(
    dir: &Path,
    expect: &'e Expect,
    depth: Depth,
    on_line: &mut OnLine<'_>,
) -> Result<Examination<'e>, Error> {
    let mut start = None;
    let found = examine_once(dir, expect, depth, on_line, &mut start);
    let failed = match &found {
        Ok(found) => found.fault.is_some(),
        Err(_) => true,
    };
    // Segments that go while they are read look like missing ones.
    if failed
        && let Ok(stub) = Stub::read(dir)
        && stub.map(|stub| stub.through) != start
    {
        return Err(Error::PrunedMeanwhile { dir: dir.to_owned() });
    }
    found
}

fn examine_once<'e>(
    dir: &Path,
    expect: &'e Expect,
    depth: Depth,
    on_line: &mut OnLine<'_>,
    start: &mut Option<Receipt>,
) -> Result<Examination<'e>, Error> {
    let head_place = Place {
        file: Arc::from("head"),
        line: 1,
    };
    let mut fault = None;
    // The head is read first: the ledger only grows, so it must hold what the head names.
    let head = match read_head(dir) {
        Ok(head) => head,
        Err(Error::Stray { path, .. }) if path == head_file(dir) => {
            fault = Some(head_place.fault(None, FaultKind::Head));
            None
        }
        Err(e) => return Err(e),
    };
    let stub = match Stub::read(dir) {
        Ok(stub) => stub,
        Err(Error::Damaged(damage)) => {
            fault = fault.or(Some(*damage));
            None
        }
        Err(e) => return Err(e),
    };
    *start = stub.as_ref().map(|stub| stub.through);
    let skip = start.map_or(0, |start| start.sequence);
    let chain = match Chain::new(expect, depth, head, stub) {
        Ok(chain) => chain,
        Err(kind) => {
            fault = fault.or(Some(head_place.fault(head.map(|head| head.sequence), kind)));
            Chain::new(Expect::NOTHING, depth, None, None).unwrap_or_else(|_| unreachable!("nothing, no conflict"))
        }
    };
    let mut reader = FolderReader::open(dir, skip)?;
    let mut found = Examination {
        chain,
        segments: Vec::new(),
        last_len: 0,
        tail: None,
        fault,
    };
    if found.fault.is_some() {
        return Ok(found);
    }
    loop {
        let due = found.chain.next();
        let step = match reader.next()? {
            Step::Segment { place, first } if first != due => Err(Place {
                line: 1,
                ..place.clone()
            }
            .fault(Some(due), FaultKind::Segment)),
            Step::Segment { .. } => Ok(()),
            Step::Line { place, bytes } => take(&mut found.chain, place, bytes, on_line),
            Step::TooLong { place } => Err(place.fault(Some(due), FaultKind::TooLong)),
            Step::Fragment {
                place,
                bytes,
                offset,
                path,
                last,
            } => {
                // A tear leaves the beginning of a line. A whole line with one more byte is one whose end was changed.
                let changed = bytes.split_last().is_some_and(|(_, line)| Line::parse(line).is_ok());
                if changed || !last {
                    Err(place.fault(Some(due), FaultKind::Unterminated))
                } else {
                    let bytes_len = bytes.len() as u64;
                    let path = path.to_owned();
                    found.tail = Some(Tail {
                        path,
                        offset,
                        bytes: bytes_len,
                        hash: Hash::of(bytes),
                    });
                    Ok(())
                }
            }
            Step::End { place, len } => {
                found.last_len = len;
                let place = place.cloned().unwrap_or(Place {
                    file: file_name(dir).into(),
                    line: 1,
                });
                found.fault = found.chain.finish(&place);
                break;
            }
        };
        if let Err(fault) = step {
            found.fault = Some(fault);
            break;
        }
    }
    found.segments = reader.into_segments();
    Ok(found)
}

fn take(chain: &mut Chain<'_>, place: &Place, bytes: &[u8], on_line: &mut OnLine<'_>) -> Result<(), Fault> {
    let due = chain.next();
    let line = Line::parse(bytes).map_err(|e| place.fault(Some(due), FaultKind::Malformed(e)))?;
    let entry = chain
        .accept(place, &line)
        .map_err(|kind| place.fault(Some(due), kind))?;
    on_line(&line, entry.as_ref());
    Ok(())
}
