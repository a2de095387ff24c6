//! The owner of one session: the one task that changes it.
//!
//! It holds the session's lease, folds its log once, and then lives in this circle: an input comes (a command, the
//! model's answer, a time), the machine decides, the entries are committed under the lease's generation, and only
//! then streams, workers and callers are told and the effect is carried out. If a commit fails, what is in memory
//! is thrown away and the log is folded anew. While the store cannot be read or written, who asks is refused at once
//! and what nobody waits for is tried until it works.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outwork_engine::{Catalog, Context, Effect, Session, Status};
use outwork_ledger::Kind;
use outwork_store::{
    Append, LeaseOutcome, ProjectionChange, SessionProfile, SessionProjection, SessionStatus, StoreError,
};
use outwork_wire::event::IdleReason;
use outwork_wire::id::{EnvironmentId, EventId, SessionId, WorkId, WorkspaceId};
use outwork_wire::log::LogEntry;
use outwork_wire::model::ModelRequest;
use outwork_wire::{Event, EventBody, Time};
use rand::Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::changes::Changed;
use super::model_call::{Outcome, call};
use super::places;
use super::registry::{Command, LEASE_SECONDS, Reply, Shared};
use super::tools::{McpRun, News, On};
use crate::error::{ApiError, ErrorKind};
use crate::evidence::{Cause, Recorder, Subject};
use crate::mcp::Caller;

/// The task that owns a session.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    workspace: WorkspaceId,
    id: SessionId,
    commands: mpsc::Receiver<Command>,
}

/// What an owner holds while the session is loaded.
struct Held {
    environment: EnvironmentId,
    session: Session,
    generation: u64,
    last_seq: u64,
    /// The title, metadata and agent that the store has.
    profile_saved: bool,
    request: Option<Request>,
    wake_at: Option<Time>,
    mcp: McpRun,
    subject: Subject,
    recorder: Recorder,
}

/// A model request under way.
struct Request {
    outcome: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    cancel: CancellationToken,
    began: Instant,
}

/// An answer that waits for the commit.
enum Answer {
    Events(Reply<Vec<Event>>, Vec<Event>),
    Halted(Reply<Vec<EventId>>, Vec<EventId>),
    Done(Reply<()>),
}

