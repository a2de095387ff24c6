//! From an address to an admitted connection: resolve, race the transports, say hello.
//!
//! An attempt lasts a few seconds at most and tries again within itself: QUIC sends a fresh first packet every quarter
//! of a second, since its own repetition slows down; a refused TCP connection is dialled again. An edge that comes back
//! during an attempt is found by the next of them. The race is between handshakes; only the winner says hello.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rustls_pki_types::ServerName;
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::{EdgeAddress, Mode};
use super::run::{Shared, jitter};
use crate::control::{Activity, WireError, read_frame, write_frame};
use crate::frame::{Frame, Refused, Welcome};
use crate::socket::Socket;
use crate::transport::{self, CLOSE_REFUSED, Transport};

/// Between two first packets of QUIC, and between two attempts of TCP.
const SPACING: Duration = Duration::from_millis(250);
const TCP_SPACING: Duration = Duration::from_millis(100);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the address `{0}` can not be resolved: {1}")]
    Resolve(String, io::Error),
    #[error("`{0}` is not a name that a certificate can have; set the server name")]
    Name(String),
    #[error("{0}: {1}")]
    Dial(Transport, String),
    #[error("{0}: the edge is not the one that is trusted, or does not speak the tunnel's protocol: {1}")]
    Untrusted(Transport, String),
    #[error("the edge refuses the connection ({}): {}", .0.code.as_str(), .0.message)]
    Refused(Refused),
    #[error("hello: {0}")]
    Hello(WireError),
    #[error("the edge did not answer in time")]
    TimedOut,
}

/// An admitted connection.
pub(super) struct Session {
    pub(super) welcome: Welcome,
    pub(super) remote: SocketAddr,
    pub(super) activity: Arc<Activity>,
    pub(super) carrier: Carrier,
}

pub(super) enum Carrier {
    Quic { connection: quinn::Connection, send: quinn::SendStream, receive: quinn::RecvStream },
    Tcp(Box<TlsStream<Socket>>),
}

impl Session {
    pub(super) fn transport(&self) -> Transport {
        match self.carrier {
            Carrier::Quic { .. } => Transport::Quic,
            Carrier::Tcp(_) => Transport::Tcp,
        }
    }
}

enum Shaken {
    Quic(quinn::Connection),
    Tcp(Box<TlsStream<Socket>>, Arc<Activity>),
}

/// Connects to an edge. `turn` picks among the addresses of a name; `calm` spreads the tries of an old outage.
pub(super) async fn connect(
    shared: &Shared,
    index: usize,
    edge: &EdgeAddress,
    turn: usize,
    calm: u32,
    token: SecretString,
) -> Result<Session, DialError> {
    let mut last = None;
    let attempt = async {
        let mut targets: Vec<SocketAddr> = tokio::net::lookup_host((edge.host.as_str(), edge.port))
            .await
            .map_err(|error| DialError::Resolve(edge.to_string(), error))?
            .collect();
        targets.sort_unstable();
        if targets.is_empty() {
            return Err(DialError::Resolve(edge.to_string(), io::ErrorKind::NotFound.into()));
        }
        let target = targets[(index + turn) % targets.len()];
        let name = shared.options.server_name.as_deref().unwrap_or(&edge.host);
        let shaken = race(shared, name, target, calm.min(3), &mut last).await?;
        let hello = shared.hello(index, token).map_err(|_| DialError::Hello(WireError::Unexpected))?;
        greet(shaken, &hello, target).await
    };
    match tokio::time::timeout(shared.options.attempt, attempt).await {
        Ok(result) => result,
        Err(_) => Err(last.unwrap_or(DialError::TimedOut)),
    }
}

type Dial<'a> = BoxFuture<'a, (Transport, Result<Shaken, DialError>)>;

