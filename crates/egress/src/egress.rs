//! The boundary of one sandbox: begun with two sockets, changed and ended by its handle.

use std::net::{TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outwork_wire::Time;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dns::{Guard, Resolver, serve_udp};
use crate::error::Error;
use crate::evidence::{Evidence, Labels};
use crate::pins::Pins;
use crate::policy::{Policy, Usage};
use crate::refusal::{Refusal, Refusals};
use crate::route::{Connect, Direct, OriginalDestination, Redirected};
use crate::secret::SecretSet;
use crate::shared::{Limits, Shared};
use crate::stats::{Counters, Stats};
use crate::tls::{SessionAuthority, UpstreamTls};

/// What a boundary is made of.
pub struct Options {
    /// The listener inside the sandbox's network namespace to which all TCP is redirected.
    pub tcp: StdListener,
    /// The socket inside it to which all DNS is redirected.
    pub dns: StdUdp,
    /// What is allowed.
    pub policy: Policy,
    /// Secrets that requests may carry.
    pub secrets: SecretSet,
    /// The session's certificate authority; its certificate is in the sandbox's trust store.
    pub authority: Arc<SessionAuthority>,
    /// Where records go.
    pub evidence: Arc<dyn Evidence>,
    /// Whose sandbox it is.
    pub labels: Labels,
    /// Who resolves allowed names. One for a whole worker.
    pub resolver: Arc<dyn Resolver>,
    /// How servers' certificates are verified. One for a whole worker.
    pub upstream: Arc<UpstreamTls>,
    /// How connections are opened.
    pub connector: Arc<dyn Connect>,
    /// How a connection's original destination is found.
    pub origin: Arc<dyn OriginalDestination>,
    /// Bounds.
    pub limits: Limits,
    /// The clock of records.
    pub clock: fn() -> Time,
}

impl Options {
    /// Options with the machine's own network, the kernel's redirections, no secrets and the usual bounds.
    pub fn new(
        (tcp, dns): (StdListener, StdUdp),
        policy: Policy,
        authority: Arc<SessionAuthority>,
        evidence: Arc<dyn Evidence>,
        resolver: Arc<dyn Resolver>,
        upstream: Arc<UpstreamTls>,
    ) -> Options {
        Options {
            tcp,
            dns,
            policy,
            secrets: SecretSet::empty(),
            authority,
            evidence,
            labels: Labels::default(),
            resolver,
            upstream,
            connector: Arc::new(Direct),
            origin: Arc::new(Redirected),
            limits: Limits::default(),
            clock: Time::now,
        }
    }
}

/// The boundary.
pub struct Egress;

impl Egress {
    /// Begins to serve. Must be called within a tokio runtime. If it fails, nothing is served: the sandbox has no
    /// network.
    ///
    /// # Errors
    /// [`Error::Socket`] if a socket cannot be used.
    pub fn start(options: Options) -> Result<Handle, Error> {
        let failed = |what| move |source| Error::Socket { what, source };
        options.tcp.set_nonblocking(true).map_err(failed("TCP"))?;
        let listener = TcpListener::from_std(options.tcp).map_err(failed("TCP"))?;
        options.dns.set_nonblocking(true).map_err(failed("DNS"))?;
        let socket = UdpSocket::from_std(options.dns).map_err(failed("DNS"))?;
        let shared = Arc::new(Shared {
            policy: ArcSwap::from_pointee(options.policy),
            secrets: ArcSwap::from_pointee(options.secrets),
            changed: tokio::sync::watch::Sender::new(0),
            pins: Pins::default(),
            usage: Usage::default(),
            guard: Guard::default(),
            resolver: options.resolver,
            connector: options.connector,
            origin: options.origin,
            authority: options.authority,
            upstream: options.upstream,
            evidence: options.evidence,
            labels: options.labels,
            refusals: Refusals::default(),
            stats: Arc::new(Counters::default()),
            limits: options.limits,
            clock: options.clock,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(serve_udp(shared.clone(), socket));
        shared.tasks.spawn(crate::tcp::accept(shared.clone(), listener));
        Ok(Handle(shared))
    }
}

/// A running boundary. When it is dropped, everything is cut.
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Replaces the policy. It holds from the next name, connection or request on; connections that are passed through
    /// and that it does not allow any more are cut.
    pub fn set_policy(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Replaces the secrets, from the next connection or request on.
    pub fn set_secrets(&self, secrets: SecretSet) {
        self.0.secrets.store(Arc::new(secrets));
    }

    /// The policy that holds now.
    pub fn policy(&self) -> Arc<Policy> {
        self.0.policy()
    }

    /// What was refused lately.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.0.refusals.all()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.0.stats.all()
    }

    /// Cuts everything and waits until it is gone, at most `patience`. Whether it was.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        tokio::time::timeout(patience, self.0.tasks.wait()).await.is_ok()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}
