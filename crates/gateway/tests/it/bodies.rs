//! Bodies: limits, deadlines, streaming both ways, and callers that leave.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use outwork_gateway::record::Decision;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

use crate::world::caller::{call, raw, tls};
use crate::world::server::{json_answer, pieces};
use crate::world::{Plan, Server, soon, until};

#[tokio::test]
async fn requests_and_answers_have_limits() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "request_max: 1KiB\nresponse_max: 2KiB").start();
    let mut caller = world.caller("wiki").await;
    let answer = caller.tool("echo", json!({"a": "x".repeat(2000)})).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::PAYLOAD_TOO_LARGE, Some("request_max"))
    );
    let chunked = format!(
        "POST /mcp HTTP/1.1\r\nHost: wiki.t.example\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n{}\r\n",
        " ".repeat(0x800)
    );
    assert!(
        raw(&world, "wiki.t.example", chunked.as_bytes())
            .await
            .starts_with("HTTP/1.1 413")
    );
    assert!(server.seen().is_empty());
    assert_eq!(
        caller.tool("echo", json!({"a": "x".repeat(500)})).await.status,
        StatusCode::OK
    );

    let large = Server::with(|seen| {
        Box::pin(async move {
            let text = if seen.uri == "/large" {
                "x".repeat(4000)
            } else {
                "x".to_owned()
            };
            json_answer(&json!({"jsonrpc": "2.0", "id": 7, "result": {"t": text}}))
        })
    })
    .await;
    let world = Plan::wiki(&large, "response_max: 2KiB").start();
    let mut caller = world.caller("wiki").await;
    assert!(caller.tool("echo", json!({})).await.json()["result"].is_object());
    let mut request = caller.message(&call("echo", json!({})), &[]);
    *request.uri_mut() = "/large".parse().unwrap();
    let answer = caller.send(request).await;
    assert_eq!(
        (answer.rule().as_deref(), &answer.json()["id"]),
        (Some("response_max"), &json!(7))
    );
}

