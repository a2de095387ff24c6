//! Random lives of a session: clients, workers, a model and a clock that do anything at any time, commits that
//! fail and processes that die. What must hold is checked by the world at every commit and by [`finish`] at the end.

mod world;

use std::collections::HashSet;

use outwork_engine::{Effect, Session, Status, Submitter};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::event::{Decision, IdleReason, SystemBlock};
use outwork_wire::id::EventId;
use outwork_wire::model::{FailureKind, ModelAnswer, StopReason};
use outwork_wire::{ContentBlock, EventParams};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use world::World;
use world::build::{
    CUSTOM, answer, call, confirmation, custom_result, event_id, failure, failure_after, image, message, partial, says,
    text, thinking, tool_result,
};

/// One thing that happens to a session.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody sends a batch, or if it is not said who, somebody who may send its first event; `joined` commits
    /// it together with what follows from it.
    Submit { batch: Vec<Sent>, by: Option<Submitter>, joined: bool },
    /// The model answers, if it was asked.
    Answer { blocks: Vec<Block>, stop: StopReason },
    /// The model request fails, if there is one.
    Fail { kind: FailureKind, after: Option<u64> },
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
enum Sent {
    Message,
    System { blank: bool },
    Interrupt { other_thread: bool },
    /// What a well-behaved client or worker sends for an open call.
    Fitting { call: usize, allow: bool, content: Content },
    /// An answer to any call, open or not, or to none.
    Stray { call: usize, kind: StrayKind },
    /// A message that no model takes.
    BadMessage { content: Content },
}

