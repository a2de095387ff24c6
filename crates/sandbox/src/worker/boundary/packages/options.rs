//! What the worker's owner says about installing packages.

use std::time::Duration;

use outwork_egress::policy::HostPattern;

/// How packages are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageOptions {
    /// Variables for package managers, such as the address of a mirror; see [`PackageOptions::check`].
    pub variables: Vec<(String, String)>,
    /// Bytes that one installation may write.
    pub disk_bytes: u64,
    /// How long one installation may take.
    pub time: Duration,
}

impl Default for PackageOptions {
    fn default() -> Self {
        Self {
            variables: Vec::new(),
            disk_bytes: 8 << 30,
            time: Duration::from_secs(1500),
        }
    }
}

/// Variables that name mirrors.
const KNOWN: &[&str] = &[
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "NPM_CONFIG_REGISTRY",
    "GOPROXY",
    "GOSUMDB",
];

impl PackageOptions {
    /// Says what is wrong: a variable that is not one of those that name mirrors, an address that is not `https://` or
    /// `http://`, or one with a name and password in it, which an installer could read.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in &self.variables {
            if !KNOWN.contains(&name.as_str()) {
                return Err(format!("`{name}` is none of {}", KNOWN.join(", ")));
            }
            let mut found = false;
            for part in addresses(value) {
                place(part).map_err(|reason| format!("`{name}`: {reason}"))?;
                found = true;
            }
            let words = ["off", "direct", "sum.golang.org"];
            if !found && !value.split([',', '|']).all(|word| words.contains(&word)) {
                return Err(format!(
                    "`{name}` names no address that begins with https:// or http://"
                ));
            }
        }
        if self.time.is_zero() || self.disk_bytes == 0 {
            return Err("time and disk must be more than nothing".to_owned());
        }
        Ok(())
    }

    /// Hosts and ports of the mirrors.
    pub(super) fn mirrors(&self) -> Vec<(HostPattern, u16)> {
        let values = self.variables.iter().map(|(_, value)| value);
        values
            .flat_map(|value| addresses(value))
            .filter_map(|part| place(part).ok())
            .collect()
    }
}

fn addresses(value: &str) -> impl Iterator<Item = &str> {
    let parts = value.split([',', '|', ' ', '+']);
    parts.filter(|part| part.contains("://"))
}

/// Host and port of an address.
fn place(address: &str) -> Result<(HostPattern, u16), String> {
    let (port, rest) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
        (Some(rest), _) => (443, rest),
        (None, Some(rest)) => (80, rest),
        (None, None) => return Err(format!("{address} does not begin with https:// or http://")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(
            "an address with a name or password in it would be readable for installers; use one without".to_owned(),
        );
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| format!("{address} has a wrong port"))?),
        None => (authority, port),
    };
    match host.parse() {
        Ok(host @ HostPattern::Exact(_)) => Ok((host, port)),
        Ok(_) => Err(format!("{address} names no single host")),
        Err(reason) => Err(format!("{address}: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> PackageOptions {
        PackageOptions {
            variables: vec![(name.to_owned(), value.to_owned())],
            ..PackageOptions::default()
        }
    }

    #[test]
    fn mirrors_are_found_and_nothing_else_is_taken() {
        for (name, value, found) in [
            (
                "PIP_INDEX_URL",
                "https://pypi.test.example/simple",
                &[("pypi.test.example", 443)][..],
            ),
            (
                "NPM_CONFIG_REGISTRY",
                "http://npm.test.example:8080",
                &[("npm.test.example", 8080)],
            ),
            (
                "GOPROXY",
                "https://a.test.example,https://b.test.example/x|direct",
                &[("a.test.example", 443), ("b.test.example", 443)],
            ),
            ("GOSUMDB", "off", &[]),
        ] {
            let options = of(name, value);
            options.check().unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|(host, port)| (HostPattern::Exact((*host).to_owned()), *port))
                .collect();
            assert_eq!(options.mirrors(), found, "{value}");
        }
        for (name, value, says) in [
            ("LD_PRELOAD", "https://a.test.example", "is none of"),
            ("PIP_INDEX_URL", "file:///etc", "https://"),
            ("PIP_INDEX_URL", "/etc", "no address"),
            ("PIP_INDEX_URL", "https://u:p@a.test.example/", "password"),
            ("PIP_INDEX_URL", "https://*.test.example/", "single host"),
            ("PIP_INDEX_URL", "https://10.0.0.1/", "address"),
            ("PIP_INDEX_URL", "https://a.test.example:x/", "port"),
        ] {
            let error = of(name, value).check().unwrap_err();
            assert!(error.contains(says), "{value}: {error}");
        }
    }
}
