//! What happens to connections, for those who record it.

use std::net::SocketAddr;

use super::Connection;
use crate::frame::RefusedCode;
use crate::transport::Transport;

/// Something that happened at the edge.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A gateway was admitted.
    Connected {
        /// Its tunnel.
        tunnel_id: String,
        /// Its connection.
        connection: Connection,
    },
    /// A connection ended.
    Lost {
        /// Its tunnel.
        tunnel_id: String,
        /// Its id.
        connection_id: String,
        /// Why.
        reason: LostReason,
        /// More of it, for people.
        detail: String,
    },
    /// A connection was not admitted.
    Refused {
        /// The tunnel that it named.
        tunnel_id: String,
        /// Where it came from.
        remote: SocketAddr,
        /// How.
        transport: Transport,
        /// Why.
        code: RefusedCode,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LostReason {
    /// The gateway closed it, or its process ended.
    Closed,
    /// Nothing was heard of the gateway.
    Silent,
    /// The gateway broke the protocol.
    Protocol,
    /// Its streams had ended after one side drained.
    Drained,
    /// The data path failed its test.
    Probe,
    /// The tunnel was archived.
    Archived,
    /// The edge stopped.
    Stopped,
}

impl LostReason {
    /// The reason as it stands in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Protocol => "protocol",
            Self::Drained => "drained",
            Self::Probe => "probe",
            Self::Archived => "archived",
            Self::Stopped => "stopped",
        }
    }
}
