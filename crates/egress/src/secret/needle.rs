//! The spellings of a text that are searched for: raw, reversed, base64 at three offsets in two alphabets, hexadecimal
//! in two cases, UTF-16 in two byte orders. Each may moreover be escaped (see `escape`), and base64 and hexadecimal may
//! be broken into lines. Each knows what replaces it, in the same spelling.

use zeroize::Zeroizing;

use super::encode::{base64_char, base64_run, base64_value, hex};
use super::escape::{Unit, is_opener, read};

/// A spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Reversed,
    Base64 { url: bool },
    Hex,
    Utf16,
}

impl Form {
    /// For a person.
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Raw => "text",
            Form::Reversed => "reversed text",
            Form::Base64 { .. } => "base64",
            Form::Hex => "hexadecimal",
            Form::Utf16 => "UTF-16",
        }
    }

    fn escapes(self) -> bool {
        matches!(self, Form::Raw | Form::Reversed | Form::Base64 { .. })
    }

    fn breaks(self) -> bool {
        matches!(self, Form::Base64 { .. } | Form::Hex)
    }
}

/// Bits of the base64 character beside a run.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub(super) mask: u8,
    want: u8,
    swap: u8,
}

impl Edge {
    fn of(want: Option<(u8, u8)>, swap: Option<(u8, u8)>) -> Option<Self> {
        let ((want, mask), (swap, _)) = (want?, swap?);
        Some(Edge { mask, want, swap })
    }

    /// Whether the character holds the bits that are looked for.
    pub(super) fn fits(self, byte: u8) -> bool {
        base64_value(byte).is_some_and(|value| value & self.mask == self.want)
    }

    fn replaced(self, byte: u8, url: bool) -> u8 {
        let url = match byte {
            b'-' | b'_' => true,
            b'+' | b'/' => false,
            _ => url,
        };
        let value = base64_value(byte).unwrap_or(0);
        base64_char(value & !self.mask | self.swap, url)
    }
}

/// One spelling of one text.
pub(super) struct Needle {
    /// Whose text it is: an index into the set's specs.
    pub(super) owner: usize,
    pub(super) form: Form,
    pub(super) text: Zeroizing<Vec<u8>>,
    /// What replaces it, equally long.
    swap: Zeroizing<Vec<u8>>,
    /// Whether what replaces it had this length by itself; otherwise it was cut or filled, and is good for hiding only.
    pub(super) exact: bool,
    pub(super) lead: Option<Edge>,
    trail: Option<Edge>,
}

/// How a match at some position went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Matched up to here (exclusive).
    Full(usize),
    /// The text ended before it was decided.
    Partial,
    No,
}

/// A piece of a match: `needle[from..from + taken]` stands in `text[at..at + len]`.
struct Piece {
    from: usize,
    taken: usize,
    at: usize,
    len: usize,
}

enum Step {
    Take { taken: usize, len: usize },
    Skip { len: usize },
    More,
    No,
}

/// All spellings of `text`, each with the same spelling of `swap`. Both have the same number of bytes.
pub(super) fn spellings(owner: usize, text: &str, swap: &str) -> Vec<Needle> {
    let (raw, raw_swap) = (text.as_bytes(), swap.as_bytes());
    let mut all: Vec<Needle> = Vec::new();
    let mut add = |form, text: Vec<u8>, mut swap: Vec<u8>, lead, trail| {
        let exact = swap.len() == text.len();
        swap.resize(text.len(), b'0');
        if all.iter().any(|known| *known.text == text) {
            return;
        }
        all.push(Needle {
            owner,
            form,
            text: Zeroizing::new(text),
            swap: Zeroizing::new(swap),
            exact,
            lead,
            trail,
        });
    };
    let reversed = |text: &str| text.chars().rev().collect::<String>().into_bytes();
    add(Form::Raw, raw.to_vec(), raw_swap.to_vec(), None, None);
    add(Form::Reversed, reversed(text), reversed(swap), None, None);
    for url in [false, true] {
        for offset in 0..3 {
            let (run, other) = (base64_run(raw, offset, url), base64_run(raw_swap, offset, url));
            let (lead, trail) = (Edge::of(run.lead, other.lead), Edge::of(run.trail, other.trail));
            add(Form::Base64 { url }, run.inner, other.inner, lead, trail);
        }
    }
    for upper in [false, true] {
        add(Form::Hex, hex(raw, upper), hex(raw_swap, upper), None, None);
    }
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let wide = |text: &str| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
        add(Form::Utf16, wide(text), wide(swap), None, None);
    }
    all
}

