//! Wakes workers that wait for work, so that a long poll answers as soon as there is something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use outwork_wire::id::EnvironmentId;
use tokio::sync::Notify;

/// The doorbells of all queues.
#[derive(Default)]
pub(crate) struct QueueBells {
    environments: Mutex<HashMap<EnvironmentId, Arc<Notify>>>,
    cloud: Arc<Notify>,
}

impl QueueBells {
    /// The bell of an environment's queue. Listen first, then look at the queue.
    pub(crate) fn of(&self, environment: &EnvironmentId) -> Arc<Notify> {
        self.environments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(environment.clone())
            .or_default()
            .clone()
    }

    /// The bell of all cloud environments together.
    pub(crate) fn of_cloud(&self) -> Arc<Notify> {
        self.cloud.clone()
    }

    /// There is something in a queue. Everybody who waits looks; one of them gets it.
    pub(crate) fn ring(&self, environment: &EnvironmentId) {
        let bell = self
            .environments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(environment)
            .cloned();
        if let Some(bell) = bell {
            bell.notify_waiters();
        }
        self.cloud.notify_waiters();
    }

    /// Takes down the bells that nobody waits at.
    pub(crate) fn sweep(&self) {
        // Bells are given out under this lock only, so a count of one cannot grow meanwhile.
        self.environments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, bell| Arc::strong_count(bell) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bell_is_kept_while_somebody_waits_and_forgotten_after() {
        let bells = QueueBells::default();
        let (waited_at, left) = (EnvironmentId::fresh(), EnvironmentId::fresh());
        let bell = bells.of(&waited_at);
        drop(bells.of(&left));
        let rung = bell.notified();
        bells.sweep();
        let known = |id| bells.environments.lock().unwrap().contains_key(id);
        assert!(known(&waited_at) && !known(&left));
        bells.ring(&waited_at);
        rung.await;
        drop(bell);
        bells.sweep();
        assert!(!known(&waited_at));
    }
}
