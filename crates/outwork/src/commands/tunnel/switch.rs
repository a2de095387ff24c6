//! `outwork tunnel kill` and `revive`: the owner's own switch, beside the server's `outwork tunnels pause`.
//!
//! It works without the gateway and without the server, and also when the configuration cannot be read: whoever
//! reaches for it must not have to mend a file first.

use std::path::PathBuf;

use anyhow::{Result, bail};
use outwork_gateway::config::Config;
use outwork_gateway::kill::{self, Killed, Scope};
use serde_json::json;

use crate::cli::tunnel::SwitchArgs;
use crate::commands::print_json;
use crate::exit::Exit;
use crate::terminal::sanitize;

pub(super) fn kill(args: &SwitchArgs) -> Result<Exit> {
    let (folder, config) = find(args)?;
    let scope = scope(args);
    if let (Scope::Route(route), Some(config)) = (&scope, &config)
        && !config.routes.contains_key(&route.to_ascii_lowercase())
    {
        let names: Vec<&str> = config.routes.keys().map(String::as_str).collect();
        bail!(
            "there is no route `{route}`, so nothing was killed; there are: {}",
            names.join(", ")
        );
    }
    let killed = kill::kill(&folder, &scope)?;
    let what = match &scope {
        Scope::All => "killed everything".to_owned(),
        Scope::Route(route) => format!("killed {route}"),
    };
    show(
        args,
        &killed,
        &format!("{what}: within half a second nothing passes, until `outwork tunnel revive`"),
    )
}

pub(super) fn revive(args: &SwitchArgs) -> Result<Exit> {
    let (folder, _) = find(args)?;
    let scope = scope(args);
    let before = Killed::read(&folder)?;
    let killed = kill::revive(&folder, &scope)?;
    let sentence = match &scope {
        Scope::All => "revived everything".to_owned(),
        Scope::Route(route) if killed.all.is_some() => {
            bail!("{route} stays killed, because everything is: `outwork tunnel revive --all` revives it")
        }
        Scope::Route(route) if before.routes.contains_key(&route.to_ascii_lowercase()) => format!("revived {route}"),
        Scope::Route(route) => format!("{route} was not killed"),
    };
    show(args, &killed, &sentence)
}

fn scope(args: &SwitchArgs) -> Scope {
    match &args.route {
        Some(route) => Scope::Route(route.clone()),
        None => Scope::All,
    }
}

/// The folder of the switch, and the configuration if it can be read.
fn find(args: &SwitchArgs) -> Result<(PathBuf, Option<Config>)> {
    let config = args.place.load();
    if let Some(folder) = &args.state_dir {
        return Ok((folder.clone(), config.ok()));
    }
    match config {
        Ok(config) => Ok((config.state_dir.clone(), Some(config))),
        Err(error) => {
            let folder = args.place.folder();
            if !args.place.config().exists() {
                return Err(error);
            }
            eprintln!(
                "outwork: {}\n         the switch in {} is used; if state_dir says another folder, give --state-dir",
                sanitize::lines(&format!("{error:#}")),
                folder.display()
            );
            Ok((folder, None))
        }
    }
}

fn show(args: &SwitchArgs, killed: &Killed, sentence: &str) -> Result<Exit> {
    if args.output.json {
        print_json(&json!({ "type": "tunnel_switch", "killed": killed }))?;
    } else {
        println!("{}", sanitize::line(sentence));
    }
    Ok(Exit::Done)
}
