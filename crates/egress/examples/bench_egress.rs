//! What the boundary costs, over loopback, with the direct way in turn in the same run. One line of JSON.
//!
//! `opened`: TLS is ended, a header's placeholder is replaced by its secret, the response is searched, a record goes to
//! the ledger; against the same request straight to the server over TLS. `passed`: bytes over a connection that is
//! passed through; against the same bytes straight. `cold`: the first connection for a host, certificate included.
//! `policy`: from the change of a policy to the first request that is refused for it, on a kept connection.
//!
//! `bench_egress --mitmdump PROGRAM` measures the same requests through mitmdump in the same rounds: a proxy that is
//! asked with CONNECT, whose script replaces the header.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outwork_egress::dns::{Addresses, ResolveError, Resolver};
use outwork_egress::secret::{SecretSet, SecretSpec};
use outwork_egress::{
    Connect, Document, Egress, Family, LedgerEvidence, Options, OriginalDestination, Policy, SessionAuthority,
    UpstreamTls,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SECRET: &str = "sk-live-9f8e7d6c5b4a39281706";
const PLACEHOLDER: &str = "sk-live-PLACEHOLDER000000001";
const ADDRESS: &str = "93.184.215.10";
const BLOCK: usize = 256 * 1024;

struct Zone;

impl Resolver for Zone {
    fn addresses<'a>(&'a self, _: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        let address: IpAddr = ADDRESS.parse().unwrap();
        let addresses = [address].into_iter().filter(|a| family.holds(*a)).collect();
        Box::pin(std::future::ready(Ok(Addresses {
            addresses,
            ttl: Duration::from_secs(3600),
        })))
    }
}

#[derive(Default)]
struct Origins(Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginalDestination for Origins {
    fn of(&self, stream: &TcpStream) -> std::io::Result<SocketAddr> {
        let known = self.0.lock().unwrap().get(&stream.peer_addr()?).copied();
        known.ok_or_else(|| std::io::Error::other("not redirected"))
    }
}

struct Wires {
    web: SocketAddr,
    raw: SocketAddr,
    sealed: SocketAddr,
}

impl Connect for Wires {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        let to = match address.port() {
            443 => self.web,
            5432 => self.raw,
            _ => self.sealed,
        };
        Box::pin(TcpStream::connect(to))
    }
}

/// The two ways to the servers.
#[derive(Clone)]
struct Ways {
    origins: Arc<Origins>,
    boundary: SocketAddr,
    web: SocketAddr,
    raw: SocketAddr,
    sealed: SocketAddr,
    connector: TlsConnector,
    mitmdump: Option<SocketAddr>,
}

/// How a request goes to its server.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Direct,
    Boundary,
    Mitmdump,
}

