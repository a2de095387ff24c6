//! `outwork tunnel status`: what can be seen from here: files, the running gateway, the server's view of the tunnel.

use std::time::Duration;

use anyhow::Result;
use outwork_gateway::config::Config;
use outwork_gateway::kill::Killed;
use outwork_tunnel::certificate::expires_at;
use serde_json::{Value, json};

use super::folder::AUTHORITY;
use super::read;
use super::report::day;
use crate::cli::tunnel::StatusArgs;
use crate::commands::print_json;
use crate::config::process_environment;
use crate::exit::Exit;
use crate::terminal::{Look, sanitize, style};
use crate::workload;

/// How long the gateway on this machine may take to say how it is.
const HEALTH: Duration = Duration::from_secs(3);

pub(super) async fn status(args: &StatusArgs, look: Look) -> Result<Exit> {
    let config = args.place.load()?;
    let gateway = gateway(&config).await;
    let server = server(args, &config).await;
    let expires = |path| read(path).ok().and_then(|pem| expires_at(&pem));
    let certificate = expires(&config.tls.cert);
    let authority = expires(&args.place.folder().join(AUTHORITY));
    let killed = Killed::read(&config.state_dir);
    let up = gateway["ready"] != json!(false);
    let exit = if up { Exit::Done } else { Exit::Failed };
    if args.output.json {
        print_json(&json!({
            "type": "tunnel_gateway_status",
            "config": config.path,
            "tunnel_id": config.tunnel_id,
            "domain": config.tunnel_domain,
            "certificate_expires_at": certificate,
            "authority_expires_at": authority,
            "killed": killed.as_ref().ok(),
            "gateway": gateway,
            "server": server,
        }))?;
        return Ok(exit);
    }
    let none = || "-".to_owned();
    let ends = match (certificate, authority) {
        (Some(certificate), Some(authority)) => {
            format!("until {}, its authority until {}", day(certificate), day(authority))
        }
        (Some(certificate), None) => format!("until {}", day(certificate)),
        (None, _) => format!("{} holds none that can be read", config.tls.cert.display()),
    };
    let killed = match &killed {
        Ok(killed) if killed.all.is_some() => "everything".to_owned(),
        Ok(killed) if killed.routes.is_empty() => "nothing".to_owned(),
        Ok(killed) => killed.routes.keys().cloned().collect::<Vec<_>>().join(", "),
        Err(error) => format!("everything: {error}"),
    };
    let rows = [
        ("tunnel", config.tunnel_id.clone().unwrap_or_else(none)),
        ("domain", config.tunnel_domain.clone().unwrap_or_else(none)),
        ("routes", config.routes.keys().cloned().collect::<Vec<_>>().join(", ")),
        ("certificate", ends),
        ("killed", killed),
        ("gateway", said(&gateway)),
        ("server", said(&server)),
    ];
    for (label, text) in rows {
        println!(
            "{}  {}",
            look.paint(style::FAINT, &format!("{label:<11}")),
            sanitize::line(&text)
        );
    }
    Ok(exit)
}

fn said(view: &Value) -> String {
    view["message"].as_str().unwrap_or("-").to_owned()
}

/// How the gateway on this machine is, by its health endpoint.
async fn gateway(config: &Config) -> Value {
    let Some(address) = config.health.filter(|address| address.port() != 0) else {
        return json!({ "ready": null, "message": "health.listen_addr is not set, so it cannot be asked" });
    };
    let client = reqwest::Client::builder().no_proxy().timeout(HEALTH).build();
    let answer = match client {
        Ok(client) => client.get(format!("http://{address}/readyz")).send().await,
        Err(error) => Err(error),
    };
    let Ok(answer) = answer else {
        return json!({ "ready": false, "message": format!("it does not answer on {address}: is it running?") });
    };
    let ready = answer.status().is_success();
    let message = answer.text().await.unwrap_or_default();
    json!({ "ready": ready, "message": message.trim() })
}

/// How the server sees the tunnel, if there is a key to ask with.
async fn server(args: &StatusArgs, config: &Config) -> Value {
    let unknown = |why: String| json!({ "message": why });
    let Some(id) = &config.tunnel_id else {
        return unknown("tunnel_id is not set".into());
    };
    let client = match workload::client(&args.connection, &process_environment).await {
        Ok(client) => client,
        Err(error) => return unknown(format!("not asked: {error:#}")),
    };
    match client.tunnels().status(id).await {
        Ok(mut status) => {
            let connections = status["connections"].as_array().map_or(0, Vec::len);
            let state = if !status["archived_at"].is_null() {
                "archived"
            } else if status["paused"] == json!(true) {
                "PAUSED: nothing passes until `outwork tunnels resume`"
            } else {
                "open"
            };
            let message = format!(
                "{state}; {connections} connections, {} active authorities, token generation {}",
                status["active_certificates"], status["token"]["generation"]
            );
            status["message"] = json!(message);
            status
        }
        Err(error) => unknown(format!("{error}")),
    }
}
