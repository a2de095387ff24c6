//! Serves one session: runs its calls one at a time and answers each of them exactly once.
//!
//! One task holds everything; which call runs is decided in [`super::calls`]. Nothing runs before the first
//! heartbeat was accepted, and nothing is sent after the lease is lost. A result is sent in the moment it is there and
//! those of earlier calls are answered, and the next call starts while it is on its way.

use std::future::pending;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use outwork_client::{BoundaryStop, Client, ClientError, ObservedEvent};
use outwork_ledger::Scope;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempt, Attempts, Begin};
use super::bench::{Bench, INTERRUPTED, error_result};
use super::boundary::Boundary;
use super::calls::{Call, Calls, Effect, leaves_idle_alone};
use super::feed::{Feed, feed};
use super::hand::Provider;
use super::lease::{LeaseEnd, LeaseState};
use super::outbox::Outbox;
use super::post::Posted;
use super::texts;

/// How long a stopped call may take to end, and its answer to be sent, when the worker lets go of a session.
const LETTING_GO: Duration = Duration::from_secs(10);
/// How long a stopped call whose result is not wanted may take to end, before its sandbox is killed under it.
const STOPPING: Duration = Duration::from_secs(2);
/// How long the results that a session leaves behind may take to be collected and sent.
const COLLECTING: Duration = Duration::from_secs(15);
const SHUTTING_DOWN: &str =
    "The worker is shutting down; this call was not run. Another worker can run it when it is made again.";
/// After how long it is looked again whether a call that another item runs has ended.
const ELSEWHERE: Duration = Duration::from_millis(50);
const UNKNOWN_OUTCOME: &str = "This call was begun before by the same worker and did not come to a result, so its outcome is not known. \
                               Look at what it changed before it is made again.";

/// What serving a session takes.
pub(crate) struct SessionOptions {
    pub client: Client,
    pub session_id: String,
    pub workspace: PathBuf,
    pub boundary: Arc<Boundary>,
    pub provider: Arc<dyn Provider>,
    pub max_idle: Duration,
    pub call_timeout: Duration,
    pub attempts: Arc<Attempts>,
    pub lease: watch::Receiver<LeaseState>,
    pub drain: CancellationToken,
}

/// Why serving ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The session is over.
    Over,
    /// Its turn ended and nothing came for `max_idle`.
    Idle,
    /// The worker shuts down.
    Drained,
    /// The server wants the session stopped.
    Stopped(BoundaryStop),
    /// The lease ended.
    Lease(LeaseEnd),
    /// The server refuses to show the session, or takes no answer to one of its calls.
    Refused(ClientError),
}

impl SessionEnd {
    /// For the record of it.
    fn reason(&self) -> &'static str {
        match self {
            Self::Over => "the session is over",
            Self::Idle => "it rested",
            Self::Drained => "the worker ends",
            Self::Stopped(BoundaryStop::Graceful) | Self::Lease(LeaseEnd::Stopping) => "the server wanted it stopped",
            Self::Stopped(BoundaryStop::Forced) | Self::Lease(LeaseEnd::Stopped) => "the server stopped it by force",
            Self::Lease(_) => "the lease was lost",
            Self::Refused(_) => "the server refuses it",
        }
    }
}

