//! The configuration file as it is written: every key that exists, and nothing else.
//!
//! The shape is the hosted proxy's, so that its files work, plus the keys that are ours. An unknown key is refused by
//! name. What the values mean together is checked in the module above.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::text::{Rate, Size, Span};

/// The whole file.
#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub listen_addr: Option<String>,
    pub log_level: Option<LogLevel>,
    pub shutdown_timeout: Option<Span>,
    pub tunnel_domain: Option<String>,
    pub tunnel_id: Option<String>,
    pub token_file: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub approvals_file: Option<PathBuf>,
    pub tls: Option<TlsFile>,
    pub routes: Option<Routes>,
    #[serde(default)]
    pub upstream: UpstreamFile,
    pub edge: Option<EdgeFile>,
    pub identity: Option<IdentityFile>,
    pub health: Option<HealthFile>,
    pub ledger: Option<LedgerFile>,
    #[serde(default)]
    pub timeouts: TimeoutsFile,
}

/// How much is logged.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// Each call.
    Debug,
    /// Refusals, reloads, links.
    #[default]
    Info,
    /// What needs attention.
    #[serde(alias = "warning")]
    Warn,
    /// What does not work.
    Error,
}

impl LogLevel {
    /// The level's name, as `tracing` filters spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsFile {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Deserialize, Clone, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamFile {
    pub allowed_ips: Option<Vec<String>>,
    #[serde(default)]
    pub disable_ip_validation: bool,
    pub tls: Option<UpstreamTlsFile>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpstreamTlsFile {
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub include_system_cas: bool,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct EdgeFile {
    pub addresses: Vec<String>,
    pub server_name: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub fingerprint: Option<String>,
    #[serde(default)]
    pub transport: TransportChoice,
    pub connections: Option<usize>,
}

/// Which transport carries the links to the edge.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum TransportChoice {
    /// QUIC, and TCP where it does not pass.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// HTTP/2 over TLS on TCP only.
    Tcp,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityFile {
    pub issuer: String,
    pub jwks_file: Option<PathBuf>,
    pub jwks_url: Option<String>,
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub required: bool,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct HealthFile {
    pub listen_addr: SocketAddr,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LedgerFile {
    pub dir: PathBuf,
    #[serde(default)]
    pub record_payloads: bool,
}

#[derive(Deserialize, Clone, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeoutsFile {
    pub handshake: Option<Span>,
    pub keep_alive: Option<Span>,
    pub body: Option<Span>,
    pub connect: Option<Span>,
    pub response: Option<Span>,
    pub idle: Option<Span>,
    pub stream_idle: Option<Span>,
}

/// The routes: a mapping from a name to where it leads.
#[derive(Clone, PartialEq)]
pub(crate) struct Routes(pub Vec<(String, RouteFile)>);

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Routes, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Routes;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a mapping from route names to scheme://host:port")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Routes, A::Error> {
                let mut routes = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    routes.push(entry);
                }
                Ok(Routes(routes))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Routes, A::Error> {
                Err(de::Error::custom(
                    "cannot unmarshal !!seq into routes: it is a mapping, not a list; write `name: scheme://host:port`",
                ))
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Routes, E> {
                Err(de::Error::custom(
                    "cannot unmarshal !!str into routes: it is a mapping; write `name: scheme://host:port`",
                ))
            }
        }
        from.deserialize_any(Entries)
    }
}

/// One route: a text, or a mapping with `url` and rules.
#[derive(Clone, PartialEq)]
pub(crate) struct RouteFile(pub RouteKeys);

impl<'de> Deserialize<'de> for RouteFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RouteFile, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RouteFile;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("scheme://host:port, or a mapping with url and rules")
            }
            fn visit_str<E: de::Error>(self, url: &str) -> Result<RouteFile, E> {
                Ok(RouteFile(RouteKeys { url: url.to_owned(), ..RouteKeys::default() }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RouteFile, A::Error> {
                RouteKeys::deserialize(MapAccessDeserializer::new(map)).map(RouteFile)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<RouteFile, A::Error> {
                Err(de::Error::custom("cannot unmarshal !!seq into a route: write scheme://host:port"))
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Deserialize, Clone, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteKeys {
    pub url: String,
    pub tools: Option<ToolsFile>,
    pub limits: Option<LimitsFile>,
    pub request_max: Option<Size>,
    pub response_max: Option<Size>,
    pub headers: Option<HeadersFile>,
    #[serde(default)]
    pub preserve_host: bool,
    #[serde(default)]
    pub approvals: Vec<ApprovalFile>,
    #[serde(default)]
    pub redact: Vec<RedactFile>,
    pub callers: Option<CallersFile>,
    #[serde(default)]
    pub pass_identity: bool,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolsFile {
    pub allow: Option<Vec<String>>,
    #[serde(default)]
    pub deny: Vec<String>,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsFile {
    pub per_tool: Option<ToolRates>,
    pub per_session: Option<Rate>,
    pub per_route: Option<Rate>,
}

/// One rate for every tool, or a mapping from tool patterns to rates.
#[derive(Clone, PartialEq)]
pub(crate) struct ToolRates(pub Vec<(String, Rate)>);

impl<'de> Deserialize<'de> for ToolRates {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ToolRates, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ToolRates;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a rate like 10/s, or a mapping from tool patterns to rates")
            }
            fn visit_str<E: de::Error>(self, rate: &str) -> Result<ToolRates, E> {
                Ok(ToolRates(vec![("*".to_owned(), rate.parse().map_err(E::custom)?)]))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ToolRates, A::Error> {
                let mut rates = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    rates.push(entry);
                }
                Ok(ToolRates(rates))
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadersFile {
    /// Values may be secrets of the upstream: this type has no `Debug`.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    #[serde(default)]
    pub remove: Vec<String>,
    pub allow: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalFile {
    pub tool: String,
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedactFile {
    pub name: Option<String>,
    pub pattern: Option<String>,
    pub detector: Option<String>,
    pub action: crate::redact::Action,
    #[serde(default)]
    pub direction: crate::redact::Direction,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallersFile {
    pub workspaces: Option<Vec<String>>,
    pub agents: Option<Vec<String>>,
    pub sessions: Option<Vec<String>>,
}
