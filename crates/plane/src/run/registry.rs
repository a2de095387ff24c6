//! Which session has an owner here, and how to reach it.
//!
//! Whoever wants something of a session asks its owner, which is started when there is none. An owner that has
//! had nothing to do for a while leaves; the map's lock makes leaving and asking exclude each other. A session that
//! cannot be loaded is not woken again at once, so that it does not keep others from their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outwork_engine::{PromptOptions, RetryPolicy, Session, SessionChange, Submitter};
use outwork_model::ModelClient;
use outwork_store::{HeldLease, Store};
use outwork_ledger::Scope;
use outwork_wire::id::{EnvironmentId, EventId, SessionId, WorkspaceId};
use outwork_wire::{Event, EventParams};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::Changes;
use super::hub::Hub;
use super::owner::Owner;
use super::queue::QueueBells;
use crate::error::{ApiError, ErrorKind};
use crate::evidence::Evidence;
use crate::mcp::Reach;
use crate::metrics::Metrics;

/// How many requests may wait for one session.
const WAITING: usize = 256;

/// How long a lease lasts; it is renewed three times in that time.
pub(crate) const LEASE_SECONDS: u32 = 30;

/// What an owner is asked.
pub(crate) enum Command {
    /// Take events in.
    Submit {
        events: Vec<EventParams>,
        by: Submitter,
        who: String,
        reply: Reply<Vec<Event>>,
    },
    /// Change title, metadata or tools.
    Update { change: SessionChange, reply: Reply<()> },
    /// End the session for good.
    Archive { reply: Reply<()> },
    /// Stop what the session does.
    Halt { halt: Halt, reply: Reply<Vec<EventId>> },
    /// Delete the session.
    Delete { reply: Reply<()> },
    /// Look whether there is something to do.
    Wake,
}

impl Command {
    /// Answers that nothing of it was done.
    pub(crate) fn refuse(self, error: ApiError) {
        match self {
            Self::Submit { reply, .. } => drop(reply.send(Err(error))),
            Self::Halt { reply, .. } => drop(reply.send(Err(error))),
            Self::Update { reply, .. } | Self::Archive { reply } | Self::Delete { reply } => {
                drop(reply.send(Err(error)));
            }
            Self::Wake => {}
        }
    }
}

/// An order to stop.
#[derive(Clone, Debug)]
pub(crate) struct Halt {
    /// Who ordered it.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
    /// How far the order reaches; it comes to each session that it reaches.
    pub(crate) scope: Scope,
    /// One call, in place of all that the session does.
    pub(crate) call: Option<EventId>,
    /// A session is ended for good by it; a call's sandbox is.
    pub(crate) forced: bool,
}

impl Halt {
    /// What the agent is told.
    pub(crate) fn words(&self) -> String {
        format!("Stopped by {}: {}.", self.actor, self.reason.trim_end_matches('.'))
    }
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// What all owners of a plane share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) bells: Arc<QueueBells>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) model: Option<Arc<ModelClient>>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) prompt: PromptOptions,
    pub(crate) retry: RetryPolicy,
    pub(crate) metrics: Metrics,
    /// This plane's name in leases.
    pub(crate) owner: String,
    /// How long an owner stays without anything to do.
    pub(crate) linger: Duration,
    /// Cancelled when owners should finish what they do and leave.
    pub(crate) draining: CancellationToken,
    /// Cancelled when owners must leave now.
    pub(crate) aborting: CancellationToken,
    /// Sessions that could not be loaded.
    pub(crate) failing: Failing,
}

/// Sessions that could not be loaded for a reason of their own, and when the next attempt is due.
#[derive(Default)]
pub(crate) struct Failing(Mutex<HashMap<SessionId, Failure>>);

struct Failure {
    attempts: u32,
    next: Instant,
}

impl Failing {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(300);

    /// It could not be loaded: the wait before the next attempt doubles.
    pub(crate) fn failed(&self, session: &SessionId, now: Instant) {
        let mut failing = self.lock();
        let failure = failing
            .entry(session.clone())
            .or_insert(Failure { attempts: 0, next: now });
        let wait = Self::FIRST * 2u32.saturating_pow(failure.attempts.min(16));
        failure.attempts = failure.attempts.saturating_add(1);
        failure.next = now + wait.min(Self::LONGEST);
    }

    /// It was loaded, or it is gone.
    pub(crate) fn over(&self, session: &SessionId) {
        self.lock().remove(session);
    }

