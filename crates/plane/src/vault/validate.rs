//! Trying a credential out: its token against its MCP server, and on a rejection its refresh.
//!
//! `valid`: the server took the token. `invalid`: it rejected it, and no refresh brought one that it takes; or it knows
//! the token and forbids what it was asked. `unknown`: it could not be found out. What is shown of answers is short and holds none of the credential's secrets.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use outwork_wire::id::{VaultCredentialId, VaultId, WorkspaceId};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

use super::oauth::{McpCredential, Vaults};
use super::outbound::{OutboundError, OutboundRequest, OutboundResponse};
use super::words::{AccessToken, TokenError};

/// How much of an answer's body is shown, in characters.
const SHOWN: usize = 2000;
/// How much of it is read.
const MAX_ANSWER: usize = 256 << 10;
/// How long one request to the server may take.
const STEP: Duration = Duration::from_secs(8);
/// How long the whole probe of the server may take.
const PROBE: Duration = Duration::from_secs(12);
/// The revision of the protocol that the probe speaks.
const PROTOCOL: &str = "2025-11-25";

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What is shown of an HTTP answer. Its body is scrubbed and short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpExcerpt {
    /// Its status.
    pub status_code: u16,
    /// Its content type.
    pub content_type: String,
    /// The beginning of its body.
    pub body: String,
    /// Whether the body went on.
    pub body_truncated: bool,
}

impl HttpExcerpt {
    /// The excerpt of an answer, without these secrets and without what JSON calls a token or a secret.
    pub(crate) fn of(response: &OutboundResponse, secrets: &[Zeroizing<String>]) -> Self {
        let text = String::from_utf8_lossy(&response.body);
        let mut text = match serde_json::from_str::<Value>(&text) {
            Ok(mut value) => {
                if scrub_fields(&mut value) {
                    value.to_string()
                } else {
                    text.into_owned()
                }
            }
            Err(_) => text.into_owned(),
        };
        for secret in secrets {
            text = scrubbed(&text, secret);
        }
        let content_type = response
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Self {
            status_code: response.status.as_u16(),
            content_type: secrets
                .iter()
                .fold(content_type.to_owned(), |text, secret| scrubbed(&text, secret))
                .chars()
                .take(200)
                .collect(),
            body_truncated: response.truncated || text.chars().count() > SHOWN,
            body: text.chars().take(SHOWN).collect(),
        }
    }
}

/// Takes a secret out of a text, as it is and as it looks inside JSON and forms.
fn scrubbed(text: &str, secret: &str) -> String {
    const GONE: &str = "[redacted]";
    if secret.is_empty() {
        return text.to_owned();
    }
    let quoted = Value::from(secret).to_string();
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    text.replace(secret, GONE)
        .replace(quoted.trim_matches('"'), GONE)
        .replace(&encoded, GONE)
}

/// Takes tokens out of JSON by the names of their fields; whether there were any.
fn scrub_fields(value: &mut Value) -> bool {
    const NAMES: &[&str] = &["access_token", "refresh_token", "id_token", "client_secret"];
    match value {
        Value::Object(fields) => {
            let mut found = false;
            for (name, value) in fields.iter_mut() {
                if NAMES.contains(&name.as_str()) {
                    *value = Value::from("[redacted]");
                    found = true;
                } else {
                    found |= scrub_fields(value);
                }
            }
            found
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| scrub_fields(item) | found),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Valid,
    Invalid,
    Unknown,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        }
    }
}

/// The step at which the server did not go along.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProbeFailure {
    pub(crate) method: &'static str,
    pub(crate) response: Option<HttpExcerpt>,
}

/// What came of a refresh.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RefreshOutcome {
    Succeeded,
    Failed(Option<HttpExcerpt>),
    ConnectError,
    NoRefreshToken,
}

/// What came of trying a credential out.
pub(crate) struct Validation {
    pub(crate) status: Status,
    pub(crate) probe: Option<ProbeFailure>,
    pub(crate) refresh: Option<RefreshOutcome>,
}

