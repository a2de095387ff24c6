//! The tunnel: byte streams from the plane to a gateway that dialled out of a private network.
//!
//! The plane's side is [`edge`], the gateway's side is [`link`]; between them stand the messages of [`frame`] over QUIC,
//! or HTTP/2 over TLS on TCP where UDP is closed. The outer TLS ([`tls`]) hides the tunnel from the network; the inner
//! TLS ([`inner`]), from the plane to the gateway and checked against the authorities that the tunnel's owner registered
//! ([`certificate`]), hides the payload from the edge. The crate knows no HTTP request and no rule: what a stream
//! carries is the business of the gateway and of the plane.
//!
//! Invariants: no payload byte passes before the gateway accepted the stream; none passes while a tunnel is paused or
//! after it was closed; a stream that is dropped is reset on the other side; every wait has a deadline.

#![forbid(unsafe_code)]

pub mod certificate;
mod control;
pub mod edge;
pub mod frame;
pub mod inner;
pub mod link;
mod socket;
pub mod stream;
pub mod tls;
mod transport;

pub use edge::Edge;
pub use frame::{Open, Rejection, RejectionCode, StreamKind};
pub use link::{Accept, Inbound, Links};
pub use stream::Stream;
pub use transport::Transport;
