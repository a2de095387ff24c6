//! The one thread that writes: takes what is queued, chains it, signs it, and flushes it once for all who wait.
//!
//! If a write fails, the file is cut back to what was durable, those who wait are told, and every record is refused
//! until writing works again; records that nobody waits for are kept in memory meanwhile. An `interrupted` entry then
//! says what happened. So the chain has no gap, and no receipt was given for what is not there.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outwork_wire::Time;

use crate::Error;
use crate::batch::{Active, Batch};
use crate::entry::{Interrupted, KeyEntry, Receipt};
use crate::folder::{Lock, Segment, open_segment, sync_dir, write_head};
use crate::key::{PublicKey, Signer, key_file, next_key_file, store_key};
use crate::ledger::{Options, prepare};
use crate::line::EntryType;
use crate::queue::{Job, Prepared, Queue, Reply};
use crate::watch::Watch;

/// A batch is written when it has this many bytes, even if more is waiting.
const BATCH_BYTES: usize = 4 << 20;
/// The head is replaced no more often than this while records flow.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);

/// The writer's state: all of it is about what is durable.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) queue: Arc<Queue>,
    pub(crate) progress: Arc<Watch>,
    pub(crate) active: Active,
    pub(crate) tail: Receipt,
    /// Lines that no checkpoint covers.
    pub(crate) unsigned: u64,
    pub(crate) unsigned_since: Option<Instant>,
    pub(crate) signer: Signer,
    pub(crate) key: KeyEntry,
    /// A checkpoint that the head does not name yet, and when the head was written.
    pub(crate) head_due: Option<Receipt>,
    pub(crate) head_at: Instant,
    pub(crate) stalled_since: Option<Time>,
    pub(crate) retained: VecDeque<Prepared>,
    pub(crate) _lock: Lock,
}

/// Answers what was done. What failed goes back, to be refused with everything else.
fn answer<T>(
    result: Result<T, Error>,
    reply: Reply<T>,
    job: impl FnOnce(Reply<T>) -> Job,
    jobs: &mut VecDeque<Job>,
) -> Result<(), Error> {
    match result {
        Ok(value) => {
            reply.send(Ok(value));
            Ok(())
        }
        Err(error) => {
            jobs.push_front(job(reply));
            Err(error)
        }
    }
}

