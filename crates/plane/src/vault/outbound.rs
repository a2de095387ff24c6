//! Requests that leave this machine with a secret: to token endpoints, and to MCP servers that are tried out.
//!
//! [`Outbound`] is the room for how they go. [`Direct`] resolves the host itself, asks an [`AddressRule`] about every
//! address, and dials only those that it checked, so that a name cannot change its address in between. It follows no
//! redirect, uses no proxy, keeps no connection, and bounds time and bytes. Clear text goes only to addresses that the
//! operator allowed by name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use ipnet::IpNet;
use outwork_wire::id::WorkspaceId;
use url::{Host, Url};

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
}

/// Whether requests of a workspace may go to an address, and if so whether in clear text.
pub trait AddressRule: Send + Sync {
    /// The verdict on an address.
    fn judge(&self, workspace: &WorkspaceId, address: IpAddr) -> Verdict;
}

/// A verdict on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing goes there.
    Refused,
    /// TLS goes there.
    Encrypted,
    /// The operator allowed it by name: anything goes there.
    Allowed,
}

/// The same rule for all workspaces: public addresses, and ranges that the operator allowed by name.
pub struct Ranges(pub Vec<IpNet>);

impl AddressRule for Ranges {
    fn judge(&self, _workspace: &WorkspaceId, address: IpAddr) -> Verdict {
        let address = address.to_canonical();
        if self.0.iter().any(|range| range.contains(&address)) {
            Verdict::Allowed
        } else if is_public(address) {
            Verdict::Encrypted
        } else {
            Verdict::Refused
        }
    }
}

/// Whether an address is reachable over the internet and nothing special. Source: the IANA registries of special-purpose
/// addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            // Only global unicast, and of that neither documentation nor what wraps IPv4 addresses.
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8)) && a != 0x2002 && a != 0x3fff
        }
    }
}

/// Over this machine's own network.
pub struct Direct {
    rule: Arc<dyn AddressRule>,
}

impl Direct {
    /// By that rule.
    pub fn new(rule: Arc<dyn AddressRule>) -> Self {
        Self { rule }
    }

    async fn exchange(&self, request: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let (host, addresses) = resolve(&request.url).await?;
        let clear = request.url.scheme() != "https";
        let dialled: Vec<SocketAddr> = addresses
            .into_iter()
            .filter(|address| match self.rule.judge(&request.workspace, address.ip()) {
                Verdict::Refused => false,
                Verdict::Encrypted => !clear,
                Verdict::Allowed => true,
            })
            .collect();
        if dialled.is_empty() {
            return Err(OutboundError::Refused(format!(
                "`{host}` has no address that requests may go to{}; the operator can allow ranges in outbound.allow",
                if clear { " in clear text" } else { "" }
            )));
        }
        // A client of its own: no other request's connection is used, and the name is resolved no second time.
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .resolve_to_addrs(&host, &dialled)
            .build()
            .map_err(|_| OutboundError::Connect("TLS cannot be used on this machine".into()))?;
        let mut response = client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send()
            .await
            .map_err(|error| sorted(&error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let stream = status.is_success() && is_event_stream(&headers);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| sorted(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > request.max_body || (stream && has_event(&body)) {
                break;
            }
        }
        let truncated = body.len() > request.max_body;
        body.truncate(request.max_body);
        Ok(OutboundResponse {
            status,
            headers,
            body: body.freeze(),
            truncated,
        })
    }
}

impl Outbound for Direct {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        Box::pin(async move {
            let deadline = request.deadline;
            tokio::time::timeout(deadline, self.exchange(request))
                .await
                .unwrap_or(Err(OutboundError::Timeout))
        })
    }
}

async fn resolve(url: &Url) -> Result<(String, Vec<SocketAddr>), OutboundError> {
    let port = url
        .port_or_known_default()
        .ok_or_else(|| OutboundError::Refused("the address has no port".into()))?;
    match url.host() {
        Some(Host::Ipv4(ip)) => Ok((ip.to_string(), vec![(ip, port).into()])),
        Some(Host::Ipv6(ip)) => Ok((ip.to_string(), vec![(ip, port).into()])),
        Some(Host::Domain(name)) => {
            let found = tokio::net::lookup_host((name, port))
                .await
                .map_err(|_| OutboundError::Connect(format!("`{name}` cannot be resolved")))?;
            Ok((name.to_owned(), found.collect()))
        }
        None => Err(OutboundError::Refused("the address has no host".into())),
    }
}

fn sorted(error: &reqwest::Error) -> OutboundError {
    if error.is_timeout() {
        OutboundError::Timeout
    } else if error.is_connect() {
        // The innermost cause names neither the path nor the query.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        OutboundError::Connect(cause.to_string())
    } else {
        OutboundError::Broken
    }
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
    fn only_public_addresses_and_named_ranges() {
        let rule = Ranges(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let workspace = WorkspaceId::fresh();
        let judge = |text: &str| rule.judge(&workspace, text.parse().unwrap());
        for public in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1"] {
            assert_eq!(judge(public), Verdict::Encrypted, "{public}");
        }
        for inside in [
            "127.0.0.1",
            "10.2.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert_eq!(judge(inside), Verdict::Refused, "{inside}");
        }
        for named in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(judge(named), Verdict::Allowed, "{named}");
        }
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        assert!(has_event(b"event: message\ndata: {}\n\n"));
        assert!(has_event(b"data: {}\r\n\r\n"));
        assert!(!has_event(b"data: {}\n"));
        assert!(!has_event(b": ping\n\n"));
    }
}
