//! `outwork tunnels`

use anyhow::{Context, Result};
use outwork_client::Query;
use serde_json::{Value, json};

use super::agents::query;
use super::{print_done, print_list, print_one, text, when};
use crate::cli::resources::One;
use crate::cli::tunnels::{TunnelCertificatesCommand, TunnelsCommand};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn tunnels(command: TunnelsCommand, look: Look) -> Result<Exit> {
    match command {
        TunnelsCommand::Create { name, common } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let made = client.tunnels().create(&json!({ "display_name": name })).await?;
            print_one(&made, common.output.json, &look)
        }
        TunnelsCommand::List(args) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            let items = client.tunnels().list(query(&args)).collect(args.limit).await?;
            print_list(
                &items,
                args.common.output.json,
                &look,
                &["ID", "NAME", "DOMAIN", "CREATED"],
                |item| {
                    vec![
                        text(item, "/id"),
                        format!("{}{}", text(item, "/display_name"), archived(item)),
                        text(item, "/domain"),
                        when(item, "/created_at"),
                    ]
                },
            )
        }
        TunnelsCommand::Show(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let mut tunnel = client.tunnels().get(&one.id).await?;
            // A hosted service has no status, which is no failure of `show`.
            if !one.common.output.json
                && let Ok(status) = client.tunnels().status(&one.id).await
            {
                for field in ["paused", "active_certificates", "edge", "connections"] {
                    tunnel[field] = status[field].clone();
                }
            }
            print_one(&tunnel, one.common.output.json, &look)
        }
        TunnelsCommand::Archive(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.tunnels().archive(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("archived {}", one.id))
        }
        TunnelsCommand::Pause(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.tunnels().pause(&one.id).await?;
            print_done(
                &answer,
                one.common.output.json,
                &format!("paused {}: nothing passes", one.id),
            )
        }
        TunnelsCommand::Resume(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.tunnels().resume(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("resumed {}", one.id))
        }
        TunnelsCommand::Usage(one) => usage(&one, &look).await,
        TunnelsCommand::Token { one, rotate, reason } => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = if rotate {
                client.tunnels().rotate_token(&one.id, reason.as_deref()).await?
            } else {
                client.tunnels().reveal_token(&one.id).await?
            };
            print_one(&answer, one.common.output.json, &look)
        }
        TunnelsCommand::Certificates(command) => certificates(command, look).await,
    }
}

async fn usage(one: &One, look: &Look) -> Result<Exit> {
    let client = connection::client(&one.common.connection, &process_environment)?;
    let usage = client.tunnels().usage(&one.id).await?;
    if one.common.output.json {
        return print_one(&usage, true, look);
    }
    let routes = usage["routes"].as_array().cloned().unwrap_or_default();
    print_list(
        &routes,
        false,
        look,
        &["ROUTE", "CALLS", "BYTES IN", "BYTES OUT", "LAST"],
        |route| {
            vec![
                text(route, "/route"),
                text(route, "/calls"),
                text(route, "/bytes_in"),
                text(route, "/bytes_out"),
                when(route, "/updated_at"),
            ]
        },
    )
}

async fn certificates(command: TunnelCertificatesCommand, look: Look) -> Result<Exit> {
    match command {
        TunnelCertificatesCommand::Add {
            tunnel_id,
            file,
            common,
        } => {
            let pem = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
            let client = connection::client(&common.connection, &process_environment)?;
            let made = client.tunnel_certificates(&tunnel_id).create(&pem).await?;
            print_one(&made, common.output.json, &look)
        }
        TunnelCertificatesCommand::List {
            tunnel_id,
            include_archived,
            common,
        } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let query = Query::new().maybe("include_archived", include_archived.then_some(true));
            let items = client
                .tunnel_certificates(&tunnel_id)
                .list(query)?
                .collect(usize::MAX)
                .await?;
            print_list(
                &items,
                common.output.json,
                &look,
                &["ID", "FINGERPRINT", "EXPIRES", "STATE"],
                |item| {
                    vec![
                        text(item, "/id"),
                        text(item, "/fingerprint"),
                        when(item, "/expires_at"),
                        if archived(item).is_empty() {
                            "active"
                        } else {
                            "archived"
                        }
                        .to_owned(),
                    ]
                },
            )
        }
        TunnelCertificatesCommand::Archive {
            tunnel_id,
            certificate_id,
            common,
        } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let answer = client.tunnel_certificates(&tunnel_id).archive(&certificate_id).await?;
            print_done(&answer, common.output.json, &format!("archived {certificate_id}"))
        }
    }
}

fn archived(item: &Value) -> &'static str {
    if item.get("archived_at").is_some_and(|at| !at.is_null()) {
        " (archived)"
    } else {
        ""
    }
}
