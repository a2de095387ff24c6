//! A small world around one session: simulated time, a log that is committed entry by entry, a model that is
//! played by the test, and crashes.
//!
//! Invariants, checked at every commit: the rules of [`judge`], the folded log equals the live session, and
//! `needs_owner` says exactly whether `advance` has something to do. Every model request is checked against the
//! rules of the Messages API and against the log.
#![allow(dead_code, reason = "each test binary uses its part of the world")]

mod asked;
pub mod build;
pub mod judge;
mod lines;
pub mod messages_api;

use std::collections::HashSet;

use outwork_engine::{
    Catalog, Context, Effect, McpTool, PreviewIds, PromptOptions, Refused, RetryPolicy, ServerFailure, Session,
    SessionChange, Status, Submitter,
};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::event::{Decision, IdleReason};
use outwork_wire::id::EventId;
use outwork_wire::log::{Genesis, LogEntry, Private};
use outwork_wire::model::{ModelAnswer, ModelFailure, ModelRequest};
use outwork_wire::{ContentBlock, Event, EventParams, Time};

use judge::Judge;

/// One session and all that it can meet.
pub struct World {
    /// What the session began with.
    pub genesis: Genesis,
    /// The live session.
    pub session: Session,
    /// What is committed, in the order of the commits.
    pub log: Vec<LogEntry>,
    /// The simulated time.
    pub now: Time,
    /// Whether a model request is under way.
    pub requesting: bool,
    /// The latest model request.
    pub request: Option<ModelRequest>,
    /// What `advance` asked for last.
    pub effect: Effect,
    /// When failed requests are repeated.
    pub policy: RetryPolicy,
    /// What requests have in common.
    pub options: PromptOptions,
    /// The tools of MCP servers, while the run is connected to them.
    pub catalog: Option<Catalog>,
    /// Makes the next commit fail: what it would have held is lost, and the session with it.
    pub lose_next_commit: bool,
    judge: Judge,
    ids: u64,
    shown: usize,
}

impl World {
    /// A fresh session with the tools of [`build::agent`].
    pub fn new(environment: EnvironmentKind) -> Self {
        Self::with_genesis(build::genesis(environment))
    }

    /// A fresh session with tools on the owner's own workers.
    pub fn self_hosted() -> Self {
        Self::new(EnvironmentKind::SelfHosted)
    }

    /// A fresh session with tools on the plane's workers.
    pub fn cloud() -> Self {
        Self::new(EnvironmentKind::Cloud)
    }

    /// A fresh session of that kind.
    pub fn with_genesis(genesis: Genesis) -> Self {
        Self {
            session: Session::new(genesis.clone()),
            now: genesis.created_at.plus_seconds(1),
            genesis,
            log: Vec::new(),
            requesting: false,
            request: None,
            effect: Effect::Rest,
            policy: RetryPolicy::default(),
            options: PromptOptions::default(),
            catalog: None,
            lose_next_commit: false,
            judge: Judge::default(),
            ids: 0,
            shown: 0,
        }
    }

    /// Lets time pass.
    pub fn pass_millis(&mut self, millis: i64) {
        self.now = self.now.plus_micros(millis * 1000);
    }

    /// Submits a batch and commits. A refused batch must leave no trace.
    pub fn submit_as(&mut self, events: Vec<EventParams>, by: Submitter) -> Result<Vec<Event>, Refused> {
        let result = self.submit_uncommitted(events, by);
        if self.commit()
            && let Ok(events) = &result
        {
            let committed: Vec<&Event> = self.log[self.log.len() - events.len()..]
                .iter()
                .map(|e| &e.event)
                .collect();
            assert_eq!(
                committed,
                events.iter().collect::<Vec<_>>(),
                "the answer is not what was committed"
            );
        }
        result
    }

    /// Submits a batch and goes on, all in one commit.
    pub fn submit_and_go(&mut self, events: Vec<EventParams>, by: Submitter) -> Result<Vec<Event>, Refused> {
        let result = self.submit_uncommitted(events, by);
        self.go();
        result
    }

    fn submit_uncommitted(&mut self, events: Vec<EventParams>, by: Submitter) -> Result<Vec<Event>, Refused> {
        let before = self.session.clone();
        let count = events.len();
        let result = self.with(|session, context| session.submit(events, by, context));
        match &result {
            Ok(events) => assert_eq!(events.len(), count, "not every event is answered"),
            Err(_) => assert_eq!(self.session, before, "a refused batch changed the session"),
        }
        result
    }

    /// Submits a batch as a client.
    pub fn submit(&mut self, events: Vec<EventParams>) -> Result<Vec<Event>, Refused> {
        self.submit_as(events, Submitter::Client)
    }

    /// Submits a batch that must be accepted, and goes on.
    pub fn send(&mut self, events: Vec<EventParams>) -> Vec<Event> {
        let events = self.submit(events).expect("the batch is accepted");
        self.go();
        events
    }

    /// The message of a refusal that must come.
    pub fn refused(&mut self, events: Vec<EventParams>, by: Submitter) -> String {
        match self.submit_as(events, by) {
            Ok(events) => panic!("accepted: {events:?}"),
            Err(refused) => refused.to_string(),
        }
    }

