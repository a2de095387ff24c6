//! `outwork tunnels`: the ways into private networks, as the server keeps them.

use std::path::PathBuf;

use clap::Subcommand;

use super::resources::{Common, List, One};

/// `outwork tunnels`
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelsCommand {
    /// Make a tunnel
    Create {
        /// Its name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List tunnels
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a tunnel: whether it is paused, and who is connected
    Show(One),
    /// Archive a tunnel for good: its domain does not come back
    Archive(One),
    /// Let nothing pass, from now on
    Pause(One),
    /// Let calls pass again
    Resume(One),
    /// Show calls and bytes by route
    Usage(One),
    /// Show the token with which a gateway connects
    Token {
        #[command(flatten)]
        one: One,
        /// Make another one; the present one is refused at once
        #[arg(long)]
        rotate: bool,
        /// Why, for the record
        #[arg(long, requires = "rotate")]
        reason: Option<String>,
    },
    /// Certificate authorities of a tunnel
    #[command(subcommand, visible_alias = "certs")]
    Certificates(TunnelCertificatesCommand),
}

/// `outwork tunnels certificates`
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCertificatesCommand {
    /// Register an authority; two can be active
    Add {
        /// The tunnel
        tunnel_id: String,
        /// A PEM file with one certificate and no key
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// List authorities
    #[command(visible_alias = "ls")]
    List {
        /// The tunnel
        tunnel_id: String,
        /// Archived ones too
        #[arg(long)]
        include_archived: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Archive an authority; without any, nothing passes
    Archive {
        /// The tunnel
        tunnel_id: String,
        /// The authority
        certificate_id: String,
        #[command(flatten)]
        common: Common,
    },
}
