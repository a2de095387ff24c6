//! The control plane: the API, the agent loop, the work queue.
//!
//! `http/` turns requests into [`Operation`](http::Operation)s and answers into responses, `app/` carries the
//! operations out on a caller's authority, `run/` owns the sessions that are at work, `reconcile` does what runs
//! by itself. Nothing reaches a stream, a worker or a model before the store has made it durable.
#![forbid(unsafe_code)]

pub mod app;
mod auth;
pub mod edge;
mod error;
mod evidence;
mod federation;
pub mod http;
pub mod identity;
mod mcp;
mod metrics;
mod options;
mod plane;
mod private_file;
mod reconcile;
mod run;
mod upkeep;
pub mod vault;

pub use auth::{Role, SecretText};
pub use error::PlaneError;
pub use evidence::LedgerOptions;
pub use federation::{FederationOptions, FederationRule, Scope, SubjectPattern};
pub use mcp::{McpNetworks, McpOptions};
pub use options::{
    EdgeOptions, FileOptions, IdentityOptions, Limits, ModelProvider, PlaneOptions, TlsPaths, TunnelOptions,
};
pub use outwork_engine::{PromptOptions, RetryPolicy};
pub use outwork_store::BlobPlace;
pub use plane::{AdminKey, Plane};
