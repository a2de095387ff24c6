//! The outgoing boundary from outside: clients that stand for a sandbox, servers that stand for the internet.

#![allow(clippy::unwrap_used)]

mod attacks;
mod changes;
mod client;
mod crossing;
mod names;
mod secrets;
mod server;
mod world;
