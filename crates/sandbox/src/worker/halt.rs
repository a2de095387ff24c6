//! The worker's forced stop: every sandbox is killed at the word, and the worker lets go of its sessions.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::boundary::Machine;
use super::stop::Stop;

/// Waits for the word until this is dropped.
pub(crate) fn on_word(machine: Option<Arc<Machine>>, stop: &Stop) -> AbortOnDropHandle<()> {
    let stop = stop.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        stop.halt.cancelled().await;
        let Some(machine) = machine else {
            // Other programs serve the sessions: they are killed.
            return stop.now.cancel();
        };
        // Nothing new is begun while what stands is ended.
        stop.drain.cancel();
        machine
            .halt("the worker's owner", "the worker was told to halt (SIGUSR1)")
            .await;
    }))
}
