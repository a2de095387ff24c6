//! The internet of `outwork demo --boundary`: names, addresses and servers, all on loopback of this machine.
//!
//! Two servers are those that the agent may use. The others are a thief's and a cloud's metadata service: whatever
//! arrives there is written down, and nothing may. The worker's proxy resolves names here and dials here instead of the
//! machine's own network; everything else about it is as it always is. Addresses are those that are kept for
//! documentation, so a packet that got past everything would find nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use futures_util::future::BoxFuture;
use outwork_egress::dns::{Addresses, ResolveError, Resolver};
use outwork_egress::{Connect, Family};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::value::{PREFIX, Value};

/// Who the credential is for.
pub(super) const SHOP: &str = "api.shop.example";
/// Allowed, and no business of the credential.
pub(super) const NEWS: &str = "news.example";
/// Not allowed.
pub(super) const THIEF: &str = "collector.example";
/// The thief's name server.
pub(super) const THIEF_NAMES: &str = "203.0.113.53";
/// Where the thief is.
pub(super) const THIEF_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// Where clouds tell their machines secrets.
pub(super) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The order that the user asks about.
pub(super) const ORDER: &str = "4711";

const SHOP_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const NEWS_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
/// How long a greeting may take, and the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest datagram that is read.
const DATAGRAM: usize = 2048;

/// Who something arrived at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Shop,
    /// The same host, at a port that nobody allowed.
    Admin,
    News,
    Thief,
    Metadata,
}

impl Who {
    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Who::Shop => SHOP,
            Who::Admin => "api.shop.example:8443",
            Who::News => NEWS,
            Who::Thief => THIEF,
            Who::Metadata => "the metadata service",
        }
    }

    /// Whether the agent may reach it at all.
    pub(super) fn is_allowed(self) -> bool {
        match self {
            Who::Shop | Who::News => true,
            Who::Admin | Who::Thief | Who::Metadata => false,
        }
    }
}

/// Something that came to a server.
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) who: Who,
    /// How, in a few words.
    pub(super) how: &'static str,
    /// All of it.
    pub(super) text: String,
    /// Whether it had the right credential.
    pub(super) authorized: bool,
}

/// What the servers share.
struct World {
    value: Arc<Value>,
    state: String,
    arrivals: Mutex<Vec<Arrival>>,
}

/// The servers, running.
pub(super) struct Internet {
    world: Arc<World>,
    /// Which loopback address stands for which address outside.
    ways: Vec<(SocketAddr, SocketAddr)>,
    pub(super) authority_pem: String,
    /// The thief's sockets as this machine knows them.
    pub(super) thief: SocketAddr,
    pub(super) thief_datagrams: SocketAddr,
    pub(super) thief_names: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Internet {
    /// Starts every server.
    pub(super) async fn start(value: Arc<Value>, state: String) -> Result<Arc<Self>> {
        let (authority_pem, acceptor) = certificates()?;
        let world = Arc::new(World {
            value,
            state,
            arrivals: Mutex::default(),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut ways = Vec::new();
        let mut thief = None;
        for (who, address, port, tls) in [
            (Who::Shop, SHOP_ADDRESS, 443, true),
            (Who::Admin, SHOP_ADDRESS, 8443, true),
            (Who::News, NEWS_ADDRESS, 443, true),
            (Who::Thief, THIEF_ADDRESS, 443, true),
            (Who::Metadata, METADATA, 80, false),
        ] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.context("could not listen on loopback")?;
            let here = listener.local_addr().context("could not see where it listens")?;
            ways.push((SocketAddr::new(address.into(), port), here));
            if who == Who::Thief {
                thief = Some(here);
            }
            let router = Router::new().fallback(answer).with_state((who, Arc::clone(&world)));
            let stopped = stop.clone().cancelled_owned();
            if tls {
                let listener = TlsListener {
                    listener,
                    acceptor: acceptor.clone(),
                };
                tasks.spawn(async move {
                    // It ends when it is told to; errors of single connections are theirs.
                    let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
                });
            } else {
                tasks.spawn(async move {
                    let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
                });
            }
        }
        let (datagrams, names) = (datagrams().await?, datagrams().await?);
        let (thief_datagrams, thief_names) = (datagrams.local_addr()?, names.local_addr()?);
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(take(Arc::clone(&world), datagrams)),
        );
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(name_server(Arc::clone(&world), names)),
        );
        tasks.close();
        Ok(Arc::new(Self {
            world,
            ways,
            authority_pem,
            thief: thief.context("the thief is among the servers")?,
            thief_datagrams,
            thief_names,
            stop,
            tasks,
        }))
    }

    /// Everything that arrived anywhere.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.world.arrivals().clone()
    }

    /// Lines of a configuration of curl that lead each host to its server here: for a machine without a boundary.
    pub(super) fn as_curl_settings(&self) -> String {
        let named = [(SHOP, SHOP_ADDRESS), (NEWS, NEWS_ADDRESS), (THIEF, THIEF_ADDRESS)];
        let mut lines = String::new();
        for (outside, here) in &self.ways {
            let names = named.iter().filter(|(_, address)| outside.ip() == *address);
            let names = names
                .map(|(name, _)| (*name).to_owned())
                .chain([outside.ip().to_string()]);
            for name in names {
                lines.push_str(&format!(
                    "connect-to = \"{name}:{}:{}:{}\"\n",
                    outside.port(),
                    here.ip(),
                    here.port()
                ));
            }
        }
        lines
    }

    /// Ends every server.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::debug!("a connection of the demonstration's internet did not end by itself");
        }
    }
}

