//! The whole of it: an edge, the gateway's links, the inner TLS, a private server, the ledger, the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use outwork_gateway::run::{self, Handle, Options};
use outwork_ledger::{Decision, Filter};
use outwork_tunnel::certificate::{MadeAuthority, make_authority, make_server_certificate};
use outwork_tunnel::edge::{self, Admission, Authenticator, Credentials, Edge, OpenError};
use outwork_tunnel::frame::{RefusedCode, RejectionCode};
use outwork_tunnel::inner::Connector;
use outwork_tunnel::tls::Identity;
use outwork_wire::Time;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::server::pieces;
use crate::world::{DOMAIN, Server, soon, until};

const TUNNEL: &str = "tnl_test";

#[derive(Default)]
struct Book(Mutex<HashMap<String, u64>>, Mutex<Vec<String>>);

impl Authenticator for Book {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        let token = credentials.token.expose_secret();
        self.1.lock().unwrap().push(token.to_owned());
        let generation = self.0.lock().unwrap().get(token).copied();
        let tunnel_id = credentials.tunnel_id.to_owned();
        Box::pin(async move {
            generation
                .map(|generation| Admission { tunnel_id, generation })
                .ok_or(RefusedCode::BadToken)
        })
    }
}

struct Rig {
    folder: tempfile::TempDir,
    edge: edge::Handle,
    stop: CancellationToken,
    book: Arc<Book>,
    authority: MadeAuthority,
    connector: Connector,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn rig(server: &Server, transport: &str, more: &str) -> (Rig, Handle) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::self_signed(&folder.path().join("edge"), &["127.0.0.1".to_owned()]).unwrap();
    let fingerprint = identity.fingerprint().unwrap().to_owned();
    let book = Arc::new(Book::default());
    book.0.lock().unwrap().insert("first".to_owned(), 1);
    let options = edge::Options::new("127.0.0.1:0".parse().unwrap(), identity);
    let (service, edge) = Edge::bind(options, book.clone()).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(service.run(stop.clone()));

