//! Who calls, as a header that the server can check: `Outwork-Agent-Identity`, a signed token made anew for each request.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use outwork_mcp::{Rejected, RequestHeaders, RequestInfo};
use outwork_wire::Time;
use outwork_wire::id::TunnelId;
use url::Url;

use super::Caller;
use super::tunnel::Tunnelling;
use crate::identity::{Claims, Identity};

const HEADER: HeaderName = HeaderName::from_static("outwork-agent-identity");
/// The method that calls a tool.
const TOOLS_CALL: &str = "tools/call";

/// Signs each request to a server, and counts the calls of those that go through a tunnel.
pub(crate) struct Signed {
    identity: Arc<Identity>,
    caller: Caller,
    audience: String,
    metered: Option<Metered>,
}

struct Metered {
    tunnelling: Arc<Tunnelling>,
    tunnel: TunnelId,
    host: String,
}

impl Signed {
    /// For the requests of `caller` to the server at `url`.
    pub(crate) fn new(identity: Arc<Identity>, caller: Caller, url: &Url) -> Self {
        Self {
            identity,
            caller,
            audience: audience(url),
            metered: None,
        }
    }

    /// Counts calls as those of a tunnel.
    pub(crate) fn metered(mut self, tunnelling: Arc<Tunnelling>, tunnel: TunnelId, host: String) -> Self {
        self.metered = Some(Metered {
            tunnelling,
            tunnel,
            host,
        });
        self
    }
}

/// Whom a token is for: scheme, host and, where it is not the usual one, port.
fn audience(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    origin.strip_suffix('.').map_or(origin.clone(), str::to_owned)
}

impl RequestHeaders for Signed {
    fn headers<'a>(&'a self, request: RequestInfo<'a>) -> BoxFuture<'a, Result<HeaderMap, Rejected>> {
        if request.method == TOOLS_CALL
            && let Some(metered) = &self.metered
        {
            metered.tunnelling.call_begun(&metered.tunnel, &metered.host);
        }
        let claims = Claims {
            workspace: self.caller.workspace.clone(),
            agent: self.caller.agent.clone(),
            version: self.caller.agent_version,
            session: self.caller.session.clone(),
            tool: request.tool.unwrap_or_default().to_owned(),
            audience: self.audience.clone(),
        };
        let token = self.identity.mint(&claims, Time::now());
        let made = HeaderValue::try_from(token)
            .map(|mut value| {
                value.set_sensitive(true);
                HeaderMap::from_iter([(HEADER, value)])
            })
            .map_err(|_| Rejected("the identity of the agent does not fit into a header".into()));
        Box::pin(std::future::ready(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_the_origin() {
        for (url, expected) in [
            ("https://wiki.example/mcp?x=1", "https://wiki.example"),
            ("https://wiki.example./mcp", "https://wiki.example"),
            ("https://wiki.example:8443/mcp", "https://wiki.example:8443"),
            ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ] {
            assert_eq!(audience(&Url::parse(url).unwrap()), expected);
        }
    }
}
