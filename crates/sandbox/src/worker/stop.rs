//! How a worker is told to end: in order, at once, or with every sandbox killed first.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::WorkerError;

/// Tells a worker to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// In order: nothing new is taken, running calls are stopped and answered, items are released.
    pub drain: CancellationToken,
    /// At once: everything is dropped; sandboxes are killed.
    pub now: CancellationToken,
    /// Every sandbox is killed at once, which is recorded; then the worker ends in order.
    pub halt: CancellationToken,
}

impl From<CancellationToken> for Stop {
    fn from(drain: CancellationToken) -> Self {
        Self {
            drain,
            ..Self::default()
        }
    }
}

impl Stop {
    /// Drains at the first SIGTERM or SIGINT, ends at once at the second; halts at SIGUSR1.
    pub fn on_signals() -> Result<Self, WorkerError> {
        let stop = Self::default();
        let told = stop.clone();
        let mut terminate = signal(SignalKind::terminate()).map_err(WorkerError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(WorkerError::Signals)?;
        let mut user = signal(SignalKind::user_defined1()).map_err(WorkerError::Signals)?;
        let halt = stop.halt.clone();
        tokio::spawn(async move {
            user.recv().await;
            halt.cancel();
        });
        tokio::spawn(async move {
            for token in [&told.drain, &told.now] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("told to end; running calls are stopped and answered, a second signal ends at once");
                token.cancel();
            }
        });
        Ok(stop)
    }
}
