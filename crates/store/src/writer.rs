//! The writer: one thread, one connection, one transaction for all that waits.
//!
//! Callers queue jobs; the thread takes every job that waits, runs each inside its own savepoint, commits once
//! and then answers all of them. So a durable write costs a share of one flush, and a job that fails undoes
//! only itself. When the database itself fails (no space, a failing disk), the whole batch is undone and every
//! job of it is told so; the next batch tries again.
//!
//! Invariant: nobody is answered `Ok` before the commit that holds their change is on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::folder::Folder;

/// Jobs that may wait; callers wait for room.
const QUEUE: usize = 1024;
/// Jobs in one transaction; bounds the time until the first of them is answered.
const BATCH: usize = 512;

/// What the writer has done since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) jobs: AtomicU64,
    pub(crate) failed_commits: AtomicU64,
}

/// The way to the writer thread.
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) counters: Arc<Counters>,
}

enum Message {
    Job(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

trait Job: Send {
    fn run(&mut self, conn: &Connection) -> Verdict;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

#[derive(PartialEq)]
enum Verdict {
    Keep,
    Undo,
    /// The database failed: the batch cannot go on.
    Abandon(String),
}

struct Task<T, F> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, conn: &Connection) -> Verdict {
        let Some(work) = self.work.take() else {
            return Verdict::Undo;
        };
        let result = catch_unwind(AssertUnwindSafe(|| work(conn)))
            .unwrap_or_else(|_| Err(StoreError::internal("a write panicked; it was undone")));
        let verdict = match &result {
            Ok(_) => Verdict::Keep,
            Err(e) if e.is_of_the_database() => Verdict::Abandon(e.to_string()),
            Err(_) => Verdict::Undo,
        };
        self.result = Some(result);
        verdict
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (self.result, committed) {
            (Some(result), Ok(())) => result,
            (Some(Err(own)), Err(_)) if own.is_of_the_database() => Err(own),
            // A refusal may have been for what a neighbour wrote, which is undone now.
            (_, Err(e)) => Err(e),
            (None, Ok(())) => Err(StoreError::internal("a write was answered before it ran")),
        };
        // Nobody waits any more: the change is kept all the same.
        let _ = self.reply.send(result);
    }
}

impl Writer {
    /// Starts the thread; it owns the connection and the folder's lock until it ends.
    pub(crate) fn start(conn: Connection, folder: Folder) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || serve(&conn, waiting, &shared).finish(conn, folder))
            .map_err(|e| StoreError::Internal(Box::new(e)))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            counters,
        })
    }

    /// Runs `work` in the next transaction and answers after its commit.
    ///
    /// Dropping the future does not undo the work.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Task {
            work: Some(work),
            result: None,
            reply,
        };
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue
            .send(Message::Job(Box::new(task)))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes what waits, writes the log back into the database, gives the folder free.
    pub(crate) async fn close(&self) {
        let Some(queue) = self.queue.as_ref() else { return };
        let (done, finished) = oneshot::channel();
        if queue.send(Message::Close(done)).await.is_ok() {
            let _ = finished.await;
        }
        queue.closed().await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is left to do when no job can come any more.
struct Ending {
    closed: Vec<oneshot::Sender<()>>,
    _queue: mpsc::Receiver<Message>,
}

impl Ending {
    fn finish(self, conn: Connection, folder: Folder) {
        let checkpoint = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(e) = checkpoint {
            tracing::warn!(error = %e, "the write-ahead log stays; it is read at the next start");
        }
        drop(conn);
        drop(folder);
        for done in self.closed {
            let _ = done.send(());
        }
    }
}

fn serve(conn: &Connection, mut waiting: mpsc::Receiver<Message>, counters: &Counters) -> Ending {
    let mut closed = Vec::new();
    let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
    while let Some(first) = waiting.blocking_recv() {
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Job(job) => batch.push(job),
                Message::Close(done) => {
                    waiting.close();
                    closed.push(done);
                }
            }
            if batch.len() < BATCH {
                next = waiting.try_recv().ok();
            }
        }
        if !batch.is_empty() {
            commit(conn, &mut batch, counters);
        }
    }
    Ending {
        closed,
        _queue: waiting,
    }
}

/// Runs one batch in one transaction and answers every job of it.
fn commit(conn: &Connection, batch: &mut Vec<Box<dyn Job>>, counters: &Counters) {
    counters.jobs.fetch_add(batch.len() as u64, Ordering::Relaxed);
    let outcome = transact(conn, batch);
    match &outcome {
        Ok(()) => counters.commits.fetch_add(1, Ordering::Relaxed),
        Err(reason) => {
            tracing::error!(%reason, jobs = batch.len(), "a batch of writes was undone");
            counters.failed_commits.fetch_add(1, Ordering::Relaxed)
        }
    };
    for job in batch.drain(..) {
        job.answer(outcome.clone().map_err(|reason| StoreError::Unavailable { reason }));
    }
}

fn transact(conn: &Connection, batch: &mut [Box<dyn Job>]) -> Result<(), String> {
    let step = |sql: &str| {
        conn.prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map_err(|e| e.to_string())
    };
    let abandon = |reason: String| {
        // After some failures SQLite has undone the transaction by itself.
        if !conn.is_autocommit() {
            let _ = step("ROLLBACK");
        }
        Err(reason)
    };
    if let Err(reason) = step("BEGIN IMMEDIATE") {
        return abandon(reason);
    }
    for job in batch.iter_mut() {
        if let Err(reason) = step("SAVEPOINT job") {
            return abandon(reason);
        }
        let ended = match job.run(conn) {
            Verdict::Keep => step("RELEASE job"),
            Verdict::Undo => step("ROLLBACK TO job").and_then(|_| step("RELEASE job")),
            Verdict::Abandon(reason) => Err(reason),
        };
        if let Err(reason) = ended {
            return abandon(reason);
        }
    }
    match step("COMMIT") {
        Ok(_) => Ok(()),
        Err(reason) => abandon(reason),
    }
}
