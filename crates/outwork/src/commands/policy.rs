//! `outwork policy`: what a sandbox may reach, asked beforehand, and rules for what was refused.
//!
//! Decides with the worker's own rules and the proxy's own check; there is no second opinion here. Names are not
//! resolved: whether an address of theirs is allowed is decided when they are used.

mod refusals;
mod suggest;

use std::io::Write;

use anyhow::{Context, Result, anyhow, bail};
use outwork_client::{Client, Query};
use outwork_egress::Document;
use outwork_egress::policy::{Explanation, check};
use outwork_sandbox::worker::{Foreseen, foresee};
use serde_json::{Value, json};

use super::print_json;
use crate::cli::policy::{CheckArgs, PolicyCommand};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::sanitize;

pub(crate) async fn policy(command: PolicyCommand) -> Result<Exit> {
    match command {
        PolicyCommand::Check(args) => match checked(&args).await {
            Ok(explanation) => tell(&args, &explanation),
            // A script must not take "it cannot be said" for "refused".
            Err(error) => {
                eprintln!("outwork: {}", sanitize::lines(&format!("{error:#}")));
                if let Some(advice) = connection::advice(&error) {
                    eprintln!("         {advice}");
                }
                Ok(Exit::Refused)
            }
        },
        PolicyCommand::Suggest(args) => suggest::suggest(args).await,
    }
}

async fn checked(args: &CheckArgs) -> Result<Explanation> {
    let own = args.policy.as_deref().map(Document::read).transpose()?;
    let session = match (&args.environment, &args.session) {
        (None, None) => None,
        (Some(id), _) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            Some(of_environment(&client, id).await?)
        }
        (None, Some(id)) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            Some(of_session(&client, id).await?)
        }
    };
    if own.is_none() && session.is_none() {
        bail!("there is nothing to ask: name a worker's policy (--policy FILE), an --environment or a --session");
    }
    let policy = foresee(session.as_ref(), own.as_ref())?;
    let (host, port) = host_and_port(&args.host)?;
    let method = args.method.as_deref().map(str::to_ascii_uppercase);
    let http = match (&method, &args.path) {
        (Some(method), Some(path)) if path.starts_with('/') => Some((method.as_str(), path.as_str())),
        (Some(_), Some(path)) => bail!("`{path}` is not a path: it does not begin with `/`"),
        _ => None,
    };
    check(&policy, host, port, http).map_err(|reason| anyhow!(reason))
}

/// `host`, `host:port`, an address, `[address]:port`.
fn host_and_port(text: &str) -> Result<(&str, u16)> {
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_address && !text.ends_with(']') => (host, port),
        _ => return Ok((text, 443)),
    };
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() => Ok((host, port)),
        _ => bail!("`{text}` is not HOST or HOST:PORT; write it like api.example.com:8443 or [2001:db8::1]:443"),
    }
}

fn tell(args: &CheckArgs, explanation: &Explanation) -> Result<Exit> {
    let allowed = explanation.allowed();
    if args.common.output.json {
        let steps = explanation.steps.iter().map(|(step, decision)| {
            json!({
                "step": step,
                "allowed": decision.allowed,
                "rule": *decision.rule,
                "reason": decision.reason,
                "opens_tls": decision.inspect,
            })
        });
        print_json(&json!({
            "type": "policy_check",
            "host": args.host,
            "allowed": allowed,
            "rule": explanation.rule(),
            "steps": steps.collect::<Vec<_>>(),
        }))?;
    } else {
        let mut out = std::io::stdout().lock();
        write!(out, "{}", sanitize::lines(&explanation.to_string()))?;
        let verdict = if allowed { "allowed" } else { "refused" };
        writeln!(out, "{verdict} by {}", sanitize::line(explanation.rule()))?;
        if args.environment.is_some() && args.method.is_none() {
            writeln!(
                out,
                "MCP servers, repositories and credentials of a session are not looked at: see --session"
            )?;
        }
    }
    Ok(if allowed { Exit::Done } else { Exit::Failed })
}

/// All that an environment says by itself.
async fn of_environment(client: &Client, id: &str) -> Result<Foreseen> {
    let environment = client.environments().get(id).await?;
    let kind = environment["config"]["type"].as_str();
    let networking = &environment["config"]["networking"];
    Ok(Foreseen {
        environment: kind
            .context("the server described an environment without a type")?
            .to_owned(),
        networking: (!networking.is_null()).then(|| networking.clone()),
        ..Foreseen::default()
    })
}

/// What a session adds to it.
async fn of_session(client: &Client, id: &str) -> Result<Foreseen> {
    let session = client.sessions().get(id).await?;
    let environment = session["environment_id"]
        .as_str()
        .context("the session has no environment")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let resources = list(&session["resources"]);
    let field = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let repositories: Vec<_> = resources
        .iter()
        .filter(|resource| resource["type"] == "github_repository")
        .map(|resource| {
            (
                field(resource, "id"),
                field(resource, "url"),
                field(resource, "mount_path"),
            )
        })
        .collect();
    let mut has_secrets = !repositories.is_empty();
    for vault in list(&session["vault_ids"]) {
        let credentials = client.vault_credentials(vault.as_str().unwrap_or_default());
        let credentials = credentials.list(Query::new())?.collect(usize::MAX).await?;
        has_secrets |= credentials.iter().any(|credential| {
            credential["auth"]["type"] == "environment_variable" && credential["archived_at"].is_null()
        });
    }
    Ok(Foreseen {
        mcp_servers: list(&session["agent"]["mcp_servers"])
            .iter()
            .filter_map(server)
            .collect(),
        repositories,
        has_secrets,
        ..of_environment(client, environment).await?
    })
}

/// Host and port of an MCP server.
fn server(value: &Value) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(value["url"].as_str()?).ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_addresses() {
        for (text, host, port) in [
            ("a.example", "a.example", 443),
            ("a.example:8443", "a.example", 8443),
            ("10.0.0.1", "10.0.0.1", 443),
            ("10.0.0.1:80", "10.0.0.1", 80),
            ("2001:db8::1", "2001:db8::1", 443),
            ("[2001:db8::1]", "[2001:db8::1]", 443),
            ("[2001:db8::1]:80", "[2001:db8::1]", 80),
        ] {
            assert_eq!(host_and_port(text).unwrap(), (host, port), "{text}");
        }
        for wrong in ["a.example:", "a.example:0", "a.example:x", ":443", "a.example:99999"] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }
}