impl Ways {
    async fn dial(&self, port: u16, direct: bool) -> TcpStream {
        let stream = if direct {
            let to = match port {
                443 => self.web,
                5432 => self.raw,
                _ => self.sealed,
            };
            TcpStream::connect(to).await.unwrap()
        } else {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let to = SocketAddr::new(ADDRESS.parse().unwrap(), port);
            self.origins.0.lock().unwrap().insert(socket.local_addr().unwrap(), to);
            socket.connect(self.boundary).await.unwrap()
        };
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection through mitmdump to the web server.
    async fn proxied(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.mitmdump.unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let ask = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", self.web);
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        stream
    }

    async fn client(&self, name: &str, way: Way) -> SendRequest<Full<Bytes>> {
        let stream = match way {
            Way::Mitmdump => self.proxied().await,
            _ => self.dial(443, way == Way::Direct).await,
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = self.connector.connect(name, stream).await.unwrap();
        let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }
}

async fn ask(client: &mut SendRequest<Full<Bytes>>, key: &str) {
    let request = http::Request::get("/v1/things?limit=10")
        .header("host", "api.example")
        .header("authorization", format!("Bearer {key}"))
        .header("user-agent", "bench/1.0")
        .header("accept", "*/*")
        .body(Full::default())
        .unwrap();
    client.ready().await.unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

/// Latencies of requests one after the other.
async fn one_at_a_time(ways: &Ways, way: Way, count: usize) -> Vec<Duration> {
    let key = if way == Way::Direct { SECRET } else { PLACEHOLDER };
    let mut client = ways.client("api.example", way).await;
    ask(&mut client, key).await;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        ask(&mut client, key).await;
        all.push(start.elapsed());
    }
    all
}

/// Requests each second, so many at a time.
async fn at_a_time(ways: &Ways, way: Way, many: usize, each: usize) -> f64 {
    let key = if way == Way::Direct { SECRET } else { PLACEHOLDER };
    let mut clients = Vec::new();
    for _ in 0..many {
        let mut client = ways.client("api.example", way).await;
        ask(&mut client, key).await;
        clients.push(client);
    }
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for _ in 0..each {
                    ask(&mut client, key).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (many * each) as f64 / start.elapsed().as_secs_f64()
}

/// Bytes each second from the server, in one connection.
async fn bulk(ways: &Ways, direct: bool, bytes: usize) -> f64 {
    drain(ways.dial(5432, direct).await, bytes).await
}

/// The same with TLS between client and server, as connections that are passed through have it.
async fn bulk_tls(ways: &Ways, direct: bool, bytes: usize) -> f64 {
    let name = ServerName::try_from("bulk.example").unwrap();
    let stream = ways
        .connector
        .connect(name, ways.dial(5433, direct).await)
        .await
        .unwrap();
    drain(stream, bytes).await
}

async fn drain(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, bytes: usize) -> f64 {
    stream.write_all(&[0]).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = vec![0; BLOCK];
    stream.read_exact(&mut buffer).await.unwrap();
    let start = Instant::now();
    let mut got = 0;
    while got < bytes {
        got += stream.read(&mut buffer).await.unwrap();
    }
    got as f64 / start.elapsed().as_secs_f64()
}

fn percentile(all: &mut [Duration], share: f64) -> f64 {
    all.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = ((all.len() - 1) as f64 * share) as usize;
    all[at].as_secs_f64() * 1e6
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The servers run in a runtime of their own, as they would in another process.
fn servers() -> (SocketAddr, SocketAddr, SocketAddr, String, RootCertStore) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let (ca, pem) = (ca.der().clone(), ca.pem());
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![
        "api.example".to_owned(),
        "bulk.example".to_owned(),
        "*.cold.example".to_owned(),
    ]);
    let leaf = leaf.unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap().der().clone();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let raw = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let sealed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addresses = (
                web.local_addr().unwrap(),
                raw.local_addr().unwrap(),
                sealed.local_addr().unwrap(),
            );
            send.send(addresses).unwrap();
            let tls = acceptor.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = sealed.accept().await {
                    let tls = tls.clone();
                    tokio::spawn(async move {
                        let block = vec![7; BLOCK];
                        let mut stream = tls.accept(stream).await.unwrap();
                        let _ = stream.read(&mut [0; 1]).await;
                        while stream.write_all(&block).await.is_ok() {}
                    });
                }
            });
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = raw.accept().await {
                    tokio::spawn(async move {
                        let block = vec![7; BLOCK];
                        let _ = stream.read(&mut [0; 1]).await;
                        while stream.write_all(&block).await.is_ok() {}
                    });
                }
            });
            let body = Bytes::from(r#"{"object":"list","data":[{"id":"thing_1"},{"id":"thing_2"}]}"#);
            while let Ok((stream, _)) = web.accept().await {
                stream.set_nodelay(true).unwrap();
                let (acceptor, body) = (acceptor.clone(), body.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let good = request.headers()["authorization"]
                            .as_bytes()
                            .ends_with(SECRET.as_bytes());
                        let mut response = http::Response::new(Full::new(body.clone()));
                        if !good {
                            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
                        }
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let io = TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
    });
    let (web, raw, sealed) = receive.recv().unwrap();
    (web, raw, sealed, pem, roots)
}

/// What an idle boundary with an authority of its own takes, out of a hundred.
fn idle_bytes() -> usize {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let upstream = Arc::new(UpstreamTls::new(outwork_egress::system_roots()).unwrap());
    let before = resident();
    let all: Vec<_> = (0..100)
        .map(|_| {
            let sockets = (
                std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
            );
            let policy = Policy::new("idle", &Document::default(), &[]);
            let authority = Arc::new(SessionAuthority::make().unwrap());
            let evidence = Arc::new(outwork_egress::NoEvidence);
            let options = Options::new(sockets, policy, authority, evidence, Arc::new(Zone), upstream.clone());
            Egress::start(options).unwrap()
        })
        .collect();
    let after = resident();
    drop(all);
    after.saturating_sub(before) / 100
}

