//! Requests that leave this machine with a secret: to token endpoints, and to MCP servers that are tried out.
//!
//! [`Outbound`] is the room for how they go. [`Dialled`] goes as sessions go to MCP servers ([`crate::mcp`]): addresses are
//! checked after resolving, clear text only where the operator allows it. It follows no redirect, keeps no connection,
//! and bounds time and bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use outwork_mcp::dial::Scheme;
use outwork_mcp::{Dial, DialError, Target};
use outwork_wire::id::WorkspaceId;
use tokio::time::Instant;
use url::{Host, Url};

use crate::mcp::Ways;

/// A request. It has no `Debug`, as its headers and its body hold secrets.
pub struct OutboundRequest {
    /// For which workspace; decides which addresses are allowed.
    pub workspace: WorkspaceId,
    /// How.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Its headers. Those with secrets are marked sensitive.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How long it may take as a whole.
    pub deadline: Duration,
    /// How many bytes of the answer's body are read at most.
    pub max_body: usize,
}

/// An answer.
pub struct OutboundResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, up to `max_body`; of an event stream, up to the end of the first event.
    pub body: Bytes,
    /// Whether the body went on.
    pub truncated: bool,
}

/// Why there is no answer. Names no path, no query and no address inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// It may not go there.
    #[error("{0}")]
    Refused(String),
    /// No connection came about.
    #[error("no connection: {0}")]
    Connect(String),
    /// It took too long.
    #[error("no answer within the time")]
    Timeout,
    /// The connection broke before the answer was whole.
    #[error("the connection broke before the answer was whole")]
    Broken,
}

/// The way out.
pub trait Outbound: Send + Sync {
    /// Sends a request and reads its answer.
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>>;

    /// Whether requests of a workspace may go in clear text.
    fn plain_http(&self, workspace: &WorkspaceId) -> bool;
}

/// Over the way on which sessions reach MCP servers: the same addresses are allowed, the same authorities trusted.
pub(crate) struct Dialled {
    ways: Arc<Ways>,
}

impl Dialled {
    pub(crate) fn new(ways: Arc<Ways>) -> Self {
        Self { ways }
    }

    async fn exchange(&self, request: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let (dial, target) = self.way(&request).await?;
        let deadline = Instant::now() + request.deadline;
        let stream = dial.dial(&target, deadline).await.map_err(|error| match error {
            DialError::Refused { .. } => OutboundError::Refused(error.to_string()),
            DialError::Timeout { .. } => OutboundError::Timeout,
            DialError::Resolve { .. } | DialError::Connect { .. } | DialError::Tls { .. } => {
                OutboundError::Connect(error.to_string())
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| OutboundError::Broken)?;
        let max_body = request.max_body;
        let message = written(request)?;
        let exchange = async move {
            let response = sender.send_request(message).await.map_err(|_| OutboundError::Broken)?;
            answered(response, max_body).await
        };
        // The connection is driven here and ends with this future. What came before its end is still read.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = exchange => result,
            () = driven => Err(OutboundError::Broken),
        }
    }

    async fn way(&self, request: &OutboundRequest) -> Result<(Arc<dyn Dial>, Target), OutboundError> {
        let refused = |what: &str| OutboundError::Refused(format!("the address {what}"));
        let url = &request.url;
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(refused("is neither https nor http")),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(refused("has no host")),
        };
        let port = url.port_or_known_default().ok_or_else(|| refused("has no port"))?;
        let way = self.ways.way(&request.workspace, url).await.map_err(|error| {
            tracing::error!(%error, "the way to an address could not be looked up");
            OutboundError::Connect("the way there could not be looked up".into())
        })?;
        let target = Target {
            scheme,
            host,
            port,
            policy: way.policy,
        };
        Ok((way.dial, target))
    }
}

impl Outbound for Dialled {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        Box::pin(async move {
            let deadline = request.deadline;
            tokio::time::timeout(deadline, self.exchange(request))
                .await
                .unwrap_or(Err(OutboundError::Timeout))
        })
    }

    fn plain_http(&self, workspace: &WorkspaceId) -> bool {
        self.ways.plain_http(workspace)
    }
}

fn written(request: OutboundRequest) -> Result<http::Request<Full<Bytes>>, OutboundError> {
    let unwritten = || OutboundError::Refused("the address cannot be written into a request".into());
    let url = &request.url;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(unwritten()),
    };
    let host = HeaderValue::from_str(&authority).map_err(|_| unwritten())?;
    let mut message = http::Request::builder()
        .method(request.method)
        .uri(path)
        .body(Full::new(request.body))
        .map_err(|_| unwritten())?;
    *message.headers_mut() = request.headers;
    message.headers_mut().insert(header::HOST, host);
    message
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(message)
}

async fn answered(response: http::Response<Incoming>, max_body: usize) -> Result<OutboundResponse, OutboundError> {
    let (parts, mut incoming) = response.into_parts();
    let stream = parts.status.is_success() && is_event_stream(&parts.headers);
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(|_| OutboundError::Broken)?.into_data() {
            body.extend_from_slice(&data);
        }
        if body.len() > max_body || (stream && has_event(&body)) {
            break;
        }
    }
    let truncated = body.len() > max_body;
    body.truncate(max_body);
    Ok(OutboundResponse {
        status: parts.status,
        headers: parts.headers,
        body: body.freeze(),
        truncated,
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// Whether a text stream holds a whole event with data.
fn has_event(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n").replace('\r', "\n");
    match text.rfind("\n\n") {
        Some(end) => text[..end].lines().any(|line| line.starts_with("data:")),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line() {
        assert!(has_event(b"event: message\ndata: {}\n\n"));
        assert!(has_event(b"data: {}\r\n\r\n"));
        assert!(!has_event(b"data: {}\n"));
        assert!(!has_event(b": ping\n\n"));
    }
}
