//! The client: one connection pool, one credential, and the entry to every resource.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, Url, redirect};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::options::{Credential, MANAGED_AGENTS_BETA, Options, RetryPolicy, Timeouts};
use crate::{
    Agents, ApiKeys, ClientError, EnvironmentKeys, Environments, EventStream, Files, Models, Pages, Query, Request,
    Result, SessionFiles, Sessions, TunnelCertificates, Tunnels, VaultCredentials, Vaults, Work, Workspaces,
};

/// A client of the Managed Agents API. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) headers: Arc<HeaderMap>,
}

pub(crate) struct Settings {
    pub base_url: String,
    pub timeouts: Timeouts,
    pub retry: RetryPolicy,
    pub max_answer_bytes: usize,
    pub max_event_bytes: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.settings.base_url)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client; nothing is sent yet. Refuses an address that is not an HTTP URL, a credential that is empty or
    /// cannot stand in a header, and certificates that cannot be read.
    pub fn new(options: Options) -> Result<Self> {
        let base_url = check_base_url(&options.base_url)?;
        let headers = headers(&options)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(&options.user_agent)
            .redirect(redirect::Policy::none())
            .connect_timeout(options.timeouts.connect)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .tcp_keepalive_interval(Duration::from_secs(5))
            .tcp_keepalive_retries(3)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .retry(reqwest::retry::never());
        for pem in &options.ca_certificates {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|_| {
                ClientError::Invalid("a certificate authority is not a PEM certificate; give the PEM text of it".into())
            })?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|e| ClientError::Invalid(format!("the HTTP client cannot be set up: {}", root_cause(&e))))?;
        Ok(Self {
            http,
            settings: Arc::new(Settings {
                base_url,
                timeouts: options.timeouts,
                retry: options.retry,
                max_answer_bytes: options.max_answer_bytes,
                max_event_bytes: options.max_event_bytes,
            }),
            headers: Arc::new(headers),
        })
    }

    /// The same client with another credential, over the same connections.
    pub fn with_credential(&self, credential: &Credential) -> Result<Self> {
        let mut headers = (*self.headers).clone();
        headers.remove(AUTHORIZATION);
        headers.remove("x-api-key");
        add_credential(&mut headers, credential)?;
        Ok(Self {
            headers: Arc::new(headers),
            ..self.clone()
        })
    }

    /// The address it calls, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.settings.base_url
    }

    /// Any call: `path` begins with a slash; build one that holds ids with [`crate::path`].
    pub fn request(&self, method: Method, path: impl Into<String>) -> Request<'_> {
        Request::new(self, method, path.into())
    }

    /// GET; repeated after failures that may pass.
    pub async fn get<T: DeserializeOwned>(&self, path: impl Into<String>, query: &Query) -> Result<T> {
        self.request(Method::GET, path).queries(query).send().await
    }

    /// POST with a JSON body; repeated only where the server cannot have acted on it.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: impl Into<String>,
        query: &Query,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        self.request(Method::POST, path).queries(query).json(body)?.send().await
    }

    /// POST without a body.
    pub async fn post_empty<T: DeserializeOwned>(&self, path: impl Into<String>) -> Result<T> {
        self.request(Method::POST, path).send().await
    }

    /// DELETE; repeated after failures that may pass.
    pub async fn delete<T: DeserializeOwned>(&self, path: impl Into<String>, query: &Query) -> Result<T> {
        self.request(Method::DELETE, path).queries(query).send().await
    }

    /// Every item of a list, page after page, as it is asked for.
    pub fn pages<T: DeserializeOwned>(&self, path: impl Into<String>, query: Query) -> Pages<T> {
        Pages::new(self.clone(), path.into(), query)
    }

    /// Opens the live event stream of a session; returns once the server has opened it.
    ///
    /// `event_deltas` names the event types to preview while they are written, for example `agent.message`.
    /// The stream is a live tail: list the events after opening it to see what was before.
    pub async fn stream_events(&self, session_id: &str, event_deltas: &[&str]) -> Result<EventStream> {
        let mut request = self.request(
            Method::GET,
            crate::path(&["v1", "sessions", session_id, "events", "stream"])?,
        );
        for kind in event_deltas {
            request = request.query("event_deltas[]", *kind);
        }
        request.stream().await
    }

    /// The work queue of an environment.
    pub fn work(&self, environment_id: impl Into<String>) -> Work<'_> {
        Work::new(self, Some(environment_id.into()))
    }

    /// The work of every `cloud` environment, for a worker key: only a server of this project has it.
    pub fn cloud_work(&self) -> Work<'_> {
        Work::new(self, None)
    }

    /// Sessions and their events.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions(self)
    }

    /// Agents and their versions.
    pub fn agents(&self) -> Agents<'_> {
        Agents(self)
    }

    /// Environments.
    pub fn environments(&self) -> Environments<'_> {
        Environments(self)
    }

    /// Files.
    pub fn files(&self) -> Files<'_> {
        Files(self)
    }

    /// What a session's worker mounts, hands over and uses.
    pub fn session_files(&self, session_id: impl Into<String>) -> SessionFiles<'_> {
        SessionFiles::new(self, session_id.into())
    }

    /// Vaults.
    pub fn vaults(&self) -> Vaults<'_> {
        Vaults(self)
    }

    /// Credentials of a vault.
    pub fn vault_credentials(&self, vault_id: impl Into<String>) -> VaultCredentials<'_> {
        VaultCredentials::new(self, vault_id.into())
    }

    /// Tunnels.
    pub fn tunnels(&self) -> Tunnels<'_> {
        Tunnels(self)
    }

    /// The certificate authorities of one tunnel.
    pub fn tunnel_certificates(&self, tunnel_id: &str) -> TunnelCertificates<'_> {
        TunnelCertificates::new(self, tunnel_id.to_owned())
    }

    /// API keys: only a server of this project has this endpoint.
    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys(self)
    }

    /// Workspaces: only a server of this project has this endpoint.
    pub fn workspaces(&self) -> Workspaces<'_> {
        Workspaces(self)
    }

    /// Keys of an environment: only a server of this project has this endpoint.
    pub fn environment_keys(&self, environment_id: impl Into<String>) -> EnvironmentKeys<'_> {
        EnvironmentKeys::new(self, environment_id.into())
    }

    /// Models.
    pub fn models(&self) -> Models<'_> {
        Models(self)
    }
}

