//! Who calls: the signed identity that the plane sends with each call.
//!
//! The header `Outwork-Agent-Identity` holds a JWT, signed with EdDSA or RS256 by a key of the configured issuer, for
//! exactly the host that is called, valid for at most five minutes. Anything else is refused: another algorithm (so
//! `none` and HMAC too), an unknown key, another issuer or audience. For `tools/call` the tool in it must be the one
//! that is called.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::config::{Identity, KeySource};
use crate::error::Error;
use crate::rules::Callers;
use crate::upstream::fetch::Fetch;

/// The header that carries the identity.
pub const IDENTITY: &str = "outwork-agent-identity";

/// The longest validity, in seconds.
const LIFETIME: u64 = 300;
/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 30;
/// How soon keys are fetched again because a key is unknown.
const REFETCH: Duration = Duration::from_secs(30);
/// How old fetched keys may be before they are fetched again.
const FRESH: Duration = Duration::from_secs(600);
/// How old fetched keys may be when they cannot be fetched again.
const STALE: Duration = Duration::from_secs(3600);
/// The identities that are remembered as verified.
const REMEMBERED: usize = 4096;
/// The longest token.
const TOKEN_MAX: usize = 8 * 1024;

/// A verified identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `sub`.
    pub subject: String,
    /// `workspace_id`.
    pub workspace: String,
    /// `agent_id`.
    pub agent: String,
    /// `agent_version`.
    pub agent_version: Option<String>,
    /// `session_id`.
    pub session: String,
    /// `tool`: the tool that this identity may call.
    pub tool: Option<String>,
}

/// Why an identity is not taken. The text is for caller and log; it holds nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// No header.
    #[error("the call carries no identity")]
    Missing,
    /// More than one header, or not a token.
    #[error("the identity is not a signed token")]
    Malformed,
    /// Neither EdDSA nor RS256.
    #[error("the identity is signed with an algorithm that is not taken (EdDSA and RS256 are)")]
    Algorithm,
    /// No such key.
    #[error("the identity is signed with a key that the issuer does not publish")]
    Key,
    /// The signature does not verify.
    #[error("the identity's signature does not verify")]
    Signature,
    /// Another issuer.
    #[error("the identity is from another issuer")]
    Issuer,
    /// For another host.
    #[error("the identity is for another host")]
    Audience,
    /// Not valid any more, or not yet.
    #[error("the identity has expired or is not valid yet")]
    Expired,
    /// Valid for too long.
    #[error("the identity is valid for more than five minutes")]
    Lifetime,
    /// Claims are missing.
    #[error("the identity does not name subject, workspace, agent and session")]
    Claims,
    /// The keys could not be had.
    #[error("the issuer's keys could not be fetched")]
    Unreachable,
}

impl Unverified {
    /// The rule's name in records.
    pub fn rule(self) -> &'static str {
        match self {
            Unverified::Missing => "identity.missing",
            Unverified::Malformed => "identity.malformed",
            Unverified::Algorithm => "identity.algorithm",
            Unverified::Key => "identity.key",
            Unverified::Signature => "identity.signature",
            Unverified::Issuer => "identity.issuer",
            Unverified::Audience => "identity.audience",
            Unverified::Expired => "identity.expired",
            Unverified::Lifetime => "identity.lifetime",
            Unverified::Claims => "identity.claims",
            Unverified::Unreachable => "identity.keys",
        }
    }
}

impl Callers {
    /// The list in which a caller is not, if any.
    pub(crate) fn refusing(&self, caller: &Caller) -> Option<&'static str> {
        let lists = [
            (&self.workspaces, &caller.workspace, "callers.workspaces"),
            (&self.agents, &caller.agent, "callers.agents"),
            (&self.sessions, &caller.session, "callers.sessions"),
        ];
        lists
            .into_iter()
            .find(|(list, value, _)| list.as_ref().is_some_and(|list| !list.is_match(value)))
            .map(|(_, _, rule)| rule)
    }
}

/// Verifies identities with the keys of one issuer.
pub struct Verifier {
    issuer: String,
    source: Source,
    keys: ArcSwap<Keys>,
    /// When keys were last asked for; held while they are.
    fetching: tokio::sync::Mutex<Option<Instant>>,
    verified: Mutex<HashMap<[u8; 32], Remembered>>,
}

enum Source {
    File(PathBuf),
    Url(Fetch),
}

struct Keys {
    by_id: HashMap<String, (Algorithm, DecodingKey)>,
    since: Option<Instant>,
}

#[derive(Clone)]
struct Remembered {
    caller: Arc<Caller>,
    audience: String,
    until: u64,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    workspace_id: String,
    agent_id: String,
    agent_version: Option<serde_json::Value>,
    session_id: String,
    tool: Option<String>,
}

impl Verifier {
    /// A verifier. Reads a key file at once; keys at an address are fetched when the first identity comes.
    pub fn new(identity: &Identity) -> Result<Verifier, Error> {
        let (source, keys) = match &identity.keys {
            KeySource::File(path) => (Source::File(path.clone()), read_keys(path)?),
            KeySource::Url(url) => {
                let fetch = Fetch::new(url.clone(), identity.ca_file.as_deref())?;
                (
                    Source::Url(fetch),
                    Keys {
                        by_id: HashMap::new(),
                        since: None,
                    },
                )
            }
        };
        Ok(Verifier {
            issuer: identity.issuer.clone(),
            source,
            keys: ArcSwap::from_pointee(keys),
            fetching: tokio::sync::Mutex::new(None),
            verified: Mutex::new(HashMap::new()),
        })
    }

