//! One line of an evidence bundle: its form and its hash, which commits to every line before it.

use std::io::{self, Write};

use crate::hash::Hash;
use crate::line::{Cursor, InvalidLine, push_hex, push_number};

/// The most bytes that a line has, its end included.
pub(crate) const MAX_LINE: usize = 64 << 20;
/// What stands around a body.
const FRAME: usize = 256;
/// The most bytes that a body has.
pub(crate) const MAX_BODY: usize = MAX_LINE - FRAME;
const DOMAIN: &[u8] = b"outwork-evidence-line-1\0";

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Header,
    Ledger,
    Line,
    Document,
    Event,
    Seal,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Header,
        Self::Ledger,
        Self::Line,
        Self::Document,
        Self::Event,
        Self::Seal,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Ledger => "ledger",
            Self::Line => "line",
            Self::Document => "document",
            Self::Event => "event",
            Self::Seal => "seal",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Header => 1,
            Self::Ledger => 2,
            Self::Line => 3,
            Self::Document => 4,
            Self::Event => 5,
            Self::Seal => 6,
        }
    }
}

/// A line in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) number: u64,
    pub(crate) part: Part,
    pub(crate) hash: Hash,
    pub(crate) body: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads a line, without its end. There is one form.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, InvalidLine> {
        let mut cursor = Cursor { bytes, at: 0 };
        cursor.literal(b"{\"n\":", "`{\"n\":`")?;
        let number = cursor.number()?;
        cursor.literal(b",\"is\":\"", "`,\"is\":\"`")?;
        let at = cursor.at;
        let name = cursor.word();
        let part = Part::ALL.into_iter().find(|part| part.name().as_bytes() == name);
        let part = part.ok_or(InvalidLine {
            expected: "a known part",
            at,
        })?;
        cursor.literal(b"\",\"hash\":\"", "`\",\"hash\":\"`")?;
        let hash = Hash::from_bytes(cursor.hex()?);
        cursor.literal(b"\",\"body\":", "`\",\"body\":`")?;
        let body = bytes[cursor.at..].strip_suffix(b"}").filter(|body| !body.is_empty());
        let body = body.ok_or(InvalidLine {
            expected: "a body and `}`",
            at: cursor.at,
        })?;
        Ok(Self {
            number,
            part,
            hash,
            body,
        })
    }

    /// Whether it is what follows the line with the hash `previous`.
    pub(crate) fn follows(&self, previous: Hash) -> bool {
        hash(previous, self.number, self.part, self.body) == self.hash
    }
}

fn hash(previous: Hash, number: u64, part: Part, body: &[u8]) -> Hash {
    Hash::of_parts(&[DOMAIN, previous.as_bytes(), &number.to_be_bytes(), &[part.code()], body])
}

/// Writes lines, one after the other.
pub(crate) struct Writer<W> {
    out: W,
    /// How many there are.
    pub(crate) number: u64,
    /// The hash of the last one.
    pub(crate) hash: Hash,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            number: 0,
            hash: Hash::ZERO,
            line: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, part: Part, body: &[u8]) -> io::Result<()> {
        self.number += 1;
        self.hash = hash(self.hash, self.number, part, body);
        let line = &mut self.line;
        line.clear();
        line.extend_from_slice(b"{\"n\":");
        push_number(self.number, line);
        line.extend_from_slice(b",\"is\":\"");
        line.extend_from_slice(part.name().as_bytes());
        line.extend_from_slice(b"\",\"hash\":\"");
        push_hex(self.hash.as_bytes(), line);
        line.extend_from_slice(b"\",\"body\":");
        line.extend_from_slice(body);
        line.extend_from_slice(b"}\n");
        self.out.write_all(line)
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Takes a stream of lines and puts each into a line of its own.
pub(crate) struct Embed<'a, W> {
    writer: &'a mut Writer<W>,
    part: Part,
    line: Vec<u8>,
}

impl<'a, W: Write> Embed<'a, W> {
    pub(crate) fn new(writer: &'a mut Writer<W>, part: Part) -> Self {
        Self {
            writer,
            part,
            line: Vec::new(),
        }
    }
}

impl<W: Write> Write for Embed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.line.extend_from_slice(end);
                    self.writer.add(self.part, &self.line)?;
                    self.line.clear();
                }
                None => self.line.extend_from_slice(piece),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
