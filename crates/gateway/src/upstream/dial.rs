//! A connection to an upstream: resolve, check, dial exactly what was checked, TLS where the route says so.
//!
//! The name is resolved once for each connection, every address is checked, and no other address is ever dialled.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::AddressPolicy;
use crate::config::text::{Scheme, Target};
use crate::mcp::refusal::Refusal;

/// Turns names into addresses.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the system.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0))
                .await?
                .map(|address| address.ip())
                .collect())
        })
    }
}

/// Why there is no connection. The text is for the log of the owner; callers get [`DialError::refusal`].
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No address may be dialled.
    #[error(
        "IP validation failed: {host} resolves to {shown}; upstream.allowed_ips says which addresses may be dialled"
    )]
    Address {
        /// The name.
        host: String,
        /// Each address and what it is.
        shown: String,
    },
    /// Nobody answered.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The server's certificate or protocol is not acceptable.
    #[error("TLS with {host} failed: {source}; upstream.tls.ca_file says which authorities count")]
    Tls {
        /// The name.
        host: String,
        /// The reason.
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection to {host} within {} ms", limit.as_millis())]
    Timeout {
        /// The name.
        host: String,
        /// `timeouts.connect`.
        limit: Duration,
    },
}

impl DialError {
    /// What the caller is told. Addresses inside the network are not the caller's business.
    pub fn refusal(&self) -> Refusal {
        let (rule, status, what) = match self {
            DialError::Resolve { .. } => ("upstream.resolve", StatusCode::BAD_GATEWAY, "its name does not resolve"),
            DialError::Address { .. } => ("upstream.allowed_ips", StatusCode::BAD_GATEWAY, "IP validation failed"),
            DialError::Connect { .. } => (
                "upstream.connect",
                StatusCode::BAD_GATEWAY,
                "it does not accept connections",
            ),
            DialError::Tls { .. } => ("upstream.tls", StatusCode::BAD_GATEWAY, "TLS with it failed"),
            DialError::Timeout { .. } => (
                "upstream.connect",
                StatusCode::GATEWAY_TIMEOUT,
                "it did not answer in time",
            ),
        };
        Refusal::path(
            rule,
            status,
            format!("The server behind this route cannot be reached: {what}."),
        )
    }
}

/// Dials one upstream.
#[derive(Clone)]
pub struct Dialer {
    pub(crate) target: Target,
    pub(crate) policy: AddressPolicy,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) limit: Duration,
}

impl Dialer {
    /// A new connection.
    pub async fn dial(&self) -> Result<Io, DialError> {
        let host = &self.target.host;
        let timeout = || DialError::Timeout {
            host: host.clone(),
            limit: self.limit,
        };
        tokio::time::timeout(self.limit, self.connect())
            .await
            .map_err(|_| timeout())?
    }

    async fn connect(&self) -> Result<Io, DialError> {
        let stream = self.tcp(&self.addresses().await?).await?;
        // Small messages both ways: waiting to fill packets would only delay them.
        let _ = stream.set_nodelay(true);
        match self.target.scheme {
            Scheme::Http | Scheme::Tcp => Ok(Io::Plain(stream)),
            Scheme::Https => {
                let host = &self.target.host;
                let failed = |source| DialError::Tls {
                    host: host.clone(),
                    source,
                };
                let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
                let stream = TlsConnector::from(self.tls.clone())
                    .connect(name, stream)
                    .await
                    .map_err(failed)?;
                Ok(Io::Tls(Box::new(stream)))
            }
        }
    }

    /// The addresses that may be dialled, in the order in which they were given.
    async fn addresses(&self) -> Result<Vec<IpAddr>, DialError> {
        let host = &self.target.host;
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let failed = |source| DialError::Resolve {
                    host: host.clone(),
                    source,
                };
                let found = self.resolver.resolve(host).await.map_err(failed)?;
                if found.is_empty() {
                    return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
                }
                found
            }
        };
        let mut allowed = Vec::new();
        let mut refused = Vec::new();
        for address in found {
            match self.policy.check(address) {
                Ok(address) => allowed.push(address),
                Err(class) => refused.push(format!("{address} ({class})")),
            }
        }
        if allowed.is_empty() {
            return Err(DialError::Address {
                host: host.clone(),
                shown: refused.join(", "),
            });
        }
        Ok(allowed)
    }

    /// The first address that answers. Each gets an equal part of the time, so that one that is silent leaves some.
    async fn tcp(&self, addresses: &[IpAddr]) -> Result<TcpStream, DialError> {
        let part = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = None;
        for address in addresses {
            let address = SocketAddr::new(*address, self.target.port);
            let source = match tokio::time::timeout(part, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => source,
                Err(_) => io::Error::from(io::ErrorKind::TimedOut),
            };
            last = Some(DialError::Connect { address, source });
        }
        Err(last.unwrap_or_else(|| DialError::Timeout {
            host: self.target.host.clone(),
            limit: self.limit,
        }))
    }
}

/// A connection, with or without TLS.
pub enum Io {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
