//! Which server a call reaches: the route's, or none.

use http::{Method, StatusCode};
use outwork_gateway::record::Decision;
use serde_json::json;

use crate::world::caller::{raw, tls};
use crate::world::{Caller, Plan, Server, soon};

#[tokio::test]
async fn a_call_reaches_the_routes_server_and_no_other() {
    let (wiki, full) = (Server::mcp().await, Server::mcp().await);
    let mut plan = Plan::wiki(&wiki, "");
    plan.routes
        .push_str(&format!("  full.example: http://other.internal:{}\n", full.port()));
    let world = plan.start();

    let mut caller = world.caller("wiki").await;
    let answer = caller.tool("echo", json!({"a": 1})).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], r#"{"a":1}"#);
    assert_eq!((wiki.called().len(), full.called().len()), (1, 0));

    let mut caller = Caller::connect(&world, "full.example").await.unwrap();
    assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    assert_eq!((wiki.called().len(), full.called().len()), (1, 1));
}

#[tokio::test]
async fn path_and_query_are_forwarded_unchanged() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("wiki").await;
    for path in ["/a%2Fb/../c?x=%20&y=1&x=2", "/", "//double", "/mcp?"] {
        let request = caller.request(Method::GET, path, "");
        let answer = caller.send(request).await;
        assert_eq!(answer.body, format!("GET {path}"));
    }
}

#[tokio::test]
async fn no_route_for_host() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let mut caller = world.caller("unknown").await;
    let answer = caller.tool("echo", json!({})).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.rule().as_deref(), Some("route"));
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no route for host")
    );
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn the_name_in_tls_is_the_streams() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    assert!(tls(&world, "wiki.t.example", "wiki.t.example").await.is_ok());
    assert!(tls(&world, "wiki.t.example", "other.t.example").await.is_err());
    assert!(tls(&world, "not a host", "wiki.t.example").await.is_err());
}

#[tokio::test]
async fn the_host_of_a_request_is_the_streams() {
    let server = Server::mcp().await;
    let mut plan = Plan::wiki(&server, "");
    plan.routes
        .push_str(&format!("  other: http://other.internal:{}\n", server.port()));
    let world = plan.start();
    let ask = |head: &str| format!("GET {head}\r\nConnection: close\r\n\r\n");
    for (head, status) in [
        ("/ HTTP/1.1\r\nHost: wiki.t.example", 200),
        ("/ HTTP/1.1\r\nHost: WIKI.t.example:443", 200),
        ("https://wiki.t.example/ HTTP/1.1\r\nHost: wiki.t.example", 200),
        ("/ HTTP/1.1\r\nHost: other.t.example", 421),
        ("/ HTTP/1.1\r\nHost: wiki.t.example:8080", 400),
        ("https://other.t.example/ HTTP/1.1\r\nHost: wiki.t.example", 421),
        ("https://wiki.t.example/ HTTP/1.1\r\nHost: other.t.example", 421),
        ("http://169.254.169.254/ HTTP/1.1\r\nHost: wiki.t.example", 421),
        ("/ HTTP/1.1\r\nHost: wiki.t.example\r\nHost: other.t.example", 400),
        ("/ HTTP/1.1\r\nHost: wiki.t.example\r\nHost: wiki.t.example", 400),
        ("/ HTTP/1.1\r\nX: y", 400),
        ("/ HTTP/1.0\r\nX: y", 400),
    ] {
        let before = server.seen().len();
        let answer = raw(&world, "wiki.t.example", ask(head).as_bytes()).await;
        assert!(answer.contains(&format!(" {status} ")), "{head}: {answer}");
        assert_eq!(server.seen().len() - before, usize::from(status == 200), "{head}");
        if status == 200 {
            assert!(server.seen().last().unwrap().uri.starts_with('/'));
        }
    }
}

#[tokio::test]
async fn each_call_leaves_one_record() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "tools: {deny: [drop]}").start();
    let mut caller = world.caller("wiki").await;
    caller.tool("echo", json!({"a": "payload"})).await;
    caller.tool("drop", json!({})).await;
    let request = caller.request(Method::GET, "/x", "");
    caller.send(request).await;
    let records = world.records(3).await;
    let first = &records[0];
    assert_eq!((first.decision, first.rule.as_deref()), (Decision::Allowed, None));
    assert_eq!(first.tunnel.as_deref(), Some("tnl_test"));
    assert_eq!((&*first.hostname, &*first.route), ("wiki.t.example", "wiki"));
    assert_eq!(
        (first.mcp_method.as_deref(), first.tool.as_deref()),
        (Some("tools/call"), Some("echo"))
    );
    assert_eq!(first.status, Some(200));
    assert!(first.bytes_in > 0 && first.bytes_out > 0 && !first.duration.is_zero());
    assert_eq!((&first.arguments, &first.result), (&None, &None));
    assert_eq!(
        (records[1].decision, records[1].rule.as_deref()),
        (Decision::Refused, Some("tools.deny"))
    );
    assert_eq!(
        (records[2].http_method.as_deref(), &records[2].mcp_method),
        (Some("GET"), &None)
    );
    assert_eq!(world.gateway.metrics.route("wiki").calls(Decision::Allowed), 2);
}

#[tokio::test]
async fn payloads_are_recorded_where_the_owner_asked() {
    let server = Server::mcp().await;
    let mut plan = Plan::wiki(&server, "");
    plan.payloads = true;
    let world = plan.start();
    world.caller("wiki").await.tool("echo", json!({"a": "payload"})).await;
    let records = world.records(1).await;
    assert_eq!(records[0].arguments.as_deref(), Some(&br#"{"a":"payload"}"#[..]));
    assert!(String::from_utf8_lossy(records[0].result.as_deref().unwrap()).contains("payload"));
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    world.calls.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut caller = world.caller("wiki").await;
    let answer = caller.tool("echo", json!({})).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("ledger"))
    );
    assert!(server.seen().is_empty() && world.gateway.ready().is_err());
    world.calls.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_raw_route_carries_bytes() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        stream
            .write_all(&bytes.iter().rev().copied().collect::<Vec<_>>())
            .await
            .unwrap();
    });
    let world = Plan::route("db", &format!("tcp://wiki.internal:{port}"), "").start();
    let mut stream = tls(&world, "db.t.example", "db.t.example").await.unwrap();
    stream.write_all(b"\x00not http\xff").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    soon(stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"\xffptth ton\x00");
    soon(upstream).await.unwrap();
    let records = world.records(1).await;
    assert_eq!((records[0].bytes_in, records[0].bytes_out), (10, 10));
    assert_eq!(
        (records[0].decision, &records[0].http_method),
        (Decision::Allowed, &None)
    );
}
