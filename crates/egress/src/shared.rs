//! What every connection of one sandbox shares: the policy of the moment, pinned names, counters, the way of records.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use outwork_ledger::{Credential, Decision as Outcome, Kind, Record};
use outwork_wire::Time;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dns::{self, Guard, Resolver};
use crate::evidence::{Evidence, Labels};
use crate::pins::{Family, Pins};
use crate::policy::{Decision, HttpRequest, Policy, Protocol, Request, Shown, Usage};
use crate::refusal::{Refusal, Refusals};
use crate::route::{Connect, OriginalDestination};
use crate::secret::{SecretSet, Use};
use crate::stats::Counters;
use crate::tls::{SessionAuthority, UpstreamTls};

/// Bounds of one sandbox. The defaults suit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// How long the first bytes of a connection may take, and a TLS handshake.
    pub greeting: Duration,
    /// How long a kept connection may rest, and a request's head may take.
    pub rest: Duration,
    /// How long the first byte is waited for where the server may speak first.
    pub server_first: Duration,
    /// How long dialling may take, and the TLS handshake with a server.
    pub connect: Duration,
    /// How long a server may take to begin its response.
    pub response: Duration,
    /// How long a body may pause.
    pub body_idle: Duration,
    /// How long a connection that is passed through may stay without a byte.
    pub idle: Duration,
    /// The longest head of a request.
    pub head: usize,
    /// What the substitution of secrets may keep and decompress.
    pub secrets: crate::secret::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            greeting: Duration::from_secs(15),
            rest: Duration::from_secs(120),
            server_first: Duration::from_millis(300),
            connect: Duration::from_secs(10),
            response: Duration::from_secs(900),
            body_idle: Duration::from_secs(900),
            idle: Duration::from_secs(7200),
            head: 64 * 1024,
            secrets: crate::secret::Limits::default(),
        }
    }
}

pub(crate) struct Shared {
    pub(crate) policy: ArcSwap<Policy>,
    pub(crate) secrets: ArcSwap<SecretSet>,
    /// Counts replacements of the policy; connections that are passed through watch it.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) pins: Pins,
    pub(crate) usage: Usage,
    pub(crate) guard: Guard,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) connector: Arc<dyn Connect>,
    pub(crate) origin: Arc<dyn OriginalDestination>,
    pub(crate) authority: Arc<SessionAuthority>,
    pub(crate) upstream: Arc<UpstreamTls>,
    pub(crate) evidence: Arc<dyn Evidence>,
    pub(crate) labels: Labels,
    pub(crate) refusals: Refusals,
    pub(crate) stats: Arc<Counters>,
    pub(crate) limits: Limits,
    pub(crate) clock: fn() -> Time,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A decision, and whose connection it is.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) decision: Decision,
    /// The name that the address belongs to; `None` if only the address is known.
    pub(crate) host: Option<Arc<str>>,
}

/// What a client says of where it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// The name, if it says one.
    pub(crate) name: Option<&'a str>,
    pub(crate) destination: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) http: Option<HttpRequest<'a>>,
}

impl<'a> Claim<'a> {
    /// As a request of the host that is named.
    pub(crate) fn named(&self) -> Request<'a> {
        Request {
            host: self.name,
            claimed: None,
            address: Some(self.destination.ip()),
            port: Some(self.destination.port()),
            protocol: self.protocol,
            http: self.http,
        }
    }

    /// As a request of the address alone.
    pub(crate) fn unnamed(&self) -> Request<'a> {
        Request {
            host: None,
            claimed: self.name,
            ..self.named()
        }
    }
}

impl Shared {
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Decides on a claim: as the name, if the address was answered to this sandbox for it; else as the address.
    pub(crate) async fn judge(&self, claim: &Claim<'_>) -> Judged {
        let policy = self.policy.load();
        let named = policy.decide(&claim.named());
        let Some(name) = claim.name else {
            return Judged {
                decision: named,
                host: None,
            };
        };
        if policy.is_unchecked() {
            return Judged {
                decision: named,
                host: Some(name.into()),
            };
        }
        let mut refused = named.clone();
        if named.allowed {
            if self.belongs(name, claim.destination.ip()).await {
                return Judged {
                    decision: named,
                    host: Some(name.into()),
                };
            }
            let address = claim.destination.ip();
            refused = Decision::deny(
                "pinned-address".into(),
                format!("{address} is not an address of {name}"),
            );
        }
        let decision = policy.decide(&claim.unnamed());
        Judged {
            decision: if decision.allowed { decision } else { refused },
            host: None,
        }
    }

