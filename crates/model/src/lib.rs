#![forbid(unsafe_code)]
//! The streaming client of the Messages API that the agent loop speaks to models with.
//!
//! One call is one attempt: [`ModelClient::stream`] sends a request and brings an answer, or a failure that says of
//! what kind it is. Whether and when to try again is decided by the engine.
//!
//! Invariants:
//! - Content blocks are kept as they came, in their order: thinking with its signature, tool calls with their parsed
//!   input, blocks of kinds that nobody here knows.
//! - The protocol is checked: an event out of order, JSON of the wrong shape, an answer over its size limit, a
//!   stream that ends before the answer does are failures, never half an answer.
//! - Every wait has a limit: connecting, the head of the answer, each piece of it, the whole.
//! - The key appears in no log line, no error and no `Debug` output, even if the provider echoes it.
//! - Redirects are not followed, so the key goes nowhere but to the provider that was named.

mod assemble;
mod client;
mod failure;
mod models;
mod options;

pub use client::ModelClient;
pub use models::ModelInfo;
pub use options::{AuthStyle, Error, Options, Timeouts};
