//! The thread that carries lines to one target.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use outwork_wire::Time;

use super::http::shown;
use super::sink::{Failure, Sink};
use super::tail::{Item, Tail};
use super::{Options, Target, cursor, ledger_of};
use crate::Error;
use crate::entry::Receipt;
use crate::kind::{Decision, Kind};
use crate::ledger::Ledger;
use crate::record::Record;

/// How long to wait for something new before looking around.
const IDLE: Duration = Duration::from_secs(1);

/// Is told of every change.
pub type Listener = Arc<dyn Fn(&Status) + Send + Sync>;

/// Where a new export begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first line that is left.
    Beginning,
    /// With what comes from now on.
    Now,
}

/// How an export is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The last line that the target has taken.
    pub delivered: Receipt,
    /// How many durable lines it has not: the lag.
    pub lag: u64,
    /// Since when there are some.
    pub behind_since: Option<Time>,
    /// Attempts that failed since the last that did not.
    pub failures: u64,
    /// Why the last attempt failed. No payload and no secret is in it.
    pub fault: Option<String>,
    /// The line that the target refuses, which holds everything up. Change the target, or skip the line.
    pub refused: Option<u64>,
    /// How many lines were removed from the ledger by force before they could be delivered, since this began.
    pub lost: u64,
}

struct Shared {
    status: Mutex<Status>,
    stop: AtomicBool,
    /// The last line to skip, as somebody ordered.
    skip: Mutex<Option<u64>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// An export at work. It ends with [`stop`](Exporter::stop), or when it is dropped; its place stays.
pub struct Exporter {
    ledger: Ledger,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Begins to carry what this ledger keeps to a target, where an export of this name ended before. One at a time
    /// for a name: that is up to the caller.
    ///
    /// # Errors
    /// [`Error::Export`] if the target cannot work as it is described, or the place is not one of this ledger.
    pub fn start_export(&self, options: Options) -> Result<Exporter, Error> {
        options.check()?;
        let failed = |problem: String| Error::Export {
            name: options.name.clone(),
            problem,
        };
        let status = self.status();
        let ledger = ledger_of(self.dir(), status.key)?;
        let sink = Sink::new(&options.target, ledger, options.timeout).map_err(&failed)?;
        let at = match cursor::read(self.dir(), &options.name)? {
            Some(at) => at,
            None => {
                let at = match options.start {
                    Start::Beginning => Receipt::NONE,
                    Start::Now => status.last,
                };
                cursor::write(self.dir(), &options.name, at)?;
                let begun = Record::new(Kind::Export, self.now())
                    .destination(destination(&options.target))
                    .decided(Decision::Allowed, options.name.clone())
                    .reason(format!("the export begins after line {}", at.sequence));
                self.append_later(begun).wait()?;
                at
            }
        };
        if at.sequence > status.last.sequence {
            return Err(failed(format!(
                "it had delivered up to line {}, and this ledger ends with {}: it is not the one that was exported",
                at.sequence, status.last.sequence
            )));
        }
        let shared = Arc::new(Shared {
            status: Mutex::new(Status {
                name: options.name.clone(),
                delivered: at,
                lag: status.last.sequence - at.sequence,
                behind_since: None,
                failures: 0,
                fault: None,
                refused: None,
                lost: 0,
            }),
            stop: AtomicBool::new(false),
            skip: Mutex::new(None),
        });
        let mut runner = Runner {
            tail: Tail::after(self.dir(), at),
            confirmed: at,
            batch: options.batch_lines,
            ledger: self.clone(),
            shared: shared.clone(),
            sink,
            options,
        };
        let thread = thread::Builder::new()
            .name("ledger-export".into())
            .spawn(move || runner.run())
            .map_err(Error::io("start a thread for", self.dir()))?;
        Ok(Exporter {
            ledger: self.clone(),
            shared,
            thread: Some(thread),
        })
    }