    /// Whether an address belongs to an allowed name: it was answered to this sandbox, or it would be now.
    async fn belongs(&self, name: &str, address: IpAddr) -> bool {
        if self.pins.holds(name, address, Instant::now()) {
            return true;
        }
        let family = match address.to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        // A client that kept the address longer than the answer lived; the name is allowed, so it may be asked for.
        match tokio::time::timeout(self.limits.connect, dns::resolve(self, name, family)).await {
            Ok(Ok((addresses, _))) => addresses.contains(&address.to_canonical()),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Decides on bytes that are neither TLS nor HTTP: by the names that the address was answered for.
    pub(crate) fn judge_opaque(&self, destination: SocketAddr) -> Judged {
        let policy = self.policy.load();
        let mut claim = Claim {
            name: None,
            destination,
            protocol: Protocol::Opaque,
            http: None,
        };
        let names = self.pins.names_of(destination.ip(), Instant::now());
        let mut refused = None;
        for name in &names {
            claim.name = Some(name);
            let decision = policy.decide(&claim.named());
            let judged = Judged {
                host: Some(name.clone()),
                decision,
            };
            if judged.decision.allowed {
                return judged;
            }
            refused = refused.or(Some(judged));
        }
        claim.name = None;
        let decision = policy.decide(&claim.unnamed());
        match (decision.allowed, refused) {
            (false, Some(refused)) => refused,
            _ => Judged { decision, host: None },
        }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<TcpStream, String> {
        let stream = tokio::time::timeout(self.limits.connect, self.connector.connect(address))
            .await
            .map_err(|_| "it did not answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        // Small writes of requests must not wait for acknowledgements.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    fn record(&self, kind: Kind, request: &Request<'_>) -> Record {
        let mut record = self.labels.mark(Record::new(kind, (self.clock)()));
        record.policy_hash = Some(self.policy.load().hash());
        let host = request.host.or(request.claimed);
        record.destination = match (host, request.address, request.port) {
            (Some(host), _, Some(port)) => Some(format!("{host}:{port}")),
            (Some(host), _, None) => Some(host.to_owned()),
            (None, Some(address), Some(port)) => Some(SocketAddr::new(address, port).to_string()),
            (None, _, _) => None,
        };
        record.address = request.address.map(|address| address.to_string());
        if let Some(http) = &request.http {
            record.http_method = Some(http.method.to_owned());
            record.http_path = Some(cut(http.path));
        }
        record.route = Some(request.protocol.as_str().to_owned());
        record
    }

    /// Keeps a record, or counts that it was not.
    pub(crate) async fn keep(&self, record: Record) -> Result<(), ()> {
        self.evidence.keep(record).await.map_err(|reason| {
            self.stats.unrecorded();
            tracing::error!(%reason, "a crossing was stopped: its record was not kept");
        })
    }

    /// Records that something crosses, before it does.
    pub(crate) async fn allow(&self, request: &Request<'_>, decision: &Decision, uses: &[Use]) -> Result<(), ()> {
        let record = |kind| self.record(kind, request).decided(Outcome::Allowed, &*decision.rule);
        if uses.is_empty() {
            return self.keep(record(Kind::Connection)).await;
        }
        for one in uses {
            self.keep(credential(record(Kind::CredentialUse), one)).await?;
        }
        Ok(())
    }

    /// Records that something was refused.
    pub(crate) async fn refuse(&self, request: &Request<'_>, rule: &str, reason: &str) -> Result<(), ()> {
        self.stats.refused();
        let kind = match request.protocol {
            Protocol::Dns => Kind::DnsQuery,
            Protocol::Tls | Protocol::Http | Protocol::Https | Protocol::Opaque => Kind::Connection,
        };
        self.refusals.add(Refusal {
            at: (self.clock)(),
            count: 1,
            protocol: request.protocol,
            host: request.host.or(request.claimed).map(str::to_owned),
            address: request.address,
            port: request.port,
            method: request.http.map(|http| http.method.to_owned()),
            path: request.http.map(|http| cut(http.path)),
            rule: rule.to_owned(),
            reason: reason.to_owned(),
        });
        tracing::debug!(rule, reason, destination = %Shown(request), "refused");
        let record = self.record(kind, request).decided(Outcome::Denied, rule).reason(reason);
        self.keep(record).await
    }

    /// Records that something that was let through did not come about.
    pub(crate) async fn failed(&self, request: &Request<'_>, rule: &str, reason: &str) {
        let record = self
            .record(Kind::Connection, request)
            .decided(Outcome::Failed, rule)
            .reason(reason);
        // It is over; there is nothing to stop.
        let _ = self.keep(record).await;
    }

    /// Records what a connection carried, at its end.
    pub(crate) async fn ended(&self, request: &Request<'_>, rule: &str, carried: Carried) {
        let mut record = self.record(Kind::Connection, request).decided(Outcome::Allowed, rule);
        record.bytes_out = Some(carried.bytes_out);
        record.bytes_in = Some(carried.bytes_in);
        record.duration_micros = u64::try_from(carried.duration.as_micros()).ok();
        record.reason = Some(carried.end.to_owned());
        let _ = self.keep(record).await;
    }

    /// Records credentials that turned up while a body streamed.
    pub(crate) async fn used(&self, request: &Request<'_>, rule: &str, uses: &[Use]) {
        for one in uses {
            let record = self
                .record(Kind::CredentialUse, request)
                .decided(Outcome::Allowed, rule);
            let _ = self.keep(credential(record, one)).await;
        }
    }

    /// Records that a name is asked of the name servers, before it is.
    pub(crate) async fn asked(&self, name: &str, rule: &str) -> Result<(), ()> {
        self.stats.names_forwarded();
        let record = self
            .record(Kind::DnsQuery, &Request::name(name))
            .decided(Outcome::Allowed, rule);
        self.keep(record).await
    }
}

/// What a connection carried.
pub(crate) struct Carried {
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) duration: Duration,
    pub(crate) end: &'static str,
}

fn credential(mut record: Record, one: &Use) -> Record {
    record.credential = Some(Credential {
        id: None,
        name: Some(one.name.clone()),
        method: Some(format!("{:?}", one.location).to_ascii_lowercase()),
    });
    if !one.substituted {
        record.reason = Some("the placeholder went out as it was".to_owned());
    }
    record
}

/// A path that fits into a record.
fn cut(path: &str) -> String {
    const LONGEST: usize = 1024;
    match path.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}
