//! Pulls from a registry by the OCI distribution specification: manifests and blobs by GET, with a bearer token or basic
//! credentials where the registry asks for them.
//!
//! Written here over `reqwest` rather than taken from a client crate, because what matters most is bounds and where a
//! credential goes: every body has a limit before it is read, redirects are followed by hand, and a challenge is answered
//! only when it comes from the registry that was named.
//!
//! Refuses: plain HTTP except to this machine or to hosts that were named for it; redirects from HTTPS to HTTP, more than
//! five of them, or to addresses with a user in them; a token service over plain HTTP; a token service on a foreign
//! domain when there are credentials to send. `Authorization` goes to the registry's own origin only.

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use url::Url;

use crate::credentials::{Credential, Credentials};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result, shown};
use crate::manifest;
use crate::origin::{Challenge, challenge, is_loopback, may_follow, origin, related};
use crate::reference::Remote;

const REDIRECTS: usize = 5;
const TOKEN_BYTES: u64 = 1 << 20;
const CONNECT: Duration = Duration::from_secs(15);
/// The longest pause between two pieces of an answer.
const PAUSE: Duration = Duration::from_secs(30);

/// The HTTP client of all pulls.
pub(crate) fn http(roots: &[Vec<u8>]) -> Result<reqwest::Client> {
    let failed = |action| {
        move |source| Error::Network {
            host: "any".into(),
            action,
            source,
        }
    };
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .read_timeout(PAUSE)
        .user_agent(concat!("outwork/", env!("CARGO_PKG_VERSION")));
    for root in roots {
        let parsed =
            reqwest::Certificate::from_pem_bundle(root).map_err(failed("reading an extra root certificate"))?;
        builder = builder.tls_certs_merge(parsed);
    }
    builder.build().map_err(failed("setting up TLS"))
}

