//! The listening sockets and what runs behind them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::greet::{self, Greeter};
use super::handle::Shared;
use super::tunnel::Tunnels;
use super::{Authenticator, Error, Handle, Options};
use crate::transport::{self, CLOSE_DONE, Windows};

/// What a QUIC peer may send before it is admitted.
const STRANGER_WINDOW: u32 = 64 << 10;
/// How often a pair of ports is looked for.
const PORT_TRIES: usize = 32;

/// An edge that listens; [`Service::run`] makes it work.
pub struct Service {
    greeter: Greeter,
    listener: TcpListener,
    endpoint: quinn::Endpoint,
    strangers: Arc<Semaphore>,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("address", &self.greeter.shared.address)
            .finish_non_exhaustive()
    }
}

pub(super) async fn bind(options: Options, authenticator: Arc<dyn Authenticator>) -> Result<(Service, Handle), Error> {
    let crypto =
        quinn::crypto::rustls::QuicServerConfig::try_from(options.identity.server_config(transport::ALPN_QUIC)?)
            .map_err(|error| crate::tls::TlsError::Identity(rustls::Error::General(error.to_string())))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let windows = Windows {
        connection: STRANGER_WINDOW,
        ..options.windows
    };
    // One stream, for control: a gateway opens no other. The gateway keeps the connection alive.
    config
        .transport_config(transport::quic(windows, options.heartbeat, 1, None))
        .max_incoming(options.max_unauthenticated)
        .incoming_buffer_size(STRANGER_WINDOW.into());
    let tls = TlsAcceptor::from(options.identity.server_config(transport::ALPN_TCP)?);

    let (listener, socket) = open_ports(options.listen).await?;
    let address = listener
        .local_addr()
        .map_err(|source| listen_error(options.listen, "TCP", source))?;
    transport::widen(&socket);
    let reset_key = options.identity.reset_key.clone();
    let endpoint = quinn::Endpoint::new(
        transport::quic_endpoint(reset_key.as_deref().map(|key| &**key)),
        Some(config),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .map_err(|source| listen_error(address, "UDP", source))?;

    let strangers = Arc::new(Semaphore::new(options.max_unauthenticated));
    let shared = Arc::new(Shared {
        address,
        tunnels: Tunnels::default(),
        events: broadcast::Sender::new(options.events.max(1)),
        draining: CancellationToken::new(),
        started: Instant::now(),
        options,
    });
    let greeter = Greeter {
        shared: shared.clone(),
        authenticator,
        tasks: TaskTracker::new(),
        killed: CancellationToken::new(),
    };
    Ok((
        Service {
            greeter,
            listener,
            endpoint,
            strangers,
            tls,
        },
        Handle(shared),
    ))
}

async fn open_ports(wanted: SocketAddr) -> Result<(TcpListener, std::net::UdpSocket), Error> {
    let mut tries = if wanted.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let listener = TcpListener::bind(wanted)
            .await
            .map_err(|source| listen_error(wanted, "TCP", source))?;
        let address = listener
            .local_addr()
            .map_err(|source| listen_error(wanted, "TCP", source))?;
        match std::net::UdpSocket::bind(address) {
            Ok(socket) => return Ok((listener, socket)),
            Err(source) => {
                tries -= 1;
                if tries == 0 {
                    return Err(listen_error(address, "UDP", source));
                }
            }
        }
    }
}

fn listen_error(address: SocketAddr, protocol: &'static str, source: io::Error) -> Error {
    Error::Listen {
        address,
        protocol,
        source,
    }
}

impl Service {
    /// Takes connections until `shutdown`, then drains: gateways are told, streams may end within the drain time, and
    /// what is left is cut. If the future is dropped everything ends at once.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ended = self.greeter.killed.clone().drop_guard();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, remote)) => self.take_tcp(stream, remote),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors, most likely: trying at once would only burn the processor.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(incoming) = self.endpoint.accept() => self.take_quic(incoming),
                () = shutdown.cancelled() => break,
            }
        }
        let Self {
            greeter,
            listener,
            endpoint,
            ..
        } = self;
        greeter.shared.draining.cancel();
        drop(listener);
        endpoint.set_server_config(None);
        greeter.tasks.close();
        // Whoever has not ended by then is cut.
        let _ = tokio::time::timeout(greeter.shared.options.drain, greeter.tasks.wait()).await;
        greeter.killed.cancel();
        let rest = async {
            greeter.tasks.wait().await;
            endpoint.close(CLOSE_DONE, b"");
            endpoint.wait_idle().await;
        };
        // Gateways that do not answer the goodbye are not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.strangers.clone().try_acquire_owned().ok()
    }

    fn take_tcp(&self, stream: TcpStream, remote: SocketAddr) {
        let Some(permit) = self.permit() else {
            tracing::debug!(%remote, "too many connections wait for admission; this one is dropped");
            return;
        };
        let greeter = self.greeter.clone();
        self.greeter
            .spawn(greet::tcp(greeter, stream, remote, self.tls.clone(), permit));
    }

    fn take_quic(&self, incoming: quinn::Incoming) {
        let crowded = self.strangers.available_permits() <= self.greeter.shared.options.max_unauthenticated / 2;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            // It fails only for what `may_retry` excludes.
            let _ = incoming.retry();
            return;
        }
        match self.permit() {
            Some(permit) => {
                let greeter = self.greeter.clone();
                self.greeter.spawn(greet::quic(greeter, incoming, permit));
            }
            None => incoming.refuse(),
        }
    }
}
