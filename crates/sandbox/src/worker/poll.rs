//! Claims work: polls, acknowledges, and hands each item to its own task.
//!
//! A long poll that the server held is followed by the next at once; one that it answered early is followed after
//! a growing wait, so that neither latency nor load suffers. Failures that may pass are waited out; a refusal that
//! will not pass ends the worker. Items that fail one after the other are followed by growing waits: the server may
//! hand them out again at once.

use std::sync::Arc;
use std::time::Duration;

use outwork_client::{Client, ClientError, Credential, PollParams, PolledWork, Work, WorkItemData};
use rand::distr::{Alphanumeric, SampleString};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff;
use super::command::{self, CommandContext, EXIT_LEASE_LOST};
use super::error::WorkerError;
use super::item::{ItemEnd, ItemIds, Service, force_stop};
use super::options::{Queue, WorkerOptions};
use super::stop::Stop;

/// The longest that the contract lets a server hold a poll.
const BLOCK_MS: u32 = 999;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What an idle worker says again, so that its log shows that it lives.
const IDLE_REPORT: Duration = Duration::from_secs(300);

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Items that were claimed.
    pub claimed: u64,
    /// Items that were served to their end.
    pub served: u64,
    /// Items whose lease was lost.
    pub lost: u64,
    /// Items that could not be served.
    pub failed: u64,
    /// Items that held nothing to run.
    pub empty: u64,
}

struct Claimer {
    options: WorkerOptions,
    /// Sent with polls and acknowledgements, so that the server knows a repeated one.
    worker_id: String,
    client: Client,
    service: Option<Service>,
    drain: CancellationToken,
}

pub(crate) async fn run(
    options: WorkerOptions,
    client: Client,
    service: Option<Service>,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    // Items end with the worker, also when it ends by itself.
    let drain = stop.drain.child_token();
    let claimer = Arc::new(Claimer {
        worker_id: options.worker_id.clone().unwrap_or_else(worker_id),
        options,
        client,
        service,
        drain: drain.clone(),
    });
    let mut items = Items::default();
    let ended = tokio::select! {
        biased;
        () = stop.now.cancelled() => return Ok(items.summary),
        ended = claimer.poll_all(&mut items) => ended,
    };
    if let Err(error) = &ended {
        tracing::error!(%error, "the worker ends; letting go of what runs");
        drain.cancel();
    }
    tokio::select! {
        biased;
        () = stop.now.cancelled() => {}
        () = items.all() => {}
    }
    // What is left is dropped here, and its sandboxes with it.
    tracing::info!(summary = ?items.summary, "worker ended");
    ended.map(|()| items.summary)
}

#[derive(Default)]
struct Items {
    running: JoinSet<ItemEnd>,
    summary: Summary,
    /// How many failed since one was served.
    failures: u32,
    /// No poll before.
    not_before: Option<Instant>,
}

impl Items {
    fn take(&mut self, end: Result<ItemEnd, JoinError>) {
        match end {
            Ok(ItemEnd::Served) => {
                self.summary.served += 1;
                self.succeeded();
            }
            Ok(ItemEnd::NothingToRun) => {
                self.summary.empty += 1;
                self.succeeded();
            }
            // Another worker serves it: neither a failure nor a success of this one.
            Ok(ItemEnd::LeaseLost) => self.summary.lost += 1,
            Ok(ItemEnd::NotTaken { again: false }) => self.summary.failed += 1,
            Ok(ItemEnd::Failed | ItemEnd::NotTaken { again: true }) => self.failed(),
            Err(error) => {
                tracing::error!(%error, "serving an item ended abnormally; its lease will lapse");
                self.failed();
            }
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    fn failed(&mut self) {
        self.summary.failed += 1;
        self.failures = self.failures.saturating_add(1);
        let (failures, wait) = (self.failures, self.wait());
        self.not_before = Some(Instant::now() + wait);
        tracing::warn!(failures, ?wait, "an item failed; waiting before the next poll");
    }

    /// How long to leave the queue alone after the last failure.
    fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            failures => backoff::doubling(Duration::from_secs(2), failures, LONGEST_WAIT),
        }
    }

    fn take_ended(&mut self) {
        while let Some(end) = self.running.try_join_next() {
            self.take(end);
        }
    }