/// The peer: a process with a folder of its own.
struct Mitmdump {
    address: SocketAddr,
    authority: rustls::pki_types::CertificateDer<'static>,
    child: std::process::Child,
    _folder: tempfile::TempDir,
}

impl Mitmdump {
    /// Starts it if it was named, and waits until it listens.
    async fn start(authority: &str) -> Option<Self> {
        let mut arguments = std::env::args().skip_while(|argument| argument != "--mitmdump");
        let program = arguments.nth(1)?;
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("replace.py");
        let text = format!(
            "def request(flow):\n    value = flow.request.headers.get(\"authorization\", \"\")\n    \
             flow.request.headers[\"authorization\"] = value.replace(\"{PLACEHOLDER}\", \"{SECRET}\")\n"
        );
        std::fs::write(&script, text).unwrap();
        let trusted = folder.path().join("origin.pem");
        std::fs::write(&trusted, authority).unwrap();
        // A port that is free now; nobody else takes one meanwhile.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = std::process::Command::new(program)
            .args([
                "--quiet",
                "--listen-host",
                "127.0.0.1",
                "--listen-port",
                &port.port().to_string(),
            ])
            .arg("--set")
            .arg(format!("confdir={}", folder.path().display()))
            .arg("--set")
            .arg(format!("ssl_verify_upstream_trusted_ca={}", trusted.display()))
            .arg("--scripts")
            .arg(&script)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let certificate = folder.path().join("mitmproxy-ca-cert.pem");
        let begun = Instant::now();
        while TcpStream::connect(port).await.is_err() || !certificate.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "mitmdump does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let pem = std::fs::read(&certificate).unwrap();
        let authority = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
        Some(Self {
            address: port,
            authority,
            child,
            _folder: folder,
        })
    }
}

