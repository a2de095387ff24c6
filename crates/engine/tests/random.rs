//! Random lives of a session: clients, workers, a model and a clock that do anything at any time, commits that
//! fail and processes that die. What must hold is checked by the world at every commit and by [`life::Life::finish`] at the end.

mod life;
mod world;

use std::collections::HashSet;

use life::{Block, Content, Life, Sent, Step, StrayKind};
use outwork_engine::{Session, Submitter};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::model::{FailureKind, StopReason};
use proptest::prelude::*;
use proptest::sample::select;
use world::build::CUSTOM;

const FIND: &str = "mcp__notes__find";
const ADD: &str = "mcp__notes__add";
const SEND: &str = "mcp__notes__send";

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
    let bad = select(vec![
        Content::Nothing,
        Content::Blank,
        Content::EmptyText,
        Content::Redacted,
    ]);
    let stray = select(vec![
        StrayKind::Result,
        StrayKind::Custom,
        StrayKind::Allow,
        StrayKind::Deny,
    ]);
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
        1 => sent().prop_map(|sent| vec![sent, Sent::Interrupt { other_thread: false }]),
        3 => prop::collection::vec(sent(), 0..5),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        4 => Just(Block::Text),
        1 => select(vec![Block::EmptyText, Block::Blank, Block::Redacted]),
        2 => Just(Block::Thinking),
        6 => select(vec!["bash", "read", "write", "write", "edit", "no_such_tool", CUSTOM, CUSTOM, FIND, FIND, ADD, SEND, "mcp__notes__drop"]).prop_map(Block::Call),
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
    let by = select(vec![
        None,
        None,
        None,
        None,
        Some(Submitter::Client),
        Some(Submitter::Worker),
    ]);
    let kind = prop_oneof![
        5 => select(vec![FailureKind::Overloaded, FailureKind::RateLimited, FailureKind::Cut, FailureKind::Nonsense]),
        1 => select(vec![FailureKind::Rejected, FailureKind::Billing, FailureKind::TooLong]),
    ];
    prop_oneof![
        14 => (batch(), by, any::<bool>()).prop_map(|(batch, by, joined)| Step::Submit { batch, by, joined }),
        10 => (prop::collection::vec(block(), 0..6), stop()).prop_map(|(blocks, stop)| Step::Answer { blocks, stop }),
        4 => (kind, prop::option::of(0..1000u64)).prop_map(|(kind, after)| Step::Fail { kind, after }),
        12 => (0..6usize, any::<bool>()).prop_map(|(call, is_error)| Step::Mcp { call, is_error }),
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
        ..ProptestConfig::with_cases(96)
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
    for life in 0..400 {
        let environment = match life % 2 {
            0 => EnvironmentKind::SelfHosted,
            _ => EnvironmentKind::Cloud,
        };
        let steps = steps().new_tree(&mut runner).expect("steps can be made").current();
        let mut world = live(environment, &steps).world;
        // Ids of calls say nothing here.
        met.extend(world.lines().iter().map(|line| {
            let words = line
                .split(' ')
                .filter(|word| !word.contains("toolu_") && !word.starts_with(|c: char| c.is_ascii_digit()));
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
        "agent.mcp_tool_use notes/find allow",
        "agent.mcp_tool_use notes/send ask",
        "agent.mcp_tool_result ok",
        "agent.mcp_tool_result error",
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
