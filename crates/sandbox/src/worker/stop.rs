//! How a worker is told to end: in order, or at once.

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
}

impl From<CancellationToken> for Stop {
    fn from(drain: CancellationToken) -> Self {
        Self {
            drain,
            now: CancellationToken::new(),
        }
    }
}

impl Stop {
    /// Drains at the first SIGTERM or SIGINT, ends at once at the second.
    pub fn on_signals() -> Result<Self, WorkerError> {
        let stop = Self::default();
        let told = stop.clone();
        let mut terminate = signal(SignalKind::terminate()).map_err(WorkerError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(WorkerError::Signals)?;
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
