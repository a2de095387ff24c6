//! The gateway over real sockets and real TLS: a caller, the gateway, an upstream.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must stop")]

mod approvals;
mod bodies;
mod identity;
mod kill;
mod logs;
mod protocol;
mod redaction;
mod reload;
mod routing;
mod tools;
mod tunnel;
mod upstream;
mod world;
