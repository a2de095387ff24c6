//! The bounded queue between those who record and the one thread that writes.
//!
//! Nothing that was taken in is ever thrown away: whoever brings a record while there is no room waits, and whoever
//! brings one while the ledger cannot be written is told so. Works with any executor, and with plain threads.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::Error;
use crate::entry::Receipt;
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::line::EntryType;

/// A body on its way into the ledger.
pub(crate) struct Prepared {
    pub(crate) salt: [u8; 16],
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: Hash,
}

/// What the writer is asked to do.
pub(crate) enum Job {
    /// Keep a record; without a reply, nobody waits.
    Record(Prepared, Option<Reply<Receipt>>),
    /// Say when everything before is durable.
    Flush(Reply<()>),
    /// Sign everything before.
    Checkpoint(Reply<Receipt>),
    /// Sign everything before and begin a new segment; gives the last line of the closed ones.
    Rotate(Reply<Receipt>),
    /// Take a new key.
    RotateKey(Reply<PublicKey>),
    /// Keep an entry of the ledger's own.
    Entry(EntryType, Prepared, Reply<Receipt>),
}

impl Job {
    fn size(&self) -> usize {
        match self {
            Self::Record(body, _) | Self::Entry(_, body, _) => body.bytes.len(),
            Self::Flush(_) | Self::Checkpoint(_) | Self::Rotate(_) | Self::RotateKey(_) => 0,
        }
    }
}

/// What the writer found in the queue.
pub(crate) struct Taken {
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) closing: bool,
}

struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    closing: bool,
    stalled: Option<Error>,
    /// Records that were refused since the ledger could not be written.
    refused: u64,
    writer_waits: bool,
    waiters: HashMap<u64, Waker>,
    blocked: usize,
    next_waiter: u64,
}

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    max_jobs: usize,
    max_bytes: usize,
}

enum Refusal {
    Full(Job),
    Error(Error),
}

impl Queue {
    pub(crate) fn new(max_jobs: usize, max_bytes: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            bytes: 0,
            closing: false,
            stalled: None,
            refused: 0,
            writer_waits: false,
            waiters: HashMap::new(),
            blocked: 0,
            next_waiter: 0,
        };
        Self { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new(), max_jobs, max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, state: &mut State, job: Job) -> Result<(), Refusal> {
        if state.closing {
            return Err(Refusal::Error(Error::Closed));
        }
        if let Some(error) = &state.stalled {
            let error = error.clone();
            if matches!(job, Job::Record(..)) {
                state.refused += 1;
            }
            return Err(Refusal::Error(error));
        }
        let size = job.size();
        let is_full = state.jobs.len() >= self.max_jobs || state.bytes + size > self.max_bytes;
        // One that is larger than the whole queue passes when it is alone.
        if is_full && !state.jobs.is_empty() && matches!(job, Job::Record(..)) {
            return Err(Refusal::Full(job));
        }
        state.bytes += size;
        state.jobs.push_back(job);
        if mem::take(&mut state.writer_waits) {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Brings a job that does not wait for room.
    pub(crate) fn command(&self, job: Job) -> Result<(), Error> {
        match self.push(&mut self.lock(), job) {
            Ok(()) => Ok(()),
            Err(Refusal::Error(error)) => Err(error),
            Err(Refusal::Full(_)) => unreachable!("only records wait for room"),
        }
    }

    /// Waits for jobs, until `deadline` if there is one, and takes them all.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Taken {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.closing {
            state.writer_waits = true;
            state = match deadline {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(rest) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                        break;
                    };
                    self.work.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.writer_waits = false;
        let jobs = mem::take(&mut state.jobs);
        state.bytes = 0;
        let closing = state.closing;
        self.make_room(state);
        Taken { jobs, closing }
    }

    /// From here on every record is refused with `error`; gives what was queued.
    pub(crate) fn stall(&self, error: Error) -> VecDeque<Job> {
        let mut state = self.lock();
        state.stalled = Some(error);
        let jobs = mem::take(&mut state.jobs);
        state.bytes = 0;
        self.make_room(state);
        jobs
    }

    /// Counts a record that was refused after it had been queued.
    pub(crate) fn count_refused(&self, records: u64) {
        self.lock().refused += records;
    }

    /// How many records were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Accepts records again; gives how many were refused meanwhile.
    pub(crate) fn resume(&self, counted: u64) {
        let mut state = self.lock();
        state.stalled = None;
        state.refused -= counted;
    }

    /// Refuses everything that comes from here on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.work.notify_one();
        self.make_room(state);
    }

    /// Closes, and drops what is queued, which tells those who wait. For a writer that ends before its time.
    pub(crate) fn abandon(&self) {
        self.close();
        let jobs = mem::take(&mut self.lock().jobs);
        drop(jobs);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    pub(crate) fn stalled(&self) -> Option<Error> {
        self.lock().stalled.clone()
    }

    fn make_room(&self, mut state: MutexGuard<'_, State>) {
        if state.blocked > 0 {
            self.room.notify_all();
        }
        let waiters = mem::take(&mut state.waiters);
        drop(state);
        for waker in waiters.into_values() {
            waker.wake();
        }
    }
}

/// A job that is brought as soon as there is room.
struct Bringing {
    queue: Arc<Queue>,
    job: Option<Job>,
    failure: Option<Error>,
    waiter: Option<u64>,
}

impl Bringing {
    fn start(queue: &Arc<Queue>, job: Result<Job, Error>) -> Self {
        let mut this = Self { queue: queue.clone(), job: None, failure: None, waiter: None };
        match job {
            Ok(job) => {
                let pushed = queue.push(&mut queue.lock(), job);
                this.settle(pushed);
            }
            Err(error) => this.failure = Some(error),
        }
        this
    }

