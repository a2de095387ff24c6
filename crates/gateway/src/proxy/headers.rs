//! Headers on their way up and down: what belongs to one hop stays there, what the gateway vouches for it makes itself.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, StatusCode};

use crate::caller::IDENTITY;
use crate::mcp::refusal::{INVALID, Refusal};
use crate::route;
use crate::rules::Rules;

/// Headers of one hop (RFC 9110, 7.6.1), and those that proxies have added to the list.
const HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What a caller might say about the way to here, which only the gateway knows.
const WAY: [HeaderName; 6] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether a request is for the host for which its stream was opened: its `Host`, and its target if that names one.
pub fn check_host<B>(request: &Request<B>, stream_host: &str) -> Result<(), Refusal> {
    let bad = |message| Refusal::request("http.host", StatusCode::BAD_REQUEST, INVALID, message);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(named), None) = (hosts.next(), hosts.next()) else {
        return Err(bad("The request has no Host header, or more than one."));
    };
    let named = named
        .to_str()
        .ok()
        .and_then(route::host)
        .ok_or_else(|| bad("The Host header is not a host name."))?;
    let absolute = match request.uri().authority() {
        Some(authority) => {
            Some(route::host(authority.as_str()).ok_or_else(|| bad("The request's target does not name a host."))?)
        }
        None => None,
    };
    if named != stream_host || absolute.is_some_and(|absolute| absolute != stream_host) {
        return Err(Refusal::request(
            "http.host",
            StatusCode::MISDIRECTED_REQUEST,
            INVALID,
            "The request is for another host than the stream that carries it.",
        ));
    }
    Ok(())
}

/// Removes what belongs to one hop.
pub fn strip_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP {
        headers.remove(name);
    }
}

/// Makes a caller's headers those of the request upstream.
pub fn upstream(
    headers: &mut HeaderMap,
    rules: &Rules,
    authority: &HeaderValue,
    host: &str,
    identity: Option<HeaderValue>,
) {
    strip_hop(headers);
    for name in &WAY {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::EXPECT);
    headers.remove(IDENTITY);
    rules.headers.apply(headers);
    if let Some(identity) = identity {
        headers.insert(HeaderName::from_static(IDENTITY), identity);
    }
    if rules.reads_results() {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
        headers.insert(
            HeaderName::from_static("x-forwarded-proto"),
            HeaderValue::from_static("https"),
        );
        let host = if rules.preserve_host { host } else { authority.clone() };
        headers.insert(header::HOST, host);
    }
}

/// Removes what an answer's head says about a body that the gateway may change.
pub fn body_may_change(headers: &mut HeaderMap) {
    for name in [
        "content-length",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "etag",
        "accept-ranges",
    ] {
        headers.remove(name);
    }
}
