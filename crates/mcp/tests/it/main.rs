//! The connector against servers over real HTTP on loopback, in both revisions of the protocol.

mod calls;
mod credentials;
mod hostile;
mod network;
mod server;
mod sessions;
