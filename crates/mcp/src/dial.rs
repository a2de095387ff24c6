//! How a byte stream to a server comes about.
//!
//! [`Dial`] is the seam between the connector and the network: [`Direct`] resolves, checks and connects; the plane has
//! another one that goes through a tunnel. TLS is part of dialling, because who ends it differs between the two.

use std::{fmt, io, pin::Pin, task};

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

pub mod address;
mod direct;

pub use direct::{Direct, DirectError, Resolve, SystemResolver};

/// Where to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// TLS or not.
    pub scheme: Scheme,
    /// The host as in the URL: a name in ASCII or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Which addresses may be dialled.
    pub policy: AddressPolicy,
}

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// Which servers a workspace may reach beyond public ones over TLS. The default is the strictest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Networks that may be dialled although [`address::refusal`] refuses them.
    pub allow: Vec<IpNet>,
    /// Whether `http://` is allowed.
    pub plain_http: bool,
}

/// A connected stream, ready for HTTP/1.1.
pub struct BoxStream(Pin<Box<dyn Stream>>);

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl BoxStream {
    /// Boxes a stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl fmt::Debug for BoxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxStream")
    }
}

impl AsyncRead for BoxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> task::Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> task::Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// Connects to servers.
pub trait Dial: Send + Sync {
    /// A stream to `target`, TLS done, or an error before `deadline`.
    fn dial<'a>(&'a self, target: &'a Target, deadline: Instant) -> BoxFuture<'a, Result<BoxStream, DialError>>;
}

/// Why there is no stream. Nothing of a request was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name {host} cannot be resolved: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The host is, or resolves to, an address that is not to be dialled, or it is to be dialled without TLS.
    #[error("{host} may not be dialled: {reason}; the workspace's allow list can permit it")]
    Refused {
        /// The host as in the URL, not the address: the answers of an inner resolver are nobody's business.
        host: String,
        /// What kind of address.
        reason: &'static str,
    },
    /// No TCP connection, or no tunnel.
    #[error("no connection to {host}: {reason}")]
    Connect {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// No TLS session.
    #[error("no TLS session with {host}: {reason}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        reason: String,
    },
    /// The deadline passed.
    #[error("connecting to {host} took too long")]
    Timeout {
        /// The host.
        host: String,
    },
}
