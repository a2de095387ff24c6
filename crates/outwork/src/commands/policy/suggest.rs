//! `outwork policy suggest`: rules for what was refused to a session, to be read before they are used.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outwork_client::Client;
use outwork_egress::policy::{HostPattern, suggest as rules_for};
use outwork_egress::{Document, Refusal};
use outwork_ledger::evidence::verify_reader;
use outwork_ledger::{Expect, Filter, scan};
use serde_json::{Value, json};

use super::refusals::{can_be_allowed, counted, of_record};
use crate::cli::policy::SuggestArgs;
use crate::commands::print_json;
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::{counted as counted_as, sanitize};

/// What is proposed.
struct Proposal {
    /// What rules can open.
    refusals: Vec<Refusal>,
    /// What no rule opens.
    left_out: Vec<Refusal>,
    document: Document,
    /// The environment's `networking` with the hosts that were refused by it; of a `cloud` environment that is known.
    networking: Option<Value>,
}

pub(super) async fn suggest(args: SuggestArgs) -> Result<Exit> {
    let local = ledgers(&args)?;
    let (refusals, environment) = if local.is_empty() {
        let client = connection::client(&args.common.connection, &process_environment)?;
        let environment = environment(&client, &args.session).await?;
        (handed_over(&client, &args.session).await?, Some(environment))
    } else {
        let mut refusals = Vec::new();
        for ledger in &local {
            refusals.extend(in_ledger(ledger, &args.session)?);
        }
        (refusals, None)
    };
    let proposal = propose(counted(refusals), environment.as_ref());
    if args.common.output.json {
        print_json(&proposal.facts(&args.session))?;
    } else {
        proposal.tell(&args.session)?;
    }
    Ok(Exit::Done)
}

/// The folders of ledgers that were named.
fn ledgers(args: &SuggestArgs) -> Result<Vec<PathBuf>> {
    let mut all = args.ledger.clone();
    if let Some(folder) = &args.state_dir {
        let attempt = || format!("could not read {}", folder.display());
        let before = all.len();
        for entry in std::fs::read_dir(folder).with_context(attempt)? {
            let entry = entry.with_context(attempt)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.path().is_dir() && (name == "ledger" || name.starts_with("ledger-")) {
                all.push(entry.path());
            }
        }
        if all.len() == before {
            bail!(
                "there is no worker's ledger in {}: name the --state-dir of a worker",
                folder.display()
            );
        }
    }
    Ok(all)
}

fn in_ledger(folder: &Path, session: &str) -> Result<Vec<Refusal>> {
    if !folder.is_dir() {
        bail!("there is no ledger in {}", folder.display());
    }
    let mut refusals = Vec::new();
    scan(folder, &Filter::session(session), |_, record| {
        refusals.extend(of_record(record))
    })
    .with_context(|| format!("the ledger in {}", folder.display()))?;
    Ok(refusals)
}

/// What the session's workers handed over, out of its evidence, which is verified on the way.
async fn handed_over(client: &Client, session: &str) -> Result<Vec<Refusal>> {
    let made = client.session_files(session).evidence().await?;
    let mut expect = Expect::any_key();
    if let Some(key) = made.header("outwork-ledger-key") {
        expect = Expect::key_ids([key.parse().context("the key of the evidence")?]);
    }
    let mut file = tempfile::tempfile().context("could not make a file for the evidence")?;
    let mut to = tokio::fs::File::from_std(file.try_clone().context("could not use a file for the evidence")?);
    made.write_to(&mut to).await?;
    tokio::io::AsyncWriteExt::flush(&mut to).await?;
    std::io::Seek::rewind(&mut file)?;
    let found = verify_reader(BufReader::new(file), "the evidence", &expect)?.sound()?;
    let denied = &found.summary.denied;
    if denied.more > 0 {
        eprintln!(
            "{} more refusals are not looked at: name the worker's ledger",
            denied.more
        );
    }
    Ok(denied.rows.iter().filter_map(|row| of_record(&row.record)).collect())
}

async fn environment(client: &Client, session: &str) -> Result<Value> {
    let session = client.sessions().get(session).await?;
    let id = session["environment_id"]
        .as_str()
        .context("the session has no environment")?;
    Ok(client.environments().get(id).await?)
}

fn propose(refusals: Vec<Refusal>, environment: Option<&Value>) -> Proposal {
    let (refusals, left_out): (Vec<_>, Vec<_>) = refusals.into_iter().partition(can_be_allowed);
    let by_environment: Vec<Refusal> = refusals
        .iter()
        .filter(|refusal| refusal.rule.starts_with("environment/") && refusal.host.is_some())
        .cloned()
        .collect();
    let networking = environment
        .filter(|environment| environment["config"]["type"] == "cloud" && !by_environment.is_empty())
        .map(|environment| widened(&environment["config"]["networking"], &rules_for(&by_environment)));
    Proposal {
        document: rules_for(&refusals),
        refusals,
        left_out,
        networking,
    }
}

