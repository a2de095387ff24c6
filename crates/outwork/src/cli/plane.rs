//! Flags of `serve` and `up`, and of the log.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::worker::LimitArgs;
use crate::config::Span;

const SECRETS: &str = "\
Secrets are taken from the environment:
  OUTWORK_API_KEY         the admin key; without it one is made at the first start,
                          printed once and kept in the data folder
  OUTWORK_MASTER_KEY      what credentials in vaults are sealed under, 32 bytes in
                          base64; without it a key is kept in the data folder
  OUTWORK_MODEL_BASE_URL  the model provider: any server of the Messages API
  OUTWORK_MODEL_API_KEY   the model provider's key

A flag comes before an environment variable, that before the settings file, that before
the defaults. `outwork serve --print-config` shows the defaults as a settings file.";

/// `outwork serve`
#[derive(Debug, Args)]
#[command(after_help = SECRETS)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) plane: PlaneArgs,
}

/// `outwork up`
#[derive(Debug, Args)]
#[command(after_help = SECRETS)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) plane: PlaneArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// How the local worker calls the server; with TLS, by a name of the certificate [default: by address]
    #[arg(long, value_name = "URL")]
    pub(crate) local_url: Option<String>,
}

/// What a server is started with.
#[derive(Debug, Args)]
pub(crate) struct PlaneArgs {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8400]
    #[arg(long, env = "OUTWORK_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where everything is kept [default: the user's folder for data]
    #[arg(long, env = "OUTWORK_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A settings file
    #[arg(long, env = "OUTWORK_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Certificate chain, PEM
    #[arg(long, env = "OUTWORK_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, env = "OUTWORK_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Listen beyond this machine without TLS
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Where others reach this server: the issuer of the tokens of agents [default: the address that it listens on]
    #[arg(long, value_name = "URL", env = "OUTWORK_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,
    /// Where the gateways of tunnels connect, over UDP and TCP; port 0 takes a free one [default: nowhere for `serve`, the
    /// port after that of --listen for `up`]
    #[arg(long, value_name = "ADDRESS:PORT", env = "OUTWORK_TUNNEL_LISTEN")]
    pub(crate) tunnel_listen: Option<SocketAddr>,
    /// Under which host and port gateways reach it from elsewhere, for `outwork tunnel setup`
    #[arg(long, value_name = "HOST:PORT", env = "OUTWORK_TUNNEL_ADDRESS")]
    pub(crate) tunnel_address: Option<String>,
    /// How long running turns may take to reach a safe point on SIGTERM [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub(crate) drain_timeout: Option<Span>,
    /// Print the defaults as a settings file, and do nothing else
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// How the log is written.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// Format of the log on standard error [default: text]
    #[arg(long, env = "OUTWORK_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// A level, or filters such as `info,outwork_plane=debug` [default: info]
    #[arg(long, env = "OUTWORK_LOG_LEVEL", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    // For people.
    Text,
    // For machines: one object per line.
    Json,
}
