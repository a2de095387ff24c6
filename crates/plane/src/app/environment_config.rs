//! The `config` of environments: what the sandboxes of a cloud environment may reach, and what is installed in them.
//!
//! Nothing said means nothing allowed. An update changes the fields that it names and leaves the others. Hosts are kept
//! in one form, so that the same networking is the same text; whoever builds the boundary reads what is kept here.

use std::net::IpAddr;

use outwork_wire::agent::EnvironmentKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Host;

/// The most hosts of one environment.
const MAX_HOSTS: usize = 1000;
/// The longest name of a host. Source: RFC 1035.
const MAX_HOST: usize = 253;
/// The most packages of one manager, and the longest of their names, in bytes.
const MAX_PACKAGES: usize = 500;
const MAX_PACKAGE: usize = 200;

/// A config that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigWish {
    /// The workers say what it is.
    SelfHosted,
    /// What is absent stays, or is nothing in an environment that is made.
    Cloud {
        networking: Option<NetworkingWish>,
        packages: Option<Packages>,
    },
}

/// Networking that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkingWish {
    Unrestricted,
    Limited {
        allowed_hosts: Option<Vec<String>>,
        allow_mcp_servers: Option<bool>,
        allow_package_managers: Option<bool>,
    },
}

/// Packages by manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packages {
    #[serde(rename = "type")]
    kind: PackagesType,
    pub(crate) apt: Vec<String>,
    pub(crate) cargo: Vec<String>,
    pub(crate) gem: Vec<String>,
    pub(crate) go: Vec<String>,
    pub(crate) npm: Vec<String>,
    pub(crate) pip: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PackagesType {
    #[default]
    Packages,
}

/// The networking of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Networking {
    Unrestricted {},
    Limited {
        allowed_hosts: Vec<String>,
        allow_mcp_servers: bool,
        allow_package_managers: bool,
    },
}

impl Default for Networking {
    fn default() -> Self {
        Self::Limited {
            allowed_hosts: Vec::new(),
            allow_mcp_servers: false,
            allow_package_managers: false,
        }
    }
}

impl ConfigWish {
    /// Whose config it is.
    pub(crate) fn kind(&self) -> EnvironmentKind {
        match self {
            Self::SelfHosted => EnvironmentKind::SelfHosted,
            Self::Cloud { .. } => EnvironmentKind::Cloud,
        }
    }

    /// The config that comes of it, over the one that is kept. The error names the field.
    pub(crate) fn over(self, stored: Option<&Value>) -> Result<Value, String> {
        let (networking, packages) = match self {
            Self::SelfHosted => return Ok(json!({ "type": "self_hosted" })),
            Self::Cloud { networking, packages } => (networking, packages),
        };
        let (before, had) = stored.map(parts).transpose()?.unwrap_or_default();
        let networking = match networking {
            Some(wish) => wish.over(before),
            None => before,
        };
        let packages = packages.unwrap_or(had);
        if let Networking::Limited {
            allow_package_managers: false,
            ..
        } = networking
            && !packages.is_empty()
        {
            return Err(
                "config.packages: limited networking lets nothing be installed unless \
                 config.networking.allow_package_managers is true; set it, or leave the packages out"
                    .into(),
            );
        }
        Ok(json!({ "type": "cloud", "networking": networking, "packages": packages }))
    }
}

/// Networking and packages of a kept config of a cloud environment.
pub(crate) fn parts(config: &Value) -> Result<(Networking, Packages), String> {
    let part = |name: &str| config.get(name).cloned().unwrap_or(Value::Null);
    let unreadable = |what: &str, error: serde_json::Error| format!("config.{what} as it is kept is unreadable: {error}");
    let networking = serde_json::from_value(part("networking")).map_err(|error| unreadable("networking", error))?;
    let packages = serde_json::from_value(part("packages")).map_err(|error| unreadable("packages", error))?;
    Ok((networking, packages))
}

