//! Stopping a sandbox, holding it still, and limits of its whole life.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{CANCEL_PATIENCE, Inner, Sandbox, SandboxEnd, end_now};
use crate::error::SandboxError;
use crate::hand::frame::ToHand;
use crate::jail::cgroup::Freezer;

/// How long processes may take to stand still: one that waits for a disk does not at once.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);
impl Sandbox {
    /// Asks what runs to end by itself, for as long as `grace`, and cancels what has not ended then. Calls that wait are
    /// cancelled at once. Returns when all of them are answered; the sandbox lives on.
    pub async fn end_calls(&self, grace: Duration) -> Result<(), SandboxError> {
        let ids: Vec<u64> = self.inner.calls().waiting.keys().copied().collect();
        for id in &ids {
            self.inner.send(&ToHand::End(*id).encode()).await?;
        }
        let answered = || {
            let calls = self.inner.calls();
            calls.over.is_some() || ids.iter().all(|id| !calls.waiting.contains_key(id))
        };
        for (patience, cancel) in [(grace, true), (CANCEL_PATIENCE, false)] {
            let wait = async {
                // Every answer wakes this, and so does the end.
                let mut progress = self.inner.progress.subscribe();
                while !answered() {
                    if progress.changed().await.is_err() {
                        return;
                    }
                }
            };
            if tokio::time::timeout(patience, wait).await.is_ok() {
                return Ok(());
            }
            if cancel {
                for id in &ids {
                    self.inner.send(&ToHand::Cancel(*id).encode()).await?;
                }
            }
        }
        self.inner.signal();
        Err(SandboxError::Unresponsive(CANCEL_PATIENCE))
    }

    /// Ends calls as [`Self::end_calls`] does, and then the sandbox.
    pub async fn stop(&self, grace: Duration) -> Result<SandboxEnd, SandboxError> {
        // Whatever became of the calls, nothing is left of the sandbox.
        let _ = self.end_calls(grace).await;
        self.kill().await
    }

    /// Holds every process inside still, until [`Self::resume`]. The clocks of calls that run go on.
    ///
    /// With a cgroup the kernel's freezer does it; without one the hand stops every process with a signal, which
    /// programs that stop or continue others can tell.
    pub async fn pause(&self) -> Result<(), SandboxError> {
        self.hold(true).await
    }

    /// Lets what was paused go on.
    pub async fn resume(&self) -> Result<(), SandboxError> {
        self.hold(false).await
    }

    async fn hold(&self, still: bool) -> Result<(), SandboxError> {
        let attempt = if still { "paused" } else { "resumed" };
        let mut paused = self.inner.paused.lock().await;
        if let Some(over) = &self.inner.calls().over {
            let ended = || SandboxError::Ended(end_now(&self.inner.ended));
            return Err(over.told().unwrap_or_else(ended));
        }
        if let Some(freezer) = &self.inner.sweep.group {
            // Before it is tried: a kill that comes between must let it go.
            *paused = true;
            let set = set(freezer, still).await;
            if set.is_err() || self.inner.killed.load(Ordering::SeqCst) {
                let _ = freezer.tell(false);
                *paused = false;
            }
            if let Err(error) = set {
                let reason = error.to_string();
                return Err(SandboxError::Pause { attempt, reason });
            }
        } else {
            let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
            let frame = if still { ToHand::Pause(id) } else { ToHand::Resume(id) };
            let answer = self.inner.expect(id)?;
            self.inner.send(&frame.encode()).await?;
            match tokio::time::timeout(CANCEL_PATIENCE, answer).await {
                Ok(Ok(answer)) if !answer.is_error => {}
                Ok(Ok(_)) => {
                    let reason = "something inside makes processes as fast as they are stopped".to_owned();
                    return Err(SandboxError::Pause { attempt, reason });
                }
                Ok(Err(_)) => return Err(self.inner.over().await),
                Err(_) => {
                    self.inner.signal();
                    return Err(SandboxError::Unresponsive(CANCEL_PATIENCE));
                }
            }
        }
        *paused = still;
        Ok(())
    }
}

/// Kills a sandbox that stands too long, or whose launcher has gone: then nobody else would.
pub(super) async fn watch_over(
    inner: Weak<Inner>,
    mut ended: watch::Receiver<Option<SandboxEnd>>,
    wall_clock: Option<Duration>,
) {
    let wait = ended.wait_for(Option::is_some);
    let known = match wall_clock {
        None => wait.await.is_ok(),
        Some(limit) => match tokio::time::timeout(limit, wait).await {
            Ok(known) => known.is_ok(),
            Err(_) => {
                if let Some(inner) = inner.upgrade() {
                    inner.limit("wall_clock", format!("{limit:?}"));
                }
                return;
            }
        },
    };
    if !known && let Some(inner) = inner.upgrade() {
        inner.signal();
    }
}

/// Tells a group, and waits until it is so.
async fn set(freezer: &Freezer, still: bool) -> std::io::Result<()> {
    let begun = Instant::now();
    freezer.tell(still)?;
    while !freezer.is(still)? {
        let waited = begun.elapsed();
        if waited > FREEZE_PATIENCE {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("its processes did not follow within {FREEZE_PATIENCE:?}"),
            ));
        }
        // As a rule it is done before the first look; a timer is coarser than what is awaited.
        if waited > Duration::from_millis(1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
