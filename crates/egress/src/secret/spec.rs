//! What a secret is: its value, what stands for it inside, where it may go and where in a request it may stand.
//!
//! Refuses at construction whatever could not be told apart later: short values, placeholders that overlap.

use http::uri::Scheme;
use secrecy::{ExposeSecret, SecretString};

/// The shortest value that is taken: anything shorter occurs by accident, and taking it out of responses would garble them.
pub const MIN_SECRET: usize = 8;
/// The longest value that is taken.
pub const MAX_SECRET: usize = 16 * 1024;

/// One secret and the rules of its use.
#[derive(Clone)]
pub struct SecretSpec {
    /// The credential's name, for errors and records; unique in a set.
    pub name: String,
    /// The secret itself.
    pub value: SecretString,
    /// What the sandbox sees instead: as many bytes as the value (see [`super::placeholder::for_value`]).
    pub placeholder: String,
    /// Hosts that may receive the value: exact names or addresses, `*.name` for everything below a name, or `*` for
    /// any. Empty means none.
    pub hosts: Vec<String>,
    /// Where in a request the value may stand.
    pub locations: Locations,
    /// Whether the value may be sent without TLS.
    pub cleartext: bool,
    /// What is known about the value's use.
    pub kind: Kind,
}

impl SecretSpec {
    /// An opaque secret for the given hosts, in headers only, over TLS only.
    pub fn new(name: impl Into<String>, value: SecretString, placeholder: String, hosts: Vec<String>) -> Self {
        SecretSpec {
            name: name.into(),
            value,
            placeholder,
            hosts,
            locations: Locations::from_injection(true, false),
            cleartext: false,
            kind: Kind::Opaque,
        }
    }

    pub(super) fn secret(&self) -> &str {
        self.value.expose_secret()
    }

    /// Whether the credential names this host.
    pub(super) fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| host_matches(pattern, host))
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let bare = |text: &str| {
        let name = text.trim_end_matches('.');
        name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
    };
    let (pattern, host) = (bare(pattern), bare(host));
    if pattern == "*" {
        return !host.is_empty();
    }
    match pattern.strip_prefix("*.") {
        Some(parent) => host
            .strip_suffix(parent)
            .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        None => pattern == host && !host.is_empty(),
    }
}

/// Where a value may stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Locations {
    /// Header values.
    pub header: bool,
    /// User or password of `Authorization: Basic`.
    pub basic: bool,
    /// The query of the address.
    pub query: bool,
    /// Bodies, and WebSocket messages.
    pub body: bool,
}

impl Locations {
    /// From a vault credential's `injection_location`: `header` includes Basic authentication. Never the query.
    pub fn from_injection(header: bool, body: bool) -> Self {
        Locations {
            header,
            basic: header,
            query: false,
            body,
        }
    }
}

/// What is known about how a value is used.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Sent as it is.
    #[default]
    Opaque,
    /// A JSON Web Token: sent as it is, its placeholder parses as one.
    Jwt,
    /// The id of an AWS access key: sent as it is, and looked for in signatures.
    AwsKeyId,
    /// The secret of an AWS access key: never sent; requests signed with its placeholder are signed again.
    AwsSecretKey {
        /// Which key id it belongs to.
        key_id: AwsKeyId,
    },
}

