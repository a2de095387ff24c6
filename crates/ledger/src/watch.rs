//! How far the writer is, for those who ask and those who follow.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::entry::Receipt;
use crate::key::PublicKey;

/// How far the writer is.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) last: Receipt,
    pub(crate) signed_up_to: u64,
    pub(crate) key: PublicKey,
}

/// The progress, and a bell that rings when there is some.
#[derive(Debug)]
pub(crate) struct Watch {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Watch {
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Progress {
        self.lock().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Wakes those who wait, although nothing changed.
    pub(crate) fn ring(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Waits until a line after `sequence` is durable, `enough` says so, or the time is over.
    pub(crate) fn wait_past(&self, sequence: u64, time: Duration, enough: impl Fn() -> bool) {
        let end = Instant::now() + time;
        let mut progress = self.lock();
        while progress.last.sequence <= sequence && !enough() {
            let Some(rest) = end
                .checked_duration_since(Instant::now())
                .filter(|rest| !rest.is_zero())
            else {
                return;
            };
            progress = self
                .changed
                .wait_timeout(progress, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
