//! Reading the segments of a folder one line at a time, also while they are being written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::chain::Place;
use crate::entry::{Entry, Receipt};
use crate::error::file_name;
use crate::filter::Filter;
use crate::folder::{Segment, segments};
use crate::line::MAX_LINE;
use crate::record::Record;
use crate::verify::{Expect, examine};

const BUFFER: usize = 256 << 10;

/// Reads the ledger in `dir`, verifies it on the way, and shows every record that matches, in order. Gives how many
/// did. The ledger may be in use. Records whose bodies were redacted are not shown.
///
/// # Errors
/// If a file cannot be read, or at the first fault; what was shown before it is sound.
pub fn scan(dir: impl AsRef<Path>, filter: &Filter, mut visit: impl FnMut(Receipt, &Record)) -> Result<u64, Error> {
    let expect = Expect::any_key();
    let mut matched = 0;
    let found = examine(dir.as_ref(), &expect, &mut |line, entry| {
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
    /// Not within [`MAX_LINE`] bytes.
    TooLong,
    /// There was no line.
    Nothing,
}

/// Reads one line into `line`, in bounded memory.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<LineEnd> {
    line.clear();
    reader.take(MAX_LINE as u64).read_until(b'\n', line)?;
    Ok(if line.last() == Some(&b'\n') {
        line.pop();
        LineEnd::Whole
    } else if line.is_empty() {
        LineEnd::Nothing
    } else if line.len() < MAX_LINE {
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
    Fragment { place: &'a Place, bytes: &'a [u8], offset: u64, path: &'a Path, last: bool },
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
    segments: Vec<Segment>,
    next: usize,
    open: Option<Open>,
    line: Vec<u8>,
    /// A fragment was read of the open segment; nothing follows it.
    torn: bool,
}

impl FolderReader {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let segments = segments(dir)?;
        Ok(Self { dir: dir.to_owned(), segments, next: 0, open: None, line: Vec::new(), torn: false })
    }

    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }

    pub(crate) fn next(&mut self) -> Result<Step<'_>, Error> {
        if !self.torn
            && let Some(open) = &mut self.open
        {
            let was_last = self.next == self.segments.len();
            let mut end = read_line(&mut open.file, &mut self.line).map_err(Error::io("read", &open.path))?;
            if was_last && matches!(end, LineEnd::Fragment | LineEnd::Nothing) && self.has_newer()? {
                // The writer has gone on since: what is here by now is all that this segment will have.
                let open = self.open.as_mut().expect("it was open above");
                open.file.seek(SeekFrom::Start(open.offset)).map_err(Error::io("read", &open.path))?;
                end = read_line(&mut open.file, &mut self.line).map_err(Error::io("read", &open.path))?;
            }
            let open = self.open.as_mut().expect("it was open above");
            if end != LineEnd::Nothing {
                open.place.line += 1;
            }
            match end {
                LineEnd::Whole => {
                    open.offset += self.line.len() as u64 + 1;
                    return Ok(Step::Line { place: &open.place, bytes: &self.line });
                }
                LineEnd::TooLong => return Ok(Step::TooLong { place: &open.place }),
                LineEnd::Fragment => {
                    self.torn = true;
                    let last = self.next == self.segments.len();
                    let (place, offset, path) = (&open.place, open.offset, &*open.path);
                    return Ok(Step::Fragment { place, bytes: &self.line, offset, path, last });
                }
                LineEnd::Nothing => {}
            }
        }
        if !self.has_newer()? {
            if let Some(open) = &mut self.open
                && !self.torn
            {
                open.place.line += 1;
            }
            let open = self.open.as_ref();
            return Ok(Step::End { place: open.map(|open| &open.place), len: open.map_or(0, |open| open.offset) });
        }
        let segment = &self.segments[self.next];
        let file = File::open(&segment.path).map_err(Error::io("open", &segment.path))?;
        let place = Place { file: Arc::from(file_name(&segment.path)), line: 0 };
        self.next += 1;
        self.torn = false;
        let file = BufReader::with_capacity(BUFFER, file);
        let open = self.open.insert(Open { file, path: segment.path.clone(), place, offset: 0 });
        Ok(Step::Segment { place: &open.place, first: segment.first })
    }

    /// Whether there is a segment that was not opened yet; looks again once all are through.
    fn has_newer(&mut self) -> Result<bool, Error> {
        if self.next == self.segments.len() {
            let after = self.segments.last().map_or(0, |segment| segment.first);
            let newer = segments(&self.dir)?.into_iter().filter(|segment| segment.first > after);
            self.segments.extend(newer);
        }
        Ok(self.next < self.segments.len())
    }
}