impl NetworkingWish {
    fn over(self, before: Networking) -> Networking {
        let Self::Limited {
            allowed_hosts,
            allow_mcp_servers,
            allow_package_managers,
        } = self
        else {
            return Networking::Unrestricted {};
        };
        let (hosts, mcp, packages) = match before {
            Networking::Limited {
                allowed_hosts,
                allow_mcp_servers,
                allow_package_managers,
            } => (allowed_hosts, allow_mcp_servers, allow_package_managers),
            Networking::Unrestricted {} => (Vec::new(), false, false),
        };
        Networking::Limited {
            allowed_hosts: allowed_hosts.unwrap_or(hosts),
            allow_mcp_servers: allow_mcp_servers.unwrap_or(mcp),
            allow_package_managers: allow_package_managers.unwrap_or(packages),
        }
    }
}

impl Packages {
    fn lists(&self) -> [(&'static str, &Vec<String>); 6] {
        [
            ("apt", &self.apt),
            ("cargo", &self.cargo),
            ("gem", &self.gem),
            ("go", &self.go),
            ("npm", &self.npm),
            ("pip", &self.pip),
        ]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists().iter().all(|(_, list)| list.is_empty())
    }

    /// Refuses what cannot be the name of a package, and what a manager would take for an option, a path or an address.
    /// The worker that installs them knows each manager's rules and is stricter.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (manager, list) in self.lists() {
            if list.len() > MAX_PACKAGES {
                return Err(format!(
                    "config.packages.{manager}: at most {MAX_PACKAGES} packages, not {}",
                    list.len()
                ));
            }
            if let Some(at) = list.iter().position(|name| !is_package(name)) {
                return Err(format!(
                    "config.packages.{manager}.{at}: must be the name of a package with an optional version, as \
                     {manager} writes it: no option, path or address"
                ));
            }
        }
        Ok(())
    }
}

fn is_package(text: &str) -> bool {
    (1..=MAX_PACKAGE).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@' || c == '_')
        && !text.contains("://")
        && !text.ends_with(' ')
        && text
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b) && !b"'\"\\`$;&(){}".contains(&b))
}