    /// Ends an export for good: its place is removed, retention does not wait for it any more, and the ledger tells
    /// who wanted it. Stop it first.
    ///
    /// # Errors
    /// [`Error::Export`] if there is none of this name; as [`append`](Ledger::append).
    pub fn forget_export(&self, name: &str, actor: &str, reason: &str) -> Result<(), Error> {
        let Some(at) = cursor::read(self.dir(), name)? else {
            return Err(Error::Export {
                name: name.into(),
                problem: "there is none of this name".into(),
            });
        };
        let told = Record::new(Kind::Export, self.now())
            .destination(name)
            .decided(Decision::Allowed, name)
            .actor(actor)
            .reason(format!("the export ends after line {}: {reason}", at.sequence));
        self.append(told).wait()?;
        cursor::forget(self.dir(), name)
    }
}

fn destination(target: &Target) -> String {
    match target {
        Target::File { path, .. } => path.display().to_string(),
        Target::Syslog(syslog) => syslog.address.clone(),
        Target::Otlp(endpoint) | Target::Http { endpoint, .. } => shown(&endpoint.url),
    }
}

impl Exporter {
    /// How it is doing.
    pub fn status(&self) -> Status {
        let mut status = self.shared.lock().clone();
        let last = self.ledger.status().last.sequence;
        status.lag = last.saturating_sub(status.delivered.sequence);
        status
    }

    /// Moves past the lines up to `sequence`, which the target then never gets from this export. The ledger tells who
    /// wanted it and why before it is done.
    ///
    /// # Errors
    /// [`Error::Export`] if the line is not there or was delivered; as [`append`](Ledger::append).
    pub fn skip(&self, sequence: u64, actor: &str, reason: &str) -> Result<(), Error> {
        let status = self.status();
        let first = status.delivered.sequence + 1;
        if sequence < first || sequence > self.ledger.status().last.sequence {
            return Err(Error::Export {
                name: status.name,
                problem: format!("line {sequence} is not one that waits: the next one is {first}"),
            });
        }
        let told = Record::new(Kind::Export, self.ledger.now())
            .destination(status.name.clone())
            .decided(Decision::Denied, status.name)
            .actor(actor)
            .reason(format!("the lines {first} to {sequence} are skipped: {reason}"));
        self.ledger.append(told).wait()?;
        *self.shared.skip.lock().unwrap_or_else(PoisonError::into_inner) = Some(sequence);
        self.ledger.inner().progress.ring();
        Ok(())
    }

    /// Ends it. What is being sent is finished or given up within the timeout.
    pub fn stop(mut self) -> Status {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.ledger.inner().progress.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("an export of the ledger ended with a panic");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.end();
    }
}

struct Runner {
    ledger: Ledger,
    options: Options,
    shared: Arc<Shared>,
    sink: Sink,
    tail: Tail,
    /// Up to here the target has confirmed.
    confirmed: Receipt,
    /// How many lines go at once; fewer while the line that is refused is looked for.
    batch: usize,
}

impl Runner {
    fn run(&mut self) {
        let mut wait = self.options.retry;
        while !self.shared.is_stopping() {
            match self.step() {
                Ok(true) => wait = self.options.retry,
                Ok(false) => {
                    let shared = self.shared.clone();
                    let stop = || shared.is_stopping();
                    self.ledger
                        .inner()
                        .progress
                        .wait_past(self.tail.at().sequence, IDLE, stop);
                }
                Err(failure) => {
                    self.failed(&failure);
                    self.pause(wait);
                    wait = (wait * 2).min(self.options.max_retry);
                }
            }
        }
        if self.tail.at() != self.confirmed {
            match self.sink.confirm() {
                Ok(()) => self.taken(self.tail.at()),
                Err(failure) => self.failed(&failure),
            }
        }
    }

    /// Waits out a failure, unless somebody ends it or orders a skip.
    fn pause(&self, time: Duration) {
        let shared = self.shared.clone();
        let enough = || shared.is_stopping() || shared.skip.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.ledger.inner().progress.wait_past(u64::MAX, time, enough);
    }