/// Serves the session until there is a reason to end. Its sandbox is gone when this returns.
pub(crate) async fn serve(options: SessionOptions) -> SessionEnd {
    let feed = feed(options.client.clone(), options.session_id.clone());
    let mut feed = pin!(feed);
    let mut lease = options.lease.clone();
    let mut stops = options.boundary.stops();
    let mut runner = Runner::new(options);
    let end = loop {
        let state = *lease.borrow_and_update();
        if let Some(end) = state.end {
            break SessionEnd::Lease(end);
        }
        if state.held {
            runner.start_next();
            runner.collect();
        }
        let deadline = runner.idle_deadline();
        tokio::select! {
            biased;
            changed = lease.changed() => {
                if changed.is_err() && lease.borrow().end.is_none() {
                    // The heartbeat task is gone without a word: nobody renews the lease.
                    break SessionEnd::Lease(LeaseEnd::AssumedLost);
                }
            }
            stop = stopped(&mut stops) => break SessionEnd::Stopped(stop),
            () = runner.options.drain.cancelled() => break SessionEnd::Drained,
            (bench, result) = ended(&mut runner.running) => runner.call_ended(bench, result),
            (call_id, posted) = runner.outbox.ended() => {
                if let Err(error) = runner.post_ended(&call_id, posted) {
                    break SessionEnd::Refused(error);
                }
            }
            item = feed.next() => match item {
                Some(Feed::History(history)) => {
                    let turn_ended = history.turn_ended;
                    let effects = runner.calls.reconcile(history);
                    runner.note_turn(turn_ended);
                    runner.note_answers();
                    runner.outbox.try_now();
                    if runner.apply(effects) {
                        break SessionEnd::Over;
                    }
                }
                Some(Feed::Event(event)) => {
                    if runner.observe(&event) {
                        break SessionEnd::Over;
                    }
                }
                Some(Feed::Refused(error)) => break SessionEnd::Refused(error),
                Some(Feed::Over) | None => break SessionEnd::Over,
            },
            () = at(runner.look_again) => runner.look_again = None,
            () = collected(&mut runner.collecting) => runner.collecting = None,
            () = at(deadline) => break SessionEnd::Idle,
        }
    };
    runner.let_go(&end).await;
    end
}

struct Runner {
    options: SessionOptions,
    calls: Calls,
    /// `None` while a call has it.
    bench: Option<Bench>,
    running: Option<Running>,
    outbox: Outbox,
    turn_ended: Option<Instant>,
    /// When to try again to begin a call that runs elsewhere.
    look_again: Option<Instant>,
    busy_until: Instant,
    /// Results are collected when a turn has ended.
    collecting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    to_collect: bool,
}

struct Running {
    call_id: String,
    _attempt: Attempt,
    thread: Option<String>,
    tool: String,
    started: Instant,
    cancel: CancellationToken,
    future: Pin<Box<dyn Future<Output = (Bench, Value)> + Send>>,
}

impl Runner {
    fn new(options: SessionOptions) -> Self {
        let bench = Bench::launch(
            Arc::clone(&options.provider),
            options.workspace.clone(),
            Arc::clone(&options.boundary),
        );
        let outbox = Outbox::new(options.client.clone(), options.session_id.clone());
        Self {
            options,
            calls: Calls::default(),
            bench: Some(bench),
            running: None,
            outbox,
            turn_ended: None,
            look_again: None,
            busy_until: Instant::now(),
            collecting: None,
            to_collect: false,
        }
    }

    /// Collects results once a turn has ended and nothing runs. Then the lease is held, so they may be sent.
    fn collect(&mut self) {
        if !self.to_collect || self.collecting.is_some() || self.calls.is_busy() || !self.outbox.is_empty() {
            return;
        }
        let boundary = Arc::clone(&self.options.boundary);
        // It is known once the sandbox was prepared.
        if boundary.has_outputs() {
            self.to_collect = false;
            self.collecting = Some(Box::pin(async move { boundary.outputs.pass(&boundary).await }));
        }
    }

    /// Starts the next call if none runs. Calls of an earlier item that this process began are answered, not run.
    fn start_next(&mut self) {
        while self.bench.is_some()
            && let Some(call) = self.calls.start_next()
        {
            match self.options.attempts.begin(&self.options.session_id, &call.id) {
                Begin::First(attempt) => return self.start(call, attempt),
                Begin::Elsewhere => {
                    tracing::debug!(call = call.id, "call runs for another item of this session");
                    self.calls.put_back(call);
                    self.look_again = Some(Instant::now() + ELSEWHERE);
                    return;
                }
                Begin::Again(result) => {
                    tracing::info!(call = call.id, "call was begun before; not run again");
                    self.calls.finish(&call.id);
                    let result = result.unwrap_or_else(|| Arc::new(error_result(&call.id, UNKNOWN_OUTCOME)));
                    self.post(&call.id, call.thread.as_deref(), result);
                }
            }
        }
    }