impl Drop for Mitmdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (web, raw, sealed, pem, roots) = servers();
    let peer = Mitmdump::start(&pem).await;
    let policy = "[[allow]]\nhost = [\"api.example\", \"*.cold.example\"]\nports = [443, 5432]\n[[allow]]\nhost = \"bulk.example\"\nports = [5433]\n";
    let policy = Policy::new("bench", &Document::from_toml("bench", policy).unwrap(), &[]);
    let authority = Arc::new(SessionAuthority::make().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let ledger =
        outwork_ledger::Ledger::open(folder.path().join("ledger"), outwork_ledger::Options::default()).unwrap();
    let (tcp, dns) = (
        std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    let origins = Arc::<Origins>::default();
    let mut trusted = roots.clone();
    trusted.add(authority.certificate_der().clone()).unwrap();
    if let Some(peer) = &peer {
        trusted.add(peer.authority.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let ways = Ways {
        origins: origins.clone(),
        boundary: tcp.local_addr().unwrap(),
        web,
        raw,
        sealed,
        connector: TlsConnector::from(Arc::new(config)),
        mitmdump: peer.as_ref().map(|peer| peer.address),
    };
    let evidence = Arc::new(LedgerEvidence::queued(ledger));
    let upstream = Arc::new(UpstreamTls::new(roots).unwrap());
    let mut options = Options::new((tcp, dns), policy, authority, evidence, Arc::new(Zone), upstream);
    let hosts = vec!["api.example".to_owned(), "*.cold.example".to_owned()];
    let spec = SecretSpec::new("key", SECRET.to_owned().into(), PLACEHOLDER.to_owned(), hosts);
    options.secrets = SecretSet::new(vec![spec]).unwrap();
    options.connector = Arc::new(Wires { web, raw, sealed });
    options.origin = origins;
    let dns = options.dns.local_addr().unwrap();
    let in_force = options.policy.clone();
    let handle = Egress::start(options).unwrap();
    // Names are asked for as a sandbox does, so that their addresses are pinned.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let lookup = async |name: &str| {
        let mut query = hickory_proto::op::Message::query();
        let name = hickory_proto::rr::Name::from_ascii(name).unwrap();
        query.add_query(hickory_proto::op::Query::query(name, hickory_proto::rr::RecordType::A));
        socket.send_to(&query.to_vec().unwrap(), dns).await.unwrap();
        socket.recv(&mut [0; 512]).await.unwrap();
    };
    lookup("api.example.").await;
    lookup("bulk.example.").await;

    let (mut through, mut straight) = (Vec::new(), Vec::new());
    let (mut through_many, mut straight_many) = (Vec::new(), Vec::new());
    let (mut through_bulk, mut straight_bulk) = (Vec::new(), Vec::new());
    let (mut through_tls, mut straight_tls) = (Vec::new(), Vec::new());
    let (mut peers, mut peers_many) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        straight.extend(one_at_a_time(&ways, Way::Direct, 1000).await);
        through.extend(one_at_a_time(&ways, Way::Boundary, 1000).await);
        straight_many.push(at_a_time(&ways, Way::Direct, 32, 500).await);
        through_many.push(at_a_time(&ways, Way::Boundary, 32, 500).await);
        if peer.is_some() {
            peers.extend(one_at_a_time(&ways, Way::Mitmdump, 200).await);
            peers_many.push(at_a_time(&ways, Way::Mitmdump, 32, 20).await);
        }
        straight_bulk.push(bulk(&ways, true, 1 << 30).await);
        through_bulk.push(bulk(&ways, false, 1 << 30).await);
        straight_tls.push(bulk_tls(&ways, true, 1 << 29).await);
        through_tls.push(bulk_tls(&ways, false, 1 << 29).await);
    }
    let mut cold = Vec::new();
    for n in 0..40 {
        let name = format!("n{n}.cold.example");
        lookup(&format!("{name}.")).await;
        let start = Instant::now();
        drop(ways.client(&name, Way::Boundary).await);
        cold.push(start.elapsed());
    }
    let mut changes = Vec::new();
    let nothing = Policy::nothing();
    for _ in 0..200 {
        let mut client = ways.client("api.example", Way::Boundary).await;
        ask(&mut client, PLACEHOLDER).await;
        let start = Instant::now();
        handle.set_policy(nothing.clone());
        let request = http::Request::get("/v1/things?limit=10").header("host", "api.example");
        client.ready().await.unwrap();
        let answer = client.send_request(request.body(Full::default()).unwrap()).await;
        changes.push(start.elapsed());
        assert!(
            answer.map_or(true, |answer| answer.status() == 403),
            "the policy is not in force"
        );
        handle.set_policy(in_force.clone());
        lookup("api.example.").await;
    }
    let stats = handle.stats();
    let (p50, direct_p50) = (percentile(&mut through, 0.5), percentile(&mut straight, 0.5));
    let (rate, direct_rate) = (median(through_many), median(straight_many));
    let (bytes, direct_bytes) = (median(through_bulk), median(straight_bulk));
    let (tls, direct_tls) = (median(through_tls), median(straight_tls));
    let idle = idle_bytes();
    println!(
        "{}",
        serde_json::json!({
            "opened": {
                "p50_us": p50, "p95_us": percentile(&mut through, 0.95),
                "direct_p50_us": direct_p50, "direct_p95_us": percentile(&mut straight, 0.95),
                "ratio": p50 / direct_p50,
            },
            "opened_32": { "requests_per_s": rate, "direct_requests_per_s": direct_rate, "ratio": rate / direct_rate },
            "passed": { "bytes_per_s": bytes, "direct_bytes_per_s": direct_bytes, "ratio": bytes / direct_bytes },
            "passed_tls": { "bytes_per_s": tls, "direct_bytes_per_s": direct_tls, "ratio": tls / direct_tls },
            "mitmdump": peer.is_some().then(|| serde_json::json!({
                "p50_us": percentile(&mut peers, 0.5), "p95_us": percentile(&mut peers, 0.95),
                "requests_per_s": median(peers_many),
            })),
            "policy": { "p50_us": percentile(&mut changes, 0.5), "p95_us": percentile(&mut changes, 0.95) },
            "idle_bytes_each": idle,
            "cold": { "p50_us": percentile(&mut cold, 0.5), "p95_us": percentile(&mut cold, 0.95) },
            "requests": stats.requests, "records_refused": stats.unrecorded,
        })
    );
    handle.shutdown(Duration::from_secs(5)).await;
}
