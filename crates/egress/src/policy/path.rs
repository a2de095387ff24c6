//! Paths and queries as rules see them.
//!
//! A server may decode a path more than once, or resolve dots in it; a rule that looked at other characters than the
//! server would decide about another resource. So a path whose meaning depends on that is ambiguous, and matches no
//! allowing rule that names paths. Escaped characters that change nothing are decoded before matching.

/// A path to match: as it was sent, with harmless escapes decoded, and with every escape decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readings {
    plain: String,
    full: Option<String>,
}

impl Readings {
    /// The ways to read a path, or `None` if it is ambiguous.
    pub(super) fn of(path: &str) -> Option<Readings> {
        if !path.contains('%') {
            return clean(path).then(|| Readings {
                plain: path.to_owned(),
                full: None,
            });
        }
        let full = decode(path, |_| true)?;
        // A second decoding must not bring up anything new that matters.
        let twice = if full.contains('%') {
            decode(&full, |_| true)
        } else {
            None
        };
        if !clean(path)
            || !clean(&full)
            || !twice
                .as_deref()
                .is_none_or(|twice| clean(twice) && !adds_slash(&full, twice))
        {
            return None;
        }
        let plain = decode(path, unreserved)?;
        let full = (full != plain).then_some(full);
        Some(Readings { plain, full })
    }

    pub(super) fn all(&self, mut matches: impl FnMut(&str) -> bool) -> bool {
        matches(&self.plain) && self.full.as_deref().is_none_or(matches)
    }

    pub(super) fn any(&self, mut matches: impl FnMut(&str) -> bool) -> bool {
        matches(&self.plain) || self.full.as_deref().is_some_and(matches)
    }
}

fn adds_slash(before: &str, after: &str) -> bool {
    let count = |text: &str| text.bytes().filter(|b| *b == b'/').count();
    count(before) != count(after)
}

/// Whether nothing in a path depends on who reads it.
fn clean(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains("//")
        && !path.bytes().any(|b| b == b'\\' || b < 0x20 || b == 0x7f)
        // A parameter after a dot segment (`/..;x/`) is dropped by some servers before dots are resolved.
        && !path.split('/').any(|part| matches!(part.split(';').next(), Some("." | "..")))
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes the escapes of the bytes that `which` names. `None` if one is broken or the result is not UTF-8.
fn decode(path: &str, which: impl Fn(u8) -> bool) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let byte = u8::from_str_radix(digits, 16).ok()?;
            if which(byte) {
                out.push(byte);
            } else {
                out.extend_from_slice(&bytes[at..at + 3]);
            }
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Every value of a key in a query, decoded.
pub(super) fn values(query: &str, key: &str) -> Vec<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/%252e%252e/b",
            "/a//b",
            "/a\\b",
            "/a%5cb",
            "/a/..;x/b",
            "/a%00",
            "/a%",
            "/a%zz",
            "/a/..%2fb",
            "/a%252fb",
            "*",
            "",
            "/a%0d%0ab",
        ] {
            assert_eq!(Readings::of(path), None, "{path}");
        }
    }

    #[test]
    fn harmless_escapes() {
        let readings = Readings::of("/%61/b%2Fc").unwrap();
        assert!(readings.any(|path| path == "/a/b%2Fc") && readings.any(|path| path == "/a/b/c"));
        assert!(!readings.all(|path| path == "/a/b%2Fc"));
        assert!(Readings::of("/a b").is_some() && Readings::of("/a...b").is_some());
    }
}
