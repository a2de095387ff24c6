//! What is allowed works, for every kind of client.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outwork_ledger::{Decision, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{answer, get2, handshake2, in_time, rest, send2};
use crate::world::{World, policy, until};

const INSPECTED: &str = "93.184.215.10:443";

async fn inspected() -> World {
    let world = World::new().await;
    world.lookup("inspected.example.").await;
    world
}

#[tokio::test]
async fn a_request_on_opened_tls_and_its_records() {
    let world = inspected().await;
    let request = "POST /ok/a?b=c HTTP/1.1\r\nHost: inspected.example\r\nContent-Length: 5\r\nX-Own: y\r\n\r\nhello";
    let answer = world.secure(INSPECTED, "inspected.example", request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("hello"),
        "{answer}"
    );
    assert!(
        answer.contains("host=inspected.example") && answer.contains("x-own"),
        "{answer}"
    );
    let allowed = world.recorded(Decision::Allowed);
    let request = allowed.iter().find(|record| record.http_method.is_some()).unwrap();
    assert_eq!(request.rule.as_deref(), Some("test/inspected"));
    assert_eq!(request.destination.as_deref(), Some("inspected.example:443"));
    assert_eq!(request.address.as_deref(), Some("93.184.215.10"));
    assert_eq!(request.http_path.as_deref(), Some("/ok/a"));
    assert_eq!(request.session.as_deref(), Some("sesn_test"));
    assert_eq!(request.policy_hash, Some(world.handle.policy().hash()));
    assert!(allowed.iter().any(|record| record.kind == Kind::DnsQuery));
    until("the record of the connection's end", || {
        let ended = world.recorded(Decision::Allowed);
        ended
            .iter()
            .any(|record| record.bytes_out == Some(5) && record.bytes_in.is_some_and(|bytes| bytes > 5))
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_carries_many_requests_over_one_to_the_server() {
    let world = inspected().await;
    let mut stream = world.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
    for n in 0..20 {
        let request = format!("GET /ok/{n} HTTP/1.1\r\nHost: inspected.example\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.contains(&format!("GET /ok/{n} ")), "{answer}");
    }
    assert_eq!(world.wires.dialled.lock().unwrap().len(), 1);
    assert_eq!(world.handle.stats().requests, 20);
}

#[tokio::test]
async fn http2_with_many_streams_over_one_connection() {
    let world = inspected().await;
    let stream = world
        .tls(INSPECTED, "inspected.example", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = handshake2(stream).await.unwrap();
    let all = (0..50).map(|n| {
        let mut client = client.clone();
        async move {
            let request = Request::post(format!("https://inspected.example/ok/{n}"));
            let request = request.body(Full::from(Bytes::from(format!("body {n}")))).unwrap();
            let reply = send2(&mut client, request).await.unwrap();
            assert!(
                reply.body.contains("HTTP/2.0") && reply.body.contains(&format!("body {n}")),
                "{reply:?}"
            );
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(world.wires.dialled.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn trailers_and_large_bodies_pass() {
    let world = inspected().await;
    let stream = world.tls(INSPECTED, "inspected.example", &["h2"]).await.unwrap();
    let mut client = handshake2(stream).await.unwrap();
    let reply = send2(&mut client, get2("https://inspected.example/trailers"))
        .await
        .unwrap();
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
    let reply = send2(&mut client, get2("https://inspected.example/big")).await.unwrap();
    assert_eq!(reply.body.len(), 8 << 20);
    let big = Bytes::from(vec![b'y'; 3 << 20]);
    let request = Request::put("https://inspected.example/ok/big")
        .body(Full::from(big.clone()))
        .unwrap();
    send2(&mut client, request).await.unwrap();
    assert!(world.seen.has("3145728 bytes, broken: false"));
    let head = "POST /ok/big1 HTTP/1.1\r\nHost: inspected.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = world.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in big.chunks(100_000) {
        stream
            .write_all(format!("{:x}\r\n", part.len()).as_bytes())
            .await
            .unwrap();
        stream.write_all(part).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert!(
        world.seen.has("/ok/big1: yyyy") && world.seen.all().iter().filter(|s| s.contains("(3145728")).count() == 2
    );
}

#[tokio::test]
async fn expect_continue_and_head_and_http10() {
    let world = inspected().await;
    let mut stream = world.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
    let head = "POST /ok HTTP/1.1\r\nHost: inspected.example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    in_time(stream.read_exact(&mut go_on)).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    assert!(answer(&mut stream).await.contains("abc"));
    let request = "HEAD /ok HTTP/1.1\r\nHost: inspected.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let request = "GET /ok HTTP/1.0\r\nHost: inspected.example\r\n\r\n";
    let mut stream = world.tls(INSPECTED, "inspected.example", &[]).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_websocket() {
    let world = inspected().await;
    let mut stream = world.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: inspected.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 101"));
    // Without secrets, frames pass as they are.
    for message in ["one", "GET / HTTP/1.1\nnot a request"] {
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut back = vec![0; message.len()];
        in_time(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, message.as_bytes());
    }
    assert!(world.seen.has("ws one"));
}

#[tokio::test]
async fn tls_that_is_not_opened_keeps_the_servers_certificate() {
    let world = World::new().await;
    world.lookup("passed.example.").await;
    let mut stream = world
        .tls("93.184.215.11:443", "passed.example", &["http/1.1"])
        .await
        .unwrap();
    let issuer = stream.get_ref().1.peer_certificates().unwrap().len();
    // The session's authority sends itself along; the server's does not.
    assert_eq!(issuer, 1);
    stream
        .write_all(b"GET /x HTTP/1.1\r\nHost: passed.example\r\n\r\n")
        .await
        .unwrap();
    assert!(answer(&mut stream).await.contains("GET /x"));
    stream.shutdown().await.unwrap();
    drop(stream);
    until("the record of the end", || {
        world
            .recorded(Decision::Allowed)
            .iter()
            .any(|record| record.bytes_in.is_some_and(|bytes| bytes > 100))
    })
    .await;
    assert_eq!(world.handle.stats().passed, 1);
}

#[tokio::test]
async fn bytes_of_other_protocols_pass_by_name_and_by_range() {
    let world = World::new().await;
    world.lookup("db.example.").await;
    world.lookup("mail.example.").await;
    for to in ["93.184.215.30:5432", "93.184.216.9:5432", "10.7.1.1:5432"] {
        let mut stream = world.dial(to).await;
        stream.write_all(b"\x00\x00\x00\x08hello").await.unwrap();
        let mut back = [0; 9];
        in_time(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"\x00\x00\x00\x08hello", "{to}");
        // One side ends, the other is told.
        stream.shutdown().await.unwrap();
        assert_eq!(in_time(stream.read(&mut back)).await.unwrap(), 0);
    }
    // Here the server speaks first.
    let mut stream = world.dial("93.184.215.31:25").await;
    let mut greeting = [0; 18];
    in_time(stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 mail.example\r\n");
}

#[tokio::test]
async fn plain_http_and_an_allowed_range_and_a_private_host() {
    let world = World::new().await;
    for name in ["passed.example.", "internal.example."] {
        world.lookup(name).await;
    }
    for (to, host) in [
        ("93.184.215.11:80", "passed.example"),
        ("93.184.216.7:80", "93.184.216.7"),
        ("10.8.0.5:80", "internal.example"),
    ] {
        let request = format!("GET /p HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = world.plain(to, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("host={host}")),
            "{answer}"
        );
    }
    let mut stream = world.dial("93.184.215.11:80").await;
    stream
        .write_all(b"\r\nGET /empty-line-before HTTP/1.1\r\nHost: passed.example\r\n\r\n")
        .await
        .unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    let mut client = handshake2(world.dial("93.184.215.11:80").await).await.unwrap();
    let reply = send2(&mut client, get2("http://passed.example/h2c")).await.unwrap();
    assert!(reply.body.contains("HTTP/2.0"), "{reply:?}");
}

#[tokio::test]
async fn a_refusal_says_which_host_and_that_it_was_policy() {
    let world = inspected().await;
    let request = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let denied = world
        .secure("93.184.215.66:443", "evil.example", &request("/", "evil.example"))
        .await;
    let path = world
        .secure(INSPECTED, "inspected.example", &request("/admin", "inspected.example"))
        .await;
    let host = world
        .secure(INSPECTED, "inspected.example", &request("/ok", "evil.example"))
        .await;
    let plain = world
        .plain("93.184.215.66:80", b"GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n")
        .await;
    for (answer, status, part) in [
        (&denied, "403", "no rule allows evil.example:443 (rule test/default)"),
        (
            &path,
            "403",
            "GET inspected.example:443/admin: the rule for the host does not allow this path (rule test/inspected)",
        ),
        (
            &host,
            "421",
            "the request is for evil.example, the connection's TLS name is inspected.example",
        ),
        (&plain, "403", "no rule allows GET evil.example:80/"),
    ] {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{answer}"
        );
        assert!(
            answer.contains("outwork: refused by the network policy: ") && answer.contains(part),
            "{answer}"
        );
    }
    let refused = world.handle.refusals();
    assert!(
        refused
            .iter()
            .any(|refusal| refusal.host.as_deref() == Some("evil.example") && refusal.port == Some(80))
    );
    assert_eq!(world.recorded(Decision::Denied).len(), 4);
    // What is neither TLS nor HTTP is reset at once.
    let mut stream = world.dial("93.184.215.66:22").await;
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert!(rest(&mut stream).await.contains("reset"));
}

#[tokio::test]
async fn a_servers_wrong_certificate_is_not_accepted() {
    let world = World::with(policy("[[allow]]\nhost = \"*.wild.example\"\ninspect = true\n")).await;
    world.lookup("a.wild.example.").await;
    let request = "GET /secret HTTP/1.1\r\nHost: a.wild.example\r\n\r\n";
    let answer = world.secure("93.184.215.40:443", "a.wild.example", request).await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("TLS handshake with a.wild.example failed"),
        "{answer}"
    );
    assert!(!world.seen.has("/secret"));
}

#[tokio::test]
async fn a_range_that_is_inspected_without_a_name() {
    let text = "inspect = true\n[[allow]]\ncidr = \"93.184.216.0/24\"\npaths = \"/ok\"\n";
    let world = World::with(policy(text)).await;
    for (path, status) in [("/ok", "200"), ("/no", "403")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 93.184.216.10\r\n\r\n");
        let answer = world.secure("93.184.216.10:443", "93.184.216.10", &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_kept_an_address_too_long() {
    let world = World::new().await;
    // Never asked here: the boundary asks by itself whether the address belongs to the allowed name.
    let request = "GET /late HTTP/1.1\r\nHost: passed.example\r\n\r\n";
    let answer = world.secure("93.184.215.11:443", "passed.example", request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_server_that_is_away_is_a_clear_error() {
    let world = World::with(policy("[[allow]]\nhost = \"gone.example\"\n")).await;
    world.zone.set("gone.example", &["93.184.215.99"]);
    let answer = world.lookup("gone.example.").await;
    assert_eq!(answer.answers.len(), 1);
    let slow = World::with(policy("[[allow]]\nhost = \"nowhere.example\"\n")).await;
    let answer = slow.lookup("nowhere.example.").await;
    assert_eq!(answer.metadata.response_code, hickory_proto::op::ResponseCode::NXDomain);
}

/// A client of HTTP/2 whose stream is reset while it sends shows that, and not the answer that said why.
#[tokio::test]
async fn a_refused_request_over_http2_may_send_its_body_to_the_end() {
    let world = inspected().await;
    for (name, path) in [("inspected.example", "/not-allowed"), ("evil.example", "/any")] {
        let stream = world.tls(INSPECTED, name, &["h2"]).await.unwrap();
        let (feed, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
        let body = http_body_util::StreamBody::new(futures_util::stream::unfold(frames, |mut frames| async move {
            let bytes = frames.recv().await?;
            Some((Ok::<_, std::io::Error>(hyper::body::Frame::data(bytes)), frames))
        }));
        let io = hyper_util::rt::TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io);
        let (mut client, connection) = in_time(handshake).await.unwrap();
        tokio::spawn(connection);
        let request = Request::put(format!("https://{name}{path}"))
            .body(Box::pin(body))
            .unwrap();
        let response = in_time(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 403, "{name}");
        let said = in_time(http_body_util::BodyExt::collect(response.into_body()))
            .await
            .unwrap();
        assert!(
            said.to_bytes().starts_with(b"outwork: refused by the network policy"),
            "{name}"
        );
        for piece in 0..8 {
            let sent = in_time(feed.send(Bytes::from(vec![b'x'; 16 * 1024]))).await;
            assert!(sent.is_ok(), "{name}: the stream was reset at piece {piece}");
            // The client looks at what came before it takes the next piece.
            tokio::task::yield_now().await;
        }
        drop(feed);
    }
    assert!(!world.seen.has("not-allowed"));
}
