//! What a gateway's links are started with.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::Error;
use crate::tls::Trust;
use crate::transport::{Heartbeat, Windows};

/// The address of an edge: a name or an IP address, and a port that serves UDP and TCP alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EdgeAddress {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for EdgeAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|h| h.parse::<std::net::Ipv6Addr>().is_ok()),
            None => Some(host).filter(|h| !h.is_empty() && !h.contains([':', '/', ' '])),
        };
        let port = port.parse().ok().filter(|&port: &u16| port != 0).ok_or_else(invalid)?;
        Ok(Self { host: host.ok_or_else(invalid)?.to_owned(), port })
    }
}

impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Which transports are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// QUIC, and TCP beside it if QUIC gives nothing within the head start.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// HTTP/2 over TLS on TCP only.
    Tcp,
}

/// How the links of a gateway work. Take [`Options::new`] and change what is to differ.
#[derive(Clone)]
pub struct Options {
    /// The edge's addresses; links spread over them.
    pub edges: Vec<EdgeAddress>,
    /// Which edge is trusted.
    pub trust: Trust,
    /// The name that the edge's certificate must have, if it is not the address's host.
    pub server_name: Option<String>,
    /// The tunnel's id.
    pub tunnel_id: String,
    /// The tunnel's token.
    pub token: SecretString,
    /// Names this gateway process among others of the tunnel; random unless given.
    pub instance: String,
    /// The gateway's software and version.
    pub software: String,
    /// How many connections are kept, 2 by default.
    pub connections: usize,
    /// Which transports are tried.
    pub mode: Mode,
    /// How long QUIC is tried alone, 250 ms by default.
    pub head_start: Duration,
    /// How long one attempt to connect may take, 3 s by default.
    pub attempt: Duration,
    /// The longest pause between attempts that fail at first, 100 ms by default.
    pub first_backoff: Duration,
    /// How long an outage may last before pauses grow, 15 s by default.
    pub fast_phase: Duration,
    /// The longest pause between attempts, 5 s by default.
    pub backoff_cap: Duration,
    /// How a dead edge is noticed.
    pub heartbeat: Heartbeat,
    /// What the edge may send before it is read.
    pub windows: Windows,
    /// How many streams the edge may have open on one connection, 16,384 by default.
    pub max_streams: u32,
    /// How long the head of a stream may take, 5 s by default.
    pub open_timeout: Duration,
}

impl Options {
    /// The defaults for a tunnel.
    pub fn new(edges: Vec<EdgeAddress>, trust: Trust, tunnel_id: impl Into<String>, token: SecretString) -> Self {
        Self {
            edges,
            trust,
            server_name: None,
            tunnel_id: tunnel_id.into(),
            token,
            instance: format!("gw_{}", outwork_wire::id::fresh_suffix(outwork_wire::Time::now(), &mut rand::rng())),
            software: concat!("outwork/", env!("CARGO_PKG_VERSION")).to_owned(),
            connections: 2,
            mode: Mode::default(),
            head_start: Duration::from_millis(250),
            attempt: Duration::from_secs(3),
            first_backoff: Duration::from_millis(100),
            fast_phase: Duration::from_secs(15),
            backoff_cap: Duration::from_secs(5),
            heartbeat: Heartbeat::default(),
            windows: Windows::default(),
            max_streams: 16_384,
            open_timeout: Duration::from_secs(5),
        }
    }
}
