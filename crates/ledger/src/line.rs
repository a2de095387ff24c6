//! One line of the ledger: its form, and how its hash is made.
//!
//! A line has exactly one form (see the crate's page). Reading refuses everything else, so what is read and written
//! again is the same, byte for byte; [`check_round_trip`] asserts that for a fuzzer.

use crate::entry::{Entry, Receipt};
use crate::hash::{Hash, decode_hex, write_hex};

/// The most bytes that a body has.
pub const MAX_BODY: usize = 1 << 20;
/// The most bytes that a line has, its end included.
pub const MAX_LINE: usize = MAX_BODY + 512;

const BODY_DOMAIN: &[u8] = b"outwork-ledger-body-1\0";
const LINE_DOMAIN: &[u8] = b"outwork-ledger-line-1\0";

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryType {
    /// A crossing.
    Record,
    /// A signature.
    Checkpoint,
    /// A key.
    Key,
    /// A cut after a crash.
    Recovered,
    /// A time in which the ledger could not be written.
    Interrupted,
    /// A removal of bodies.
    Redacted,
    /// A removal of old segments.
    Pruned,
    /// The version of what follows.
    Format,
}

impl EntryType {
    const ALL: [Self; 8] = [
        Self::Record,
        Self::Checkpoint,
        Self::Key,
        Self::Recovered,
        Self::Interrupted,
        Self::Redacted,
        Self::Pruned,
        Self::Format,
    ];

    /// Its name in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Checkpoint => "checkpoint",
            Self::Key => "key",
            Self::Recovered => "recovered",
            Self::Interrupted => "interrupted",
            Self::Redacted => "redacted",
            Self::Pruned => "pruned",
            Self::Format => "format",
        }
    }

    /// Its number in the hash of a line.
    const fn code(self) -> u8 {
        match self {
            Self::Record => 1,
            Self::Checkpoint => 2,
            Self::Key => 3,
            Self::Recovered => 4,
            Self::Interrupted => 5,
            Self::Redacted => 6,
            Self::Pruned => 7,
            Self::Format => 8,
        }
    }
}

/// The body of a line, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// It is there.
    Kept {
        /// The random bytes that keep a body from being guessed once only its hash is left.
        salt: [u8; 16],
        /// A JSON object.
        bytes: &'a [u8],
    },
    /// Only its hash is.
    Dropped(Hash),
}

impl Body<'_> {
    /// The hash that the line commits to.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Kept { salt, bytes } => hash_body(salt, bytes),
            Self::Dropped(hash) => *hash,
        }
    }
}

/// The hash of a body.
pub(crate) fn hash_body(salt: &[u8; 16], bytes: &[u8]) -> Hash {
    Hash::of_parts(&[BODY_DOMAIN, salt, bytes])
}

/// The hash of a line.
pub(crate) fn hash_line(sequence: u64, previous: Hash, entry_type: EntryType, body: Hash) -> Hash {
    Hash::of_parts(&[
        LINE_DOMAIN,
        &sequence.to_be_bytes(),
        previous.as_bytes(),
        &[entry_type.code()],
        body.as_bytes(),
    ])
}

/// A line in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its place in the ledger; the first line has 1.
    pub sequence: u64,
    /// The hash of the line before it.
    pub previous: Hash,
    /// What it holds.
    pub entry_type: EntryType,
    /// The body.
    pub body: Body<'a>,
    /// The hash that it names as its own. Not yet compared: see [`Line::is_intact`].
    pub hash: Hash,
}

/// Bytes that do not have the form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected at byte {at}")]
pub struct InvalidLine {
    /// What should have been there.
    pub expected: &'static str,
    /// Where, counted from 0.
    pub at: usize,
}

