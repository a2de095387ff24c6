//! Escapes: one character of a text written in another way. Percent-encoding, JSON and JavaScript escapes, HTML
//! entities, quoted-printable, each also escaped a few times over.
//!
//! An escape is at most [`LONGEST`] bytes; longer runs are taken for plain text.

use super::encode::hex_digit;

/// The longest escape of one byte that is recognised.
pub(super) const LONGEST: usize = 26;
/// Backslashes before an escaped character, at most (three layers of strings in strings make seven).
const MAX_BACKSLASHES: usize = 8;
/// Repeated escaping of `%` or `&`, at most.
const MAX_LAYERS: usize = 3;

/// What stands at a position of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// `len` bytes of text that stand for the first `count` of `bytes`.
    Char { len: usize, bytes: [u8; 4], count: usize },
    /// `len` bytes of text that stand for nothing (a soft line break).
    Nothing { len: usize },
    /// The text ends within what may become an escape.
    More,
    /// No escape.
    Plain,
}

/// Bytes that an escape can start with, and line ends, which may stand inside base64.
pub(super) fn is_opener(byte: u8) -> bool {
    matches!(byte, b'\\' | b'%' | b'&' | b'=' | b'+' | b'\r' | b'\n')
}

/// Reads the escape at `at`. `last` says that no text will follow.
pub(super) fn read(text: &[u8], at: usize, last: bool) -> Unit {
    let rest = &text[at..];
    let unit = match rest.first() {
        Some(b'\\') => backslash(rest),
        Some(b'%') => percent(rest, last),
        Some(b'&') => entity(rest, last),
        Some(b'=') => quoted_printable(rest),
        Some(b'+') => byte(1, b' '),
        Some(b'\n') => byte(1, b'\n'),
        Some(b'\r') => byte(1, b'\r'),
        _ => Unit::Plain,
    };
    if unit == Unit::More && last { Unit::Plain } else { unit }
}

fn byte(len: usize, byte: u8) -> Unit {
    Unit::Char {
        len,
        bytes: [byte, 0, 0, 0],
        count: 1,
    }
}

fn character(len: usize, code: u32) -> Unit {
    match char::from_u32(code) {
        Some(c) => {
            let mut bytes = [0; 4];
            let count = c.encode_utf8(&mut bytes).len();
            Unit::Char { len, bytes, count }
        }
        None => Unit::Plain,
    }
}

/// Reads `count` hexadecimal digits at `at`.
fn hex_number(text: &[u8], at: usize, count: usize) -> Result<u32, Unit> {
    let mut value = 0;
    for index in at..at + count {
        let digit = *text.get(index).ok_or(Unit::More)?;
        value = value << 4 | u32::from(hex_digit(digit).ok_or(Unit::Plain)?);
    }
    Ok(value)
}

fn backslash(rest: &[u8]) -> Unit {
    let run = rest
        .iter()
        .take(MAX_BACKSLASHES + 1)
        .take_while(|b| **b == b'\\')
        .count();
    if run > MAX_BACKSLASHES {
        return Unit::Plain;
    }
    let Some(&next) = rest.get(run) else {
        return Unit::More;
    };
    let tried = match next {
        b'u' if rest.get(run + 1) == Some(&b'{') => return braced(rest, run),
        b'u' => hex_number(rest, run + 1, 4).and_then(|code| unicode(rest, run, code)),
        b'x' => hex_number(rest, run + 1, 2).map(|code| byte(run + 3, code as u8)),
        b'0'..=b'7' => octal(rest, run),
        b'n' => Ok(byte(run + 1, b'\n')),
        b'r' => Ok(byte(run + 1, b'\r')),
        b't' => Ok(byte(run + 1, b'\t')),
        b'b' => Ok(byte(run + 1, 8)),
        b'f' => Ok(byte(run + 1, 12)),
        b'\n' => Ok(Unit::Nothing { len: run + 1 }),
        _ if next.is_ascii_punctuation() => Ok(byte(run + 1, next)),
        _ => Ok(Unit::Plain),
    };
    tried.unwrap_or_else(|unit| unit)
}

