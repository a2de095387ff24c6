//! The first `config.yaml` of a gateway. It is written once and belongs to its owner from then on.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outwork_gateway::config::Config;
use serde_json::json;

/// How gateways reach the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) addresses: Vec<String>,
    pub(super) fingerprint: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) server_name: Option<String>,
}

/// Who signs the identities of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) issuer: String,
    pub(super) jwks_url: String,
}

/// What stands in a new file.
pub(super) struct Wanted<'a> {
    pub(super) tunnel_id: &'a str,
    pub(super) domain: &'a str,
    pub(super) token_file: &'a Path,
    pub(super) certificate: &'a Path,
    pub(super) key: &'a Path,
    pub(super) edge: &'a Edge,
    pub(super) routes: &'a [(String, String)],
    pub(super) allow: &'a [String],
    pub(super) health: Option<SocketAddr>,
    pub(super) identity: Option<&'a Identity>,
    /// Where the server's keys are, for a comment where they are not used.
    pub(super) issuer: Option<&'a Identity>,
}

/// A text as YAML reads it.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

fn quoted_path(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8 and cannot stand in config.yaml", path.display()))?;
    Ok(quoted(text))
}

/// The text of a new file. It is valid: what it says was checked by the gateway's own reader, but for routes that are
/// still to be written.
pub(super) fn render(wanted: &Wanted<'_>) -> Result<String> {
    let mut out = String::from(
        "# The gateway of a tunnel. Paths are relative to this file's folder; changes are taken over while it runs.\n\
         # `outwork tunnel check` says what would be refused.\n\n",
    );
    let mut line = |text: String| out.push_str(&(text + "\n"));
    line(format!("tunnel_id: {}", quoted(wanted.tunnel_id)));
    line(format!("tunnel_domain: {}", quoted(wanted.domain)));
    line(format!("token_file: {}", quoted_path(wanted.token_file)?));
    line("edge:".into());
    let addresses: Vec<String> = wanted.edge.addresses.iter().map(|address| quoted(address)).collect();
    line(format!("  addresses: [{}]", addresses.join(", ")));
    if let Some(fingerprint) = &wanted.edge.fingerprint {
        line(format!("  fingerprint: {}", quoted(fingerprint)));
    }
    if let Some(path) = &wanted.edge.ca_file {
        line(format!("  ca_file: {}", quoted_path(path)?));
    }
    if let Some(name) = &wanted.edge.server_name {
        line(format!("  server_name: {}", quoted(name)));
    }
    line("tls:".into());
    line(format!("  cert_file: {}", quoted_path(wanted.certificate)?));
    line(format!("  key_file: {}", quoted_path(wanted.key)?));
    line("ledger:".into());
    line("  dir: ledger".into());
    if let Some(address) = wanted.health {
        line("health:".into());
        line(format!("  listen_addr: {}", quoted(&address.to_string())));
    }
    line("\n# Which addresses routes may lead to, after their names were resolved. Without it: RFC 1918.".into());
    if wanted.allow.is_empty() {
        line("# upstream:\n#   allowed_ips: [10.0.0.0/8]".into());
    } else {
        let ranges: Vec<String> = wanted.allow.iter().map(|range| quoted(range)).collect();
        line(format!("upstream:\n  allowed_ips: [{}]", ranges.join(", ")));
    }
    match (wanted.identity, wanted.issuer) {
        (Some(identity), _) => line(format!(
            "\n# Who calls: every call carries an identity that the server signed.\nidentity:\n  issuer: {}\n  jwks_url: {}\n  \
             required: true",
            quoted(&identity.issuer),
            quoted(&identity.jwks_url)
        )),
        (None, Some(issuer)) => line(format!(
            "\n# Who calls: with it, calls without a signed identity are refused, and records say which agent and session\n\
             # called. The gateway must be able to reach jwks_url.\n# identity:\n#   issuer: {}\n#   jwks_url: {}\n#   required: true",
            quoted(&issuer.issuer),
            quoted(&issuer.jwks_url)
        )),
        (None, None) => {}
    }
    line(format!(
        "\n# What is offered: https://<name>.{} leads to the server that stands here, and nothing else does.",
        wanted.domain
    ));
    if wanted.routes.is_empty() {
        line(
            "# routes:\n#   wiki: http://wiki.internal:8080\n#   db:\n#     url: https://db.internal:8443\n#     tools: \
             {read_only: true}"
                .into(),
        );
    } else {
        line("routes:".into());
        for (name, url) in wanted.routes {
            line(format!("  {}: {}", quoted(name), quoted(url)));
        }
    }
    check(&out, wanted.routes.is_empty())?;
    Ok(out)
}