    fn settle(&mut self, pushed: Result<(), Refusal>) {
        match pushed {
            Ok(()) => {}
            Err(Refusal::Full(job)) => self.job = Some(job),
            Err(Refusal::Error(error)) => self.failure = Some(error),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(job) = self.job.take() {
            let queue = self.queue.clone();
            let mut state = queue.lock();
            let pushed = queue.push(&mut state, job);
            self.settle(pushed);
            if self.job.is_some() {
                let waiter = *self.waiter.get_or_insert_with(|| {
                    state.next_waiter += 1;
                    state.next_waiter
                });
                state.waiters.insert(waiter, cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.failure.take().map_or(Ok(()), Err))
    }

    fn wait(&mut self) -> Result<(), Error> {
        let queue = self.queue.clone();
        let mut state = queue.lock();
        while let Some(job) = self.job.take() {
            let pushed = queue.push(&mut state, job);
            self.settle(pushed);
            if self.job.is_some() {
                state.blocked += 1;
                state = queue.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.blocked -= 1;
            }
        }
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.queue.lock().waiters.remove(&waiter);
        }
    }
}

/// A record on its way into the ledger. It gives the receipt once the record is durable.
///
/// The record was queued when this was made, if there was room; if there was none, it is queued by awaiting this or
/// by [`wait`](Append::wait). Dropping this does not take back a record that was queued.
#[must_use = "without waiting, a record may never get into a full queue, and nobody hears of a failure"]
pub struct Append {
    bringing: Bringing,
    receipt: Pending<Receipt>,
}

impl Append {
    pub(crate) fn start(queue: &Arc<Queue>, body: Result<Prepared, Error>) -> Self {
        let (reply, receipt) = reply();
        let bringing = Bringing::start(queue, body.map(|body| Job::Record(body, Some(reply))));
        Self { bringing, receipt }
    }

    /// Waits on this thread. Not for use inside of an async task.
    ///
    /// # Errors
    /// As [`Ledger::append`](crate::Ledger::append).
    pub fn wait(mut self) -> Result<Receipt, Error> {
        self.bringing.wait()?;
        self.receipt.wait()
    }
}

impl Future for Append {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.bringing.poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.receipt).poll(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A record on its way into the queue. It ends as soon as the record is queued, which it was when this was made, if
/// there was room.
#[must_use = "without waiting, a record may never get into a full queue, and nobody hears of a failure"]
pub struct AppendLater {
    bringing: Bringing,
}

impl AppendLater {
    pub(crate) fn start(queue: &Arc<Queue>, body: Result<Prepared, Error>) -> Self {
        Self { bringing: Bringing::start(queue, body.map(|body| Job::Record(body, None))) }
    }

    /// Waits on this thread, if there is no room.
    ///
    /// # Errors
    /// As [`Ledger::append_later`](crate::Ledger::append_later).
    pub fn wait(mut self) -> Result<(), Error> {
        self.bringing.wait()
    }
}

impl Future for AppendLater {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.bringing.poll(cx)
    }
}

enum Slot<T> {
    Empty(Option<Waker>),
    Filled(Result<T, Error>),
    Taken,
}

struct Cell<T> {
    slot: Mutex<Slot<T>>,
    filled: Condvar,
}

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, value: Result<T, Error>) {
        let mut slot = self.lock();
        if let Slot::Empty(waker) = &mut *slot {
            let waker = waker.take();
            *slot = Slot::Filled(value);
            drop(slot);
            self.filled.notify_one();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The writer's end of an answer. One that is dropped answers that the ledger is closed.
pub(crate) struct Reply<T>(Arc<Cell<T>>);

impl<T> Reply<T> {
    pub(crate) fn send(self, value: Result<T, Error>) {
        self.0.fill(value);
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0.fill(Err(Error::Closed));
    }
}

/// An answer of the writer: a future, or something to wait for on a thread.
#[must_use = "nobody hears of a failure"]
pub struct Pending<T>(Arc<Cell<T>>);

impl<T> Pending<T> {
    /// Waits on this thread. Not for use inside of an async task.
    ///
    /// # Errors
    /// What the writer answered.
    pub fn wait(self) -> Result<T, Error> {
        let mut slot = self.0.lock();
        loop {
            match mem::replace(&mut *slot, Slot::Taken) {
                Slot::Filled(value) => return value,
                Slot::Taken => return Err(Error::Closed),
                empty @ Slot::Empty(_) => *slot = empty,
            }
            slot = self.0.filled.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        match mem::replace(&mut *slot, Slot::Taken) {
            Slot::Filled(value) => Poll::Ready(value),
            Slot::Taken => Poll::Ready(Err(Error::Closed)),
            Slot::Empty(_) => {
                *slot = Slot::Empty(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// A question and its answer.
pub(crate) fn reply<T>() -> (Reply<T>, Pending<T>) {
    let cell = Arc::new(Cell { slot: Mutex::new(Slot::Empty(None)), filled: Condvar::new() });
    (Reply(cell.clone()), Pending(cell))
}

/// An answer that is there already.
pub(crate) fn answered<T>(value: Result<T, Error>) -> Pending<T> {
    let (reply, pending) = reply();
    reply.send(value);
    pending
}
