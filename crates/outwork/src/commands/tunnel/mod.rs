//! `outwork tunnel`: the gateway beside private servers, from its setup to its records.
//!
//! What is set up stands in one folder ([`folder`]); everything else reads the configuration in it. Nothing here opens
//! a port: that is the gateway's own business, and it opens one on loopback at most.

mod authority;
mod check;
mod configuration;
mod folder;
mod records;
pub(crate) use records::{facts as ledger_facts, tell as ledger_tell};
mod renew;
mod report;
mod run;
mod setup;
mod status;
mod switch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use outwork_gateway::config::Config;

pub(crate) use self::report::Set;
pub(crate) use self::setup::setup;
use crate::cli::tunnel::{Place, TunnelCommand};
use crate::exit::Exit;
use crate::terminal::Look;

/// Where a gateway's files are unless it is said.
const FOLDER: &str = "outwork-tunnel";
/// The configuration in a folder.
pub(crate) const CONFIG: &str = "config.yaml";

pub(crate) async fn tunnel(command: TunnelCommand, look: Look) -> Result<Exit> {
    match command {
        TunnelCommand::Setup(args) => {
            let set = setup(&args).await?;
            set.show(args.output.json, &look)
        }
        TunnelCommand::Renew(args) => renew::renew(&args).await,
        TunnelCommand::Run(args) => run::run(args).await,
        TunnelCommand::Check(args) => check::check(&args, look).await,
        TunnelCommand::Kill(args) => switch::kill(&args),
        TunnelCommand::Revive(args) => switch::revive(&args),
        TunnelCommand::Records(args) => records::records(&args, look),
        TunnelCommand::Status(args) => status::status(&args, look).await,
    }
}

/// The folder that a flag names, or the usual one.
fn folder_of(flag: Option<&Path>) -> PathBuf {
    flag.map_or_else(|| PathBuf::from(FOLDER), Path::to_owned)
}

impl Place {
    /// The configuration file.
    fn config(&self) -> PathBuf {
        match &self.config {
            Some(path) => path.clone(),
            None => folder_of(self.folder.as_deref()).join(CONFIG),
        }
    }

    /// The folder that the configuration is in.
    fn folder(&self) -> PathBuf {
        let config = self.config();
        match config.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// The configuration, read and checked.
    fn load(&self) -> Result<Config> {
        let path = self.config();
        if !path.try_exists().unwrap_or(true) {
            return Err(no_configuration(&path));
        }
        Ok(Config::load(&path)?)
    }
}

fn no_configuration(path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "there is no {}: make it with `outwork tunnel setup`, or name another with --folder or --config",
        path.display()
    )
}

/// The text of a file.
fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
