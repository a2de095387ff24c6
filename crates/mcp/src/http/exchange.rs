//! One request and the head of its answer: headers, credentials, redirects, deadline.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{self, AUTHORIZATION},
};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use url::Url;

use super::{
    HttpError, HttpErrorKind, Trace,
    body::Outgoing,
    connect::{Dialer, Tasks},
};
use crate::{
    Credentials, DialError, Limits, RequestHeaders, RequestInfo, ServerSpec,
    dial::{Scheme, Target},
};

const MAX_REDIRECTS: usize = 3;
/// Shorter than the keep-alive of the usual servers (5 s): a connection that the server closes while a call is being
/// written to it would fail that call for no reason.
const IDLE: std::time::Duration = std::time::Duration::from_secs(4);
/// Fields that callers may not set.
const RESERVED: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What all requests to one server share.
pub(super) struct Server {
    client: Client<Dialer, Outgoing>,
    url: Url,
    headers: Option<Arc<dyn RequestHeaders>>,
    credentials: Option<Arc<dyn Credentials>>,
    pub(super) limits: Limits,
    pub(super) closed: CancellationToken,
    pub(super) tracker: TaskTracker,
    last_failure: Mutex<Option<HttpError>>,
    /// Ends the connections when the last user is gone.
    _guard: DropGuard,
}

/// One request.
pub(super) struct Outbound<'a> {
    pub(super) method: Method,
    pub(super) info: RequestInfo<'a>,
    /// The fields of the protocol.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trace: Option<&'a Trace>,
}

impl Server {
    pub(super) fn new(spec: &ServerSpec) -> Result<Self, HttpError> {
        let target = target(spec)?;
        let closed = CancellationToken::new();
        let tracker = TaskTracker::new();
        let mut builder = Client::builder(Tasks {
            tracker: tracker.clone(),
            closed: closed.clone(),
        });
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(spec.limits.concurrent.max(1))
            // hyper wants room for at least one page.
            .http1_max_buf_size(spec.limits.header_bytes.max(8 << 10))
            .http1_max_headers(spec.limits.header_fields.max(1));
        let client = builder.build(Dialer {
            dial: spec.dial.clone(),
            target: Arc::new(target),
            timeout: spec.limits.dial,
        });
        let mut url = spec.url.clone();
        url.set_fragment(None);
        Ok(Self {
            client,
            url,
            headers: spec.headers.clone(),
            credentials: spec.credentials.clone(),
            limits: spec.limits.clone(),
            _guard: closed.clone().drop_guard(),
            closed,
            tracker,
            last_failure: Mutex::new(None),
        })
    }

