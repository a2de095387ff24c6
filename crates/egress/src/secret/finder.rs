//! Finds every spelling of a set of texts, in one pass over chunks of any size.
//!
//! Plain occurrences are found by skipping (Wu and Manber's method: look at the last bytes of a window as long as the
//! shortest needle, and skip as far as no needle could stand). Occurrences with escapes in them are found from their
//! first escape: the byte before it and the byte that it means must be neighbours in a needle. So text without needles
//! costs a fraction of a nanosecond a byte. The tables are made here and not by a library because they hold pieces of
//! secrets, and are wiped when dropped.
//!
//! The result does not depend on how the text is cut: the match at the first position where one stands, and the longest
//! there; text that may yet become a match is held back.

use zeroize::Zeroize;

use super::encode::base64_value;
use super::escape::{LONGEST, Unit, is_opener, read};
use super::needle::{Fate, Form, Needle};

/// A needle found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Index into [`Finder::needles`].
    pub(super) needle: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Bytes that are hashed for skipping.
const BLOCK: usize = 4;

/// The search for many needles.
pub(super) struct Finder {
    pub(super) needles: Vec<Needle>,
    /// Needles by their first byte.
    first: Vec<Vec<u32>>,
    /// Length of the shortest needle, and the longest.
    shortest: usize,
    longest: usize,
    /// By hash of a block: how far the window may move.
    shifts: Vec<u8>,
    shift_bits: u32,
    /// Needles by the hash of the block that ends their first `shortest` bytes.
    buckets: Vec<(u32, u32)>,
    /// Which pairs of bytes stand in escapable needles, and where.
    pair_bits: Vec<u64>,
    pairs: Vec<(u16, u32, u32)>,
    /// Whether any needle has a backslash.
    backslash: bool,
    /// Which bytes can open an escape that matters here.
    openers: [bool; 256],
}

impl Drop for Finder {
    fn drop(&mut self) {
        self.shifts.zeroize();
        self.pair_bits.zeroize();
        self.pairs.iter_mut().for_each(|pair| pair.0.zeroize());
        self.first.zeroize();
        self.buckets.iter_mut().for_each(|bucket| bucket.0.zeroize());
    }
}

impl Finder {
    pub(super) fn new(needles: Vec<Needle>) -> Self {
        let shortest = needles.iter().map(|n| n.text.len()).min().unwrap_or(0).min(200);
        let longest = needles.iter().map(|n| n.text.len()).max().unwrap_or(0);
        debug_assert!(
            needles.is_empty() || shortest >= BLOCK,
            "needles of MIN_SECRET bytes or more"
        );
        let mut first = vec![Vec::new(); 256];
        let entries = needles.len() * shortest;
        let shift_bits = (entries * 8).next_power_of_two().ilog2().clamp(12, 18);
        let mut shifts = vec![shortest.saturating_sub(BLOCK - 1) as u8; 1 << shift_bits];
        let mut buckets = Vec::new();
        let mut pair_bits = vec![0; 1 << 10];
        let mut pairs = Vec::new();
        for (index, needle) in needles.iter().enumerate() {
            let index = index as u32;
            first[usize::from(needle.text[0])].push(index);
            for end in BLOCK..=shortest {
                let hash = hash(&needle.text[end - BLOCK..], shift_bits);
                let shift = (shortest - end) as u8;
                shifts[hash] = shifts[hash].min(shift);
                if shift == 0 {
                    buckets.push((hash as u32, index));
                }
            }
            for (at, two) in needle.text.windows(2).enumerate() {
                let pair = u16::from_le_bytes([two[0], two[1]]);
                pair_bits[usize::from(pair >> 6)] |= 1u64 << (pair & 63);
                if needle.form != Form::Utf16 {
                    pairs.push((pair, index, at as u32 + 1));
                }
            }
        }
        buckets.sort_unstable();
        pairs.sort_unstable();
        let space = needles.iter().any(|n| n.text.contains(&b' '));
        let opens = |byte: u8| is_opener(byte) && (byte != b'+' || space);
        Finder {
            openers: std::array::from_fn(|byte| opens(byte as u8)),
            backslash: needles.iter().any(|n| n.text.contains(&b'\\')),
            needles,
            first,
            shortest,
            longest,
            shifts,
            shift_bits,
            buckets,
            pair_bits,
            pairs,
        }
    }

