//! What runs by itself: lapsed work, sessions without an owner, leases, closed streams.
//!
//! Idempotent and without input: each round looks at the world as it is. Nothing waits for a round in the usual
//! course of things; a round only mends what a crash or a lost worker left.

use std::sync::Arc;
use std::time::Duration;

use outwork_store::StoreError;
use outwork_wire::Time;
use outwork_wire::work::WorkState;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::run::registry::LEASE_SECONDS;

/// How often a round is made.
const ROUND: Duration = Duration::from_millis(500);
/// How many sessions are woken in one round.
const BATCH: usize = 500;

/// Makes rounds until `closing` is cancelled.
pub(crate) async fn run(app: Arc<App>, owner: String, closing: CancellationToken) {
    let mut rounds: u64 = 0;
    loop {
        if let Err(error) = round(&app, &owner, rounds).await {
            tracing::warn!(%error, "a round of the reconciler failed; the next one tries again");
        }
        rounds += 1;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = closing.cancelled() => return,
        }
    }
}

async fn round(app: &App, owner: &str, number: u64) -> Result<(), StoreError> {
    let every = |seconds: u64| number.is_multiple_of(seconds * 1000 / ROUND.as_millis() as u64);
    if app.sessions.owned() > 0 && every(u64::from(LEASE_SECONDS) / 3) {
        app.store.renew_all_leases(owner, LEASE_SECONDS, Time::now()).await?;
    }
    for lapsed in app.store.requeue_lapsed_work(Time::now()).await? {
        tracing::info!(
            work_id = %lapsed.work_id, session_id = %lapsed.session_id, state = %lapsed.state,
            "the lease of a work item lapsed"
        );
        match lapsed.state {
            WorkState::Stopped => app.sessions.wake(&lapsed.workspace_id, &lapsed.session_id),
            _ => app.bells.ring(&lapsed.environment_id),
        }
    }
    for due in app.store.list_unowned_needing_work(Time::now(), BATCH).await? {
        app.sessions.wake(&due.workspace_id, &due.session_id);
    }
    if every(10) {
        app.hub.sweep();
        app.store.flush_key_uses().await?;
    }
    Ok(())
}