/// Tries a credential out: the probe, on a rejection a refresh, and with what that brought the probe again.
pub(crate) async fn validate(
    vaults: &Vaults,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &VaultCredentialId,
    mcp_server_url: &Url,
) -> Result<Validation, TokenError> {
    let credential = vaults.credential(workspace, vault, id);
    let mut end = Instant::now() + PROBE;
    // One that is about to end is refreshed on the way, as it would be for a session.
    let token = match credential.token().await {
        Ok(token) => token,
        Err(error) => return refused(None, error),
    };
    let probe = Probe {
        vaults,
        workspace,
        url: mcp_server_url,
    };
    let failure = match probe.run(&token, end).await {
        Outcome::Taken => return Ok(verdict(Status::Valid, None, None)),
        Outcome::Unclear(failure) => return Ok(verdict(Status::Unknown, Some(failure), None)),
        // Another token of the same grant is allowed no more.
        Outcome::Forbidden(failure) => return Ok(verdict(Status::Invalid, Some(failure), None)),
        Outcome::Rejected(failure) => failure,
    };
    let token = match refreshed(&credential, &token).await {
        Ok(token) => token,
        Err(error) => return refused(Some(failure), error),
    };
    end = Instant::now() + PROBE;
    let refresh = Some(RefreshOutcome::Succeeded);
    Ok(match probe.run(&token, end).await {
        Outcome::Taken => verdict(Status::Valid, None, refresh),
        Outcome::Unclear(failure) => verdict(Status::Unknown, Some(failure), refresh),
        Outcome::Rejected(failure) | Outcome::Forbidden(failure) => verdict(Status::Invalid, Some(failure), refresh),
    })
}

async fn refreshed(credential: &McpCredential, rejected: &AccessToken) -> Result<AccessToken, TokenError> {
    credential.refresh_in_any_case(rejected).await
}

fn refused(probe: Option<ProbeFailure>, error: TokenError) -> Result<Validation, TokenError> {
    let (status, refresh) = match error {
        TokenError::NoRefresh(_) => (Status::Invalid, RefreshOutcome::NoRefreshToken),
        TokenError::Dead { response, .. } => (Status::Invalid, RefreshOutcome::Failed(response.map(|r| *r))),
        TokenError::Passing { unreachable: true, .. } => (Status::Unknown, RefreshOutcome::ConnectError),
        TokenError::Passing { response, .. } => (Status::Unknown, RefreshOutcome::Failed(response.map(|r| *r))),
        error @ (TokenError::Gone(_) | TokenError::Store { .. }) => return Err(error),
    };
    Ok(verdict(status, probe, Some(refresh)))
}

fn verdict(status: Status, probe: Option<ProbeFailure>, refresh: Option<RefreshOutcome>) -> Validation {
    Validation { status, probe, refresh }
}

enum Outcome {
    Taken,
    /// 401.
    Rejected(ProbeFailure),
    /// 403.
    Forbidden(ProbeFailure),
    Unclear(ProbeFailure),
}

struct Probe<'a> {
    vaults: &'a Vaults,
    workspace: &'a WorkspaceId,
    url: &'a Url,
}

