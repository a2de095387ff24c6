//! An identity provider: its published keys, fetched by OpenID discovery and kept for a while.
//!
//! Only `https`, or `http` on loopback. No redirects. Answers are bounded in size and time. A key that is not known is
//! looked for anew, but not more often than every [`BETWEEN`]. When the provider does not answer, keys that are known
//! still hold for [`STALE`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use url::{Host, Url};

use super::FederationError;

/// How long keys hold without a look at the provider.
const FRESH: Duration = Duration::from_secs(600);
/// How long they hold when the provider does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How often it is asked at most.
const BETWEEN: Duration = Duration::from_secs(15);
/// How long both answers together may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer.
const MAX_ANSWER: usize = 512 << 10;
/// The most keys that are looked at.
const MAX_KEYS: usize = 100;

/// An identity provider.
pub(crate) struct Issuer {
    name: String,
    discovery: Url,
    http: reqwest::Client,
    known: ArcSwapOption<Known>,
    /// When it was last asked. Held while it is asked, so that all who wait share one answer.
    asked: Mutex<Option<Instant>>,
}

struct Known {
    at: Instant,
    keys: Vec<Jwk>,
}

#[derive(serde::Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(serde::Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Issuer {
    /// Checks the address of an issuer; nothing is sent.
    pub(crate) fn new(issuer: &str) -> Result<Self, String> {
        let url = checked(issuer)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("the issuer `{issuer}` has a query or a fragment"));
        }
        let discovery = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery = checked(&discovery)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("outwork/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(DEADLINE)
            .build()
            .map_err(|error| format!("no HTTP client could be made: {error}"))?;
        Ok(Self {
            name: issuer.to_owned(),
            discovery,
            http,
            known: ArcSwapOption::empty(),
            asked: Mutex::new(None),
        })
    }

    /// The keys that a token may be signed with: those of its `kid`, or all if it names none.
    pub(crate) async fn keys(&self, kid: Option<&str>) -> Result<Vec<Jwk>, FederationError> {
        if let Some(found) = self.among(kid, FRESH) {
            return Ok(found);
        }
        let mut asked = self.asked.lock().await;
        // Somebody else may have asked in the meantime.
        if let Some(found) = self.among(kid, FRESH) {
            return Ok(found);
        }
        let mut failure = None;
        if asked.is_none_or(|at| at.elapsed() >= BETWEEN) {
            match tokio::time::timeout(DEADLINE, self.fetch()).await {
                Ok(Ok(keys)) => self.known.store(Some(Arc::new(Known {
                    at: Instant::now(),
                    keys,
                }))),
                Ok(Err(reason)) => failure = Some(reason),
                Err(_) => failure = Some(format!("it did not answer within {} s", DEADLINE.as_secs())),
            }
            *asked = Some(Instant::now());
        }
        drop(asked);
        if let Some(reason) = &failure {
            tracing::warn!(
                issuer = self.name,
                reason,
                "the keys of an identity provider could not be fetched"
            );
        }
        if let Some(found) = self.among(kid, STALE) {
            return Ok(found);
        }
        match failure {
            None if self.known.load().is_some() => Err(FederationError::Refused(format!(
                "the assertion is signed with a key that the issuer {} does not publish",
                self.name
            ))),
            reason => Err(FederationError::Unavailable(format!(
                "the keys of the issuer {} could not be fetched: {}",
                self.name,
                reason.unwrap_or_else(|| "it was asked a moment ago and did not answer".into())
            ))),
        }
    }

    /// What is known and not older than `age`; none if nothing of it fits.
    fn among(&self, kid: Option<&str>, age: Duration) -> Option<Vec<Jwk>> {
        let known = self.known.load_full().filter(|known| known.at.elapsed() < age)?;
        let fitting: Vec<Jwk> = known
            .keys
            .iter()
            .filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid)
            .cloned()
            .collect();
        (!fitting.is_empty()).then_some(fitting)
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let discovery: Discovery = self.get(&self.discovery).await?;
        if discovery.issuer != self.name {
            return Err(format!("it calls itself `{}`", shortened(&discovery.issuer)));
        }
        let keys = checked(&discovery.jwks_uri)?;
        let published: Published = self.get(&keys).await?;
        let usable: Vec<Jwk> = published
            .keys
            .into_iter()
            .take(MAX_KEYS)
            // A key of a kind that is not known here is in nobody's way.
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter(|key| !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption)))
            .collect();
        if usable.is_empty() {
            return Err(format!("there is no key for signatures at {keys}"));
        }
        Ok(usable)
    }

    async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<T, String> {
        let fault = |error: reqwest::Error| format!("{url}: {}", innermost(&error.without_url()));
        let response = self.http.get(url.clone()).send().await.map_err(fault)?;
        if response.status() != 200 {
            return Err(format!("{url}: the answer was {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(fault)?);
            if body.len() > MAX_ANSWER {
                return Err(format!("{url}: the answer is larger than {MAX_ANSWER} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("{url}: the answer cannot be read: {error}"))
    }
}

/// An address that keys may be fetched from.
fn checked(text: &str) -> Result<Url, String> {
    let url: Url = text
        .parse()
        .map_err(|error| format!("`{}` is not a URL: {error}", shortened(text)))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address must not hold a user name or a password".into());
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(format!(
            "`{}` is neither https nor http on this machine: keys from it could be anybody's",
            shortened(text)
        )),
    }
}

fn shortened(text: &str) -> String {
    crate::http::shortened(text)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_nowhere_but_https_and_this_machine() {
        for good in [
            "https://token.example.com",
            "https://a.example/realms/x",
            "http://127.0.0.1:8080",
            "http://localhost:1",
            "http://[::1]:1/a",
        ] {
            assert!(Issuer::new(good).is_ok(), "{good}");
        }
        for bad in [
            "http://token.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "ftp://localhost",
            "https://user:pass@a.example",
            "https://a.example?x=1",
            "a.example",
            "file:///etc/passwd",
        ] {
            assert!(Issuer::new(bad).is_err(), "{bad}");
        }
    }
}