#[derive(Clone, Copy, Debug)]
enum StrayKind {
    Result,
    Custom,
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug)]
enum Content {
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
enum Block {
    Text,
    EmptyText,
    Blank,
    Thinking,
    Redacted,
    Call(&'static str),
}

/// A world, and what its players know.
struct Life {
    world: World,
    accepted: Vec<EventId>,
    words: u32,
}

impl Life {
    fn new(environment: EnvironmentKind) -> Self {
        let mut world = World::new(environment);
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

    fn step(&mut self, step: &Step) {
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
            Step::Crash => self.world.crash(),
            Step::LoseCommit => self.world.lose_next_commit = true,
            Step::Update { title, tools } => {
                let change = outwork_engine::SessionChange {
                    title: Some((*title > 0).then(|| format!("title {title}"))),
                    metadata: None,
                    tools: tools.then(|| {
                        let mut tools = world::build::agent().tools;
                        tools.truncate(1 + usize::from(*title % 2));
                        tools
                    }),
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
                Effect::Rest => {
                    let open = self.world.judge().calls().iter().find(|c| !c.settled());
                    let Some(open) = open else { return };
                    let content = vec![ContentBlock::text("result")];
                    let (event, by) = match (open.asks && !open.allowed, open.custom) {
                        (true, _) => (confirmation(open.id.clone(), Decision::Allow, None), Submitter::Client),
                        (false, true) => (custom_result(open.id.clone(), content, false), Submitter::Client),
                        (false, false) => (tool_result(open.id.clone(), content, false), Submitter::Worker),
                    };
                    self.world.submit_as(vec![event], by).expect("the answer to an open call is accepted");
                }
            }
        }
        panic!("the session does not come to rest: {:?}", self.world.lines());
    }

    /// Drives the session to its rest and checks that nothing is missing.
    fn finish(mut self, archive: bool) {
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
            !matches!(self.world.session.idle_reason(), Some(IdleReason::RequiresAction { .. })),
            "it asks for answers that it has"
        );
        assert!(self.world.session.queued_ids().is_empty());
        let view = self.world.session.view();
        assert!(!view.needs_owner && view.retry_at.is_none() && !self.world.session.needs_worker());
        for call in self.world.judge().calls() {
            assert_eq!(call.results + usize::from(call.denied), 1, "{} has not exactly one answer", call.id);
        }
        self.check_accepted();
        // The conversation goes on, and holds all that was said.
        let last = message(&self.word());
        self.world.send(vec![last]);
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
        stop => answer(content, stop.clone()),
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let content = select(vec![
        Content::Text,
        Content::Text,
        Content::Text,
        Content::Nothing,
        Content::Blank,
        Content::Error,
        Content::ErrorWithPicture,
    ]);
    let bad = select(vec![Content::Nothing, Content::Blank, Content::EmptyText, Content::Redacted]);
    let stray = select(vec![StrayKind::Result, StrayKind::Custom, StrayKind::Allow, StrayKind::Deny]);
    prop_oneof![
        4 => Just(Sent::Message),
        8 => (0..6usize, any::<bool>(), content).prop_map(|(call, allow, content)| Sent::Fitting { call, allow, content }),
        2 => proptest::bool::weighted(0.1).prop_map(|other_thread| Sent::Interrupt { other_thread }),
        1 => proptest::bool::weighted(0.2).prop_map(|blank| Sent::System { blank }),
        1 => (0..12usize, stray).prop_map(|(call, kind)| Sent::Stray { call, kind }),
        1 => bad.prop_map(|content| Sent::BadMessage { content }),
    ]
}

fn batch() -> impl Strategy<Value = Vec<Sent>> {
    prop_oneof![
        6 => sent().prop_map(|sent| vec![sent]),
        // The usual company of a system message.
        1 => sent().prop_map(|sent| vec![sent, Sent::System { blank: false }]),
        3 => prop::collection::vec(sent(), 0..5),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        4 => Just(Block::Text),
        1 => select(vec![Block::EmptyText, Block::Blank, Block::Redacted]),
        2 => Just(Block::Thinking),
        6 => select(vec!["bash", "read", "write", "write", "edit", "no_such_tool", CUSTOM, CUSTOM]).prop_map(Block::Call),
    ]
}

fn stop() -> impl Strategy<Value = StopReason> {
    prop_oneof![
        8 => Just(StopReason::ToolUse),
        2 => Just(StopReason::EndTurn),
        2 => select(vec![
            StopReason::MaxTokens,
            StopReason::Refusal,
            StopReason::Refusal,
            StopReason::PauseTurn,
            StopReason::ModelContextWindowExceeded,
            StopReason::Other("new".into()),
        ]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let by = select(vec![None, None, None, None, Some(Submitter::Client), Some(Submitter::Worker)]);
    let kind = prop_oneof![
        5 => select(vec![FailureKind::Overloaded, FailureKind::RateLimited, FailureKind::Cut, FailureKind::Nonsense]),
        1 => select(vec![FailureKind::Rejected, FailureKind::Billing, FailureKind::TooLong]),
    ];
    prop_oneof![
        14 => (batch(), by, any::<bool>()).prop_map(|(batch, by, joined)| Step::Submit { batch, by, joined }),
        10 => (prop::collection::vec(block(), 0..6), stop()).prop_map(|(blocks, stop)| Step::Answer { blocks, stop }),
        4 => (kind, prop::option::of(0..1000u64)).prop_map(|(kind, after)| Step::Fail { kind, after }),
        3 => prop_oneof![0..1000i64, 1000..700_000i64, -5000..0i64].prop_map(|millis| Step::Pass { millis }),
        2 => Just(Step::Crash),
        1 => Just(Step::LoseCommit),
        1 => (0..3u8, any::<bool>()).prop_map(|(title, tools)| Step::Update { title, tools }),
    ]
}

/// Steps, each with whether the loop gets its turn after it.
fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    prop::collection::vec((step(), proptest::bool::weighted(0.8)), 1..80)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(128)
    }
}

fn live(environment: EnvironmentKind, steps: &[(Step, bool)]) -> Life {
    let mut life = Life::new(environment);
    for (step, go) in steps {
        life.step(step);
        if *go {
            life.world.go();
        }
    }
    life
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_session_on_the_owners_workers_keeps_every_promise(steps in steps(), archive in proptest::bool::weighted(0.2)) {
        live(EnvironmentKind::SelfHosted, &steps).finish(archive);
    }

    #[test]
    fn a_session_in_the_cloud_keeps_every_promise(steps in steps(), archive in proptest::bool::weighted(0.2)) {
        live(EnvironmentKind::Cloud, &steps).finish(archive);
    }

    #[test]
    fn a_damaged_log_is_an_error_and_no_panic(
        steps in steps(),
        removed in any::<prop::sample::Index>(),
        swapped in any::<prop::sample::Index>(),
    ) {
        let world = live(EnvironmentKind::SelfHosted, &steps).world;
        let mut log = world.stored();
        prop_assume!(log.len() > 1);
        log.remove(removed.index(log.len()));
        let _ = Session::fold(world.genesis.clone(), &log);
        let other = swapped.index(log.len());
        log.swap(0, other);
        let _ = Session::fold(world.genesis.clone(), &log);
    }
}

/// The lives above prove nothing about what they never meet.
#[test]
fn random_lives_meet_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut met: HashSet<String> = HashSet::new();
    for life in 0..160 {
        let environment = match life % 2 {
            0 => EnvironmentKind::SelfHosted,
            _ => EnvironmentKind::Cloud,
        };
        let steps = steps().new_tree(&mut runner).expect("steps can be made").current();
        let mut world = live(environment, &steps).world;
        // Ids of calls say nothing here.
        met.extend(world.lines().iter().map(|line| {
            let words = line.split(' ').filter(|word| !word.contains("toolu_") && !word.starts_with(|c: char| c.is_ascii_digit()));
            words.take(3).collect::<Vec<_>>().join(" ")
        }));
    }
    for wanted in [
        "queued: user.message word",
        "queued: user.interrupt",
        "queued: user.tool_result ok",
        "queued: user.tool_result error",
        "queued: user.custom_tool_result ok",
        "queued: system.message",
        "user.tool_result ok",
        "user.tool_result error",
        "agent.tool_result ok",
        "agent.tool_result error",
        "user.custom_tool_result ok",
        "user.tool_confirmation allow",
        "user.tool_confirmation deny",
        "agent.thinking",
        "agent.tool_use bash allow",
        "agent.tool_use write ask",
        "agent.tool_use edit deny",
        "agent.custom_tool_use look_up_order",
        "span.model_request_end",
        "span.model_request_end error",
        "session.error model_overloaded_error retrying",
        "session.error model_request_failed_error exhausted",
        "session.error billing_error terminal",
        "session.status_rescheduled",
        "session.status_idle end_turn",
        "session.status_idle requires_action",
        "session.status_idle retries_exhausted",
        "session.status_idle refusal",
        "session.updated",
    ] {
        assert!(met.contains(wanted), "no life met `{wanted}`: {met:#?}");
    }
}