impl Needle {
    /// Tries to match the whole needle at `start`.
    pub(super) fn match_at(&self, text: &[u8], start: usize, last: bool) -> Fate {
        self.walk(text, start, last, |_| {})
    }

    fn walk(&self, text: &[u8], start: usize, last: bool, mut visit: impl FnMut(Piece)) -> Fate {
        let (mut from, mut at) = (0, start);
        while from < self.text.len() {
            if at >= text.len() {
                return if last { Fate::No } else { Fate::Partial };
            }
            match self.step(from, text, at, last) {
                Step::Take { taken, len } => {
                    visit(Piece { from, taken, at, len });
                    from += taken;
                    at += len;
                }
                Step::Skip { len } => {
                    visit(Piece {
                        from,
                        taken: 0,
                        at,
                        len,
                    });
                    at += len;
                }
                Step::More => return Fate::Partial,
                Step::No => return Fate::No,
            }
        }
        if self.trail.is_some() && at >= text.len() && !last {
            return Fate::Partial;
        }
        Fate::Full(at)
    }

    fn step(&self, from: usize, text: &[u8], at: usize, last: bool) -> Step {
        let (want, have) = (self.text[from], text[at]);
        if !is_opener(have) {
            return if want == have { TAKE_ONE } else { Step::No };
        }
        let breakable = self.form.breaks() && from > 0;
        if matches!(have, b'\r' | b'\n') || !self.form.escapes() {
            return if want == have {
                TAKE_ONE
            } else if breakable && matches!(have, b'\r' | b'\n') {
                Step::Skip { len: 1 }
            } else {
                Step::No
            };
        }
        if have == b'\\' && want == b'\\' {
            return self.backslashes(from, text, at, last);
        }
        let unit = read(text, at, last);
        if want == have {
            // A sign that opens escapes, here as itself: written plainly, or escaped.
            return match unit {
                Unit::Char { len, bytes, count: 1 } if bytes[0] == want => {
                    let plainly = self.text[from + 1..].starts_with(&text[at + 1..at + len]);
                    Step::Take {
                        taken: 1,
                        len: if plainly { 1 } else { len },
                    }
                }
                // A soft line break before the sign.
                Unit::Nothing { len } if from > 0 && self.text.get(from + 1) != text.get(at + 1) => Step::Skip { len },
                Unit::More => Step::More,
                Unit::Char { .. } | Unit::Nothing { .. } | Unit::Plain => TAKE_ONE,
            };
        }
        match unit {
            Unit::Char { len, bytes, count } if self.text[from..].starts_with(&bytes[..count]) => {
                Step::Take { taken: count, len }
            }
            Unit::Char { len, bytes, .. } if breakable && matches!(bytes[0], b'\r' | b'\n') => Step::Skip { len },
            Unit::Nothing { len } if from > 0 => Step::Skip { len },
            Unit::More => Step::More,
            Unit::Char { .. } | Unit::Nothing { .. } | Unit::Plain => Step::No,
        }
    }

    /// Backslashes of the needle itself: as they are, or escaped once or twice, perhaps with an escaped sign behind.
    fn backslashes(&self, from: usize, text: &[u8], at: usize, last: bool) -> Step {
        match read(text, at, last) {
            // By its number.
            Unit::Char { len, bytes, count: 1 } if bytes[0] == b'\\' && text[at + len - 1] != b'\\' => {
                return Step::Take { taken: 1, len };
            }
            Unit::More => return Step::More,
            Unit::Char { .. } | Unit::Nothing { .. } | Unit::Plain => {}
        }
        let run = |bytes: &[u8]| bytes.iter().take_while(|b| **b == b'\\').count();
        let mine = run(&self.text[from..]);
        let there = run(&text[at..]);
        if at + there == text.len() && !last && there <= 4 * mine + 3 {
            return Step::More;
        }
        if there == mine || there == 2 * mine || there == 4 * mine {
            return Step::Take {
                taken: mine,
                len: there,
            };
        }
        let behind = self.text.get(from + mine).filter(|b| b.is_ascii_punctuation());
        if (there == 2 * mine + 1 || there == 4 * mine + 3) && behind.is_some() && behind == text.get(at + there) {
            return Step::Take {
                taken: mine + 1,
                len: there + 1,
            };
        }
        Step::No
    }

