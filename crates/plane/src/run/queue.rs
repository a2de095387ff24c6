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
}
