//! The life of one session: steps of clients, workers, a model, a clock and the machine under it, and what must
//! hold at its end.

use std::collections::HashSet;

use outwork_engine::{Catalog, Effect, Status, Submitter};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::event::{Decision, IdleReason, SystemBlock};
use outwork_wire::id::EventId;
use outwork_wire::model::{FailureKind, ModelAnswer, StopReason};
use outwork_wire::{ContentBlock, EventParams};
use serde_json::{Value, json};

use crate::world::World;
use crate::world::build::{
    agent, answer, call, confirmation, custom_result, event_id, failure, failure_after, genesis_with_mcp, image,
    message, notes, partial, says, text, thinking, tool_result,
};

/// One thing that happens to a session.
#[derive(Clone, Debug)]
pub enum Step {
    /// Somebody sends a batch, or if it is not said who, somebody who may send its first event; `joined` commits
    /// it together with what follows from it.
    Submit {
        batch: Vec<Sent>,
        by: Option<Submitter>,
        joined: bool,
    },
    /// The model answers, if it was asked.
    Answer { blocks: Vec<Block>, stop: StopReason },
    /// The model request fails, if there is one.
    Fail { kind: FailureKind, after: Option<u64> },
    /// What the session waits for from the MCP server comes: its tools, or the result of a call.
    Mcp { call: usize, is_error: bool },
    /// The clock goes on.
    Pass { millis: i64 },
    /// The process dies.
    Crash,
    /// The next commit fails.
    LoseCommit,
    /// Title, metadata or tools change.
    Update { title: u8, tools: bool },
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub enum Sent {
    Message,
    System {
        blank: bool,
    },
    Interrupt {
        other_thread: bool,
    },
    /// What a well-behaved client or worker sends for an open call.
    Fitting {
        call: usize,
        allow: bool,
        content: Content,
    },
    /// An answer to any call, open or not, or to none.
    Stray {
        call: usize,
        kind: StrayKind,
    },
    /// A message that no model takes.
    BadMessage {
        content: Content,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum StrayKind {
    Result,
    Custom,
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug)]
pub enum Content {
    Text,
    Nothing,
    Blank,
    EmptyText,
    Error,
    ErrorWithPicture,
    Redacted,
}

/// One block of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Block {
    Text,
    EmptyText,
    Blank,
    Thinking,
    Redacted,
    Call(&'static str),
}

/// A world, and what its players know.
pub struct Life {
    /// Its world.
    pub world: World,
    accepted: Vec<EventId>,
    words: u32,
}

impl Life {
    /// A life that begins.
    pub fn new(environment: EnvironmentKind) -> Self {
        let mut world = World::with_genesis(genesis_with_mcp(environment));
        // Few attempts, so that lives are long enough to use them up.
        world.policy.max_attempts = 3;
        world.policy.max_nonsense = 2;
        Self {
            world,
            accepted: Vec::new(),
            words: 0,
        }
    }

    fn word(&mut self) -> String {
        self.words += 1;
        format!("word {}", self.words)
    }

    /// One step happens.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Submit { batch, by, joined } => {
                let batch: Vec<EventParams> = batch.iter().map(|sent| self.event(sent)).collect();
                let by = by.unwrap_or(match batch.first() {
                    Some(EventParams::UserToolResult { .. }) => Submitter::Worker,
                    _ => Submitter::Client,
                });
                let lost = self.world.lose_next_commit;
                let result = if *joined {
                    self.world.submit_and_go(batch, by)
                } else {
                    self.world.submit_as(batch, by)
                };
                if let (Ok(events), false) = (result, lost) {
                    self.accepted.extend(events.into_iter().map(|e| e.id));
                }
            }
            Step::Answer { blocks, stop } if self.world.requesting => {
                let content: Vec<Value> = blocks.iter().map(|block| self.block(*block)).collect();
                let answer = match (&self.world.effect, content.len() % 2) {
                    (Effect::CancelModel, 0) => partial(content),
                    _ => whole(content, stop),
                };
                self.world.answer_only(answer, &Default::default());
            }
            Step::Fail { kind, after } if self.world.requesting => {
                let failure = match after {
                    Some(seconds) => failure_after(*kind, *seconds),
                    None => failure(*kind),
                };
                self.world.fail(&failure);
            }
            Step::Answer { .. } | Step::Fail { .. } => {}
            Step::Pass { millis } => self.world.pass_millis(*millis),
            Step::Mcp { call, is_error } => match self.world.effect.clone() {
                Effect::ConnectServers => self.world.catalog = Some(Catalog::new(notes())),
                Effect::CallTools(calls) => {
                    let id = calls[call % calls.len()].id.clone();
                    let word = self.word();
                    self.world.mcp_answer_only(&id, &word, *is_error);
                }
                _ => {}
            },
            Step::Crash => self.world.take_over(),
            Step::LoseCommit => self.world.lose_next_commit = true,
            Step::Update { title, tools } => {
                let change = outwork_engine::SessionChange {
                    title: Some((*title > 0).then(|| format!("title {title}"))),
                    metadata: None,
                    tools: tools.then(|| {
                        let mut tools = agent().tools;
                        tools.truncate(1 + usize::from(*title % 2));
                        tools.extend(genesis_with_mcp(EnvironmentKind::Cloud).agent.tools.pop());
                        tools
                    }),
                    mcp_servers: None,
                };
                // A refusal is as good as an acceptance here: the world checks that it changed nothing.
                let _ = self.world.update(change);
            }
        }
    }

    fn event(&mut self, sent: &Sent) -> EventParams {
        match sent {
            Sent::Message => message(&self.word()),
            Sent::System { blank } => EventParams::SystemMessage {
                content: vec![SystemBlock::Text {
                    text: if *blank { " ".into() } else { self.word() },
                }],
            },
            Sent::Interrupt { other_thread } => EventParams::UserInterrupt {
                session_thread_id: other_thread.then(|| "sthr_other".parse().expect("an id")),
            },
            Sent::BadMessage { content } => EventParams::UserMessage {
                content: self.content(*content).0,
            },
            Sent::Fitting { call, allow, content } => {
                let open: Vec<(EventId, bool, bool)> = self
                    .world
                    .judge()
                    .calls()
                    .iter()
                    .filter(|c| !c.settled() && !self.world.judge().result_waits(&c.id))
                    .filter(|c| !c.mcp || (c.asks && !c.allowed))
                    .map(|c| (c.id.clone(), c.custom, c.asks && !c.allowed))
                    .collect();
                let Some((id, custom, asks)) = open.get(call % open.len().max(1)).cloned() else {
                    return message(&self.word());
                };
                let (content, is_error) = self.content(*content);
                match (asks, custom) {
                    (true, _) if *allow => confirmation(id, Decision::Allow, None),
                    (true, _) => confirmation(id, Decision::Deny, Some("no")),
                    (false, true) => custom_result(id, content, is_error),
                    (false, false) => tool_result(id, content, is_error),
                }
            }
            Sent::Stray { call, kind } => {
                let calls = self.world.judge().calls();
                let id = match call % (calls.len() + 1) {
                    0 => event_id(777_777_777),
                    n => calls[n - 1].id.clone(),
                };
                let content = vec![ContentBlock::text(self.word())];
                match kind {
                    StrayKind::Result => tool_result(id, content, false),
                    StrayKind::Custom => custom_result(id, content, false),
                    StrayKind::Allow => confirmation(id, Decision::Allow, None),
                    StrayKind::Deny => confirmation(id, Decision::Deny, None),
                }
            }
        }
    }

    fn content(&mut self, content: Content) -> (Vec<ContentBlock>, bool) {
        let text = ContentBlock::text(self.word());
        match content {
            Content::Text => (vec![text], false),
            Content::Nothing => (vec![], false),
            Content::Blank => (vec![ContentBlock::text("\n"), image()], false),
            Content::EmptyText => (vec![text, ContentBlock::text("")], false),
            Content::Error => (vec![text], true),
            Content::ErrorWithPicture => (vec![image(), text], true),
            Content::Redacted => (vec![ContentBlock::Redacted {}], false),
        }
    }

    fn block(&mut self, block: Block) -> Value {
        let word = self.word();
        match block {
            Block::Text => text(&word),
            Block::EmptyText => text(""),
            Block::Blank => text("\n\n"),
            Block::Thinking => thinking(&word),
            Block::Redacted => json!({"type": "redacted_thinking", "data": word}),
            Block::Call(name) => call(&format!("toolu_{}", self.words), name),
        }
    }

    /// Answers everything that is asked until nobody is asked any more.
    fn drive(&mut self) {
        self.world.lose_next_commit = false;
        for _ in 0..1000 {
            match self.world.go() {
                Effect::AskModel(_) | Effect::AwaitModel => self.world.answer_only(says("done"), &Default::default()),
                Effect::CancelModel => self.world.answer_only(partial(vec![text("do")]), &Default::default()),
                Effect::WaitUntil(at) => self.world.now = self.world.now.max(at),
                Effect::ConnectServers => self.world.catalog = Some(Catalog::new(notes())),
                Effect::CallTools(calls) => self.world.mcp_answer_only(&calls[0].id, "done", false),
                Effect::Rest => {
                    let open = self.world.judge().calls().iter().find(|c| !c.settled());
                    let Some(open) = open else { return };
                    let content = vec![ContentBlock::text("result")];
                    let (event, by) = match (open.asks && !open.allowed, open.custom) {
                        (true, _) => (confirmation(open.id.clone(), Decision::Allow, None), Submitter::Client),
                        (false, true) => (custom_result(open.id.clone(), content, false), Submitter::Client),
                        (false, false) => (tool_result(open.id.clone(), content, false), Submitter::Worker),
                    };
                    self.world
                        .submit_as(vec![event], by)
                        .expect("the answer to an open call is accepted");
                }
            }
        }
        panic!("the session does not come to rest: {:?}", self.world.lines());
    }

    /// Drives the session to its rest and checks that nothing is missing.
    pub fn finish(mut self, archive: bool) {
        if archive && self.world.session.status() == Status::Idle {
            self.world.lose_next_commit = false;
            self.world.archive().expect("a session at rest can be archived");
            assert_eq!(self.world.go(), Effect::Rest);
            self.check_accepted();
            self.world.check_json();
            return;
        }
        self.drive();
        assert_eq!(self.world.session.status(), Status::Idle);
        assert!(
            !matches!(
                self.world.session.idle_reason(),
                Some(IdleReason::RequiresAction { .. })
            ),
            "it asks for answers that it has"
        );
        assert!(self.world.session.queued_ids().is_empty());
        let view = self.world.session.view();
        assert!(!view.needs_owner && view.retry_at.is_none() && !self.world.session.needs_worker());
        for call in self.world.judge().calls() {
            assert_eq!(
                call.results + usize::from(call.denied),
                1,
                "{} has not exactly one answer",
                call.id
            );
        }
        self.check_accepted();
        // The conversation goes on, and holds all that was said.
        let last = message(&self.word());
        self.world.send(vec![last]);
        if self.world.effect == Effect::ConnectServers {
            self.world.connect(notes());
        }
        assert!(matches!(self.world.effect, Effect::AskModel(_)));
        self.world.check_json();
    }

    /// Every accepted event is in the log, processed, once.
    fn check_accepted(&self) {
        let processed: Vec<&EventId> = self
            .world
            .log
            .iter()
            .filter(|e| e.event.processed_at.is_some())
            .map(|e| &e.event.id)
            .collect();
        let once: HashSet<&EventId> = processed.iter().copied().collect();
        assert_eq!(once.len(), processed.len(), "an event was processed twice");
        for id in &self.accepted {
            assert!(once.contains(id), "{id} was accepted and is lost");
        }
    }
}

fn whole(content: Vec<Value>, stop: &StopReason) -> ModelAnswer {
    let calls = content.iter().any(|b| b["type"] == "tool_use");
    match stop {
        StopReason::ToolUse if !calls => answer(content, StopReason::EndTurn),
        // A provider that pauses before it says anything is refused before the session sees it.
        StopReason::PauseTurn if content.is_empty() => answer(content, StopReason::EndTurn),
        stop => answer(content, stop.clone()),
    }
}
