//! What both sides agree on below the frames: ALPN, windows, QUIC settings, HTTP/2 settings, error codes.
//!
//! Windows bound what a peer can make this side buffer: one stream's window per stalled reader, the connection's window
//! for all of them together.

use std::fmt;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// The ALPN of the tunnel over QUIC.
pub const ALPN_QUIC: &[u8] = b"outwork-tunnel/1";
/// The ALPN of the tunnel over TLS on TCP.
pub const ALPN_TCP: &[u8] = b"outwork-tunnel-h2/1";

/// The header of a CONNECT request that says what the stream is for.
pub(crate) const KIND_HEADER: &str = "outwork-kind";
/// The value of [`KIND_HEADER`] on the control stream.
pub(crate) const KIND_CONTROL: &str = "control";
/// The authority of the control stream.
pub(crate) const CONTROL_HOST: &str = "control.invalid";
/// The header of a rejection: its code as a number.
pub(crate) const CODE_HEADER: &str = "outwork-code";
/// The header of a rejection: its message, UTF-8 without control characters.
pub(crate) const MESSAGE_HEADER: &str = "outwork-message";

/// What a stream is reset with when its owner dropped it.
pub(crate) const RESET_DROPPED: VarInt = VarInt::from_u32(1);
/// What a connection is closed with when its owner is done with it.
pub(crate) const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// What a connection is closed with when the peer broke the protocol or was refused.
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(2);
/// What a connection is closed with when it was judged dead.
pub(crate) const CLOSE_DEAD: VarInt = VarInt::from_u32(3);

/// How a connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// HTTP/2 over TLS on TCP.
    Tcp,
}

impl Transport {
    /// The transport as it stands in logs and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much a peer may send before it is read.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Bytes per stream.
    pub stream: u32,
    /// Bytes per connection.
    pub connection: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self { stream: 2 << 20, connection: 128 << 20 }
    }
}

/// How a dead peer is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// How often a ping is sent.
    pub interval: Duration,
    /// After how much silence a connection is dead.
    pub silence: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), silence: Duration::from_millis(2750) }
    }
}

/// The settings of a QUIC connection. `streams` is how many bidirectional streams the peer may open at a time;
/// `keep_alive` is set on the gateway's side, which alone sends packets on an idle connection, often enough to be
/// answered by an edge that was restarted with a reset well before the next ping.
pub(crate) fn quic(windows: Windows, heartbeat: Heartbeat, streams: u32, keep_alive: Option<Duration>) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP_PAYLOAD);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(windows.stream.into())
        .receive_window(windows.connection.into())
        .send_window(u64::from(windows.stream) * 4)
        .initial_rtt(Duration::from_millis(100))
        .mtu_discovery_config(Some(mtu))
        .keep_alive_interval(keep_alive)
        .max_idle_timeout(IdleTimeout::try_from(heartbeat.silence).ok());
    Arc::new(config)
}

/// The largest datagram that is looked for: what fits a 9,000-byte frame over IPv6.
pub(crate) const MAX_UDP_PAYLOAD: u16 = 8952;

/// The settings of a QUIC endpoint; `reset_key` makes stateless resets recognizable across restarts.
pub(crate) fn quic_endpoint(reset_key: Option<&[u8; 64]>) -> EndpointConfig {
    let mut config = match reset_key {
        Some(key) => EndpointConfig::new(Arc::new(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key))),
        None => EndpointConfig::default(),
    };
    // Both bounds of the call hold for the constant, so an error cannot occur; the default would only cost speed.
    let _ = config.max_udp_payload_size(MAX_UDP_PAYLOAD);
    config
}

/// Room in the kernel for bursts. The kernel cuts it to what it allows, and less only costs speed.
pub(crate) fn widen(socket: &UdpSocket) {
    const ROOM: usize = 4 << 20;
    if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(socket, ROOM)
        .and_then(|()| rustix::net::sockopt::set_socket_send_buffer_size(socket, ROOM))
    {
        tracing::debug!(%error, "the UDP socket keeps the kernel's default buffers");
    }
}

/// HTTP/2 frame size that bulk transfers fill, and the bytes that a stream may hold unsent.
pub(crate) const H2_FRAME: u32 = 64 << 10;
pub(crate) const H2_SEND_BUFFER: usize = 512 << 10;