/// `\uXXXX`, with its second half where it is a surrogate.
fn unicode(rest: &[u8], run: usize, code: u32) -> Result<Unit, Unit> {
    if !(0xd800..0xdc00).contains(&code) {
        return Ok(character(run + 5, code));
    }
    let second = run + 5;
    for index in 0..run {
        match rest.get(second + index) {
            None => return Err(Unit::More),
            Some(b'\\') => {}
            Some(_) => return Err(Unit::Plain),
        }
    }
    match rest.get(second + run) {
        None => return Err(Unit::More),
        Some(b'u') => {}
        Some(_) => return Err(Unit::Plain),
    }
    let low = hex_number(rest, second + run + 1, 4)?;
    if !(0xdc00..0xe000).contains(&low) {
        return Err(Unit::Plain);
    }
    Ok(character(
        second + run + 5,
        0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00),
    ))
}

/// `\u{X…}`.
fn braced(rest: &[u8], run: usize) -> Unit {
    let mut code = 0;
    for (index, b) in rest.iter().enumerate().skip(run + 2).take(7) {
        match (b, hex_digit(*b)) {
            (b'}', _) if index > run + 2 => return character(index + 1, code),
            (_, Some(digit)) => code = code << 4 | u32::from(digit),
            _ => return Unit::Plain,
        }
    }
    if rest.len() < run + 9 { Unit::More } else { Unit::Plain }
}

fn octal(rest: &[u8], run: usize) -> Result<Unit, Unit> {
    let mut value = 0u32;
    for index in run..run + 3 {
        match rest.get(index) {
            None => return Err(Unit::More),
            Some(digit @ b'0'..=b'7') => value = value << 3 | u32::from(digit - b'0'),
            Some(_) => return Err(Unit::Plain),
        }
    }
    u8::try_from(value)
        .map(|value| byte(run + 3, value))
        .map_err(|_| Unit::Plain)
}

fn percent(rest: &[u8], last: bool) -> Unit {
    let mut at = 1;
    for _ in 0..MAX_LAYERS {
        // `%2541` is `%41` escaped once more; `%25` alone is a percent sign.
        if !rest[at..].starts_with(b"25") {
            break;
        }
        match hex_number(rest, at + 2, 2) {
            Ok(_) => at += 2,
            Err(Unit::More) if !last => return Unit::More,
            Err(_) => break,
        }
    }
    match hex_number(rest, at, 2) {
        Ok(code) => byte(at + 2, code as u8),
        Err(unit) => unit,
    }
}

fn quoted_printable(rest: &[u8]) -> Unit {
    match rest.get(1) {
        None => Unit::More,
        Some(b'\n') => Unit::Nothing { len: 2 },
        Some(b'\r') => match rest.get(2) {
            None => Unit::More,
            Some(b'\n') => Unit::Nothing { len: 3 },
            Some(_) => Unit::Plain,
        },
        Some(_) => match hex_number(rest, 1, 2) {
            Ok(code) => byte(3, code as u8),
            Err(unit) => unit,
        },
    }
}

fn entity(rest: &[u8], last: bool) -> Unit {
    let mut at = 1;
    for _ in 0..MAX_LAYERS {
        // `&amp;#65;` is `&#65;` escaped once more; `&amp;` alone is an ampersand.
        let after = &rest[at..];
        if !after.starts_with(b"amp;") {
            break;
        }
        match after.get(4) {
            None if !last => return Unit::More,
            None => break,
            Some(b) if *b == b'#' || b.is_ascii_alphabetic() => match named(rest, at + 4) {
                Unit::More if !last => return Unit::More,
                Unit::Plain | Unit::More => break,
                _ => at += 4,
            },
            Some(_) => break,
        }
    }
    named(rest, at)
}

/// The longest entity without its ampersands and semicolon.
const MAX_ENTITY: usize = 9;

