//! The way to a server: addresses, names, TLS, redirects.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use futures_util::future::BoxFuture;
use outwork_mcp::{
    AddressPolicy, BoxStream, CallErrorKind, ConnectErrorKind, Dial, DialError, Direct, Target, dial::Resolve,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::server::*;

/// A resolver with one answer after the other; the last one stays.
struct Answers {
    answers: Vec<&'static str>,
    asked: AtomicUsize,
}

impl Answers {
    fn new(answers: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            answers: answers.to_vec(),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Resolve for Answers {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        Box::pin(async move { Ok(vec![self.answers[asked].parse().unwrap()]) })
    }
}

fn named(server: &Server, resolver: Arc<dyn Resolve>) -> outwork_mcp::ServerSpec {
    let mut spec = spec(
        format!("http://mcp.test:{}/mcp", server.address.port())
            .parse()
            .unwrap(),
    );
    spec.dial = Arc::new(Direct::new(resolver, []).unwrap());
    spec
}

#[tokio::test]
async fn a_private_address_is_refused_unless_it_is_allowed() {
    let server = Server::plain(Revision::Modern).await;
    for url in [
        "http://127.0.0.1",
        "http://mcp.test",
        "http://[::ffff:127.0.0.1]",
        "http://0x7f000001",
        "http://2130706433",
    ] {
        let mut spec = named(&server, Answers::new(&["127.0.0.1"]));
        spec.url = format!("{url}:{}/mcp", server.address.port()).parse().unwrap();
        spec.policy = AddressPolicy {
            allow: vec![],
            plain_http: true,
        };
        let error = connect(spec.clone()).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Connection);
        assert!(error.message.contains("loopback"), "{url}: {error}");
        spec.policy.allow = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(connect(spec.clone()).await.is_err());
        assert!(server.seen().is_empty(), "{url}");
    }
    let mut spec = named(&server, Answers::new(&["127.0.0.1"]));
    spec.policy.allow = vec!["127.0.0.1/32".parse().unwrap()];
    call(&connect(spec).await.unwrap(), "echo").await.unwrap();
}

#[tokio::test]
async fn a_name_that_changes_its_answer_is_checked_every_time() {
    let server = Server::plain(Revision::Modern).await;
    // Allowed at first; then somewhere inside where nothing may be sent.
    let resolver = Answers::new(&["127.0.0.1", "10.0.0.1"]);
    let mut spec = named(&server, resolver.clone());
    spec.policy.allow = vec!["127.0.0.1/32".parse().unwrap()];
    let closing = Server::start(Revision::Modern, |_| async { None }).await;
    let connection = connect(spec.clone()).await.unwrap();
    // What is connected stays with the address that was checked, whatever the name says now.
    call(&connection, "echo").await.unwrap();
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    // Another connection is another check.
    let error = connect(spec).await.unwrap_err();
    assert!(error.message.contains("private"), "{error}");
    drop(closing);
}

#[tokio::test]
async fn plain_http_and_odd_urls_are_refused() {
    let server = Server::plain(Revision::Modern).await;
    let mut plain = server.spec();
    plain.policy.plain_http = false;
    assert!(connect(plain).await.unwrap_err().message.contains("https://"));
    for url in ["ftp://127.0.0.1/", "http://user:pass@127.0.0.1/", "file:///etc/passwd"] {
        let mut odd = server.spec();
        odd.url = url.parse().unwrap();
        let error = connect(odd).await.unwrap_err();
        assert!(!error.message.contains("pass@"), "{error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn redirects_stay_within_the_origin() {
    for revision in BOTH {
        let elsewhere = Server::plain(revision).await;
        let away = elsewhere.url().to_string();
        let server = Server::start(revision, move |seen| {
            let to = match seen.message["params"]["name"].as_str() {
                Some("away") => Some((307, away.clone())),
                Some("round") => Some((308, "/mcp".to_owned())),
                Some("old") => Some((302, "/mcp/".to_owned())),
                _ => (seen.path == "/mcp").then(|| (307, "/mcp/".to_owned())),
            };
            async move {
                to.map(|(status, to)| (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to)]).into_response())
            }
        })
        .await;
        let connection = server.connect().await;
        call(&connection, "echo").await.unwrap();
        for (name, words) in [("away", "another origin"), ("round", "over 3 times"), ("old", "302")] {
            let error = call(&connection, name).await.unwrap_err();
            assert!(error.message.contains(words) && !error.sent, "{error}");
        }
        assert!(elsewhere.seen().is_empty());
    }
}

#[tokio::test]
async fn nothing_was_sent_where_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = connect(spec(format!("http://127.0.0.1:{port}/").parse().unwrap()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::Connection);
    assert!(
        error.message.contains("files") && error.message.contains("refused"),
        "{error}"
    );
}

/// Dials until it is told not to.
struct Switch {
    address: std::net::SocketAddr,
    off: CancellationToken,
}

impl Dial for Switch {
    fn dial<'a>(&'a self, target: &'a Target, _: Instant) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            if self.off.is_cancelled() {
                return Err(DialError::Connect {
                    host: target.host.clone(),
                    reason: "the tunnel is down".into(),
                });
            }
            Ok(BoxStream::new(TcpStream::connect(self.address).await.unwrap()))
        })
    }
}

