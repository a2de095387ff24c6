//! The lease on one work item: beat for it, and know when it is gone.
//!
//! The first beat says that none was before; each later one echoes the last answer byte for byte. So two workers
//! cannot both hold an item: one of them gets a 412. A lease that could not be renewed for its whole length is
//! taken as lost, since another worker may hold the item by then.

use std::time::Duration;

use outwork_client::{Client, ClientError};
use outwork_wire::work::NO_HEARTBEAT;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff;

const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Assumed until the first answer tells the real one.
const FIRST_TTL: Duration = Duration::from_secs(90);

/// What is known of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LeaseState {
    /// A beat was accepted: the item is ours.
    pub held: bool,
    /// Why it ended.
    pub end: Option<LeaseEnd>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// Somebody asked for a stop and waits for us to finish.
    Stopping,
    /// The item is over, or its lease is not extended any more.
    Stopped,
    /// 412: it is queued again, or another worker holds it.
    Lost,
    /// Not renewed for its whole length.
    AssumedLost,
    /// The server refuses our beats for good.
    Rejected,
}

impl LeaseEnd {
    /// True if the item may belong to another worker now, so this one must not touch it.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Lost | Self::AssumedLost)
    }
}

/// Beats until the lease ends; the end is in `state`.
pub(crate) async fn keep(
    client: Client,
    environment_id: String,
    work_id: String,
    desired_ttl: Option<u32>,
    state: watch::Sender<LeaseState>,
) {
    let work = client.work(environment_id);
    let mut expected = NO_HEARTBEAT.to_owned();
    let mut interval = LONGEST_INTERVAL;
    let mut ttl = FIRST_TTL;
    let mut renewed = Instant::now();
    let mut failures = 0;
    let end = |end: LeaseEnd| {
        state.send_modify(|s| s.end = Some(end));
    };
    loop {
        let sent = Instant::now();
        // A beat that hangs must not outlast the lease by much.
        let left = (renewed + ttl).saturating_duration_since(sent).max(SHORTEST_INTERVAL);
        match work
            .heartbeat(&work_id, &expected, desired_ttl, interval.min(left))
            .await
        {
            Ok(answer) => {
                failures = 0;
                if let Ok(given) = Duration::try_from_secs_f64(answer.ttl_seconds)
                    && !given.is_zero()
                {
                    ttl = given;
                    interval = (ttl / 2).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
                }
                // Counted from before the beat was sent: the server's count began no earlier.
                renewed = sent;
                expected = answer.last_heartbeat;
                let over = match answer.state.as_str() {
                    "stopping" => Some(LeaseEnd::Stopping),
                    "stopped" => Some(LeaseEnd::Stopped),
                    _ if !answer.lease_extended => Some(LeaseEnd::Stopped),
                    _ => None,
                };
                if let Some(over) = over {
                    tracing::info!(work = work_id, state = answer.state, "heartbeat says to stop");
                    return end(over);
                }
                state.send_modify(|s| s.held = true);
                sleep(interval).await;
            }
            Err(error) if error.status() == Some(412) => {
                log_lost(&work_id, &error);
                return end(LeaseEnd::Lost);
            }
            Err(error) if error.is_permanent() => {
                tracing::error!(work = work_id, %error, "the server refuses the heartbeats of this item");
                return end(LeaseEnd::Rejected);
            }
            Err(error) => {
                failures += 1;
                let now = Instant::now();
                if now >= renewed + ttl {
                    tracing::error!(work = work_id, ?ttl, %error, "lease assumed lost: not renewed for its whole length");
                    return end(LeaseEnd::AssumedLost);
                }
                let wait = backoff::doubling(Duration::from_millis(500), failures, interval);
                tracing::warn!(work = work_id, ?wait, %error, "heartbeat failed; trying again");
                sleep_until((now + backoff::half_to_full(wait)).min(renewed + ttl)).await;
            }
        }
    }
}

fn log_lost(work_id: &str, error: &ClientError) {
    let current = error.api().and_then(|e| e.details.as_ref()?.get("current_state"));
    tracing::error!(
        work = work_id,
        server_state = current.and_then(|c| c.get("state")?.as_str()),
        server_heartbeat = current.and_then(|c| c.get("last_heartbeat")?.as_str()),
        "lease lost: the item was queued again or another worker holds it"
    );
}