fn named(rest: &[u8], at: usize) -> Unit {
    let body = &rest[at..];
    let Some(end) = body.iter().take(MAX_ENTITY + 1).position(|b| *b == b';') else {
        let open = body.len() <= MAX_ENTITY && body.iter().all(|b| *b == b'#' || b.is_ascii_alphanumeric());
        return if open { Unit::More } else { Unit::Plain };
    };
    let (name, len) = (&body[..end], at + end + 1);
    let number = |digits: &[u8], radix| {
        let digits = std::str::from_utf8(digits).ok()?;
        u32::from_str_radix(digits, radix).ok()
    };
    let code = match name {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16),
        [b'#', digits @ ..] => number(digits, 10),
        _ => NAMED
            .iter()
            .find(|(known, _)| known.as_bytes() == name)
            .map(|(_, c)| u32::from(*c)),
    };
    match code {
        Some(code) => character(len, code),
        None => Unit::Plain,
    }
}

const NAMED: [(&str, u8); 37] = [
    ("amp", b'&'),
    ("lt", b'<'),
    ("gt", b'>'),
    ("quot", b'"'),
    ("apos", b'\''),
    ("sol", b'/'),
    ("plus", b'+'),
    ("equals", b'='),
    ("lowbar", b'_'),
    ("hyphen", b'-'),
    ("dash", b'-'),
    ("period", b'.'),
    ("comma", b','),
    ("colon", b':'),
    ("semi", b';'),
    ("excl", b'!'),
    ("num", b'#'),
    ("dollar", b'$'),
    ("percnt", b'%'),
    ("ast", b'*'),
    ("lpar", b'('),
    ("rpar", b')'),
    ("quest", b'?'),
    ("commat", b'@'),
    ("lsqb", b'['),
    ("rsqb", b']'),
    ("lbrack", b'['),
    ("rbrack", b']'),
    ("bsol", b'\\'),
    ("Hat", b'^'),
    ("grave", b'`'),
    ("lcub", b'{'),
    ("rcub", b'}'),
    ("verbar", b'|'),
    ("vert", b'|'),
    ("Tab", b'\t'),
    ("NewLine", b'\n'),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Option<(usize, String)> {
        match read(text.as_bytes(), 0, true) {
            Unit::Char { len, bytes, count } => Some((len, String::from_utf8_lossy(&bytes[..count]).into_owned())),
            Unit::Nothing { len } => Some((len, String::new())),
            Unit::More | Unit::Plain => None,
        }
    }

    #[test]
    fn escapes_of_every_kind_are_read() {
        for (text, len, value) in [
            ("%41", 3, "A"),
            ("%2541", 5, "A"),
            ("%252541z", 7, "A"),
            ("%25z", 3, "%"),
            ("%25", 3, "%"),
            ("%25ab", 5, "\u{fffd}"),
            (r"\u0041", 6, "A"),
            (r"\\u0041", 7, "A"),
            (r"\u00e9", 6, "\u{e9}"),
            (r"\ud83d\ude00", 12, "\u{1f600}"),
            (r"\u{1F600}", 9, "\u{1f600}"),
            (r"\x41", 4, "A"),
            (r"\101", 4, "A"),
            (r"\/", 2, "/"),
            (r#"\\\"x"#, 4, "\""),
            (r"\n", 2, "\n"),
            ("&#65;", 5, "A"),
            ("&#x41;", 6, "A"),
            ("&#0065;", 7, "A"),
            ("&amp;", 5, "&"),
            ("&amp;#65;", 9, "A"),
            ("&amp;amp;lt;", 12, "<"),
            ("&amp; x", 5, "&"),
            ("=41", 3, "A"),
            ("=\r\n", 3, ""),
            ("+", 1, " "),
        ] {
            assert_eq!(meaning(text), Some((len, value.to_owned())), "{text}");
            assert!(len <= LONGEST);
            for cut in 1..len {
                let part = &text.as_bytes()[..cut];
                assert!(
                    matches!(
                        read(part, 0, false),
                        Unit::More | Unit::Char { .. } | Unit::Nothing { .. }
                    ),
                    "{text} cut at {cut}"
                );
            }
        }
        for text in [
            "%4",
            "%zz",
            r"\q",
            r"\u00",
            r"\u{}",
            "&nothing;",
            "&#x110000;",
            "=zz",
            "a",
            r"\ud83d\u0041",
        ] {
            assert_eq!(meaning(text), None, "{text}");
        }
    }
}
