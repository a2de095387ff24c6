//! The client against a small server on loopback: headers, retries, errors, pages, streams.
#![allow(clippy::unwrap_used, reason = "a test that fails here fails as it should")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use outwork_client::{Client, ClientError, Credential, MountKind, ObservedEvent, Options, Query, Upload, WorkItemData};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// One scripted answer: status, headers, body.
type Answer = (u16, Vec<(&'static str, &'static str)>, Vec<&'static str>);
type Seen = Arc<Mutex<Vec<(Method, Uri, HeaderMap)>>>;

async fn server(answers: impl IntoIterator<Item = Answer>) -> (String, Seen) {
    let answers: Arc<Mutex<VecDeque<Answer>>> = Arc::new(Mutex::new(answers.into_iter().collect()));
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap| {
        record.lock().unwrap().push((method, uri, headers));
        let (status, headers, pieces) = answers.lock().unwrap().pop_front().expect("no more calls than answers");
        async move {
            let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
            let mut response: Response = Body::from_stream(stream::iter(pieces)).into_response();
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (base_url, seen)
}

fn ok(body: &'static str) -> Answer {
    (200, vec![], vec![body])
}

fn client(base_url: &str) -> Client {
    let mut options = Options::new(base_url, Credential::api_key("key-1"));
    options.retry.first_wait = Duration::from_millis(1);
    Client::new(options).unwrap()
}

#[tokio::test]
async fn a_call_carries_version_beta_and_credential() {
    let (url, seen) = server([ok("{}"), ok("{}")]).await;
    let client = client(&url);
    let _: Value = client.get("/v1/agents", &Query::new().with("limit", 3)).await.unwrap();
    let bearer = client.with_credential(&Credential::bearer("token-1")).unwrap();
    let _: Value = bearer.sessions().get("a/b").await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].1, "/v1/agents?beta=true&limit=3");
    assert_eq!(seen[0].2["anthropic-version"], "2023-06-01");
    assert_eq!(seen[0].2["anthropic-beta"], "managed-agents-2026-04-01");
    assert_eq!(seen[0].2["x-api-key"], "key-1");
    assert!(seen[0].2["user-agent"].to_str().unwrap().starts_with("outwork/"));
    assert_eq!(seen[1].1, "/v1/sessions/a%2Fb?beta=true");
    assert_eq!(seen[1].2["authorization"], "Bearer token-1");
    assert!(!seen[1].2.contains_key("x-api-key"));
}

#[tokio::test]
async fn what_may_pass_is_repeated_and_what_may_have_been_done_is_not() {
    // GET: 503, then 429, then an answer.
    let (url, seen) = server([
        (503, vec![], vec![]),
        (429, vec![("retry-after", "0")], vec![]),
        ok("{}"),
    ])
    .await;
    let _: Value = client(&url).get("/v1/agents", &Query::new()).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 3);
    // POST: a 500 may have been carried out.
    let (url, seen) = server([(500, vec![], vec![])]).await;
    let error = client(&url).sessions().create(&json!({})).await.unwrap_err();
    assert_eq!((error.status(), seen.lock().unwrap().len()), (Some(500), 1));
    // The server's word counts, both ways.
    let (url, seen) = server([(500, vec![("x-should-retry", "true")], vec![]), ok("{}")]).await;
    client(&url).sessions().create(&json!({})).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
    let (url, seen) = server([(503, vec![("x-should-retry", "false")], vec![])]).await;
    client(&url).sessions().get("sesn_1").await.unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 1);
    // Bounded.
    let (url, seen) = server((0..3).map(|_| (500, vec![], vec![]))).await;
    client(&url).sessions().get("sesn_1").await.unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_error_says_what_the_server_said() {
    let body = r#"{"type":"error","error":{"type":"not_found_error","message":"no such session","details":{"a":1}},"request_id":"req_7"}"#;
    let (url, _) = server([(404, vec![], vec![body]), (400, vec![], vec!["<html>no</html>"])]).await;
    let client = client(&url);
    let error = client.sessions().get("sesn_1").await.unwrap_err();
    let api = error.api().unwrap();
    assert_eq!(
        (api.status, api.kind.as_str(), api.request_id.as_deref()),
        (404, "not_found_error", Some("req_7"))
    );
    assert_eq!(api.details, Some(json!({"a": 1})));
    assert!(error.is_permanent());
    assert_eq!(
        error.to_string(),
        "no such session (404 not_found_error from GET /v1/sessions/sesn_1, request req_7)"
    );
    let error = client.sessions().get("sesn_1").await.unwrap_err();
    assert!(error.to_string().contains("<html>no</html>"), "{error}");
}

