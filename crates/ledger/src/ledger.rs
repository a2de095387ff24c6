//! The handle of an open ledger.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use outwork_wire::Time;
use serde::Serialize;

use crate::Error;
use crate::bundle::{Bundle, export};
use crate::entry::Receipt;
use crate::filter::Filter;
use crate::key::PublicKey;
use crate::line::{MAX_BODY, hash_body};
use crate::open;
use crate::queue::{Append, AppendLater, Job, Pending, Prepared, Queue, Reply, answered, reply};
use crate::record::Record;
use crate::watch::Watch;

/// How a ledger is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether records may hold the bytes that crossed. Default: no, and a record that holds some is refused.
    pub payloads: bool,
    /// Whether a record must have every field that its kind demands ([`Kind::required`](crate::Kind::required)).
    /// Default: no.
    pub complete: bool,
    /// Sign after this many lines. Default: 1000.
    pub checkpoint_records: u64,
    /// Sign at the latest this long after a line that is not signed yet. Default: 5 s.
    pub checkpoint_interval: Duration,
    /// Begin a new segment when one has this many bytes. Default: 128 MiB.
    pub segment_bytes: u64,
    /// How many records may wait to be written. Default: 16384.
    pub queue_records: usize,
    /// How many bytes of records may wait to be written. Default: 32 MiB.
    pub queue_bytes: usize,
    /// How long to wait before another attempt when the ledger cannot be written. Default: 200 ms.
    pub retry_interval: Duration,
    /// The clock for checkpoints and other entries of the ledger's own. Default: the system's.
    pub clock: fn() -> Time,
    /// Writes fail on demand.
    #[cfg(test)]
    pub(crate) faults: crate::batch::Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            payloads: false,
            complete: false,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_secs(5),
            segment_bytes: 128 << 20,
            queue_records: 16384,
            queue_bytes: 32 << 20,
            retry_interval: Duration::from_millis(200),
            clock: Time::now,
            #[cfg(test)]
            faults: Default::default(),
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, is_zero) in [
            ("checkpoint_records", self.checkpoint_records == 0),
            ("checkpoint_interval", self.checkpoint_interval.is_zero()),
            ("segment_bytes", self.segment_bytes == 0),
            ("queue_records", self.queue_records == 0),
            ("queue_bytes", self.queue_bytes == 0),
            ("retry_interval", self.retry_interval.is_zero()),
        ] {
            if is_zero {
                return Err(Error::Options(name));
            }
        }
        Ok(())
    }
}

/// How a ledger is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// The last line that is durable.
    pub last: Receipt,
    /// The last sequence that a checkpoint covers.
    pub signed_up_to: u64,
    /// Records that wait to be written.
    pub queued: usize,
    /// The key that signs.
    pub key: PublicKey,
    /// Why records are refused, if they are.
    pub stalled: Option<Error>,
}

/// An open ledger. Clones share it. It is closed by [`close`](Ledger::close), or when the last clone is dropped.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