    /// Whether it should be left alone for now.
    pub(crate) fn waits(&self, session: &SessionId, now: Instant) -> bool {
        self.lock().get(session).is_some_and(|failure| now < failure.next)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owners of this plane's sessions.
#[derive(Clone)]
pub(crate) struct Registry {
    shared: Arc<Shared>,
    owners: Arc<Owners>,
    tasks: TaskTracker,
}

type Owners = Mutex<HashMap<SessionId, mpsc::Sender<Command>>>;

impl Registry {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            owners: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Asks a session's owner, and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(workspace, session, command(reply))?;
        answer.await.unwrap_or_else(|_| Err(leaving()))
    }

    /// Has a session's owner look whether there is something to do.
    pub(crate) fn wake(&self, workspace: &WorkspaceId, session: &SessionId) {
        if let Err(error) = self.send(workspace, session, Command::Wake) {
            tracing::warn!(%session, reason = error.message, "a session could not be woken; the reconciler will");
        }
    }

    /// The same for a session that nobody asked for, unless it failed to load of late.
    pub(crate) fn wake_due(&self, workspace: &WorkspaceId, session: &SessionId) {
        if !self.shared.failing.waits(session, Instant::now()) {
            self.wake(workspace, session);
        }
    }

    /// Gives a session that was just made its owner.
    pub(crate) fn adopt(&self, workspace: &WorkspaceId, environment: &EnvironmentId, session: Session, last_seq: u64) {
        let id = session.genesis().session_id.clone();
        let mut owners = self.lock();
        if owners.contains_key(&id) {
            return;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        owners.insert(id.clone(), sender);
        drop(owners);
        let owner = Owner::new(self.shared.clone(), workspace.clone(), id.clone(), receiver);
        self.spawn(id, owner, Some((environment.clone(), session, last_seq)));
    }

    /// Splits leases into those of sessions with an owner here, and those whose owner left without giving them back.
    pub(crate) fn split_leases(&self, leases: Vec<HeldLease>) -> (Vec<HeldLease>, Vec<HeldLease>) {
        let owners = self.lock();
        leases
            .into_iter()
            .partition(|lease| owners.contains_key(&lease.session_id))
    }

    /// The number of sessions with an owner here.
    pub(crate) fn owned(&self) -> usize {
        self.lock().len()
    }

    /// Has every owner finish and leave: at once where nothing runs, after the model's answer where one is awaited,
    /// and at `deadline` in any case.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.shared.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                sessions = self.owned(),
                "the drain timeout ended; model requests are given up and asked again later"
            );
            self.shared.aborting.cancel();
            if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait())
                .await
                .is_err()
            {
                tracing::error!("some sessions could not be handed over in order; they are resumed from their logs");
            }
        }
    }

    fn send(&self, workspace: &WorkspaceId, session: &SessionId, command: Command) -> Result<(), ApiError> {
        if self.shared.draining.is_cancelled() {
            return Err(leaving());
        }
        let mut owners = self.lock();
        if let Some(sender) = owners.get(session) {
            return match sender.try_send(command) {
                Ok(()) => Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => Err(ApiError::new(
                    ErrorKind::Unavailable,
                    "too many requests wait for this session; try again",
                )),
                // Its task died without taking itself off the map: a defect, but not one to get stuck on.
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    owners.remove(session);
                    Err(leaving())
                }
            };
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        sender
            .try_send(command)
            .map_err(|_| ApiError::internal(anyhow::anyhow!("a new channel takes one message")))?;
        owners.insert(session.clone(), sender);
        drop(owners);
        let owner = Owner::new(self.shared.clone(), workspace.clone(), session.clone(), receiver);
        self.spawn(session.clone(), owner, None);
        Ok(())
    }

    fn spawn(&self, id: SessionId, mut owner: Owner, mut adopted: Option<(EnvironmentId, Session, u64)>) {
        let entry = Entry {
            owners: self.owners.clone(),
            id,
        };
        self.tasks.spawn(async move {
            loop {
                owner.run(adopted.take()).await;
                // Under the lock nobody can ask: either something waits already, or the owner is off the map.
                let mut owners = lock(&entry.owners);
                if !owner.has_waiting() {
                    owners.remove(&entry.id);
                    return;
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, mpsc::Sender<Command>>> {
        lock(&self.owners)
    }
}

/// Takes an owner off the map however its task ends, a panic included.
struct Entry {
    owners: Arc<Owners>,
    id: SessionId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.owners).remove(&self.id);
        }
    }
}

fn lock(owners: &Owners) -> std::sync::MutexGuard<'_, HashMap<SessionId, mpsc::Sender<Command>>> {
    owners.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leaving() -> ApiError {
    ApiError::new(
        ErrorKind::Unavailable,
        "the server is stopping or the session is changing hands; try again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_cannot_be_loaded_waits_longer_each_time() {
        let (failing, session, begin) = (Failing::default(), SessionId::fresh(), Instant::now());
        assert!(!failing.waits(&session, begin));
        let mut now = begin;
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            failing.failed(&session, now);
            let wait = Duration::from_secs(seconds);
            assert!(failing.waits(&session, now + wait - Duration::from_millis(1)));
            now += wait;
            assert!(!failing.waits(&session, now), "{seconds}");
        }
        assert!(!failing.waits(&SessionId::fresh(), begin));
        failing.failed(&session, now);
        failing.over(&session);
        assert!(!failing.waits(&session, now));
    }
}
