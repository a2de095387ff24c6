//! `outwork tunnel check`: reads everything that the gateway would read, resolves the upstreams, and says what would
//! not work. Nothing is dialled but the resolver.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use outwork_gateway::config::Config;
use outwork_gateway::kill::Killed;
use outwork_gateway::{Gateway, Setup};
use outwork_tunnel::certificate::expires_at;
use outwork_wire::Time;
use serde_json::json;

use super::report::day;
use super::{no_configuration, read};
use crate::cli::tunnel::ShowArgs;
use crate::commands::print_json;
use crate::exit::Exit;
use crate::terminal::table::Table;
use crate::terminal::{Look, sanitize, style};

/// How long the resolver may take for one name.
const RESOLVE: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is a problem.
const SOON: i64 = 7 * 86_400;

struct Row {
    host: String,
    route: String,
    target: String,
    addresses: Vec<String>,
    rules: Vec<String>,
}

pub(super) async fn check(args: &ShowArgs, look: Look) -> Result<Exit> {
    let path = args.place.config();
    if !path.try_exists().unwrap_or(true) {
        return Err(no_configuration(&path));
    }
    // Opening reads and checks every file; nothing is recorded, and no link is dialled.
    let gateway = Gateway::open(Setup::new(&path))?;
    let live = gateway.live();
    let config = &live.config;
    let mut problems = Vec::new();
    let mut notes: Vec<String> = config.notices.clone();
    let mut rows = Vec::new();
    for (host, state) in live.table.hosts() {
        let route = &state.route;
        if !live.inner.covers(&host) {
            problems.push(format!(
                "{host}: the certificate in {} is not for this host, so callers refuse it",
                config.tls.cert.display()
            ));
        }
        let addresses = resolve(config, &route.target.host, route.target.port).await;
        match &addresses {
            Ok(found) if found.iter().all(|(_, refused)| refused.is_some()) => problems.push(format!(
                "{}: {} is at {}, which upstream.allowed_ips does not allow",
                route.name,
                route.target.authority(),
                shown(found)
            )),
            Ok(found) => {
                for (address, refused) in found {
                    if let Some(class) = refused {
                        notes.push(format!("{}: {address} is never dialled ({class})", route.name));
                    }
                }
            }
            Err(error) => problems.push(format!("{}: {} has no address: {error}", route.name, route.target.host)),
        }
        rows.push(Row {
            host,
            route: route.name.clone(),
            target: route.target.to_string(),
            addresses: addresses
                .unwrap_or_default()
                .iter()
                .map(|(address, _)| address.clone())
                .collect(),
            rules: route.rules.summary(),
        });
    }
    rows.sort_by(|a, b| a.host.cmp(&b.host));
    files(config, &mut problems, &mut notes);
    gateway.clone().close(Duration::from_secs(1)).await;
    if args.output.json {
        print_json(&json!({
            "type": "tunnel_check",
            "config": path,
            "tunnel_id": config.tunnel_id,
            "routes": rows.iter().map(|row| json!({
                "host": row.host, "route": row.route, "leads_to": row.target, "addresses": row.addresses,
                "rules": row.rules,
            })).collect::<Vec<_>>(),
            "problems": problems,
            "notes": notes,
        }))?;
    } else {
        show(&path, config, &rows, &problems, &notes, &look);
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The addresses of a host, and why each is refused if it is.
async fn resolve(config: &Config, host: &str, port: u16) -> Result<Vec<(String, Option<&'static str>)>, String> {
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| format!("the resolver gave no answer within {RESOLVE:?}"))?
        .map_err(|error| error.to_string())?;
    let found: Vec<_> = found
        .map(|address| (address.ip().to_string(), config.addresses.check(address.ip()).err()))
        .collect();
    if found.is_empty() {
        return Err("the resolver knows none".to_owned());
    }
    Ok(found)
}

fn shown(found: &[(String, Option<&'static str>)]) -> String {
    let list: Vec<String> = found
        .iter()
        .map(|(address, class)| match class {
            Some(class) => format!("{address} ({class})"),
            None => address.clone(),
        })
        .collect();
    list.join(", ")
}

/// What is missing for a start, what is killed, what others may read, what expires.
fn files(config: &Config, problems: &mut Vec<String>, notes: &mut Vec<String>) {
    for (missing, key, flag) in [
        (
            config.edge.is_none(),
            "edge",
            "--edge with --edge-fingerprint or --edge-ca-file",
        ),
        (config.tunnel_id.is_none(), "tunnel_id", "--tunnel"),
        (
            config.token_file.is_none(),
            "token_file",
            "--token-file or OUTWORK_TUNNEL_TOKEN",
        ),
    ] {
        if missing {
            notes.push(format!("{key} is not in the file: give `outwork tunnel run` {flag}"));
        }
    }
    let mut secrets = vec![config.tls.key.as_path()];
    if let Some(path) = &config.token_file {
        match read(path) {
            Ok(token) if token.trim().is_empty() => problems.push(format!("{} is empty", path.display())),
            Ok(_) => secrets.push(path),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    for path in secrets {
        let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o077 != 0 {
            problems.push(format!(
                "{}: others may read this secret; set its mode to 0600",
                path.display()
            ));
        }
    }
    match Killed::read(&config.state_dir) {
        Ok(killed) if killed.all.is_some() => notes.push("everything is killed (`outwork tunnel revive --all`)".into()),
        Ok(killed) => {
            for route in killed.routes.keys() {
                notes.push(format!("{route} is killed (`outwork tunnel revive {route}`)"));
            }
        }
        Err(error) => problems.push(format!("{error}: everything is killed until it can be read")),
    }
    let expires = read(&config.tls.cert).ok().and_then(|pem| expires_at(&pem));
    if let Some(expires) = expires.filter(|expires| expires.as_micros() < Time::now().plus_seconds(SOON).as_micros()) {
        problems.push(format!(
            "the certificate in {} is valid until {}: renew it (`outwork tunnel renew`)",
            config.tls.cert.display(),
            day(expires)
        ));
    }
}

fn show(path: &Path, config: &Config, rows: &[Row], problems: &[String], notes: &[String], look: &Look) {
    let label = |label: &str| look.paint(style::FAINT, &format!("{label:<11}"));
    println!("{}  {}", label("config"), path.display());
    println!("{}  {}", label("tunnel"), config.tunnel_id.as_deref().unwrap_or("-"));
    if let Some(edge) = &config.edge {
        println!("{}  {}", label("edge"), edge.addresses.join(", "));
    }
    let mut table = Table::new(&["CALLED AS", "LEADS TO", "ADDRESSES", "RULES"]);
    for row in rows {
        let or_dash = |list: &[String]| {
            if list.is_empty() {
                "-".to_owned()
            } else {
                list.join(", ")
            }
        };
        table.row([
            format!("https://{}", row.host),
            row.target.clone(),
            or_dash(&row.addresses),
            or_dash(&row.rules),
        ]);
    }
    println!("\n{}\n", table.render(look));
    for note in notes {
        println!("{}  {}", label("note"), sanitize::line(note));
    }
    for problem in problems {
        println!(
            "{}  {}",
            look.paint(style::BAD, &format!("{:<11}", "problem")),
            sanitize::line(problem)
        );
    }
    if problems.is_empty() {
        println!(
            "{}  nothing would be refused",
            look.paint(style::GOOD, &format!("{:<11}", "good"))
        );
    }
}