    /// Lets the session decide, commits, and takes note of the effect.
    pub fn go(&mut self) -> Effect {
        let (requesting, options) = (self.requesting, self.options.clone());
        let asked = options.clone();
        let effect = self.with(|session, context| session.advance(requesting, &asked, context));
        if !self.commit() {
            return Effect::Rest;
        }
        if let Effect::AskModel(request) = &effect {
            assert!(!self.requesting, "asked the model while a request was under way");
            self.requesting = true;
            self.check_request(request);
            self.request = Some((**request).clone());
        }
        if effect == Effect::Rest && self.session.status() == Status::Idle {
            let says = matches!(self.session.idle_reason(), Some(IdleReason::RequiresAction { .. }));
            assert_eq!(
                says,
                self.judge.somebody_is_asked(),
                "it rests for another reason than it says"
            );
        }
        let mut again = self.session.clone();
        let requesting = self.requesting;
        let repeated = self.with_other(&mut again, |session, context| {
            session.advance(requesting, &options, context)
        });
        assert!(
            again.take_outbox().is_empty(),
            "advance did not come to rest: {effect:?}, then {repeated:?}"
        );
        // Connections end with the run.
        if self.session.status() == Status::Idle
            && !matches!(self.session.idle_reason(), Some(IdleReason::RequiresAction { .. }))
        {
            self.catalog = None;
        }
        self.effect = effect.clone();
        effect
    }

    /// The model answers the request that is under way; the session goes on.
    pub fn answer(&mut self, answer: ModelAnswer) {
        self.answer_only(answer, &PreviewIds::new());
        self.go();
    }

    /// The model answers the request that is under way.
    pub fn answer_only(&mut self, answer: ModelAnswer, previews: &PreviewIds) {
        assert!(self.requesting, "no request is under way");
        self.requesting = false;
        outwork_engine::validate_answer(&answer).expect("the answer is valid");
        self.with(|session, context| session.answered(answer, previews, context));
        self.commit();
    }

    /// The request that is under way fails; the session goes on.
    pub fn fail(&mut self, failure: &ModelFailure) {
        assert!(self.requesting, "no request is under way");
        self.requesting = false;
        let policy = self.policy;
        self.with(|session, context| session.failed(failure, &policy, context));
        self.commit();
        self.go();
    }

    /// Changes the session.
    pub fn update(&mut self, change: SessionChange) -> Result<bool, Refused> {
        let before = self.session.clone();
        let result = self.with(|session, context| session.update(change, context));
        if !matches!(result, Ok(true)) {
            assert_eq!(self.session, before, "an update without effect changed the session");
        }
        self.commit();
        result
    }

    /// Archives the session.
    pub fn archive(&mut self) -> Result<(), Refused> {
        let result = self.with(|session, context| session.archive(context));
        self.commit();
        result
    }

    /// The process dies. A new one folds the committed log, as the store gives it: what waits in the queue last.
    pub fn crash(&mut self) {
        self.session = self.fold_stored();
        self.requesting = false;
        self.catalog = None;
    }

    /// The run is connected to servers with these tools; the session goes on.
    pub fn connect(&mut self, tools: Vec<McpTool>) {
        assert_eq!(self.effect, Effect::ConnectServers, "nobody asked to connect");
        self.catalog = Some(Catalog::new(tools));
        self.go();
    }

    /// An MCP server answers a call; the session goes on.
    pub fn mcp_answer(&mut self, model_id: &str, text: &str, is_error: bool) {
        let call = self.call_event(model_id);
        self.mcp_answer_only(&call, text, is_error);
        self.go();
    }

    /// An MCP server answers a call.
    pub fn mcp_answer_only(&mut self, call: &EventId, text: &str, is_error: bool) {
        let content = vec![ContentBlock::text(text)];
        self.with(|session, context| session.mcp_answered(call, content, is_error, context));
        self.commit();
    }

    /// Servers cannot be reached.
    pub fn servers_failed(&mut self, failures: Vec<ServerFailure>) {
        self.with(|session, context| session.servers_failed(failures, context));
        self.commit();
    }

    /// A new owner takes over what the one that died may have begun.
    pub fn take_over(&mut self) {
        self.crash();
        self.with(Session::lose_mcp_calls);
        self.commit();
    }

    /// The entries as the store lists them.
    pub fn stored(&self) -> Vec<LogEntry> {
        let processed: HashSet<&EventId> = self
            .log
            .iter()
            .filter(|e| e.event.processed_at.is_some())
            .map(|e| &e.event.id)
            .collect();
        let (done, waiting): (Vec<&LogEntry>, Vec<&LogEntry>) = self
            .log
            .iter()
            .filter(|e| e.event.processed_at.is_some() || !processed.contains(&e.event.id))
            .partition(|e| e.event.processed_at.is_some());
        done.into_iter().chain(waiting).cloned().collect()
    }

    /// A session folded from the stored log.
    pub fn fold_stored(&self) -> Session {
        Session::fold(self.genesis.clone(), &self.stored()).expect("the committed log folds")
    }

