//! Where a pull may go and what it may take along: the decisions about redirects, token services and challenges.
//!
//! Pure functions over addresses, so that every rule is a line of a table in the tests.

use std::fmt::Write as _;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use url::{Host, Url};

/// A redirect, or the way to a token service.
pub(crate) fn may_follow(from: &Url, to: &Url, plain: &[String]) -> Result<(), &'static str> {
    if !to.username().is_empty() || to.password().is_some() {
        return Err("leads to an address with a user in it");
    }
    match (from.scheme(), to.scheme()) {
        (_, "https") => Ok(()),
        ("http", "http") if is_loopback(to) || plain.iter().any(|plain| plain.eq_ignore_ascii_case(&authority(to))) => {
            Ok(())
        }
        (_, "http") => Err("leads to plain HTTP"),
        _ => Err("leads to an address that is neither HTTPS nor HTTP"),
    }
}

/// True if credentials of a registry may go to its token service: the same host, or one below the domain it is in.
pub(crate) fn related(registry: &Url, realm: &Url) -> bool {
    let (Some(registry), Some(realm)) = (registry.host_str(), realm.host_str()) else {
        return false;
    };
    let domain = registry.split_once('.').map_or("", |(_, domain)| domain);
    let below =
        |host: &str, domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    registry == realm
        || below(realm, registry) && registry.contains('.') && registry.parse::<std::net::IpAddr>().is_err()
        || domain.contains('.') && registry.parse::<std::net::IpAddr>().is_err() && below(realm, domain)
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn authority(url: &Url) -> String {
    let mut text = url.host_str().unwrap_or_default().to_owned();
    if let Some(port) = url.port() {
        // Writing to a string cannot fail.
        let _ = write!(text, ":{port}");
    }
    text
}

pub(crate) fn origin(url: &Url) -> String {
    format!("{}://{}", url.scheme(), authority(url))
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

pub(crate) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                return Some(Challenge::Bearer {
                    realm: parameter("realm")?,
                    service: parameter("service"),
                });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn where_redirects_may_lead() {
        let plain = ["plain.example:8080".to_owned()];
        for (from, to, may) in [
            ("https://r.example/", "https://cdn.example/x", true),
            ("https://r.example/", "http://r.example/x", false),
            ("https://r.example/", "http://127.0.0.1/x", false),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:6000/x", true),
            ("http://127.0.0.1:5000/", "http://169.254.169.254/latest", false),
            ("http://plain.example:8080/", "http://plain.example:8080/x", true),
            ("http://plain.example:8080/", "http://plain.example/x", false),
            ("https://r.example/", "https://user@cdn.example/x", false),
            ("https://r.example/", "file:///etc/passwd", false),
        ] {
            assert_eq!(may_follow(&url(from), &url(to), &plain).is_ok(), may, "{from} -> {to}");
        }
    }

    #[test]
    fn where_credentials_may_go() {
        for (registry, realm, may) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://registry.gitlab.example", "https://gitlab.example/jwt", true),
            ("https://ghcr.example", "https://ghcr.example/token", true),
            ("https://r.example", "https://auth.r.example/token", true),
            ("https://r.example", "https://other.example/token", false),
            ("https://r.docker.io", "https://evildocker.io/token", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:6000/token", true),
            ("http://127.0.0.1:5000", "http://8.0.0.1/token", false),
        ] {
            assert_eq!(related(&url(registry), &url(realm)), may, "{registry} -> {realm}");
        }
    }

    #[test]
    fn challenges() {
        let of = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
            }
            challenge(&headers)
        };
        let bearer = of(&[r#"Bearer realm="https://a.example/t,x",service="s",scope="repository:x:pull,push""#]);
        let expected = Challenge::Bearer {
            realm: "https://a.example/t,x".into(),
            service: Some("s".into()),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(of(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(of(&["Negotiate"]), None);
        assert_eq!(of(&["Bearer service=x"]), None);
        assert_eq!(of(&[r#"Bearer realm="unfinished"#]), None);
    }
}
