//! The gateway's configuration: read, checked as a whole, and then valid.
//!
//! Files of the hosted proxy work: the same keys mean the same. What a file says that has no use here (`listen_addr`)
//! is answered with a notice, what does not exist is refused by name and line, and nothing is guessed. Every path in
//! the file is relative to the file's own folder.

mod file;
mod route;
pub mod text;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use file::{ApprovalFile, CallersFile, HeadersFile, LimitsFile, RedactFile, RouteKeys, ToolsFile};
pub use file::{LogLevel, TransportChoice};
pub use route::Route;

use crate::error::{ConfigError, Error};
use crate::upstream::address::AddressPolicy;
use text::host_name;

/// A configuration that holds together.
pub struct Config {
    /// The file that it came from.
    pub path: PathBuf,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How long calls under way may take to end when the gateway stops.
    pub shutdown_timeout: Duration,
    /// The domain whose labels are route names.
    pub tunnel_domain: Option<String>,
    /// The tunnel's id, for records.
    pub tunnel_id: Option<String>,
    /// The certificate and key of the inner TLS.
    pub tls: TlsFiles,
    /// Where routes lead, by name.
    pub routes: BTreeMap<String, Route>,
    /// Which upstream addresses may be dialled.
    pub addresses: AddressPolicy,
    /// Which authorities vouch for upstreams.
    pub upstream_tls: UpstreamTls,
    /// How to reach the edge; absent in files of the hosted proxy.
    pub edge: Option<Edge>,
    /// The tunnel's token.
    pub token_file: Option<PathBuf>,
    /// Who callers are.
    pub identity: Option<Identity>,
    /// Where health and metrics are served; nowhere when absent.
    pub health: Option<SocketAddr>,
    /// Where calls are recorded; nowhere when absent.
    pub ledger: Option<LedgerPlace>,
    /// The gateway's own state: what is killed.
    pub state_dir: PathBuf,
    /// Named approvals.
    pub approvals_file: Option<PathBuf>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What the owner should know about the file, though it is accepted.
    pub notices: Vec<String>,
    /// What cannot change while the gateway runs, to say so when it does.
    pub(crate) fixed: Fixed,
}

/// The parts that only a restart changes.
#[derive(Clone, PartialEq)]
pub(crate) struct Fixed {
    edge: Option<file::EdgeFile>,
    token_file: Option<PathBuf>,
    health: Option<file::HealthFile>,
    ledger: Option<file::LedgerFile>,
    state_dir: Option<PathBuf>,
    tunnel_id: Option<String>,
}

impl Fixed {
    /// The keys in which two configurations differ though only a restart changes them.
    pub(crate) fn differing(&self, other: &Fixed) -> Vec<&'static str> {
        [
            ("edge", self.edge != other.edge),
            ("token_file", self.token_file != other.token_file),
            ("health", self.health != other.health),
            ("ledger", self.ledger != other.ledger),
            ("state_dir", self.state_dir != other.state_dir),
            ("tunnel_id", self.tunnel_id != other.tunnel_id),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// The files of the inner TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Which authorities vouch for upstreams of scheme `https`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// A file of authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether the system's authorities count too. They are the default when no file is given.
    pub include_system_cas: bool,
}

/// How to reach the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// The name in the edge's certificate, when it is not the host of the address.
    pub server_name: Option<String>,
    /// An authority that vouches for the edge.
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of the edge's certificate, lower-case hex.
    pub fingerprint: Option<String>,
    /// The transport.
    pub transport: TransportChoice,
    /// How many connections, at least 2.
    pub connections: usize,
}

/// Whose signatures on callers' identities count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The issuer's URL, as in `iss`.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// An authority that vouches for the address of the keys.
    pub ca_file: Option<PathBuf>,
    /// Whether a call without an identity is refused on every route.
    pub required: bool,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file, read again when it changes.
    File(PathBuf),
    /// At an address, fetched over HTTPS.
    Url(url::Url),
}

/// Where calls are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerPlace {
    /// The ledger's folder.
    pub dir: PathBuf,
    /// Whether arguments and results are recorded too.
    pub record_payloads: bool,
}

/// Deadlines. Each is a key of `timeouts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the inner TLS handshake. 10 s.
    pub handshake: Duration,
    /// From the end of one request to the complete head of the next. 90 s.
    pub keep_alive: Duration,
    /// For a request's body to arrive. 30 s.
    pub body: Duration,
    /// For a connection to an upstream, TLS included. 5 s.
    pub connect: Duration,
    /// Until the head of the upstream's answer. 5 min.
    pub response: Duration,
    /// Between two pieces of an answer. 2 min.
    pub idle: Duration,
    /// Between two pieces of an event stream. 65 min.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(90),
            body: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            stream_idle: Duration::from_secs(65 * 60),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(Config::parse(&text, path)?)
    }

    /// Checks the text of a file at `path`. Reads no other file.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let file: file::File = serde_saphyr::from_str(text).map_err(|error| yaml_error(&name, &error))?;
        check(file, path, &name)
    }
}

