//! What runs by itself: lapsed work, missing work, sessions without an owner, leases, closed streams.
//!
//! Idempotent and without input: each round looks at the world as it is. Nothing waits for a round in the usual
//! course of things, but an item that is held back; a round mends what a crash or a lost worker left. A step that
//! fails is tried again in its next turn and keeps no other step from its own.

use std::sync::Arc;
use std::time::Duration;

use outwork_store::{Store, StoreError};
use outwork_wire::Time;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::run::changes::Changes;
use crate::run::hub::Hub;
use crate::run::queue::QueueBells;
use crate::run::registry::{LEASE_SECONDS, Registry};

/// How often a round is made.
const ROUND: Duration = Duration::from_millis(500);
/// How many sessions are looked at in one round.
const BATCH: usize = 500;
/// How long items that are over are kept, and how many are forgotten at once.
const KEEP_WORK_SECONDS: i64 = 7 * 24 * 3600;
const PRUNE: usize = 1000;

/// Makes rounds until `closing` is cancelled.
pub(crate) async fn run(app: Arc<App>, owner: String, closing: CancellationToken) {
    let mut reconciler = Reconciler {
        store: app.store.clone(),
        sessions: app.sessions.clone(),
        hub: app.hub.clone(),
        bells: app.bells.clone(),
        changes: app.changes.clone(),
        owner,
        announced: Time::now(),
        place: 0,
    };
    drop(app);
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
    store: Store,
    sessions: Registry,
    hub: Arc<Hub>,
    bells: Arc<QueueBells>,
    changes: Arc<Changes>,
    owner: String,
    /// Items that were held back until then have been announced.
    announced: Time,
    /// Where the list of sessions without an owner goes on.
    place: i64,
}

impl Reconciler {
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
            self.hub.sweep();
            self.bells.sweep();
            self.changes.sweep();
            report("uses of keys", self.store.flush_key_uses().await);
        }
        if every(60) {
            report("old work", self.prune().await);
        }
    }

    /// Renews the leases of sessions with an owner here. One that was left behind is given back, so that the session
    /// is found like any other without an owner.
    async fn keep_leases(&self) -> Result<(), StoreError> {
        let store = &self.store;
        let held = store.leases_of(&self.owner).await?;
        // The map is read after the store: whoever owns a session is on the map before it takes the lease, and
        // until it has given it back. The generation keeps a lease that was taken anew in between.
        let (owned, left_behind) = self.sessions.split_leases(held);
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
        for lapsed in self.store.requeue_lapsed_work(Time::now()).await? {
            tracing::info!(
                work_id = %lapsed.work_id, session_id = %lapsed.session_id, state = %lapsed.state,
                "the lease of a work item lapsed"
            );
            self.bells.ring(&lapsed.environment_id);
        }
        Ok(())
    }

    async fn announce_due_work(&mut self) -> Result<(), StoreError> {
        let now = Time::now();
        for environment in self.store.work_due_between(self.announced, now).await? {
            self.bells.ring(&environment);
        }
        self.announced = now;
        Ok(())
    }

    async fn enqueue_missing_work(&self) -> Result<(), StoreError> {
        for environment in self.store.enqueue_missing_work(Time::now(), BATCH).await? {
            tracing::warn!(%environment, "a session needed a worker and had no work item; it has one now");
            self.bells.ring(&environment);
        }
        Ok(())
    }

    /// Each round goes on where the one before ended, so that sessions which cannot be loaded do not keep those
    /// behind them waiting.
    async fn wake_due_sessions(&mut self) -> Result<(), StoreError> {
        let due = self
            .store
            .list_unowned_needing_work(Time::now(), self.place, BATCH)
            .await?;
        self.place = match due.last() {
            Some(last) if due.len() == BATCH => last.place,
            Some(_) | None => 0,
        };
        for session in due {
            self.sessions.wake_due(&session.workspace_id, &session.session_id);
        }
        Ok(())
    }

    async fn prune(&self) -> Result<(), StoreError> {
        let before = Time::now().plus_seconds(-KEEP_WORK_SECONDS);
        let pruned = self.store.prune_stopped_work(before, PRUNE).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::test_bed::{TestBed, until};

    fn reconciler(bed: &TestBed) -> Reconciler {
        Reconciler {
            store: bed.store.clone(),
            sessions: bed.sessions.clone(),
            hub: Arc::default(),
            bells: Arc::default(),
            changes: Arc::default(),
            owner: TestBed::OWNER.to_owned(),
            announced: Time::now(),
            place: 0,
        }
    }

    #[tokio::test]
    async fn a_lease_that_was_left_behind_is_given_back_and_the_session_taken_up() {
        let bed = TestBed::new(None, None).await;
        let session = bed.session_with_message().await;
        bed.store
            .acquire_lease(&bed.workspace, &session, TestBed::OWNER, LEASE_SECONDS, Time::now())
            .await
            .unwrap();
        assert_eq!(bed.sessions.owned(), 0);
        let mut reconciler = reconciler(&bed);
        reconciler.round(0).await;
        // Without a model the turn ends at once, with an error that says what to set.
        until("the session was taken up", async || {
            bed.kinds(&session).await.contains(&"session.error")
        })
        .await;
        // While its owner is here, the lease is kept.
        reconciler.round(0).await;
        assert!(bed.row(&session).await.lease.is_some());
        assert_eq!(bed.sessions.owned(), 1);
    }

    #[tokio::test]
    async fn a_session_that_cannot_be_loaded_is_left_alone_for_a_while() {
        let bed = TestBed::new(None, None).await;
        let broken = bed.session_with_broken_log().await;
        let sound = bed.session_with_message().await;
        let mut reconciler = reconciler(&bed);
        reconciler.round(1).await;
        until("the other one was taken up", async || {
            bed.kinds(&sound).await.contains(&"session.error")
        })
        .await;
        until("the broken one was given up", async || bed.sessions.owned() == 1).await;
        assert!(bed.row(&broken).await.lease.is_none());
        reconciler.round(1).await;
        assert_eq!(bed.sessions.owned(), 1, "it was tried again at once");
    }
}
