//! The names of content: SHA-256 digests, and readers that compute them while bytes pass.
//!
//! Refuses every other algorithm: an image whose parts are named by something else is not verified here, so it is not
//! used at all.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` and 64 lower-case hexadecimal digits")]
pub struct NotADigest;

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads 64 hexadecimal digits without the algorithm.
    pub(crate) fn from_hex(hex: &str) -> Result<Self, NotADigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotADigest),
        };
        let bytes = hex.as_bytes();
        if bytes.len() != 64 {
            return Err(NotADigest);
        }
        let mut digest = [0; 32];
        for (to, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
            *to = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(digest))
    }

    /// The name of a stack of layers after one more: the chain id of the OCI image specification.
    pub(crate) fn chain(below: Option<&Digest>, diff: &Digest) -> Digest {
        match below {
            None => *diff,
            Some(below) => Digest::of(format!("{below} {diff}").as_bytes()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        Self::from_hex(text.strip_prefix("sha256:").ok_or(NotADigest)?)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running digest.
#[derive(Default, Clone)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A reader that digests what passes and refuses to pass more than its bound.
pub(crate) struct Measured<R> {
    inner: R,
    hasher: Hasher,
    passed: u64,
    bound: u64,
}

/// What [`Measured`] says when its bound is passed; found again by `io::Error::downcast`.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
pub(crate) struct Overflow(pub(crate) u64);

impl<R: Read> Measured<R> {
    pub(crate) fn new(inner: R, bound: u64) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            passed: 0,
            bound,
        }
    }

    /// Reads what is left, then says how much there was and its digest.
    pub(crate) fn drain(mut self) -> io::Result<(u64, Digest)> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read(&mut buffer)? > 0 {}
        Ok((self.passed, self.hasher.finish()))
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.passed += read as u64;
        if self.passed > self.bound {
            return Err(io::Error::other(Overflow(self.bound)));
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_as_it_writes() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        for wrong in [
            "",
            "sha256:",
            "sha512:00",
            &EMPTY[..70],
            &EMPTY.to_uppercase(),
            "sha256:../../../../etc/passwd",
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong}");
        }
    }

    #[test]
    fn a_measured_reader_stops_at_its_bound() {
        let mut out = Vec::new();
        assert!(Measured::new(&b"12345"[..], 5).read_to_end(&mut out).is_ok());
        let error = Measured::new(&b"123456"[..], 5).read_to_end(&mut out).unwrap_err();
        assert!(error.downcast::<Overflow>().is_ok());
    }
}
