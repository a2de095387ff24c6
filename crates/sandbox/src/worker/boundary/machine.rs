//! What the boundaries of all sessions of a worker share: the owner's policy and secrets, the way out of this machine,
//! the ledger, the folder of the worker's own, and the sandboxes that stand.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::join_all;
use outwork_egress::dns::{Resolver, SystemResolver};
use outwork_egress::{Connect, Direct, UpstreamTls, system_roots};
use outwork_ledger::{Decision, Kind, Ledger, Record, Scope, Stop};
use outwork_wire::Time;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::error::BoundaryError;
use super::image::Root;
use super::options::{BoundaryOptions, WorkerSecret};
use super::packages::Store;
use crate::worker::error::WorkerError;
use crate::worker::hand::Hand;
use crate::worker::state::StateFolder;
use crate::{Isolation, trust};

/// Certificates, and nothing that must not be seen inside.
fn is_public(pem: &str) -> bool {
    trust::is_pem(pem) && !pem.contains("PRIVATE KEY")
}

/// Shared by the boundaries of a worker.
pub(crate) struct Machine {
    pub options: BoundaryOptions,
    pub isolation: Isolation,
    pub state: StateFolder,
    pub ledger: Ledger,
    /// Who records.
    pub worker: String,
    /// Whether sessions are of environments whose boundary only the server knows.
    pub server_decides: bool,
    /// What sandboxes stand on.
    pub root: Root,
    /// What sessions share of installed packages.
    pub packages: Store,
    /// What goes on after its session: results that are sent again.
    pub tasks: TaskTracker,
    /// The owner's authorities, PEM. Connections that are not opened show their certificates to the sandbox, so it has to
    /// trust them too.
    pub upstream_roots: String,
    upstream: OnceLock<Arc<UpstreamTls>>,
    resolver: OnceLock<Arc<dyn Resolver>>,
    standing: Mutex<HashMap<u64, Standing>>,
    next: AtomicU64,
    halted: AtomicBool,
}

struct Standing {
    session: String,
    hand: Arc<dyn Hand>,
}

/// A sandbox that is known to stand. Forgotten when this is dropped.
pub(crate) struct Registered {
    machine: Arc<Machine>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.machine.standing().remove(&self.number);
    }
}

impl Machine {
    /// Blocks while the ledger is opened.
    pub fn new(
        options: BoundaryOptions,
        isolation: Isolation,
        state: StateFolder,
        worker: String,
        server_decides: bool,
        root: Root,
    ) -> Result<Self, WorkerError> {
        for device in &options.devices {
            let reason = match Path::new("/dev").join(device.as_str()).exists() {
                _ if isolation == Isolation::None => {
                    "without isolation tools see every device; take it away, or isolate"
                }
                false => "this machine has no such device",
                true => continue,
            };
            return Err(WorkerError::Option {
                what: "device",
                reason: format!("{}: {reason}", device.as_str()),
            });
        }
        if isolation == Isolation::None && (options.policy.is_some() || !options.secrets.is_empty()) {
            return Err(WorkerError::Option {
                what: "isolation",
                reason: "without isolation there is no policy and no secret of the worker's own; take them away, or \
                         isolate"
                    .to_owned(),
            });
        }
        let roots = String::from_utf8(options.upstream_roots.join(&b'\n')).ok();
        let Some(upstream_roots) = roots.filter(|pem| pem.is_empty() || is_public(pem)) else {
            return Err(WorkerError::Option {
                what: "upstream-ca-file",
                reason: "it must hold certificates in PEM, and no key".to_owned(),
            });
        };
        super::outputs::check(&options.outputs)?;
        options.packages.check().map_err(|reason| WorkerError::Option {
            what: "package-variables",
            reason,
        })?;
        let ledger = state.ledger()?;
        Ok(Self {
            options,
            isolation,
            state,
            ledger,
            worker,
            server_decides,
            root,
            upstream_roots,
            packages: Store::default(),
            tasks: TaskTracker::new(),
            upstream: OnceLock::new(),
            resolver: OnceLock::new(),
            standing: Mutex::default(),
            next: AtomicU64::new(1),
            halted: AtomicBool::new(false),
        })
    }

