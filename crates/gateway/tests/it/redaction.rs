//! What must not leave, and what must not be sent.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::world::server::{json_answer, pieces, whole};
use crate::world::{Plan, Server};

const CARD: &str = "4111111111111111";

#[tokio::test]
async fn results_in_json() {
    let server = Server::mcp().await;
    for (action, left, rule) in [
        ("redact", Some("[redacted:card_number]"), None),
        ("truncate", Some("[truncated:card_number]"), None),
        ("block", None, Some("redact.card_number")),
    ] {
        let world = Plan::wiki(
            &server,
            &format!("redact: [{{detector: card_number, action: {action}}}]"),
        )
        .start();
        let mut caller = world.caller("wiki").await;
        let answer = caller.tool("echo", json!({"card": CARD})).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!text.contains(CARD), "{action}: {text}");
        assert_eq!(answer.json()["id"], 7);
        assert_eq!(answer.rule().as_deref(), rule, "{action}");
        assert!(left.is_none_or(|left| text.contains(left)), "{text}");
        assert!(caller.tool("echo", json!({"card": "4111111111111112"})).await.json()["result"].is_object());
        // The arguments went up as they were: the rule is about results.
        assert!(server.seen().last().unwrap().body.len() > 10);
    }
    assert!(
        server.seen()[0]
            .body
            .windows(CARD.len())
            .any(|bytes| bytes == CARD.as_bytes())
    );
}

#[tokio::test]
async fn results_in_events_across_chunks() {
    for size in [1, 3, 16, 1000] {
        let server = Server::with(move |_| {
            Box::pin(async move {
                let (sender, response) = pieces("text/event-stream");
                let event = json!({"jsonrpc": "2.0", "id": 7, "result": {"t": format!("a {CARD} b"), "k": "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"}});
                let text = format!(": note {CARD}\n\nid: 1\r\ndata: {event}\r\n\r\ndata: {{\"n\": {CARD}}}\n\ndata: {CARD}");
                tokio::spawn(async move {
                    for piece in text.as_bytes().chunks(size) {
                        if sender.send(Bytes::copy_from_slice(piece)).await.is_err() {
                            return;
                        }
                    }
                });
                response
            })
        })
        .await;
        let world = Plan::wiki(&server, "redact: [{detector: all, action: redact}]").start();
        let answer = world.caller("wiki").await.tool("echo", json!({})).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!text.contains("41111") && !text.contains("MIIB"), "{size}: {text}");
        assert_eq!(text.matches("[redacted:card_number]").count(), 3, "{size}: {text}");
        assert!(
            text.contains("[redacted:private_key]") && text.contains("id: 1\n"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_blocked_event_is_an_error_of_its_request() {
    let server = Server::with(|_| {
        Box::pin(async {
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": CARD}});
            let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {"t": CARD}});
            whole(
                StatusCode::OK,
                "text/event-stream",
                format!("data: {note}\n\ndata: {answer}\n\n"),
            )
        })
    })
    .await;
    let world = Plan::wiki(&server, "redact: [{detector: card_number, action: block}]").start();
    let answer = world.caller("wiki").await.tool("echo", json!({})).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(!text.contains(CARD) && !text.contains("notifications"), "{text}");
    assert!(
        text.contains("\"id\":7") && text.contains("redact.card_number"),
        "{text}"
    );
    assert_eq!(world.records(1).await[0].rule.as_deref(), Some("redact.card_number"));
}

#[tokio::test]
async fn other_texts_and_encodings() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            match &*seen.uri {
                "/encoded" => {
                    let mut answer = whole(StatusCode::OK, "application/json", CARD);
                    answer.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
                    answer
                }
                "/error" => whole(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "text/plain",
                    format!("trace: {CARD}"),
                ),
                _ => json_answer(&json!({"accept": seen.header("accept-encoding")})),
            }
        })
    })
    .await;
    let world = Plan::wiki(&server, "redact: [{detector: card_number, action: redact}]").start();
    let mut caller = world.caller("wiki").await;
    let mut get = async |path: &str| {
        let mut request = caller.request(http::Method::GET, path, "");
        request
            .headers_mut()
            .insert("accept-encoding", "gzip, br".parse().unwrap());
        caller.send(request).await
    };
    assert_eq!(get("/").await.json()["accept"], "identity");
    assert_eq!(get("/encoded").await.rule().as_deref(), Some("upstream.encoding"));
    let error = get("/error").await;
    assert_eq!(
        (error.status, &*error.body),
        (StatusCode::INTERNAL_SERVER_ERROR, &b"trace: [redacted:card_number]"[..])
    );
}

#[tokio::test]
async fn arguments() {
    let server = Server::mcp().await;
    let rules = "redact:\n- {detector: card_number, action: redact, direction: arguments}\n- {name: ticket, pattern: 'SEC-[0-9]+', action: block, direction: both}";
    let world = Plan::wiki(&server, rules).start();
    let mut caller = world.caller("wiki").await;
    let message = crate::world::caller::call("echo", json!({"a": [CARD, "ok"], "b": 1.50}));
    let headers = [
        ("mcp-param-card", CARD),
        ("mcp-param-other", "=?base64?NDExMTExMTExMTExMTExMQ==?="),
    ];
    caller.post(&message, &headers).await;
    let seen = &server.seen()[0];
    let text = String::from_utf8(seen.body.to_vec()).unwrap();
    assert_eq!(
        seen.json()["params"]["arguments"],
        json!({"a": ["[redacted:card_number]", "ok"], "b": 1.5})
    );
    assert!(!text.contains(CARD) && text.contains("1.5"), "{text}");
    assert_eq!(seen.header("mcp-param-card"), Some("[redacted:card_number]"));
    assert_eq!(seen.header("mcp-param-other"), Some("[redacted:card_number]"));

    let answer = caller.tool("echo", json!({"t": "see SEC-12"})).await;
    assert_eq!(answer.rule().as_deref(), Some("redact.ticket"));
    assert_eq!(server.called().len(), 1);
}
