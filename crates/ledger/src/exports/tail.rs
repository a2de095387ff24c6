//! Following a ledger: its lines from some place on, as far as they are durable, each verified against the one before.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::chain::Place;
use crate::entry::{Entry, Receipt};
use crate::error::file_name;
use crate::folder::segments;
use crate::line::Line;
use crate::reader::{LineEnd, read_line};
use crate::verify::FaultKind;

/// One line, verified.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) receipt: Receipt,
    /// The line as it stands in the ledger, without its end.
    pub(crate) line: Vec<u8>,
    /// What it holds; `None` if its body was redacted.
    pub(crate) entry: Option<Entry>,
}

/// Lines that were removed before they could be read: everything up to here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) through: Receipt,
}

struct Open {
    file: BufReader<File>,
    inode: u64,
    path: PathBuf,
    place: Place,
    /// Where the next line begins.
    offset: u64,
    /// Up to where reading was when this was opened.
    from: u64,
}

/// A place in a ledger that moves on.
pub(crate) struct Tail {
    dir: PathBuf,
    at: Receipt,
    open: Option<Open>,
}

impl Tail {
    /// To give the lines after `at`.
    pub(crate) fn after(dir: &Path, at: Receipt) -> Self {
        Self {
            dir: dir.to_owned(),
            at,
            open: None,
        }
    }

    pub(crate) fn at(&self) -> Receipt {
        self.at
    }

    /// Goes back, or on.
    pub(crate) fn seek(&mut self, at: Receipt) {
        self.at = at;
        self.open = None;
    }

    /// The next lines, up to the sequence `limit`, at most so many records and about so many bytes.
    pub(crate) fn read(&mut self, limit: u64, records: usize, bytes: usize) -> Result<Result<Vec<Item>, Gone>, Error> {
        let mut items = Vec::new();
        let mut size = 0;
        // A redaction replaces files, and what it took away must not come out of an old one.
        if let Some(open) = &mut self.open {
            let is_same = std::fs::metadata(&open.path).is_ok_and(|now| now.ino() == open.inode);
            // Bytes behind the last durable line may have been cut and written anew since.
            if !is_same || open.file.seek(SeekFrom::Start(open.offset)).is_err() {
                self.open = None;
            }
        }
        let mut buffer = Vec::new();
        while self.at.sequence < limit && items.len() < records && size < bytes {
            if self.open.is_none() {
                match self.find()? {
                    Ok(open) => self.open = Some(open),
                    Err(gone) if items.is_empty() => return Ok(Err(gone)),
                    Err(_) => break,
                }
            }
            let Some(open) = &mut self.open else { break };
            let end = read_line(&mut open.file, &mut buffer).map_err(Error::io("read", &open.path))?;
            let due = self.at.sequence + 1;
            let has_moved = open.from < self.at.sequence;
            if end == LineEnd::Nothing && has_moved {
                self.open = None;
                continue;
            }
            open.place.line += 1;
            let fault = |kind| Error::from(open.place.fault(Some(due), kind));
            if end == LineEnd::Nothing {
                // It was opened for a line that is durable, and is not there.
                return Err(fault(FaultKind::Truncated { expected: limit }));
            }
            if end != LineEnd::Whole {
                return Err(fault(FaultKind::Unterminated));
            }
            let line = Line::parse(&buffer).map_err(|e| fault(FaultKind::Malformed(e)))?;
            if line.sequence < due {
                if line.sequence == self.at.sequence && line.hash != self.at.hash {
                    return Err(fault(FaultKind::Witness));
                }
                open.offset += buffer.len() as u64 + 1;
                continue;
            }
            if line.sequence != due {
                return Err(fault(FaultKind::Sequence { found: line.sequence }));
            }
            if line.previous != self.at.hash {
                return Err(fault(FaultKind::Previous));
            }
            if !line.is_intact() {
                return Err(fault(FaultKind::Hash));
            }
            let entry = line.entry().map_err(|e| fault(FaultKind::Entry(e)))?;
            open.offset += buffer.len() as u64 + 1;
            self.at = line.receipt();
            size += buffer.len();
            items.push(Item {
                receipt: self.at,
                line: std::mem::take(&mut buffer),
                entry,
            });
        }
        Ok(Ok(items))
    }

    /// Opens the segment that holds the next line.
    fn find(&self) -> Result<Result<Open, Gone>, Error> {
        let due = self.at.sequence + 1;
        let all = segments(&self.dir)?;
        let stub = crate::stub::Stub::read(&self.dir)?;
        if let Some(stub) = stub
            && stub.through.sequence >= due
        {
            return Ok(Err(Gone { through: stub.through }));
        }
        let Some(segment) = all.iter().rev().find(|segment| segment.first <= due) else {
            let place = Place {
                file: Arc::from(file_name(&self.dir)),
                line: 1,
            };
            return Err(place.fault(Some(due), FaultKind::Segment).into());
        };
        let file = File::open(&segment.path).map_err(Error::io("open", &segment.path))?;
        let inode = file.metadata().map_err(Error::io("look at", &segment.path))?.ino();
        Ok(Ok(Open {
            file: BufReader::with_capacity(64 << 10, file),
            inode,
            path: segment.path.clone(),
            place: Place {
                file: Arc::from(file_name(&segment.path)),
                line: 0,
            },
            offset: 0,
            from: self.at.sequence,
        }))
    }
}