    let authority = make_authority("test", Time::now()).unwrap();
    let certificate = make_server_certificate(&authority, DOMAIN, Duration::from_secs(3600), Time::now()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tls.crt", &certificate.certificate_pem);
    write("tls.key", certificate.key_pem.expose_secret());
    write("token", "first\n");
    write(
        "config.yaml",
        &format!(
            "tunnel_domain: {DOMAIN}\ntunnel_id: {TUNNEL}\ntoken_file: token\ntls: {{cert_file: tls.crt, key_file: tls.key}}\n\
             upstream: {{allowed_ips: [127.0.0.1/32]}}\n\
             edge: {{addresses: ['{}'], fingerprint: '{fingerprint}', transport: {transport}}}\n\
             health: {{listen_addr: '127.0.0.1:0'}}\nledger: {{dir: ledger}}\n{more}\n\
             routes:\n  wiki:\n    url: http://127.0.0.1:{}\n    tools: {{deny: [drop]}}\n",
            edge.address(),
            server.port()
        ),
    );
    let gateway = run::start(Options::new(folder.path().join("config.yaml")))
        .await
        .unwrap();
    let links = gateway.links();
    until(|| links.borrow().iter().filter(|link| link.is_connected()).count() == 2).await;
    (
        Rig {
            folder,
            edge,
            stop,
            book,
            authority,
            connector: Connector::new(),
        },
        gateway,
    )
}

impl Rig {
    async fn caller(&self, host: &str) -> Result<SendRequest<Full<Bytes>>, OpenError> {
        let stream = self
            .edge
            .open(TUNNEL, host, Instant::now() + Duration::from_secs(10))
            .await?;
        let authority = CertificateDer::from_pem_slice(self.authority.certificate_pem.as_bytes()).unwrap();
        let stream = soon(self.connector.connect(stream, host, &[authority])).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn health(gateway: &Handle, path: &str) -> String {
    let mut stream = TcpStream::connect(gateway.health().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    text
}

fn request(path: &str, tool: &str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", format!("wiki.{DOMAIN}"))
        .header("content-type", "application/json")
        .body(Full::new(
            crate::world::caller::call(tool, json!({"a": 1})).to_string().into(),
        ))
        .unwrap()
}

async fn tool(caller: &mut SendRequest<Full<Bytes>>, tool: &str) -> Value {
    soon(caller.ready()).await.unwrap();
    let response = soon(caller.send_request(request("/mcp", tool))).await.unwrap();
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

async fn calls_come_through(transport: &str) {
    let server = Server::mcp().await;
    let (rig, gateway) = rig(&server, transport, "").await;
    let mut caller = rig.caller("wiki.t.example").await.unwrap();
    assert!(tool(&mut caller, "echo").await["result"].is_object());
    assert_eq!(tool(&mut caller, "drop").await["error"]["data"]["rule"], "tools.deny");
    assert_eq!(server.called(), ["echo"]);

    match rig.caller("other.t.example").await {
        Err(OpenError::Rejected(rejection)) => assert_eq!(rejection.code, RejectionCode::UnknownHost),
        other => panic!("{:?}", other.map(|_| ())),
    }
    rig.edge
        .probe(TUNNEL, "wiki.t.example", Instant::now() + Duration::from_secs(10))
        .await
        .unwrap();

    assert!(health(&gateway, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(health(&gateway, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(health(&gateway, "/other").await.starts_with("HTTP/1.1 404"));
    let metrics = health(&gateway, "/metrics").await;
    assert!(metrics.contains("outwork_gateway_links_up 2\n"), "{metrics}");
    assert!(
        metrics.contains("outwork_gateway_calls_total{route=\"wiki\",decision=\"refused\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("outwork_gateway_probes_total 1\n"), "{metrics}");

    drop(caller);
    assert_eq!(soon(gateway.shutdown()).await, 0);
    let mut calls = Vec::new();
    outwork_ledger::scan(rig.folder.path().join("ledger"), &Filter::everything(), |_, record| {
        assert_eq!(
            (record.tunnel.as_deref(), record.route.as_deref()),
            (Some(TUNNEL), Some("wiki"))
        );
        assert_eq!((&record.input, &record.output), (&None, &None));
        calls.push((record.tool.clone().unwrap(), record.decision.unwrap()));
    })
    .unwrap();
    assert_eq!(
        calls,
        [
            ("echo".to_owned(), Decision::Allowed),
            ("drop".to_owned(), Decision::Denied)
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_come_through_quic() {
    calls_come_through("quic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_come_through_tcp() {
    calls_come_through("tcp").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_ends_before_the_gateway_does() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            let (sender, response) = pieces("application/json");
            sender.send("{".into()).await.unwrap();
            if seen.uri == "/ends" {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    sender.send("}".into()).await
                });
            } else {
                tokio::spawn(async move { sender.closed().await });
            }
            response
        })
    })
    .await;
    for (path, cut) in [("/ends", false), ("/never", true)] {
        let (rig, gateway) = rig(&server, "auto", "shutdown_timeout: 2s").await;
        let mut caller = rig.caller("wiki.t.example").await.unwrap();
        let mut request = request(path, "echo");
        // Not a message, so that the answer streams through.
        *request.method_mut() = http::Method::GET;
        *request.body_mut() = Full::default();
        let gateway_metrics = gateway.gateway().metrics.clone();
        let answer = tokio::spawn(async move {
            let response = caller.send_request(request).await?;
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await
        });
        let under_way = gateway_metrics.route("wiki");
        until(|| under_way.under_way.load(std::sync::atomic::Ordering::Relaxed) == 1).await;
        let streams = soon(gateway.shutdown()).await;
        assert_eq!(streams > 0, cut, "{path}");
        assert_eq!(soon(answer).await.unwrap().is_err(), cut, "{path}");
        assert!(
            rig.edge
                .open(TUNNEL, "wiki.t.example", Instant::now() + Duration::from_millis(500))
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_is_taken_over_from_its_file() {
    let server = Server::mcp().await;
    let (rig, gateway) = rig(&server, "tcp", "").await;
    let shown = |token: &str| rig.book.1.lock().unwrap().iter().filter(|seen| *seen == token).count();
    assert_eq!(shown("first"), 2);
    *rig.book.0.lock().unwrap() = HashMap::from([("second".to_owned(), 2)]);
    // The edge ends: the links dial again, at first with the token that is refused.
    let (service, edge) = {
        rig.stop.cancel();
        let identity = Identity::self_signed(&rig.folder.path().join("edge"), &["127.0.0.1".to_owned()]).unwrap();
        let options = edge::Options::new(rig.edge.address(), identity);
        let gone = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Ok(bound) = Edge::bind(options.clone(), rig.book.clone()).await {
                    return bound;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        gone.await.unwrap()
    };
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    tokio::spawn(service.run(stop));
    let links = gateway.links();
    let up = || links.borrow().iter().filter(|link| link.is_connected()).count();
    until(|| shown("first") > 2 && up() == 0).await;
    std::fs::write(rig.folder.path().join("token"), "second").unwrap();
    until(|| up() == 2).await;
    assert!(shown("second") >= 2 && edge.connections(TUNNEL).len() == 2);
    soon(gateway.shutdown()).await;
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let base = "tunnel_domain: t.example\ntls: {cert_file: a, key_file: b}\nroutes: {wiki: 'http://wiki:80'}\n";
    let edge = "edge: {addresses: ['127.0.0.1:1'], fingerprint: '0000000000000000000000000000000000000000000000000000000000000000'}\n";
    for (more, said) in [
        (String::new(), "edge.addresses"),
        (edge.to_owned(), "tunnel_id"),
        (format!("{edge}tunnel_id: tnl_1\n"), "token_file"),
        (format!("{edge}tunnel_id: tnl_1\ntoken_file: absent\n"), "absent"),
    ] {
        std::fs::write(&path, format!("{base}{more}")).unwrap();
        let error = run::start(Options::new(&path)).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}
