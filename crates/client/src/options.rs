//! What a client is made from: address, credential, deadlines, retries.

use std::time::Duration;

use secrecy::SecretString;

/// The API version that is sent unless another one is asked for.
pub const API_VERSION: &str = "2023-06-01";

/// The beta that the Managed Agents endpoints ask for.
pub const MANAGED_AGENTS_BETA: &str = "managed-agents-2026-04-01";

/// The beta that the endpoints of tunnels ask for.
pub const TUNNELS_BETA: &str = "mcp-tunnels-2026-06-22";

/// Who calls. Has no `Debug`: it must not reach a log.
#[derive(Clone)]
pub enum Credential {
    /// Sent as `x-api-key`.
    ApiKey(SecretString),
    /// Sent as `authorization: Bearer …`: an environment key, a worker key or a sessions token.
    Bearer(SecretString),
}

impl Credential {
    /// An API key.
    pub fn api_key(key: impl Into<String>) -> Self {
        Self::ApiKey(SecretString::from(key.into()))
    }

    /// A bearer token.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self::Bearer(SecretString::from(token.into()))
    }
}

/// Deadlines of one attempt of a call.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To reach the server: name, TCP and TLS.
    pub connect: Duration,
    /// For a whole attempt, from its start to the last byte of the answer. Does not bound an event stream.
    pub request: Duration,
    /// The longest silence on an open event stream; `None` leaves a dead peer to TCP and HTTP/2 keep-alive.
    pub stream_silence: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(60),
            stream_silence: None,
        }
    }
}

/// When and how often a call that may be repeated is repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// How many times after the first attempt; 0 turns retries off.
    pub retries: u32,
    /// The wait before the first retry; it doubles from one to the next.
    pub first_wait: Duration,
    /// The longest wait, also where the server asks for a longer one.
    pub max_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            first_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    /// No retries.
    pub const NONE: Self = Self {
        retries: 0,
        first_wait: Duration::ZERO,
        max_wait: Duration::ZERO,
    };
}

/// What a client is made from. Has no `Debug`, as the credential in it has none.
#[derive(Clone)]
pub struct Options {
    /// For example `http://127.0.0.1:8400`; may end in a path that stands before `/v1`.
    pub base_url: String,
    /// Who calls.
    pub credential: Credential,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Retries of calls that may be repeated.
    pub retry: RetryPolicy,
    /// The `user-agent` header.
    pub user_agent: String,
    /// The `anthropic-version` header.
    pub api_version: String,
    /// More certificate authorities to trust, each one or more PEM certificates.
    pub ca_certificates: Vec<Vec<u8>>,
    /// The largest answer that is read, in bytes.
    pub max_answer_bytes: usize,
    /// The largest event of a stream that is read, in bytes.
    pub max_event_bytes: usize,
}

impl Options {
    /// Options with the defaults for everything but the address and the credential.
    pub fn new(base_url: impl Into<String>, credential: Credential) -> Self {
        Self {
            base_url: base_url.into(),
            credential,
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            user_agent: concat!("outwork/", env!("CARGO_PKG_VERSION")).to_owned(),
            api_version: API_VERSION.to_owned(),
            ca_certificates: Vec::new(),
            max_answer_bytes: 256 << 20,
            max_event_bytes: 64 << 20,
        }
    }
}