    async fn all(&mut self) {
        while let Some(end) = self.running.join_next().await {
            self.take(end);
        }
    }
}

impl Claimer {
    /// Polls until told to stop; `Ok` also when the queue is empty and the worker is to end then.
    async fn poll_all(self: &Arc<Self>, items: &mut Items) -> Result<(), WorkerError> {
        let params = PollParams {
            block_ms: (!self.options.drain).then_some(BLOCK_MS),
            reclaim_older_than_ms: self.options.reclaim_older_than_ms,
            worker_id: Some(self.worker_id.clone()),
        };
        tracing::info!(queue = ?self.options.queue, worker = params.worker_id, "polling for work");
        let work = self.queue();
        let mut failures = 0;
        let mut early = 0;
        let mut idle_said = Instant::now();
        loop {
            items.take_ended();
            while items.running.len() >= self.options.concurrency {
                tokio::select! {
                    () = self.drain.cancelled() => return Ok(()),
                    Some(end) = items.running.join_next() => items.take(end),
                }
            }
            if let Some(not_before) = items.not_before.take() {
                tokio::select! {
                    () = self.drain.cancelled() => return Ok(()),
                    () = sleep_until(not_before) => {}
                }
            }
            let asked = Instant::now();
            let polled = tokio::select! {
                biased;
                // An item that is on its way now is offered again later.
                () = self.drain.cancelled() => return Ok(()),
                polled = work.poll(&params) => polled,
            };
            let wait = match polled {
                Ok(Some(item)) => {
                    failures = 0;
                    early = 0;
                    idle_said = Instant::now();
                    self.claimed(item, items);
                    continue;
                }
                Ok(None) if self.options.drain => {
                    tracing::info!("the queue is empty");
                    return Ok(());
                }
                Ok(None) => {
                    failures = 0;
                    if idle_said.elapsed() >= IDLE_REPORT {
                        idle_said = Instant::now();
                        tracing::info!(serving = items.running.len(), "still polling; the queue is empty");
                    }
                    if asked.elapsed() * 2 >= Duration::from_millis(BLOCK_MS.into()) {
                        early = 0;
                        continue;
                    }
                    early += 1;
                    let wait = backoff::doubling(Duration::from_millis(25), early, Duration::from_secs(3));
                    backoff::half_to_full(wait)
                }
                Err(error) if error.is_permanent() => return Err(WorkerError::PollRefused(error)),
                Err(error) => {
                    failures += 1;
                    let wait = failure_wait(failures, &error);
                    tracing::warn!(failures, ?wait, %error, "poll failed; trying again");
                    wait
                }
            };
            if self.pause(wait).await.is_break() {
                return Ok(());
            }
        }
    }

    async fn pause(&self, wait: Duration) -> std::ops::ControlFlow<()> {
        tokio::select! {
            () = self.drain.cancelled() => std::ops::ControlFlow::Break(()),
            () = sleep(wait) => std::ops::ControlFlow::Continue(()),
        }
    }

    fn claimed(self: &Arc<Self>, item: PolledWork, items: &mut Items) {
        items.summary.claimed += 1;
        tracing::info!(work = item.id, environment = item.environment_id, data = ?item.data, "claimed");
        let claimer = Arc::clone(self);
        items.running.spawn(async move { claimer.serve(item).await });
    }

    async fn serve(&self, item: PolledWork) -> ItemEnd {
        let own = self.item_client(&item);
        let client = own.as_ref().unwrap_or(&self.client);
        if let Err(error) = self.queue().ack(&item.id, Some(&self.worker_id)).await {
            let again = !error.is_permanent();
            tracing::error!(work = item.id, again, %error, "item could not be acknowledged; not served");
            if !again {
                force_stop(client, &item.environment_id, &item.id).await;
            }
            return ItemEnd::NotTaken { again };
        }
        let session = match &item.data {
            WorkItemData::Session { id } => id.clone(),
            WorkItemData::Other { kind } => {
                tracing::debug!(work = item.id, kind, "nothing to run for this item");
                force_stop(client, &item.environment_id, &item.id).await;
                return ItemEnd::NothingToRun;
            }
        };
        match (&self.options.on_work, &self.service, own) {
            (Some(command), ..) => self.serve_by_command(command, &item, &session).await,
            (None, Some(service), Some(client)) => {
                let ids = ItemIds {
                    work: item.id,
                    environment: item.environment_id,
                    session,
                };
                service.serve(client, &ids, self.drain.clone()).await
            }
            (None, ..) => {
                force_stop(&self.client, &item.environment_id, &item.id).await;
                ItemEnd::Failed
            }
        }
    }

