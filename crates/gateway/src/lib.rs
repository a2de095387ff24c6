//! The gateway beside private MCP servers: it ends the tunnel's inner TLS, checks who calls, applies the rules of the
//! route, calls the private server, and keeps a record of each call.
//!
//! It dials out and listens on nothing but, where asked for, a loopback address for health. What has no rule that allows
//! it is refused: unknown keys, unknown hosts, addresses outside the ranges, tools outside the lists. No payload and no
//! secret is ever logged.
//!
//! [`config`] is the file, [`generation`] what is made of it, [`proxy`] the way of a call, [`mcp`] the rules over
//! messages, [`redact`] what must not leave, [`upstream`] the way to servers.
#![forbid(unsafe_code)]

pub mod caller;
pub mod config;
mod error;
pub mod evidence;
pub mod fuzz;
pub mod gateway;
pub mod generation;
pub mod health;
pub mod inner;
pub mod kill;
pub mod links;
pub mod mcp;
pub mod metrics;
pub mod proxy;
pub mod record;
pub mod redact;
pub mod route;
mod rules;
pub mod run;
pub mod upstream;
mod watch;

pub use error::{ConfigError, Error};
pub use gateway::{Gateway, Setup};
pub use rules::Rules;