/// One repository of one registry.
pub(crate) struct Registry {
    http: reqwest::Client,
    /// `SCHEME://HOST[:PORT]/v2/NAME/`.
    base: Url,
    host: String,
    name: String,
    plain: Vec<String>,
    credential: Option<Credential>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// `plain` are hosts (as written in references) that may be asked without TLS.
    pub(crate) fn new(
        http: reqwest::Client,
        remote: &Remote,
        credentials: &Credentials,
        plain: &[String],
    ) -> Result<Self> {
        let (host, name) = match (remote.host(), remote.name()) {
            // The hub's registry has another name than its images, and its own images a hidden folder.
            ("docker.io" | "index.docker.io", name) if !name.contains('/') => {
                ("registry-1.docker.io", format!("library/{name}"))
            }
            ("docker.io" | "index.docker.io", name) => ("registry-1.docker.io", name.to_owned()),
            (host, name) => (host, name.to_owned()),
        };
        let unusable = |problem: &str| Error::Registry {
            host: host.to_owned(),
            problem: problem.to_owned(),
        };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{name}/")).map_err(|_| unusable("is not a usable address"))
        };
        let mut base = parse("https")?;
        if is_loopback(&base) || plain.iter().any(|plain| plain.eq_ignore_ascii_case(host)) {
            base = parse("http")?;
        }
        let authorization = match credentials.of(remote.host())? {
            Some(Credential::Token(token)) => {
                Some(bearer(token).ok_or_else(|| unusable("its token has forbidden characters"))?)
            }
            Some(Credential::Basic { .. } | Credential::Identity(_)) | None => None,
        };
        Ok(Self {
            http,
            host: host.to_owned(),
            name,
            base,
            plain: plain.to_vec(),
            credential: credentials.of(remote.host())?.cloned(),
            authorization: Mutex::new(authorization),
        })
    }

    /// A manifest or index by tag or digest; the caller compares the digest.
    pub(crate) async fn manifest(&self, wanted: &str, limit: u64) -> Result<Vec<u8>> {
        let url = self.join("manifests", wanted)?;
        let response = self.get(url, manifest::ACCEPT).await?;
        self.bounded(response, limit, &format!("manifest {wanted}")).await
    }

    /// A small blob; the caller compares the digest.
    pub(crate) async fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let url = self.join("blobs", &digest.to_string())?;
        let response = self.get(url, "*/*").await?;
        self.bounded(response, limit, &digest.to_string()).await
    }

    /// A large blob into a file. Done only if it has the size and the digest that were promised.
    pub(crate) async fn download(&self, digest: &Digest, size: u64, file: std::fs::File) -> Result<()> {
        let response = self.get(self.join("blobs", &digest.to_string())?, "*/*").await?;
        let what = format!("layer {digest}");
        let wrong_size = |found| Error::Size {
            what: what.clone(),
            expected: size,
            found,
        };
        if let Some(announced) = response.content_length().filter(|announced| *announced != size) {
            return Err(wrong_size(announced));
        }
        let mut file = tokio::io::BufWriter::with_capacity(512 * 1024, tokio::fs::File::from_std(file));
        let (mut hasher, mut found) = (Hasher::default(), 0u64);
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(self.failed("reading a layer"))?;
            found += bytes.len() as u64;
            if found > size {
                return Err(wrong_size(found));
            }
            hasher.update(&bytes);
            file.write_all(&bytes)
                .await
                .map_err(Error::io("write download of", digest.hex()))?;
        }
        file.flush()
            .await
            .map_err(Error::io("write download of", digest.hex()))?;
        if found != size {
            return Err(wrong_size(found));
        }
        let found = hasher.finish();
        if found != *digest {
            return Err(Error::Mismatch {
                what,
                expected: *digest,
                found,
            });
        }
        Ok(())
    }

    fn join(&self, kind: &str, item: &str) -> Result<Url> {
        // `join` would take the `:` of a digest for the end of a scheme.
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| self.refused("is not a usable address"))?
            .pop_if_empty()
            .extend([kind, item]);
        Ok(url)
    }

    /// GET with authentication and redirects.
    async fn get(&self, first: Url, accept: &'static str) -> Result<reqwest::Response> {
        let mut asked = false;
        'again: loop {
            let mut url = first.clone();
            for _ in 0..=REDIRECTS {
                let home = self.is_home(&url);
                let mut request = self.http.get(url.clone()).header(ACCEPT, accept);
                if home && let Some(value) = self.authorization() {
                    request = request.header(AUTHORIZATION, value);
                }
                let response = request.send().await.map_err(self.failed("asking"))?;
                match response.status() {
                    StatusCode::OK => return Ok(response),
                    StatusCode::UNAUTHORIZED if home && !asked => {
                        asked = true;
                        self.authenticate(response.headers()).await?;
                        continue 'again;
                    }
                    StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT => url = self.next(&url, response.headers())?,
                    status => return Err(self.status(status, &url)),
                }
            }
            return Err(self.refused(&format!("redirected more than {REDIRECTS} times")));
        }
    }

    fn status(&self, status: StatusCode, url: &Url) -> Error {
        let at = if self.is_home(url) {
            String::new()
        } else {
            format!(" at {}", origin(url))
        };
        let why = match status.as_u16() {
            401 | 403 if self.credential.is_some() => "the credentials given for it are not accepted for this image",
            401 | 403 => "it wants credentials; write them into the credentials file (helpers are not run)",
            404 => "it does not have this image, or hides it from those without credentials",
            429 => "it limits how often it may be asked; try later or with credentials",
            _ => "unexpected answer",
        };
        self.refused(&format!("answered {status}{at} for {}: {why}", self.name))
    }

    /// Where a redirect leads, if one may go there.
    fn next(&self, from: &Url, headers: &HeaderMap) -> Result<Url> {
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let next = location.and_then(|location| from.join(location).ok());
        let next = next.ok_or_else(|| self.refused("redirected without a usable address"))?;
        may_follow(from, &next, &self.plain).map_err(|problem| self.refused(problem))?;
        Ok(next)
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Answers the challenge of the registry itself.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<()> {
        if matches!(self.credential, Some(Credential::Token(_))) {
            return Err(self.refused("does not accept the token given for it"));
        }
        let asked = match challenge(headers) {
            // Some registries say how to prove who asks at their root only.
            None if !headers.contains_key(WWW_AUTHENTICATE) => {
                let root = self
                    .base
                    .join("/v2/")
                    .map_err(|_| self.refused("is not a usable address"))?;
                let response = self.http.get(root).send().await.map_err(self.failed("asking"))?;
                challenge(response.headers())
            }
            asked => asked,
        };
        let value = match asked {
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service.as_deref()).await?,
            Some(Challenge::Basic) => match &self.credential {
                Some(Credential::Basic { user, password }) => basic(user, password),
                _ => return Err(self.refused("wants a user and a password; write them into the credentials file")),
            },
            None => return Err(self.refused("wants an authentication that is neither Basic nor Bearer")),
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(value);
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<HeaderValue> {
        let mut realm = Url::parse(realm).map_err(|_| self.refused("names a token service that is not an address"))?;
        may_follow(&self.base, &realm, &self.plain)
            .map_err(|problem| self.refused(&format!("names a token service at {}: it {problem}", origin(&realm))))?;
        if self.credential.is_some() && !related(&self.base, &realm) {
            let problem = format!(
                "wants its credentials sent to {}, which is on another domain",
                origin(&realm)
            );
            return Err(self.refused(&problem));
        }
        let scope = format!("repository:{}:pull", self.name);
        let request = match &self.credential {
            Some(Credential::Identity(token)) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "outwork");
                form.append_pair("refresh_token", token.expose_secret())
                    .append_pair("scope", &scope);
                form.append_pair("service", service.unwrap_or_default());
                let form_type = "application/x-www-form-urlencoded";
                self.http
                    .post(realm)
                    .header(CONTENT_TYPE, form_type)
                    .body(form.finish())
            }
            other => {
                realm.query_pairs_mut().append_pair("scope", &scope);
                if let Some(service) = service {
                    realm.query_pairs_mut().append_pair("service", service);
                }
                let request = self.http.get(realm);
                match other {
                    Some(Credential::Basic { user, password }) => request.header(AUTHORIZATION, basic(user, password)),
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(self.failed("asking for a token"))?;
        if response.status() != StatusCode::OK {
            let hint = if self.credential.is_some() {
                "the credentials given for it are not accepted"
            } else {
                "it wants credentials"
            };
            return Err(self.refused(&format!("its token service answered {}: {hint}", response.status())));
        }
        let body = self.bounded(response, TOKEN_BYTES, "a token").await?;
        #[derive(Deserialize)]
        struct TokenDoc {
            token: Option<SecretString>,
            access_token: Option<SecretString>,
        }
        // The parser's message could quote the token.
        let doc: TokenDoc =
            serde_json::from_slice(&body).map_err(|_| self.refused("its token service sent no token"))?;
        let token = doc.token.or(doc.access_token);
        token
            .and_then(|token| bearer(&token))
            .ok_or_else(|| self.refused("its token service sent no token"))
    }

    async fn bounded(&self, response: reqwest::Response, limit: u64, what: &str) -> Result<Vec<u8>> {
        let too_large = || Error::TooLarge {
            what: format!("{} of registry {}", shown(what.as_bytes()), self.host),
            limit,
            unit: "bytes",
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(part) = body.next().await {
            let part = part.map_err(self.failed("reading an answer"))?;
            if (bytes.len() + part.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    fn refused(&self, problem: &str) -> Error {
        Error::Registry {
            host: self.host.clone(),
            problem: problem.to_owned(),
        }
    }

    /// Addresses stay out of errors: those of a redirect are often signed, and so a kind of credential.
    fn failed(&self, action: &'static str) -> impl FnOnce(reqwest::Error) -> Error {
        let host = self.host.clone();
        move |error| Error::Network {
            host,
            action,
            source: error.without_url(),
        }
    }
}

fn bearer(token: &SecretString) -> Option<HeaderValue> {
    secret(&format!("Bearer {}", token.expose_secret()))
}

fn basic(user: &str, password: &SecretString) -> HeaderValue {
    let pair = STANDARD.encode(format!("{user}:{}", password.expose_secret()));
    secret(&format!("Basic {pair}")).expect("base64 has no characters that a header refuses")
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
