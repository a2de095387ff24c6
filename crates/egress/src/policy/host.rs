//! Names of hosts, and patterns over them.
//!
//! A name is kept in lower case, as ASCII, without a final dot. `*.example.com` matches every name below `example.com`
//! and not `example.com` itself; `*` matches every name. A star stands nowhere else. An address is no name.

use std::fmt;
use std::str::FromStr;

/// Which hosts a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// Every name below this one.
    Below(String),
    /// Every name, and every public address.
    Any,
}

/// A name in its one form, or why it is none.
///
/// # Errors
/// The reason, for people.
pub fn host_name(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    // Most names are in their form already; the rest goes through IDNA.
    let name = match bare.bytes().all(plain) {
        true => bare.to_owned(),
        false => match url::Host::parse(bare) {
            Ok(url::Host::Domain(name)) => name,
            Ok(_) => return Err(format!("`{text}` is an address, not a host name; use `cidr`")),
            Err(_) => return Err(format!("`{text}` is not a host name")),
        },
    };
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(plain);
    let last_is_number = name.rsplit('.').next().is_some_and(|last| {
        last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    if last_is_number {
        return Err(format!("`{text}` is an address, not a host name; use `cidr`"));
    }
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("`{text}` is not a host name"));
    }
    Ok(name)
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
}

impl HostPattern {
    /// Whether a name (in its one form) matches.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            HostPattern::Exact(host) => host == name,
            HostPattern::Below(parent) => name
                .strip_suffix(parent.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            HostPattern::Any => true,
        }
    }

    /// The part of a name that a pattern leaves to whoever asks: nothing for an exact host.
    pub fn free_part<'a>(&self, name: &'a str) -> &'a str {
        match self {
            HostPattern::Exact(_) | HostPattern::Any => "",
            HostPattern::Below(parent) => name.strip_suffix(parent.as_str()).unwrap_or(name).trim_end_matches('.'),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<HostPattern, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let refuse = |why: String| format!("{why}; write a host like api.example.com, or *.example.com");
        match text.strip_prefix("*.") {
            Some(parent) => host_name(parent).map(HostPattern::Below).map_err(refuse),
            None if text.contains('*') => Err(refuse(format!("`{text}` has a star inside"))),
            None if text.contains("://") || text.contains('/') => Err(refuse(format!(
                "`{text}` is not a host alone: leave scheme and path out"
            ))),
            None => host_name(text).map(HostPattern::Exact).map_err(refuse),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => out.write_str(host),
            HostPattern::Below(parent) => write!(out, "*.{parent}"),
            HostPattern::Any => out.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let below: HostPattern = "*.Example.com".parse().unwrap();
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        for other in ["example.com", ".example.com", "aexample.com", "example.com.evil.net"] {
            assert!(!below.matches(other), "{other}");
        }
        assert_eq!(below.free_part("a.b.example.com"), "a.b");
        assert_eq!(
            "api.EXAMPLE.com.".parse::<HostPattern>().unwrap().to_string(),
            "api.example.com"
        );
        assert_eq!(
            "bücher.example".parse::<HostPattern>().unwrap().to_string(),
            "xn--bcher-kva.example"
        );
        for wrong in [
            "",
            "a*.b",
            "*",
            "https://a.b",
            "a/b",
            "1.2.3.4",
            "[::1]",
            "0x7f.1",
            "a..b",
            "a b",
            "127.1",
            "a:1",
        ] {
            assert!(wrong == "*" || wrong.parse::<HostPattern>().is_err(), "{wrong}");
        }
    }
}