#[tokio::test]
async fn a_slow_body_gets_a_deadline() {
    let server = Server::mcp().await;
    for rules in ["", "tools: {deny: [x]}"] {
        let world = Plan::wiki(&server, rules)
            .more("timeouts: {body: 100ms, keep_alive: 30s}")
            .start();
        for content_type in ["application/json", "text/plain"] {
            let request = format!(
                "POST /mcp HTTP/1.1\r\nHost: wiki.t.example\r\nContent-Type: {content_type}\r\nContent-Length: 100\r\n\r\n{{"
            );
            let answer = raw(&world, "wiki.t.example", request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 408"), "{rules} {content_type}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_slow_head_and_a_silent_handshake_get_deadlines() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "")
        .more("timeouts: {handshake: 100ms, keep_alive: 100ms}")
        .start();
    let mut stream = tls(&world, "wiki.t.example", "wiki.t.example").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: wiki.").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(server.seen().is_empty());

    let (mut near, far) = tokio::io::duplex(1024);
    soon(world.gateway.serve("wiki.t.example", far, world.draining.clone())).await;
    assert_eq!(soon(near.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn the_first_event_passes_before_the_second_exists() {
    for rules in ["", "tools: {deny: [x]}", "redact: [{detector: all, action: redact}]"] {
        let sender = Arc::new(Mutex::new(None));
        let place = sender.clone();
        let server = Server::with(move |_| {
            let place = place.clone();
            Box::pin(async move {
                let (sender, response) = pieces("text/event-stream");
                *place.lock().await = Some(sender);
                response
            })
        })
        .await;
        let world = Plan::wiki(&server, rules).start();
        let mut caller = world.caller("wiki").await;
        let request = caller.message(&call("echo", json!({})), &[]);
        let mut body = caller.open(request).await.unwrap().into_body();
        let sender = sender.lock().await.take().unwrap();
        for text in [": ping\n\n", "data: {\"a\":1}\n\n", "data: {\"b\":2}\n\n"] {
            sender.send(Bytes::from(text)).await.unwrap();
            let mut got = String::new();
            while got.len() < text.len() {
                let frame = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
                got.push_str(std::str::from_utf8(&frame).unwrap());
            }
            assert_eq!(got, text, "{rules}");
        }
        drop(sender);
        assert!(soon(body.frame()).await.is_none());
        drop(body);
        assert_eq!(world.records(1).await[0].decision, Decision::Allowed);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_is_gone_from_the_upstream_too() {
    // While the upstream still thinks.
    let server = Server::with(|_| Box::pin(std::future::pending())).await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    let request = caller.message(&call("echo", json!({})), &[]);
    let opening = tokio::spawn(async move { caller.open(request).await.map(|_| ()) });
    until(|| server.seen().len() == 1).await;
    opening.abort();
    until(|| server.abandoned.load(Ordering::SeqCst) == 1).await;
    let record = &world.records(1).await[0];
    assert_eq!(
        (record.decision, record.rule.as_deref()),
        (Decision::Cut, Some("caller.left"))
    );

    // While an event stream is open.
    let (gone, mut left) = tokio::sync::mpsc::channel(1);
    let server = Server::with(move |_| {
        let gone = gone.clone();
        Box::pin(async move {
            let (sender, response) = pieces("text/event-stream");
            sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
            tokio::spawn(async move {
                sender.closed().await;
                let _ = gone.send(()).await;
            });
            response
        })
    })
    .await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    let request = caller.request(Method::GET, "/mcp", "");
    let mut body = caller.open(request).await.unwrap().into_body();
    soon(body.frame()).await.unwrap().unwrap();
    drop((body, caller));
    soon(left.recv()).await.unwrap();
    assert_eq!(world.records(1).await[0].decision, Decision::Cut);
}

#[tokio::test]
async fn connections_are_kept_and_dead_ones_are_not_used() {
    let server = Server::mcp().await;
    for rules in ["", "tools: {deny: [x]}"] {
        let before = server.connections.load(Ordering::SeqCst);
        let world = Plan::wiki(&server, rules).start();
        let mut caller = world.caller("wiki").await;
        for _ in 0..5 {
            assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
        }
        assert_eq!(server.connections.load(Ordering::SeqCst) - before, 1, "{rules}");
    }

    // An upstream that closes after each answer: every call gets a connection, and none fails.
    let closing = Server::with(|_| {
        Box::pin(async {
            let mut answer = json_answer(&json!({"jsonrpc": "2.0", "id": 7, "result": {}}));
            answer.headers_mut().insert("connection", "close".parse().unwrap());
            answer
        })
    })
    .await;
    let world = Plan::wiki(&closing, "").start();
    let mut caller = world.caller("wiki").await;
    for _ in 0..5 {
        assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    }
    assert_eq!(closing.connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_silent_upstream_gets_deadlines() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            if seen.uri == "/stalls" {
                let (sender, response) = pieces("application/json");
                sender.send(Bytes::from("{")).await.unwrap();
                tokio::spawn(async move { sender.closed().await });
                return response;
            }
            std::future::pending().await
        })
    })
    .await;
    for rules in ["", "tools: {deny: [x]}"] {
        let world = Plan::wiki(&server, rules)
            .more("timeouts: {response: 100ms, idle: 100ms}")
            .start();
        let mut caller = world.caller("wiki").await;
        let answer = caller.tool("echo", json!({})).await;
        assert_eq!(
            (answer.status, answer.rule().as_deref()),
            (StatusCode::GATEWAY_TIMEOUT, Some("timeouts.response"))
        );
        assert_eq!(answer.json()["id"], 7);
        let request = caller.request(Method::GET, "/stalls", "");
        let ended = match caller.open(request).await {
            // With rules the answer is read before its head is passed on.
            Ok(response) if response.status() == StatusCode::GATEWAY_TIMEOUT => true,
            Ok(response) => soon(response.into_body().collect()).await.is_err(),
            Err(_) => true,
        };
        assert!(ended, "{rules}");
        let records = world.records(2).await;
        assert!(
            records.iter().all(|record| record.decision == Decision::Failed),
            "{records:#?}"
        );
    }
}

#[tokio::test]
async fn uploads_that_no_rule_reads_stream() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "request_max: 1KiB").start();
    let mut caller = world.caller("wiki").await;
    for (size, status) in [(1000, StatusCode::OK), (1100, StatusCode::PAYLOAD_TOO_LARGE)] {
        let mut request = caller.request(Method::POST, "/upload", vec![b'x'; size]);
        request
            .headers_mut()
            .insert("content-type", "application/octet-stream".parse().unwrap());
        assert_eq!(caller.send(request).await.status, status);
    }
    assert_eq!(server.seen()[0].body.len(), 1000);
    assert_eq!(world.records(2).await[0].bytes_in, 1000);
}

/// A caller may leave a stream of events when it has its response: the call is complete. Before, it is not.
#[tokio::test]
async fn a_caller_that_has_its_response_may_leave() {
    let notice = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"id": 7, "result": {}}});
    let response =
        json!({"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": "AKIAIOSFODNN7EXAMPLE"}]}});
    for (rules, events, decision, rule) in [
        ("", vec![&notice, &response], Decision::Allowed, None),
        ("", vec![&response, &notice], Decision::Allowed, None),
        ("", vec![&notice], Decision::Cut, Some("caller.left")),
        (
            "redact: [{detector: aws_key, action: redact}]",
            vec![&response],
            Decision::Allowed,
            None,
        ),
        (
            "redact: [{detector: aws_key, action: block}]",
            vec![&notice, &response],
            Decision::Refused,
            Some("redact.aws_key"),
        ),
    ] {
        let kept: Arc<Mutex<Vec<tokio::sync::mpsc::Sender<Bytes>>>> = Arc::default();
        let (senders, text) = (
            kept.clone(),
            events
                .iter()
                .map(|event| format!("event: message\ndata: {event}\n\n"))
                .collect::<String>(),
        );
        let server = Server::with(move |_| {
            let (senders, text) = (senders.clone(), text.clone());
            Box::pin(async move {
                // The server keeps the stream open.
                let (sender, answer) = pieces("text/event-stream");
                sender.send(Bytes::from(text)).await.unwrap();
                senders.lock().await.push(sender);
                answer
            })
        })
        .await;
        let world = Plan::wiki(&server, rules).start();
        let mut caller = world.caller("wiki").await;
        let request = caller.message(&call("echo", json!({})), &[]);
        let mut body = caller.open(request).await.unwrap().into_body();
        let mut seen = Vec::new();
        while seen.windows(2).filter(|pair| pair == b"\n\n").count() < events.len() {
            seen.extend_from_slice(&soon(body.frame()).await.unwrap().unwrap().into_data().unwrap());
        }
        drop((body, caller));
        let record = world.records(1).await.remove(0);
        assert_eq!(
            (record.decision, record.rule.as_deref()),
            (decision, rule),
            "{rules} {events:?}"
        );
        assert_eq!(record.status, Some(200));
    }
}

/// What is cut on its way is not taken for the whole, with a farewell of TLS or without.
#[tokio::test]
async fn a_request_that_is_cut_reaches_nobody() {
    let server = Server::mcp().await;
    for rules in ["", "tools: {allow: [echo]}"] {
        let world = Plan::wiki(&server, rules).start();
        let body = call("echo", json!({"all": true})).to_string();
        for (index, farewell) in [true, false].into_iter().enumerate() {
            let mut stream = tls(&world, "wiki.t.example", "wiki.t.example").await.unwrap();
            let head = format!(
                "POST /mcp HTTP/1.1\r\nHost: wiki.t.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len() + 1
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // All of the message, and not all that was announced.
            stream.write_all(body.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            if farewell {
                stream.shutdown().await.unwrap();
            } else {
                stream.get_mut().0.shutdown().await.unwrap();
            }
            let mut answer = Vec::new();
            // It may end either way; what matters is that the call did not happen.
            let _ = soon(stream.read_to_end(&mut answer)).await;
            let record = world.records(index + 1).await.remove(index);
            assert_ne!(record.decision, Decision::Allowed, "{rules} {record:?}");
        }
    }
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}
