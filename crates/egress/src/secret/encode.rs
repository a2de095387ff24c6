//! Encodings that a value is written in: for substitution (the one that fits its place) and for search (all of them).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// How a value is written where it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// As it is.
    Plain,
    /// Inside a JSON string.
    Json,
    /// In a query or a form: percent-encoded.
    Form,
    /// In XML or HTML text or attributes.
    Xml,
}

impl Context {
    /// From the essence of a `Content-Type`.
    pub(super) fn of(content_type: &str) -> Self {
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let (_, subtype) = essence.split_once('/').unwrap_or(("", &essence));
        if essence == "application/x-www-form-urlencoded" {
            Context::Form
        } else if subtype.ends_with("json") || subtype.ends_with("json-seq") || subtype == "x-ndjson" {
            Context::Json
        } else if subtype == "xml" || subtype.ends_with("+xml") || subtype == "html" {
            Context::Xml
        } else {
            Context::Plain
        }
    }

    /// Appends one byte of a value.
    pub(super) fn put(self, byte: u8, out: &mut Vec<u8>) {
        match self {
            Context::Plain => out.push(byte),
            Context::Json => match byte {
                b'"' | b'\\' => out.extend([b'\\', byte]),
                b'\n' => out.extend(b"\\n"),
                b'\r' => out.extend(b"\\r"),
                b'\t' => out.extend(b"\\t"),
                0..0x20 => {
                    out.extend(b"\\u00");
                    hex_byte(byte, false, out);
                }
                _ => out.push(byte),
            },
            Context::Form => {
                if is_unreserved(byte) {
                    out.push(byte);
                } else {
                    out.push(b'%');
                    hex_byte(byte, true, out);
                }
            }
            Context::Xml => match byte {
                b'&' => out.extend(b"&amp;"),
                b'<' => out.extend(b"&lt;"),
                b'>' => out.extend(b"&gt;"),
                b'"' => out.extend(b"&#34;"),
                b'\'' => out.extend(b"&#39;"),
                _ => out.push(byte),
            },
        }
    }
}

/// Characters that are never percent-encoded (RFC 3986).
pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Two hexadecimal digits.
pub(super) fn hex_byte(byte: u8, upper: bool, out: &mut Vec<u8>) {
    let digits = if upper { UPPER } else { LOWER };
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

/// All bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8], upper: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    for byte in bytes {
        hex_byte(*byte, upper, &mut out);
    }
    out
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Undoes percent-encoding; what is no escape stays as it is.
pub(super) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let pair = (text[at] == b'%').then(|| {
            let high = hex_digit(*text.get(at + 1)?)?;
            let low = hex_digit(*text.get(at + 2)?)?;
            Some(high << 4 | low)
        });
        match pair.flatten() {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// Percent-encodes everything but unreserved characters, and `/` where asked for.
pub(super) fn percent_encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if *byte == b'/' && keep_slash {
            out.push(b'/');
        } else {
            Context::Form.put(*byte, &mut out);
        }
    }
    String::from_utf8(out).expect("percent-encoding is ASCII")
}

/// The base64 characters that some bytes fully decide when `offset` other bytes stand before them, and how many bits of
/// the characters beside them they decide too.
pub(super) struct Base64Run {
    /// Characters that the bytes alone decide.
    pub(super) inner: Vec<u8>,
    /// The six-bit value of the character before, as far as the bytes decide it, and the mask of these bits.
    pub(super) lead: Option<(u8, u8)>,
    /// The same for the character after.
    pub(super) trail: Option<(u8, u8)>,
}

/// Base64 of bytes that stand at `offset` (0, 1 or 2) modulo three.
pub(super) fn base64_run(bytes: &[u8], offset: usize, url: bool) -> Base64Run {
    let mut shifted = vec![0; offset];
    shifted.extend_from_slice(bytes);
    let mut text = if url {
        URL_SAFE_NO_PAD.encode(&shifted)
    } else {
        STANDARD_NO_PAD.encode(&shifted)
    }
    .into_bytes();
    zeroize::Zeroize::zeroize(&mut shifted);
    let start = (8 * offset).div_ceil(6);
    let end = 8 * (offset + bytes.len()) / 6;
    let lead_mask = [0, 0x0f, 0x03][offset];
    let trail_mask = [0, 0x30, 0x3c][(offset + bytes.len()) % 3];
    let edge = |index: usize, mask: u8| (mask != 0).then(|| (base64_value(text[index]).unwrap_or(0) & mask, mask));
    let run = Base64Run {
        lead: edge(start.saturating_sub(1), lead_mask),
        trail: edge(end.min(text.len() - 1), trail_mask),
        inner: text[start..end].to_vec(),
    };
    zeroize::Zeroize::zeroize(&mut text);
    run
}

/// The six bits of a base64 character of either alphabet.
pub(super) fn base64_value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// The character for six bits.
pub(super) fn base64_char(value: u8, url: bool) -> u8 {
    match value & 63 {
        v @ 0..26 => b'A' + v,
        v @ 26..52 => b'a' + v - 26,
        v @ 52..62 => b'0' + v - 52,
        62 => {
            if url {
                b'-'
            } else {
                b'+'
            }
        }
        _ => {
            if url {
                b'_'
            } else {
                b'/'
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_runs_stand_in_the_base64_of_a_longer_text() {
        let secret = b"s3cr3t-value?>~";
        for before in 0..4 {
            for after in 0..4 {
                let mut text = vec![b'x'; before];
                text.extend_from_slice(secret);
                text.extend(vec![b'y'; after]);
                let encoded = STANDARD_NO_PAD.encode(&text);
                let run = base64_run(secret, before % 3, false);
                let inner = String::from_utf8(run.inner).unwrap();
                let at = encoded.find(&inner).unwrap_or_else(|| panic!("{before} {after}"));
                let bits = |index: usize| base64_value(encoded.as_bytes()[index]).unwrap();
                if let Some((want, mask)) = run.lead {
                    assert_eq!(bits(at - 1) & mask, want);
                }
                if let Some((want, mask)) = run.trail {
                    assert_eq!(bits(at + inner.len()) & mask, want);
                }
            }
        }
        for value in 0..64 {
            assert_eq!(base64_value(base64_char(value, false)), Some(value));
            assert_eq!(base64_value(base64_char(value, true)), Some(value));
        }
    }

    #[test]
    fn contexts_escape_what_their_syntax_needs() {
        let write = |context: Context, text: &str| {
            let mut out = Vec::new();
            text.bytes().for_each(|b| context.put(b, &mut out));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(write(Context::Json, "a\"b\\c\n\u{1}/"), r#"a\"b\\c\n\u0001/"#);
        assert_eq!(write(Context::Form, "a b+/=~"), "a%20b%2B%2F%3D~");
        assert_eq!(write(Context::Xml, "<a&'\">"), "&lt;a&amp;&#39;&#34;&gt;");
        assert_eq!(percent_decode(b"a%20b%2b%zz%4"), b"a b+%zz%4");
        for (kind, context) in [
            ("application/json; charset=utf-8", Context::Json),
            ("application/vnd.api+json", Context::Json),
            ("application/x-ndjson", Context::Json),
            ("application/x-www-form-urlencoded", Context::Form),
            ("text/xml", Context::Xml),
            ("application/octet-stream", Context::Plain),
            ("", Context::Plain),
        ] {
            assert_eq!(Context::of(kind), context, "{kind}");
        }
    }
}