/// Checks hosts and gives each in its one form, without repetitions. The error names the place in the list.
pub(crate) fn hosts(given: Vec<String>) -> Result<Vec<String>, String> {
    const PATH: &str = "config.networking.allowed_hosts";
    if given.len() > MAX_HOSTS {
        return Err(format!("{PATH}: at most {MAX_HOSTS} hosts, not {}", given.len()));
    }
    let mut hosts: Vec<String> = Vec::with_capacity(given.len());
    for (index, text) in given.iter().enumerate() {
        let host = host(text).map_err(|why| format!("{PATH}.{index}: {why}"))?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// A name, or `*.` before one of at least two labels, and a port if it is another than the usual ones.
fn host(text: &str) -> Result<String, &'static str> {
    const FORM: &str = "must be a host such as api.example.com, or a wildcard such as *.example.com, with a port where it \
                        is not 80 or 443: no URL and no path";
    const ADDRESS: &str = "must be a name: addresses cannot be allowed here";
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(ADDRESS);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => {
            let number = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(FORM)?;
            if port.starts_with('+') {
                return Err(FORM);
            }
            (name, Some(number))
        }
        None => (text, None),
    };
    let (star, bare) = match name.strip_prefix("*.") {
        Some(bare) => ("*.", bare),
        None => ("", name),
    };
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.is_empty() || bare.contains(['*', '/', ':', '@', '?', '#', '%']) || bare.contains(char::is_whitespace) {
        return Err(FORM);
    }
    let bare = match Host::parse(bare) {
        Ok(Host::Domain(domain)) => domain,
        Ok(_) => return Err(ADDRESS),
        Err(_) => return Err(FORM),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if bare.len() > MAX_HOST || !bare.split('.').all(label) || (!star.is_empty() && !bare.contains('.')) {
        return Err(FORM);
    }
    Ok(match port {
        Some(port) => format!("{star}{bare}:{port}"),
        None => format!("{star}{bare}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(hosts: &[&str]) -> NetworkingWish {
        NetworkingWish::Limited {
            allowed_hosts: Some(hosts.iter().map(|h| (*h).to_owned()).collect()),
            allow_mcp_servers: None,
            allow_package_managers: None,
        }
    }

    fn cloud(networking: Option<NetworkingWish>, packages: Option<Packages>) -> ConfigWish {
        ConfigWish::Cloud { networking, packages }
    }

    #[test]
    fn hosts_have_one_form() {
        let given = ["API.Example.com.", "*.example.com", "localhost:8443", "bücher.example", "api.example.com"];
        assert_eq!(
            hosts(given.map(str::to_owned).to_vec()).unwrap(),
            ["api.example.com", "*.example.com", "localhost:8443", "xn--bcher-kva.example"]
        );
        for bad in [
            "", "*", "*.", "*.com", "a.*.com", "https://a.example", "a.example/x", "a.example:", "a.example:0",
            "a.example:99999", "a.example:+80", "a b", "a..b", "-a.example", "a.example?x", "user@a.example", ":80",
        ] {
            assert_eq!(host(bad).unwrap_err().split(':').next(), Some("must be a host such as api.example.com, or a wildcard such as *.example.com, with a port where it is not 80 or 443"), "{bad}");
        }
        for address in ["10.0.0.1", "::1", "[::1]", "0x7f.1", "127.1"] {
            assert!(host(address).unwrap_err().contains("addresses"), "{address}");
        }
        assert!(hosts(vec!["a.example".into(); 1001]).is_err());
    }

    #[test]
    fn what_an_update_does_not_name_stays() {
        let pip = Packages { pip: vec!["pandas==2.2.0".into()], ..Packages::default() };
        let first = NetworkingWish::Limited {
            allowed_hosts: Some(vec!["a.example".into()]),
            allow_mcp_servers: Some(true),
            allow_package_managers: Some(true),
        };
        let made = cloud(Some(first), Some(pip)).over(None).unwrap();
        assert_eq!(cloud(None, None).over(Some(&made)).unwrap(), made);
        let changed = cloud(Some(limited(&["b.example"])), None).over(Some(&made)).unwrap();
        assert_eq!(changed["networking"]["allowed_hosts"], json!(["b.example"]));
        assert_eq!(changed["networking"]["allow_mcp_servers"], true);
        assert_eq!(changed["packages"]["pip"], json!(["pandas==2.2.0"]));
        let open = cloud(Some(NetworkingWish::Unrestricted), None).over(Some(&changed)).unwrap();
        assert_eq!(open["networking"], json!({ "type": "unrestricted" }));
        assert!(cloud(Some(limited(&[])), None).over(Some(&open)).unwrap_err().contains("allow_package_managers"));
    }

    #[test]
    fn nothing_said_is_nothing_allowed() {
        let made = cloud(None, None).over(None).unwrap();
        assert_eq!(
            made,
            json!({
                "type": "cloud",
                "networking": {
                    "type": "limited", "allowed_hosts": [], "allow_mcp_servers": false, "allow_package_managers": false,
                },
                "packages": { "type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": [] },
            })
        );
    }

    #[test]
    fn options_and_paths_are_no_packages() {
        for good in ["pandas", "pandas[all]>=2, <3", "@scope/name@^1.2", "libc6:amd64", "golang.org/x/tools/cmd/goimports@latest"] {
            assert!(is_package(good), "{good}");
        }
        let long = "x".repeat(201);
        for bad in ["", "--index-url=x", "-r", "./x", "/x", "https://x.example/y", "a\nb", "a;b", "a$(b)", "a ", &long] {
            assert!(!is_package(bad), "{bad}");
        }
    }
}
