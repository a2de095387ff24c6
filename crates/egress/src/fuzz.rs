//! Entry points for fuzz targets: the parsers of bytes that a sandbox sends. None of them may panic or hang.

use std::sync::Arc;

use tokio::io::AsyncReadExt;

/// The first bytes of a connection, and a TLS greeting.
pub fn greeting(bytes: &[u8]) {
    crate::tcp::fuzz_sniff(bytes);
    let _ = crate::tls::read(&mut tokio::io::empty(), bytes.into()).now();
}

/// Requests of HTTP/1, before they are parsed.
pub fn http1(bytes: &[u8]) {
    let mut strict = crate::http::Strict::new(bytes, 16 * 1024, Arc::default(), true);
    let mut out = Vec::new();
    let _ = strict.read_to_end(&mut out).now();
}

/// A policy.
pub fn policy(text: &str) {
    let read = [
        crate::Document::from_toml("p", text),
        crate::Document::from_json("p", text),
    ];
    for document in read.into_iter().flatten() {
        let policy = crate::Policy::new("p", &document, &[]);
        let _ = crate::policy::check(&policy, "a.example", 443, Some(("GET", "/a?b=c")));
    }
}

/// A path against a rule.
pub fn path(path: &str) {
    let text = "[[allow]]\nhost = \"a.example\"\npaths = [\"/a/**\"]\n";
    if let Ok(document) = crate::Document::from_toml("p", text) {
        let policy = crate::Policy::new("p", &document, &[]);
        let _ = crate::policy::check(&policy, "a.example", 443, Some(("GET", path)));
    }
}

trait Now: Future + Sized {
    /// The result of work that waits for nothing.
    fn now(self) -> Option<Self::Output> {
        use futures_util::FutureExt;
        self.now_or_never()
    }
}

impl<F: Future> Now for F {}

#[cfg(test)]
mod tests {
    #[test]
    fn they_take_anything() {
        for bytes in [
            &b""[..],
            b"\x16",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 300],
        ] {
            super::greeting(bytes);
            super::http1(bytes);
        }
        super::policy("[[allow]]\nhost = \"*\"\n");
        super::path("/a/%2e%2e/%");
    }
}