#[tokio::test]
async fn another_way_to_a_server_takes_the_place_of_the_network() {
    for revision in BOTH {
        let server = Server::start(revision, |seen| async move {
            // The answer closes its connection, so the next request needs a new one.
            seen.is_call()
                .then(|| ([(header::CONNECTION, "close")], reply(seen.result(text("x")))).into_response())
        })
        .await;
        let off = CancellationToken::new();
        let mut spec = spec("http://inside.example/mcp".parse().unwrap());
        spec.policy.allow = vec![];
        spec.dial = Arc::new(Switch {
            address: server.address,
            off: off.clone(),
        });
        spec.limits.concurrent = 1;
        let connection = connect(spec).await.unwrap();
        call(&connection, "echo").await.unwrap();
        assert_eq!(server.saw(|seen| seen.is_call()).await.header("host"), "inside.example");
        off.cancel();
        let mut error = call(&connection, "echo").await;
        // One more connection may have waited in the pool.
        while error.is_ok() {
            error = call(&connection, "echo").await;
        }
        let error = error.unwrap_err();
        assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, false), "{error}");
        assert!(error.message.contains("the tunnel is down"), "{error}");
    }
}

#[tokio::test]
async fn a_dial_that_hangs_is_given_up() {
    struct Never;
    impl Dial for Never {
        fn dial<'a>(&'a self, _: &'a Target, _: Instant) -> BoxFuture<'a, Result<BoxStream, DialError>> {
            Box::pin(std::future::pending())
        }
    }
    let mut spec = spec("https://inside.example/mcp".parse().unwrap());
    spec.dial = Arc::new(Never);
    spec.limits.dial = std::time::Duration::from_millis(100);
    let error = connect(spec.clone()).await.unwrap_err();
    assert!(error.message.contains("too long"), "{error}");
    let cancel = CancellationToken::new();
    cancel.cancel();
    spec.limits.dial = PATIENCE;
    let connector = outwork_mcp::Connector::new("t", "1");
    let error = connector.connect(spec, deadline(), &cancel).await.err().unwrap();
    assert!(error.message.contains("cancelled"), "{error}");
}

#[tokio::test]
async fn tls_is_checked_against_the_roots_and_the_name() {
    let server = Server::plain(Revision::Modern).await;
    let key = rcgen::generate_simple_self_signed(["mcp.test".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = key.cert.der().clone();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let inner = server.address;
    let proxy = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(stream).await else {
                    return;
                };
                let mut inner = TcpStream::connect(inner).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    let with = |host: &str, roots: Vec<CertificateDer<'static>>| {
        let mut spec = spec(format!("https://{host}:{port}/mcp").parse().unwrap());
        spec.policy.plain_http = false;
        spec.dial = Arc::new(Direct::new(Answers::new(&["127.0.0.1"]), roots).unwrap());
        spec
    };
    let connection = connect(with("mcp.test", vec![certificate.clone()])).await.unwrap();
    call(&connection, "echo").await.unwrap();
    for (host, roots) in [("mcp.test", vec![]), ("other.test", vec![certificate])] {
        let error = connect(with(host, roots)).await.unwrap_err();
        assert!(error.message.contains("TLS"), "{error}");
    }
    proxy.abort();
}
