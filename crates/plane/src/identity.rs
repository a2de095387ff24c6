//! The identity of agents: short-lived signed tokens that say which agent calls, in which session, which tool.
//!
//! A token is a JSON web token (`typ` `outwork-agent+jwt`, EdDSA over Ed25519) with `iss`, `sub` (`agent:ID`), `aud`,
//! `iat`, `exp`, `jti`, `workspace_id`, `agent_id`, `agent_version`, `session_id`, `tool`. Whoever gets one checks it
//! with the keys that the plane publishes.
//!
//! Keys follow each other by themselves. The next one is published [`AHEAD`] before it signs, longer than answers are
//! cached; the one before stays published until its last token is dead. They are kept in a file of mode 0600.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use outwork_wire::Time;
use outwork_wire::id::{AgentId, SessionId, WorkspaceId, fresh_secret};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::private_file;

/// The `typ` of the tokens.
pub const TOKEN_TYPE: &str = "outwork-agent+jwt";
/// How long a token lasts.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// How long answers with the keys may be cached.
pub(crate) const CACHED: Duration = Duration::from_secs(300);
/// The shortest time for which a key signs.
pub const MIN_KEY_LIFETIME: Duration = Duration::from_secs(3600);

/// How long a key is published before it signs.
const AHEAD: Duration = Duration::from_secs(600);
/// How long a key is published after its last token has ended, for clocks that differ.
const AFTER: Duration = Duration::from_secs(300);

/// Who calls what.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The session's workspace.
    pub workspace: WorkspaceId,
    /// The agent.
    pub agent: AgentId,
    /// Its version.
    pub version: u64,
    /// The session.
    pub session: SessionId,
    /// The tool that is called.
    pub tool: String,
    /// Whom the token is for: the MCP server.
    pub audience: String,
}

/// Why there are no keys, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file with the keys cannot be used.
    #[error("cannot use the keys of agent identities in {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the file holds no key.
    #[error(
        "line {line} of {} holds no key: restore the file from a backup, or remove it, which makes new keys and voids \
         the tokens of the last minute",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// No key could be made.
    #[error("no key could be made: the system gives no random bytes")]
    Random,
}

/// Signs tokens of agents, and publishes the keys to check them with.
pub struct Identity {
    path: PathBuf,
    issuer: String,
    lifetime: Duration,
    keys: ArcSwap<Vec<Key>>,
}

/// A key. Has no `Debug`.
struct Key {
    id: String,
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    signs_from: Time,
}

impl Identity {
    /// Reads the keys in a file; makes the first one if there is no file. `lifetime` is for how long each signs.
    pub fn open(path: &Path, issuer: String, lifetime: Duration, now: Time) -> Result<Self, IdentityError> {
        let lifetime = lifetime.max(MIN_KEY_LIFETIME);
        let keys = match private_file::read(path).map_err(|source| file(path, source))? {
            Some(text) => parse(path, &text)?,
            None => Vec::new(),
        };
        let identity = Self {
            path: path.to_owned(),
            issuer,
            lifetime,
            keys: ArcSwap::from_pointee(keys),
        };
        identity.turn(now)?;
        Ok(identity)
    }

