//! Settings of tunnels, of workload identity and of the identity of agents.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use outwork_plane::{EdgeOptions, FederationOptions, FederationRule, IdentityOptions, TlsPaths, TunnelOptions};

use super::settings::{FederationSettings, IdentitySettings, RuleSettings, TunnelSettings};
use super::{check_url, missing};

const MIN_KEY_LIFETIME: Duration = Duration::from_secs(3600);
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(600);
const TOKEN_LIFETIMES: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3600);
/// The longest suffix: a route, a label of the tunnel and this must be a name of DNS, 253 characters.
const MAX_SUFFIX: usize = 160;

/// Where gateways connect, as flags say it.
#[derive(Clone, Debug, Default)]
pub(super) struct EdgeFlags {
    pub(super) listen: Option<SocketAddr>,
    pub(super) public_address: Option<String>,
    /// Where it listens if nothing says where.
    pub(super) otherwise: Option<SocketAddr>,
}

pub(super) fn tunnels(flags: EdgeFlags, file: &TunnelSettings) -> Result<TunnelOptions> {
    let suffix = file.domain_suffix.clone().context(missing("tunnel.domain_suffix"))?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if suffix.len() > MAX_SUFFIX || !suffix.contains('.') || !suffix.split('.').all(label) {
        bail!(
            "tunnel.domain_suffix: `{suffix}` is not a name such as tunnel.example.internal: labels of lower-case letters, \
             digits and hyphens, with dots between, {MAX_SUFFIX} characters at most"
        );
    }
    Ok(TunnelOptions {
        domain_suffix: suffix,
        edge: edge(flags, file)?,
    })
}

fn edge(flags: EdgeFlags, file: &TunnelSettings) -> Result<Option<EdgeOptions>> {
    let public_address = flags.public_address.or(file.public_address.clone());
    let tls = match (&file.tls_cert, &file.tls_key) {
        (Some(cert), Some(key)) => Some(TlsPaths {
            cert: cert.clone(),
            key: key.clone(),
        }),
        (None, None) => None,
        _ => bail!("tunnel.tls_cert and tunnel.tls_key must both be set, or neither"),
    };
    if let Some(address) = &public_address
        && !is_host_and_port(address)
    {
        bail!("tunnel.public_address: `{address}` is not a host and a port, such as edge.example.com:443");
    }
    let Some(listen) = flags.listen.or(file.listen).or(flags.otherwise) else {
        if public_address.is_some() || tls.is_some() {
            bail!(
                "tunnel.public_address and tunnel.tls_cert say how gateways connect, but not where: set --tunnel-listen too"
            );
        }
        return Ok(None);
    };
    Ok(Some(EdgeOptions {
        listen,
        public_address,
        tls,
        tap: None,
    }))
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let bracketed = host != bare;
        !bare.is_empty()
            && port.parse::<u16>().is_ok_and(|port| port > 0)
            && if bracketed {
                bare.parse::<std::net::Ipv6Addr>().is_ok()
            } else {
                bare.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            }
    })
}

pub(super) fn identity(public_url: Option<&str>, file: &IdentitySettings) -> Result<IdentityOptions> {
    let key_lifetime = file.key_lifetime.context(missing("identity.key_lifetime"))?.0;
    if key_lifetime < MIN_KEY_LIFETIME {
        bail!("identity.key_lifetime must be at least 1h: a key is published before it signs and after");
    }
    let public_url =
        public_url.map(|url| check_url(url).context("the public address of the server (plane.public_url)"));
    Ok(IdentityOptions {
        public_url: public_url.transpose()?,
        key_lifetime,
    })
}

pub(super) fn federation(file: &FederationSettings) -> Result<FederationOptions> {
    let organization_id = file
        .organization_id
        .clone()
        .context(missing("federation.organization_id"))?;
    let rules = file
        .rules
        .iter()
        .map(|settings| rule(settings).with_context(|| format!("the federation rule `{}`", settings.id)))
        .collect::<Result<_>>()?;
    Ok(FederationOptions { organization_id, rules })
}

