//! The settings file: its tables, and how one lies over the defaults.
//!
//! `default.toml` is the defaults. Another file is first read alone, so that a setting that does not exist is refused
//! with its line, and then laid over the defaults, setting by setting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytesize::ByteSize;
use serde::Deserialize;
use toml::Table;

use super::boundary::SecretSettings;
use super::ledger::LedgerSettings;
use super::mcp::McpSettings;
use crate::cli::plane::LogFormat;
use crate::cli::worker::Isolation;

/// The defaults, as users read them.
pub(crate) const DEFAULTS: &str = include_str!("../default.toml");

/// Reads the settings of a file, if there is one, over the defaults.
pub(super) fn read(path: Option<&Path>) -> Result<Settings> {
    let defaults = parse::<Table>(DEFAULTS, "default.toml")?;
    let merged = match path {
        None => defaults,
        Some(path) => {
            let name = path.display().to_string();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("could not read the settings in {name}"))?;
            parse::<Settings>(&text, &name)?;
            lay_over(defaults, parse::<Table>(&text, &name)?)
        }
    };
    merged.try_into().context("the settings do not fit together")
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        anyhow!("{name}, line {line}: {}", error.message())
    })
}

fn lay_over(mut below: Table, above: Table) -> Table {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => {
                *under = lay_over(std::mem::take(under), over)
            }
            (_, value) => drop(below.insert(name, value)),
        }
    }
    below
}

/// A settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(super) plane: PlaneSettings,
    pub(super) limits: LimitSettings,
    pub(super) files: FileSettings,
    pub(super) blobs: BlobSettings,
    pub(super) tunnel: TunnelSettings,
    pub(super) identity: IdentitySettings,
    pub(super) federation: FederationSettings,
    pub(super) model: ModelSettings,
    pub(super) mcp: McpSettings,
    pub(super) ledger: LedgerSettings,
    pub(super) up: UpSettings,
    pub(super) worker: WorkerSettings,
    pub(super) log: LogSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpSettings {
    pub(super) concurrency: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaneSettings {
    pub(super) listen: Option<SocketAddr>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) insecure_http: Option<bool>,
    pub(super) public_url: Option<String>,
    pub(super) drain_timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSettings {
    pub(super) max_size: Option<ByteSize>,
    pub(super) upload_timeout: Option<Span>,
    pub(super) downloadable_uploads: Option<bool>,
    pub(super) self_hosted_resources: Option<bool>,
    pub(super) session_outputs: Option<u64>,
    pub(super) session_output_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlobSettings {
    pub(super) url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelSettings {
    pub(super) domain_suffix: Option<String>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) public_address: Option<String>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentitySettings {
    pub(super) key_lifetime: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FederationSettings {
    pub(super) organization_id: Option<String>,
    #[serde(default)]
    pub(super) rules: Vec<RuleSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSettings {
    pub(super) id: String,
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) subject: String,
    pub(super) scope: String,
    pub(super) lifetime: Option<Span>,
    pub(super) workspace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelSettings {
    pub(super) base_url: Option<String>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) max_tokens: Option<u32>,
    pub(super) adaptive_thinking: Option<Vec<String>>,
    pub(super) cache: Option<bool>,
    pub(super) max_turn_requests: Option<u32>,
    pub(super) first_byte_timeout: Option<Span>,
    pub(super) idle_timeout: Option<Span>,
    pub(super) max_attempts: Option<u32>,
    pub(super) retry_base: Option<Span>,
    pub(super) retry_cap: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitSettings {
    pub(super) body: Option<ByteSize>,
    pub(super) json_depth: Option<usize>,
    pub(super) header_timeout: Option<Span>,
    pub(super) body_timeout: Option<Span>,
    pub(super) connections: Option<usize>,
    pub(super) stream_backlog: Option<usize>,
    pub(super) stream_ping: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerSettings {
    pub(super) concurrency: Option<usize>,
    pub(super) isolation: Option<Isolation>,
    pub(super) memory_limit: Option<ByteSize>,
    pub(super) cpu_limit: Option<f64>,
    pub(super) process_limit: Option<u32>,
    pub(super) disk_limit: Option<ByteSize>,
    pub(super) max_idle: Option<Span>,
    pub(super) call_limit: Option<Span>,
    pub(super) output_limit: Option<ByteSize>,
    pub(super) time_limit: Option<Span>,
    pub(super) total_output_limit: Option<ByteSize>,
    #[serde(default)]
    pub(super) devices: Vec<String>,
    pub(super) policy: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) upstream_ca_file: Option<PathBuf>,
    pub(super) image: Option<String>,
    pub(super) unpinned_image: Option<bool>,
    pub(super) registry_credentials: Option<PathBuf>,
    pub(super) scan_command: Option<String>,
    pub(super) outputs_allowed: Option<Vec<String>>,
    #[serde(default)]
    pub(super) package_variables: BTreeMap<String, String>,
    pub(super) package_disk_limit: Option<ByteSize>,
    pub(super) package_time_limit: Option<Span>,
    #[serde(default)]
    pub(super) secrets: Vec<SecretSettings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogSettings {
    pub(super) format: Option<LogFormat>,
    pub(super) level: Option<String>,
}

/// A length of time as people write it: `60s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a length of time such as 60s, 5m or 1h30m"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