/// The key id that an AWS secret belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwsKeyId {
    /// The id itself, known inside.
    Public(String),
    /// The name of the spec (of kind [`Kind::AwsKeyId`]) that holds the id.
    Spec(String),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `https` (also for `wss`) or `http`.
    pub scheme: Scheme,
    /// The name or address as the policy decided on it; without a port.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Destination {
    /// A destination over TLS.
    pub fn https(host: impl Into<String>, port: u16) -> Self {
        Destination {
            scheme: Scheme::HTTPS,
            host: host.into(),
            port,
        }
    }

    /// A destination without TLS.
    pub fn http(host: impl Into<String>, port: u16) -> Self {
        Destination {
            scheme: Scheme::HTTP,
            host: host.into(),
            port,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

/// Why a set of secrets was refused. No variant carries a value or a placeholder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two specs have one name.
    #[error("secret {0}: the name is used twice; give each secret its own")]
    Name(String),
    /// The value is too short.
    #[error("secret {name}: the value has {length} bytes; at least {MIN_SECRET} are needed to tell it from other text")]
    Short {
        /// The spec's name.
        name: String,
        /// Bytes of the value.
        length: usize,
    },
    /// The value is too long.
    #[error("secret {name}: the value has {length} bytes; at most {MAX_SECRET} are taken")]
    Long {
        /// The spec's name.
        name: String,
        /// Bytes of the value.
        length: usize,
    },
    /// The placeholder does not fit its value.
    #[error("secret {name}: the placeholder {problem}; make it with placeholder::for_value")]
    Placeholder {
        /// The spec's name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two placeholders, or a placeholder and a value, cannot be told apart.
    #[error("secrets {first} and {second}: {problem}")]
    Overlap {
        /// The one spec's name.
        first: String,
        /// The other spec's name.
        second: String,
        /// What is ambiguous.
        problem: &'static str,
    },
    /// A host pattern is not one.
    #[error("secret {name}: host {host:?} is not a host, *.name or *; write it without scheme, port and path")]
    Host {
        /// The spec's name.
        name: String,
        /// The pattern.
        host: String,
    },
    /// An AWS secret names a key id that is not there.
    #[error("secret {name}: its key id {key_id} is no secret of kind AWS key id in this set")]
    KeyId {
        /// The spec's name.
        name: String,
        /// The name that was not found.
        key_id: String,
    },
}

/// Checks a whole set; the order of the specs does not matter.
pub(super) fn check(specs: &[SecretSpec]) -> Result<(), SpecError> {
    for (index, spec) in specs.iter().enumerate() {
        check_one(spec)?;
        if let Kind::AwsSecretKey {
            key_id: AwsKeyId::Spec(wanted),
        } = &spec.kind
            && !specs.iter().any(|s| s.name == *wanted && s.kind == Kind::AwsKeyId)
        {
            return Err(SpecError::KeyId {
                name: spec.name.clone(),
                key_id: wanted.clone(),
            });
        }
        for other in &specs[..index] {
            check_pair(other, spec)?;
        }
    }
    Ok(())
}

fn check_one(spec: &SecretSpec) -> Result<(), SpecError> {
    let name = || spec.name.clone();
    let length = spec.secret().len();
    if length < MIN_SECRET {
        return Err(SpecError::Short { name: name(), length });
    }
    if length > MAX_SECRET {
        return Err(SpecError::Long { name: name(), length });
    }
    let problem = |problem| Err(SpecError::Placeholder { name: name(), problem });
    if spec.placeholder.len() != length {
        return problem("has not as many bytes as the value");
    }
    if !spec.placeholder.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) || spec.placeholder.contains(['"', '\\']) {
        return problem("has characters other than visible ASCII, or a quote or backslash");
    }
    if spec.placeholder == spec.secret() {
        return problem("is the value");
    }
    for host in &spec.hosts {
        if !is_host_pattern(host) {
            return Err(SpecError::Host {
                name: name(),
                host: host.clone(),
            });
        }
    }
    Ok(())
}

fn check_pair(a: &SecretSpec, b: &SecretSpec) -> Result<(), SpecError> {
    let overlap = |problem| {
        Err(SpecError::Overlap {
            first: a.name.clone(),
            second: b.name.clone(),
            problem,
        })
    };
    if a.name == b.name {
        return Err(SpecError::Name(a.name.clone()));
    }
    if a.placeholder.contains(&b.placeholder) || b.placeholder.contains(&a.placeholder) {
        return overlap("one placeholder contains the other; make new ones");
    }
    if a.placeholder.contains(b.secret())
        || b.placeholder.contains(a.secret())
        || a.secret().contains(&b.placeholder)
        || b.secret().contains(&a.placeholder)
    {
        return overlap("a placeholder and a value contain each other; make new placeholders");
    }
    if a.secret() == b.secret() && (a.hosts != b.hosts || a.locations != b.locations || a.cleartext != b.cleartext) {
        return overlap("they have one value and different rules; which rules hold is not clear");
    }
    Ok(())
}

fn is_host_pattern(host: &str) -> bool {
    if host == "*" {
        return true;
    }
    let name = host.strip_prefix("*.").unwrap_or(host).trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<std::net::IpAddr>().is_ok() {
        return !host.starts_with("*.");
    }
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, value: &str, placeholder: &str) -> SecretSpec {
        SecretSpec::new(name, value.into(), placeholder.into(), vec!["api.example.com".into()])
    }

    #[test]
    fn hosts_match_exactly_or_below_a_wildcard() {
        for (pattern, host, hit) in [
            ("api.example.com", "API.Example.com.", true),
            ("api.example.com", "xapi.example.com", false),
            ("api.example.com", "api.example.com.evil.net", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "aexample.com", false),
            ("*", "anything", true),
            ("*", "", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "[::1]", true),
        ] {
            assert_eq!(host_matches(pattern, host), hit, "{pattern} {host}");
        }
        let mut none = spec("a", "12345678", "abcdefgh");
        none.hosts.clear();
        assert!(!none.names("api.example.com"));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let one = spec("a", "value-one-1", "place-one-1");
        assert_eq!(check(std::slice::from_ref(&one)), Ok(()));
        let refused = |specs: &[SecretSpec]| check(specs).expect_err("must be refused").to_string();
        assert!(refused(&[spec("a", "short", "shor2")]).contains("at least 8"));
        assert!(refused(&[spec("a", "value-one", "value-one")]).contains("is the value"));
        assert!(refused(&[spec("a", "value-one", "place")]).contains("as many bytes"));
        assert!(refused(&[spec("a", "value-one", "pla\u{e9}e-on")]).contains("visible ASCII"));
        assert!(refused(&[one.clone(), spec("a", "value-two-2", "place-two-2")]).contains("used twice"));
        assert!(refused(&[one.clone(), spec("b", "value-two-2x", "xplace-one-1")]).contains("one placeholder"));
        assert!(
            refused(&[one.clone(), spec("b", "value-two-2x", "xvalue-one-1")]).contains("a placeholder and a value")
        );
        let mut same = spec("b", "value-one-1", "place-two-2");
        assert_eq!(check(&[one.clone(), same.clone()]), Ok(()));
        same.hosts = vec!["other.example.com".into()];
        assert!(refused(&[one.clone(), same]).contains("different rules"));
        let mut host = one.clone();
        host.hosts = vec!["https://api.example.com/".into()];
        assert!(refused(&[host]).contains("is not a host"));
        let mut aws = one;
        aws.kind = Kind::AwsSecretKey {
            key_id: AwsKeyId::Spec("nobody".into()),
        };
        assert!(refused(&[aws]).contains("nobody"));
    }
}
