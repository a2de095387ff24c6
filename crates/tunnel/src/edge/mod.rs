//! The plane's side of the tunnel: takes the connections of gateways and opens streams over them.
//!
//! [`Edge::bind`] opens one port for UDP and TCP. A connection says hello within a few seconds, is judged by the
//! [`Authenticator`], and then only carries what [`Handle`] opens: a gateway can open nothing. Refused are hellos that
//! are too long, too late or of another version, tokens that the authenticator refuses, and connections above the
//! limits.
//!
//! Invariants: a stream belongs to the tunnel that was asked for and to no other; once [`Handle::pause`] or
//! [`Handle::close`] returns, no byte of the tunnel's streams passes either way; payload is counted and never looked at.

mod connection;
mod event;
mod greet;
mod handle;
mod meter;
mod options;
mod service;
mod stream;
mod tap;
mod tunnel;

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use secrecy::SecretString;

pub use self::connection::Connection;
pub use self::event::{Event, LostReason};
pub use self::handle::Handle;
pub use self::meter::Usage;
pub use self::options::Options;
pub use self::service::Service;
pub use self::stream::Stream;
pub use self::tap::{Direction, Tap};
use crate::frame::{RefusedCode, Rejection};
use crate::tls::TlsError;
use crate::transport::Transport;

/// What keeps an edge from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be opened.
    #[error("the tunnel's edge can not listen on {address} ({protocol}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What happened.
        source: std::io::Error,
    },
    /// The identity can not be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why no stream came about. No byte of payload was taken by a gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The host is not a lower-case name.
    #[error("`{0}` is not a host that a tunnel can carry: a lower-case name is expected")]
    InvalidHost(String),
    /// No gateway of the tunnel is connected.
    #[error("no gateway of this tunnel is connected")]
    NotConnected,
    /// The tunnel is paused.
    #[error("this tunnel is paused; nothing passes until it is resumed")]
    Paused,
    /// The tunnel is closed for good.
    #[error("this tunnel is archived")]
    Closed,
    /// The edge shuts down.
    #[error("the edge is shutting down")]
    Stopping,
    /// Every connection carries as many streams as it may.
    #[error("every connection of this tunnel carries as many streams as it may")]
    Busy,
    /// The gateway does not take the stream.
    #[error("the gateway refused the stream: {0}")]
    Rejected(Rejection),
    /// No gateway answered in time.
    #[error("no gateway of this tunnel answered in time")]
    TimedOut,
    /// Every connection was lost while it was asked.
    #[error("the connection to the gateway was lost: {0}")]
    Lost(String),
}

/// What a gateway claims to be.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// The tunnel that it names.
    pub tunnel_id: &'a str,
    /// The token that it shows.
    pub token: &'a SecretString,
    /// Where it connects from.
    pub remote: SocketAddr,
    /// How.
    pub transport: Transport,
}

/// What a gateway is admitted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The tunnel.
    pub tunnel_id: String,
    /// Which of the tunnel's tokens was shown; a rotation raises it.
    pub generation: u64,
}

/// Decides which connections belong to which tunnel.
pub trait Authenticator: Send + Sync + 'static {
    /// The tunnel of these credentials, or why there is none. A token is to be compared in constant time. The edge waits
    /// no longer than its handshake timeout.
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>>;
}

/// The edge; see [`Edge::bind`].
#[derive(Debug)]
pub struct Edge;

impl Edge {
    /// Opens the port, for UDP and TCP alike, and gives the service that has to be run and the handle to use it. With
    /// port 0 both get the same free port. Must be called in a Tokio runtime.
    pub async fn bind(
        options: Options,
        authenticator: std::sync::Arc<dyn Authenticator>,
    ) -> Result<(Service, Handle), Error> {
        service::bind(options, authenticator).await
    }
}
