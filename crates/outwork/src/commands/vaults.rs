//! `outwork vaults`
//!
//! Secrets are read from standard input or a file, go to the server, and are never printed.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use outwork_plane::vault::{KeyFile, rotate_master_key};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::agents::query;
use super::{print_done, print_json, print_list, print_one, text, when};
use crate::cli::vaults::{CredentialCreate, CredentialsCommand, InVault, RotateArgs, VaultsCommand};
use crate::config::{self, process_environment};
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn vaults(command: VaultsCommand, look: Look) -> Result<Exit> {
    match command {
        VaultsCommand::Create { name, common } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let vault = client.vaults().create(&json!({ "display_name": name })).await?;
            print_one(&vault, common.output.json, &look)
        }
        VaultsCommand::List(args) => {
            let client = connection::client(&args.common.connection, &process_environment)?;
            let items = client.vaults().list(query(&args)).collect(args.limit).await?;
            print_list(
                &items,
                args.common.output.json,
                &look,
                &["ID", "NAME", "CREATED"],
                |item| vec![text(item, "/id"), name_of(item), when(item, "/created_at")],
            )
        }
        VaultsCommand::Show(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            print_one(&client.vaults().get(&one.id).await?, one.common.output.json, &look)
        }
        VaultsCommand::Archive(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.vaults().archive(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("archived {}", one.id))
        }
        VaultsCommand::Delete(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.vaults().delete(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("deleted {}", one.id))
        }
        VaultsCommand::Credentials(command) => credentials(command, look).await,
        VaultsCommand::RotateMasterKey(args) => rotate(args).await,
    }
}

async fn credentials(command: CredentialsCommand, look: Look) -> Result<Exit> {
    let connect = |of: &InVault| connection::client(&of.common.connection, &process_environment);
    match command {
        CredentialsCommand::Create(args) => create(args, look).await,
        CredentialsCommand::List { vault_id, list } => {
            let client = connection::client(&list.common.connection, &process_environment)?;
            let pages = client.vault_credentials(&vault_id).list(query(&list))?;
            let items = pages.collect(list.limit).await?;
            print_list(
                &items,
                list.common.output.json,
                &look,
                &["ID", "NAME", "TYPE", "FOR", "CREATED"],
                |item| {
                    let used_for = match item.pointer("/auth/secret_name") {
                        Some(_) => text(item, "/auth/secret_name"),
                        None => text(item, "/auth/mcp_server_url"),
                    };
                    vec![
                        text(item, "/id"),
                        name_of(item),
                        text(item, "/auth/type"),
                        used_for,
                        when(item, "/created_at"),
                    ]
                },
            )
        }
        CredentialsCommand::Show(of) => {
            let found = connect(&of)?.vault_credentials(&of.vault_id).get(&of.id).await?;
            print_one(&found, of.common.output.json, &look)
        }
        CredentialsCommand::ReplaceSecret {
            credential: of,
            secret_file,
        } => {
            let client = connect(&of)?;
            let found = client.vault_credentials(&of.vault_id).get(&of.id).await?;
            let field = match text(&found, "/auth/type").as_str() {
                "static_bearer" => "token",
                "environment_variable" => "secret_value",
                other => bail!(
                    "credential {} is {other}, which has several secrets: the API replaces them one by one",
                    of.id
                ),
            };
            let secret = read_secret(secret_file.as_deref())?;
            let body = json!({ "auth": { "type": found["auth"]["type"], field: secret.expose_secret() } });
            let answer = client.vault_credentials(&of.vault_id).update(&of.id, &body).await?;
            print_done(
                &answer,
                of.common.output.json,
                &format!("replaced the secret of {}", of.id),
            )
        }
        CredentialsCommand::Validate(of) => {
            let answer = connect(&of)?.vault_credentials(&of.vault_id).validate(&of.id).await?;
            print_one(&answer, of.common.output.json, &look)
        }
        CredentialsCommand::Archive(of) => {
            let answer = connect(&of)?.vault_credentials(&of.vault_id).archive(&of.id).await?;
            print_done(&answer, of.common.output.json, &format!("archived {}", of.id))
        }
        CredentialsCommand::Delete(of) => {
            let answer = connect(&of)?.vault_credentials(&of.vault_id).delete(&of.id).await?;
            print_done(&answer, of.common.output.json, &format!("deleted {}", of.id))
        }
    }
}

