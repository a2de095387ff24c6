//! What a plane is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outwork_engine::{PromptOptions, RetryPolicy};
use outwork_store::BlobPlace;
use secrecy::SecretString;

use crate::evidence::LedgerOptions;
use crate::federation::FederationOptions;
use crate::mcp::McpOptions;
use crate::vault::OnRefreshFailure;

/// What a plane is started with.
pub struct PlaneOptions {
    /// Where the API is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificate and key, for HTTPS.
    pub tls: Option<TlsPaths>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The first admin key. Without one, a key is made at first start and kept in the data folder.
    pub api_key: Option<SecretString>,
    /// Who answers model requests. Without one, sessions say what to set.
    pub model: Option<ModelProvider>,
    /// What model requests have in common.
    pub prompt: PromptOptions,
    /// When failed model requests are tried again.
    pub retry: RetryPolicy,
    /// How MCP servers are reached.
    pub mcp: McpOptions,
    /// Limits of requests and streams.
    pub limits: Limits,
    /// What secrets of vaults are sealed under: one or more keys, as [`crate::vault::master`] says. Without one, a key is
    /// made at first start and kept in the data folder.
    pub master_key: Option<SecretString>,
    /// Called when a credential could not be refreshed. Without it, the log says so.
    pub on_refresh_failure: Option<OnRefreshFailure>,
    /// Tunnels.
    pub tunnels: TunnelOptions,
    /// Whose tokens are exchanged for tokens of this server.
    pub federation: FederationOptions,
    /// How agents show who they are.
    pub identity: IdentityOptions,
    /// Files.
    pub files: FileOptions,
    /// The ledger.
    pub ledger: LedgerOptions,
    /// How long requests and model calls may still take after a shutdown was asked for.
    pub drain_timeout: Duration,
}

impl PlaneOptions {
    /// The defaults, for a data folder.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8400)),
            tls: None,
            data_dir,
            api_key: None,
            model: None,
            prompt: PromptOptions::default(),
            retry: RetryPolicy::default(),
            mcp: McpOptions::default(),
            limits: Limits::default(),
            master_key: None,
            on_refresh_failure: None,
            tunnels: TunnelOptions::default(),
            federation: FederationOptions::default(),
            identity: IdentityOptions::default(),
            files: FileOptions::default(),
            ledger: LedgerOptions::default(),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// Files.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Where their bytes are kept; the folder `blobs` in the data folder if it is absent.
    pub blobs: Option<BlobPlace>,
    /// The most bytes of one file.
    pub max_bytes: u64,
    /// How long one upload may take in all.
    pub upload_timeout: Duration,
    /// Whether clients may download what they uploaded. The hosted service lets nobody.
    pub downloadable_uploads: bool,
    /// Whether sessions of self-hosted environments take resources. The hosted service refuses them.
    pub self_hosted_resources: bool,
    /// The most outputs of one session.
    pub session_outputs: u64,
    /// The most bytes of the outputs of one session.
    pub session_output_bytes: u64,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            blobs: None,
            max_bytes: 500_000_000,
            upload_timeout: Duration::from_secs(3600),
            downloadable_uploads: false,
            self_hosted_resources: true,
            session_outputs: 1000,
            session_output_bytes: 5_000_000_000,
        }
    }
}

/// Tunnels.
#[derive(Clone, Debug)]
pub struct TunnelOptions {
    /// The name under which the domains of tunnels are.
    pub domain_suffix: String,
    /// Where gateways are taken. Without it, none can connect.
    pub edge: Option<EdgeOptions>,
}

/// Where the gateways of tunnels connect.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// The address of UDP and TCP; port 0 takes one that is free for both.
    pub listen: SocketAddr,
    /// `host:port` under which gateways reach it from elsewhere.
    pub public_address: Option<String>,
    /// Its certificate. Without one, a self-signed one is made at first start, and gateways pin its fingerprint.
    pub tls: Option<TlsPaths>,
    /// Sees what it relays, for demonstrations.
    pub tap: Option<outwork_tunnel::edge::Tap>,
}

impl Default for TunnelOptions {
    fn default() -> Self {
        Self {
            domain_suffix: "tunnel.outwork.internal".into(),
            edge: None,
        }
    }
}

/// How agents show who they are.
#[derive(Clone, Debug)]
pub struct IdentityOptions {
    /// Where others reach this server: the issuer of the tokens. The address that it listens on if it is absent.
    pub public_url: Option<String>,
    /// For how long one key signs.
    pub key_lifetime: Duration,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self {
            public_url: None,
            key_lifetime: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct TlsPaths {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A server of the Messages API.
pub struct ModelProvider {
    /// For example `https://api.anthropic.com`.
    pub base_url: String,
    /// Sent as `x-api-key`.
    pub api_key: SecretString,
    /// How long the first byte of an answer may take.
    pub first_byte_timeout: Duration,
    /// How long the stream may be silent.
    pub idle_timeout: Duration,
}

/// Limits of requests and streams.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How deep JSON may be nested.
    pub max_json_depth: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The number of events that a slow stream may lag behind before it is closed.
    pub stream_backlog: usize,
    /// How often a silent stream gets a sign of life.
    pub stream_ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_json_depth: 64,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(120),
            max_connections: 20_000,
            stream_backlog: 1024,
            stream_ping: Duration::from_secs(15),
        }
    }
}