    /// Writes what replaces the match `text[start..end]` to `out`, which ends with what stood before it; `put` writes
    /// the bytes that stand there unescaped. Gives the end of what was replaced, which is one more than `end` where the
    /// last character holds a few bits of the needle, or nothing if the replacement cannot be written in this spelling.
    pub(super) fn replace(
        &self,
        text: &[u8],
        (start, end): (usize, usize),
        lead_in_out: bool,
        out: &mut Vec<u8>,
        put: impl Fn(u8, &mut Vec<u8>),
    ) -> Option<usize> {
        let Form::Base64 { url } = self.form else {
            return self.write(text, (start, end), out, put).then_some(end);
        };
        if let (true, Some(edge), Some(before)) = (lead_in_out, self.lead, out.last_mut())
            && edge.fits(*before)
        {
            *before = edge.replaced(*before, url);
        }
        if !self.write(text, (start, end), out, put) {
            return None;
        }
        match (self.trail, text.get(end)) {
            (Some(edge), Some(after)) if edge.fits(*after) => {
                out.push(edge.replaced(*after, url));
                Some(end + 1)
            }
            _ => Some(end),
        }
    }

    fn write(
        &self,
        text: &[u8],
        (start, end): (usize, usize),
        out: &mut Vec<u8>,
        put: impl Fn(u8, &mut Vec<u8>),
    ) -> bool {
        let mut fine = true;
        let upper = !lower_digits(&text[start..end]);
        // The match was seen to be whole, so nothing hangs on what follows it.
        self.walk(&text[..end], start, true, |piece| {
            let there = &text[piece.at..piece.at + piece.len];
            let swap = &self.swap[piece.from..piece.from + piece.taken];
            match (swap, there) {
                ([], _) => out.extend_from_slice(there),
                ([byte], [_]) => put(*byte, out),
                ([byte], _) => fine &= restyle(there, (self.text[piece.from], *byte), upper, out, &put),
                _ => swap.iter().for_each(|byte| put(*byte, out)),
            }
        });
        fine
    }
}

const TAKE_ONE: Step = Step::Take { taken: 1, len: 1 };

/// Whether escapes by number in a text have digits in lower case.
fn lower_digits(text: &[u8]) -> bool {
    let ends_number = |index: usize| {
        let digits = text[..=index]
            .iter()
            .rev()
            .take(6)
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        let before = (index + 1).checked_sub(digits + 1).map(|i| text[i]);
        matches!(before, Some(b'%' | b'u' | b'x' | b'='))
    };
    (0..text.len()).any(|index| matches!(text[index], b'a'..=b'f') && ends_number(index))
}

/// Writes `byte` in the way in which `escape` wrote `was`. False if that cannot be.
fn restyle(
    escape: &[u8],
    (was, byte): (u8, u8),
    upper: bool,
    out: &mut Vec<u8>,
    put: impl Fn(u8, &mut Vec<u8>),
) -> bool {
    if was == byte {
        out.extend_from_slice(escape);
        return true;
    }
    let digits = |count: usize, radix: u8, out: &mut Vec<u8>| {
        out.extend_from_slice(&escape[..escape.len() - count]);
        let mut rest = byte;
        let mut text = vec![b'0'; count];
        for place in text.iter_mut().rev() {
            let digit = rest % radix;
            *place = match digit {
                0..10 => b'0' + digit,
                _ if upper => b'A' + digit - 10,
                _ => b'a' + digit - 10,
            };
            rest /= radix;
        }
        out.extend(text);
        rest == 0
    };
    let backslashes = escape.iter().take_while(|b| **b == b'\\').count();
    let code_point = byte < 0x80;
    match (escape[0], escape.get(backslashes)) {
        (b'%' | b'=', _) => digits(2, 16, out),
        (b'\\', Some(b'u')) if !escape.ends_with(b"}") => code_point && digits(4, 16, out),
        (b'\\', Some(b'u')) => {
            put(byte, out);
            true
        }
        (b'\\', Some(b'x')) => digits(2, 16, out),
        (b'\\', Some(b'0'..=b'7')) => digits(3, 8, out),
        (b'&', _) if escape.contains(&b'#') => {
            let body = &escape[..escape.len() - 1];
            let places = body.iter().rev().take_while(|b| b.is_ascii_hexdigit()).count();
            let radix = if body[body.len() - places - 1].eq_ignore_ascii_case(&b'x') {
                16
            } else {
                10
            };
            // Three digits hold every ASCII character in decimal; two may not.
            let places_needed = if radix == 16 || byte < 100 { 2 } else { 3 };
            out.extend_from_slice(&body[..body.len() - places]);
            if !code_point {
                return false;
            }
            let number = match (radix, upper) {
                (16, false) => format!("{byte:x}"),
                (16, true) => format!("{byte:X}"),
                _ => byte.to_string(),
            };
            out.extend(std::iter::repeat_n(
                b'0',
                places.max(places_needed).saturating_sub(number.len()),
            ));
            out.extend(number.bytes());
            out.push(b';');
            true
        }
        _ => {
            put(byte, out);
            true
        }
    }
}