    /// The `iss` of the tokens: where the keys are found.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token that says who calls what. Valid for a minute.
    pub fn mint(&self, claims: &Claims, now: Time) -> String {
        let keys = self.keys.load();
        let key = signing(&keys, now);
        let issued_at = now.as_micros().div_euclid(1_000_000);
        let header = json!({ "alg": "EdDSA", "typ": TOKEN_TYPE, "kid": key.id });
        let payload = json!({
            "iss": self.issuer,
            "sub": format!("agent:{}", claims.agent),
            "aud": claims.audience,
            "iat": issued_at,
            "exp": issued_at + TOKEN_LIFETIME.as_secs() as i64,
            "jti": fresh_secret(22, &mut rand::rng()),
            "workspace_id": claims.workspace,
            "agent_id": claims.agent,
            "agent_version": claims.version,
            "session_id": claims.session,
            "tool": claims.tool,
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(payload));
        let signature = URL_SAFE_NO_PAD.encode(key.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The keys to check tokens with, as a JSON web key set.
    pub fn published(&self) -> Value {
        let keys = self.keys.load();
        let keys: Vec<Value> = keys
            .iter()
            .map(|key| {
                json!({
                    "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id,
                    "x": URL_SAFE_NO_PAD.encode(key.pair.public_key().as_ref()),
                })
            })
            .collect();
        json!({ "keys": keys })
    }

    /// Makes the next key when its time comes and forgets those whose tokens are dead. If that fails, what was holds.
    pub fn turn(&self, now: Time) -> Result<(), IdentityError> {
        let before = self.keys.load_full();
        let next = match before.last() {
            None => Some(now),
            Some(last) => {
                let due = later(last.signs_from, self.lifetime);
                let ready = later(now, AHEAD);
                (due <= ready).then_some(due.max(ready))
            }
        };
        // A key is dead when the one after it has signed for longer than its own last token lasts.
        let dead = before
            .windows(2)
            .take_while(|pair| later(later(pair[1].signs_from, TOKEN_LIFETIME), AFTER) <= now)
            .count();
        if next.is_none() && dead == 0 {
            return Ok(());
        }
        let mut keys = Vec::new();
        for key in &before[dead..] {
            keys.push(Key::new(key.pkcs8.clone(), key.signs_from).ok_or(IdentityError::Random)?);
        }
        if let Some(signs_from) = next {
            keys.push(Key::fresh(signs_from)?);
            tracing::info!(%signs_from, "the next key of agent identities was made");
        }
        // Kept first, used second: a key that is not kept would be unknown after a restart.
        private_file::replace(&self.path, &render(&keys)).map_err(|source| file(&self.path, source))?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// The newest key that signs already; before all of them the first.
fn signing(keys: &[Key], now: Time) -> &Key {
    keys.iter()
        .rev()
        .find(|key| key.signs_from <= now)
        .or(keys.first())
        .expect("there is a key from `open` on, and `turn` never forgets the last one")
}

impl Key {
    fn fresh(signs_from: Time) -> Result<Self, IdentityError> {
        let document =
            Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).map_err(|_| IdentityError::Random)?;
        Self::new(Zeroizing::new(document.as_ref().to_vec()), signs_from).ok_or(IdentityError::Random)
    }

    fn new(pkcs8: Zeroizing<Vec<u8>>, signs_from: Time) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        // RFC 7638: the hash of the members that make the key, in the order of their names.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Some(Self {
            id: URL_SAFE_NO_PAD.encode(thumbprint),
            pair,
            pkcs8,
            signs_from,
        })
    }
}

/// One line a key: from when it signs, in microseconds, and its PKCS #8 in base64.
fn render(keys: &[Key]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * 160));
    for key in keys {
        text.push_str(&key.signs_from.as_micros().to_string());
        text.push(' ');
        text.push_str(&Zeroizing::new(STANDARD.encode(key.pkcs8.as_slice())));
        text.push('\n');
    }
    text
}

fn parse(path: &Path, text: &str) -> Result<Vec<Key>, IdentityError> {
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let key = line.split_once(' ').and_then(|(signs_from, pkcs8)| {
            let pkcs8 = Zeroizing::new(STANDARD.decode(pkcs8).ok()?);
            Key::new(pkcs8, Time::from_micros(signs_from.parse().ok()?))
        });
        keys.push(key.ok_or_else(|| IdentityError::Line {
            path: path.to_owned(),
            line: number,
        })?);
    }
    keys.sort_by_key(|key| key.signs_from);
    Ok(keys)
}

