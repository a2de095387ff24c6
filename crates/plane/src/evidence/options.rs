//! What the ledger is kept with.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outwork_ledger::exports::{self, Listener, Status};

/// The plane's ledger: where it is, how long it is kept, where it goes.
#[derive(Clone, Default)]
pub struct LedgerOptions {
    /// Its folder; `ledger` in the data folder if it is absent.
    pub dir: Option<PathBuf>,
    /// Remove records that are older than this, if there is a limit.
    pub retention: Option<Duration>,
    /// Remove the oldest records until this many bytes are left, if there is a limit.
    pub keep_bytes: Option<u64>,
    /// Where records go as they come.
    pub exports: Vec<exports::Options>,
}

/// What retention leaves.
pub(super) struct Keep {
    pub(super) age: Option<Duration>,
    pub(super) bytes: Option<u64>,
}

impl LedgerOptions {
    pub(super) fn keep(&self) -> Option<Keep> {
        let keep = Keep {
            age: self.retention,
            bytes: self.keep_bytes,
        };
        (keep.age.is_some() || keep.bytes.is_some()).then_some(keep)
    }
}

/// Says in the log when an export begins to fail, and when it is well again.
pub(super) fn log_trouble() -> Listener {
    let failing = AtomicBool::new(false);
    Arc::new(move |status: &Status| {
        let is_failing = status.fault.is_some();
        if failing.swap(is_failing, Ordering::SeqCst) == is_failing {
            return;
        }
        match &status.fault {
            Some(fault) => tracing::warn!(
                event = "ledger.export_failed", export = status.name, lag = status.lag, fault, refused = ?status.refused,
                "an export of the ledger does not get through; it is tried again, and nothing is left out"
            ),
            None => tracing::info!(event = "ledger.export_recovered", export = status.name, "an export gets through again"),
        }
    })
}
