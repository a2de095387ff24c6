//! The connector against servers over real HTTP on loopback, in both revisions of the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod calls;
mod credentials;
mod hostile;
mod network;
mod server;
mod sessions;
