//! Every string and number of a JSON text through a function, with all else as it was.
//!
//! The text must be valid JSON (callers parse it first); a text that is not is walked as far as it goes, never beyond
//! its end. Bytes that nothing changes are copied, so numbers keep their exact spelling and keys their order.

use super::{Blocked, Redactor};

/// The text with what the redactor left, or `None` when that is all of it.
pub fn redact(redactor: &Redactor, text: &str) -> Result<Option<String>, Blocked> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let mut kept = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (end, changed) = match bytes[at] {
            b'"' => {
                let (end, escaped) = string_end(bytes, at + 1);
                let inner = &text[at + 1..end];
                let changed = if escaped { redactor.text(&unescape(inner))? } else { redactor.text(inner)? };
                ((end + 1).min(bytes.len()), changed)
            }
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                let end = at + length.count();
                (end, redactor.text(&text[at..end])?)
            }
            _ => {
                at += 1;
                continue;
            }
        };
        if let Some(changed) = changed {
            let out = out.get_or_insert_with(String::new);
            out.push_str(&text[kept..at]);
            out.push_str(&quoted(&changed));
            kept = end;
        }
        at = end;
    }
    if let Some(out) = &mut out {
        out.push_str(&text[kept..]);
    }
    Ok(out)
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where the string that began before `from` ends (its quote), and whether it holds an escape.
fn string_end(bytes: &[u8], from: usize) -> (usize, bool) {
    let mut at = from;
    let mut escaped = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return (at, escaped),
            b'\\' => {
                escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
    (bytes.len(), escaped)
}

/// The text that a JSON string's inside stands for. A lone surrogate, which some writers emit, becomes U+FFFD.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    let mut high: Option<u32> = None;
    while let Some(at) = rest.find('\\') {
        if at > 0 && high.take().is_some() {
            out.push('\u{fffd}');
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else { break };
        rest = &rest[kind.len_utf8()..];
        let plain = match kind {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let code = rest.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                rest = rest.get(4..).unwrap_or_default();
                match (high.take(), code) {
                    (Some(first), Some(second @ 0xdc00..=0xdfff)) => {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                        continue;
                    }
                    (before, code) => {
                        if before.is_some() {
                            out.push('\u{fffd}');
                        }
                        if let Some(first @ 0xd800..=0xdbff) = code {
                            high = Some(first);
                            continue;
                        }
                        code.and_then(char::from_u32).unwrap_or('\u{fffd}')
                    }
                }
            }
            other => other,
        };
        if high.take().is_some() {
            out.push('\u{fffd}');
        }
        out.push(plain);
    }
    if high.is_some() {
        out.push('\u{fffd}');
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Action, tests::redactor};
    use super::*;

    #[test]
    fn strings_numbers_and_keys_and_nothing_else() {
        let cards = redactor("card_number", Action::Redact);
        let text = r#"{ "a": "4111111111111111", "n": 4111111111111111, "4111 1111 1111 1111": [1.50, -2e+3, true, null] }"#;
        let left = redact(&cards, text).unwrap().unwrap();
        assert_eq!(
            left,
            r#"{ "a": "[redacted:card_number]", "n": "[redacted:card_number]", "[redacted:card_number]": [1.50, -2e+3, true, null] }"#
        );
        assert_eq!(redact(&cards, r#"{"a": [1.50, "x"]}"#), Ok(None));
    }

    #[test]
    fn an_escape_hides_nothing() {
        let cards = redactor("card_number", Action::Redact);
        for text in [r#""\u0034111111111111111""#, r#""\n4111111111111111\n""#, r#""\ud8004111111111111111""#] {
            let left = redact(&cards, text).unwrap();
            assert!(left.as_deref().is_some_and(|left| left.contains("redacted") && !left.contains("1111")), "{left:?}");
        }
        let keys = redactor("private_key", Action::Redact);
        let text = r#""-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nrest""#;
        assert_eq!(redact(&keys, text).unwrap().unwrap(), r#""[redacted:private_key]\nrest""#);
    }

    #[test]
    fn unescaping_is_the_parsers() {
        for text in [r#""a\u00e9\"\\\/\b\f\n\r\tz""#, r#""\ud83d\ude00""#, r#""""#, "\"é\""] {
            let ours = unescape(&text[1..text.len() - 1]);
            assert_eq!(ours, serde_json::from_str::<String>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn broken_texts_end() {
        let cards = redactor("card_number", Action::Redact);
        for text in ["\"", "\"\\", "\"abc\\u", "{\"a", "-", "\"\\u12é\"", "\\é"] {
            let _ = redact(&cards, text);
        }
    }
}
