//! `outwork environments`

use anyhow::Result;
use outwork_client::Query;
use serde_json::json;

use super::agents::query;
use super::{print_done, print_list, print_one, text, when};
use crate::cli::resources::{EnvironmentKeysCommand, EnvironmentType, EnvironmentsCommand};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn environments(command: EnvironmentsCommand, look: Look) -> Result<Exit> {
    match command {
        EnvironmentsCommand::Create {
            name,
            r#type,
            description,
            common,
        } => {
            let kind = match r#type {
                EnvironmentType::SelfHosted => "self_hosted",
                EnvironmentType::Cloud => "cloud",
            };
            let mut body = json!({ "name": name, "config": { "type": kind } });
            if let Some(description) = description {
                body["description"] = description.into();
            }
            let client = connection::client(&common.connection, &process_environment)?;
            print_one(&client.environments().create(&body).await?, common.output.json, &look)
        }
        EnvironmentsCommand::List(args) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            let items = client.environments().list(query(&args)).collect(args.limit).await?;
            print_list(
                &items,
                args.common.output.json,
                &look,
                &["ID", "NAME", "TYPE", "CREATED"],
                |item| {
                    let archived = if item.get("archived_at").is_some_and(|at| !at.is_null()) {
                        " (archived)"
                    } else {
                        ""
                    };
                    vec![
                        text(item, "/id"),
                        format!("{}{archived}", text(item, "/name")),
                        text(item, "/config/type"),
                        when(item, "/created_at"),
                    ]
                },
            )
        }
        EnvironmentsCommand::Show(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let mut environment = client.environments().get(&one.id).await?;
            // The queue is shown where the server tells it; that it does not is no failure of `show`.
            if !one.common.output.json
                && let Ok(stats) = client.work(&one.id).stats().await
            {
                let workers = stats.workers_polling.map_or("-".to_owned(), |count| count.to_string());
                environment["queue"] = format!(
                    "{} waiting, {} polled and not taken, workers {workers}",
                    stats.depth, stats.pending
                )
                .into();
            }
            print_one(&environment, one.common.output.json, &look)
        }
        EnvironmentsCommand::Archive(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.environments().archive(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("archived {}", one.id))
        }
        EnvironmentsCommand::Delete { one, force } => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.environments().delete(&one.id, force).await?;
            print_done(&answer, one.common.output.json, &format!("deleted {}", one.id))
        }
        EnvironmentsCommand::Keys(command) => keys(command, look).await,
    }
}

async fn keys(command: EnvironmentKeysCommand, look: Look) -> Result<Exit> {
    match command {
        EnvironmentKeysCommand::Create {
            environment_id,
            name,
            common,
        } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let key = client
                .environment_keys(&environment_id)
                .create(&json!({ "name": name }))
                .await?;
            let exit = print_one(&key, common.output.json, &look)?;
            if !common.output.json {
                eprintln!("\nThe key is not shown again. A worker takes it from OUTWORK_ENVIRONMENT_KEY.");
            }
            Ok(exit)
        }
        EnvironmentKeysCommand::List { environment_id, common } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let items = client
                .environment_keys(&environment_id)
                .list(Query::new())?
                .collect(usize::MAX)
                .await?;
            super::keys::rows(&items, common.output.json, &look)
        }
        EnvironmentKeysCommand::Revoke {
            environment_id,
            key_id,
            common,
        } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let answer = client.environment_keys(&environment_id).revoke(&key_id).await?;
            print_done(&answer, common.output.json, &format!("revoked {key_id}"))
        }
    }
}
