//! The MCP connector: how the plane reaches MCP servers over streamable HTTP.
//!
//! It is for tools only: it opens a [`Connection`] to one server, lists its tools and calls them. Both revisions of
//! the protocol are spoken, 2026-07-28 (stateless, `server/discover`) and 2025-11-25 and older (a session with
//! `initialize`); which one is found out by asking. The protocol itself is the official SDK's; what is added here is
//! what an unattended caller of servers that other people wrote needs: checked addresses ([`dial`]), bounds on time
//! and size, credentials that are refreshed once, and failures that say whether a call may be repeated.
//!
//! Refused: servers that ask the caller for something (sampling, elicitation, roots, tasks), redirects to another
//! origin, the old transport with two endpoints, and addresses inside the network unless a workspace allows them.
//!
//! Invariants: a tool call is sent at most once, except where the server said that it did not take it (401, or 404
//! for a session that is gone); every request ends at a deadline; no error and no log line of this crate holds a
//! secret, an argument or a result. The SDK itself logs what servers send: a subscriber has to switch the target
//! [`SDK_LOG_TARGET`] off.
#![forbid(unsafe_code)]

mod answer;
pub mod connection;
pub mod content;
pub mod dial;
mod error;
mod handler;
mod http;
mod spec;
mod tool;
mod watch;

pub use connection::{Connection, Connector};
pub use content::{OVERSIZE_CHARS, Oversize, PREVIEW_CHARS, oversize};
pub use dial::{AddressPolicy, BoxStream, Dial, DialError, Direct, Target};
pub use error::{CallError, CallErrorKind, ConnectError, ConnectErrorKind};
pub use spec::{CallContext, Credentials, Limits, Rejected, RequestHeaders, RequestInfo, ServerSpec};
pub use tool::{Block, CallResult, Tool};

/// The log target of the SDK, which logs notifications and errors as servers send them.
pub const SDK_LOG_TARGET: &str = "rmcp";
