//! What runs by itself: lapsed work, missing work, sessions without an owner, leases, closed streams.
//!
//! Idempotent and without input: each round looks at the world as it is. Nothing waits for a round in the usual
//! course of things, but an item that is held back; a round mends what a crash or a lost worker left. A step that
//! fails is tried again in its next turn and keeps no other step from its own.

use std::sync::Arc;
use std::time::Duration;

use outwork_store::StoreError;
use outwork_wire::Time;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::run::registry::LEASE_SECONDS;

/// How often a round is made.
const ROUND: Duration = Duration::from_millis(500);
/// How many sessions are looked at in one round.
const BATCH: usize = 500;
/// How long items that are over are kept, and how many are forgotten at once.
const KEEP_WORK_SECONDS: i64 = 7 * 24 * 3600;
const PRUNE: usize = 1000;

/// Makes rounds until `closing` is cancelled.
pub(crate) async fn run(app: Arc<App>, owner: String, closing: CancellationToken) {
    let mut reconciler = Reconciler::new(app, owner, Time::now());
    let mut rounds: u64 = 0;
    loop {
        reconciler.round(rounds).await;
        rounds += 1;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = closing.cancelled() => return,
        }
    }
}

struct Reconciler {
    app: Arc<App>,
    owner: String,
    /// Items that were held back until then have been announced.
    announced: Time,
    /// Where the list of sessions without an owner goes on.
    place: i64,
}

impl Reconciler {
    fn new(app: Arc<App>, owner: String, now: Time) -> Self {
        Self {
            app,
            owner,
            announced: now,
            place: 0,
        }
    }

    async fn round(&mut self, number: u64) {
        let every = |seconds: u64| number.is_multiple_of(seconds * 1000 / ROUND.as_millis() as u64);
        if every(u64::from(LEASE_SECONDS) / 3) {
            report("leases", self.keep_leases().await);
        }
        report("lapsed work", self.take_back_lapsed_work().await);
        report("work held back", self.announce_due_work().await);
        if every(5) {
            report("missing work", self.enqueue_missing_work().await);
        }
        report("sessions without an owner", self.wake_due_sessions().await);
        if every(10) {
            self.app.hub.sweep();
            self.app.bells.sweep();
            report("uses of keys", self.app.store.flush_key_uses().await);
        }
        if every(60) {
            report("old work", self.prune().await);
        }
    }

    /// Renews the leases of sessions with an owner here. One that was left behind is given back, so that the session
    /// is found like any other without an owner.
    async fn keep_leases(&self) -> Result<(), StoreError> {
        let store = &self.app.store;
        let held = store.leases_of(&self.owner).await?;
        // The map is read after the store: whoever owns a session is on the map before it takes the lease, and
        // until it has given it back. The generation keeps a lease that was taken anew in between.
        let (owned, left_behind) = self.app.sessions.split_leases(held);
        store.renew_leases(owned, LEASE_SECONDS, Time::now()).await?;
        for lease in left_behind {
            match store
                .release_lease(&lease.workspace_id, &lease.session_id, lease.generation)
                .await
            {
                Ok(()) => tracing::warn!(session = %lease.session_id, "a lease was left behind; it was given back"),
                Err(StoreError::StaleGeneration { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take_back_lapsed_work(&self) -> Result<(), StoreError> {
        for lapsed in self.app.store.requeue_lapsed_work(Time::now()).await? {
            tracing::info!(
                work_id = %lapsed.work_id, session_id = %lapsed.session_id, state = %lapsed.state,
                "the lease of a work item lapsed"
            );
            self.app.bells.ring(&lapsed.environment_id);
        }
        Ok(())
    }

    async fn announce_due_work(&mut self) -> Result<(), StoreError> {
        let now = Time::now();
        for environment in self.app.store.work_due_between(self.announced, now).await? {
            self.app.bells.ring(&environment);
        }
        self.announced = now;
        Ok(())
    }

    async fn enqueue_missing_work(&self) -> Result<(), StoreError> {
        for environment in self.app.store.enqueue_missing_work(Time::now(), BATCH).await? {
            tracing::warn!(%environment, "a session needed a worker and had no work item; it has one now");
            self.app.bells.ring(&environment);
        }
        Ok(())
    }

    /// Each round goes on where the one before ended, so that sessions which cannot be loaded do not keep those
    /// behind them waiting.
    async fn wake_due_sessions(&mut self) -> Result<(), StoreError> {
        let due = self
            .app
            .store
            .list_unowned_needing_work(Time::now(), self.place, BATCH)
            .await?;
        self.place = match due.last() {
            Some(last) if due.len() == BATCH => last.place,
            Some(_) | None => 0,
        };
        for session in due {
            self.app.sessions.wake_due(&session.workspace_id, &session.session_id);
        }
        Ok(())
    }

    async fn prune(&self) -> Result<(), StoreError> {
        let before = Time::now().plus_seconds(-KEEP_WORK_SECONDS);
        let pruned = self.app.store.prune_stopped_work(before, PRUNE).await?;
        if pruned > 0 {
            tracing::debug!(pruned, "old work items were forgotten");
        }
        Ok(())
    }
}

fn report(step: &str, outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        tracing::warn!(step, %error, "a step of the reconciler failed; it is tried again in its next turn");
    }
}
