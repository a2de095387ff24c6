//! What two readers of HTTP might understand differently, what is too much, and what belongs to one hop.

use http::{Method, StatusCode};
use serde_json::json;

use crate::world::caller::raw;
use crate::world::{Plan, Server};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn smuggled_requests_reach_nobody() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: wiki.t.example\r\n\r\n";
    let start = "POST /mcp HTTP/1.1\r\nHost: wiki.t.example\r\nContent-Type: application/json\r\n";
    let length = PING.len();
    let chunked = format!("{length:x}\r\n{PING}\r\n0\r\n\r\n");
    for (name, bytes) in [
        // Both lengths: the chunks count, and the connection ends with the answer.
        (
            "te and cl",
            format!("{start}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{smuggled}"),
        ),
        (
            "cl after te",
            format!("{start}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunked}{smuggled}"),
        ),
        (
            "two lengths",
            format!("{start}Content-Length: {length}\r\nContent-Length: 4\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "a list of lengths",
            format!("{start}Content-Length: {length}, 4\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "a signed length",
            format!("{start}Content-Length: +{length}\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "chunked twice",
            format!("{start}Transfer-Encoding: chunked, identity\r\n\r\n{chunked}{smuggled}"),
        ),
        (
            "chunked by another name",
            format!("{start}Transfer-Encoding: xchunked\r\n\r\n{chunked}{smuggled}"),
        ),
        (
            "a folded header",
            format!("{start}X: a\r\n b\r\nContent-Length: {length}\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "space before the colon",
            format!("{start}Content-Length : {length}\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "a bare line feed in a value",
            format!("{start}X: a\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{PING}{smuggled}"),
        ),
        (
            "a bad chunk size",
            format!("{start}Transfer-Encoding: chunked\r\n\r\n0x{chunked}{smuggled}"),
        ),
        (
            "a huge chunk size",
            format!("{start}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{PING}{smuggled}"),
        ),
        (
            "a line feed in a chunk extension",
            format!("{start}Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n{chunked}{smuggled}"),
        ),
        (
            "http/1.0 with chunks",
            format!("{start}Transfer-Encoding: chunked\r\n\r\n{chunked}{smuggled}").replace(
                "HTTP/1.1\r\nHost: wiki.t.example\r\nContent",
                "HTTP/1.0\r\nHost: wiki.t.example\r\nContent",
            ),
        ),
    ] {
        let before = server.seen().len();
        raw(&world, "wiki.t.example", bytes.as_bytes()).await;
        for seen in &server.seen()[before..] {
            assert_ne!(seen.uri, "/smuggled", "{name}");
            assert_eq!(seen.body, PING, "{name}");
            assert!(seen.header("transfer-encoding").is_none(), "{name}");
            assert_eq!(seen.header("content-length"), Some(&*length.to_string()), "{name}");
        }
    } // The two whose chunks are sound did arrive: the requests above were not refused for something else.
    assert!(server.seen().len() >= 2);
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let many: String = (0..200).map(|index| format!("X-{index}: y\r\n")).collect();
    let start = "GET / HTTP/1.1\r\nHost: wiki.t.example\r\n";
    for bytes in [
        format!("{start}X: {}\r\n\r\n", "y".repeat(40_000)),
        format!("{start}{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: wiki.t.example\r\n\r\n", "y".repeat(70_000)),
    ] {
        let answer = raw(&world, "wiki.t.example", bytes.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"),
            "{answer}"
        );
    }
    assert!(server.seen().is_empty());
    let good = format!("{start}X: {}\r\nConnection: close\r\n\r\n", "y".repeat(8_000));
    assert!(
        raw(&world, "wiki.t.example", good.as_bytes())
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn upgrades_and_odd_methods_are_refused_clearly() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let host = "Host: wiki.t.example\r\n";
    for (request, status, rule) in [
        (
            format!("GET / HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            501,
            "http.upgrade",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Connection: close, upgrade\r\n\r\n"),
            501,
            "http.upgrade",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Upgrade: h2c\r\nConnection: close\r\n\r\n"),
            501,
            "http.upgrade",
        ),
        (
            format!("CONNECT wiki.t.example:443 HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            501,
            "http.upgrade",
        ),
        (
            format!("PUT / HTTP/1.1\r\n{host}Content-Length: 0\r\nConnection: close\r\n\r\n"),
            405,
            "http.method",
        ),
        (
            format!("TRACE / HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            405,
            "http.method",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 1\r\nConnection: close\r\n\r\nx"),
            400,
            "http.body",
        ),
    ] {
        let answer = raw(&world, "wiki.t.example", request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(rule),
            "{request}: {answer}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn headers_of_one_hop_stay_there_and_the_gateways_are_its_own() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    let mut request = caller.request(Method::GET, "/", "");
    for (name, value) in [
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "trailers"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-host", "evil.example"),
        ("outwork-agent-identity", "made.up.token"),
        ("authorization", "Bearer for-the-server"),
        ("mcp-session-id", "s1"),
        ("x-mine", "kept"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(caller.send(request).await.status, StatusCode::OK);
    let seen = &server.seen()[0];
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authorization",
        "te",
        "x-forwarded-for",
        "forwarded",
        "outwork-agent-identity",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("authorization"), Some("Bearer for-the-server"));
    assert_eq!(
        (seen.header("mcp-session-id"), seen.header("x-mine")),
        (Some("s1"), Some("kept"))
    );
    assert_eq!(seen.header("x-forwarded-host"), Some("wiki.t.example"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("host"), Some(&*format!("wiki.internal:{}", server.port())));
}

#[tokio::test]
async fn header_rules() {
    let server = Server::mcp().await;
    let rules = "headers: {set: {authorization: Bearer ours, x-team: a}, remove: [x-drop], allow: [x-keep, x-drop]}\npreserve_host: true";
    let world = Plan::wiki(&server, rules).start();
    let mut caller = world.caller("wiki").await;
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let headers = [
        ("x-keep", "1"),
        ("x-drop", "1"),
        ("x-other", "1"),
        ("authorization", "Bearer theirs"),
        ("mcp-session-id", "s1"),
    ];
    caller.post(&message, &headers).await;
    let seen = &server.seen()[0];
    assert_eq!(seen.header("authorization"), Some("Bearer ours"));
    assert_eq!((seen.header("x-team"), seen.header("x-keep")), (Some("a"), Some("1")));
    assert_eq!((seen.header("x-drop"), seen.header("x-other")), (None, None));
    assert_eq!(seen.header("mcp-session-id"), Some("s1"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("host"), Some("wiki.t.example"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Server::with(|_| {
        Box::pin(async {
            let mut answer = crate::world::server::whole(StatusCode::FOUND, "text/plain", "");
            answer
                .headers_mut()
                .insert("location", "http://169.254.169.254/latest".parse().unwrap());
            answer
        })
    })
    .await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    let request = caller.request(Method::GET, "/", "");
    assert_eq!(caller.send(request).await.status, StatusCode::FOUND);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn batches_and_broken_messages_are_refused_as_the_protocol_does() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    for (body, code) in [
        (format!("[{PING}]"), -32600),
        ("{".to_owned(), -32700),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#.to_owned(),
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#.to_owned(),
            -32600,
        ),
    ] {
        let mut request = caller.request(Method::POST, "/mcp", body.clone());
        request
            .headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        let answer = caller.send(request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.json()["error"]["code"], code, "{body}");
        assert!(answer.json()["id"].is_null());
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn headers_of_the_new_revision_must_agree_with_the_body() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    let call = crate::world::caller::call("echo", json!({}));
    let new = ("mcp-protocol-version", "2026-07-28");
    for headers in [
        vec![new],
        vec![new, ("mcp-method", "tools/call"), ("mcp-name", "other")],
        vec![new, ("mcp-method", "tools/list"), ("mcp-name", "echo")],
    ] {
        let answer = caller.post(&call, &headers).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["error"]["code"], -32020);
        assert_eq!(answer.json()["id"], 7);
    }
    assert!(server.seen().is_empty());
    let answer = caller
        .post(&call, &[new, ("mcp-method", "tools/call"), ("mcp-name", "echo")])
        .await;
    assert!(answer.json()["result"].is_object());
    let old = caller
        .post(
            &call,
            &[("mcp-protocol-version", "2025-11-25"), ("mcp-session-id", "s")],
        )
        .await;
    assert!(old.json()["result"].is_object());
}

#[tokio::test]
async fn forms_and_registrations_pass_where_rules_read_messages() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "tools: {allow: []}").start();
    let mut caller = world.caller("wiki").await;
    for (content_type, body, status) in [
        (
            "application/x-www-form-urlencoded",
            "grant_type=refresh_token",
            StatusCode::OK,
        ),
        ("application/json", "{\"client_name\":\"x\"}", StatusCode::OK),
        ("text/plain", "hello", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            "application/json; charset=utf-7",
            PING,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
    ] {
        let mut request = caller.request(Method::POST, "/token", body);
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        assert_eq!(caller.send(request).await.status, status, "{content_type}");
    }
    // A call stays one under another name.
    let mut request = caller.request(
        Method::POST,
        "/mcp",
        crate::world::caller::call("echo", json!({})).to_string(),
    );
    request
        .headers_mut()
        .insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    assert_eq!(caller.send(request).await.rule().as_deref(), Some("tools.allow"));
    assert!(server.called().is_empty());
}