fn check_base_url(text: &str) -> Result<String> {
    let refuse = |why: &str| {
        ClientError::Invalid(format!(
            "the base URL {why}; give one such as http://127.0.0.1:8400 or https://agents.example.com"
        ))
    };
    let url: Url = text
        .trim()
        .parse()
        .map_err(|e| refuse(&format!("`{text}` cannot be read ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(&format!(
            "has the scheme `{}`, which is not http or https",
            url.scheme()
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse(
            "holds a user name or a password, which belong into the credential",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("has a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn headers(options: &Options) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let version = HeaderValue::from_str(&options.api_version).map_err(|_| {
        ClientError::Invalid("the API version cannot stand in a header; give one such as 2023-06-01".into())
    })?;
    headers.insert("anthropic-version", version);
    headers.insert("anthropic-beta", HeaderValue::from_static(MANAGED_AGENTS_BETA));
    headers.insert("accept", HeaderValue::from_static("application/json"));
    add_credential(&mut headers, &options.credential)?;
    Ok(headers)
}

fn add_credential(headers: &mut HeaderMap, credential: &Credential) -> Result<()> {
    let (name, text) = match credential {
        Credential::ApiKey(key) => (HeaderName::from_static("x-api-key"), key.expose_secret().to_owned()),
        Credential::Bearer(token) => (AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
    };
    let secret = match credential {
        Credential::ApiKey(s) | Credential::Bearer(s) => s.expose_secret(),
    };
    if secret.trim().is_empty() {
        return Err(ClientError::Invalid("the key is empty; give the whole key".into()));
    }
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        ClientError::Invalid("the key holds characters that cannot stand in a header; give it without line ends".into())
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// The innermost cause of an error: what a person needs, without the layers around it and without a URL.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
