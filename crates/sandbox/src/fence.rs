//! The worker's ends of a sandbox's network fence.
//!
//! Whoever holds a [`Fence`] is the whole network of its sandbox: every TCP connection that the workload opens to an
//! address outside arrives at one socket, every question to UDP port 53 at the other, and nothing else leaves. Dropping
//! it takes the network away; what is connected stays until those sockets are dropped too.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

/// Two sockets that were made inside a sandbox's network namespace. Both take IPv4 (as mapped addresses) and IPv6, and
/// both block: set them non-blocking before giving them to a runtime.
#[derive(Debug)]
pub struct Fence {
    /// Accepts what the workload connects. [`original_destination`] says where to.
    pub tcp: TcpListener,
    /// Receives what the workload sends to any name server. Answers go back to the sender's address.
    pub dns: UdpSocket,
}

impl Fence {
    pub(crate) fn new(tcp: OwnedFd, dns: OwnedFd) -> Self {
        Self {
            tcp: TcpListener::from(tcp),
            dns: UdpSocket::from(dns),
        }
    }
}

/// Where the workload wanted a connection, which was accepted from a fence, to go.
///
/// The fence resets connections that were made to the listener itself, so none is ever accepted; if the kernel still
/// names the listener's own address, that is an error here.
pub fn original_destination(stream: impl AsFd) -> io::Result<SocketAddr> {
    let own = rustix::net::getsockname(&stream)?;
    let own = SocketAddr::try_from(own).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let original = match own.ip().to_canonical() {
        IpAddr::V4(_) => SocketAddr::V4(rustix::net::sockopt::ip_original_dst(&stream)?),
        IpAddr::V6(_) => SocketAddr::V6(rustix::net::sockopt::ipv6_original_dst(&stream)?),
    };
    if original.ip() == own.ip().to_canonical() && original.port() == own.port() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the connection was made to the listener itself",
        ));
    }
    Ok(original)
}