    /// One batch; `false` if there is nothing to do.
    fn step(&mut self) -> Result<bool, Failure> {
        self.skip()?;
        let limit = self.ledger.status().last.sequence;
        let read = self.tail.read(limit, self.batch, self.options.batch_bytes);
        let items = match read.map_err(|error| Failure::away(error.to_string()))? {
            Ok(items) => items,
            Err(gone) => {
                let lost = gone.through.sequence - self.tail.at().sequence;
                tracing::error!(export = %self.options.name, lost, "lines were removed before they were delivered");
                self.shared.lock().lost += lost;
                self.tail.seek(gone.through);
                self.taken(gone.through);
                return Ok(true);
            }
        };
        let Some(last) = items.last().map(|item| item.receipt) else {
            if self.tail.at() != self.confirmed {
                self.sink.confirm()?;
                self.taken(self.tail.at());
            }
            return Ok(false);
        };
        self.send(&items)?;
        if self.batch < self.options.batch_lines {
            self.batch = (self.batch * 2).min(self.options.batch_lines);
        }
        debug_assert_eq!(last, self.tail.at());
        Ok(true)
    }

    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        match self.sink.send(items) {
            Ok(true) => {
                self.taken(self.tail.at());
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(failure) => {
                if failure.refused {
                    if let [only] = items {
                        self.shared.lock().refused = Some(only.receipt.sequence);
                    } else {
                        // One of them is not taken: halves find it, and the others get through.
                        self.batch = items.len().div_ceil(2);
                    }
                }
                Err(failure)
            }
        }
    }

    /// Does what somebody ordered.
    fn skip(&mut self) -> Result<(), Failure> {
        let order = self.shared.skip.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(order) = order.filter(|order| *order > self.confirmed.sequence) else {
            return Ok(());
        };
        self.sink.reset();
        self.tail.seek(self.confirmed);
        while self.tail.at().sequence < order {
            let read = self
                .tail
                .read(order, self.options.batch_lines, self.options.batch_bytes);
            match read.map_err(|error| Failure::away(error.to_string()))? {
                Ok(items) if items.is_empty() => break,
                Ok(_) => {}
                Err(gone) => self.tail.seek(gone.through),
            }
        }
        self.taken(self.tail.at());
        Ok(())
    }

    /// The target has everything up to `at`.
    fn taken(&mut self, at: Receipt) {
        if at != self.confirmed {
            if let Err(error) = cursor::write(self.ledger.dir(), &self.options.name, at) {
                // What was delivered is then delivered again after a restart.
                tracing::warn!(%error, "the place of an export is not up to date");
            }
            self.confirmed = at;
        }
        let last = self.ledger.status().last.sequence;
        let now = self.ledger.now();
        self.change(|status| {
            status.delivered = at;
            status.lag = last.saturating_sub(at.sequence);
            status.behind_since = (status.lag > 0).then(|| status.behind_since.unwrap_or(now));
            if status.fault.take().is_some() {
                tracing::info!(export = %status.name, "the export goes on");
            }
            status.failures = 0;
            status.refused = None;
        });
    }

    fn failed(&mut self, failure: &Failure) {
        self.sink.reset();
        self.tail.seek(self.confirmed);
        let last = self.ledger.status().last.sequence;
        let now = self.ledger.now();
        self.change(|status| {
            status.lag = last.saturating_sub(status.delivered.sequence);
            status.behind_since = Some(status.behind_since.unwrap_or(now));
            status.failures += 1;
            if status.fault.as_ref() != Some(&failure.what) {
                let (name, lag) = (&status.name, status.lag);
                tracing::warn!(export = %name, lag, fault = %failure.what, "the export lags behind");
            }
            status.fault = Some(failure.what.clone());
        });
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let status = {
            let mut status = self.shared.lock();
            change(&mut status);
            status.clone()
        };
        if let Some(listener) = &self.options.listener {
            listener(&status);
        }
    }
}
