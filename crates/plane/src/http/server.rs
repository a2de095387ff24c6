//! The listener: connections, TLS, limits, and an orderly end.
//!
//! A connection has a limited time for its handshake and for each request head; bodies are limited where they are
//! read. A client that does not take what it is sent for a while is dropped by the kernel.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::error::PlaneError;
use crate::options::{Limits, TlsPaths};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Server {
    /// Binds the address and reads the certificate.
    pub async fn bind(address: SocketAddr, tls: Option<&TlsPaths>, limits: Limits) -> Result<Self, PlaneError> {
        let tls = tls.map(acceptor).transpose()?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| PlaneError::Listen { address, source })?;
        Ok(Self { listener, tls, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `closing` is cancelled, then takes no more connections, lets requests finish until `drain`
    /// has passed, and drops the rest.
    pub async fn serve(self, router: Router, closing: CancellationToken, drain: Duration) {
        let graceful = GracefulShutdown::new();
        let slots = Arc::new(Semaphore::new(self.limits.max_connections));
        loop {
            let slot = tokio::select! {
                slot = slots.clone().acquire_owned() => slot,
                () = closing.cancelled() => break,
            };
            let Ok(slot) = slot else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = closing.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or the like: others may free some.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            tune(&stream);
            let connection = Connection {
                router: router.clone(),
                header_timeout: self.limits.header_timeout,
                watcher: graceful.watcher(),
            };
            let tls = self.tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => connection.run(stream).await,
                    Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => connection.run(stream).await,
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake timed out"),
                    },
                }
                drop(slot);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not finish before the drain timeout and were dropped");
        }
    }
}

struct Connection {
    router: Router,
    header_timeout: Duration,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn run(self, stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(64 << 10);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .max_concurrent_streams(256);
        // Whoever connects and asks nothing in time is dropped: hyper's own limit begins with the first bytes of a
        // request, and not before it knows which version of HTTP they are.
        let asked = CancellationToken::new();
        let first = asked.clone();
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(move |request| {
            first.cancel();
            router.call(request)
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(self.watcher.watch(connection.into_owned()));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = asked.cancelled() => connection.await,
            () = tokio::time::sleep(self.header_timeout) => {
                tracing::debug!("a client connected and asked nothing in time");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}

fn acceptor(paths: &TlsPaths) -> Result<TlsAcceptor, PlaneError> {
    let fault = |path: &std::path::Path, reason: String| PlaneError::Tls {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&paths.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| fault(&paths.cert, e.to_string()))?;
    if chain.is_empty() {
        return Err(fault(&paths.cert, "it holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(|e| fault(&paths.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(&paths.cert, e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| fault(&paths.cert, e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
