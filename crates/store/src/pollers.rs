//! Who polls which queue: kept in memory, for the count of workers in the queue's figures.
//!
//! A worker counts for 30 seconds after its last poll. Bounded: a queue remembers at most 10,000 names.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use outwork_wire::Time;
use outwork_wire::id::EnvironmentId;

const WINDOW_SECONDS: i64 = 30;
const MAX_NAMES: usize = 10_000;

#[derive(Default)]
pub(crate) struct Pollers {
    seen: Mutex<HashMap<EnvironmentId, HashMap<String, Time>>>,
}

impl Pollers {
    /// Notes that a worker polled.
    pub(crate) fn note(&self, environment: &EnvironmentId, worker: &str, now: Time) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = match seen.get_mut(environment) {
            Some(workers) => workers,
            None => seen.entry(environment.clone()).or_default(),
        };
        if let Some(last) = workers.get_mut(worker) {
            *last = now;
            return;
        }
        if workers.len() >= MAX_NAMES {
            forget_old(workers, now);
        }
        if workers.len() < MAX_NAMES {
            workers.insert(worker.to_owned(), now);
        }
    }

    /// How many workers polled of late.
    pub(crate) fn count(&self, environment: &EnvironmentId, now: Time) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = seen.get_mut(environment) else {
            return 0;
        };
        forget_old(workers, now);
        let count = workers.len() as u64;
        if count == 0 {
            seen.remove(environment);
        }
        count
    }
}

fn forget_old(workers: &mut HashMap<String, Time>, now: Time) {
    let oldest = now.plus_seconds(-WINDOW_SECONDS);
    workers.retain(|_, last| *last >= oldest);
}
