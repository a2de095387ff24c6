//! Reading the segments of a folder one line at a time, also while they are being written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::chain::{Depth, Place};
use crate::entry::{Entry, Receipt};
use crate::error::file_name;
use crate::expect::Expect;
use crate::filter::Filter;
use crate::folder::{Segment, segments};
use crate::line::MAX_LINE;
use crate::record::Record;
use crate::verify::examine;

const BUFFER: usize = 256 << 10;

/// Reads the ledger in `dir`, verifies it on the way, and shows every record that matches, in order. Gives how many
/// did. The ledger may be in use. Records whose bodies were redacted are not shown.
///
/// # Errors
/// If a file cannot be read, or at the first fault; what was shown before it is sound.
pub fn scan(dir: impl AsRef<Path>, filter: &Filter, mut visit: impl FnMut(Receipt, &Record)) -> Result<u64, Error> {
    let expect = Expect::any_key();
    let mut matched = 0;
    let found = examine(dir.as_ref(), &expect, Depth::Records, &mut |line, entry| {
        if let Some(Entry::Record(record)) = entry
            && filter.matches(line.sequence, record)
        {
            matched += 1;
            visit(line.receipt(), record);
        }
    })?;
    match found.fault {
        Some(fault) => Err(fault.into()),
        None => Ok(matched),
    }
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// With its end, which is not in the buffer.
    Whole,
    /// With the end of the file.
    Fragment,
    /// Not within the limit.
    TooLong,
    /// There was no line.
    Nothing,
}

/// Reads one line of a ledger into `line`, in bounded memory.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<LineEnd> {
    read_line_within(MAX_LINE, reader, line)
}

/// Reads one line of at most `limit` bytes, its end included.
pub(crate) fn read_line_within(limit: usize, reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<LineEnd> {
    line.clear();
    reader.take(limit as u64).read_until(b'\n', line)?;
    Ok(if line.last() == Some(&b'\n') {
        line.pop();
        LineEnd::Whole
    } else if line.is_empty() {
        LineEnd::Nothing
    } else if line.len() < limit {
        LineEnd::Fragment
    } else {
        LineEnd::TooLong
    })
}

/// What a [`FolderReader`] came to.
pub(crate) enum Step<'a> {
    /// The beginning of a segment, and the sequence that its name says.
    Segment { place: &'a Place, first: u64 },
    /// A line without its end.
    Line { place: &'a Place, bytes: &'a [u8] },
    /// A line that has no end, and whether its segment is the last one.
    Fragment {
        place: &'a Place,
        bytes: &'a [u8],
        offset: u64,
        path: &'a Path,
        last: bool,
    },
    /// A line that is too long to be one.
    TooLong { place: &'a Place },
    /// The end: where the next line would stand, and at which length of the last segment.
    End { place: Option<&'a Place>, len: u64 },
}

struct Open {
    file: BufReader<File>,
    path: PathBuf,
    place: Place,
    offset: u64,
}

/// Goes through the segments of a folder. Segments that are made meanwhile are found.
pub(crate) struct FolderReader {
    dir: PathBuf,
    /// Segments that begin at or before this sequence were pruned, and are not looked at if they are still there.
    skip: u64,
    segments: Vec<Segment>,
    next: usize,
    open: Option<Open>,
    line: Vec<u8>,
    /// A fragment was read of the open segment; nothing follows it.
    torn: bool,
}

impl FolderReader {
    pub(crate) fn open(dir: &Path, skip: u64) -> Result<Self, Error> {
        let mut segments = segments(dir)?;
        segments.retain(|segment| segment.first > skip);
        Ok(Self {
            dir: dir.to_owned(),
            skip,
            segments,
            next: 0,
            open: None,
            line: Vec::new(),
            torn: false,
        })
    }

    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }

    pub(crate) fn next(&mut self) -> Result<Step<'_>, Error> {
        let end = if self.torn { LineEnd::Nothing } else { self.read()? };
        if end == LineEnd::Nothing {
            return self.turn();
        }
        let open = self.open.as_mut().expect("a line was read of it");
        open.place.line += 1;
        let place = &open.place;
        Ok(match end {
            LineEnd::Fragment => {
                self.torn = true;
                let last = self.next == self.segments.len();
                Step::Fragment {
                    place,
                    bytes: &self.line,
                    offset: open.offset,
                    path: &open.path,
                    last,
                }
            }
            LineEnd::TooLong => Step::TooLong { place },
            LineEnd::Whole | LineEnd::Nothing => {
                open.offset += self.line.len() as u64 + 1;
                Step::Line {
                    place,
                    bytes: &self.line,
                }
            }
        })
    }

    fn read(&mut self) -> Result<LineEnd, Error> {
        let was_last = self.next == self.segments.len();
        let Some(open) = &mut self.open else {
            return Ok(LineEnd::Nothing);
        };
        let end = read_line(&mut open.file, &mut self.line).map_err(Error::io("read", &open.path))?;
        if was_last && matches!(end, LineEnd::Fragment | LineEnd::Nothing) && self.has_newer()? {
            // The writer has gone on since: what is here by now is all that this segment will have.
            let Some(open) = &mut self.open else {
                return Ok(LineEnd::Nothing);
            };
            open.file
                .seek(SeekFrom::Start(open.offset))
                .map_err(Error::io("read", &open.path))?;
            return read_line(&mut open.file, &mut self.line).map_err(Error::io("read", &open.path));
        }
        Ok(end)
    }

    /// Goes on with the next segment, if one was seen before this one was read to its end: looking for one only now
    /// could find one that began after lines that were added here meanwhile.
    fn turn(&mut self) -> Result<Step<'_>, Error> {
        if self.next == self.segments.len() {
            if let Some(open) = &mut self.open
                && !self.torn
            {
                open.place.line += 1;
            }
            let open = self.open.as_ref();
            return Ok(Step::End {
                place: open.map(|open| &open.place),
                len: open.map_or(0, |open| open.offset),
            });
        }
        let segment = &self.segments[self.next];
        let file = File::open(&segment.path).map_err(Error::io("open", &segment.path))?;
        let place = Place {
            file: Arc::from(file_name(&segment.path)),
            line: 0,
        };
        self.next += 1;
        self.torn = false;
        let file = BufReader::with_capacity(BUFFER, file);
        let open = self.open.insert(Open {
            file,
            path: segment.path.clone(),
            place,
            offset: 0,
        });
        Ok(Step::Segment {
            place: &open.place,
            first: segment.first,
        })
    }

    /// Whether there is a segment that was not opened yet; looks again once all are through.
    fn has_newer(&mut self) -> Result<bool, Error> {
        if self.next == self.segments.len() {
            let after = self.segments.last().map_or(self.skip, |segment| segment.first);
            let newer = segments(&self.dir)?.into_iter().filter(|segment| segment.first > after);
            self.segments.extend(newer);
        }
        Ok(self.next < self.segments.len())
    }
}
