//! What must be done from time to time and touches no session: what passed through tunnels is written, old tokens of
//! workloads are forgotten, the keys of agent identities follow each other, the bytes of files that are gone are removed. A step that fails is tried again.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outwork_wire::Time;
use tokio_util::sync::CancellationToken;

use crate::app::{App, files};

/// How often what passed is written: what a crash can lose.
const ROUND: Duration = Duration::from_secs(5);
/// Every so many rounds the rest is done.
const SELDOM: u64 = 12;
/// How long an expired token is known, so that its holder is told why it is refused.
const KEEP_EXPIRED_SECONDS: i64 = 3600;
/// How many tokens are forgotten at once.
const PRUNE: usize = 1000;

/// Makes rounds until `closing` is cancelled.
pub(crate) async fn run(app: Arc<App>, closing: CancellationToken) {
    let mut rounds: u64 = 0;
    let mut pruned: Option<Instant> = None;
    loop {
        report("usage of tunnels", app.tunnels.flush_usage(&app.store).await);
        report("bytes that no file has", files::remove_loose(&app).await);
        if rounds.is_multiple_of(SELDOM) {
            let before = Time::now().plus_seconds(-KEEP_EXPIRED_SECONDS);
            report(
                "old tokens",
                app.store.prune_federated_tokens(before, PRUNE).await.map(drop),
            );
            turn_keys(&app).await;
            report("files whose time is over", files::expire(&app).await);
            prune(&app, &mut pruned).await;
        }
        rounds += 1;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// Removes old records from the ledger, if its retention is due.
async fn prune(app: &App, last: &mut Option<Instant>) {
    let Some(every) = app.evidence.prune_every() else {
        return;
    };
    if last.is_some_and(|at| at.elapsed() < every) {
        return;
    }
    *last = Some(Instant::now());
    let evidence = app.evidence.clone();
    match tokio::task::spawn_blocking(move || evidence.prune()).await {
        Ok(outcome) => report("old records of the ledger", outcome),
        Err(error) => report("old records of the ledger", Err(error)),
    }
}

async fn turn_keys(app: &App) {
    let identity = app.identity.clone();
    match tokio::task::spawn_blocking(move || identity.turn(Time::now())).await {
        Ok(outcome) => report("keys of agent identities", outcome),
        Err(error) => report("keys of agent identities", Err(error)),
    }
}

fn report<E: Display>(step: &str, outcome: Result<(), E>) {
    if let Err(error) = outcome {
        tracing::warn!(step, %error, "a step of the upkeep failed; it is tried again in its next turn");
    }
}