impl<'a> Line<'a> {
    /// Reads a line, without its end.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidLine> {
        let mut cursor = Cursor { bytes, at: 0 };
        cursor.literal(b"{\"seq\":", "`{\"seq\":`")?;
        let sequence = cursor.number()?;
        cursor.literal(b",\"prev\":\"", "`,\"prev\":\"`")?;
        let previous = Hash::from_bytes(cursor.hex()?);
        cursor.literal(b"\",\"type\":\"", "`\",\"type\":\"`")?;
        let entry_type = cursor.entry_type()?;
        cursor.literal(b"\",\"", "`\",\"`")?;
        let body = if cursor.starts_with(b"salt") {
            cursor.literal(b"salt\":\"", "`salt\":\"`")?;
            let salt = cursor.hex()?;
            cursor.literal(b"\",\"body\":", "`\",\"body\":`")?;
            // `,"hash":"` and 64 digits and `"}` end the line.
            let end = bytes.len().checked_sub(75).filter(|&end| end > cursor.at);
            let end = end.ok_or(InvalidLine {
                expected: "a body",
                at: cursor.at,
            })?;
            let body = &bytes[cursor.at..end];
            if !(body.starts_with(b"{") && body.ends_with(b"}")) || body.len() > MAX_BODY || body.contains(&b'\n') {
                return Err(InvalidLine {
                    expected: "a body in braces",
                    at: cursor.at,
                });
            }
            cursor.at = end;
            Body::Kept { salt, bytes: body }
        } else {
            cursor.literal(b"body_hash\":\"", "`salt\":\"` or `body_hash\":\"`")?;
            let hash = Hash::from_bytes(cursor.hex()?);
            cursor.literal(b"\"", "`\"`")?;
            Body::Dropped(hash)
        };
        cursor.literal(b",\"hash\":\"", "`,\"hash\":\"`")?;
        let hash = Hash::from_bytes(cursor.hex()?);
        cursor.literal(b"\"}", "`\"}`")?;
        if cursor.at != bytes.len() {
            return Err(InvalidLine {
                expected: "the end of the line",
                at: cursor.at,
            });
        }
        Ok(Self {
            sequence,
            previous,
            entry_type,
            body,
            hash,
        })
    }

    /// The line that follows `last`.
    pub(crate) fn following(last: Receipt, entry_type: EntryType, body: Body<'a>, body_hash: Hash) -> Self {
        let sequence = last.sequence + 1;
        let hash = hash_line(sequence, last.hash, entry_type, body_hash);
        Self {
            sequence,
            previous: last.hash,
            entry_type,
            body,
            hash,
        }
    }

    /// Whether its parts give the hash that it names.
    pub fn is_intact(&self) -> bool {
        hash_line(self.sequence, self.previous, self.entry_type, self.body.hash()) == self.hash
    }

    /// Its place and hash.
    pub fn receipt(&self) -> Receipt {
        Receipt {
            sequence: self.sequence,
            hash: self.hash,
        }
    }

    /// The same line with nothing but the hash of its body.
    pub fn without_body(&self) -> Line<'static> {
        Line {
            sequence: self.sequence,
            previous: self.previous,
            entry_type: self.entry_type,
            body: Body::Dropped(self.body.hash()),
            hash: self.hash,
        }
    }

    /// Reads the body; `None` if it was dropped.
    ///
    /// # Errors
    /// Says what is wrong with the body, without quoting it.
    pub fn entry(&self) -> Result<Option<Entry>, String> {
        match self.body {
            Body::Kept { bytes, .. } => Entry::parse(self.entry_type, bytes).map(Some),
            Body::Dropped(_) => Ok(None),
        }
    }

    /// As [`entry`](Line::entry), for a line of one type; `None` for all others.
    pub(crate) fn entry_if(&self, wanted: EntryType) -> Result<Option<Entry>, String> {
        if self.entry_type == wanted {
            self.entry()
        } else {
            Ok(None)
        }
    }

    /// Writes the line and its end to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"seq\":");
        push_number(self.sequence, out);
        out.extend_from_slice(b",\"prev\":\"");
        push_hex(self.previous.as_bytes(), out);
        out.extend_from_slice(b"\",\"type\":\"");
        out.extend_from_slice(self.entry_type.name().as_bytes());
        match self.body {
            Body::Kept { salt, bytes } => {
                out.extend_from_slice(b"\",\"salt\":\"");
                push_hex(&salt, out);
                out.extend_from_slice(b"\",\"body\":");
                out.extend_from_slice(bytes);
            }
            Body::Dropped(hash) => {
                out.extend_from_slice(b"\",\"body_hash\":\"");
                push_hex(hash.as_bytes(), out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"hash\":\"");
        push_hex(self.hash.as_bytes(), out);
        out.extend_from_slice(b"\"}\n");
    }
}

