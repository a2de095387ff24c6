//! Which calls of a session are this worker's to run: pure, without I/O or clock.
//!
//! It folds the session's events, from the history and from the live stream, in whatever overlap they come.
//!
//! Invariants: a call is given out at most once; a call that has an answer is not given out; a call that needs a
//! person's word is given out only after an explicit `allow`, and a permission or a verdict that is not known never
//! counts as one; custom tools and tools of other names are left to whoever owns them; nothing is given out for a
//! thread that is over.

use std::collections::{HashMap, HashSet, VecDeque};

use outwork_client::ObservedEvent;
use serde_json::{Map, Value};

/// The tools that a worker runs.
pub(crate) const TOOLS: [&str; 6] = ["bash", "read", "write", "edit", "glob", "grep"];

/// One call to run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// The id of its `agent.tool_use` event.
    pub id: String,
    /// The tool.
    pub name: String,
    /// What it is called with.
    pub input: Map<String, Value>,
    /// Its thread, unless that is the primary one.
    pub thread: Option<String>,
}

/// What an event asks of the one who runs the calls.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Stop the running call at once; it has an answer, or its thread is over. Its result is not wanted.
    DropRunning,
    /// Stop the running call at once and answer it as interrupted.
    InterruptRunning,
    /// Answer this call as interrupted, without running it.
    AnswerInterrupted(Call),
    /// The session is over.
    SessionOver,
}

/// The calls of one session.
#[derive(Default)]
pub(crate) struct Calls {
    seen: HashSet<String>,
    answered: HashSet<String>,
    allowed: HashMap<String, bool>,
    held: Vec<Call>,
    queue: VecDeque<Call>,
    running: Option<(String, Option<String>)>,
    interrupts: HashSet<String>,
    ended_threads: HashSet<String>,
    primary_thread: Option<String>,
    /// Whether everything that a server of tools said at length is in the workspace.
    no_new_texts: bool,
}

impl Calls {
    /// The next call to run, in the order of the log. Nothing while one runs: one tool at a time.
    pub fn start_next(&mut self) -> Option<Call> {
        if self.running.is_some() {
            return None;
        }
        let call = self.queue.pop_front()?;
        self.running = Some((call.id.clone(), call.thread.clone()));
        Some(call)
    }

    /// Whether there may be long results that the next call may want to read. Says so once.
    pub fn may_have_texts(&mut self) -> bool {
        !std::mem::replace(&mut self.no_new_texts, true)
    }

    /// The call that was to run cannot be begun yet: it is the next one again.
    pub fn put_back(&mut self, call: Call) {
        self.running = None;
        self.queue.push_front(call);
    }

    /// The running call has ended. True if its result is wanted.
    pub fn finish(&mut self, id: &str) -> bool {
        let thread = self.running.take().and_then(|(_, thread)| thread);
        !self.answered.contains(id) && !self.is_over(thread.as_deref())
    }

    /// The call has an answer, or never gets one.
    pub fn settle(&mut self, id: &str) {
        self.answered.insert(id.to_owned());
    }

    /// True if the call has an answer.
    pub fn is_settled(&self, id: &str) -> bool {
        self.answered.contains(id)
    }

    /// True while a call runs, waits to run, or waits for a person's word.
    pub fn is_busy(&self) -> bool {
        self.running.is_some() || !self.queue.is_empty() || !self.held.is_empty()
    }

    /// Gives up every call that waits to run, for an answer of another kind.
    pub fn take_queue(&mut self) -> Vec<Call> {
        self.queue.drain(..).collect()
    }