impl Probe<'_> {
    /// `initialize`, then `tools/list`: some servers ask for a token only at the second. A server that knows no
    /// `initialize` may still know the second.
    async fn run(&self, token: &AccessToken, end: Instant) -> Outcome {
        let hello = json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": PROTOCOL, "capabilities": {},
                "clientInfo": { "name": "outwork", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        let mut first_failure = None;
        let mut session = None;
        match self.post(token, None, &hello, end).await {
            Ok(response) if response.status.is_success() => {
                session = response.headers.get(&SESSION).cloned();
                let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
                // Its answer says nothing that the next step does not say.
                let _ = self.post(token, session.as_ref(), &ready, end).await;
            }
            Ok(response) => {
                let status = response.status;
                match sorted(status, failure("initialize", Some(&response), token)) {
                    Outcome::Unclear(failure) if status.is_client_error() => first_failure = Some(failure),
                    outcome => return outcome,
                }
            }
            Err(_) => return Outcome::Unclear(failure("initialize", None, token)),
        }
        let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {} });
        let answer = self.post(token, session.as_ref(), &list, end).await;
        self.leave(token, session.as_ref(), end).await;
        match answer {
            Ok(response) if response.status.is_success() => Outcome::Taken,
            Ok(response) => match sorted(response.status, failure("tools/list", Some(&response), token)) {
                Outcome::Unclear(failure) => Outcome::Unclear(first_failure.unwrap_or(failure)),
                outcome => outcome,
            },
            Err(_) => Outcome::Unclear(first_failure.unwrap_or_else(|| failure("tools/list", None, token))),
        }
    }

    async fn post(
        &self,
        token: &AccessToken,
        session: Option<&HeaderValue>,
        message: &Value,
        end: Instant,
    ) -> Result<OutboundResponse, OutboundError> {
        let mut headers = self.headers(token, session)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(Method::POST, headers, Bytes::from(message.to_string()), end)
            .await
    }

    /// Ends the server's session, as a client should; nothing depends on it.
    async fn leave(&self, token: &AccessToken, session: Option<&HeaderValue>, end: Instant) {
        if session.is_some()
            && let Ok(headers) = self.headers(token, session)
        {
            let _ = self.send(Method::DELETE, headers, Bytes::new(), end).await;
        }
    }

    fn headers(&self, token: &AccessToken, session: Option<&HeaderValue>) -> Result<HeaderMap, OutboundError> {
        let mut headers = HeaderMap::new();
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut bearer = HeaderValue::from_str(&bearer)
            .map_err(|_| OutboundError::Refused("the token cannot be sent in a header".into()))?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        headers.insert(VERSION, HeaderValue::from_static(PROTOCOL));
        if let Some(session) = session {
            headers.insert(SESSION, session.clone());
        }
        Ok(headers)
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        end: Instant,
    ) -> Result<OutboundResponse, OutboundError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(OutboundError::Timeout);
        }
        let request = OutboundRequest {
            workspace: self.workspace.clone(),
            method,
            url: self.url.clone(),
            headers,
            body,
            deadline: left.min(STEP),
            max_body: MAX_ANSWER,
        };
        self.vaults.inner.outbound.send(request).await
    }
}

/// What an answer that is no success says of the token.
fn sorted(status: StatusCode, failure: ProbeFailure) -> Outcome {
    match status {
        StatusCode::UNAUTHORIZED => Outcome::Rejected(failure),
        StatusCode::FORBIDDEN => Outcome::Forbidden(failure),
        _ => Outcome::Unclear(failure),
    }
}

fn failure(method: &'static str, response: Option<&OutboundResponse>, token: &AccessToken) -> ProbeFailure {
    let secrets = [Zeroizing::new(token.expose().to_owned())];
    ProbeFailure {
        method,
        response: response.map(|response| HttpExcerpt::of(response, &secrets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: &str) -> OutboundResponse {
        OutboundResponse {
            status: StatusCode::UNAUTHORIZED,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))]),
            body: Bytes::from(body.to_owned()),
            truncated: false,
        }
    }

    #[test]
    fn an_excerpt_is_short_and_holds_no_secret() {
        let secrets = [Zeroizing::new("se\"cret/1".to_owned())];
        for body in [
            "you sent se\"cret/1!".to_owned(),
            json!({ "echo": "se\"cret/1" }).to_string(),
            "token=se%22cret%2F1&x".to_owned(),
            json!({ "a": [{ "access_token": "another", "b": 1 }] }).to_string(),
            // At the edge of what is shown.
            format!("{}se\"cret/1", "x".repeat(SHOWN - 4)),
        ] {
            let excerpt = HttpExcerpt::of(&response(&body), &secrets);
            for part in ["cret", "another"] {
                assert!(!excerpt.body.contains(part), "{}", excerpt.body);
            }
            assert!(excerpt.body.contains("[red"), "{}", excerpt.body);
            assert!(excerpt.body.chars().count() <= SHOWN);
        }
        let long = HttpExcerpt::of(&response(&"é".repeat(SHOWN + 1)), &secrets);
        assert!(long.body_truncated && long.body.chars().count() == SHOWN);
        let short = HttpExcerpt::of(&response("no"), &secrets);
        assert_eq!((short.body.as_str(), short.body_truncated), ("no", false));
        assert_eq!((short.status_code, short.content_type.as_str()), (401, "text/plain"));
    }
}