    /// How servers' certificates are verified.
    pub fn upstream(&self) -> Result<Arc<UpstreamTls>, BoundaryError> {
        if let Some(upstream) = self.upstream.get() {
            return Ok(upstream.clone());
        }
        let mut roots = system_roots();
        for der in trust::certificates(self.upstream_roots.as_bytes()) {
            let added = roots.add(der.into());
            added.map_err(|error| BoundaryError::Egress(outwork_egress::Error::Tls(error)))?;
        }
        let made = Arc::new(UpstreamTls::new(roots).map_err(BoundaryError::Egress)?);
        Ok(self.upstream.get_or_init(|| made).clone())
    }

    /// Who resolves names.
    pub fn resolver(&self) -> Result<Arc<dyn Resolver>, BoundaryError> {
        if let Some(resolver) = self.options.resolver.as_ref().or(self.resolver.get()) {
            return Ok(resolver.clone());
        }
        let made: Arc<dyn Resolver> = Arc::new(SystemResolver::new().map_err(BoundaryError::Egress)?);
        Ok(self.resolver.get_or_init(|| made).clone())
    }

    /// How connections are opened.
    pub fn connector(&self) -> Arc<dyn Connect> {
        self.options.connector.clone().unwrap_or_else(|| Arc::new(Direct))
    }

    /// The worker's own secrets, as they are now.
    pub async fn own_secrets(&self) -> Result<Vec<(WorkerSecret, SecretString)>, BoundaryError> {
        let mut secrets = Vec::with_capacity(self.options.secrets.len());
        for secret in &self.options.secrets {
            secrets.push((secret.clone(), secret.value().await?));
        }
        Ok(secrets)
    }

    fn standing(&self) -> MutexGuard<'_, HashMap<u64, Standing>> {
        // Every change is one insertion or removal, so it is whole even after a panic.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sandbox that stands. After a halt there is none.
    pub fn register(self: &Arc<Self>, session: &str, hand: &Arc<dyn Hand>) -> Result<Registered, BoundaryError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.standing().insert(
            number,
            Standing {
                session: session.to_owned(),
                hand: Arc::clone(hand),
            },
        );
        let registered = Registered {
            machine: Arc::clone(self),
            number,
        };
        // After it was noted: a halt that did not see it is seen here.
        if self.halted.load(Ordering::SeqCst) {
            return Err(BoundaryError::Halted);
        }
        Ok(registered)
    }

    /// Ends every sandbox of one session at once; how many there were.
    pub async fn kill(&self, session: &str) -> usize {
        self.end(|standing| standing.session == session).await.len()
    }

    /// Ends every sandbox at once, for good, and records it.
    pub async fn halt(&self, actor: &str, reason: &str) {
        self.halted.store(true, Ordering::SeqCst);
        let mut ended = self.end(|_| true).await;
        ended.sort();
        ended.dedup();
        tracing::warn!(actor, reason, sessions = ended.len(), "halted: every sandbox was ended");
        let stop = Stop {
            scope: Scope::Worker,
            forced: true,
            ended,
            processes: None,
        };
        let record = Record::new(Kind::Stop, Time::now()).worker(&self.worker);
        let record = record
            .actor(actor)
            .reason(reason)
            .decision(Decision::Allowed)
            .stop(stop);
        if let Err(error) = self.ledger.append(record).await {
            tracing::error!(%error, "the halt was not recorded");
        }
    }

    /// Writes and signs the records. What is still to be sent is kept in the folder.
    pub async fn close(&self) {
        self.tasks.close();
        let ledger = self.ledger.clone();
        let closed = tokio::task::spawn_blocking(move || ledger.close()).await;
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the worker's ledger was not closed well"),
            Err(error) => tracing::error!(%error, "the worker's ledger was not closed"),
        }
    }

    async fn end(&self, which: impl Fn(&Standing) -> bool) -> Vec<String> {
        let found: Vec<_> = self
            .standing()
            .values()
            .filter(|standing| which(standing))
            .map(|standing| (standing.session.clone(), Arc::clone(&standing.hand)))
            .collect();
        join_all(found.iter().map(|(_, hand)| hand.end())).await;
        found.into_iter().map(|(session, _)| session).collect()
    }
}