async fn race(
    shared: &Shared,
    name: &str,
    target: SocketAddr,
    calm: u32,
    last: &mut Option<DialError>,
) -> Result<Shaken, DialError> {
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::Name(name.to_owned()))?;
    let start = Instant::now();
    let (mut quic_at, mut tcp_at) = match shared.options.mode {
        Mode::Auto => (Some(start), Some(start + shared.options.head_start)),
        Mode::Quic => (Some(start), None),
        Mode::Tcp => (None, Some(start)),
    };
    let endpoint = match quic_at {
        Some(_) => match endpoint(target) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                (quic_at, tcp_at) = (None, tcp_at.map(|_| start));
                *last = Some(DialError::Dial(Transport::Quic, error.to_string()));
                None
            }
        },
        None => None,
    };
    let mut dials: FuturesUnordered<Dial<'_>> = FuturesUnordered::new();
    loop {
        let next = match (quic_at, tcp_at) {
            (Some(quic), Some(tcp)) => Some(quic.min(tcp)),
            (quic, tcp) => quic.or(tcp),
        };
        if next.is_none() && dials.is_empty() {
            return Err(last.take().unwrap_or(DialError::TimedOut));
        }
        tokio::select! {
            Some((transport, result)) = dials.next() => match result {
                Ok(shaken) => return Ok(shaken),
                // Trying again would find the same certificate.
                Err(error @ DialError::Untrusted(..)) => return Err(error),
                Err(error) => {
                    *last = Some(error);
                    if transport == Transport::Tcp {
                        tcp_at = Some(Instant::now() + (TCP_SPACING / 2 + jitter(TCP_SPACING)) * (1 << calm));
                    }
                }
            },
            () = tokio::time::sleep_until(next.unwrap_or(start)), if next.is_some() => {
                if let Some(endpoint) = endpoint.as_ref().filter(|_| quic_at.is_some() && quic_at == next) {
                    quic_at = Some(Instant::now() + SPACING * (1 << calm));
                    dials.push(Box::pin(dial_quic(endpoint.clone(), shared.quic.clone(), target, name)));
                } else {
                    tcp_at = None;
                    dials.push(Box::pin(dial_tcp(shared, target, server_name.clone())));
                }
            }
        }
    }
}

fn endpoint(target: SocketAddr) -> io::Result<quinn::Endpoint> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    transport::widen(&socket);
    quinn::Endpoint::new(transport::quic_endpoint(None), None, socket, Arc::new(quinn::TokioRuntime))
}

async fn dial_quic(
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    target: SocketAddr,
    name: &str,
) -> (Transport, Result<Shaken, DialError>) {
    let result = match endpoint.connect_with(config, target, name) {
        Ok(connecting) => connecting.await.map(Shaken::Quic).map_err(|error| match &error {
            quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::VersionMismatch => {
                DialError::Untrusted(Transport::Quic, error.to_string())
            }
            _ => DialError::Dial(Transport::Quic, error.to_string()),
        }),
        Err(error) => Err(DialError::Dial(Transport::Quic, error.to_string())),
    };
    (Transport::Quic, result)
}

async fn dial_tcp(
    shared: &Shared,
    target: SocketAddr,
    name: ServerName<'static>,
) -> (Transport, Result<Shaken, DialError>) {
    let dial = async {
        let activity = Arc::new(Activity::new());
        let socket = Socket::new(TcpStream::connect(target).await?, activity.clone())?;
        let stream = TlsConnector::from(shared.tls.clone()).connect(name, socket).await?;
        Ok::<_, io::Error>(Shaken::Tcp(Box::new(stream), activity))
    };
    let result = dial.await.map_err(|error| {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            DialError::Untrusted(Transport::Tcp, error.to_string())
        } else {
            DialError::Dial(Transport::Tcp, error.to_string())
        }
    });
    (Transport::Tcp, result)
}

async fn greet(shaken: Shaken, hello: &Frame, remote: SocketAddr) -> Result<Session, DialError> {
    match shaken {
        Shaken::Quic(connection) => {
            let greeting = async {
                let (mut send, mut receive) = connection.open_bi().await.map_err(io::Error::from)?;
                // Control goes before payload.
                send.set_priority(1).map_err(io::Error::other)?;
                write_frame(&mut send, hello).await?;
                let answer = read_frame(&mut receive).await?;
                Ok((send, receive, answer))
            };
            let (send, receive, answer) = greeting.await.map_err(DialError::Hello)?;
            match welcome(answer) {
                Ok(welcome) => {
                    let carrier = Carrier::Quic { connection, send, receive };
                    Ok(Session { welcome, remote, activity: Arc::new(Activity::new()), carrier })
                }
                Err(error) => {
                    connection.close(CLOSE_REFUSED, b"");
                    Err(error)
                }
            }
        }
        Shaken::Tcp(mut stream, activity) => {
            let greeting = async {
                write_frame(&mut stream, hello).await?;
                read_frame(&mut stream).await
            };
            let welcome = welcome(greeting.await.map_err(DialError::Hello)?)?;
            Ok(Session { welcome, remote, activity, carrier: Carrier::Tcp(stream) })
        }
    }
}

fn welcome(answer: Frame) -> Result<Welcome, DialError> {
    match answer {
        Frame::Welcome(welcome) => Ok(welcome),
        Frame::Refused(refused) => Err(DialError::Refused(refused)),
        _ => Err(DialError::Hello(WireError::Unexpected)),
    }
}
