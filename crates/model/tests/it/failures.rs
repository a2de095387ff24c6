//! Failures: each of its kind, each in time.

use std::time::Duration;

use outwork_model::{ModelClient, Options, Timeouts};
use outwork_wire::model::FailureKind;
use serde_json::json;

use crate::{ask, client, fail, options, request, server};

#[tokio::test]
async fn every_status_is_a_failure_of_its_kind() {
    let server = server().await;
    let client = client(&server);
    for (fault, kind) in [
        (json!({"status": 429}), FailureKind::RateLimited),
        (json!({"status": 529}), FailureKind::Overloaded),
        (json!({"status": 500}), FailureKind::Server),
        (
            json!({"status": 502, "body": "<html>bad gateway</html>", "content_type": "text/html"}),
            FailureKind::Server,
        ),
        (
            json!({"status": 503, "error_type": "overloaded_error"}),
            FailureKind::Overloaded,
        ),
        (json!({"status": 401}), FailureKind::Authentication),
        (json!({"status": 403}), FailureKind::Authentication),
        (json!({"status": 402}), FailureKind::Billing),
        (
            json!({"status": 403, "error_type": "billing_error"}),
            FailureKind::Billing,
        ),
        (json!({"status": 400}), FailureKind::Rejected),
        (json!({"status": 404}), FailureKind::Rejected),
        (json!({"status": 413}), FailureKind::Rejected),
        (json!({"status": 422}), FailureKind::Rejected),
    ] {
        let failure = fail(&client, fault.clone()).await;
        assert_eq!(failure.kind, kind, "{fault}: {failure}");
        assert!(
            failure.message.contains(&fault["status"].to_string()) && failure.message.contains("req_"),
            "{failure}"
        );
    }
    let failure = fail(&client, json!({"status": 429, "retry_after": 7})).await;
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
    let failure = fail(
        &client,
        json!({"status": 529, "retry_after": 7, "retry_after_ms": 1500}),
    )
    .await;
    assert_eq!(failure.retry_after, Some(Duration::from_millis(1500)));
    let failure = fail(
        &client,
        json!({"status": 429, "retry_after": "Tue, 31 Dec 2199 23:59:59 GMT"}),
    )
    .await;
    assert!(failure.retry_after.unwrap() > Duration::from_secs(1_000_000));
}

#[tokio::test]
async fn the_judge_refuses_and_says_why() {
    let server = server().await;
    let client = client(&server);
    let mut empty = request(json!([]));
    empty.messages = vec![json!({"role": "user", "content": [{"type": "text", "text": ""}]})];
    let failure = ask(&client, &empty).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Rejected);
    assert!(
        failure.message.contains("text content blocks must be non-empty"),
        "{failure}"
    );
    let mut long = request(json!([]));
    long.messages = vec![json!({"role": "user", "content": "x".repeat(900_000)})];
    let failure = ask(&client, &long).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooLong, "{failure}");
    let mut streamed = request(json!([]));
    streamed.extra.insert("stream".into(), json!(false));
    assert_eq!(ask(&client, &streamed).await.unwrap_err().kind, FailureKind::Rejected);
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_is_nonsense_and_one_that_ends_early_is_cut() {
    let server = server().await;
    let client = client(&server);
    for how in ["json", "order", "duplicate_start", "utf8", "shape"] {
        for after_events in [0, 1, 4] {
            let failure = fail(&client, json!({"nonsense": how, "after_events": after_events})).await;
            assert_eq!(
                failure.kind,
                FailureKind::Nonsense,
                "{how} after {after_events}: {failure}"
            );
        }
    }
    for after_events in [0, 1, 4] {
        let failure = fail(&client, json!({"nonsense": "early_end", "after_events": after_events})).await;
        assert_eq!(failure.kind, FailureKind::Cut, "{failure}");
        let failure = fail(&client, json!({"cut_after_events": after_events})).await;
        assert_eq!(failure.kind, FailureKind::Cut, "{failure}");
    }
    let failure = fail(
        &client,
        json!({"content_type": "text/html", "body": "<p>a captive portal</p>"}),
    )
    .await;
    assert_eq!(failure.kind, FailureKind::Nonsense);
    assert!(failure.message.contains("a captive portal"), "{failure}");
}

#[tokio::test]
async fn error_events_have_their_kind() {
    let server = server().await;
    let client = client(&server);
    for (name, kind) in [
        ("overloaded_error", FailureKind::Overloaded),
        ("rate_limit_error", FailureKind::RateLimited),
        ("api_error", FailureKind::Server),
        ("billing_error", FailureKind::Billing),
        ("invalid_request_error", FailureKind::Rejected),
    ] {
        let failure = fail(
            &client,
            json!({"error_event": name, "message": "in the middle", "after_events": 4}),
        )
        .await;
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains("in the middle"), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_without_bounds_is_nonsense() {
    let server = server().await;
    let client = ModelClient::new(Options {
        max_answer_bytes: 100_000,
        ..options(&server)
    })
    .unwrap();
    for one_line in [true, false] {
        let failure = fail(&client, json!({"oversized": 1_000_000, "one_line": one_line})).await;
        assert_eq!(failure.kind, FailureKind::Nonsense, "{failure}");
        assert!(failure.message.contains("100000 bytes"), "{failure}");
    }
}

#[tokio::test]
async fn every_wait_has_a_limit() {
    let server = server().await;
    let limited = |timeouts: Timeouts| {
        ModelClient::new(Options {
            timeouts,
            ..options(&server)
        })
        .unwrap()
    };
    let short = Duration::from_millis(200);
    let client = limited(Timeouts {
        first_byte: short,
        ..Timeouts::default()
    });
    let failure = fail(&client, json!({"hang": "headers"})).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.message.contains("to begin"), "{failure}");
    let client = limited(Timeouts {
        idle: short,
        ..Timeouts::default()
    });
    for after_events in [0, 3] {
        let failure = fail(&client, json!({"hang": "silence", "after_events": after_events})).await;
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert!(failure.message.contains("to go on"), "{failure}");
    }
    // Pings keep a stream alive, but not for ever.
    let client = limited(Timeouts {
        total: Duration::from_millis(400),
        ..Timeouts::default()
    });
    let failure = fail(&client, json!({"hang": "ping", "after_events": 2})).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.message.contains("not complete"), "{failure}");
}

#[tokio::test]
async fn no_connection_is_its_own_kind() {
    let server = server().await;
    let client = client(&server);
    let failure = fail(&client, json!({"disconnect": true})).await;
    assert_eq!(failure.kind, FailureKind::Connection, "{failure}");
    server.shutdown().await;
    let failure = ask(&client, &request(json!([]))).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connection, "{failure}");
}