    pub(super) fn note(&self, error: &HttpError) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }

    pub(super) fn last_failure(&self) -> Option<HttpError> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request and waits for the head of the answer. A 401 has been dealt with, and so have redirects.
    pub(super) async fn send(&self, request: Outbound<'_>) -> Result<Response<Incoming>, HttpError> {
        let mut url = self.url.clone();
        let mut redirects = 0;
        let mut token = match &self.credentials {
            Some(credentials) => credentials.token().await,
            None => None,
        };
        let mut refreshed = false;
        loop {
            let response = self.send_once(&request, &url, token.as_ref()).await?;
            let status = response.status();
            if declines(status)
                && let Some(trace) = request.trace
            {
                trace.declined();
            }
            match status {
                StatusCode::UNAUTHORIZED => {
                    let Some((credentials, rejected)) = self.credentials.as_ref().zip(token.take()) else {
                        return Err(unauthorized(
                            "the server wants a credential, and there is none",
                            &response,
                        ));
                    };
                    if refreshed {
                        return Err(unauthorized(
                            "the server does not take the renewed credential",
                            &response,
                        ));
                    }
                    refreshed = true;
                    match credentials.refresh_after_rejection(&rejected).await {
                        Ok(Some(renewed)) => token = Some(renewed),
                        Ok(None) => {
                            return Err(unauthorized(
                                "the server does not take the credential, and there is no other",
                                &response,
                            ));
                        }
                        Err(rejected) => {
                            let what =
                                format!("the server does not take the credential, and renewing failed: {rejected}");
                            return Err(unauthorized(&what, &response));
                        }
                    }
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(HttpError::protocol(format!(
                            "the server redirects over {MAX_REDIRECTS} times"
                        )));
                    }
                    url = redirect(&url, response.headers())?;
                }
                _ => return Ok(response),
            }
        }
    }

    async fn send_once(
        &self,
        request: &Outbound<'_>,
        url: &Url,
        token: Option<&SecretString>,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut headers = request.headers.clone();
        if let Some(callback) = &self.headers {
            let extra = callback
                .headers(request.info)
                .await
                .map_err(|error| HttpError::connection(format!("the request was not made: {error}")))?;
            add(&mut headers, extra, token.is_some())?;
        }
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| {
                HttpError::new(
                    HttpErrorKind::Authentication,
                    "the credential holds bytes that a header cannot",
                )
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut message = Request::new(Outgoing::new(request.body.clone(), request.trace.cloned()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = url
            .as_str()
            .parse()
            .map_err(|_| HttpError::connection("the URL cannot be written in a request"))?;
        *message.headers_mut() = headers;
        let response = tokio::select! {
            _ = self.closed.cancelled() => return Err(HttpError::connection("the connection was closed")),
            response = self.client.request(message) => response.map_err(transport)?,
        };
        let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !response
            .headers()
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .all(identity)
        {
            return Err(HttpError::protocol(
                "the answer is compressed although that was not asked for",
            ));
        }
        Ok(response)
    }
}

fn target(spec: &ServerSpec) -> Result<Target, HttpError> {
    let scheme = match spec.url.scheme() {
        "https" => Scheme::Https,
        "http" if spec.policy.plain_http => Scheme::Http,
        "http" => {
            return Err(HttpError::connection(
                "its URL is http://, and only https:// is allowed here",
            ));
        }
        _ => return Err(HttpError::connection("its URL is neither https:// nor http://")),
    };
    if !spec.url.username().is_empty() || spec.url.password().is_some() {
        return Err(HttpError::connection(
            "its URL holds a user or a password; credentials belong into a vault",
        ));
    }
    let host = match spec.url.host() {
        Some(url::Host::Domain(name)) => name.trim_end_matches('.').to_owned(),
        Some(url::Host::Ipv4(ip)) => ip.to_string(),
        Some(url::Host::Ipv6(ip)) => ip.to_string(),
        None => return Err(HttpError::connection("its URL has no host")),
    };
    let port = spec
        .url
        .port_or_known_default()
        .ok_or_else(|| HttpError::connection("its URL has no port"))?;
    Ok(Target {
        scheme,
        host,
        port,
        policy: spec.policy.clone(),
    })
}

fn add(headers: &mut HeaderMap, extra: HeaderMap, has_token: bool) -> Result<(), HttpError> {
    for (name, value) in &extra {
        if RESERVED.contains(name) || name.as_str().starts_with("mcp-") || (has_token && name == AUTHORIZATION) {
            return Err(HttpError::connection(format!(
                "the request was not made: the header {name} may not be set"
            )));
        }
        let mut value = value.clone();
        if name == AUTHORIZATION {
            value.set_sensitive(true);
        }
        headers.append(name, value);
    }
    Ok(())
}

/// Statuses by which a server says that it did nothing with the request. 408, 409 and all of 5xx do not say that.
fn declines(status: StatusCode) -> bool {
    status.is_redirection()
        || (status.is_client_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT))
}

/// Where a redirect leads, if it stays within the origin.
fn redirect(from: &Url, headers: &HeaderMap) -> Result<Url, HttpError> {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(to) = location.and_then(|location| from.join(location).ok()) else {
        return Err(HttpError::protocol("the server redirects without saying where to"));
    };
    if to.origin() != from.origin() || !to.username().is_empty() || to.password().is_some() {
        return Err(HttpError::protocol(
            "the server redirects to another origin, which is not followed; put the URL that it leads to into the configuration",
        ));
    }
    Ok(to)
}

fn unauthorized(what: &str, response: &Response<Incoming>) -> HttpError {
    let hint = response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(resource_metadata);
    let hint = hint
        .map(|url| format!(" (it describes how to get one at {url})"))
        .unwrap_or_default();
    HttpError::new(HttpErrorKind::Authentication, format!("{what}{hint}"))
}

/// The address of the description of a protected resource (RFC 9728) in a challenge, if it is a plausible one.
fn resource_metadata(challenge: &str) -> Option<Url> {
    let key = "resource_metadata=";
    let at = challenge.to_ascii_lowercase().find(key)?;
    let value = &challenge[at + key.len()..];
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split([',', ' ']).next()?,
    };
    let mut url = Url::parse(value)
        .ok()
        .filter(|url| matches!(url.scheme(), "https" | "http"))?;
    url.set_query(None);
    url.set_fragment(None);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    (url.as_str().len() <= 300).then_some(url)
}

fn transport(error: hyper_util::client::legacy::Error) -> HttpError {
    use std::error::Error as _;
    if let Some(dial) = error.source().and_then(|source| source.downcast_ref::<DialError>()) {
        let kind = match dial {
            DialError::Timeout { .. } => HttpErrorKind::Timeout,
            _ => HttpErrorKind::Connection,
        };
        return HttpError::new(kind, dial.to_string());
    }
    let hyper = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    match hyper {
        Some(error) if error.is_parse_too_large() => {
            HttpError::new(HttpErrorKind::TooLarge, "the header of the answer is too large")
        }
        Some(error) if error.is_parse() => HttpError::protocol("what answers does not speak HTTP/1.1"),
        _ => HttpError::connection("the connection broke before the answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(from: &str, location: &str) -> Result<Url, HttpError> {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_str(location).unwrap())]);
        redirect(&from.parse().unwrap(), &headers)
    }

    #[test]
    fn a_redirect_stays_within_the_origin() {
        assert_eq!(
            to("https://a.test/mcp", "/mcp/").unwrap().as_str(),
            "https://a.test/mcp/"
        );
        assert_eq!(
            to("https://a.test/mcp", "https://a.test:443/x").unwrap().as_str(),
            "https://a.test/x"
        );
        for other in [
            "https://b.test/",
            "http://a.test/",
            "https://a.test:8443/",
            "//b.test/",
            "https://u@a.test/",
            "file:///x",
        ] {
            assert!(to("https://a.test/mcp", other).is_err(), "{other}");
        }
    }

    #[test]
    fn the_hint_of_a_challenge_is_an_address() {
        let of = |challenge| resource_metadata(challenge).map(String::from);
        assert_eq!(
            of(r#"Bearer realm="x", resource_metadata="https://a.test/.well-known/x?token=1", error="y""#).as_deref(),
            Some("https://a.test/.well-known/x")
        );
        assert_eq!(
            of("Bearer resource_metadata=https://a.test/x, a=b").as_deref(),
            Some("https://a.test/x")
        );
        assert_eq!(of(r#"Bearer resource_metadata="javascript:x""#), None);
        assert_eq!(of("Bearer"), None);
    }

    #[test]
    fn only_clear_refusals_decline() {
        for status in [307, 400, 401, 403, 404, 405, 413, 429] {
            assert!(declines(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [200, 202, 408, 409, 500, 502, 503, 504] {
            assert!(!declines(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
