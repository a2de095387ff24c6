//! Tokens, renewals and headers.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use futures_util::future::BoxFuture;
use outwork_mcp::{CallContext, CallErrorKind, ConnectErrorKind, Credentials, Rejected, RequestHeaders, RequestInfo};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Map;
use tokio_util::sync::CancellationToken;

use crate::server::*;

/// Hands out `token-0`, and the next number after each rejection.
struct Numbered {
    renewals: AtomicUsize,
    most: usize,
}

impl Numbered {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            renewals: AtomicUsize::new(0),
            most,
        })
    }

    fn current(&self) -> SecretString {
        format!("token-{}", self.renewals.load(Ordering::SeqCst)).into()
    }
}

impl Credentials for Numbered {
    fn token(&self) -> BoxFuture<'_, Option<SecretString>> {
        Box::pin(async { Some(self.current()) })
    }

    fn refresh_after_rejection<'a>(
        &'a self,
        rejected: &'a SecretString,
    ) -> BoxFuture<'a, Result<Option<SecretString>, Rejected>> {
        Box::pin(async {
            assert_eq!(rejected.expose_secret(), self.current().expose_secret());
            if self.renewals.load(Ordering::SeqCst) == self.most {
                return Ok(None);
            }
            self.renewals.fetch_add(1, Ordering::SeqCst);
            Ok(Some(self.current()))
        })
    }
}

/// A server that takes one token only.
async fn guarded(revision: Revision, token: Arc<Mutex<&'static str>>) -> Server {
    Server::start(revision, move |seen| {
        let wanted = format!("Bearer {}", token.lock().unwrap());
        async move {
            let challenge =
                r#"Bearer error="invalid_token", resource_metadata="https://as.test/.well-known/oauth-protected-resource""#;
            (seen.header("authorization") != wanted)
                .then(|| (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response())
        }
    })
    .await
}

#[tokio::test]
async fn a_rejected_token_is_renewed_once_and_the_call_is_repeated() {
    for revision in BOTH {
        let token = Arc::new(Mutex::new("token-0"));
        let server = guarded(revision, token.clone()).await;
        let credentials = Numbered::new(9);
        let mut spec = server.spec();
        spec.credentials = Some(credentials.clone());
        let connection = connect(spec).await.unwrap();
        *token.lock().unwrap() = "token-1";
        call(&connection, "echo").await.unwrap();
        let used: Vec<String> = server
            .seen()
            .iter()
            .filter(|seen| seen.is_call())
            .map(|seen| seen.header("authorization").to_owned())
            .collect();
        assert_eq!(used, ["Bearer token-0", "Bearer token-1"]);
    }
}

#[tokio::test]
async fn a_token_that_is_rejected_again_fails_the_call_without_showing_it() {
    for revision in BOTH {
        let token = Arc::new(Mutex::new("token-0"));
        let server = guarded(revision, token.clone()).await;
        for (most, words) in [(9, "renewed"), (0, "no other")] {
            let credentials = Numbered::new(most);
            let mut spec = server.spec();
            spec.credentials = Some(credentials.clone());
            *token.lock().unwrap() = "token-0";
            let connection = connect(spec).await.unwrap();
            let before = server.count("tools/call");
            *token.lock().unwrap() = "none";
            let error = call(&connection, "echo").await.unwrap_err();
            assert_eq!(
                (error.kind, error.sent),
                (CallErrorKind::Authentication, false),
                "{error}"
            );
            let text = format!("{error} {error:?}");
            assert!(text.contains("files") && text.contains(words), "{text}");
            assert!(
                text.contains("https://as.test/.well-known/oauth-protected-resource"),
                "{text}"
            );
            assert!(!text.contains("token-") && !text.contains("secret_argument"), "{text}");
            assert_eq!(server.count("tools/call") - before, if most == 9 { 2 } else { 1 });
        }
    }
}

#[tokio::test]
async fn connecting_without_the_credential_is_an_authentication_failure() {
    for revision in BOTH {
        let server = guarded(revision, Arc::new(Mutex::new("other"))).await;
        let error = connect(server.spec()).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Authentication, "{error}");
        let mut spec = server.spec();
        spec.credentials = Some(Numbered::new(9));
        let error = connect(spec).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Authentication, "{error}");
        assert!(!error.to_string().contains("token-"), "{error}");
    }
}

#[tokio::test]
async fn a_forbidden_call_is_an_authentication_failure() {
    let server = Server::start(Revision::Modern, |seen| async move {
        seen.is_call().then(|| StatusCode::FORBIDDEN.into_response())
    })
    .await;
    let error = call(&server.connect().await, "echo").await.unwrap_err();
    assert_eq!((error.kind, error.sent), (CallErrorKind::Authentication, false));
}

struct Identity(&'static str);

impl RequestHeaders for Identity {
    fn headers<'a>(&'a self, request: RequestInfo<'a>) -> BoxFuture<'a, Result<HeaderMap, Rejected>> {
        Box::pin(async move {
            if request.tool == Some("forbidden") {
                return Err(Rejected("no identity for this tool".into()));
            }
            let of = [
                request.method,
                request.tool.unwrap_or("-"),
                request.call_id.unwrap_or("-"),
            ]
            .join(" ");
            let mut headers = HeaderMap::new();
            headers.insert(self.0.parse::<axum::http::HeaderName>().unwrap(), of.parse().unwrap());
            Ok(headers)
        })
    }
}

#[tokio::test]
async fn headers_are_made_for_every_request() {
    for revision in BOTH {
        let server = Server::plain(revision).await;
        let mut spec = server.spec();
        spec.headers = Some(Arc::new(Identity("outwork-agent-identity")));
        let connection = connect(spec).await.unwrap();
        tools_of(&connection).await.unwrap();
        let context = CallContext {
            call_id: Some("c7".into()),
            ..CallContext::default()
        };
        connection
            .call("echo", Map::new(), context, deadline(), &CancellationToken::new())
            .await
            .unwrap();
        let identity = |seen: &Seen| seen.header("outwork-agent-identity").to_owned();
        for seen in server.seen() {
            let expected = match seen.method() {
                "tools/call" => "tools/call echo c7".to_owned(),
                method => format!("{method} - -"),
            };
            assert_eq!(identity(&seen), expected);
        }
        let error = call(&connection, "forbidden").await.unwrap_err();
        assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, false));
        assert!(error.message.contains("no identity for this tool"), "{error}");
    }
}

#[tokio::test]
async fn headers_of_the_protocol_may_not_be_set() {
    let server = Server::plain(Revision::Modern).await;
    for name in ["mcp-session-id", "host", "content-length", "accept-encoding"] {
        let mut spec = server.spec();
        spec.headers = Some(Arc::new(Identity(name)));
        let error = connect(spec).await.unwrap_err();
        assert!(error.message.contains(name), "{error}");
    }
    let mut spec = server.spec();
    spec.headers = Some(Arc::new(Identity("authorization")));
    spec.credentials = Some(Numbered::new(0));
    assert!(connect(spec).await.unwrap_err().message.contains("authorization"));
    assert!(server.seen().is_empty());
}