fn rule(settings: &RuleSettings) -> Result<FederationRule> {
    let lifetime = settings.lifetime.map_or(DEFAULT_TOKEN_LIFETIME, |span| span.0);
    if !TOKEN_LIFETIMES.contains(&lifetime) {
        bail!("lifetime: must be from 1m to 24h");
    }
    if settings.audience.is_empty() {
        bail!("audience: must not be empty, or tokens that were made for others would be taken");
    }
    let workspace = match settings.workspace.as_deref() {
        None | Some("default") => None,
        Some(id) => Some(id.parse().map_err(|error| anyhow!("workspace: {error}"))?),
    };
    Ok(FederationRule {
        id: settings.id.parse().map_err(|error| anyhow!("id: {error}"))?,
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        subject: settings.subject.parse().map_err(|error| anyhow!("subject: {error}"))?,
        scope: settings.scope.parse().map_err(|error| anyhow!("scope: {error}"))?,
        lifetime,
        workspace,
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::{DEFAULTS, Settings, parse};
    use super::*;

    const RULE: &str = r#"
        [[federation.rules]]
        id = "fdrl_ci"
        issuer = "https://issuer.example"
        audience = "outwork.example"
        subject = "repo:a/b:*"
        scope = "workspace:manage_tunnels"
    "#;

    fn rules(text: &str) -> Result<FederationOptions, String> {
        let text = format!("{DEFAULTS}\n{text}");
        let settings: Settings = parse(&text, "test").map_err(|error| format!("{error:#}"))?;
        federation(&settings.federation).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_rule_is_read_with_its_defaults() {
        let options = rules(RULE).unwrap();
        let rule = &options.rules[0];
        assert_eq!((rule.lifetime.as_secs(), &rule.workspace), (600, &None));
        assert!(rule.subject.matches("repo:a/b:ref"));
        assert!(rules("").unwrap().rules.is_empty());
    }

    #[test]
    fn what_would_let_in_too_much_is_refused_by_name() {
        for (from, to, named) in [
            ("fdrl_ci", "ci", "id"),
            ("\"repo:a/b:*\"", "\"*\"", "subject"),
            ("outwork.example", "", "audience"),
            ("workspace:manage_tunnels", "org:admin", "scope"),
            ("subject = \"repo:a/b:*\"", "", "subject"),
            ("subject =", "subjects =", "subjects"),
        ] {
            let error = rules(&RULE.replace(from, to)).err().unwrap();
            assert!(error.contains(named), "{error}");
        }
        for more in ["lifetime = \"10s\"", "lifetime = \"25h\"", "workspace = \"mine\""] {
            let error = rules(&format!("{RULE}\n{more}")).err().unwrap();
            assert!(error.contains(&more[..8]) && error.contains("fdrl_ci"), "{error}");
        }
    }

    #[test]
    fn an_edge_is_where_a_flag_says_then_the_file_then_the_command() {
        let at = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let resolve = |flag, file, otherwise| {
            let flags = EdgeFlags {
                listen: flag,
                otherwise,
                ..EdgeFlags::default()
            };
            let settings = TunnelSettings {
                domain_suffix: Some("a.example".into()),
                listen: file,
                ..TunnelSettings::default()
            };
            tunnels(flags, &settings).unwrap().edge.map(|edge| edge.listen)
        };
        assert_eq!(resolve(at(1), at(2), at(3)), at(1));
        assert_eq!(resolve(None, at(2), at(3)), at(2));
        assert_eq!(resolve(None, None, at(3)), at(3));
        assert_eq!(resolve(None, None, None), None);
    }

    #[test]
    fn an_address_of_an_edge_is_a_host_and_a_port() {
        for good in ["edge.example:443", "10.0.0.1:1", "[2001:db8::1]:443"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "edge.example",
            "edge.example:",
            ":443",
            "edge.example:0",
            "2001:db8::1:443",
            "https://a:1",
            "[a]:1",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    #[test]
    fn a_suffix_is_a_name_of_dns() {
        let read = |suffix: &str| {
            let settings = TunnelSettings {
                domain_suffix: Some(suffix.into()),
                ..TunnelSettings::default()
            };
            tunnels(EdgeFlags::default(), &settings)
        };
        for good in ["tunnel.outwork.internal", "a.b", "t-1.example.com"] {
            assert_eq!(read(good).unwrap().domain_suffix, good);
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            "internal",
            "Tunnel.example",
            ".example",
            "a..b",
            "a.b.",
            "-a.b",
            "a b.c",
            "ä.b",
            &long,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
