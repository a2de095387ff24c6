//! HTTP: one enum names every operation, one table says its path and who may call it, one function per
//! operation carries it out.
//!
//! Every request goes the same way: request id, route, body limit, credential, authorization, versions,
//! parsing, operation, response. A request for an operation that has no handler does not compile; an operation
//! without a row in the table fails a test.

mod agents;
mod body;
mod boundary;
mod call;
mod dispatch;
mod environments;
mod events;
mod evidence;
mod federation;
mod files;
mod form;
mod halt;
mod identity;
mod keys;
mod lists;
mod models;
mod outputs;
mod query;
mod render;
mod resources;
pub mod server;
mod service;
mod sessions;
mod sse;
mod table;
mod texts;
mod threads;
mod tunnel_certificates;
mod tunnels;
mod vault_auth;
mod vault_credentials;
mod vaults;
mod versions;
mod work;

pub(crate) use query::shortened;

pub use dispatch::router;
pub use table::{Operation, Row, TABLE, Who};