/// Tells those who wait, should the writer end before its time.
struct Abandon(Arc<Queue>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// Writes until the queue is closed.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let abandon = Abandon(self.queue.clone());
        loop {
            let taken = abandon.0.take(self.deadline());
            if self.stalled_since.is_some() {
                for job in taken.jobs {
                    self.refuse(job);
                }
                if let Err(error) = self.resume()
                    && taken.closing
                {
                    return Err(self.lost(error));
                }
            } else {
                self.process(taken.jobs);
                self.upkeep();
            }
            if taken.closing && self.stalled_since.is_none() {
                return self.finish();
            }
        }
    }

    fn now(&self) -> Time {
        (self.options.clock)()
    }

    fn batch(&self) -> Batch {
        Batch::after(self.tail, self.unsigned)
    }

    fn deadline(&self) -> Option<Instant> {
        if self.stalled_since.is_some() {
            return Some(Instant::now() + self.options.retry_interval);
        }
        let sign = self
            .unsigned_since
            .map(|since| since + self.options.checkpoint_interval);
        let head = self.head_due.map(|_| self.head_at + HEAD_INTERVAL);
        match (sign, head) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn process(&mut self, mut jobs: VecDeque<Job>) {
        let mut batch = self.batch();
        while let Some(job) = jobs.pop_front() {
            let result = match job {
                Job::Record(body, reply) => {
                    let receipt = batch.add(EntryType::Record, &body);
                    match reply {
                        Some(reply) => batch.waiting.push((reply, receipt)),
                        None => batch.later.push(body),
                    }
                    self.sign_if_many(&mut batch)
                }
                Job::Entry(entry_type, body, reply) => {
                    let receipt = batch.add(entry_type, &body);
                    batch.waiting.push((reply, receipt));
                    Ok(())
                }
                Job::Flush(reply) => answer(self.commit(&mut batch), reply, Job::Flush, &mut jobs),
                Job::Checkpoint(reply) => {
                    let signed = self.sign(&mut batch).map(|()| self.tail);
                    answer(signed, reply, Job::Checkpoint, &mut jobs)
                }
                Job::Rotate(reply) => answer(self.rotate(&mut batch), reply, Job::Rotate, &mut jobs),
                Job::RotateKey(reply) => match self.next_key() {
                    Ok(next) => answer(self.rotate_key(&mut batch, next), reply, Job::RotateKey, &mut jobs),
                    Err(error) => {
                        reply.send(Err(error));
                        Ok(())
                    }
                },
            };
            let is_full = batch.bytes.len() >= BATCH_BYTES || self.fills_segment(&batch);
            let result = result.and_then(|()| if is_full { self.commit(&mut batch) } else { Ok(()) });
            let result = result.and_then(|()| {
                if self.active.len >= self.options.segment_bytes {
                    self.rotate(&mut batch).map(|_| ())
                } else {
                    Ok(())
                }
            });
            if let Err(error) = result {
                return self.stall(error, batch, jobs);
            }
        }
        if let Err(error) = self.commit(&mut batch) {
            self.stall(error, batch, jobs);
        }
    }

    fn fills_segment(&self, batch: &Batch) -> bool {
        !batch.bytes.is_empty() && self.active.len + batch.bytes.len() as u64 >= self.options.segment_bytes
    }

    fn sign_if_many(&self, batch: &mut Batch) -> Result<(), Error> {
        if batch.unsigned >= self.options.checkpoint_records {
            batch.sign(&self.signer, self.now())?;
        }
        Ok(())
    }

    /// Makes the batch durable, tells those who wait for it, and begins the next one. On failure it is as before.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), Error> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        self.active
            .append(&batch.bytes)
            .map_err(Error::io("write", &self.active.segment.path))?;
        let done = mem::replace(batch, self.batch());
        self.tail = done.tail;
        self.unsigned = done.unsigned;
        if done.signed.is_some() {
            self.head_due = done.signed;
            self.unsigned_since = None;
        }
        if self.unsigned > 0 && self.unsigned_since.is_none() {
            self.unsigned_since = Some(Instant::now());
        }
        batch.tail = self.tail;
        batch.unsigned = self.unsigned;
        batch.bytes = done.bytes;
        batch.bytes.clear();
        self.progress.change(|progress| {
            progress.last = self.tail;
            progress.key = self.key.public_key;
            if let Some(signed) = done.signed {
                progress.signed_up_to = signed.sequence;
            }
        });
        for (reply, receipt) in done.waiting {
            reply.send(Ok(receipt));
        }
        Ok(())
    }

    /// Signs everything up to here, the batch included.
    fn sign(&mut self, batch: &mut Batch) -> Result<(), Error> {
        if batch.unsigned > 0 {
            batch.sign(&self.signer, self.now())?;
        }
        self.commit(batch)
    }

    /// Closes the segment with a signature and begins the next one. Gives the last line before it.
    fn rotate(&mut self, batch: &mut Batch) -> Result<Receipt, Error> {
        self.sign(batch)?;
        if self.active.len > 0 {
            let segment = Segment::new(&self.dir, self.tail.sequence + 1);
            let file = open_segment(&segment).map_err(Error::io("make the segment", &segment.path))?;
            sync_dir(&self.dir)?;
            self.active.file = file;
            self.active.segment = segment;
            self.active.len = 0;
            self.write_head();
        }
        Ok(self.tail)
    }

    /// Makes a key and what the chain is going to say of it, and keeps it beside the one in use.
    fn next_key(&self) -> Result<(Signer, KeyEntry, Prepared), Error> {
        let next = Signer::generate()?;
        store_key(&next, &next_key_file(&self.dir))?;
        let entry = self.key.successor(&self.signer, next.public_key(), self.now());
        let body = prepare(&entry)?;
        Ok((next, entry, body))
    }

    fn rotate_key(
        &mut self,
        batch: &mut Batch,
        (next, entry, body): (Signer, KeyEntry, Prepared),
    ) -> Result<PublicKey, Error> {
        // What comes before the new key is signed by the one before.
        self.sign(batch)?;
        batch.add(EntryType::Key, &body);
        batch.sign(&next, self.now())?;
        self.commit(batch)?;
        // From here on the chain names the new key; what is left undone, opening the ledger does.
        self.signer = next;
        self.key = entry;
        self.progress.change(|progress| progress.key = self.key.public_key);
        let moved = fs::rename(next_key_file(&self.dir), key_file(&self.dir))
            .map_err(Error::io("replace the signing key in", &self.dir))
            .and_then(|()| sync_dir(&self.dir));
        if let Err(error) = moved {
            tracing::warn!(%error, "the ledger's new signing key is in use, and its file has its old name");
        }
        self.write_head();
        Ok(self.key.public_key)
    }

    /// What time demands.
    fn upkeep(&mut self) {
        let interval = self.options.checkpoint_interval;
        if self.stalled_since.is_none() && self.unsigned_since.is_some_and(|since| since.elapsed() >= interval) {
            let mut batch = self.batch();
            if let Err(error) = self.sign(&mut batch) {
                self.stall(error, batch, VecDeque::new());
            }
        }
        if self.head_due.is_some() && self.head_at.elapsed() >= HEAD_INTERVAL {
            self.write_head();
        }
    }

    /// The head only helps to notice a removed end: a failure to write it keeps nobody from working.
    pub(crate) fn write_head(&mut self) {
        if let Some(receipt) = self.head_due.take() {
            self.head_at = Instant::now();
            if let Err(error) = write_head(&self.dir, receipt) {
                tracing::warn!(%error, "the ledger's head is not up to date");
                self.head_due = Some(receipt);
            }
        }
    }

    /// Refuses everything until writing works again.
    fn stall(&mut self, error: Error, batch: Batch, jobs: VecDeque<Job>) {
        let since = self.now();
        let path = self.active.segment.path.clone();
        tracing::error!(%error, "the ledger cannot be written: records are refused until it can");
        let cause = match error {
            Error::Io { cause, .. } => cause,
            other => Arc::new(io::Error::other(other)),
        };
        self.stalled_since = Some(since);
        let queued = self.queue.stall(Error::Stalled { since, path, cause });
        self.retained.extend(batch.later);
        self.queue.count_refused(batch.waiting.len() as u64);
        for (reply, _) in batch.waiting {
            reply.send(Err(self.refusal()));
        }
        for job in jobs.into_iter().chain(queued) {
            self.refuse(job);
        }
    }

    fn refusal(&self) -> Error {
        self.queue.stalled().unwrap_or(Error::Closed)
    }

    fn refuse(&mut self, job: Job) {
        let error = self.refusal();
        match job {
            Job::Record(body, None) => self.retained.push_back(body),
            Job::Record(_, Some(reply)) => {
                self.queue.count_refused(1);
                reply.send(Err(error));
            }
            Job::Entry(_, _, reply) | Job::Checkpoint(reply) | Job::Rotate(reply) => reply.send(Err(error)),
            Job::Flush(reply) => reply.send(Err(error)),
            Job::RotateKey(reply) => reply.send(Err(error)),
        }
    }

    /// Tries to write again: first what is kept in memory, then what happened.
    fn resume(&mut self) -> Result<(), Error> {
        let Some(since) = self.stalled_since else { return Ok(()) };
        while !self.retained.is_empty() {
            let mut batch = self.batch();
            while let Some(body) = self.retained.pop_front() {
                batch.add(EntryType::Record, &body);
                batch.later.push(body);
                if batch.bytes.len() >= BATCH_BYTES {
                    break;
                }
            }
            if let Err(error) = self.commit(&mut batch) {
                for body in batch.later.into_iter().rev() {
                    self.retained.push_front(body);
                }
                return Err(error);
            }
        }
        let refused = self.queue.refused();
        let reason = match self.refusal() {
            Error::Stalled { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        let body = prepare(&Interrupted {
            at: self.now(),
            since,
            refused,
            reason,
        })?;
        let mut batch = self.batch();
        batch.add(EntryType::Interrupted, &body);
        self.sign(&mut batch)?;
        self.stalled_since = None;
        self.queue.resume(refused);
        tracing::info!(refused, "the ledger can be written again");
        Ok(())
    }

    fn lost(&self, error: Error) -> Error {
        match (self.retained.len() as u64, error) {
            (0, error) => error,
            (records, Error::Io { cause, .. }) => Error::Unwritten { records, cause },
            (records, other) => Error::Unwritten {
                records,
                cause: Arc::new(io::Error::other(other)),
            },
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        let mut batch = self.batch();
        self.sign(&mut batch)?;
        self.write_head();
        Ok(())
    }

    /// Writes the first lines after opening, over a torn tail of `torn` bytes if there is one, and signs them.
    pub(crate) fn begin(&mut self, entries: &[(EntryType, Prepared)], torn: u64) -> Result<(), Error> {
        let mut batch = self.batch();
        for (entry_type, body) in entries {
            batch.add(*entry_type, body);
        }
        if batch.unsigned > 0 {
            batch.sign(&self.signer, self.now())?;
        }
        let path = self.active.segment.path.clone();
        if torn > 0 {
            // The entry that tells of the cut is written over the torn bytes before the rest of them is removed: a
            // crash in between leaves a tear again, and never a cut that nothing tells of.
            let file = &self.active.file;
            file.write_all_at(&batch.bytes, self.active.len)
                .and_then(|()| file.sync_data())
                .and_then(|()| file.set_len(self.active.len + batch.bytes.len() as u64))
                .map_err(Error::io("mend", &path))?;
        }
        // What an earlier process wrote may not be durable yet.
        self.active.file.sync_all().map_err(Error::io("sync", &path))?;
        self.commit(&mut batch)?;
        self.write_head();
        Ok(())
    }
}