    fn queue(&self) -> Work<'_> {
        match &self.options.queue {
            Queue::Environment(id) => self.client.work(id),
            Queue::Cloud => self.client.cloud_work(),
        }
    }

    /// The client for the item's own calls: with the token in its secret, else with the environment key.
    fn item_client(&self, item: &PolledWork) -> Option<Client> {
        match item.sessions_token() {
            Some(token) => match self.client.with_credential(&Credential::Bearer(token)) {
                Ok(client) => Some(client),
                Err(error) => {
                    tracing::error!(work = item.id, %error, "the item's sessions token cannot be used");
                    None
                }
            },
            None if self.options.queue == Queue::Cloud => {
                tracing::error!(
                    work = item.id,
                    "the item has no sessions token; a worker key alone cannot serve it"
                );
                None
            }
            None => {
                if item.has_secret() {
                    tracing::warn!(
                        work = item.id,
                        "the item's secret holds no sessions token; using the environment key"
                    );
                }
                Some(self.client.clone())
            }
        }
    }

    async fn serve_by_command(&self, command: &str, item: &PolledWork, session: &str) -> ItemEnd {
        let context = CommandContext {
            command,
            base_url: self.client.base_url(),
            // The worker key is for the queue of every cloud environment: an item has a token of its own.
            key: match self.options.queue {
                Queue::Environment(_) => Some(&self.options.key),
                Queue::Cloud => None,
            },
            session_id: session,
        };
        let status = command::serve(context, item, &self.drain).await;
        if let Ok(status) = &status
            && status.code() == Some(EXIT_LEASE_LOST)
        {
            tracing::warn!(
                work = item.id,
                "the on-work command lost the lease; let go without stopping the item"
            );
            return ItemEnd::LeaseLost;
        }
        let client = self.item_client(item).unwrap_or_else(|| self.client.clone());
        force_stop(&client, &item.environment_id, &item.id).await;
        match status {
            Ok(status) if status.success() => ItemEnd::Served,
            Ok(status) => {
                tracing::error!(work = item.id, %status, "the on-work command failed");
                ItemEnd::Failed
            }
            Err(error) => {
                tracing::error!(work = item.id, %error, "the on-work command could not be run");
                ItemEnd::Failed
            }
        }
    }
}

fn failure_wait(failures: u32, error: &ClientError) -> Duration {
    let asked = error.api().and_then(|e| e.retry_after).unwrap_or_default();
    let wait = backoff::doubling(Duration::from_secs(2), failures, LONGEST_WAIT);
    wait.max(asked).min(LONGEST_WAIT) + backoff::jitter(Duration::ZERO, Duration::from_secs(1))
}

/// Unique for each process, and still readable.
pub(crate) fn worker_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!("{host}-{}", Alphanumeric.sample_string(&mut rand::rng(), 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_fail_one_after_the_other_are_followed_by_growing_waits() {
        let mut items = Items::default();
        let waits = |items: &mut Items, end| {
            items.take(Ok(end));
            items.wait().as_secs()
        };
        let failed = [(); 7].map(|()| waits(&mut items, ItemEnd::Failed));
        assert_eq!(failed, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(&mut items, ItemEnd::NotTaken { again: true }), 60);
        assert_eq!(waits(&mut items, ItemEnd::Served), 0);
        assert_eq!(waits(&mut items, ItemEnd::Failed), 2, "counted afresh");
        assert_eq!(waits(&mut items, ItemEnd::LeaseLost), 2, "neither adds nor forgives");
        assert_eq!(waits(&mut items, ItemEnd::Failed), 4);
        assert_eq!(
            (items.summary.failed, items.summary.served, items.summary.lost),
            (10, 1, 1)
        );
    }
}
