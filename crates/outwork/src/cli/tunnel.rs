//! Flags of `tunnel`: the gateway beside private servers. No flag takes a secret: a token comes from a file or from
//! standard input.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::plane::LogArgs;
use super::task::Connection;
use crate::config::Span;

/// `outwork tunnel`
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCommand {
    /// Make or join a tunnel, and write a folder with everything that the gateway needs
    #[command(after_help = SETUP)]
    Setup(Box<SetupArgs>),
    /// Renew the gateway's certificate before it expires, and its authority where that is near its end
    #[command(after_help = RENEW)]
    Renew(RenewArgs),
    /// Run the gateway: dial out, take calls in, apply the rules, keep a record of each call
    #[command(after_help = RUN)]
    Run(RunArgs),
    /// Check the configuration: where the routes lead, and what would be refused
    Check(ShowArgs),
    /// Let nothing pass through a route, at once and until it is revived
    Kill(SwitchArgs),
    /// Let calls pass through a route again
    Revive(SwitchArgs),
    /// Show the records of calls, and verify that none was changed or taken out
    Records(RecordsArgs),
    /// Show how the gateway and its tunnel are doing
    Status(StatusArgs),
}

const SETUP: &str = "\
Safe to repeat: what is there is kept, what is missing is made, a folder of another tunnel is
refused. An existing config.yaml is never changed.

By hand, with no call to the server:
  outwork tunnel setup --offline --tunnel tnl_… --domain NAME --token-file FILE
      --edge HOST:PORT [--edge-fingerprint HEX | --edge-ca-file FILE]
      [--certificate FILE --key FILE]
and whoever manages the tunnel registers the authority, ca.crt unless it is your own:
  outwork tunnels certificates add tnl_… ca.crt

Instead of an API key, workload identity as the published SDKs have it:
  ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID, ANTHROPIC_IDENTITY_TOKEN_FILE";

const RENEW: &str = "\
Run it daily from a timer: it does nothing until the certificate has less than --before left.
A running gateway takes the new certificate over by itself. The server is called only when the
authority itself is near its end: the new one is registered beside the old one, two being the
most that can be active.";

const RUN: &str = "\
SIGTERM drains: no more calls are taken, those under way end within shutdown_timeout; the exit
code is 1 if some had to be cut. SIGHUP reads the configuration again; changes are also noticed
by themselves. A second SIGTERM ends at once.

The token may be in OUTWORK_TUNNEL_TOKEN instead of a file.";

/// Which gateway.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Place {
    /// The folder that `outwork tunnel setup` wrote [default: outwork-tunnel, in the working folder]
    #[arg(long, env = "OUTWORK_TUNNEL_FOLDER", value_name = "FOLDER", help_heading = "Gateway")]
    pub(crate) folder: Option<PathBuf>,
    /// The configuration file [default: config.yaml in the folder]
    #[arg(long, value_name = "FILE", help_heading = "Gateway")]
    pub(crate) config: Option<PathBuf>,
}

/// How to reach the edge.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EdgeArgs {
    /// Where the plane takes gateways; may be given several times
    #[arg(long = "edge", value_name = "HOST:PORT", help_heading = "Edge")]
    pub(crate) addresses: Vec<String>,
    /// The SHA-256 of the edge's certificate
    #[arg(long, value_name = "HEX", help_heading = "Edge", conflicts_with = "edge_ca_file")]
    pub(crate) edge_fingerprint: Option<String>,
    /// An authority that vouches for the edge, PEM
    #[arg(long, value_name = "FILE", help_heading = "Edge")]
    pub(crate) edge_ca_file: Option<PathBuf>,
    /// The name in the edge's certificate, where it is not the host of the address
    #[arg(long, value_name = "NAME", help_heading = "Edge")]
    pub(crate) edge_name: Option<String>,
}