    /// Takes a live event.
    pub fn observe(&mut self, event: &ObservedEvent) -> Vec<Effect> {
        self.note_primary_thread(event);
        let mut effects = Vec::new();
        match event.kind.as_str() {
            "agent.tool_use" => {
                if let Some(call) = read_call(event)
                    && self.seen.insert(call.id.clone())
                {
                    self.route(call, event.permission());
                }
            }
            // It may have been too long for the conversation, and then it is to be brought into the workspace.
            "agent.mcp_tool_result" => self.no_new_texts = false,
            "user.tool_confirmation" => {
                if let Some(id) = event.call_id() {
                    self.note_verdict(id, event);
                    self.apply_verdicts();
                }
            }
            "user.interrupt" => {
                let first_seen = self.interrupts.insert(event.id.clone());
                if first_seen {
                    self.interrupt(event.thread_id(), &mut effects);
                }
            }
            "session.thread_status_terminated" => {
                if let Some(thread) = event.thread_id() {
                    self.ended_threads.insert(thread.to_owned());
                    self.forget_ended_threads(&mut effects);
                }
            }
            _ if event.is_result() => {
                if let Some(id) = event.call_id() {
                    self.answered.insert(id.to_owned());
                    self.queue.retain(|c| c.id != id);
                    self.held.retain(|c| c.id != id);
                    if self.running.as_ref().is_some_and(|(running, _)| running == id) {
                        effects.push(Effect::DropRunning);
                    }
                }
            }
            _ if event.ends_session() => effects.push(Effect::SessionOver),
            _ => {}
        }
        effects
    }

    /// Takes a history that was read to its end.
    pub fn reconcile(&mut self, history: History) -> Vec<Effect> {
        let mut effects = Vec::new();
        if history.over {
            return vec![Effect::SessionOver];
        }
        if self.primary_thread.is_none() {
            self.primary_thread = history.primary_thread;
        }
        self.answered.extend(history.answered);
        self.ended_threads.extend(history.ended_threads);
        for (id, allow) in history.verdicts {
            self.allowed.insert(id, allow);
        }
        let answered = &self.answered;
        self.queue.retain(|c| !answered.contains(&c.id));
        self.held.retain(|c| !answered.contains(&c.id));
        if let Some((id, _)) = &self.running
            && self.answered.contains(id)
        {
            effects.push(Effect::DropRunning);
        }
        self.forget_ended_threads(&mut effects);
        for entry in history.entries {
            match entry {
                Entry::Call(call, permission) => {
                    if self.seen.insert(call.id.clone()) {
                        self.route(call, permission.as_deref());
                    }
                }
                Entry::Interrupt(id, thread) => {
                    if self.interrupts.insert(id) {
                        self.interrupt(thread.as_deref(), &mut effects);
                    }
                }
            }
        }
        self.apply_verdicts();
        effects
    }

    fn route(&mut self, call: Call, permission: Option<&str>) {
        if self.answered.contains(&call.id) || self.is_over(call.thread.as_deref()) {
            return;
        }
        if !TOOLS.contains(&call.name.as_str()) {
            tracing::info!(
                tool = call.name,
                call = call.id,
                "not a tool of this worker; left to its owner"
            );
            return;
        }
        match (permission, self.allowed.get(&call.id)) {
            // Any word against it wins.
            (Some("deny"), _) | (_, Some(false)) => self.deny(&call),
            (None | Some("allow"), _) | (_, Some(true)) => self.queue.push_back(call),
            (Some(permission), None) => {
                tracing::info!(
                    tool = call.name,
                    call = call.id,
                    permission,
                    "call waits for a confirmation"
                );
                self.held.push(call);
            }
        }
    }

    fn deny(&mut self, call: &Call) {
        tracing::info!(tool = call.name, call = call.id, "call denied; not run");
        self.answered.insert(call.id.clone());
    }

    fn note_verdict(&mut self, id: &str, event: &ObservedEvent) {
        if !self.answered.contains(id) {
            self.allowed.insert(id.to_owned(), is_allow(event));
        }
    }

    fn apply_verdicts(&mut self) {
        for call in std::mem::take(&mut self.held) {
            match self.allowed.get(&call.id) {
                None => self.held.push(call),
                Some(true) => self.queue.push_back(call),
                Some(false) => self.deny(&call),
            }
        }
    }

    /// An interrupt stops what runs and what waits to run. Calls that wait for a person are the server's to end.
    fn interrupt(&mut self, thread: Option<&str>, effects: &mut Vec<Effect>) {
        let primary = self.primary_thread.as_deref();
        let hit = |call_thread: Option<&str>| match thread {
            None => true,
            Some(thread) => call_thread.or(primary) == Some(thread),
        };
        if let Some((_, call_thread)) = &self.running
            && hit(call_thread.as_deref())
        {
            effects.push(Effect::InterruptRunning);
        }
        let (stopped, kept): (VecDeque<Call>, VecDeque<Call>) =
            self.queue.drain(..).partition(|c| hit(c.thread.as_deref()));
        effects.extend(stopped.into_iter().map(Effect::AnswerInterrupted));
        self.queue = kept;
    }

