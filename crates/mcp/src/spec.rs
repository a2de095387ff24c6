//! What a connection is made from: the server, the way to it, credentials, headers and limits.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;

use crate::dial::{AddressPolicy, Dial};

/// One MCP server, as an agent's configuration names it, and how to reach it.
#[derive(Clone)]
pub struct ServerSpec {
    /// The name in the agent's configuration; it stands in every error.
    pub name: String,
    /// The endpoint, `https` or, where the policy allows it, `http`.
    pub url: Url,
    /// The way to it: [`crate::Direct`] or through a tunnel.
    pub dial: Arc<dyn Dial>,
    /// Which addresses may be dialled; handed to `dial`.
    pub policy: AddressPolicy,
    /// Headers for every request, for example a signed identity.
    pub headers: Option<Arc<dyn RequestHeaders>>,
    /// The bearer token, and how to get another one.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// Bounds.
    pub limits: Limits,
    /// Keep a stream open on which a server of revision 2026-07-28 tells that its tools changed. A session of an
    /// older revision has that stream anyway.
    pub watch_tools: bool,
}

/// Bounds on one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one answer, a stream of events in full; 32 MiB.
    pub response_bytes: u64,
    /// Bytes of one event in a stream; 32 MiB.
    pub event_bytes: usize,
    /// Bytes of the header of one answer; 64 KiB.
    pub header_bytes: usize,
    /// Header fields of one answer; 100.
    pub header_fields: usize,
    /// Tools of one server; 1000.
    pub tools: usize,
    /// Bytes of all tools of one server, as JSON; 4 MiB.
    pub tools_bytes: usize,
    /// Pages of a tool list; 100.
    pub pages: usize,
    /// How long to wait for a connection, TLS included; 10 s.
    pub dial: Duration,
    /// How long a request that belongs to no call may take (the handshake, notifications); 30 s.
    pub request: Duration,
    /// Calls under way at once; more wait. 16.
    pub concurrent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            response_bytes: 32 << 20,
            event_bytes: 32 << 20,
            header_bytes: 64 << 10,
            header_fields: 100,
            tools: 1000,
            tools_bytes: 4 << 20,
            pages: 100,
            dial: Duration::from_secs(10),
            request: Duration::from_secs(30),
            concurrent: 16,
        }
    }
}

/// What is asked of a server, for [`RequestHeaders`].
#[derive(Clone, Copy, Debug)]
pub struct RequestInfo<'a> {
    /// The method of the protocol, for example `tools/call`; empty for the requests that carry no message (opening a
    /// stream, ending a session).
    pub method: &'a str,
    /// The tool, for `tools/call`.
    pub tool: Option<&'a str>,
    /// [`CallContext::call_id`] of the call that the request belongs to.
    pub call_id: Option<&'a str>,
}

/// A reason why a request is not to be made. It is shown to people: no secret in it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// Makes the headers of every request, fresh for each one, repeats included.
///
/// Fields of the protocol and of HTTP itself (`mcp-*`, `accept`, `host`, `content-*`, and so on) are refused.
/// `authorization` is allowed where the server has no [`Credentials`].
pub trait RequestHeaders: Send + Sync {
    /// The headers of one request. Mark values that are secret as sensitive.
    fn headers<'a>(&'a self, request: RequestInfo<'a>) -> BoxFuture<'a, Result<HeaderMap, Rejected>>;
}

/// A bearer token that may be renewed.
pub trait Credentials: Send + Sync {
    /// The token to send, if there is one.
    fn token(&self) -> BoxFuture<'_, Option<SecretString>>;

    /// The server did not take `rejected`: another one, or none if there is none. It is asked once per request.
    fn refresh_after_rejection<'a>(
        &'a self,
        rejected: &'a SecretString,
    ) -> BoxFuture<'a, Result<Option<SecretString>, Rejected>>;
}

/// What goes with one call.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// The caller's own name of the call, handed to [`RequestHeaders`] and not sent.
    pub call_id: Option<String>,
    /// Fields for the request's `_meta`, for example `traceparent`. Fields of the protocol are not overwritten.
    pub meta: Map<String, Value>,
}
