//! `outwork agents`

use std::io::Read;

use anyhow::{Context, Result};
use outwork_client::Query;
use serde_json::{Value, json};

use super::{print_done, print_list, print_one, text, when};
use crate::cli::resources::{AgentCreate, AgentsCommand, List};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn agents(command: AgentsCommand, look: Look) -> Result<Exit> {
    match command {
        AgentsCommand::Create(args) => create(args, look).await,
        AgentsCommand::List(args) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            let items = client.agents().list(query(&args)).collect(args.limit).await?;
            rows(&items, args.common.output.json, &look)
        }
        AgentsCommand::Show { one, version } => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            print_one(
                &client.agents().get(&one.id, version).await?,
                one.common.output.json,
                &look,
            )
        }
        AgentsCommand::Versions(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let items = client
                .agents()
                .versions(&one.id, Query::new())?
                .collect(usize::MAX)
                .await?;
            rows(&items, one.common.output.json, &look)
        }
        AgentsCommand::Archive(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.agents().archive(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("archived {}", one.id))
        }
    }
}

/// The query of a list.
pub(crate) fn query(args: &List) -> Query {
    let query = Query::new().with("limit", args.limit.clamp(1, 100));
    query.maybe("include_archived", args.include_archived.then_some(true))
}

fn rows(items: &[Value], json: bool, look: &Look) -> Result<Exit> {
    print_list(
        items,
        json,
        look,
        &["ID", "NAME", "MODEL", "VERSION", "UPDATED"],
        |item| {
            let archived = if item.get("archived_at").is_some_and(|at| !at.is_null()) {
                " (archived)"
            } else {
                ""
            };
            vec![
                text(item, "/id"),
                format!("{}{archived}", text(item, "/name")),
                text(item, "/model/id"),
                text(item, "/version"),
                when(item, "/updated_at"),
            ]
        },
    )
}

async fn create(args: AgentCreate, look: Look) -> Result<Exit> {
    let body = match &args.file {
        Some(path) => {
            let text = if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("could not read standard input")?;
                text
            } else {
                std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?
            };
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?
        }
        None => {
            let mut body = json!({ "name": args.name, "model": args.model });
            for (name, value) in [("system", &args.system), ("description", &args.description)] {
                if let Some(value) = value {
                    body[name] = json!(value);
                }
            }
            if !args.no_tools {
                body["tools"] = json!([toolset(args.ask)]);
            }
            body
        }
    };
    let client = connection::client(&args.common.connection, &process_environment)?;
    print_one(&client.agents().create(&body).await?, args.common.output.json, &look)
}

/// The built-in tools, with or without a question before each call.
pub(crate) fn toolset(ask: bool) -> Value {
    let policy = if ask { "always_ask" } else { "always_allow" };
    json!({
        "type": "agent_toolset_20260401",
        "default_config": { "enabled": true, "permission_policy": { "type": policy } },
    })
}
