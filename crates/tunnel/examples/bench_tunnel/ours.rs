//! Our way: the edge in this process, the gateway in one of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_tunnel::certificate::{Authority, SERVER_LIFETIME, make_authority, make_server_certificate};
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
use tokio::io::{AsyncReadExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::origin::bounce;
use crate::way::{Duplex, Ports, Process, resident};

pub(crate) const TUNNEL: &str = "tnl_bench";
pub(crate) const HOST: &str = "echo.bench.test";
pub(crate) const SINK: &str = "sink.bench.test";
/// Taken and then left alone.
pub(crate) const IDLE: &str = "idle.bench.test";
/// Answered by the gateway's own handler, as a gateway with warm connections to its server would; without inner TLS and
/// with it.
pub(crate) const RAW: &str = "raw.bench.test";
pub(crate) const WARM: &str = "warm.bench.test";

/// A folder that goes with its owner.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn fresh(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("bench-tunnel-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Identities of an edge and of a gateway, in a folder.
pub(crate) struct Identities {
    pub(crate) folder: Folder,
    pub(crate) edge: Identity,
    pub(crate) pin: String,
}

impl Identities {
    pub(crate) fn make(name: &str) -> Result<Self, Failure> {
        let folder = Folder::fresh(name)?;
        let edge = Identity::self_signed(&folder.0.join("edge"), &["127.0.0.1".into()])?;
        let pin = edge.fingerprint().unwrap_or_default().to_owned();
        let authority = make_authority("bench", Time::now())?;
        let server = make_server_certificate(&authority, "bench.test", SERVER_LIFETIME, Time::now())?;
        std::fs::write(folder.0.join("ca.crt"), &authority.certificate_pem)?;
        std::fs::write(folder.0.join("tls.crt"), &server.certificate_pem)?;
        std::fs::write(folder.0.join("tls.key"), server.key_pem.expose_secret())?;
        Ok(Self { folder, edge, pin })
    }

    /// Starts a gateway's process, and waits until its links are up. With it comes what it weighs.
    pub(crate) fn gateway(&self, edge: SocketAddr, mode: &str, ports: Ports) -> Result<(Process, f64), Failure> {
        let folder = self.folder.0.to_string_lossy().into_owned();
        let numbers = [edge.to_string(), ports.echo.to_string(), ports.sink.to_string()];
        let mut arguments = vec!["gateway".to_owned(), folder, self.pin.clone(), mode.to_owned()];
        arguments.extend(numbers);
        let (process, line) = Process::role(&arguments)?;
        Ok((process, line.parse()?))
    }
}

/// Reads the authority of a folder.
pub(crate) fn authorities(folder: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = std::fs::read_to_string(folder.join("ca.crt"))?;
    Ok(vec![Authority::parse(&pem, Time::now())?.der])
}

/// The edge here, the gateway there.
pub(crate) struct Ours {
    pub(crate) mode: &'static str,
    pub(crate) edge: Handle,
    pub(crate) gateway: Process,
    /// Megabytes of the gateway when its links came up.
    pub(crate) idle: f64,
    connector: Connector,
    authorities: Vec<CertificateDer<'static>>,
    stop: CancellationToken,
    _identities: Identities,
}

impl Ours {
    pub(crate) async fn start(mode: &'static str, ports: Ports) -> Result<Self, Failure> {
        let identities = Identities::make(mode)?;
        let options = edge::Options::new("127.0.0.1:0".parse()?, identities.edge.clone());
        let (service, handle) = Edge::bind(options, Arc::new(Anybody)).await?;
        let stop = CancellationToken::new();
        tokio::spawn(service.run(stop.clone()));
        let (address, folder) = (handle.address(), &identities.folder.0);
        let authorities = authorities(folder)?;
        // Its first line is waited for, and this runtime has to serve its links meanwhile.
        let (gateway, idle) = tokio::task::block_in_place(|| identities.gateway(address, mode, ports))?;
        Ok(Self {
            mode,
            edge: handle,
            gateway,
            idle,
            connector: Connector::new(),
            authorities,
            stop,
            _identities: identities,
        })
    }

    /// A stream with inner TLS.
    pub(crate) async fn open(&self, host: &str) -> Result<Box<dyn Duplex>, Failure> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let opened = self
            .connector
            .open(&self.edge, TUNNEL, host, &self.authorities, deadline);
        Ok(Box::new(opened.await?))
    }

    /// A stream without.
    pub(crate) async fn open_raw(&self, host: &str) -> Result<Box<dyn Duplex>, Failure> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        Ok(Box::new(self.edge.open(TUNNEL, host, deadline).await?))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Admits everybody: what is measured is the path, not the tokens.
pub(crate) struct Anybody;

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

struct Gateway {
    tls: TlsAcceptor,
    ports: Ports,
}

impl Accept for Gateway {
    fn admit(&self, _: &Open) -> Result<(), Rejection> {
        Ok(())
    }

    fn serve(&self, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        let tls = self.tls.clone();
        let origin = if inbound.host == SINK {
            self.ports.sink
        } else {
            self.ports.echo
        };
        Box::pin(async move {
            if inbound.kind == StreamKind::Probe {
                // The edge sees whether it came back.
                let _ = echo(&mut inbound.stream).await;
                return;
            }
            if inbound.host == RAW {
                return bounce(inbound.stream, 4096).await;
            }
            if inbound.host == IDLE {
                let mut idle = inbound.stream;
                // Ends when the other side does.
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
                // The load sees what broke.
                let _ = copy_bidirectional_with_sizes(&mut stream, &mut origin, 64 << 10, 64 << 10).await;
            }
        })
    }
}

/// The links of a gateway whose identity is in a folder.
pub(crate) fn links(folder: &Path, pin: &str, mode: &str, edge: SocketAddr, ports: Ports) -> Result<Links, Failure> {
    let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"))?;
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?;
    let tls = TlsAcceptor::from(Arc::new(server_config(Arc::new(SingleCertAndKey::from(certified)))?));
    let trust = Trust::from_fingerprint(pin)?;
    let edges = vec![edge.to_string().parse()?];
    let mut options = link::Options::new(edges, trust, TUNNEL, String::from("token").into());
    options.mode = if mode == "quic" { Mode::Quic } else { Mode::Tcp };
    Ok(Links::start(options, Arc::new(Gateway { tls, ports }))?)
}

/// What the gateway's process does.
pub(crate) async fn gateway(arguments: &[String]) -> Result<(), Failure> {
    let [folder, pin, mode, edge, echo, sink] = arguments else {
        return Err("arguments of a gateway".into());
    };
    let ports = Ports {
        echo: echo.parse()?,
        sink: sink.parse()?,
    };
    let links = links(Path::new(folder), pin, mode, edge.parse()?, ports)?;
    let mut status = links.status();
    status
        .wait_for(|all| all.iter().all(|link| link.is_connected()))
        .await?;
    println!("{}", resident("self"));
    // The parent ends this process.
    std::future::pending().await
}