    /// Searches `text`, of which everything before `cursor` was written already: calls `found` for each match that goes
    /// beyond the cursor, in order of their starts; it gives the next cursor. A match may begin before the cursor, where
    /// it overlaps one before it. Gives the position from which the text must be searched again with more text behind
    /// it, which may be before the cursor too. `last` says that no text follows; then everything is decided.
    pub(super) fn search<E>(
        &self,
        text: &[u8],
        mut cursor: usize,
        last: bool,
        mut found: impl FnMut(Found) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if self.needles.is_empty() {
            return Ok(text.len());
        }
        let mut starts = Vec::new();
        self.plain_starts(text, &mut starts);
        self.escaped_starts(text, last, &mut starts);
        starts.sort_unstable();
        starts.dedup();
        let hold = self.hold_from(text, last);
        for start in starts {
            if start >= hold {
                break;
            }
            if let Some(hit) = self.longest_at(text, start, last)
                && hit.end > cursor
            {
                cursor = found(hit)?;
            }
        }
        Ok(if last { hold } else { self.with_edge(text, hold, cursor) })
    }

    /// The first match in a whole text.
    pub(super) fn first_in(&self, text: &[u8]) -> Option<Found> {
        let mut hit = None;
        let _: Result<usize, ()> = self.search(text, 0, true, |found| {
            hit = Some(found);
            Err(())
        });
        hit
    }

    fn longest_at(&self, text: &[u8], start: usize, last: bool) -> Option<Found> {
        let mut best: Option<Found> = None;
        self.candidates_at(text, start, last, |needle| {
            if let Fate::Full(end) = self.needles[needle].match_at(text, start, last)
                && best.is_none_or(|b| end > b.end)
            {
                best = Some(Found { needle, start, end });
            }
            true
        });
        best
    }

    /// Calls `visit` with each needle whose first byte stands at `start`, plainly or escaped, until it gives false.
    fn candidates_at(&self, text: &[u8], start: usize, last: bool, mut visit: impl FnMut(usize) -> bool) {
        let have = text[start];
        for needle in &self.first[usize::from(have)] {
            if !visit(*needle as usize) {
                return;
            }
        }
        if !is_opener(have) {
            return;
        }
        match read(text, start, last) {
            Unit::Char { bytes, .. } if bytes[0] != have => {
                for needle in &self.first[usize::from(bytes[0])] {
                    if !visit(*needle as usize) {
                        return;
                    }
                }
            }
            // What the escape will mean is open: ask every needle.
            Unit::More => {
                for needle in 0..self.needles.len() {
                    if !visit(needle) {
                        return;
                    }
                }
            }
            Unit::Char { .. } | Unit::Nothing { .. } | Unit::Plain => {}
        }
    }

    /// Positions where the first bytes of a needle stand plainly.
    fn plain_starts(&self, text: &[u8], starts: &mut Vec<usize>) {
        let window = self.shortest;
        let mut end = window;
        while end <= text.len() {
            let hash = hash(&text[end - BLOCK..], self.shift_bits);
            let shift = self.shifts[hash];
            if shift > 0 {
                end += usize::from(shift);
                continue;
            }
            let start = end - window;
            let from = self.buckets.partition_point(|b| (b.0 as usize) < hash);
            let stands = self.buckets[from..]
                .iter()
                .take_while(|b| b.0 as usize == hash)
                .any(|b| self.needles[b.1 as usize].text[..window] == text[start..end]);
            if stands {
                starts.push(start);
            }
            end += 1;
        }
    }

    /// Positions where a needle may stand of which some part is escaped.
    fn escaped_starts(&self, text: &[u8], last: bool, starts: &mut Vec<usize>) {
        // Pieces without openers, which are most, are passed over sixteen bytes at a time.
        let (pieces, rest) = text.as_chunks::<16>();
        for (index, piece) in pieces.iter().enumerate() {
            if any_opener(piece) {
                self.escaped_starts_in(text, index * 16, piece, last, starts);
            }
        }
        self.escaped_starts_in(text, pieces.len() * 16, rest, last, starts);
    }

    fn escaped_starts_in(&self, text: &[u8], from: usize, piece: &[u8], last: bool, starts: &mut Vec<usize>) {
        for (offset, byte) in piece.iter().enumerate() {
            if self.openers[usize::from(*byte)] {
                self.starts_of_escape(text, from + offset, last, starts);
            }
        }
    }

