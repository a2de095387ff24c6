//! Where a connection wanted to go, and the way there.

use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Finds the destination that a redirected connection had.
pub trait OriginalDestination: Send + Sync + 'static {
    /// The destination.
    ///
    /// # Errors
    /// What the system said; the connection is then dropped.
    fn of(&self, stream: &TcpStream) -> io::Result<SocketAddr>;
}

/// What the kernel remembers of a connection that nftables redirected (`SO_ORIGINAL_DST`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Redirected;

impl OriginalDestination for Redirected {
    fn of(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let own = stream.local_addr()?;
        let original = if own.ip().to_canonical().is_ipv4() {
            SocketAddr::V4(sockopt::ip_original_dst(stream)?)
        } else {
            SocketAddr::V6(sockopt::ipv6_original_dst(stream)?)
        };
        Ok(SocketAddr::new(original.ip().to_canonical(), original.port()))
    }
}

/// Opens connections to where the policy allows. The address was vetted and is the one that is dialled.
pub trait Connect: Send + Sync + 'static {
    /// A connection to an address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Connect for Direct {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}