    fn forget_ended_threads(&mut self, effects: &mut Vec<Effect>) {
        let ended = &self.ended_threads;
        let is_over = |thread: &Option<String>| thread.as_ref().is_some_and(|t| ended.contains(t));
        self.queue.retain(|c| !is_over(&c.thread));
        self.held.retain(|c| !is_over(&c.thread));
        if self.running.as_ref().is_some_and(|(_, thread)| is_over(thread)) {
            effects.push(Effect::DropRunning);
        }
    }

    fn is_over(&self, thread: Option<&str>) -> bool {
        thread.is_some_and(|t| self.ended_threads.contains(t))
    }

    fn note_primary_thread(&mut self, event: &ObservedEvent) {
        if self.primary_thread.is_none() {
            self.primary_thread = thread_status(event);
        }
    }
}

/// What a history tells, gathered while its pages are read.
#[derive(Default)]
pub(crate) struct History {
    entries: Vec<Entry>,
    answered: HashSet<String>,
    verdicts: HashMap<String, bool>,
    ended_threads: HashSet<String>,
    primary_thread: Option<String>,
    over: bool,
    /// True if the last event that says anything about it is an idle that ends the turn.
    pub turn_ended: bool,
}

enum Entry {
    Call(Call, Option<String>),
    Interrupt(String, Option<String>),
}

impl History {
    /// True if nobody waits for an answer to the call: it has one, or its thread or the session is over.
    pub fn closes(&self, call_id: &str) -> bool {
        let thread_over = || {
            self.entries.iter().any(|entry| match entry {
                Entry::Call(call, _) => {
                    call.id == call_id && call.thread.as_ref().is_some_and(|t| self.ended_threads.contains(t))
                }
                Entry::Interrupt(..) => false,
            })
        };
        self.over || self.answered.contains(call_id) || thread_over()
    }

    /// Takes the next event.
    pub fn add(&mut self, event: &ObservedEvent) {
        if self.primary_thread.is_none() {
            self.primary_thread = thread_status(event);
        }
        if !leaves_idle_alone(event) {
            self.turn_ended = event.ends_turn();
        }
        match event.kind.as_str() {
            "agent.tool_use" => {
                if let Some(call) = read_call(event) {
                    self.entries
                        .push(Entry::Call(call, event.permission().map(str::to_owned)));
                }
            }
            "user.interrupt" => {
                let thread = event.thread_id().map(str::to_owned);
                self.entries.push(Entry::Interrupt(event.id.clone(), thread));
            }
            "user.tool_confirmation" => {
                if let Some(id) = event.call_id() {
                    self.verdicts.insert(id.to_owned(), is_allow(event));
                }
            }
            "session.thread_status_terminated" => {
                self.ended_threads.extend(event.thread_id().map(str::to_owned));
            }
            _ if event.is_result() => self.answered.extend(event.call_id().map(str::to_owned)),
            _ => self.over |= event.ends_session(),
        }
    }
}

/// True for events that are neither activity nor rest: they leave the idle countdown as it is.
pub(crate) fn leaves_idle_alone(event: &ObservedEvent) -> bool {
    matches!(
        event.kind.as_str(),
        "user.tool_confirmation" | "session.thread_status_terminated"
    )
}

fn is_allow(event: &ObservedEvent) -> bool {
    event.text("result") == Some("allow")
}

fn read_call(event: &ObservedEvent) -> Option<Call> {
    if event.id.is_empty() {
        return None;
    }
    Some(Call {
        id: event.id.clone(),
        name: event.name()?.to_owned(),
        input: event.input().cloned().unwrap_or_default(),
        thread: event.thread_id().map(str::to_owned),
    })
}

/// The first thread whose status a log names is the primary one: only that one exists when a session first runs.
fn thread_status(event: &ObservedEvent) -> Option<String> {
    event
        .kind
        .starts_with("session.thread_status_")
        .then(|| event.thread_id().map(str::to_owned))
        .flatten()
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
