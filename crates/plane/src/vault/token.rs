//! The refresh request of OAuth 2.0 (RFC 6749, section 6) with the resource indicator of RFC 8707: built, sent once,
//! and its answer sorted.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use outwork_wire::id::WorkspaceId;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::auth::{ClientAuth, PublicRefresh};
use super::outbound::{Outbound, OutboundRequest, OutboundResponse};
use super::validate::HttpExcerpt;

/// The largest answer of a token endpoint that is read.
const MAX_ANSWER: usize = 64 << 10;
/// The longest life of a token that is believed: ten years.
const MAX_LIFE: f64 = 10.0 * 365.0 * 86_400.0;

/// Everything that a refresh needs.
pub(crate) struct RefreshGrant<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) public: &'a PublicRefresh,
    pub(crate) refresh_token: &'a SecretString,
    pub(crate) client_secret: Option<&'a SecretString>,
}

/// What a token endpoint gave.
pub(crate) struct Granted {
    pub(crate) access_token: SecretString,
    pub(crate) refresh_token: Option<SecretString>,
    pub(crate) expires_in: Option<Duration>,
}

/// Why a token endpoint gave nothing.
#[derive(Clone)]
pub(crate) struct Denied {
    /// Whether asking again cannot help.
    pub(crate) permanent: bool,
    /// For a person. Holds nothing of the answer but its status and a known error code.
    pub(crate) reason: String,
    /// When to ask again, if the endpoint said so.
    pub(crate) retry_after: Option<Duration>,
    /// The answer, if there was one.
    pub(crate) response: Option<HttpExcerpt>,
    /// Whether there was no connection.
    pub(crate) unreachable: bool,
}

/// Asks the token endpoint once.
pub(crate) async fn ask(
    outbound: &dyn Outbound,
    grant: &RefreshGrant<'_>,
    deadline: Duration,
) -> Result<Granted, Denied> {
    let url = Url::parse(&grant.public.token_endpoint)
        .map_err(|_| denied(true, "the address of the token endpoint is no URL".into()))?;
    let (headers, body) = written(grant);
    let request = OutboundRequest {
        workspace: grant.workspace.clone(),
        method: Method::POST,
        url,
        headers,
        body,
        deadline,
        max_body: MAX_ANSWER,
    };
    match outbound.send(request).await {
        Ok(response) => sorted(&response, grant),
        Err(error) => Err(Denied {
            unreachable: true,
            // What is not allowed may be allowed by the operator at any time; it is not the credential's fault.
            ..denied(false, format!("the token endpoint was not reached: {error}"))
        }),
    }
}

fn written(grant: &RefreshGrant<'_>) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token");
    form.append_pair("refresh_token", grant.refresh_token.expose_secret());
    if let Some(scope) = &grant.public.scope {
        form.append_pair("scope", scope);
    }
    if let Some(resource) = &grant.public.resource {
        form.append_pair("resource", resource);
    }
    let client_id = &grant.public.client_id;
    let secret = grant.client_secret.map_or("", |secret| secret.expose_secret());
    match grant.public.token_endpoint_auth {
        ClientAuth::None {} => drop(form.append_pair("client_id", client_id)),
        ClientAuth::Post {} => {
            form.append_pair("client_id", client_id);
            form.append_pair("client_secret", secret);
        }
        ClientAuth::Basic {} => {
            let mut value = HeaderValue::from_str(&basic(client_id, secret)).expect("base64 is a header's text");
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }
    (headers, Bytes::from(form.finish()))
}

/// `Basic` with both parts form-encoded first (RFC 6749, section 2.3.1).
fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encode(client_id), encode(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<SecretText>,
    token_type: Option<String>,
    refresh_token: Option<SecretText>,
    expires_in: Option<Value>,
    error: Option<Value>,
}

struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

fn sorted(response: &OutboundResponse, grant: &RefreshGrant<'_>) -> Result<Granted, Denied> {
    let status = response.status;
    let answer: Option<Answer> = serde_json::from_slice(&response.body).ok();
    let said = |denied: Denied| Denied {
        response: Some(excerpt(response, grant)),
        ..denied
    };
    // Some endpoints send errors with status 200.
    let code = answer.as_ref().and_then(|a| a.error.as_ref()).map(known_code);
    if status == StatusCode::OK && code.is_none() {
        return answer.and_then(granted).ok_or_else(|| {
            said(denied(
                false,
                "the token endpoint's answer holds no bearer token".into(),
            ))
        });
    }
    let passing = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
        || matches!(code.as_deref(), Some("temporarily_unavailable" | "server_error"));
    let reason = match &code {
        Some(code) => format!("the token endpoint answered {} with {code}", status.as_u16()),
        None => format!("the token endpoint answered {}", status.as_u16()),
    };
    Err(said(Denied {
        retry_after: retry_after(&response.headers),
        ..denied(!passing, reason)
    }))
}

fn granted(answer: Answer) -> Option<Granted> {
    let bearer = answer.token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let usable = |text: &SecretText| {
        let text = text.0.expose_secret();
        !text.is_empty() && text.bytes().all(|b| (b'!'..=b'~').contains(&b))
    };
    let access_token = answer.access_token.filter(usable)?.0;
    // Some endpoints send the number as a text.
    let seconds = answer.expires_in.and_then(|value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    });
    bearer.then_some(Granted {
        access_token,
        refresh_token: answer
            .refresh_token
            .filter(|text| !text.0.expose_secret().is_empty())
            .map(|text| text.0),
        expires_in: seconds
            .filter(|s| s.is_finite() && *s >= 0.0)
            .map(|s| Duration::from_secs_f64(s.min(MAX_LIFE))),
    })
}

