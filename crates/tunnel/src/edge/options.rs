//! What an edge is started with.

use std::net::SocketAddr;
use std::time::Duration;

use super::tap::Tap;
use crate::tls::Identity;
use crate::transport::{Heartbeat, Windows};

/// How an edge works. Take [`Options::new`] and change what is to differ.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address of UDP and TCP.
    pub listen: SocketAddr,
    /// What the edge shows to gateways.
    pub identity: Identity,
    /// How a dead gateway is noticed.
    pub heartbeat: Heartbeat,
    /// What a gateway may send before it is read.
    pub windows: Windows,
    /// How long TLS, the hello and the authenticator may take together, 5 s by default.
    pub handshake_timeout: Duration,
    /// Connections that have not been admitted yet, 256 by default; above half of it, QUIC addresses have to prove
    /// themselves.
    pub max_unauthenticated: usize,
    /// Connections per tunnel, 32 by default.
    pub max_connections: usize,
    /// Streams per connection, 10,000 by default.
    pub max_streams: usize,
    /// Hosts per tunnel that are metered apart, 1,024 by default; the rest is metered together as `*`.
    pub max_hosts: usize,
    /// After how long without an answer another connection is asked for the same stream, 1 s by default.
    pub open_attempt: Duration,
    /// How long a stream that is asked for waits for a gateway to come back, 2 s by default: one that was connected until
    /// a moment ago, or any gateway while the edge itself has only just started. Otherwise nobody waits for a gateway.
    pub reconnect: Duration,
    /// How often the data path of every connection is tested, 15 s by default; `None` for never.
    pub probe_interval: Option<Duration>,
    /// How long a probe may take, 10 s by default. After two that fail the connection is given up.
    pub probe_timeout: Duration,
    /// How long streams may go on when the edge stops, 30 s by default.
    pub drain: Duration,
    /// Events that wait for a slow subscriber before it misses the oldest, 1,024 by default.
    pub events: usize,
    /// Sees the bytes of every stream as the edge relays them, for tests and demonstrations; `None` by default.
    pub tap: Option<Tap>,
}

impl Options {
    /// The defaults.
    pub fn new(listen: SocketAddr, identity: Identity) -> Self {
        Self {
            listen,
            identity,
            heartbeat: Heartbeat::default(),
            windows: Windows::default(),
            handshake_timeout: Duration::from_secs(5),
            max_unauthenticated: 256,
            max_connections: 32,
            max_streams: 10_000,
            max_hosts: 1024,
            open_attempt: Duration::from_secs(1),
            reconnect: Duration::from_secs(2),
            probe_interval: Some(Duration::from_secs(15)),
            probe_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            events: 1024,
            tap: None,
        }
    }
}