    fn start(&mut self, call: Call, attempt: Attempt) {
        let Some(bench) = self.bench.take() else { return };
        let SessionOptions {
            client,
            session_id,
            workspace,
            ..
        } = &self.options;
        let texts = self
            .calls
            .may_have_texts()
            .then(|| (client.clone(), session_id.clone(), workspace.clone()));
        let timeout = self.options.call_timeout;
        let cancel = CancellationToken::new();
        tracing::info!(call = call.id, tool = call.name, "running");
        self.outbox.take_place(&call.id, call.thread.as_deref());
        self.running = Some(Running {
            call_id: call.id.clone(),
            thread: call.thread.clone(),
            _attempt: attempt,
            tool: call.name.clone(),
            started: Instant::now(),
            cancel: cancel.clone(),
            future: Box::pin(async move {
                if let Some((client, session, workspace)) = texts {
                    tokio::select! {
                        () = texts::bring(&client, &session, &workspace) => {}
                        () = cancel.cancelled() => {}
                    }
                }
                bench.run(call, timeout, cancel).await
            }),
        });
    }

    fn call_ended(&mut self, bench: Bench, result: Value) {
        self.bench = Some(bench);
        let Some(running) = self.running.take() else { return };
        let wanted = self.calls.finish(&running.call_id);
        if wanted {
            self.post(&running.call_id, running.thread.as_deref(), Arc::new(result));
        } else {
            self.outbox.leave_place(&running.call_id);
            self.options.attempts.settle(&self.options.session_id, &running.call_id);
        }
        self.busy_until = Instant::now();
        let took = running.started.elapsed();
        tracing::info!(call = running.call_id, tool = running.tool, ?took, wanted, "ran");
    }

    fn post(&mut self, call_id: &str, thread: Option<&str>, event: Arc<Value>) {
        if self.calls.is_settled(call_id) {
            self.outbox.leave_place(call_id);
            return self.settled(call_id);
        }
        self.options
            .attempts
            .keep(&self.options.session_id, call_id, Arc::clone(&event));
        self.outbox.put(call_id, thread, event);
    }

    /// The error if no answer to the call is taken. It stays among the attempts then: it has run, and is not run again.
    fn post_ended(&mut self, call_id: &str, posted: Posted) -> Result<(), ClientError> {
        self.busy_until = Instant::now();
        match posted {
            Posted::Sent => tracing::debug!(call = call_id, "result sent"),
            Posted::Moot => tracing::info!(call = call_id, "call is answered already; result dropped"),
            Posted::Refused(error) => {
                tracing::error!(call = call_id, %error, "the server takes no answer to the call; it stays without one");
                return Err(error);
            }
        }
        self.settled(call_id);
        Ok(())
    }

    fn settled(&mut self, call_id: &str) {
        self.calls.settle(call_id);
        self.options.attempts.settle(&self.options.session_id, call_id);
    }

    /// After a history was read: what has an answer is done with.
    fn note_answers(&mut self) {
        let calls = &self.calls;
        self.outbox.note_answers(|call_id| calls.is_settled(call_id));
        self.options
            .attempts
            .retain(&self.options.session_id, |call_id| !calls.is_settled(call_id));
    }

    fn observe(&mut self, event: &ObservedEvent) -> bool {
        if !leaves_idle_alone(event) {
            self.note_turn(event.ends_turn());
        }
        let effects = self.calls.observe(event);
        if event.is_result()
            && let Some(call_id) = event.call_id()
        {
            let on_its_way = self.outbox.note_answer(call_id);
            if !on_its_way && self.running.as_ref().is_none_or(|r| r.call_id != call_id) {
                self.options.attempts.settle(&self.options.session_id, call_id);
            }
        }
        self.apply(effects)
    }

    /// Carries out what an event asks. True if the session is over.
    fn apply(&mut self, effects: Vec<Effect>) -> bool {
        let mut over = false;
        for effect in effects {
            match effect {
                Effect::DropRunning | Effect::InterruptRunning => self.cancel_running(),
                Effect::AnswerInterrupted(call) => {
                    let result = Arc::new(error_result(&call.id, INTERRUPTED));
                    self.post(&call.id, call.thread.as_deref(), result);
                }
                Effect::SessionOver => over = true,
            }
        }
        over
    }

    fn cancel_running(&self) {
        if let Some(running) = &self.running
            && !running.cancel.is_cancelled()
        {
            tracing::info!(call = running.call_id, tool = running.tool, "stopping the call");
            running.cancel.cancel();
        }
    }

    fn note_turn(&mut self, ended: bool) {
        self.turn_ended = ended.then(Instant::now);
        self.to_collect = ended;
    }

