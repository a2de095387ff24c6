//! The local kill switch.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use outwork_gateway::kill::{Scope, kill, revive};
use outwork_gateway::record::Decision;
use serde_json::json;

use crate::world::caller::tls;
use crate::world::server::{mcp, pieces};
use crate::world::{Plan, Server, soon, until};

async fn server() -> Server {
    Server::with(|seen| {
        Box::pin(async move {
            match &*seen.uri {
                "/events" => {
                    let (sender, response) = pieces("text/event-stream");
                    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
                    tokio::spawn(async move { sender.closed().await });
                    response
                }
                "/floods" => {
                    let (sender, response) = pieces("application/octet-stream");
                    tokio::spawn(async move { while sender.send(Bytes::from(vec![b'x'; 65_536])).await.is_ok() {} });
                    response
                }
                "/hangs" => std::future::pending().await,
                _ => mcp(&seen),
            }
        })
    })
    .await
}

#[tokio::test]
async fn calls_under_way_are_cut_and_new_ones_refused() {
    let (wiki, other) = (server().await, Server::mcp().await);
    let mut plan = Plan::wiki(&wiki, "");
    plan.routes
        .push_str(&format!("  other: http://other.internal:{}\n", other.port()));
    let world = plan.start();

    let mut streaming = world.caller("wiki").await;
    let request = streaming.request(Method::GET, "/events", "");
    let mut body = streaming.open(request).await.unwrap().into_body();
    soon(body.frame()).await.unwrap().unwrap();
    let mut waiting = world.caller("wiki").await;
    let mut request = waiting.message(&crate::world::caller::call("echo", json!({})), &[]);
    *request.uri_mut() = "/hangs".parse().unwrap();
    let waiting = tokio::spawn(async move { waiting.send(request).await });
    until(|| wiki.seen().len() == 2).await;

    kill(world.folder.path(), &Scope::Route("wiki".into())).unwrap();
    assert!(
        soon(body.frame()).await.unwrap().is_err(),
        "the stream is cut, not ended"
    );
    let answer = soon(waiting).await.unwrap();
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("kill"))
    );

    let answer = world.caller("wiki").await.tool("echo", json!({})).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("kill"))
    );
    assert!(wiki.called().len() == 1);
    assert_eq!(
        world.caller("other").await.tool("echo", json!({})).await.status,
        StatusCode::OK
    );

    revive(world.folder.path(), &Scope::Route("wiki".into())).unwrap();
    until(|| !world.gateway.kill.holds("wiki")).await;
    assert_eq!(
        world.caller("wiki").await.tool("echo", json!({})).await.status,
        StatusCode::OK
    );
    let records = world.records(5).await;
    assert_eq!(
        records
            .iter()
            .filter(|record| record.rule.as_deref() == Some("kill"))
            .count(),
        3
    );
    assert!(
        records
            .iter()
            .any(|record| record.decision == Decision::Cut && record.rule.as_deref() == Some("kill"))
    );
}

#[tokio::test]
async fn all_of_it_and_raw_streams_too() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = Plan::route("db", &format!("tcp://wiki.internal:{port}"), "").start();
    let mut stream = tls(&world, "db.t.example", "db.t.example").await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let (mut far, _) = soon(listener.accept()).await.unwrap();
    soon(far.read_exact(&mut [0])).await.unwrap();
    kill(world.folder.path(), &Scope::All).unwrap();
    assert!(matches!(soon(stream.read(&mut [0])).await, Ok(0) | Err(_)));
    assert!(matches!(soon(far.read(&mut [0])).await, Ok(0) | Err(_)));
    let record = &world.records(1).await[0];
    assert_eq!(
        (record.decision, record.rule.as_deref(), record.bytes_in),
        (Decision::Cut, Some("kill"), 1)
    );
}

#[tokio::test]
async fn a_broken_state_file_kills() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").file("killed.json", "{").start();
    assert_eq!(
        world
            .caller("wiki")
            .await
            .tool("echo", json!({}))
            .await
            .rule()
            .as_deref(),
        Some("kill")
    );
    assert!(server.seen().is_empty());
}

/// A call whose caller takes the beginning of an endless answer and reads no more.
async fn stuck(world: &crate::world::World) -> tokio_rustls::client::TlsStream<tokio::io::DuplexStream> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tls(world, "wiki.t.example", "wiki.t.example").await.unwrap();
    stream
        .write_all(b"GET /floods HTTP/1.1\r\nHost: wiki.t.example\r\n\r\n")
        .await
        .unwrap();
    soon(stream.read_exact(&mut [0; 1000])).await.unwrap();
    stream
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_nothing_back() {
    let server = server().await;
    for (rules, timeouts, killed) in [("", "", true), ("", "timeouts: {idle: 100ms}", false)] {
        let world = Plan::wiki(&server, rules).more(timeouts).start();
        let _stream = stuck(&world).await;
        if killed {
            kill(world.folder.path(), &Scope::Route("wiki".into())).unwrap();
        }
        assert_eq!(world.records(1).await[0].decision, Decision::Cut);
        let streams = || world.gateway.metrics.streams.load(std::sync::atomic::Ordering::Relaxed);
        until(|| streams() == 0).await;
    }
}
