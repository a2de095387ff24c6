//! `outwork evidence`, `outwork ledger` and `outwork halt`: proof of what happened, and the end of it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Output;
use super::resources::Common;
use crate::config::Span;

/// `outwork evidence`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct EvidenceArgs {
    #[command(subcommand)]
    pub(crate) command: Option<EvidenceCommand>,
    /// The session
    #[arg(required = true)]
    pub(crate) session: Option<String>,
    /// Where to; `-` is standard output [default: SESSION.evidence.jsonl in this folder]
    #[arg(long = "output", short = 'o', value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What is done with evidence; no server is needed.
#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Verify a file: that nothing in it was changed, removed or reordered, and that its parts agree
    Verify(VerifyArgs),
    /// Verify a file and write a report for people
    Report {
        #[command(flatten)]
        verify: VerifyArgs,
        /// Write Markdown in place of plain text
        #[arg(long)]
        markdown: bool,
    },
}

/// A file and the keys that may have sealed it.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// The fingerprint of a key that may have sealed it, from another place than the file; may be repeated
    #[arg(long = "key", value_name = "FINGERPRINT")]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `outwork ledger`
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Verify a whole ledger; the server may be running
    Verify {
        #[command(flatten)]
        place: LedgerPlace,
        /// A key that may sign it: its 64 digits, or its fingerprint; may be repeated
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Write records, one a line
    Export {
        #[command(flatten)]
        place: LedgerPlace,
        /// Only those of this session
        #[arg(long, value_name = "SESSION_ID")]
        session: Option<String>,
        /// Only those of this workspace
        #[arg(long, value_name = "WORKSPACE_ID")]
        workspace: Option<String>,
        /// Only those of the last time
        #[arg(long, value_name = "TIME")]
        since: Option<Span>,
        /// Lines of the ledger, or OCSF events
        #[arg(long, value_enum, default_value_t)]
        form: ExportForm,
    },
}

/// Which ledger.
#[derive(Debug, Args)]
pub(crate) struct LedgerPlace {
    /// The ledger's folder [default: that of the server with these settings]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) ledger: Option<PathBuf>,
    /// The server's data folder
    #[arg(long, value_name = "FOLDER", env = "OUTWORK_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server's settings
    #[arg(long, value_name = "FILE", env = "OUTWORK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// The form of an exported line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportForm {
    /// As the ledger has it
    #[default]
    Lines,
    /// An OCSF event
    Ocsf,
}

/// `outwork halt`
#[derive(Debug, Args)]
pub(crate) struct HaltArgs {
    /// What to stop
    #[arg(value_enum)]
    pub(crate) what: HaltWhat,
    /// Its id
    pub(crate) id: String,
    /// End a session for good and its sandbox at once; of a call, its sandbox
    #[arg(long)]
    pub(crate) force: bool,
    /// Why; the agent is told, and the log and the ledger keep it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What can be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HaltWhat {
    /// One call of a tool, by its event
    Call,
    /// What a session does
    Session,
    /// What the sessions of an environment do
    Environment,
    /// What the sessions of a workspace do
    Workspace,
}