    /// Writes the log and its beginning as JSON, reads them back, and compares entries and state.
    pub fn check_json(&self) {
        let appended = Session::fold(self.genesis.clone(), &self.log).expect("the log folds as it was appended");
        assert_eq!(
            appended, self.session,
            "the log folds to another state in the order of its commits"
        );
        let genesis: Genesis = through_json(&self.genesis);
        assert_eq!(genesis, self.genesis);
        let stored = self.stored();
        let entries: Vec<LogEntry> = stored.iter().map(through_json).collect();
        assert_eq!(entries, stored, "an entry changes on its way through JSON");
        let folded = Session::fold(genesis, &entries).expect("the log folds after JSON");
        assert_eq!(folded, self.session, "the log folds to another state after JSON");
    }

    /// What was committed since the last call, one line an entry.
    pub fn lines(&mut self) -> Vec<String> {
        let from = std::mem::replace(&mut self.shown, self.log.len());
        self.log[from..].iter().map(|entry| self.line(entry)).collect()
    }

    /// Compares what was committed since the last look with a table.
    #[track_caller]
    pub fn expect(&mut self, table: &[&str]) {
        let lines = self.lines();
        assert_eq!(lines, table, "\nfound:\n  {}\n", lines.join("\n  "));
    }

    /// Drops what was committed so far from the next look.
    pub fn skip(&mut self) {
        self.shown = self.log.len();
    }

    /// The event of a call by the model's id of it.
    pub fn call_event(&self, model_id: &str) -> EventId {
        self.log
            .iter()
            .find_map(|entry| match &entry.private {
                Some(Private::Call { model_tool_use_id, .. }) if model_tool_use_id == model_id => {
                    Some(entry.event.id.clone())
                }
                _ => None,
            })
            .expect("the model made this call")
    }

    /// A result for a call.
    pub fn result(&self, model_id: &str, text: &str) -> EventParams {
        build::tool_result(self.call_event(model_id), vec![ContentBlock::text(text)], false)
    }

    /// A result for a call of a custom tool.
    pub fn custom_result(&self, model_id: &str, text: &str) -> EventParams {
        build::custom_result(self.call_event(model_id), vec![ContentBlock::text(text)], false)
    }

    /// Allows a call.
    pub fn allow(&self, model_id: &str) -> EventParams {
        build::confirmation(self.call_event(model_id), Decision::Allow, None)
    }

    /// Denies a call.
    pub fn deny(&self, model_id: &str, message: Option<&str>) -> EventParams {
        build::confirmation(self.call_event(model_id), Decision::Deny, message)
    }

    /// What the judge knows of the calls.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// The latest request.
    pub fn asked(&self) -> &ModelRequest {
        self.request.as_ref().expect("the model was asked")
    }

    /// The latest request's messages as `role: blocks`, one line each.
    pub fn conversation(&self) -> Vec<String> {
        self.asked().messages.iter().map(messages_api::line).collect()
    }

    /// Commits what the session emitted. False if the commit was made to fail.
    pub fn commit(&mut self) -> bool {
        let entries = self.session.take_outbox();
        if std::mem::take(&mut self.lose_next_commit) {
            self.crash();
            return false;
        }
        for entry in entries {
            self.judge.see(&entry);
            self.log.push(entry);
        }
        assert_eq!(
            self.fold_stored(),
            self.session,
            "the stored log folds to another state than the live one"
        );
        assert_eq!(
            self.session.status(),
            self.judge.status(),
            "the status is not what the log says"
        );
        assert_eq!(
            self.session.queued_ids(),
            self.judge.queued_ids(),
            "the queue is not what the log says"
        );
        self.check_needs_owner();
        true
    }

    fn check_needs_owner(&mut self) {
        let mut probe = self.session.clone();
        let (requesting, options) = (self.requesting, self.options.clone());
        let effect = self.with_other(&mut probe, |session, context| {
            session.advance(requesting, &options, context)
        });
        let work = !probe.take_outbox().is_empty() || effect != Effect::Rest;
        assert_eq!(
            self.session.view().needs_owner,
            work,
            "needs_owner is wrong; advance would give {effect:?}"
        );
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let ids = &mut self.ids;
        let mut event_id = |_: Time| {
            *ids += 1;
            build::event_id(*ids)
        };
        let mut context = Context {
            now: self.now,
            event_id: &mut event_id,
            jitter: 0.5,
            catalog: self.catalog.as_ref(),
        };
        f(&mut self.session, &mut context)
    }

    fn with_other<R>(&self, session: &mut Session, f: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let mut ids = 1_000_000_000;
        let mut event_id = |_: Time| {
            ids += 1;
            build::event_id(ids)
        };
        let mut context = Context {
            now: self.now,
            event_id: &mut event_id,
            jitter: 0.5,
            catalog: self.catalog.as_ref(),
        };
        f(session, &mut context)
    }
}

/// The status and what it rests for, for assertions.
pub fn rests(world: &World) -> (Status, Option<IdleReason>) {
    (world.session.status(), world.session.idle_reason().cloned())
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("it can be written");
    serde_json::from_str(&text).expect("it can be read back")
}
