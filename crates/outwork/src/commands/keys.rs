//! `outwork keys`

use anyhow::{Context, Result};
use outwork_client::Query;
use outwork_wire::Time;
use serde_json::{Value, json};

use super::{print_done, print_list, print_one, text, when};
use crate::cli::resources::KeysCommand;
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn keys(command: KeysCommand, look: Look) -> Result<Exit> {
    match command {
        KeysCommand::Create {
            name,
            role,
            expires_in,
            common,
        } => {
            let mut body = json!({ "name": name });
            if let Some(role) = role {
                body["role"] = role.into();
            }
            if let Some(expires_in) = expires_in {
                let seconds = i64::try_from(expires_in.0.as_secs()).context("--expires-in is too long")?;
                body["expires_at"] = Time::now().plus_seconds(seconds).to_string().into();
            }
            let client = connection::client(&common.connection, &process_environment)?;
            let exit = print_one(&client.api_keys().create(&body).await?, common.output.json, &look)?;
            if !common.output.json {
                eprintln!("\nThe key is not shown again. Clients take it from OUTWORK_API_KEY or ANTHROPIC_API_KEY.");
            }
            Ok(exit)
        }
        KeysCommand::List(common) => {
            let client = connection::client(&common.connection, &process_environment)?;
            let items = client.api_keys().list(Query::new()).collect(usize::MAX).await?;
            rows(&items, common.output.json, &look)
        }
        KeysCommand::Revoke(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.api_keys().revoke(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("revoked {}", one.id))
        }
    }
}

/// Keys in a table.
pub(crate) fn rows(items: &[Value], json: bool, look: &Look) -> Result<Exit> {
    print_list(
        items,
        json,
        look,
        &["ID", "NAME", "ROLE", "CREATED", "EXPIRES", "STATE"],
        |item| {
            let revoked = item.get("revoked_at").is_some_and(|at| !at.is_null());
            vec![
                text(item, "/id"),
                text(item, "/name"),
                text(item, "/role"),
                when(item, "/created_at"),
                when(item, "/expires_at"),
                if revoked { "revoked" } else { "valid" }.to_owned(),
            ]
        },
    )
}
