//! What a person may write as `--image`, and nothing else.
//!
//! Two forms, told apart by the text alone, so that a file that appears next to the worker cannot turn one into the
//! other:
//!
//! - a path: begins with `/`, `./` or `../`, or is `.` or `..`. A folder with an `oci-layout` file is an OCI layout,
//!   another folder is a root filesystem, a file is an archive (OCI or `docker save`, plain, gzip or zstd). A digest
//!   after `@` picks and pins an image of a layout or archive.
//! - a registry reference: `host[:port]/name[:tag]@sha256:…`. The host is always written; there is no default registry.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The longest text that is looked at.
const TEXT_BYTES: usize = 4096;

/// A parsed `--image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// Something on this machine.
    Local(Local),
    /// An image of a registry.
    Registry(Remote),
}

/// A folder, layout or archive on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    path: PathBuf,
    digest: Option<Digest>,
}

impl Local {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image asked for, if it was pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    host: String,
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Remote {
    /// Host and, where written, port: lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name, without host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag, if one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What is asked of the registry: the digest if there is one, else the tag.
    pub(crate) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl Reference {
    /// Parses what was given as image. Does not look at any file.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |problem: &str| Error::Reference {
            text: text.chars().take(200).collect(),
            problem: problem.to_owned(),
        };
        if text.is_empty() {
            return Err(refuse("is empty; give a folder, an archive or a registry reference"));
        }
        if text.len() > TEXT_BYTES {
            return Err(refuse("is too long"));
        }
        if text.chars().any(char::is_control) {
            return Err(refuse("has a control character"));
        }
        // Only what follows the last `@` and looks like a digest is one: a path may have an `@` of its own.
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if digest.starts_with("sha256:") => {
                let digest = digest.parse().map_err(|error| refuse(&format!("after `@`: {error}")))?;
                (rest, Some(digest))
            }
            Some((rest, digest)) if !is_path(rest) && digest.contains(':') => {
                return Err(refuse("only sha256 digests are supported after `@`"));
            }
            _ => (text, None),
        };
        if is_path(rest) {
            let path = PathBuf::from(rest);
            return Ok(Self::Local(Local { path, digest }));
        }
        let (host, path) = rest.split_once('/').ok_or_else(|| refuse(NEITHER))?;
        if !host_like(host) {
            return Err(refuse(NEITHER));
        }
        let host =
            parse_host(host).ok_or_else(|| refuse("the part before the first `/` is not a host with optional port"))?;
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (path, None),
        };
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(refuse(
                "the tag may have letters, digits, `_`, `.` and `-`, at most 128, and begins with neither `.` nor `-`",
            ));
        }
        if !valid_name(name) {
            return Err(refuse(
                "the name is lower-case letters and digits in parts joined by `.`, `_`, `-` or `/`, at most 255",
            ));
        }
        Ok(Self::Registry(Remote {
            host,
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        }))
    }
}

const NEITHER: &str = "is neither a path nor a registry reference. A path begins with `/`, `./` or `../`; a registry reference \
                       names its registry, as in `registry.example/team/base@sha256:…`";

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(local) => {
                write!(f, "{}", local.path.display())?;
                local.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
            }
            Self::Registry(remote) => fmt::Display::fmt(remote, f),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("./") || text.starts_with("../") || text == "." || text == ".."
}

/// A first part that can only be meant as a host: `team/base` is refused rather than guessed about.
fn host_like(text: &str) -> bool {
    text.contains('.') || text.contains(':') || text == "localhost"
}

fn parse_host(text: &str) -> Option<String> {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']')?;
        inner.parse::<std::net::Ipv6Addr>().ok()?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':')?),
        };
        (&text[..inner.len() + 2], port)
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.starts_with('[') && (name.len() > 253 || !name.split('.').all(label)) {
        return None;
    }
    if let Some(port) = port {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return None;
        }
    }
    Some(text.to_ascii_lowercase())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` in parts joined by `/`: the distribution specification's grammar of names.
fn valid_name(name: &str) -> bool {
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(word)
            && bytes.last().is_some_and(word)
            && bytes
                .iter()
                .all(|byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'))
            && part
                .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
    };
    name.len() <= 255 && name.split('/').all(part)
}

fn valid_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_that_are_meant() {
        for (text, host, name, tag, pinned) in [
            (
                format!("registry.example/base@{D}"),
                "registry.example",
                "base",
                None,
                true,
            ),
            (
                format!("Registry.Example:5000/a/b_c/d-e.f:1.0@{D}"),
                "registry.example:5000",
                "a/b_c/d-e.f",
                Some("1.0"),
                true,
            ),
            ("localhost/x:latest".into(), "localhost", "x", Some("latest"), false),
            ("127.0.0.1:5000/x".into(), "127.0.0.1:5000", "x", None, false),
            ("[::1]:5000/x/y__z".into(), "[::1]:5000", "x/y__z", None, false),
        ] {
            let Reference::Registry(remote) = Reference::parse(&text).unwrap() else {
                panic!("{text} is not a registry reference");
            };
            assert_eq!(
                (remote.host(), remote.name(), remote.tag(), remote.digest().is_some()),
                (host, name, tag, pinned)
            );
        }
        for (text, path, pinned) in [
            ("/srv/root".to_owned(), "/srv/root", false),
            (format!("./image.tar@{D}"), "./image.tar", true),
            ("../a@b/c".to_owned(), "../a@b/c", false),
            (".".to_owned(), ".", false),
        ] {
            let Reference::Local(local) = Reference::parse(&text).unwrap() else {
                panic!("{text} is not a path");
            };
            assert_eq!(
                (local.path().to_str().unwrap(), local.digest().is_some()),
                (path, pinned)
            );
        }
    }

    #[test]
    fn references_that_are_refused() {
        for text in [
            "",
            "ubuntu",
            "ubuntu:24.04",
            "team/base",
            "images/base.tar",
            "registry.example/",
            "registry.example/UPPER",
            "registry.example/a//b",
            "registry.example/../b",
            "registry.example/a..b",
            "registry.example/a___b",
            "registry.example/-a",
            "registry.example/a:-tag",
            "registry.example/a:",
            "registry.example:0/a",
            "registry.example:99999/a",
            "registry.example:+1/a",
            "user:pass@registry.example/a",
            "http://registry.example/a",
            "registry.example/a@sha256:12",
            "registry.example/a@md5:12",
            "registry.example/a?x=1",
            "registry.example/a#x",
            "-registry.example/a",
            "[::1/a",
            "a\nb.c/d",
            "registry.example /a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_parses_writes_back_to_itself(text in "[a-z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