/// What a YAML error says, in one line, with the line that it is about.
pub(crate) fn yaml_error(file: &str, error: &serde_saphyr::Error) -> ConfigError {
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok()).filter(|line| *line > 0);
    let text = error.without_snippet().to_string();
    // The position is said in front; the parser's own mention of it would double it.
    let text = text.lines().next().unwrap_or_default();
    let text = match (text.strip_prefix("error: line "), text.find(" at line ")) {
        (Some(rest), _) => rest.split_once(": ").map_or(rest, |(_, message)| message),
        (None, Some(end)) => &text[..end],
        (None, None) => text,
    };
    ConfigError { file: file.to_owned(), line, message: text.to_owned() }
}

fn check(file: file::File, path: &Path, name: &str) -> Result<Config, ConfigError> {
    let refuse = |message: String| ConfigError::new(name, message);
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let at = |path: &PathBuf| folder.join(path);
    let mut notices = Vec::new();
    if let Some(address) = &file.listen_addr {
        notices.push(format!(
            "listen_addr {address} is accepted because files of the hosted proxy have it, but it is not used: calls \
             come in through the links that the gateway dials, and it listens on nothing"
        ));
    }

    let tunnel_domain = match &file.tunnel_domain {
        Some(domain) => Some(host_name(domain).map_err(|why| refuse(format!("tunnel_domain `{domain}`: {why}")))?),
        None => None,
    };
    let tls = file.tls.as_ref().ok_or_else(|| {
        refuse("tls is missing: name tls.cert_file and tls.key_file, the certificate for the names of the routes".into())
    })?;
    let identity = file.identity.as_ref().map(|identity| check_identity(identity, &at, &refuse)).transpose()?;
    let approvals_file = file.approvals_file.as_ref().map(&at);

    let routes = file.routes.as_ref().ok_or_else(|| {
        refuse("routes is missing: map at least one name to scheme://host:port".into())
    })?;
    let mut checked = BTreeMap::new();
    for (key, keys) in &routes.0 {
        let surroundings = route::Surroundings {
            tunnel_domain: tunnel_domain.as_deref(),
            has_identity: identity.is_some(),
            identity_required: identity.as_ref().is_some_and(|identity| identity.required),
            has_approvals: approvals_file.is_some(),
        };
        let route = Route::check(key, keys.0.clone(), &surroundings)
            .map_err(|why| refuse(format!("routes.{key}: {why}")))?;
        if checked.insert(route.name.clone(), route).is_some() {
            return Err(refuse(format!("routes.{key}: this name is there twice")));
        }
    }
    if checked.is_empty() {
        return Err(refuse("routes is empty: map at least one name to scheme://host:port".into()));
    }

    let addresses = match (&file.upstream.allowed_ips, file.upstream.disable_ip_validation) {
        (Some(_), true) => {
            return Err(refuse(
                "upstream.allowed_ips and upstream.disable_ip_validation exclude each other: leave one out".into(),
            ));
        }
        (None, true) => {
            notices.push("upstream.disable_ip_validation is on: a route may lead to any address, this machine's own \
                          and its metadata service included"
                .to_owned());
            AddressPolicy::any()
        }
        (None, false) => AddressPolicy::private(),
        (Some(ranges), false) => {
            let ranges = ranges
                .iter()
                .map(|range| {
                    range
                        .parse::<ipnet::IpNet>()
                        .or_else(|_| range.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
                        .map_err(|_| refuse(format!("upstream.allowed_ips: `{range}` is not a range like 10.0.0.0/8")))
                })
                .collect::<Result<Vec<_>, _>>()?;
            AddressPolicy::ranges(ranges)
        }
    };

    let edge = file.edge.as_ref().map(|edge| check_edge(edge, &at, &refuse)).transpose()?;
    if let Some(health) = &file.health
        && !health.listen_addr.ip().is_loopback()
    {
        return Err(refuse(format!(
            "health.listen_addr {} is not a loopback address: health and metrics are served on 127.0.0.1 or [::1] only",
            health.listen_addr
        )));
    }

    let fixed = Fixed {
        edge: file.edge.clone(),
        token_file: file.token_file.clone(),
        health: file.health.clone(),
        ledger: file.ledger.clone(),
        state_dir: file.state_dir.clone(),
        tunnel_id: file.tunnel_id.clone(),
    };
    let upstream_tls = file.upstream.tls.as_ref();
    Ok(Config {
        path: path.to_owned(),
        log_level: file.log_level.unwrap_or_default(),
        shutdown_timeout: file.shutdown_timeout.map_or(Duration::from_secs(30), |span| span.0),
        tunnel_domain,
        tls: TlsFiles { cert: at(&tls.cert_file), key: at(&tls.key_file) },
        routes: checked,
        addresses,
        upstream_tls: UpstreamTls {
            ca_file: upstream_tls.and_then(|tls| tls.ca_file.as_ref()).map(&at),
            include_system_cas: upstream_tls.is_some_and(|tls| tls.include_system_cas),
        },
        edge,
        token_file: file.token_file.as_ref().map(&at),
        identity,
        health: file.health.map(|health| health.listen_addr),
        ledger: file.ledger.map(|ledger| LedgerPlace { dir: at(&ledger.dir), record_payloads: ledger.record_payloads }),
        state_dir: file.state_dir.as_ref().map_or_else(|| folder.clone(), &at),
        approvals_file,
        timeouts: check_timeouts(&file.timeouts, &refuse)?,
        tunnel_id: file.tunnel_id,
        notices,
        fixed,
    })
}

fn check_identity(
    identity: &file::IdentityFile,
    at: &impl Fn(&PathBuf) -> PathBuf,
    refuse: &impl Fn(String) -> ConfigError,
) -> Result<Identity, ConfigError> {
    if identity.issuer.is_empty() {
        return Err(refuse("identity.issuer is empty: give the issuer's URL".into()));
    }
    let keys = match (&identity.jwks_file, &identity.jwks_url) {
        (Some(file), None) => KeySource::File(at(file)),
        (None, Some(text)) => {
            let bad = |why: &str| refuse(format!("identity.jwks_url `{text}` {why}"));
            let url: url::Url = text.parse().map_err(|_| bad("is not a URL"))?;
            let loopback = match url.host() {
                Some(url::Host::Ipv4(address)) => address.is_loopback(),
                Some(url::Host::Ipv6(address)) => address.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => return Err(bad("has no host")),
            };
            match url.scheme() {
                "https" => {}
                "http" if loopback => {}
                _ => return Err(bad("is not https: keys that come in the clear prove nothing")),
            }
            KeySource::Url(url)
        }
        (None, None) => {
            return Err(refuse("identity needs the issuer's keys: give identity.jwks_file or identity.jwks_url".into()));
        }
        (Some(_), Some(_)) => {
            return Err(refuse("identity.jwks_file and identity.jwks_url exclude each other: leave one out".into()));
        }
    };
    if identity.ca_file.is_some() && matches!(keys, KeySource::File(_)) {
        return Err(refuse("identity.ca_file is for identity.jwks_url, which is not there".into()));
    }
    Ok(Identity {
        issuer: identity.issuer.clone(),
        keys,
        ca_file: identity.ca_file.as_ref().map(at),
        required: identity.required,
    })
}

fn check_edge(
    edge: &file::EdgeFile,
    at: &impl Fn(&PathBuf) -> PathBuf,
    refuse: &impl Fn(String) -> ConfigError,
) -> Result<Edge, ConfigError> {
    if edge.addresses.is_empty() {
        return Err(refuse("edge.addresses is empty: give at least one host:port".into()));
    }
    for address in &edge.addresses {
        let parsed = format!("tcp://{address}").parse::<text::Target>();
        parsed.map_err(|_| refuse(format!("edge.addresses: `{address}` is not host:port")))?;
    }
    if edge.ca_file.is_some() && edge.fingerprint.is_some() {
        return Err(refuse("edge.ca_file and edge.fingerprint exclude each other: leave one out".into()));
    }
    let fingerprint = match &edge.fingerprint {
        Some(text) => {
            let plain: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
            if plain.len() != 64 || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse("edge.fingerprint is not the SHA-256 of a certificate: 64 hex digits".into()));
            }
            Some(plain)
        }
        None => None,
    };
    let connections = edge.connections.unwrap_or(2);
    if !(2..=16).contains(&connections) {
        return Err(refuse(format!("edge.connections is {connections}: it is from 2 to 16")));
    }
    Ok(Edge {
        addresses: edge.addresses.clone(),
        server_name: edge.server_name.clone(),
        ca_file: edge.ca_file.as_ref().map(at),
        fingerprint,
        transport: edge.transport,
        connections,
    })
}

fn check_timeouts(file: &file::TimeoutsFile, refuse: &impl Fn(String) -> ConfigError) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::default();
    for (key, value, place) in [
        ("handshake", file.handshake, &mut timeouts.handshake),
        ("keep_alive", file.keep_alive, &mut timeouts.keep_alive),
        ("body", file.body, &mut timeouts.body),
        ("connect", file.connect, &mut timeouts.connect),
        ("response", file.response, &mut timeouts.response),
        ("idle", file.idle, &mut timeouts.idle),
        ("stream_idle", file.stream_idle, &mut timeouts.stream_idle),
    ] {
        if let Some(span) = value {
            if span.0.is_zero() {
                return Err(refuse(format!("timeouts.{key} is 0: nothing could ever arrive in time")));
            }
            *place = span.0;
        }
    }
    Ok(timeouts)
}

#[cfg(test)]
mod tests;