/// Reads the text as the gateway will. A file without routes is read with one.
fn check(text: &str, add_route: bool) -> Result<()> {
    let mut text = text.to_owned();
    if add_route {
        writeln!(text, "routes: {{example: 'http://10.0.0.1:80'}}")?;
    }
    let config = Config::parse(&text, Path::new(super::CONFIG));
    config.context("these flags make no configuration")?;
    Ok(())
}

/// A route as a flag gives it.
pub(super) fn route(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() => Ok((name.to_owned(), url.to_owned())),
        _ => bail!("--route {text}: write NAME=scheme://host:port"),
    }
}

/// The address of `--health`.
pub(super) fn health(text: &str) -> Result<Option<SocketAddr>> {
    match text {
        "none" => Ok(None),
        address => Ok(Some(address.parse().with_context(|| {
            format!("--health {address}: an address and a port such as 127.0.0.1:7845, or none")
        })?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render_with(
        routes: &[(String, String)],
        allow: &[String],
        change: impl FnOnce(&mut Wanted<'_>),
    ) -> Result<String> {
        let edge = Edge {
            addresses: vec!["plane.example:7844".into(), "[::1]:7844".into()],
            fingerprint: Some("ab".repeat(32)),
            ca_file: None,
            server_name: None,
        };
        let issuer = Identity {
            issuer: "https://plane.example".into(),
            jwks_url: "https://plane.example/.well-known/jwks.json".into(),
        };
        let mut wanted = Wanted {
            tunnel_id: "tnl_1",
            domain: "abc.tunnel.example",
            token_file: Path::new("token"),
            certificate: Path::new("tls.crt"),
            key: Path::new("tls.key"),
            edge: &edge,
            routes,
            allow,
            health: Some(([127, 0, 0, 1], 7845).into()),
            identity: None,
            issuer: Some(&issuer),
        };
        change(&mut wanted);
        render(&wanted)
    }

    #[test]
    fn what_is_written_is_what_the_gateway_reads() {
        let routes = [route("wiki=http://wiki.internal:8080").unwrap()];
        let text = render_with(&routes, &[], |wanted| wanted.identity = wanted.issuer).unwrap();
        let config = Config::parse(&text, Path::new("/etc/gateway/config.yaml")).unwrap();
        assert_eq!(config.routes["wiki"].target.to_string(), "http://wiki.internal:8080");
        let edge = config.edge.unwrap();
        assert_eq!((edge.addresses.len(), edge.fingerprint), (2, Some("ab".repeat(32))));
        assert!(config.identity.unwrap().required);
        assert_eq!(config.token_file.as_deref(), Some(Path::new("/etc/gateway/token")));
        assert!(config.notices.is_empty());

        let text = render_with(&[], &[], |_| {}).unwrap();
        let error = Config::parse(&text, Path::new("config.yaml"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("routes is missing"), "{error}");
        // The comments are examples that work.
        let text: String = text
            .lines()
            .map(|line| {
                let comment = line
                    .strip_prefix("# ")
                    .filter(|rest| rest.starts_with(' ') || ["routes:", "identity:", "upstream:"].contains(rest));
                format!("{}\n", comment.unwrap_or(line))
            })
            .collect();
        let config = Config::parse(&text, Path::new("config.yaml")).unwrap();
        assert_eq!((config.routes.len(), config.identity.is_some()), (2, true));
    }

    #[test]
    fn flags_that_make_no_configuration_are_refused() {
        assert!(route("wiki").is_err() && route("=x").is_err() && health("7845").is_err());
        assert_eq!(health("none").unwrap(), None);
        for bad in [["wiki", "wiki.internal"], ["a b", "http://wiki:80"]] {
            let routes = [(bad[0].to_owned(), bad[1].to_owned())];
            assert!(render_with(&routes, &[], |_| {}).is_err(), "{bad:?}");
        }
        let ranges = ["10.0.0.0/99".to_owned()];
        let error = format!("{:#}", render_with(&[], &ranges, |_| {}).unwrap_err());
        assert!(error.contains("allowed_ips"), "{error}");
        assert!(render_with(&[], &[], |wanted| wanted.health = Some(([0, 0, 0, 0], 1).into())).is_err());
    }
}
