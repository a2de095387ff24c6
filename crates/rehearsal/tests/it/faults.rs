//! Faults: each is what it says, and runs out when it should.

use std::time::Duration;

use outwork_rehearsal::Scenario;
use serde_json::{Value, json};

use crate::client::{Server, request, text_of};

fn script(step: Value) -> Value {
    request(
        "rehearsal/script",
        json!([{"role": "user", "content": json!([step]).to_string()}]),
    )
}

fn streamed(step: Value) -> Value {
    let mut body = script(step);
    body["stream"] = json!(true);
    body
}

#[tokio::test]
async fn status_faults_are_used_up_in_order() {
    let server = Server::with(Scenario::built_in()).await;
    let body = script(json!({"say": [{"text": "at last"}], "faults": [
        {"times": 2, "status": 529, "should_retry": true},
        {"times": 1, "status": 429, "retry_after": 7, "retry_after_ms": 6500, "message": "slow down"},
        {"times": 1, "status": 502, "body": "<html>", "content_type": "text/html"}]}));
    for _ in 0..2 {
        let response = server.post(&body).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-should-retry"]),
            (529, &"true".parse().unwrap())
        );
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["type"], "overloaded_error");
    }
    let response = server.post(&body).send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(
        (
            &response.headers()["retry-after"],
            &response.headers()["retry-after-ms"]
        ),
        (&"7".parse().unwrap(), &"6500".parse().unwrap())
    );
    let error: Value = response.json().await.unwrap();
    assert_eq!(
        error["error"],
        json!({"type": "rate_limit_error", "message": "slow down"})
    );
    let response = server.post(&body).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (502, &"text/html".parse().unwrap())
    );
    assert_eq!(text_of(&server.message(&body).await), "at last");
    let outcomes: Vec<_> = server
        .handle
        .requests()
        .into_iter()
        .map(|request| (request.outcome, request.status))
        .collect();
    let expected = [
        ("fault", 529),
        ("fault", 529),
        ("fault", 429),
        ("fault", 502),
        ("answer", 200),
    ];
    assert_eq!(outcomes, expected.map(|(outcome, status)| (outcome.to_owned(), status)));
}

#[tokio::test]
async fn a_stream_is_cut_after_some_events() {
    let server = Server::with(Scenario::built_in()).await;
    let body = streamed(json!({"say": [{"text": "a b c"}], "faults": [{"cut_after_events": 2}]}));
    let mut response = server.post(&body).send().await.unwrap();
    let mut text = String::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => text += std::str::from_utf8(&chunk).unwrap(),
            Ok(None) => panic!("the stream ended properly"),
            Err(error) => break error,
        }
    };
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    assert_eq!(text.matches("event: ").count(), 2);
}

#[tokio::test]
async fn a_connection_is_closed_without_an_answer() {
    let server = Server::with(Scenario::built_in()).await;
    let body = script(json!({"faults": [{"disconnect": true}]}));
    assert!(server.post(&body).send().await.unwrap_err().is_request());
}

#[tokio::test]
async fn answers_that_never_end() {
    let server = Server::with(Scenario::built_in()).await;
    let patience = Duration::from_millis(300);
    let silent = streamed(json!({"faults": [{"hang": "headers"}]}));
    assert!(
        server
            .post(&silent)
            .timeout(patience)
            .send()
            .await
            .unwrap_err()
            .is_timeout()
    );

    let silence = streamed(json!({"faults": [{"hang": "silence", "after_events": 1}]}));
    let mut response = server.post(&silence).send().await.unwrap();
    assert!(
        response
            .chunk()
            .await
            .unwrap()
            .unwrap()
            .starts_with(b"event: message_start")
    );
    assert!(tokio::time::timeout(patience, response.chunk()).await.is_err());

    let pings = streamed(json!({"faults": [{"hang": "ping"}]}));
    let mut response = server.post(&pings).send().await.unwrap();
    for _ in 0..3 {
        assert!(response.chunk().await.unwrap().unwrap().starts_with(b"event: ping"));
    }
    // A shutdown does not wait for them for ever.
    tokio::time::timeout(Duration::from_secs(30), server.handle.shutdown())
        .await
        .unwrap();
}

#[tokio::test]
async fn nonsense_and_error_events() {
    let server = Server::with(Scenario::built_in()).await;
    for how in ["json", "order", "duplicate_start", "utf8", "shape", "early_end"] {
        let body = streamed(json!({"faults": [{"nonsense": how, "after_events": 1}]}));
        let bytes = server.post(&body).send().await.unwrap().bytes().await.unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("event: message_start") && !text.contains("message_stop"),
            "{how}: {text}"
        );
        assert_eq!(std::str::from_utf8(&bytes).is_err(), how == "utf8");
    }
    let body = streamed(json!({"faults": [{"error_event": "overloaded_error", "message": "full", "after_events": 3}]}));
    let text = server.post(&body).send().await.unwrap().text().await.unwrap();
    let last = text.trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"], json!({"type": "overloaded_error", "message": "full"}));
}

#[tokio::test]
async fn oversized_and_mistyped_answers() {
    let server = Server::with(Scenario::built_in()).await;
    let body = streamed(json!({"faults": [{"oversized": 300_000}]}));
    let text = server.post(&body).send().await.unwrap().text().await.unwrap();
    assert!(text.len() > 300_000 && text.ends_with("\"message_stop\"}\n\n"));
    let body = streamed(json!({"faults": [{"oversized": 300_000, "one_line": true}]}));
    let text = server.post(&body).send().await.unwrap().text().await.unwrap();
    assert!(text.lines().any(|line| line.len() > 300_000));
    let body = streamed(json!({"faults": [{"content_type": "text/html", "body": "<p>hello</p>"}]}));
    let response = server.post(&body).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/html".parse().unwrap())
    );
}
