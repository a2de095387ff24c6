//! `outwork files`: what sessions are given, and what they bring forth.

use std::path::PathBuf;

use clap::Subcommand;

use super::resources::{Common, One};
use crate::config::Span;

/// `outwork files`
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// Upload a file
    Upload {
        /// The file; `-` is standard input
        file: PathBuf,
        /// Its name on the server [default: its own]
        #[arg(long, required_if_eq("file", "-"))]
        name: Option<String>,
        /// Its media type [default: as its name says]
        #[arg(long = "type", value_name = "MEDIA_TYPE")]
        media_type: Option<String>,
        /// After what time its bytes go, 1h to 90 days (2160h) [default: never]
        #[arg(long, value_name = "TIME")]
        expires_in: Option<Span>,
        #[command(flatten)]
        common: Common,
    },
    /// List files, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only what this session brought forth
        #[arg(long, value_name = "SESSION_ID")]
        session: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Show what is known of a file
    #[command(visible_alias = "show")]
    Get(One),
    /// Download a file that a session brought forth
    Download {
        #[command(flatten)]
        one: One,
        /// Where to; `-` is standard output [default: the file's name, in this folder]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Delete a file
    Delete(One),
}