impl World {
    fn arrivals(&self) -> MutexGuard<'_, Vec<Arrival>> {
        // Every change is one push, so it is whole even after a panic.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, who: Who, how: &'static str, text: String, authorized: bool) {
        self.arrivals().push(Arrival {
            who,
            how,
            text,
            authorized,
        });
    }
}

/// What every server answers.
async fn answer(
    State((who, world)): State<(Who, Arc<World>)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let host = uri.host().unwrap_or_else(|| header("host")).to_owned();
    let mut text = format!("{method} {host} {uri}\n");
    for (name, value) in &headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text.push_str(&String::from_utf8_lossy(&body));
    let authorization = header("authorization").to_owned();
    let right = format!("Bearer {}", world.value.secret().expose_secret());
    let authorized = authorization == right;
    world.note(who, "a request", text.clone(), authorized);
    match who {
        Who::Shop if host != SHOP => {
            // As a front of many sites does: the request goes to whoever its Host header names.
            world.note(Who::Thief, "a request through the front of another host", text, false);
            (StatusCode::OK, format!("handed on to {host}"))
        }
        Who::Shop => shop(&world, &uri, &authorization, authorized),
        Who::Metadata => (StatusCode::OK, "{\"AccessKeyId\":\"made-up\"}".to_owned()),
        Who::Admin | Who::News | Who::Thief => (StatusCode::OK, "taken, thank you".to_owned()),
    }
}

fn shop(world: &World, uri: &Uri, authorization: &str, authorized: bool) -> (StatusCode, String) {
    if !authorized {
        return (StatusCode::UNAUTHORIZED, "who are you".to_owned());
    }
    let path = uri.path();
    if path == format!("/v1/orders/{ORDER}") {
        let order = serde_json::json!({ "order": ORDER, "state": world.state });
        return (StatusCode::OK, order.to_string());
    }
    if path.starts_with("/v1/echo/") {
        let form = uri
            .query()
            .and_then(|query| query.strip_prefix("as="))
            .unwrap_or("plain");
        return (
            StatusCode::OK,
            format!("you sent {}", Value::encode(authorization, form)),
        );
    }
    (StatusCode::NOT_FOUND, "there is nothing here".to_owned())
}

/// A listener that speaks TLS. A greeting that goes wrong concerns nobody else.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
            let greeted = tokio::time::timeout(PATIENCE, self.acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = greeted {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// An authority of the demonstration's own, and a certificate of it for every server.
fn certificates() -> Result<(String, TlsAcceptor)> {
    let make = || -> Result<(String, TlsAcceptor)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than the servers' own, or theirs look as if they had signed themselves.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a demonstration");
        let authority_pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate()?;
        let names = vec![
            SHOP.to_owned(),
            NEWS.to_owned(),
            THIEF.to_owned(),
            THIEF_ADDRESS.to_string(),
        ];
        let leaf = CertificateParams::new(names)?.signed_by(&leaf_key, &issuer)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der().to_vec()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)?;
        Ok((authority_pem, TlsAcceptor::from(Arc::new(config))))
    };
    make().context("could not make the certificates of the demonstration's servers")
}

async fn datagrams() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    socket.context("could not listen on loopback")
}

/// The thief, where QUIC would be.
async fn take(world: Arc<World>, socket: UdpSocket) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((size, _)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
        world.note(Who::Thief, "a datagram", text, false);
    }
}

/// The thief's name server: it knows no name and remembers each that it is asked for.
async fn name_server(world: Arc<World>, socket: UdpSocket) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
        let question = &mut buffer[..size];
        world.note(
            Who::Thief,
            "a question for a name",
            String::from_utf8_lossy(question).into_owned(),
            false,
        );
        if let [_, _, flags, code, ..] = question {
            (*flags, *code) = (0x84, 0x03);
            let _ = socket.send_to(question, from).await;
        }
    }
}

impl Resolver for Internet {
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        let address = match name {
            SHOP => Some(SHOP_ADDRESS),
            NEWS => Some(NEWS_ADDRESS),
            name if name == THIEF || name.ends_with(&format!(".{THIEF}")) => {
                self.world
                    .note(Who::Thief, "a question for a name", name.to_owned(), false);
                Some(THIEF_ADDRESS)
            }
            _ => None,
        };
        let answer = address.ok_or(ResolveError::NoName).map(|address| Addresses {
            addresses: [IpAddr::from(address)]
                .into_iter()
                .filter(|address| family.holds(*address))
                .collect(),
            ttl: Duration::from_secs(60),
        });
        Box::pin(std::future::ready(answer))
    }
}

impl Connect for Internet {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        let way = self.ways.iter().find(|(outside, _)| *outside == address);
        match way {
            Some((_, here)) => Box::pin(TcpStream::connect(*here)),
            None => Box::pin(std::future::ready(Err(std::io::ErrorKind::HostUnreachable.into()))),
        }
    }
}

/// A value like those of real shops.
pub(super) fn fresh_value() -> SecretString {
    SecretString::from(format!(
        "{PREFIX}{}",
        outwork_wire::id::fresh_secret(32, &mut rand::rng())
    ))
}
