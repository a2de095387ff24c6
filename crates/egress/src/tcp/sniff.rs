//! What a connection is, from its first bytes.
//!
//! Everything that begins like TLS is TLS and must be understood as such; everything that begins with a method and a
//! target is HTTP. Only the rest is something else.

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TLS handshake.
    Tls,
    /// HTTP/1, in the clear.
    Http1,
    /// HTTP/2, in the clear.
    Http2,
    /// Something else.
    Opaque,
    /// Not enough bytes to say.
    Unclear,
}

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is taken for one.
const METHOD: usize = 24;

pub(super) fn sniff(bytes: &[u8]) -> Kind {
    match bytes {
        [] => return Kind::Unclear,
        // A record of a handshake. Old versions too: they are refused as TLS, not passed as something else.
        [22, ..] => return Kind::Tls,
        // A hello of SSL 2.
        [first, _, 1, ..] if first & 0x80 != 0 => return Kind::Tls,
        [first, ..] if first & 0x80 != 0 && bytes.len() < 3 => return Kind::Unclear,
        _ => {}
    }
    if bytes.starts_with(HTTP2) {
        return Kind::Http2;
    }
    if HTTP2.starts_with(bytes) {
        return Kind::Unclear;
    }
    // Empty lines before a request are allowed; a server would skip them.
    let rest = bytes
        .iter()
        .position(|b| !matches!(b, b'\r' | b'\n'))
        .map_or(&[][..], |at| &bytes[at..]);
    let method = rest.iter().position(|b| !is_token(*b));
    match method {
        None if bytes.len() > METHOD + 4 => Kind::Opaque,
        None => Kind::Unclear,
        Some(0) => Kind::Opaque,
        Some(end) if end > METHOD || !matches!(rest[end], b' ' | b'\t') => Kind::Opaque,
        Some(end) => match rest[end + 1..].iter().find(|b| !matches!(b, b' ' | b'\t')) {
            None if rest.len() > 256 => Kind::Http1,
            None => Kind::Unclear,
            // A path, `*`, an absolute URI, or the host of a CONNECT.
            Some(b'/' | b'*') => Kind::Http1,
            Some(_) if rest[..end].iter().all(u8::is_ascii_uppercase) => line(rest),
            Some(_) => Kind::Opaque,
        },
    }
}

/// Whether a line with a method and something else ends like a request of HTTP.
fn line(bytes: &[u8]) -> Kind {
    match bytes.iter().position(|b| *b == b'\n') {
        None if bytes.len() > 8192 => Kind::Opaque,
        None => Kind::Unclear,
        Some(end) => {
            let words: Vec<&[u8]> = bytes[..end]
                .split(|b| b.is_ascii_whitespace())
                .filter(|w| !w.is_empty())
                .collect();
            let version = words.last().is_some_and(|word| word.starts_with(b"HTTP/"));
            let uri = words.get(1).is_some_and(|word| {
                let start = &word[..word.len().min(8)];
                start.to_ascii_lowercase().starts_with(b"http:") || start.to_ascii_lowercase().starts_with(b"https:")
            });
            if version || uri { Kind::Http1 } else { Kind::Opaque }
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (bytes, kind) in [
            (&b""[..], Kind::Unclear),
            (b"\x16", Kind::Tls),
            (b"\x16\x03\x01\x02\x00", Kind::Tls),
            (b"\x80\x2e\x01\x03\x01", Kind::Tls),
            (b"\x80", Kind::Unclear),
            (b"\x80\x00\x00\x00", Kind::Opaque),
            (b"G", Kind::Unclear),
            (b"GET ", Kind::Unclear),
            (b"GET /", Kind::Http1),
            (b"get /", Kind::Http1),
            (b"\r\nGET / HTTP/1.1", Kind::Http1),
            (b"OPTIONS * HTTP/1.1", Kind::Http1),
            (b"GET http://a/ HTTP/1.1\r\n", Kind::Http1),
            (b"GET http://a/\r\n", Kind::Http1),
            (b"CONNECT a:443 HTTP/1.1\r\n", Kind::Http1),
            (b"CONNECT a:443 HT", Kind::Unclear),
            (b"EHLO example\r\n", Kind::Opaque),
            (b"SSH-2.0-x\r\n", Kind::Opaque),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Kind::Http2),
            (b"PRI * HTTP/2.0\r\n", Kind::Unclear),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Kind::Opaque),
        ] {
            assert_eq!(sniff(bytes), kind, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
