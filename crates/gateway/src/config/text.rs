//! Small texts of the configuration: times, sizes, rates, upstreams, host names.
//!
//! Each is read from a string exactly; what does not parse is refused with what would.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A length of time, written like `500ms`, `30s`, `1m30s`, `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let refuse = || format!("`{text}` is not a length of time; write it like 500ms, 30s, 1m30s or 24h");
        let mut total = Duration::ZERO;
        let mut rest = text;
        if rest.is_empty() {
            return Err(refuse());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
            let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let millis = match &rest[..end] {
                "ms" => number,
                "s" => number.checked_mul(1_000).ok_or_else(refuse)?,
                "m" => number.checked_mul(60_000).ok_or_else(refuse)?,
                "h" => number.checked_mul(3_600_000).ok_or_else(refuse)?,
                _ => return Err(refuse()),
            };
            total = total.checked_add(Duration::from_millis(millis)).ok_or_else(refuse)?;
            rest = &rest[end..];
        }
        Ok(Span(total))
    }
}

/// How often something may happen, written like `10/s`, `100/m`, `5/10s`, or `10/s burst 20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many in `per`.
    pub count: NonZeroU32,
    /// The period.
    pub per: Duration,
    /// How many may come at once.
    pub burst: NonZeroU32,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let refuse = || format!("`{text}` is not a rate; write it like 10/s, 100/m, 5/10s or 10/s burst 20");
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst.trim().parse().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let (count, per) = rate.trim().split_once('/').ok_or_else(refuse)?;
        let count: NonZeroU32 = count.trim().parse().map_err(|_| refuse())?;
        let per = per.trim();
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        let per = per.parse::<Span>().map_err(|_| refuse())?.0;
        if per.is_zero() {
            return Err(refuse());
        }
        Ok(Rate { count, per, burst: burst.unwrap_or(count) })
    }
}

/// A number of bytes, written like `4MiB`, `64KB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let refuse = || format!("`{text}` is not a size; write it like 4MiB, 64KB or 1048576");
        let size: bytesize::ByteSize = text.parse().map_err(|_| refuse())?;
        match usize::try_from(size.as_u64()) {
            Ok(0) | Err(_) => Err(refuse()),
            Ok(size) => Ok(Size(size)),
        }
    }
}

/// How a route's server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// Bytes, without any rule of HTTP or MCP. Ours.
    Tcp,
}

/// Where a route leads: exactly `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The scheme.
    pub scheme: Scheme,
    /// A name in lower case, or an address without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl Target {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Tcp => "tcp",
        };
        write!(out, "{scheme}://{}", self.authority())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let refuse = |why: &str| format!("invalid upstream `{text}`: {why}; write exactly scheme://host:port");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("it has no scheme"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "tcp" => Scheme::Tcp,
            _ => return Err(refuse("the scheme is not http, https or tcp")),
        };
        if rest.contains(['/', '?', '#']) {
            return Err(refuse("it has a path or a query"));
        }
        if rest.contains('@') {
            return Err(refuse("it has a user name"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(|| refuse("it has no port"))?,
            None => rest.rsplit_once(':').ok_or_else(|| refuse("it has no port"))?,
        };
        let port = match port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>()) {
            Some(Ok(port)) if port != 0 => port,
            _ => return Err(refuse("the port is not a number from 1 to 65535")),
        };
        let host = if rest.starts_with('[') {
            let address: std::net::Ipv6Addr =
                host.parse().map_err(|_| refuse("the part in brackets is not an IPv6 address"))?;
            address.to_string()
        } else if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
            address.to_string()
        } else {
            // Docker Compose names may hold an underscore, which host names proper may not.
            host_name(&host.replace('_', "-")).map_err(|why| refuse(&why))?;
            host.trim_end_matches('.').to_ascii_lowercase()
        };
        Ok(Target { scheme, host, port })
    }
}

/// A host name in lower case and without a final dot, or why it is none.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(label) || (last_is_number && name.contains('.')) {
        return Err("the host is not a name of letters, digits and hyphens".to_owned());
    }
    Ok(name)
}

macro_rules! from_text {
    ($($kind:ty: $what:literal),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$kind, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $kind;
                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$kind, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }
    )*};
}

from_text!(Span: "a length of time like 30s", Rate: "a rate like 10/s", Size: "a size like 4MiB");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("24h", 86_400_000)] {
            assert_eq!(text.parse::<Span>().map(|span| span.0.as_millis()), Ok(millis), "{text}");
        }
        for text in ["", "30", "s", "30d", "-1s", "1.5s", "30 s", "18446744073709551615h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        let rate: Rate = "5/10s burst 7".parse().unwrap();
        assert_eq!((rate.count.get(), rate.per.as_secs(), rate.burst.get()), (5, 10, 7));
        assert_eq!("100/m".parse::<Rate>().unwrap().per.as_secs(), 60);
        for text in ["", "0/s", "10", "10/", "10/0s", "x/s", "10/s burst 0", "10/fortnight"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("4MiB".parse::<Size>(), Ok(Size(4 << 20)));
        assert_eq!("1048576".parse::<Size>(), Ok(Size(1 << 20)));
        assert!("0".parse::<Size>().is_err() && "much".parse::<Size>().is_err());
    }

    #[test]
    fn upstreams() {
        for (text, shown) in [
            ("http://wiki:8080", "http://wiki:8080"),
            ("https://Wiki.Corp.Example:443", "https://wiki.corp.example:443"),
            ("tcp://10.0.0.5:5432", "tcp://10.0.0.5:5432"),
            ("http://[FD00::1]:80", "http://[fd00::1]:80"),
            ("http://my_service:80", "http://my_service:80"),
        ] {
            assert_eq!(text.parse::<Target>().map(|target| target.to_string()), Ok(shown.to_owned()));
        }
        for text in [
            "wiki:8080", "http://wiki", "http://wiki:8080/", "http://wiki:8080/mcp", "http://wiki:8080?a", "ftp://wiki:21",
            "http://u@wiki:80", "http://wiki:0", "http://wiki:65536", "http://wiki:+80", "http://:80", "http://[::1]", "http://[x]:80",
            "http://999.1.1.1:80", "http://a b:80", "http://1.2.3:80",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.starts_with("invalid upstream"), "{error}");
        }
    }
}
