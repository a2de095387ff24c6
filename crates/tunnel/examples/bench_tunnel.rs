//! Measures the tunnel against a direct connection: one process is the origin and the gateway, another one the edge and
//! the plane, over loopback.
//!
//! `cargo run --release -p outwork-tunnel --example bench_tunnel [quic|tcp [latency|load|new|bulk|idle]]`

use std::env;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use outwork_tunnel::certificate::{SERVER_LIFETIME, make_authority, make_server_certificate};
use outwork_tunnel::edge::{self, Admission, Authenticator, Credentials, Edge, Handle};
use outwork_tunnel::frame::{Open, RefusedCode, Rejection, StreamKind};
use outwork_tunnel::inner::{Connector, server_config};
use outwork_tunnel::link::{self, Accept, Inbound, Links, Mode, echo};
use outwork_tunnel::tls::{Identity, Trust};
use outwork_wire::Time;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TUNNEL: &str = "tnl_bench";
const HOST: &str = "echo.bench.test";
const SINK: &str = "sink.bench.test";
const IDLE: &str = "idle.bench.test";
/// Answered by the gateway's own handler, as a gateway with warm connections to its server would; without inner TLS and
/// with it.
const RAW: &str = "raw.bench.test";
const WARM: &str = "warm.bench.test";
const MESSAGE: usize = 75;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.get(1).map(String::as_str) {
        Some("gateway") => runtime.block_on(gateway(&arguments[2..])),
        Some("quic") => runtime.block_on(plane("quic")),
        Some("tcp") => runtime.block_on(plane("tcp")),
        _ => {
            runtime.block_on(plane("tcp"))?;
            runtime.block_on(plane("quic"))
        }
    }
}

// The gateway's process: the origin, and the tunnel's end before it.

struct Gateway {
    tls: TlsAcceptor,
    origin: SocketAddr,
    sink: SocketAddr,
}

impl Accept for Gateway {
    fn admit(&self, _: &Open) -> Result<(), Rejection> {
        Ok(())
    }

    fn serve(&self, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        let tls = self.tls.clone();
        let origin = if inbound.host == SINK { self.sink } else { self.origin };
        Box::pin(async move {
            if inbound.kind == StreamKind::Probe {
                let _ = echo(&mut inbound.stream).await;
                return;
            }
            if inbound.host == RAW {
                return bounce(inbound.stream, 4096).await;
            }
            if inbound.host == IDLE {
                let mut idle = inbound.stream;
                let _ = idle.read_u8().await;
                return;
            }
            let Ok(mut stream) = tls.accept(inbound.stream).await else {
                return;
            };
            if inbound.host == WARM {
                return bounce(stream, 4096).await;
            }
            let Ok(mut origin) = TcpStream::connect(origin).await else {
                return;
            };
            if origin.set_nodelay(true).is_ok() {
                let _ = copy_bidirectional_with_sizes(&mut stream, &mut origin, 64 << 10, 64 << 10).await;
            }
        })
    }
}

async fn gateway(arguments: &[String]) -> Result<(), Failure> {
    let [edge, pin, mode, certificate, key] = arguments else {
        return Err("arguments".into());
    };
    let origin = listen(|stream| bounce(stream, 64 << 10)).await?;
    // Answers with one byte when it has read everything.
    let sink = listen(|mut stream| async move {
        let mut buffer = vec![0; 256 << 10];
        while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        let _ = stream.write_all(b"!").await;
    })
    .await?;
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let key = PrivateKeyDer::from_pem_file(key)?;
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?;
    let tls = TlsAcceptor::from(Arc::new(server_config(Arc::new(SingleCertAndKey::from(certified)))?));
    let trust = Trust::from_fingerprint(pin)?;
    let mut options = link::Options::new(vec![edge.parse()?], trust, TUNNEL, String::from("token").into());
    options.mode = if mode == "quic" { Mode::Quic } else { Mode::Tcp };
    let links = Links::start(options, Arc::new(Gateway { tls, origin, sink }))?;
    links
        .status()
        .wait_for(|all| all.iter().all(|link| link.is_connected()))
        .await?;
    println!("{origin} {} {}", sink, rss("self"));
    // The parent ends this process.
    links.stopped().cancelled().await;
    Ok(())
}

