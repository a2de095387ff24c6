//! Flags of `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::resources::Common;

const EXIT_CODES: &str = "Exit codes: 0 allowed, 1 refused, 2 it cannot be said.";

/// `outwork policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether a host, or a request to it, would be let through, and by which rule
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Propose rules for what was refused to a session
    Suggest(SuggestArgs),
}

/// `outwork policy check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A host or an address, with a port if it is not 443
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) host: String,
    /// The method of a request
    #[arg(requires = "path")]
    pub(crate) method: Option<String>,
    /// Its path, with its query
    pub(crate) path: Option<String>,
    /// The worker's policy
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// An environment; with --policy, both must allow it
    #[arg(long, value_name = "ID")]
    pub(crate) environment: Option<String>,
    /// A session: its environment, with its MCP servers and repositories
    #[arg(long, value_name = "ID", conflicts_with = "environment")]
    pub(crate) session: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `outwork policy suggest`
#[derive(Debug, Args)]
pub(crate) struct SuggestArgs {
    /// The session
    pub(crate) session: String,
    /// A worker's ledger, instead of what workers handed over to the server; may be repeated
    #[arg(long, value_name = "FOLDER")]
    pub(crate) ledger: Vec<PathBuf>,
    /// A worker's own folder: every ledger in it
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}
