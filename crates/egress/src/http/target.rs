//! Where a request says it goes.
//!
//! In HTTP/1 the Host field says it, once; in HTTP/2 the `:authority`. Where both are there, or the target is a whole
//! URI, they must agree. User names in an authority, several Host fields and requests to a proxy are refused.

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;
use http::{Method, StatusCode, Version};

use super::answer::Refusal;
use crate::policy::host_name;

/// A host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    Address(IpAddr),
}

fn wrong(status: StatusCode, reason: &str) -> Refusal {
    Refusal::new(status, "http-host", reason).closing()
}

/// The target that a request names.
pub(super) fn of(head: &Parts, secure: bool) -> Result<Target, Refusal> {
    if head.method == Method::CONNECT {
        let reason = "there is no proxy here: connect to the host itself";
        return Err(wrong(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    let bad = |reason| wrong(StatusCode::BAD_REQUEST, reason);
    let mut fields = head.headers.get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err(bad("the request has several Host fields")),
        (Some(value), None) => Some(parse(value.as_bytes()).ok_or_else(|| bad("the Host field is malformed"))?),
        (None, None) => None,
    };
    let authority = match head.uri.authority() {
        Some(authority) => Some(parse(authority.as_str().as_bytes()).ok_or_else(|| bad("the target is malformed"))?),
        None => None,
    };
    if let Some(scheme) = head.uri.scheme_str()
        && !scheme.eq_ignore_ascii_case(if secure { "https" } else { "http" })
    {
        return Err(bad("the target has another scheme than the connection"));
    }
    match (authority, field) {
        (Some(authority), Some(field)) if authority.host != field.host => {
            Err(bad("the target and the Host field name different hosts"))
        }
        (Some(authority), Some(field)) if authority.port.is_some() && field.port.is_some() && authority != field => {
            Err(bad("the target and the Host field name different ports"))
        }
        // A whole URI in HTTP/1 is for proxies; without a Host field it is no request that a server takes.
        (Some(_), None) if head.version < Version::HTTP_2 => Err(bad("the request has no Host field")),
        (Some(authority), _) => Ok(authority),
        (None, Some(field)) => Ok(field),
        (None, None) => Err(bad("the request names no host")),
    }
}

fn parse(text: &[u8]) -> Option<Target> {
    let text = std::str::from_utf8(text).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address = address.parse::<std::net::Ipv6Addr>().ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (Host::Address(IpAddr::V6(address).to_canonical()), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let host = match host.parse::<std::net::Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                // Only a name in ASCII: other forms have no one meaning here.
                Err(_) if host.is_ascii() => Host::Name(host_name(&host.to_ascii_lowercase()).ok()?),
                Err(_) => return None,
            };
            (host, port)
        }
    };
    let port = match port {
        None | Some("") => None,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse::<u16>().ok().filter(|p| *p != 0)?),
        Some(_) => return None,
    };
    Some(Target { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, host, port) in [
            ("a.b", "a.b", None),
            ("A.b.:443", "a.b", Some(443)),
            ("a.b:", "a.b", None),
        ] {
            let target = parse(text.as_bytes()).unwrap();
            assert_eq!(
                (target.host, target.port),
                (Host::Name(host.to_owned()), port),
                "{text}"
            );
        }
        assert_eq!(
            parse(b"[::ffff:1.2.3.4]:80").unwrap().host,
            Host::Address("1.2.3.4".parse().unwrap())
        );
        for text in [
            "u@a.b",
            "a.b:x",
            "a.b:0",
            "a.b:99999",
            "a b",
            "",
            "[::1",
            "a.b/c",
            "a.b:1:2",
            "0x7f.1",
            "127.1",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