/// The error code of an answer, if it looks like one: nothing else of an answer gets into messages and logs.
fn known_code(value: &Value) -> String {
    match value.as_str() {
        Some(text) if (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
            text.to_owned()
        }
        _ => "an error".into(),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn excerpt(response: &OutboundResponse, grant: &RefreshGrant<'_>) -> HttpExcerpt {
    let mut secrets = vec![grant.refresh_token.expose_secret().to_owned()];
    if let Some(secret) = grant.client_secret {
        let secret = secret.expose_secret();
        secrets.push(secret.to_owned());
        secrets.push(
            basic(&grant.public.client_id, secret)
                .trim_start_matches("Basic ")
                .to_owned(),
        );
    }
    let secrets: Vec<Zeroizing<String>> = secrets.into_iter().map(Zeroizing::new).collect();
    HttpExcerpt::of(response, &secrets)
}

fn denied(permanent: bool, reason: String) -> Denied {
    Denied {
        permanent,
        reason,
        retry_after: None,
        response: None,
        unreachable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(auth: ClientAuth) -> PublicRefresh {
        PublicRefresh {
            client_id: "client id".into(),
            token_endpoint: "https://a.example/token".into(),
            token_endpoint_auth: auth,
            scope: Some("a b".into()),
            resource: Some("https://a.example/mcp".into()),
        }
    }

    fn with_grant<T>(auth: ClientAuth, look: impl FnOnce(&RefreshGrant<'_>) -> T) -> T {
        let workspace = WorkspaceId::fresh();
        let (public, refresh, secret) = (
            public(auth),
            SecretString::from("refresh+1"),
            SecretString::from("s:e&c"),
        );
        look(&RefreshGrant {
            workspace: &workspace,
            public: &public,
            refresh_token: &refresh,
            client_secret: (auth != ClientAuth::None {}).then_some(&secret),
        })
    }

    #[test]
    fn each_kind_of_client_shows_itself_in_its_way() {
        let common =
            "grant_type=refresh_token&refresh_token=refresh%2B1&scope=a+b&resource=https%3A%2F%2Fa.example%2Fmcp";
        let look = |auth| {
            with_grant(auth, |grant| {
                let (headers, body) = written(grant);
                let authorization = headers.get(header::AUTHORIZATION).cloned();
                (authorization, String::from_utf8(body.to_vec()).unwrap())
            })
        };
        assert_eq!(
            look(ClientAuth::None {}),
            (None, format!("{common}&client_id=client+id"))
        );
        assert_eq!(
            look(ClientAuth::Post {}),
            (None, format!("{common}&client_id=client+id&client_secret=s%3Ae%26c"))
        );
        let (authorization, body) = look(ClientAuth::Basic {});
        let authorization = authorization.unwrap();
        assert!(authorization.is_sensitive());
        assert_eq!(
            authorization.to_str().unwrap(),
            format!("Basic {}", STANDARD.encode("client+id:s%3Ae%26c"))
        );
        assert_eq!(body, common);
    }

    fn answered(status: u16, body: &str) -> Result<Granted, Denied> {
        with_grant(ClientAuth::Post {}, |grant| {
            let response = OutboundResponse {
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: Bytes::from(body.to_owned()),
                truncated: false,
            };
            sorted(&response, grant)
        })
    }

    #[test]
    fn answers_are_sorted() {
        let full = r#"{"access_token":"at","token_type":"bearer","expires_in":3600,"refresh_token":"rt","scope":"a"}"#;
        let granted = answered(200, full).ok().unwrap();
        assert_eq!(granted.access_token.expose_secret(), "at");
        assert_eq!(granted.refresh_token.unwrap().expose_secret(), "rt");
        assert_eq!(granted.expires_in, Some(Duration::from_secs(3600)));
        let short = answered(200, r#"{"access_token":"at","expires_in":"60","extra":[1]}"#)
            .ok()
            .unwrap();
        assert_eq!(short.expires_in, Some(Duration::from_secs(60)));
        assert!(short.refresh_token.is_none());
        for (status, body, permanent) in [
            (400, r#"{"error":"invalid_grant"}"#, true),
            (401, r#"{"error":"invalid_client"}"#, true),
            (200, r#"{"error":"bad_refresh_token"}"#, true),
            (400, "", true),
            (403, "<html>", true),
            (302, "", true),
            (429, r#"{"error":"slow_down"}"#, false),
            (503, "", false),
            (500, r#"{"error":"server_error"}"#, false),
            (400, r#"{"error":"temporarily_unavailable"}"#, false),
            (200, "<html>", false),
            (200, r#"{"access_token":""}"#, false),
            (200, r#"{"access_token":"a\nb"}"#, false),
            (200, r#"{"access_token":"x","token_type":"mac"}"#, false),
        ] {
            let denied = answered(status, body).err().unwrap();
            assert_eq!(denied.permanent, permanent, "{status} {body}");
            assert!(denied.response.is_some());
        }
    }

    #[test]
    fn nothing_of_an_answer_gets_into_a_message_but_its_code() {
        let body = r#"{"error":"invalid_grant","error_description":"refresh+1 and s:e&c and more"}"#;
        let denied = answered(400, body).err().unwrap();
        assert_eq!(denied.reason, "the token endpoint answered 400 with invalid_grant");
        let shown = denied.response.unwrap();
        assert!(
            !shown.body.contains("refresh+1") && !shown.body.contains("s:e&c"),
            "{}",
            shown.body
        );
        assert!(shown.body.contains("and more"));
        let odd = answered(400, r#"{"error":"Your Token refresh+1 Is Bad"}"#)
            .err()
            .unwrap();
        assert_eq!(odd.reason, "the token endpoint answered 400 with an error");
    }
}
