//! Which addresses are dialled, and whom the gateway takes for the upstream.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::world::{Authority, Plan, Server};

#[tokio::test]
async fn addresses_outside_the_ranges_are_never_dialled() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    for answers in [
        &["169.254.169.254"][..],
        &["::1"],
        &["::ffff:169.254.169.254"],
        &["64:ff9b::7f00:1"],
        &["10.0.0.1", "127.0.0.2", "0.0.0.0"],
    ] {
        world.names.set("wiki.internal", &[answers]);
        let answer = world.caller("wiki").await.tool("echo", json!({})).await;
        assert_eq!(
            (answer.status, answer.rule().as_deref()),
            (StatusCode::BAD_GATEWAY, Some("upstream.allowed_ips"))
        );
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(
            text.contains("IP validation failed") && !answers.iter().any(|address| text.contains(address)),
            "{text}"
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    // One allowed among others: that one, and no other.
    world
        .names
        .set("wiki.internal", &[&["169.254.169.254", "127.0.0.1", "8.8.8.8"]]);
    assert_eq!(
        world.caller("wiki").await.tool("echo", json!({})).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_name_that_changes_between_check_and_use_changes_nothing() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    // A second question would be answered with what must not be dialled.
    world
        .names
        .set("wiki.internal", &[&["127.0.0.1"], &["169.254.169.254"]]);
    let mut caller = world.caller("wiki").await;
    assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    assert_eq!(
        world.names.asked.load(Ordering::Relaxed),
        1,
        "one question for one connection"
    );
    assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    assert_eq!(world.names.asked.load(Ordering::Relaxed), 1, "and none for a kept one");
}

#[tokio::test]
async fn literal_addresses_are_checked_too() {
    let server = Server::mcp().await;
    let world = Plan::route("wiki", &format!("http://127.0.0.2:{}", server.port()), "").start();
    assert_eq!(
        world
            .caller("wiki")
            .await
            .tool("echo", json!({}))
            .await
            .rule()
            .as_deref(),
        Some("upstream.allowed_ips")
    );
    let mut plan = Plan::route("wiki", &format!("http://127.0.0.1:{}", server.port()), "");
    plan.allowed = "[0.0.0.0/0, '::/0']";
    let world = plan.start();
    let answer = world.caller("wiki").await.tool("echo", json!({})).await;
    assert_eq!(
        answer.rule().as_deref(),
        Some("upstream.allowed_ips"),
        "a wide range opens no loopback"
    );
}

#[tokio::test]
async fn upstreams_that_are_not_there() {
    let server = Server::mcp().await;
    let port = server.port();
    drop(server);
    let world = Plan::route("wiki", &format!("http://wiki.internal:{port}"), "").start();
    let answer = world.caller("wiki").await.tool("echo", json!({})).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::BAD_GATEWAY, Some("upstream.connect"))
    );
    assert_eq!(answer.json()["id"], 7);
    let world = Plan::route("wiki", "http://absent.internal:80", "").start();
    assert_eq!(
        world
            .caller("wiki")
            .await
            .tool("echo", json!({}))
            .await
            .rule()
            .as_deref(),
        Some("upstream.resolve")
    );
}

/// One answer over TLS.
async fn tls_server(authority: &Authority, name: &str) -> u16 {
    let (cert, key) = authority.sign(&[name]);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let answer =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn upstreams_over_tls_are_verified() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (signer, name, trusted) in [
        (&ours, "wiki.internal", true),
        (&theirs, "wiki.internal", false),
        (&ours, "other.internal", false),
    ] {
        let port = tls_server(signer, name).await;
        let mut plan =
            Plan::route("wiki", &format!("https://wiki.internal:{port}"), "").file("ca.pem", ours.pem.clone());
        plan.allowed = "[127.0.0.1/32]\n  tls: {ca_file: ca.pem}";
        let world = plan.start();
        let answer = world.caller("wiki").await.tool("echo", json!({})).await;
        let rule = (!trusted).then(|| "upstream.tls".to_owned());
        assert_eq!(answer.rule(), rule, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_clean_failure() {
    for bytes in [
        "garbage\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(bytes.as_bytes()).await;
            }
        });
        let world = Plan::route("wiki", &format!("http://wiki.internal:{port}"), "").start();
        let answer = world.caller("wiki").await.tool("echo", json!({})).await;
        assert_eq!(
            (answer.status, answer.rule().as_deref()),
            (StatusCode::BAD_GATEWAY, Some("upstream.exchange")),
            "{bytes:?}"
        );
        assert_eq!(requests.load(Ordering::SeqCst), 1, "a call is not sent twice");
    }
}