async fn bounce(mut stream: impl AsyncRead + AsyncWrite + Unpin, size: usize) {
    let mut buffer = vec![0; size];
    while let Ok(len) = stream.read(&mut buffer).await {
        if len == 0 || stream.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
}

async fn listen<F, W>(work: F) -> Result<SocketAddr, Failure>
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_ok() {
                tokio::spawn(work(stream));
            }
        }
    });
    Ok(address)
}

// The plane's process: the edge and the load.

struct Anybody;

impl Authenticator for Anybody {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        let tunnel_id = credentials.tunnel_id.to_owned();
        Box::pin(async move {
            Ok(Admission {
                tunnel_id,
                generation: 1,
            })
        })
    }
}

struct Plane {
    edge: Handle,
    connector: Connector,
    authorities: Vec<CertificateDer<'static>>,
    direct: SocketAddr,
}

impl Plane {
    async fn open(&self, host: &str) -> Result<Box<dyn Duplex>, Failure> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        Ok(Box::new(
            self.connector
                .open(&self.edge, TUNNEL, host, &self.authorities, deadline)
                .await?,
        ))
    }

    async fn dial(&self) -> Result<Box<dyn Duplex>, Failure> {
        let stream = TcpStream::connect(self.direct).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

async fn plane(mode: &str) -> Result<(), Failure> {
    let folder = env::temp_dir().join(format!("bench-tunnel-{}", std::process::id()));
    let identity = Identity::self_signed(&folder, &["127.0.0.1".into()])?;
    let authority = make_authority("bench", Time::now())?;
    let server = make_server_certificate(&authority, "bench.test", SERVER_LIFETIME, Time::now())?;
    std::fs::write(folder.join("tls.crt"), &server.certificate_pem)?;
    std::fs::write(folder.join("tls.key"), server.key_pem.expose_secret())?;
    let pin = identity.fingerprint().unwrap_or_default().to_owned();
    let options = edge::Options::new("127.0.0.1:0".parse()?, identity);
    let (service, handle) = Edge::bind(options, Arc::new(Anybody)).await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(service.run(shutdown.clone()));

    let mut child = Command::new(env::current_exe()?)
        .args(["gateway", &handle.address().to_string(), &pin, mode])
        .args([folder.join("tls.crt"), folder.join("tls.key")])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [direct, _, idle_rss] = words[..] else {
        return Err("the gateway did not start".into());
    };

    let plane = Arc::new(Plane {
        edge: handle,
        connector: Connector::new(),
        authorities: vec![authority.authority().der.clone()],
        direct: direct.parse()?,
    });
    let measured = measure(&plane, mode, idle_rss, child.id()).await;
    child.kill()?;
    child.wait()?;
    shutdown.cancel();
    running.await?;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(plane: &Arc<Plane>, mode: &str, idle_rss: &str, child: u32) -> Result<(), Failure> {
    println!("\n{mode}: gateway idle {idle_rss} MB");
    let wanted = env::args().nth(2);
    let part = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    if part("latency") {
        measure_latency(plane).await?;
    }
    if part("load") {
        for (name, tunnelled) in [("direct", false), ("tunnel", true)] {
            let mut rates = Vec::new();
            for _ in 0..3 {
                rates.push(throughput(plane, 32, tunnelled, Duration::from_secs(2)).await?);
            }
            show(&format!("c=32  {name}, req/s"), rates);
        }
    }
    if part("new") {
        let kinds = [
            ("direct, a TCP connection each", Fresh::Direct),
            ("tunnel, raw", Fresh::Raw),
            ("tunnel, inner TLS", Fresh::Inner(WARM)),
            (
                "tunnel, inner TLS, and a TCP connection to the origin each",
                Fresh::Inner(HOST),
            ),
        ];
        for (name, kind) in kinds {
            let mut rates = Vec::new();
            for _ in 0..3 {
                rates.push(fresh(plane, 8, kind, Duration::from_secs(2)).await?);
            }
            show(&format!("new   {name}, streams/s at c=8"), rates);
        }
    }
    if part("bulk") {
        let mut speeds = Vec::new();
        for _ in 0..3 {
            speeds.push(bulk(plane.open(SINK).await?, 1 << 30).await?);
        }
        show("bulk  one stream, Gbit/s", speeds);
    }
    if part("idle") {
        measure_idle(plane, &child.to_string()).await?;
    }
    Ok(())
}

/// The median, with the range that it comes from.
fn show(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let (median, last) = (values[values.len() / 2], values[values.len() - 1]);
    println!("  {what}: {median:.2} (min {:.2}, max {last:.2})", values[0]);
}

async fn measure_latency(plane: &Plane) -> Result<(), Failure> {
    let (mut added, mut directs) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        // In turn, since the machine is never the same twice.
        let direct = latency(plane.dial().await?, 4000).await?;
        let through = latency(plane.open(HOST).await?, 4000).await?;
        directs.push(direct);
        added.push(through - direct);
    }
    show("c=1   direct p50, us", directs);
    show("c=1   added p50, us", added);
    Ok(())
}

async fn measure_idle(plane: &Plane, child: &str) -> Result<(), Failure> {
    println!(
        "  idle  before: edge and plane {} MB, gateway {} MB",
        rss("self"),
        rss(child)
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut raw = Vec::new();
    for _ in 0..10_000 {
        raw.push(plane.edge.open(TUNNEL, IDLE, deadline).await?);
    }
    println!(
        "  idle  10,000 raw streams: edge and plane {} MB, gateway {} MB",
        rss("self"),
        rss(child)
    );
    drop(raw);
    let mut inner = Vec::new();
    for _ in 0..10_000 {
        let mut stream = plane.open(WARM).await?;
        trip(&mut stream).await?;
        inner.push(stream);
    }
    println!(
        "  idle  10,000 with inner TLS: edge and plane {} MB, gateway {} MB",
        rss("self"),
        rss(child)
    );
    Ok(())
}

async fn latency(mut stream: Box<dyn Duplex>, rounds: usize) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + 500 {
        let start = Instant::now();
        trip(&mut stream).await?;
        if round >= 500 {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

async fn trip(stream: &mut Box<dyn Duplex>) -> Result<(), Failure> {
    stream.write_all(&[0x42; MESSAGE]).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0; MESSAGE]).await?;
    Ok(())
}

async fn throughput(plane: &Arc<Plane>, clients: usize, tunnelled: bool, time: Duration) -> Result<f64, Failure> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(if tunnelled {
            plane.open(HOST).await?
        } else {
            plane.dial().await?
        });
    }
    let start = Instant::now();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut done = 0u64;
                while start.elapsed() < time {
                    trip(&mut stream).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

#[derive(Clone, Copy)]
enum Fresh {
    Direct,
    Raw,
    Inner(&'static str),
}

async fn fresh(plane: &Arc<Plane>, clients: usize, kind: Fresh, time: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let plane = plane.clone();
            tokio::spawn(async move {
                let mut done = 0u64;
                while start.elapsed() < time {
                    let mut stream: Box<dyn Duplex> = match kind {
                        Fresh::Direct => plane.dial().await?,
                        Fresh::Raw => {
                            let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                            Box::new(plane.edge.open(TUNNEL, RAW, deadline).await?)
                        }
                        Fresh::Inner(host) => plane.open(host).await?,
                    };
                    trip(&mut stream).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

async fn bulk(mut stream: Box<dyn Duplex>, total: usize) -> Result<f64, Failure> {
    let block = vec![0x5a; 256 << 10];
    let start = Instant::now();
    for _ in 0..total / block.len() {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    stream.read_exact(&mut [0; 1]).await?;
    Ok(total as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
}

/// Resident megabytes of a process.
fn rss(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    // Keeps lines in order when they go to a pipe.
    let _ = std::io::stdout().flush();
    kilobytes.unwrap_or(0u64) / 1024
}
