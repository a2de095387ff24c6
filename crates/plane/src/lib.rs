//! The control plane: the API, the agent loop, the work queue.
//!
//! `http/` turns requests into [`Operation`](http::Operation)s and answers into responses, `app/` carries the
//! operations out on a caller's authority, `run/` owns the sessions that are at work, `reconcile` does what runs
//! by itself. Nothing reaches a stream, a worker or a model before the store has made it durable.
#![forbid(unsafe_code)]

pub mod app;
mod auth;
mod error;
pub mod http;
mod mcp;
mod metrics;
mod options;
mod plane;
mod reconcile;
mod run;
pub mod vault;

pub use auth::{Role, SecretText};
pub use error::PlaneError;
pub use mcp::{McpNetworks, McpOptions};
pub use options::{Limits, ModelProvider, PlaneOptions, TlsPaths};
pub use outwork_engine::{PromptOptions, RetryPolicy};
pub use plane::{AdminKey, Plane};