impl Answer {
    fn give(self) {
        match self {
            Self::Events(reply, events) => drop(reply.send(Ok(events))),
            Self::Halted(reply, ended) => drop(reply.send(Ok(ended))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn refuse(self, error: ApiError) {
        match self {
            Self::Events(reply, _) => drop(reply.send(Err(error))),
            Self::Halted(reply, _) => drop(reply.send(Err(error))),
            Self::Done(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Why the circle ends.
enum Leaving {
    /// Nothing to do, or the plane drains.
    InOrder,
    /// What is in memory is not what the log says any more.
    LostTrack,
    /// The session is gone.
    Deleted,
}

enum Input {
    Command(Option<Command>),
    Model(Outcome),
    Mcp(News),
    Time,
    Drain,
    Abort,
    Linger,
}

/// Waits between attempts to read and write what cannot be refused to anybody.
const COMMIT_RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// A worker that beats does so every 30 s, or more often. One that gave no sign for this long is taken for dead when
/// somebody interrupts its session.
const SILENT_WORKER: Duration = Duration::from_secs(45);

impl Owner {
    pub(crate) fn new(
        shared: Arc<Shared>,
        workspace: WorkspaceId,
        id: SessionId,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            shared,
            workspace,
            id,
            commands,
        }
    }

    /// Whether somebody asked something that was not taken yet.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Owns the session until there is nothing more to do.
    pub(crate) async fn run(&mut self, adopted: Option<(EnvironmentId, Session, u64)>) {
        let mut adopted = adopted;
        let mut failures = 0u32;
        let mut unavailable = 0u32;
        loop {
            let held = match adopted.take() {
                Some((environment, session, last_seq)) => self
                    .lease()
                    .await
                    .map(|generation| Held::new(&self.workspace, environment, session, generation, last_seq)),
                None => self.load().await,
            };
            let mut held = match held {
                Ok(held) => held,
                // The store cannot do it now. Nobody else would come back to it: this one stays.
                Err(error) if error.kind == ErrorKind::Unavailable => {
                    tracing::warn!(
                        session = %self.id, reason = error.message, cause = ?error.cause,
                        "a session cannot be loaded now; trying again"
                    );
                    let wait = COMMIT_RETRY[(unavailable as usize).min(COMMIT_RETRY.len() - 1)];
                    unavailable = unavailable.saturating_add(1);
                    let leave = self.shared.draining.clone();
                    if self.refuse_for(wait, &error, &leave).await {
                        continue;
                    }
                    // The next plane looks for what is left to do.
                    return;
                }
                Err(error) => {
                    if error.kind == ErrorKind::NotFound {
                        self.shared.failing.over(&self.id);
                    } else {
                        tracing::error!(
                            session = %self.id, reason = error.message, cause = ?error.cause,
                            "a session cannot be loaded"
                        );
                        self.shared.failing.failed(&self.id, Instant::now());
                    }
                    self.refuse_waiting(&error);
                    return;
                }
            };
            unavailable = 0;
            self.shared.failing.over(&self.id);
            match self.circle(&mut held).await {
                Leaving::InOrder => {
                    self.release(held.generation).await;
                    return;
                }
                Leaving::Deleted => return,
                Leaving::LostTrack => {
                    failures += 1;
                    let wait = COMMIT_RETRY[(failures as usize - 1).min(COMMIT_RETRY.len() - 1)];
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.shared.aborting.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn circle(&mut self, held: &mut Held) -> Leaving {
        // A session that was just loaded may have been left in the middle of something.
        if let Err(leaving) = self.go_on(held, Vec::new()).await {
            return leaving;
        }
        let mut drain_seen = false;
        loop {
            let input = self.next_input(held, drain_seen).await;
            let mut answers = Vec::new();
            match input {
                Input::Command(None) => return Leaving::InOrder,
                Input::Command(Some(first)) => {
                    let mut next = Some(first);
                    while let Some(command) = next {
                        if let Command::Delete { reply } = command {
                            match self.delete(held.session.status(), &held.subject).await {
                                Ok(()) => {
                                    drop(reply.send(Ok(())));
                                    return Leaving::Deleted;
                                }
                                Err(error) => drop(reply.send(Err(error))),
                            }
                        } else {
                            self.take(held, command, &mut answers);
                        }
                        next = self.commands.try_recv().ok();
                    }
                }
                Input::Model(outcome) => self.take_outcome(held, outcome),
                Input::Mcp(news) => take_news(held, news),
                Input::Time => held.wake_at = None,
                Input::Drain => drain_seen = true,
                Input::Abort => {
                    held.request = None;
                    let mut ids = fresh_id;
                    held.session.end_request_without_answer(&mut context(&mut ids, None));
                    return match self.commit(held, &mut Vec::new()).await {
                        Ok(()) => Leaving::InOrder,
                        Err(leaving) => leaving,
                    };
                }
                Input::Linger => return Leaving::InOrder,
            }
            if let Err(leaving) = self.go_on(held, answers).await {
                return leaving;
            }
            if self.shared.draining.is_cancelled() && held.request.is_none() && held.mcp.is_idle() {
                return Leaving::InOrder;
            }
        }
    }

    async fn next_input(&mut self, held: &mut Held, drain_seen: bool) -> Input {
        let wake_at = held.wake_at;
        let until_wake = async {
            match wake_at {
                Some(at) => {
                    let micros = at.as_micros() - Time::now().as_micros();
                    tokio::time::sleep(Duration::from_micros(micros.max(0) as u64)).await;
                }
                None => std::future::pending().await,
            }
        };
        let busy = held.request.is_some() || wake_at.is_some() || !held.mcp.is_idle();
        let answer = async {
            match &mut held.request {
                Some(request) => request.outcome.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = answer => Input::Model(outcome),
            news = held.mcp.next() => Input::Mcp(news),
            command = self.commands.recv() => Input::Command(command),
            () = until_wake => Input::Time,
            () = self.shared.aborting.cancelled() => Input::Abort,
            () = self.shared.draining.cancelled(), if !drain_seen => Input::Drain,
            () = tokio::time::sleep(self.shared.linger), if !busy => Input::Linger,
        }
    }

    /// Lets the machine decide, commits, tells, and carries the effect out.
    async fn go_on(&mut self, held: &mut Held, mut answers: Vec<Answer>) -> Result<(), Leaving> {
        // A plane that drains takes in what comes but begins nothing: the next owner goes on.
        let effect = if self.shared.draining.is_cancelled() {
            Effect::Rest
        } else {
            let mut ids = fresh_id;
            let mut context = context(&mut ids, held.mcp.catalog());
            held.session
                .advance(held.request.is_some(), &self.shared.prompt, &mut context)
        };
        self.commit(held, &mut answers).await?;
        for answer in answers {
            answer.give();
        }
        held.wake_at = None;
        self.carry_out(held, effect);
        Ok(())
    }

    fn carry_out(&self, held: &mut Held, effect: Effect) {
        let draining = self.shared.draining.is_cancelled();
        if !draining && !matches!(effect, Effect::ConnectServers | Effect::CallTools(_)) {
            held.mcp.stop_all();
        }
        match effect {
            Effect::Rest if !draining && run_is_over(&held.session) => held.mcp.end(),
            Effect::Rest | Effect::AwaitModel => {}
            Effect::ConnectServers => {
                let servers = held.session.mcp_servers().cloned().collect();
                held.mcp.connect(&self.shared.reach, self.caller(held), servers);
            }
            Effect::CallTools(calls) => {
                let servers: Vec<_> = held.session.mcp_servers().cloned().collect();
                let rules = calls.iter().map(|call| held.recorder.rule(&call.id)).collect();
                let on = On {
                    reach: self.shared.reach.clone(),
                    store: self.shared.store.clone(),
                    evidence: self.shared.evidence.clone(),
                    subject: held.subject.clone(),
                    caller: self.caller(held),
                };
                held.mcp.keep(&on, &servers, calls, rules);
            }
            Effect::AskModel(request) => self.ask_model(held, *request),
            Effect::CancelModel => {
                if let Some(request) = &held.request {
                    request.cancel.cancel();
                }
            }
            Effect::WaitUntil(at) => held.wake_at = Some(at),
        }
    }

    fn caller(&self, held: &Held) -> Caller {
        let agent = held.session.agent();
        Caller {
            workspace: self.workspace.clone(),
            session: self.id.clone(),
            agent: agent.id.clone(),
            agent_version: agent.version,
        }
    }

    fn take(&mut self, held: &mut Held, command: Command, answers: &mut Vec<Answer>) {
        let mut ids = fresh_id;
        let mut context = context(&mut ids, None);
        match command {
            Command::Submit { events, by, who, reply } => match held.session.submit(events, by, &mut context) {
                Ok(events) => {
                    held.recorder.caused(&events, &Cause::Sent(who));
                    answers.push(Answer::Events(reply, events));
                }
                Err(refused) => drop(reply.send(Err(refused.into()))),
            },
            Command::Update { change, reply } => match held.session.update(change, &mut context) {
                Ok(changed) => {
                    held.profile_saved &= !changed;
                    answers.push(Answer::Done(reply));
                }
                Err(refused) => drop(reply.send(Err(refused.into()))),
            },
            Command::Archive { reply } => match held.session.archive(&mut context) {
                Ok(()) => answers.push(Answer::Done(reply)),
                Err(refused) => drop(reply.send(Err(refused.into()))),
            },
            Command::Halt { halt, reply } => match self.halt(held, &halt, &mut context) {
                Ok(ended) => answers.push(Answer::Halted(reply, ended)),
                Err(refused) => drop(reply.send(Err(refused))),
            },
            Command::Delete { reply } => drop(reply.send(Err(ApiError::internal(anyhow::anyhow!(
                "a delete is carried out before it comes here"
            ))))),
            Command::Wake => {}
        }
    }

    fn take_outcome(&self, held: &mut Held, outcome: Outcome) {
        let Some(request) = held.request.take() else {
            return;
        };
        let elapsed = request.began.elapsed();
        let mut ids = fresh_id;
        let mut context = context(&mut ids, held.mcp.catalog());
        match &outcome.result {
            // A request that was cancelled ends without an answer unless there is a piece of one.
            Err(_) if request.cancel.is_cancelled() => {
                self.shared.metrics.model_request("cancelled", elapsed);
                held.session.end_request_without_answer(&mut context);
            }
            Ok(answer) => {
                self.shared
                    .metrics
                    .model_request(if answer.partial { "cancelled" } else { "ok" }, elapsed);
                held.session.answered(answer.clone(), &outcome.previews, &mut context);
            }
            Err(failure) => {
                self.shared.metrics.model_request("failed", elapsed);
                tracing::info!(session = %self.id, kind = ?failure.kind, message = failure.message, "model request failed");
                held.session.failed(failure, &self.shared.retry, &mut context);
            }
        }
    }

    fn ask_model(&self, held: &mut Held, request: ModelRequest) {
        let cancel = CancellationToken::new();
        let (shared, id, token) = (self.shared.clone(), self.id.clone(), cancel.clone());
        let mut request = request;
        let outcome = async move {
            places::tell(&shared.store, &id, &mut request).await;
            call(shared.model.as_deref(), &request, token, &id, &shared.hub).await
        };
        held.request = Some(Request {
            outcome: Box::pin(outcome),
            cancel,
            began: Instant::now(),
        });
    }

    /// Commits what the machine emitted, then shows it. Nothing is shown that is not durable.
    async fn commit(&mut self, held: &mut Held, answers: &mut Vec<Answer>) -> Result<(), Leaving> {
        let entries = held.session.take_outbox();
        if entries.is_empty() && !held.recorder.has_orders() {
            return Ok(());
        }
        let servers = held.session.agent().mcp_servers.clone();
        let mut records = Some(held.recorder.records(&held.subject, &servers, &entries));
        let append = Append {
            session_id: self.id.clone(),
            at: Time::now(),
            generation: Some(held.generation),
            expected_last_seq: Some(held.last_seq),
            projection: ProjectionChange::Set(Box::new(projection(&held.session, &entries, held.profile_saved))),
            drop_queued: Vec::new(),
            enqueue_work: held.session.needs_worker().then(WorkId::fresh),
            entries,
        };
        let mut attempt = 0;
        loop {
            // What is let through is recorded first; once that is done, a commit that is tried again does not repeat it.
            if let Some(mut due) = records.take()
                && let Err(error) = self.record(&mut due).await
            {
                if !answers.is_empty() {
                    tracing::warn!(session = %self.id, cause = ?error.cause, "nothing is let through: the ledger cannot be written");
                    for answer in answers.drain(..) {
                        answer.refuse(copy(&error));
                    }
                    return Err(Leaving::LostTrack);
                }
                let wait = COMMIT_RETRY[attempt.min(COMMIT_RETRY.len() - 1)];
                attempt += 1;
                tracing::warn!(session = %self.id, cause = ?error.cause, "the ledger cannot be written; trying again");
                let leave = self.shared.aborting.clone();
                if !self.refuse_for(wait, &error, &leave).await {
                    return Err(Leaving::InOrder);
                }
                records = Some(due);
                continue;
            }
            if append.entries.is_empty() {
                return Ok(());
            }
            match self.shared.store.append(&self.workspace, append.clone()).await {
                Ok(appended) => {
                    held.last_seq = appended.last_seq;
                    held.profile_saved = true;
                    self.shared.metrics.events_appended(append.entries.len() as u64);
                    self.shared
                        .hub
                        .publish_events(&self.id, append.entries.iter().map(|e| &e.event));
                    if appended.work_enqueued {
                        self.shared.bells.ring(&held.environment);
                    }
                    if held.session.status() == Status::Terminated {
                        self.shared.changes.ring(Changed::Session(self.id.clone()));
                    }
                    if append.entries.iter().any(|e| is_interrupt(&e.event)) {
                        self.requeue_if_silent(&held.environment).await;
                    }
                    self.record_log(held, &append.entries).await;
                    return Ok(());
                }
                // What nobody waits for cannot be refused: it is kept and tried again.
                Err(StoreError::Unavailable { reason }) if answers.is_empty() => {
                    let wait = COMMIT_RETRY[attempt.min(COMMIT_RETRY.len() - 1)];
                    attempt += 1;
                    tracing::warn!(session = %self.id, reason, "the log cannot be written; trying again");
                    let refusal = StoreError::Unavailable { reason }.into();
                    let leave = self.shared.aborting.clone();
                    if !self.refuse_for(wait, &refusal, &leave).await {
                        return Err(Leaving::InOrder);
                    }
                }
                Err(error) => {
                    tracing::warn!(session = %self.id, %error, "a commit failed; the session is read from its log again");
                    for answer in answers.drain(..) {
                        answer.refuse(match &error {
                            StoreError::Unavailable { reason } => {
                                StoreError::Unavailable { reason: reason.clone() }.into()
                            }
                            other => ApiError::internal(anyhow::anyhow!("{other}")),
                        });
                    }
                    return Err(Leaving::LostTrack);
                }
            }
        }
    }

    /// An interrupt takes the work item back from a worker that has gone silent, before its lease ends by itself.
    async fn requeue_if_silent(&self, environment: &EnvironmentId) {
        let now = Time::now();
        let silent_since = Time::from_micros(now.as_micros() - SILENT_WORKER.as_micros() as i64);
        match self.shared.store.requeue_silent_work(&self.id, silent_since, now).await {
            Ok(taken_back) if taken_back.is_empty() => {}
            Ok(_) => {
                tracing::info!(session = %self.id, "the session's worker is silent; its work item is queued again");
                self.shared.bells.ring(environment);
            }
            Err(error) => {
                tracing::warn!(session = %self.id, %error, "the work item was not taken back; its lease has to end");
            }
        }
    }

    async fn delete(&self, status: Status, subject: &Subject) -> Result<(), ApiError> {
        if matches!(status, Status::Running | Status::Rescheduling) {
            return Err(ApiError::invalid(format!(
                "the session is {} and cannot be deleted now; send a user.interrupt, wait until it is idle, and try again",
                status.as_str()
            )));
        }
        self.shared.store.delete_session(&self.workspace, &self.id).await?;
        self.shared.changes.ring(Changed::Session(self.id.clone()));
        let evidence = &self.shared.evidence;
        let end = subject.record(Kind::SessionEnd).reason("deleted, with its log");
        evidence.tell(end).await;
        let (evidence, id) = (evidence.clone(), self.id.clone());
        // What is left after a failure is found by nobody: the session's id is not given out again.
        drop(tokio::task::spawn_blocking(move || evidence.forget(&id)).await);
        let gone = Event {
            id: EventId::fresh(),
            processed_at: Some(Time::now()),
            body: EventBody::SessionDeleted {},
        };
        self.shared.hub.publish_events(&self.id, [&gone]);
        Ok(())
    }

    async fn lease(&self) -> Result<u64, ApiError> {
        let outcome = self
            .shared
            .store
            .acquire_lease(
                &self.workspace,
                &self.id,
                &self.shared.owner,
                LEASE_SECONDS,
                Time::now(),
            )
            .await?;
        match outcome {
            LeaseOutcome::Acquired { generation } => Ok(generation),
            LeaseOutcome::Held { by, until } => Err(ApiError {
                cause: Some(anyhow::anyhow!("session {} is held by {by} until {until}", self.id)),
                ..ApiError::new(
                    crate::error::ErrorKind::Unavailable,
                    "the session is owned by another server; try again",
                )
            }),
        }
    }

    async fn load(&self) -> Result<Held, ApiError> {
        let generation = self.lease().await?;
        let read = self.read(generation).await;
        if read.is_err() {
            self.release(generation).await;
        }
        read
    }

    async fn release(&self, generation: u64) {
        let released = self
            .shared
            .store
            .release_lease(&self.workspace, &self.id, generation)
            .await;
        if let Err(error) = released {
            tracing::debug!(session = %self.id, %error, "the lease was not released; the reconciler will");
        }
    }

    async fn read(&self, generation: u64) -> Result<Held, ApiError> {
        let row = self.shared.store.session(&self.workspace, &self.id).await?;
        let log = self.shared.store.load(&self.workspace, &self.id).await?;
        let last_seq = log.last_seq;
        let recorder = Recorder::of_log(log.entries.iter().map(|(_, entry)| entry));
        let mut session = Session::fold(log.genesis, log.entries.iter().map(|(_, entry)| entry))
            .map_err(|error| ApiError::internal(anyhow::anyhow!("the log of {} cannot be folded: {error}", self.id)))?;
        // The owner before this one may have begun them.
        session.lose_mcp_calls(&mut context(&mut { fresh_id }, None));
        let mut held = Held::new(&self.workspace, row.environment_id, session, generation, last_seq);
        held.recorder = recorder;
        Ok(held)
    }

    fn refuse_waiting(&mut self, error: &ApiError) {
        while let Ok(command) = self.commands.try_recv() {
            command.refuse(copy(error));
        }
    }

    /// Waits, and refuses meanwhile whatever is asked. False if `leave` was cancelled before the time was over.
    async fn refuse_for(&mut self, wait: Duration, error: &ApiError, leave: &CancellationToken) -> bool {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return true,
                () = leave.cancelled() => {
                    self.refuse_waiting(error);
                    return false;
                }
                Some(command) = self.commands.recv() => command.refuse(copy(error)),
            }
        }
    }
}

/// Takes in what came of a task at an MCP server.
fn take_news(held: &mut Held, news: News) {
    held.mcp.note(&news);
    let mut ids = fresh_id;
    let mut context = context(&mut ids, held.mcp.catalog());
    match news {
        News::Connected { cancelled: true, .. } => {}
        News::Connected { failures, .. } => held.session.servers_failed(failures, &mut context),
        News::Answered {
            call,
            content,
            is_error,
            failure,
        } => {
            let wanted = held.session.mcp_answered(&call, content, is_error, &mut context);
            if wanted {
                held.session.servers_failed(failure.into_iter().collect(), &mut context);
            }
        }
    }
}

/// Whether the session rests for good, and not for an answer to a call.
fn run_is_over(session: &Session) -> bool {
    match session.status() {
        Status::Idle => !matches!(session.idle_reason(), Some(IdleReason::RequiresAction { .. })),
        Status::Terminated => true,
        Status::Running | Status::Rescheduling => false,
    }
}

fn is_interrupt(event: &Event) -> bool {
    event.processed_at.is_some() && matches!(event.body, EventBody::UserInterrupt { .. })
}

/// The same error, for another caller.
fn copy(error: &ApiError) -> ApiError {
    ApiError {
        kind: error.kind,
        message: error.message.clone(),
        details: error.details.clone(),
        cause: error.cause.as_ref().map(|cause| anyhow::anyhow!("{cause:#}")),
    }
}

impl Held {
    fn new(
        workspace: &WorkspaceId,
        environment: EnvironmentId,
        session: Session,
        generation: u64,
        last_seq: u64,
    ) -> Self {
        Self {
            subject: Subject::new(workspace, &environment, &session.genesis().session_id, session.agent()),
            recorder: Recorder::default(),
            environment,
            session,
            generation,
            last_seq,
            profile_saved: true,
            request: None,
            wake_at: None,
            mcp: McpRun::default(),
        }
    }
}

/// What the session's row shows after these entries.
pub(crate) fn projection(session: &Session, entries: &[LogEntry], profile_saved: bool) -> SessionProjection {
    let view = session.view();
    let archived_at = entries
        .iter()
        .rev()
        .find(|e| matches!(e.event.body, EventBody::StatusTerminated {}))
        .and_then(|e| e.event.processed_at);
    SessionProjection {
        status: match view.status {
            Status::Idle => SessionStatus::Idle,
            Status::Running => SessionStatus::Running,
            Status::Rescheduling => SessionStatus::Rescheduling,
            Status::Terminated => SessionStatus::Terminated,
        },
        usage: view.usage,
        updated_at: view.updated_at,
        archived_at,
        wake_at: view.retry_at,
        needs_owner: view.needs_owner,
        needs_worker: session.needs_worker(),
        profile: (!profile_saved).then_some(SessionProfile {
            agent: view.agent,
            title: view.title,
            metadata: view.metadata,
        }),
    }
}

pub(crate) fn fresh_id(now: Time) -> EventId {
    EventId::new(now, &mut rand::rng())
}

/// The time and chance of this moment.
pub(crate) fn context<'a>(ids: &'a mut dyn FnMut(Time) -> EventId, catalog: Option<&'a Catalog>) -> Context<'a> {
    Context {
        now: Time::now(),
        event_id: ids,
        jitter: rand::rng().random(),
        catalog,
    }
}

mod halt;
mod record;
#[cfg(test)]
mod tests;