/// For a fuzzer: reads `bytes` as a line and asserts that what is accepted is written again as the same bytes.
///
/// # Panics
/// If that does not hold.
pub fn check_round_trip(bytes: &[u8]) {
    let Ok(line) = Line::parse(bytes) else { return };
    let mut again = Vec::new();
    line.write_to(&mut again);
    assert_eq!(again.strip_suffix(b"\n"), Some(bytes), "a line has one form");
    let bare = line.without_body();
    assert_eq!(
        bare.is_intact(),
        line.is_intact(),
        "dropping a body does not change what is intact"
    );
    again.clear();
    bare.write_to(&mut again);
    let read = Line::parse(again.strip_suffix(b"\n").unwrap_or_default());
    assert_eq!(read, Ok(bare), "a line without its body is a line");
    // What a body holds is checked against its own form inside.
    drop(line.entry());
}

pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn starts_with(&self, literal: &[u8]) -> bool {
        self.rest().starts_with(literal)
    }

    pub(crate) fn literal(&mut self, literal: &[u8], expected: &'static str) -> Result<(), InvalidLine> {
        if !self.starts_with(literal) {
            return Err(InvalidLine { expected, at: self.at });
        }
        self.at += literal.len();
        Ok(())
    }

    pub(crate) fn number(&mut self) -> Result<u64, InvalidLine> {
        let wrong = InvalidLine {
            expected: "a sequence",
            at: self.at,
        };
        let digits = self.rest().iter().take(20).take_while(|b| b.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.rest()[..digits]).map_err(|_| wrong)?;
        if text.starts_with('0') {
            return Err(wrong);
        }
        self.at += digits;
        text.parse().map_err(|_| wrong)
    }

    pub(crate) fn hex<const N: usize>(&mut self) -> Result<[u8; N], InvalidLine> {
        let wrong = InvalidLine {
            expected: "lower-case hexadecimal digits",
            at: self.at,
        };
        let value = self.rest().get(..2 * N).and_then(decode_hex).ok_or(wrong)?;
        self.at += 2 * N;
        Ok(value)
    }

    /// A word of small letters.
    pub(crate) fn word(&mut self) -> &'a [u8] {
        let length = self
            .rest()
            .iter()
            .take(16)
            .take_while(|b| b.is_ascii_lowercase())
            .count();
        let name = &self.rest()[..length];
        self.at += length;
        name
    }

    fn entry_type(&mut self) -> Result<EntryType, InvalidLine> {
        let at = self.at;
        let name = self.word();
        let found = EntryType::ALL.into_iter().find(|t| t.name().as_bytes() == name);
        let found = found.ok_or(InvalidLine {
            expected: "a known type",
            at,
        })?;
        Ok(found)
    }
}

pub(crate) fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    write_hex(bytes, &mut out[start..]);
}

pub(crate) fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_form() {
        let body = Body::Kept {
            salt: [7; 16],
            bytes: b"{\"kind\":\"stop\",\"at\":\"2023-11-14T22:13:20.000001Z\"}",
        };
        let line = Line::following(
            Receipt {
                sequence: 41,
                hash: Hash::of(b"before"),
            },
            EntryType::Record,
            body,
            body.hash(),
        );
        assert!(line.is_intact());
        let mut bytes = Vec::new();
        line.write_to(&mut bytes);
        bytes.pop();
        assert_eq!(Line::parse(&bytes).unwrap(), line);
        check_round_trip(&bytes);
        let bare = line.without_body();
        assert!(bare.is_intact());
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                check_round_trip(&changed);
                let found = Line::parse(&changed).is_ok_and(|line| line.is_intact());
                assert!(!found, "a flip of {flip} at {at} is not seen");
            }
            assert!(Line::parse(&bytes[..at]).is_err());
        }
        bytes.push(b' ');
        assert!(Line::parse(&bytes).is_err());
    }

    #[test]
    fn numbers_have_one_form() {
        for number in [0, 1, 9, 10, 1234567890, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
        for bytes in [
            &b"{\"seq\":01,"[..],
            b"{\"seq\":,",
            b"{\"seq\":18446744073709551616,",
            b"{\"seq\":-1,",
        ] {
            assert!(Line::parse(bytes).is_err());
        }
    }
}
