//! What a client is made with.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::SecretString;

/// What a client is made with. Its `Debug` output does not show the key.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the provider's `/v1` is, for example `https://api.anthropic.com`. A path before `/v1` is kept.
    pub base_url: String,
    /// The key.
    pub api_key: SecretString,
    /// How the key is sent.
    pub auth: AuthStyle,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// A larger answer, counted in bytes of the event stream, is a failure.
    pub max_answer_bytes: usize,
    /// The `user-agent` header.
    pub user_agent: String,
    /// The `anthropic-version` header.
    pub api_version: String,
    /// Further headers of every request, such as `anthropic-beta`.
    pub headers: Vec<(String, String)>,
}

/// How a key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthStyle {
    /// `x-api-key: KEY`
    #[default]
    ApiKey,
    /// `authorization: Bearer KEY`
    Bearer,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// From sending a request to the head of its answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer; pings count.
    pub idle: Duration,
    /// For the whole answer.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 10 s to connect, 120 s to the head of the answer, 90 s between pieces, 30 min for the whole.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(90),
            total: Duration::from_secs(30 * 60),
        }
    }
}

impl Options {
    /// The usual settings for a provider and a key.
    pub fn new(base_url: impl Into<String>, api_key: SecretString) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            auth: AuthStyle::default(),
            timeouts: Timeouts::default(),
            max_answer_bytes: 32 << 20,
            user_agent: concat!("outwork/", env!("CARGO_PKG_VERSION")).to_owned(),
            api_version: "2023-06-01".to_owned(),
            headers: Vec::new(),
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base URL is not one.
    #[error(
        "the model base URL {fault}; it must be http:// or https:// with a host, such as https://api.anthropic.com"
    )]
    BaseUrl {
        /// What is wrong.
        fault: String,
    },
    /// The key cannot stand in a header.
    #[error("the model API key is empty or has characters that an HTTP header cannot carry; check for line breaks")]
    ApiKey,
    /// A header is not one.
    #[error("the header `{name}` for the model provider is not a valid HTTP header")]
    Header {
        /// Its name.
        name: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client for the model provider cannot be made: {0}")]
    Client(#[source] reqwest::Error),
}

/// Parses a base URL; the answer ends with a slash.
pub(crate) fn base_url(text: &str) -> Result<Url, Error> {
    let refuse = |fault: &str| {
        Err(Error::BaseUrl {
            fault: fault.to_owned(),
        })
    };
    let mut url = match Url::parse(text.trim()) {
        Ok(url) => url,
        Err(error) => return refuse(&format!("cannot be read ({error})")),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return refuse("has another scheme or no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("carries a user name or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("has a query or a fragment");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.ends_with("/v1") {
        return refuse("ends with /v1, which is added by itself");
    }
    url.set_path(&format!("{path}/"));
    Ok(url)
}

/// Parses a header.
pub(crate) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let refuse = || Error::Header { name: name.to_owned() };
    let header = HeaderName::try_from(name).map_err(|_| refuse())?;
    Ok((header, HeaderValue::try_from(value).map_err(|_| refuse())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for (text, expected) in [
            ("https://api.anthropic.com", "https://api.anthropic.com/"),
            ("http://127.0.0.1:8500/", "http://127.0.0.1:8500/"),
            ("https://host/provider/", "https://host/provider/"),
        ] {
            assert_eq!(base_url(text).unwrap().as_str(), expected);
        }
        for (text, fault) in [
            ("api.anthropic.com", "cannot be read"),
            ("ftp://host", "scheme"),
            ("https://user:pass@host", "password"),
            ("https://host?x=1", "query"),
            ("https://host/v1/", "/v1"),
        ] {
            let error = base_url(text).unwrap_err().to_string();
            assert!(error.contains(fault) && !error.contains("pass@"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let options = Options::new("https://host", SecretString::from("sk-secret"));
        assert!(!format!("{options:?}").contains("sk-secret"));
    }
}
