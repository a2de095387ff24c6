//! HTTP/1.1 under the SDK's transport: one client per connection to a server.
//!
//! It implements the SDK's `StreamableHttpClient` over [`crate::dial::Dial`] and adds what the SDK leaves to its
//! client: bounds on headers, bodies and events, deadlines, headers per request, credentials that are refreshed once,
//! and the record of what happened to a call ([`trace::Trace`]).
//!
//! Refused: redirects to another origin (at most three 307 or 308 within one are followed: frameworks answer
//! `/mcp` with `/mcp/`), compressed answers (none is asked for), answers to a request that answer another one or
//! nothing. Each would make the SDK wait until the deadline or guess.
//!
//! HTTP/2 is not offered: a call holds its connection while its answer streams, and closing that connection is what
//! cancels the call at every server.

mod body;
mod client;
mod connect;
mod exchange;
mod failure;
mod sse;
mod trace;

pub(crate) use client::HttpClient;
pub(crate) use failure::{HttpError, HttpErrorKind};
pub(crate) use trace::Trace;