/// `outwork tunnel setup`
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Where to write [default: outwork-tunnel, in the working folder]
    #[arg(long, env = "OUTWORK_TUNNEL_FOLDER", value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Join this tunnel
    #[arg(long, value_name = "TUNNEL")]
    pub(crate) tunnel: Option<String>,
    /// Join the tunnel of this name; make it if there is none [default: a new tunnel]
    #[arg(long, conflicts_with = "tunnel")]
    pub(crate) name: Option<String>,
    /// A route to write into a new config.yaml: a name, and scheme://host:port
    #[arg(long = "route", value_name = "NAME=URL")]
    pub(crate) routes: Vec<String>,
    /// A range of addresses that routes may lead to, for a new config.yaml [default: RFC 1918]
    #[arg(long = "allow", value_name = "RANGE")]
    pub(crate) allow: Vec<String>,
    /// Where health and metrics are served, for a new config.yaml: a loopback address, or `none`
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7845")]
    pub(crate) health: String,
    /// Require and record who calls: write the server's keys for it into a new config.yaml
    #[arg(long, conflicts_with = "offline")]
    pub(crate) identity: bool,
    /// Use this token instead of asking the server for it; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Use this certificate, for the tunnel's domain and all names under it, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Register this authority, which signed the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate", conflicts_with = "offline")]
    pub(crate) authority: Option<PathBuf>,
    /// Call no server: everything that it would say is given by flags
    #[arg(
        long,
        requires = "tunnel",
        requires = "domain",
        requires = "token_file",
        requires = "addresses"
    )]
    pub(crate) offline: bool,
    /// The tunnel's domain
    #[arg(long, value_name = "NAME", requires = "offline")]
    pub(crate) domain: Option<String>,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `outwork tunnel renew`
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// The folder that `outwork tunnel setup` wrote [default: outwork-tunnel, in the working folder]
    #[arg(long, env = "OUTWORK_TUNNEL_FOLDER", value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Renew when less than this is left
    #[arg(long, value_name = "TIME", default_value = "720h")]
    pub(crate) before: Span,
    /// How long the new certificate is valid [default: 2160h]
    #[arg(long, value_name = "TIME")]
    pub(crate) lifetime: Option<Span>,
    /// Renew now
    #[arg(long)]
    pub(crate) force: bool,
    /// Make and register another authority too
    #[arg(long)]
    pub(crate) new_authority: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `outwork tunnel run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    /// The tunnel, where the configuration does not say it
    #[arg(long, value_name = "TUNNEL", help_heading = "Gateway")]
    pub(crate) tunnel: Option<String>,
    /// The tunnel's token, where the configuration does not say it
    #[arg(long, value_name = "FILE", help_heading = "Gateway")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// One gateway, shown.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `outwork tunnel kill` and `revive`
#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    /// The route, as it is named in the configuration
    #[arg(value_name = "ROUTE", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) route: Option<String>,
    /// All routes, those of tomorrow too
    #[arg(long)]
    pub(crate) all: bool,
    /// The folder that holds what is killed [default: as the configuration says]
    #[arg(long, value_name = "FOLDER", help_heading = "Gateway")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `outwork tunnel records`
#[derive(Debug, Args)]
pub(crate) struct RecordsArgs {
    /// Verify the whole ledger instead of showing it
    #[arg(long)]
    pub(crate) verify: bool,
    /// The key that must have signed the ledger, as `--verify` shows it; may be given several times
    #[arg(long = "key", value_name = "KEY", requires = "verify")]
    pub(crate) keys: Vec<String>,
    /// Of this route
    #[arg(long, conflicts_with = "verify")]
    pub(crate) route: Option<String>,
    /// Of this tool
    #[arg(long, conflicts_with = "verify")]
    pub(crate) tool: Option<String>,
    /// Of this session
    #[arg(long, conflicts_with = "verify")]
    pub(crate) session: Option<String>,
    /// Of the last hour, say, with `1h`
    #[arg(long, value_name = "TIME", conflicts_with = "verify")]
    pub(crate) since: Option<Span>,
    /// Only calls that were refused or failed
    #[arg(long, conflicts_with = "verify")]
    pub(crate) refused: bool,
    /// The last so many
    #[arg(long, default_value_t = 50, conflicts_with = "verify")]
    pub(crate) limit: usize,
    /// The ledger's folder [default: as the configuration says]
    #[arg(long, value_name = "FOLDER", help_heading = "Gateway")]
    pub(crate) ledger: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `outwork tunnel status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