#[tokio::test]
async fn no_server_and_no_sense_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url).sessions().get("sesn_1").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Connect { .. }) && error.to_string().contains(&url),
        "{error}"
    );
    let (url, _) = server([ok("[1")]).await;
    let error = client(&url).sessions().get("sesn_1").await.unwrap_err();
    assert!(matches!(error, ClientError::Decode { .. }), "{error}");
    for (base, key) in [
        ("ftp://x", "k"),
        ("nonsense", "k"),
        ("http://user:pass@x", "k"),
        ("http://x", ""),
        ("http://x", "a\nb"),
    ] {
        let made = Client::new(Options::new(base, Credential::api_key(key)));
        let Err(error) = made else { panic!("{base} {key:?}") };
        assert!(matches!(&error, ClientError::Invalid(_)), "{error}");
        assert!(
            !error.to_string().contains("a\nb") && !error.to_string().contains("pass@"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn pages_are_followed_to_their_end() {
    let (url, seen) = server([
        ok(r#"{"data":[{"id":"a"},{"id":"b"}],"next_page":"p2"}"#),
        ok(r#"{"data":[],"next_page":"p3"}"#),
        ok(r#"{"data":[{"id":"c"}],"next_page":null}"#),
        ok(r#"{"data":[{"id":"m1"}],"has_more":true,"last_id":"m1"}"#),
        ok(r#"{"data":[{"id":"m2"}],"has_more":false,"last_id":"m2"}"#),
        ok(r#"{"data":[1],"next_page":"same"}"#),
        ok(r#"{"data":[1],"next_page":"same"}"#),
    ])
    .await;
    let client = client(&url);
    let agents = client
        .agents()
        .list(Query::new().with("limit", 2))
        .collect(10)
        .await
        .unwrap();
    assert_eq!(agents.len(), 3);
    let models = client.models().list(Query::new()).collect(10).await.unwrap();
    assert_eq!(models.len(), 2);
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen[2].1, "/v1/agents?beta=true&limit=2&page=p3");
        assert_eq!(seen[4].1, "/v1/models?beta=true&after_id=m1");
    }
    let endless = client.agents().list(Query::new()).collect(10).await;
    assert!(
        matches!(endless, Err(ClientError::Decode { .. })),
        "a list that never ends is refused"
    );
}

#[tokio::test]
async fn a_stream_gives_events_of_any_kind_and_its_errors() {
    let pieces = vec![
        "event: agent.message\ndata: {\"type\":\"agent.message\",\"id\":\"e1\",\"content\":[{\"type\":\"text\",",
        "\"text\":\"hi\"}]}\n\nevent: ping\ndata: {}\n\n: comment\n\nevent: of.the.future\ndata: {\"id\":\"e2\",\"x\":[1]}\n\n",
        "event: event_delta\ndata: {\"type\":\"event_delta\",\"event_id\":\"e1\",\"delta\":{\"type\":\"content_delta\",\"content\":{\"type\":\"text\",\"text\":\"h\"}}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"too much\"}}\n\n",
    ];
    let (url, seen) = server([(200, vec![("content-type", "text/event-stream")], pieces)]).await;
    let client = client(&url);
    let mut events = client.stream_events("sesn_1", &["agent.message"]).await.unwrap();
    let first = events.next_event().await.unwrap().unwrap();
    assert_eq!((first.id.as_str(), first.content_text().as_str()), ("e1", "hi"));
    let second = events.next_event().await.unwrap().unwrap();
    assert_eq!(
        (second.kind.as_str(), second.raw["x"][0].as_i64()),
        ("of.the.future", Some(1))
    );
    let third = events.next_event().await.unwrap().unwrap();
    assert_eq!(third.preview_text(), Some(("e1", "h")));
    let error = events.next_event().await.unwrap().unwrap_err();
    assert_eq!(error.api().unwrap().kind, "overloaded_error");
    assert!(events.next_event().await.is_none());
    assert_eq!(
        seen.lock().unwrap()[0].1,
        "/v1/sessions/sesn_1/events/stream?beta=true&event_deltas%5B%5D=agent.message"
    );
}

#[tokio::test]
async fn a_poll_reads_items_of_every_kind_and_none() {
    let (url, _) = server([
        ok("null"),
        ok(""),
        ok(r#"{"id":"","data":{}}"#),
        ok(r#"{"id":"work_1","environment_id":"env_1","data":{"type":"session","id":"sesn_1"},"secret":null}"#),
        ok(r#"{"id":"work_2","environment_id":"env_1","data":{"type":"healthcheck"}}"#),
        ok(r#"{"id":"work_3","data":{"type":"session"}}"#),
    ])
    .await;
    let client = client(&url);
    let poll = async || client.work("env_1").poll(&Default::default()).await;
    for _ in 0..3 {
        assert!(poll().await.unwrap().is_none());
    }
    let item = poll().await.unwrap().unwrap();
    assert_eq!(item.data, WorkItemData::Session { id: "sesn_1".into() });
    assert!(!item.has_secret() && item.sessions_token().is_none());
    let item = poll().await.unwrap().unwrap();
    assert_eq!(
        item.data,
        WorkItemData::Other {
            kind: "healthcheck".into()
        }
    );
    assert!(matches!(poll().await, Err(ClientError::Decode { .. })));
}

#[test]
fn idle_reasons_are_read() {
    let event = |reason: &str| -> ObservedEvent {
        serde_json::from_value(
            json!({"type": "session.status_idle", "id": "e", "stop_reason": {"type": reason, "event_ids": ["a", "b"]}}),
        )
        .unwrap()
    };
    assert!(event("end_turn").ends_turn() && event("of_the_future").ends_turn());
    assert!(!event("requires_action").ends_turn());
    assert_eq!(event("requires_action").required_actions(), ["a", "b"]);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let long = "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]";
    assert_eq!(long.len(), 65);
    let said: Answer = (200, vec![("content-length", "65")], vec![long]);
    let (url, seen) = server([said, ok(long), ok("{}")]).await;
    let mut options = Options::new(&url, Credential::api_key("key-1"));
    options.max_answer_bytes = 64;
    let client = Client::new(options).unwrap();
    for _ in 0..2 {
        let error = client.sessions().get("sesn_1").await.unwrap_err();
        assert!(matches!(error, ClientError::TooLarge { limit: 64, .. }), "{error}");
    }
    client.sessions().get("sesn_1").await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 3, "none is asked for twice");
}

#[tokio::test]
async fn what_a_worker_is_told_of_a_session_is_read() {
    let mounts = r#"{"data":[
        {"id":"sesrsc_1","type":"file","mount_path":"/in/a","available":true,"file_id":"file_1","filename":"a",
         "mime_type":"text/csv","size_bytes":5,"sha256":"00"},
        {"id":"sesrsc_2","type":"file","mount_path":"/in/b","available":false,"file_id":"file_2","filename":null,
         "mime_type":null,"size_bytes":null,"sha256":null},
        {"id":"sesrsc_3","type":"github_repository","mount_path":"/workspace/r","available":true,
         "url":"https://github.com/a/r","checkout":null,"authorized":true},
        {"id":"sesrsc_4","type":"volume","mount_path":"/v","available":true}],"next_page":null}"#;
    let secrets = r#"{"repositories":[{"resource_id":"sesrsc_3","url":"https://github.com/a/r","token":"t0ken"}],
        "variables":[{"vault_id":"vlt_1","credential_id":"vcrd_1","name":"KEY","value":"v4lue",
        "networking":{"type":"unrestricted"},"injection_location":{"body":false,"header":true}}]}"#;
    let (url, seen) = server([ok(mounts), ok(secrets)]).await;
    let client = client(&url);
    let of = client.session_files("sesn_1");
    let mounts = of.mounts().await.unwrap();
    assert_eq!(mounts.len(), 4);
    assert!(matches!(
        &mounts[0].kind,
        MountKind::File {
            size_bytes: Some(5),
            ..
        }
    ));
    assert!(matches!(&mounts[1].kind, MountKind::File { sha256: None, .. }) && !mounts[1].available);
    assert!(matches!(
        &mounts[2].kind,
        MountKind::GithubRepository {
            authorized: true,
            checkout: None,
            ..
        }
    ));
    assert_eq!(mounts[3].kind, MountKind::Other);
    let secrets = of.secrets().await.unwrap();
    assert_eq!(secrets.repositories[0].token.expose_secret(), "t0ken");
    assert_eq!(secrets.variables[0].value.expose_secret(), "v4lue");
    let paths: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, uri, _)| uri.path().to_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "/v1/outwork/sessions/sesn_1/mounts",
            "/v1/outwork/sessions/sesn_1/secrets"
        ]
    );
}

#[tokio::test]
async fn a_form_is_sent_once_and_a_download_in_pieces() {
    let (url, seen) = server([
        (503, vec![("x-should-retry", "true")], vec!["{}"]),
        (200, vec![], vec!["one ", "two ", "three"]),
        (404, vec![], vec!["{}"]),
    ])
    .await;
    let client = client(&url);
    let refused = client
        .files()
        .upload(Upload::bytes("a.txt", "content"), Some(3600))
        .await;
    assert_eq!(refused.unwrap_err().api().unwrap().status, 503);
    let mut content = Vec::new();
    let download = client.files().download("file_1").await.unwrap();
    assert_eq!(download.write_to(&mut content).await.unwrap(), 13);
    assert_eq!(content, b"one two three");
    assert!(client.files().download("file_1").await.is_err());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3, "an upload was repeated");
    let kind = seen[0].2["content-type"].to_str().unwrap();
    assert!(kind.starts_with("multipart/form-data; boundary="), "{kind}");
}