    /// Positions where a needle may stand whose first escape is at `at`.
    fn starts_of_escape(&self, text: &[u8], at: usize, last: bool, starts: &mut Vec<usize>) {
        // What most openers are in practice: no escape at all.
        let plain = match (text[at], text.get(at + 1)) {
            (b'=', Some(next)) => !next.is_ascii_hexdigit() && !is_break(*next),
            (b'%', Some(next)) => !next.is_ascii_hexdigit(),
            (b'&', Some(next)) => *next != b'#' && !next.is_ascii_alphabetic(),
            _ => false,
        };
        if plain {
            return;
        }
        if self.backslash && text[at] == b'\\' {
            self.starts_at_or_before(text, at, b'\\', starts);
        }
        let mut behind = match read(text, at, last) {
            Unit::Char { len, bytes, .. } => {
                self.starts_at_or_before(text, at, bytes[0], starts);
                if !is_break(bytes[0]) {
                    return;
                }
                at + len
            }
            Unit::Nothing { len } => at + len,
            Unit::More | Unit::Plain => return,
        };
        // Line breaks may be left out of base64 and hexadecimal: what stands behind them counts.
        while let Some(&byte) = text.get(behind) {
            let next = if is_opener(byte) {
                read(text, behind, last)
            } else {
                Unit::Plain
            };
            match next {
                Unit::Nothing { len } => behind += len,
                Unit::Char { len, bytes, .. } if is_break(bytes[0]) => behind += len,
                Unit::Char { bytes, .. } => return self.starts_before(text, at, bytes[0], starts),
                Unit::More | Unit::Plain => return self.starts_before(text, at, byte, starts),
            }
        }
    }

    fn starts_at_or_before(&self, text: &[u8], at: usize, next: u8, starts: &mut Vec<usize>) {
        if !self.first[usize::from(next)].is_empty() {
            starts.push(at);
        }
        self.starts_before(text, at, next, starts);
    }

    /// Positions such that a needle stands plainly from there to `at`, and goes on with `next`.
    fn starts_before(&self, text: &[u8], at: usize, next: u8, starts: &mut Vec<usize>) {
        let Some(before) = at.checked_sub(1).map(|i| text[i]) else {
            return;
        };
        if !self.has_pair(before, next) {
            return;
        }
        let pair = u16::from_le_bytes([before, next]);
        let from = self.pairs.partition_point(|p| p.0 < pair);
        for (_, needle, length) in self.pairs[from..].iter().take_while(|p| p.0 == pair) {
            let length = *length as usize;
            let stands = at >= length && text[at - length..at] == self.needles[*needle as usize].text[..length];
            if stands {
                starts.push(at - length);
            }
        }
    }

    /// Whether two bytes stand side by side in any needle.
    fn has_pair(&self, first: u8, second: u8) -> bool {
        let pair = u16::from_le_bytes([first, second]);
        self.pair_bits[usize::from(pair >> 6)] >> (pair & 63) & 1 != 0
    }

    /// The first position where a match may begin that needs more text to be decided.
    fn hold_from(&self, text: &[u8], last: bool) -> usize {
        if last {
            return text.len();
        }
        // How far back a match can have begun: as many bytes as it has, and those that its escapes add.
        let mut budget = self.longest;
        let mut earliest = text.len();
        while earliest > 0 && budget > 0 {
            earliest -= 1;
            budget -= 1;
            if self.openers[usize::from(text[earliest])] {
                budget += match read(text, earliest, false) {
                    Unit::Char { len, .. } | Unit::Nothing { len } => len,
                    Unit::More => LONGEST,
                    Unit::Plain => 1,
                };
            }
        }
        for start in earliest..text.len() {
            let byte = text[start];
            if !is_opener(byte) {
                if self.first[usize::from(byte)].is_empty() {
                    continue;
                }
                let next = text.get(start + 1).copied().filter(|next| !is_opener(*next));
                if next.is_some_and(|next| !self.has_pair(byte, next)) {
                    continue;
                }
            }
            let mut partial = false;
            self.candidates_at(text, start, false, |needle| {
                partial = self.needles[needle].match_at(text, start, false) == Fate::Partial;
                !partial
            });
            if partial {
                return start;
            }
        }
        text.len()
    }

    /// One position less if the character before may hold the first bits of a base64 needle.
    fn with_edge(&self, text: &[u8], hold: usize, cursor: usize) -> usize {
        if hold <= cursor {
            return hold;
        }
        let before = text[hold - 1];
        if base64_value(before).is_none() {
            return hold;
        }
        let edge = self
            .needles
            .iter()
            .any(|n| n.lead.is_some_and(|lead| lead.fits(before)));
        if edge { hold - 1 } else { hold }
    }
}

/// Whether any of sixteen bytes opens an escape, or a line. Of a fixed size, and without branches, so that the compiler
/// looks at all of them at once.
fn any_opener(piece: &[u8; 16]) -> bool {
    let mut any = 0;
    for byte in piece {
        for opener in [b'\\', b'%', b'&', b'=', b'+', b'\r', b'\n'] {
            any |= u8::from(*byte == opener);
        }
    }
    any != 0
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn hash(block: &[u8], bits: u32) -> usize {
    let block = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    (block.wrapping_mul(0x9E37_79B1) >> (32 - bits)) as usize
}
