//! Records of what crosses, or was refused.
//!
//! A crossing asks for its record before it is let through; if the record is not kept, it is not let through. What is
//! only known afterwards (bytes, duration) is a second record.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use outwork_ledger::{Ledger, Record};

/// Where records are kept.
pub trait Evidence: Send + Sync + 'static {
    /// Keeps a record, or says why not.
    fn keep(&self, record: Record) -> BoxFuture<'_, Result<(), String>>;
}

/// Records in the hash-chained ledger.
#[derive(Clone)]
pub struct LedgerEvidence {
    ledger: Ledger,
    durable: bool,
}

impl LedgerEvidence {
    /// Records are in the ledger's queue before the crossing: they are written with the next flush, and the ledger
    /// refuses them (so crossings stop) while it cannot write.
    pub fn queued(ledger: Ledger) -> LedgerEvidence {
        LedgerEvidence { ledger, durable: false }
    }

    /// Records are on the disk before the crossing, which costs each a share of a flush.
    pub fn durable(ledger: Ledger) -> LedgerEvidence {
        LedgerEvidence { ledger, durable: true }
    }
}

impl Evidence for LedgerEvidence {
    fn keep(&self, record: Record) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            match self.durable {
                true => self.ledger.append(record).await.map(drop),
                false => self.ledger.append_later(record).await,
            }
            .map_err(|error| error.to_string())
        })
    }
}

/// Keeps nothing, for an owner who set no ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvidence;

impl Evidence for NoEvidence {
    fn keep(&self, _: Record) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl<E: Evidence + ?Sized> Evidence for Arc<E> {
    fn keep(&self, record: Record) -> BoxFuture<'_, Result<(), String>> {
        (**self).keep(record)
    }
}

/// Whose sandbox it is: on every record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// The workspace.
    pub workspace: Option<String>,
    /// The environment.
    pub environment: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// The agent and the version of its configuration.
    pub agent: Option<(String, Option<u64>)>,
    /// The worker.
    pub worker: Option<String>,
    /// The digest of the sandbox's image.
    pub image_digest: Option<String>,
}

impl Labels {
    pub(crate) fn mark(&self, mut record: Record) -> Record {
        record.workspace.clone_from(&self.workspace);
        record.environment.clone_from(&self.environment);
        record.session.clone_from(&self.session);
        record.worker.clone_from(&self.worker);
        record.image_digest.clone_from(&self.image_digest);
        match &self.agent {
            Some((id, version)) => record.agent(id.clone(), *version),
            None => record,
        }
    }
}
