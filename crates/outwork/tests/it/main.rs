//! The built binary over real HTTP on loopback: crashes, credentials, bad input, faulty models, the service around
//! the API, streams, and whole sessions with the worker.
//!
//! Every test starts processes of its own, on a free port and in a folder of its own, and ends them. Nothing here
//! waits on time: a wait names its condition, and fails with what it saw if the condition does not come.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "this is a test")]

mod world;

mod authorization;
mod bad_input;
mod boundary;
mod crash;
mod demo_boundary;
mod evidence;
mod federation;
mod files;
mod gateway;
mod halt;
mod identity;
mod model_faults;
mod policy;
mod service;
mod streams;
mod tunnels;
mod vaults;
mod whole;