    /// The caller that a token names, for a call of `host`.
    pub async fn verify(&self, token: &str, host: &str) -> Result<Arc<Caller>, Unverified> {
        if token.len() > TOKEN_MAX {
            return Err(Unverified::Malformed);
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = unix_now();
        if let Some(known) = self.verified().get(&digest).cloned()
            && now <= known.until
        {
            return if known.audience == host {
                Ok(known.caller)
            } else {
                Err(Unverified::Audience)
            };
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // `none` and unknown algorithms do not parse at all.
            jsonwebtoken::errors::ErrorKind::InvalidAlgorithmName | jsonwebtoken::errors::ErrorKind::Json(_) => {
                Unverified::Algorithm
            }
            _ => Unverified::Malformed,
        })?;
        if !matches!(header.alg, Algorithm::EdDSA | Algorithm::RS256) {
            return Err(Unverified::Algorithm);
        }
        let kid = header.kid.as_deref().ok_or(Unverified::Key)?;
        let keys = self.keys_with(kid).await?;
        let (algorithm, key) = keys.by_id.get(kid).ok_or(Unverified::Key)?;
        // The key decides the algorithm, never the token.
        if *algorithm != header.alg {
            return Err(Unverified::Algorithm);
        }
        let mut validation = Validation::new(*algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[format!("https://{host}")]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(|error| {
            use jsonwebtoken::errors::ErrorKind;
            match error.kind() {
                ErrorKind::InvalidSignature => Unverified::Signature,
                ErrorKind::InvalidIssuer => Unverified::Issuer,
                ErrorKind::InvalidAudience => Unverified::Audience,
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => Unverified::Expired,
                ErrorKind::MissingRequiredClaim(_) | ErrorKind::Json(_) => Unverified::Claims,
                _ => Unverified::Malformed,
            }
        })?;
        let claims = claims.claims;
        if claims.exp > now + LIFETIME + LEEWAY {
            return Err(Unverified::Lifetime);
        }
        let caller = Arc::new(Caller {
            subject: claims.sub,
            workspace: claims.workspace_id,
            agent: claims.agent_id,
            agent_version: claims.agent_version.map(|version| match version {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            }),
            session: claims.session_id,
            tool: claims.tool,
        });
        let mut verified = self.verified();
        if verified.len() >= REMEMBERED {
            verified.retain(|_, known| now <= known.until);
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
        }
        // Remembered to its expiry without the leeway: the full check decides on the last seconds.
        let remembered = Remembered {
            caller: caller.clone(),
            audience: host.to_owned(),
            until: claims.exp,
        };
        verified.insert(digest, remembered);
        Ok(caller)
    }

    /// Reads a key file again.
    pub fn reload(&self) -> Result<(), Error> {
        if let Source::File(path) = &self.source {
            self.take(read_keys(path)?);
        }
        Ok(())
    }

    /// The keys, fetched again when they are old or do not have `kid`.
    async fn keys_with(&self, kid: &str) -> Result<Arc<Keys>, Unverified> {
        let fetch = match &self.source {
            Source::File(_) => return Ok(self.keys.load_full()),
            Source::Url(fetch) => fetch,
        };
        let good =
            |keys: &Keys| keys.by_id.contains_key(kid) && keys.since.is_some_and(|since| since.elapsed() < FRESH);
        let keys = self.keys.load_full();
        if good(&keys) {
            return Ok(keys);
        }
        let mut last = self.fetching.lock().await;
        let keys = self.keys.load_full();
        if good(&keys) {
            return Ok(keys);
        }
        if last.is_none_or(|last| last.elapsed() >= REFETCH) {
            *last = Some(Instant::now());
            let fetched = fetch.get().await.and_then(|bytes| parse_keys(&bytes));
            match fetched {
                Ok(keys) => self.take(keys),
                Err(reason) => tracing::warn!(%reason, "the keys of the identity issuer could not be fetched"),
            }
        }
        let keys = self.keys.load_full();
        match keys.since {
            Some(since) if since.elapsed() < STALE => Ok(keys),
            _ => Err(Unverified::Unreachable),
        }
    }

    fn take(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
        // A key may have been withdrawn.
        self.verified().clear();
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Remembered>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn read_keys(path: &std::path::Path) -> Result<Keys, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    parse_keys(&bytes).map_err(|message| Error::Keys {
        source_name: path.display().to_string(),
        message,
    })
}

/// The keys of a set that can sign identities. Others are left out; a set without any is refused.
fn parse_keys(bytes: &[u8]) -> Result<Keys, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|_| "it is not a JSON Web Key Set".to_owned())?;
    let mut by_id = HashMap::new();
    for jwk in &set.keys {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => continue,
        };
        let stated = jwk.common.key_algorithm.map(|stated| stated.to_string());
        if stated.is_some_and(|stated| stated != format!("{algorithm:?}"))
            || jwk
                .common
                .public_key_use
                .as_ref()
                .is_some_and(|usage| *usage != PublicKeyUse::Signature)
        {
            continue;
        }
        if let (Some(id), Ok(key)) = (&jwk.common.key_id, DecodingKey::from_jwk(jwk)) {
            by_id.insert(id.clone(), (algorithm, key));
        }
    }
    if by_id.is_empty() {
        return Err("it has no key with an id for EdDSA (Ed25519) or RS256".to_owned());
    }
    Ok(Keys {
        by_id,
        since: Some(Instant::now()),
    })
}