fn later(time: Time, by: Duration) -> Time {
    time.plus_micros(i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
}

fn file(path: &Path, source: std::io::Error) -> IdentityError {
    IdentityError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> Time {
        Time::from_micros(1_800_000_000_000_000).plus_seconds(seconds)
    }

    fn claims() -> Claims {
        Claims {
            workspace: WorkspaceId::fresh(),
            agent: AgentId::fresh(),
            version: 3,
            session: SessionId::fresh(),
            tool: "search".into(),
            audience: "https://wiki.example".into(),
        }
    }

    fn open(folder: &Path, now: Time) -> Identity {
        let lifetime = Duration::from_secs(30 * DAY as u64);
        Identity::open(
            &folder.join("identity.keys"),
            "https://plane.example".into(),
            lifetime,
            now,
        )
        .unwrap()
    }

    /// The claims of a token, if the published keys say that it is genuine.
    fn checked(published: &Value, token: &str) -> Option<Value> {
        let keys: JwkSet = serde_json::from_value(published.clone()).unwrap();
        let key = keys.find(&decode_header(token).unwrap().kid.unwrap())?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["https://wiki.example"]);
        validation.set_issuer(&["https://plane.example"]);
        // The tests have a time of their own.
        validation.validate_exp = false;
        Some(
            decode(token, &DecodingKey::from_jwk(key).unwrap(), &validation)
                .ok()?
                .claims,
        )
    }

    #[test]
    fn a_token_says_who_calls_and_its_signature_is_checked_with_what_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let identity = open(folder.path(), at(0));
        let claims = claims();
        let token = identity.mint(&claims, at(5));
        let header = decode_header(&token).unwrap();
        assert_eq!(
            (header.typ.as_deref(), header.alg),
            (Some(TOKEN_TYPE), Algorithm::EdDSA)
        );
        let said = checked(&identity.published(), &token).unwrap();
        let seconds = at(5).as_micros() / 1_000_000;
        assert_eq!(
            (said["iat"].as_i64(), said["exp"].as_i64()),
            (Some(seconds), Some(seconds + 60))
        );
        assert_eq!(said["sub"], format!("agent:{}", claims.agent));
        assert_eq!(said["workspace_id"], claims.workspace.as_str());
        assert_eq!(said["session_id"], claims.session.as_str());
        assert_eq!((&said["agent_version"], &said["tool"]), (&json!(3), &json!("search")));
        assert_ne!(
            said["jti"],
            checked(&identity.published(), &identity.mint(&claims, at(5))).unwrap()["jti"]
        );
        assert!(
            identity.published().to_string().len() < 400,
            "nothing private is published"
        );

        let other = tempfile::tempdir().unwrap();
        let forged = open(other.path(), at(0)).mint(&claims, at(5));
        assert!(checked(&identity.published(), &forged).is_none());
        // After a restart there are the same keys.
        assert_eq!(open(folder.path(), at(60)).published(), identity.published());
    }

    #[test]
    fn keys_follow_each_other_without_a_token_that_cannot_be_checked() {
        let folder = tempfile::tempdir().unwrap();
        let identity = open(folder.path(), at(0));
        let claims = claims();
        let mut kids = Vec::new();
        let mut token = identity.mint(&claims, at(0));
        // Half a minute at a time over the change of the first key, then a day at a time.
        let steps = (30 * DAY - 1200..30 * DAY + 1200).step_by(30);
        for second in steps.chain((31 * DAY..100 * DAY).step_by(DAY as usize)) {
            let cached = identity.published();
            identity.turn(at(second)).unwrap();
            let published = identity.published();
            if second < 30 * DAY + 1200 {
                assert!(
                    checked(&published, &token).is_some(),
                    "a token of a moment ago, at {second}"
                );
            }
            token = identity.mint(&claims, at(second));
            assert!(checked(&published, &token).is_some(), "{second}");
            assert!(
                checked(&cached, &token).is_some(),
                "who has cached the keys, at {second}"
            );
            let kid = decode_header(&token).unwrap().kid.unwrap();
            if kids.last() != Some(&kid) {
                kids.push(kid);
            }
            let count = published["keys"].as_array().unwrap().len();
            assert!((1..=2).contains(&count), "{count} keys at {second}");
        }
        assert_eq!(kids.len(), 4, "100 days have four keys of 30 days");
        assert_eq!(identity.published()["keys"].as_array().unwrap().len(), 1);
        // A server that was off for a year goes on with its old key until the next one was published for long enough.
        let later = open(folder.path(), at(500 * DAY));
        assert_eq!(
            decode_header(later.mint(&claims, at(500 * DAY))).unwrap().kid,
            kids.last().cloned()
        );
        assert_ne!(
            decode_header(later.mint(&claims, at(500 * DAY + 601))).unwrap().kid,
            kids.last().cloned()
        );
    }

    #[test]
    fn a_damaged_file_is_refused_and_a_failed_change_keeps_the_old_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.keys");
        let identity = open(folder.path(), at(0));
        let before = identity.published();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(identity.turn(at(40 * DAY)).is_err());
        assert_eq!(identity.published(), before);
        std::fs::remove_dir(&path).unwrap();
        private_file::replace(&path, "1 AAAA\n").unwrap();
        let lifetime = Duration::from_secs(1);
        let error = Identity::open(&path, "x".into(), lifetime, at(0))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