/// The `networking` of an environment with the hosts of rules.
fn widened(networking: &Value, rules: &Document) -> Value {
    let mut hosts: Vec<Value> = networking["allowed_hosts"].as_array().cloned().unwrap_or_default();
    for rule in &rules.allow {
        for host in rule.host.iter().filter(|host| matches!(host, HostPattern::Exact(_))) {
            // Without a port, a host stands for 80 and 443.
            let named = rule.ports.iter().map(|ports| match ports.first {
                80 | 443 => Value::from(host.to_string()),
                port => Value::from(format!("{host}:{port}")),
            });
            for host in named {
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
    }
    let flag = |name: &str| networking[name] == Value::Bool(true);
    json!({
        "type": "limited",
        "allowed_hosts": hosts,
        "allow_package_managers": flag("allow_package_managers"),
        "allow_mcp_servers": flag("allow_mcp_servers"),
    })
}

/// A refusal in one line.
fn line(refusal: &Refusal) -> String {
    let mut text = match (&refusal.host, refusal.address) {
        (Some(host), _) => host.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "a connection".to_owned(),
    };
    if let Some(port) = refusal.port {
        text = format!("{text}:{port}");
    }
    if let (Some(method), Some(path)) = (&refusal.method, &refusal.path) {
        text = format!("{method} {text}{path}");
    }
    sanitize::line(&format!(
        "{text} ({}, by {})",
        counted_as(refusal.count, "time"),
        refusal.rule
    ))
}

impl Proposal {
    fn facts(&self, session: &str) -> Value {
        let row = |refusal: &Refusal| {
            json!({
                "host": refusal.host, "address": refusal.address, "port": refusal.port,
                "protocol": refusal.protocol.as_str(), "method": refusal.method, "path": refusal.path,
                "rule": refusal.rule, "reason": refusal.reason, "count": refusal.count, "last": refusal.at,
            })
        };
        json!({
            "type": "policy_suggestion",
            "session_id": session,
            "refused": self.refusals.iter().map(row).collect::<Vec<_>>(),
            "left_out": self.left_out.iter().map(row).collect::<Vec<_>>(),
            "policy": self.document,
            "policy_toml": self.document.to_toml(),
            "networking": self.networking,
        })
    }

    fn tell(&self, session: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let session = sanitize::line(session);
        if self.refusals.is_empty() {
            writeln!(out, "# nothing was refused to {session} that a rule could allow")?;
        } else {
            writeln!(
                out,
                "# Refused to {session}. What an agent was kept from may be an attack: read before you use it."
            )?;
            for refusal in &self.refusals {
                writeln!(out, "#   {}", line(refusal))?;
            }
            writeln!(out, "\n{}", sanitize::lines(self.document.to_toml().trim_end()))?;
        }
        if let Some(networking) = &self.networking {
            writeln!(out, "\n# The environment refused it too; as its config.networking:")?;
            writeln!(out, "#   {}", sanitize::line(&networking.to_string()))?;
        }
        if !self.left_out.is_empty() {
            writeln!(out, "\n# Refused, and no rule can allow it:")?;
            for refusal in &self.left_out {
                writeln!(out, "#   {}: {}", line(refusal), sanitize::line(&refusal.reason))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use outwork_egress::Protocol;
    use outwork_wire::Time;

    use super::*;

    fn refusal(host: &str, port: u16, rule: &str) -> Refusal {
        Refusal {
            at: Time::from_micros(1),
            count: 1,
            protocol: Protocol::Tls,
            host: Some(host.into()),
            address: None,
            port: Some(port),
            method: None,
            path: None,
            rule: rule.into(),
            reason: "no rule".into(),
        }
    }

    #[test]
    fn the_environment_keeps_what_it_has_and_gets_what_it_refused() {
        let environment = json!({ "config": { "type": "cloud", "networking": {
            "type": "limited", "allowed_hosts": ["a.example"], "allow_package_managers": true, "allow_mcp_servers": false,
        } } });
        let refusals = vec![
            refusal("b.example", 443, "environment/default"),
            refusal("b.example", 80, "environment/default"),
            refusal("c.example", 8443, "environment/default"),
            refusal("d.example", 443, "worker/default"),
            refusal("e.example", 443, "http-host"),
        ];
        let proposal = propose(refusals.clone(), Some(&environment));
        let networking = proposal.networking.as_ref().unwrap();
        assert_eq!(
            networking["allowed_hosts"],
            json!(["a.example", "b.example", "c.example:8443"])
        );
        assert_eq!(networking["allow_package_managers"], true);
        assert_eq!(proposal.document.allow.len(), 3);
        assert_eq!(proposal.left_out.len(), 1);
        let again = Document::from_toml("p", &proposal.document.to_toml()).unwrap();
        assert_eq!(again, proposal.document);
        let hosted = json!({ "config": { "type": "self_hosted" } });
        assert!(propose(refusals.clone(), Some(&hosted)).networking.is_none());
        assert!(propose(refusals, None).networking.is_none());
    }
}