pub(crate) struct Inner {
    dir: PathBuf,
    options: Options,
    queue: Arc<Queue>,
    pub(crate) progress: Arc<Watch>,
    thread: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    /// One redaction, pruning or export of a bundle at a time: they replace or need the files.
    pub(crate) redacting: Mutex<()>,
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes it there. Reads and verifies all of it; a line that a crash tore is cut,
    /// and an entry of the ledger says so.
    ///
    /// Blocks, for a few seconds for each million records. In an async program, call it before work begins or on a thread for blocking work.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open elsewhere, [`Error::Damaged`] if it is not what was written, [`Error::Key`] if
    /// the signing key is not there, [`Error::Io`] if the system refuses something.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        options.check()?;
        let dir = dir.as_ref();
        let queue = Arc::new(Queue::new(options.queue_records, options.queue_bytes));
        let (progress, thread) = open::start(dir, &options, &queue)?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            options,
            queue,
            progress,
            thread: Mutex::new(Some(thread)),
            redacting: Mutex::new(()),
        })))
    }

    /// Keeps a record and gives its receipt once it is durable. Await the result, or [`wait`](Append::wait) for it on
    /// a thread; records of many callers share one flush.
    ///
    /// # Errors
    /// The result is [`Error::TooLarge`], [`Error::PayloadsOff`], [`Error::Stalled`] or [`Error::Closed`] if the
    /// record was not kept. The crossing that it tells of must then not be let through.
    pub fn append(&self, record: Record) -> Append {
        Append::start(&self.0.queue, self.prepare(&record))
    }

    /// Keeps a record without waiting until it is durable. It is queued when this returns, unless the queue is full;
    /// await the result, or [`wait`](AppendLater::wait) for it, to be sure. A record that was queued is kept in
    /// memory until it could be written, also over a time in which the disk is full.
    ///
    /// # Errors
    /// As [`append`](Ledger::append).
    pub fn append_later(&self, record: Record) -> AppendLater {
        AppendLater::start(&self.0.queue, self.prepare(&record))
    }

    /// Whether a record may hold payloads.
    pub fn keeps_payloads(&self) -> bool {
        self.0.options.payloads
    }

    /// Ends when every record that was queued before is durable.
    pub fn flush(&self) -> Pending<()> {
        self.ask(Job::Flush)
    }

    /// Signs everything that was queued before, and gives the line of the signature.
    pub fn checkpoint(&self) -> Pending<Receipt> {
        self.ask(Job::Checkpoint)
    }

    /// Makes a new signing key, signed by the one that is used now, and gives its public part.
    pub fn rotate_key(&self) -> Pending<PublicKey> {
        self.ask(Job::RotateKey)
    }

    /// Begins a new segment, and gives the last line of the ones before, which are not written any more (and can be
    /// copied away).
    pub fn rotate_segment(&self) -> Pending<Receipt> {
        self.ask(Job::Rotate)
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let progress = self.0.progress.get();
        Status {
            last: progress.last,
            signed_up_to: progress.signed_up_to,
            key: progress.key,
            queued: self.0.queue.len(),
            stalled: self.0.queue.stalled(),
        }
    }

    /// The key that signs now. Keep it elsewhere: a verifier needs to be told it.
    pub fn public_key(&self) -> PublicKey {
        self.status().key
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Signs what is there and writes the bundle of the records that match to `out`; see [`export`]. Blocks.
    ///
    /// # Errors
    /// As [`export`], and what [`checkpoint`](Ledger::checkpoint) says.
    pub fn export(&self, filter: &Filter, out: impl Write) -> Result<Bundle, Error> {
        self.checkpoint().wait()?;
        let _one = self.0.redacting.lock().unwrap_or_else(PoisonError::into_inner);
        export(&self.0.dir, filter, self.now(), out)
    }

    /// Writes what is queued, signs it, and closes the ledger. Blocks until that is done.
    ///
    /// # Errors
    /// [`Error::Unwritten`] if records that nobody waited for could not be written; what the last signature met.
    /// A second call says [`Error::Closed`].
    pub fn close(&self) -> Result<(), Error> {
        self.0.close().unwrap_or(Err(Error::Closed))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn now(&self) -> Time {
        (self.0.options.clock)()
    }

    pub(crate) fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Pending<T> {
        let (reply, pending) = reply();
        match self.0.queue.command(job(reply)) {
            Ok(()) => pending,
            Err(error) => answered(Err(error)),
        }
    }

    fn prepare(&self, record: &Record) -> Result<Prepared, Error> {
        if record.has_payload() && !self.0.options.payloads {
            return Err(Error::PayloadsOff);
        }
        if self.0.options.complete {
            let missing = record.missing();
            if !missing.is_empty() {
                return Err(Error::Incomplete {
                    kind: record.kind.name(),
                    missing: missing.join(", "),
                });
            }
        }
        prepare(record)
    }
}

impl Inner {
    /// `None` if it was closed before.
    fn close(&self) -> Option<Result<(), Error>> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.queue.close();
        Some(thread.join().unwrap_or(Err(Error::Closed)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.close() {
            tracing::error!(ledger = %self.dir.display(), %error, "the ledger was not closed well");
        }
    }
}

/// The bytes of a body, with its salt and hash.
pub(crate) fn prepare(body: &impl Serialize) -> Result<Prepared, Error> {
    let bytes = serde_json::to_vec(body).expect("records and entries hold nothing that JSON cannot");
    if bytes.len() > MAX_BODY {
        return Err(Error::TooLarge {
            bytes: bytes.len(),
            limit: MAX_BODY,
        });
    }
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| Error::Crypto("make a random number"))?;
    let hash = hash_body(&salt, &bytes);
    Ok(Prepared { salt, bytes, hash })
}