async fn create(args: CredentialCreate, look: Look) -> Result<Exit> {
    let client = connection::client(&args.common.connection, &process_environment)?;
    let auth = match (&args.mcp_server, &args.variable, &args.auth_file) {
        (Some(url), _, _) => {
            let secret = read_secret(args.secret_file.as_deref())?;
            json!({ "type": "static_bearer", "mcp_server_url": url, "token": secret.expose_secret() })
        }
        (None, Some(name), _) => {
            let secret = read_secret(args.secret_file.as_deref())?;
            let networking = if args.hosts.is_empty() {
                json!({ "type": "unrestricted" })
            } else {
                json!({ "type": "limited", "allowed_hosts": args.hosts })
            };
            json!({
                "type": "environment_variable", "secret_name": name, "secret_value": secret.expose_secret(),
                "networking": networking,
            })
        }
        (None, None, Some(path)) => read_auth(path)?,
        (None, None, None) => bail!("give --mcp-server, --variable or --auth-file"),
    };
    let mut body = json!({ "auth": auth });
    if let Some(name) = &args.name {
        body["display_name"] = name.as_str().into();
    }
    let made = client.vault_credentials(&args.vault_id).create(&body).await?;
    print_one(&made, args.common.output.json, &look)
}

async fn rotate(args: RotateArgs) -> Result<Exit> {
    let data_dir = config::data_dir(args.data_dir, args.config.as_deref(), &process_environment)?;
    if !data_dir.join("outwork.db").is_file() {
        bail!("{} is no data folder of a server: give --data-dir", data_dir.display());
    }
    let given = config::master_key(&process_environment);
    let rotated = rotate_master_key(&data_dir, given.as_ref()).await?;
    if args.output.json {
        print_json(&json!({ "master_key_id": rotated.key_id, "data_keys": rotated.data_keys }))?;
        return Ok(Exit::Done);
    }
    println!(
        "sealed {} data key(s) under the master key {}",
        rotated.data_keys, rotated.key_id
    );
    match rotated.file {
        KeyFile::Written(path) => println!("it is kept in {}: back it up, apart from the database", path.display()),
        KeyFile::NotNeeded(path) => println!("{} is not needed any more: remove it", path.display()),
        KeyFile::Absent => println!("OUTWORK_MASTER_KEY need not hold any other key any more"),
    }
    Ok(Exit::Done)
}

/// A secret, without the line break at its end.
fn read_secret(file: Option<&Path>) -> Result<SecretString> {
    if let Some(path) = file {
        return config::secret_file(path);
    }
    if io::IsTerminal::is_terminal(&io::stdin()) {
        eprintln!("the secret, then Ctrl-D (it is shown as you type; --secret-file reads it from a file):");
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .context("could not read the secret")?;
    if text.trim().is_empty() {
        bail!("the secret is empty");
    }
    Ok(SecretString::from(text.trim()))
}

fn read_auth(path: &Path) -> Result<Value> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin()).context("could not read `auth`")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?
    };
    // The parser's own words could show a part of a secret.
    serde_json::from_str(&text).map_err(|error| {
        anyhow::anyhow!(
            "{} is not valid JSON: line {}, column {}",
            path.display(),
            error.line(),
            error.column()
        )
    })
}

/// The name of a vault or a credential, and whether it is archived.
fn name_of(item: &Value) -> String {
    let archived = item.get("archived_at").is_some_and(|at| !at.is_null());
    format!(
        "{}{}",
        text(item, "/display_name"),
        if archived { " (archived)" } else { "" }
    )
}