    /// When to end for want of work: never while a call or a result is open.
    fn idle_deadline(&self) -> Option<Instant> {
        if self.calls.is_busy() || !self.outbox.is_empty() || self.collecting.is_some() {
            return None;
        }
        Some(self.turn_ended?.max(self.busy_until) + self.options.max_idle)
    }

    /// Stops what runs, answers what is ours to answer, and ends the sandbox.
    async fn let_go(mut self, end: &SessionEnd) {
        let boundary = Arc::clone(&self.options.boundary);
        let forced = matches!(
            end,
            SessionEnd::Stopped(BoundaryStop::Forced) | SessionEnd::Lease(LeaseEnd::Stopped)
        );
        let graceful = matches!(
            end,
            SessionEnd::Stopped(BoundaryStop::Graceful) | SessionEnd::Lease(LeaseEnd::Stopping)
        );
        let call = self.running.as_ref().map(|running| running.call_id.clone());
        if forced {
            boundary.kill().await;
        }
        self.cancel_running();
        if forced || graceful {
            let ended = call.into_iter().chain([self.options.session_id.clone()]).collect();
            let how = if forced { "stopped by force" } else { "to be stopped" };
            let reason = format!("the server says that the session's work is {how}");
            boundary
                .journal
                .stopped(Scope::Session, forced, "the server", &reason, ended)
                .await;
        }
        let answers = match end {
            SessionEnd::Drained => true,
            SessionEnd::Stopped(_) | SessionEnd::Lease(_) => graceful,
            SessionEnd::Idle | SessionEnd::Over | SessionEnd::Refused(_) => false,
        };
        if answers && self.options.lease.borrow().held {
            let last = timeout(LETTING_GO, self.answer_all()).await;
            if last.is_err() {
                tracing::error!(
                    session = self.options.session_id,
                    "calls could not be stopped and answered within {LETTING_GO:?}; they stay without an answer"
                );
            }
        }
        if let Some(running) = self.running.take() {
            // Its result is not wanted any more, but what it runs must be gone before the workspace is let go.
            self.bench = timeout(STOPPING, running.future).await.ok().map(|(bench, _)| bench);
        }
        if let Some(bench) = self.bench.take() {
            bench.end().await;
        }
        drop(self.collecting.take());
        let lost = self.options.lease.borrow().end.is_some_and(LeaseEnd::is_lost);
        if !lost && boundary.has_outputs() {
            // What it does not come to is collected when the session is served again.
            let last = timeout(COLLECTING, boundary.outputs.pass(&boundary)).await;
            if last.is_err() {
                tracing::warn!(
                    session = self.options.session_id,
                    "not all results were collected within {COLLECTING:?}; they are kept"
                );
            }
        }
        boundary
            .ended(end.reason(), matches!(end, SessionEnd::Over), !lost)
            .await;
    }

    async fn answer_all(&mut self) {
        for call in self.calls.take_queue() {
            let result = Arc::new(error_result(&call.id, SHUTTING_DOWN));
            self.post(&call.id, call.thread.as_deref(), result);
        }
        let patience = Instant::now() + LETTING_GO / 2;
        let mut waiting = true;
        while self.running.is_some() || !self.outbox.is_empty() {
            tokio::select! {
                biased;
                (bench, result) = ended(&mut self.running) => self.call_ended(bench, result),
                (call_id, posted) = self.outbox.ended() => {
                    // The item is let go anyway, and what was refused is in the log.
                    let _ = self.post_ended(&call_id, posted);
                }
                // A call that does not stop must not keep the others from their answers.
                () = sleep_until(patience), if waiting => {
                    waiting = false;
                    if let Some(running) = &self.running {
                        self.outbox.leave_place(&running.call_id);
                    }
                }
            }
        }
    }
}

async fn ended(running: &mut Option<Running>) -> (Bench, Value) {
    match running {
        Some(running) => running.future.as_mut().await,
        None => pending().await,
    }
}

/// Waits until the server wants the session stopped.
async fn stopped(stops: &mut watch::Receiver<Option<BoundaryStop>>) -> BoundaryStop {
    loop {
        if let Some(stop) = *stops.borrow_and_update() {
            return stop;
        }
        if stops.changed().await.is_err() {
            return pending().await;
        }
    }
}

async fn collected(collecting: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match collecting {
        Some(collecting) => collecting.as_mut().await,
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
