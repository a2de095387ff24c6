//! Typed ids: a prefix that names the kind, then a time-ordered random part.
//!
//! An id is 48 bits of milliseconds and 80 random bits in base 62, so ids of one kind sort by the time they
//! were made and cannot be guessed. Parsing checks the prefix, the alphabet and the length.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Time;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LEN: usize = 22;
const MAX_LEN: usize = 96;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{found}` is not a valid id here: it must start with `{prefix}` and go on with letters and digits")]
pub struct InvalidId {
    /// The prefix that an id of this kind has.
    pub prefix: &'static str,
    /// What was found, shortened.
    pub found: String,
}

/// The random part of a fresh id: time-ordered, 22 characters of base 62.
pub fn fresh_suffix(now: Time, random: &mut impl Rng) -> String {
    let millis = u128::from((now.as_micros() / 1000).max(0) as u64) & 0xffff_ffff_ffff;
    let mut value = (millis << 80) | (random.random::<u128>() >> 48);
    let mut out = [b'0'; RANDOM_LEN];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    out.iter().map(|&b| char::from(b)).collect()
}

/// A secret of `len` characters of base 62, about 5.95 bits each.
pub fn fresh_secret(len: usize, random: &mut impl Rng) -> String {
    (0..len)
        .map(|_| char::from(ALPHABET[random.random_range(0..62)]))
        .collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id of this kind.
            pub fn new(now: Time, random: &mut impl Rng) -> Self {
                Self(format!("{}{}", $prefix, fresh_suffix(now, random)))
            }

            /// A fresh id of this kind by the system clock and the thread's generator.
            pub fn fresh() -> Self {
                Self::new(Time::now(), &mut rand::rng())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid = text.len() <= MAX_LEN
                    && text.strip_prefix($prefix).is_some_and(|rest| {
                        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric())
                    });
                if valid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { prefix: $prefix, found: text.chars().take(64).collect() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A workspace: the boundary of who sees what.
    WorkspaceId = "wrkspc_";
    /// A tunnel: the way to MCP servers of a private network.
    TunnelId = "tnl_";
    /// A certificate authority of a tunnel.
    TunnelCertificateId = "tcrt_";
    /// The present token of a tunnel (the name of one, not the secret).
    TunnelTokenId = "ttok_";
    /// A rule that gives tokens of this server to workloads of an identity provider.
    FederationRuleId = "fdrl_";
    /// An agent: a named, versioned configuration.
    AgentId = "agent_";
    /// An environment: where tools run.
    EnvironmentId = "env_";
    /// A session: one conversation and its log.
    SessionId = "sesn_";
    /// A thread of a session.
    ThreadId = "sthr_";
    /// An event of a session's log.
    EventId = "sevt_";
    /// A work item of an environment's queue.
    WorkId = "work_";
    /// An API key (the name of one, not the secret).
    ApiKeyId = "apikey_";
    /// An environment key (the name of one, not the secret).
    EnvironmentKeyId = "envkey_";
    /// A vault: the credentials of one end user.
    VaultId = "vlt_";
    /// A credential in a vault.
    VaultCredentialId = "vcrd_";
    /// A key that secrets of one workspace are sealed under (the name of one, not the key).
    DataKeyId = "dkey_";
    /// A file.
    FileId = "file_";
    /// A resource of a session: a file or a repository that its sandbox gets.
    ResourceId = "sesrsc_";
    /// One HTTP request.
    RequestId = "req_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_sort_by_time_and_parse() {
        let mut random = rand::rng();
        let early = EventId::new(Time::from_micros(1_000_000), &mut random);
        let late = EventId::new(Time::from_micros(9_000_000), &mut random);
        assert!(early < late);
        assert_eq!(early.as_str().parse::<EventId>().unwrap(), early);
        assert_eq!(early.as_str().len(), EventId::PREFIX.len() + RANDOM_LEN);
    }

    #[test]
    fn another_kind_is_refused() {
        assert!("agent_1".parse::<SessionId>().is_err());
        assert!("sesn_".parse::<SessionId>().is_err());
        assert!("sesn_a/../b".parse::<SessionId>().is_err());
        assert!(format!("sesn_{}", "a".repeat(200)).parse::<SessionId>().is_err());
    }
}
