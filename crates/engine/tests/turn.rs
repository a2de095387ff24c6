//! One turn without tools: what wakes a session, what an answer becomes, and how the turn ends.

mod world;

use outwork_engine::{Effect, PreviewIds, Status};
use outwork_wire::event::{IdleReason, RefusalCategory, SessionErrorKind};
use outwork_wire::model::{ModelUsage, StopReason};
use outwork_wire::{ContentBlock, EventBody, EventParams};
use serde_json::json;
use world::build::{answer, call, calls, event_id, message, partial, says, text, thinking};
use world::{World, rests};

#[test]
fn a_message_wakes_the_session_in_the_order_of_the_wire() {
    let mut world = World::self_hosted();
    let events = world.submit(vec![message("hello")]).unwrap();
    assert_eq!(events[0].processed_at, None);
    world.expect(&["queued: user.message hello"]);
    assert!(matches!(world.go(), Effect::AskModel(_)));
    world.expect(&[
        "session.status_running",
        "session.thread_status_running",
        "user.message hello",
        "span.model_request_start",
    ]);
    let times: Vec<i64> = world.log[1..]
        .iter()
        .map(|e| e.event.processed_at.unwrap().as_micros() - world.now.as_micros())
        .collect();
    assert_eq!(
        times,
        [0, 1, 2, 3],
        "entries of one moment follow each other by a microsecond"
    );
    assert_eq!(world.log[3].event.id, events[0].id, "the message keeps its id");
    assert_eq!(world.go(), Effect::AwaitModel);
    world.expect(&[]);
}

#[test]
fn an_answer_ends_the_turn() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    world.skip();
    world.answer(says("good day"));
    world.expect(&[
        "agent.message good day",
        "span.model_request_end",
        "session.usage",
        "session.thread_status_idle end_turn",
        "session.status_idle end_turn",
    ]);
    assert_eq!(world.effect, Effect::Rest);
    world.send(vec![message("and now?")]);
    assert_eq!(
        world.conversation(),
        [r#"user: "hello""#, r#"assistant: "good day""#, r#"user: "and now?""#]
    );
}

#[test]
fn messages_of_one_batch_start_one_turn() {
    let mut world = World::self_hosted();
    world.send(vec![message("one"), message("two")]);
    world.expect(&[
        "queued: user.message one",
        "queued: user.message two",
        "session.status_running",
        "session.thread_status_running",
        "user.message one",
        "user.message two",
        "span.model_request_start",
    ]);
    assert_eq!(world.conversation(), [r#"user: "one", "two""#]);
}

#[test]
fn a_message_waits_while_the_model_runs_and_is_answered_in_the_same_run() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    let events = world.send(vec![message("two")]);
    assert_eq!(events[0].processed_at, None);
    assert_eq!(world.effect, Effect::AwaitModel);
    assert_eq!(world.session.queued_ids(), [events[0].id.clone()]);
    world.skip();
    world.pass_millis(500);
    world.answer(says("first"));
    world.expect(&[
        "agent.message first",
        "span.model_request_end",
        "user.message two",
        "span.model_request_start",
    ]);
    assert!(world.session.queued_ids().is_empty());
    let taken_up = world.log.iter().rfind(|e| e.event.id == events[0].id).unwrap();
    assert!(
        taken_up.created_at < taken_up.event.processed_at.unwrap(),
        "it was made before it was taken up"
    );
    assert_eq!(
        world.conversation(),
        [r#"user: "one""#, r#"assistant: "first""#, r#"user: "two""#]
    );
}

#[test]
fn the_usage_before_each_idle_sums_tokens_and_time_at_work() {
    let mut world = World::self_hosted();
    for (turn, seconds) in [(1, 2.0), (2, 5.0)] {
        world.send(vec![message("go")]);
        world.pass_millis(if turn == 1 { 2000 } else { 3000 });
        world.answer(says("done"));
        // Time at rest does not count.
        world.pass_millis(60_000);
        let usage = world
            .log
            .iter()
            .rev()
            .find_map(|e| match &e.event.body {
                EventBody::SessionUsage { usage } => Some(*usage),
                _ => None,
            })
            .unwrap();
        assert_eq!(usage.input_tokens, 100 * turn);
        assert_eq!(usage.output_tokens, 20 * turn);
        assert_eq!(usage.cache_read_input_tokens, 50 * turn);
        assert_eq!(usage.cache_creation.ephemeral_5m_input_tokens, 4 * turn);
        assert_eq!(usage.cache_creation.ephemeral_1h_input_tokens, 3 * turn);
        assert!(
            (usage.active_seconds - seconds).abs() < 0.001,
            "{}",
            usage.active_seconds
        );
        let shown = world.session.view().usage;
        assert_eq!(shown.input_tokens, usage.input_tokens);
        assert!((shown.active_seconds - usage.active_seconds).abs() < 0.001);
    }
}

#[test]
fn a_span_shows_the_tokens_of_its_request() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(says("done"));
    let span = world.log.iter().find_map(|e| match &e.event.body {
        EventBody::ModelRequestEnd { model_usage, .. } => Some(*model_usage),
        _ => None,
    });
    let span = span.unwrap();
    assert_eq!(
        (
            span.input_tokens,
            span.output_tokens,
            span.cache_read_input_tokens,
            span.cache_creation_input_tokens
        ),
        (100, 20, 50, 7)
    );
}

#[test]
fn a_refusal_rests_with_its_details() {
    for (details, category, explanation) in [
        (
            Some(json!({"type": "refusal", "category": "cyber", "explanation": "no"})),
            Some(RefusalCategory::Cyber),
            Some("no"),
        ),
        (
            Some(json!({"type": "refusal", "category": "a new one", "explanation": null})),
            None,
            None,
        ),
        (None, None, None),
    ] {
        let mut world = World::self_hosted();
        world.send(vec![message("hello")]);
        world.skip();
        let mut refusal = answer(vec![text("I will not.")], StopReason::Refusal);
        refusal.stop_details = details;
        world.answer(refusal);
        world.expect(&[
            "agent.message I will not.",
            "span.model_request_end",
            "session.usage",
            "session.thread_status_idle refusal",
            "session.status_idle refusal",
        ]);
        let Some(EventBody::StatusIdle {
            stop_details: Some(found),
            ..
        }) = world.log.last().map(|e| &e.event.body)
        else {
            panic!("no details: {:?}", world.log.last())
        };
        assert_eq!((found.category, found.explanation.as_deref()), (category, explanation));
        world.send(vec![message("then another thing")]);
        world.answer(says("gladly"));
        assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
    }
}

#[test]
fn a_paused_turn_goes_on_with_the_same_conversation() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    world.skip();
    world.answer(answer(vec![text("so far")], StopReason::PauseTurn));
    world.expect(&[
        "agent.message so far",
        "span.model_request_end",
        "span.model_request_start",
    ]);
    assert_eq!(world.conversation(), [r#"user: "hello""#, r#"assistant: "so far""#]);
    world.answer(says("and on"));
    world.send(vec![message("thanks")]);
    assert_eq!(
        world.conversation(),
        [
            r#"user: "hello""#,
            r#"assistant: "so far", "and on""#,
            r#"user: "thanks""#
        ]
    );
}

#[test]
fn other_ends_of_an_answer_end_the_turn() {
    for stop in [
        StopReason::MaxTokens,
        StopReason::StopSequence,
        StopReason::ModelContextWindowExceeded,
        StopReason::Other("something_new".into()),
    ] {
        let mut world = World::self_hosted();
        world.send(vec![message("hello")]);
        world.answer(answer(vec![text("cut of")], stop));
        assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
        assert_eq!(world.effect, Effect::Rest);
        world.send(vec![message("go on")]);
        assert_eq!(world.conversation().len(), 3);
    }
}

#[test]
fn an_answer_without_anything_to_keep_leaves_no_hole_in_the_conversation() {
    for content in [
        vec![],
        vec![text("")],
        vec![text(" \n")],
        vec![thinking("hm")],
        vec![thinking("hm"), text("\n\n")],
    ] {
        let mut world = World::self_hosted();
        world.send(vec![message("hello")]);
        world.answer(answer(content, StopReason::MaxTokens));
        assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
        world.send(vec![message("still there?")]);
        assert_eq!(world.conversation(), [r#"user: "hello", "still there?""#]);
    }
}

#[test]
fn an_empty_text_block_is_no_message() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    world.skip();
    world.answer(answer(
        vec![text(""), text("a"), text(""), text("b")],
        StopReason::EndTurn,
    ));
    let lines = world.lines();
    assert_eq!(lines[0], "agent.message a|b");
    assert_eq!(lines[1], "span.model_request_end");
}

#[test]
fn previews_keep_their_ids_in_the_log() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    let mark = world.log.len();
    let previews = PreviewIds::from([(0, event_id(901)), (1, event_id(902)), (4, event_id(903))]);
    let content = vec![
        thinking("hm"),
        text("a"),
        text("b"),
        call("toolu_1", "bash"),
        text("c"),
        call("toolu_2", "bash"),
    ];
    world.answer_only(answer(content, StopReason::ToolUse), &previews);
    let found: Vec<(&str, bool)> = world.log[mark..]
        .iter()
        .map(|e| (e.event.body.kind(), previews.values().any(|id| *id == e.event.id)))
        .collect();
    assert_eq!(
        found,
        [
            ("agent.thinking", true),
            ("agent.message", true),
            ("agent.tool_use", false),
            ("agent.message", true),
            ("agent.tool_use", false),
            ("span.model_request_end", false),
        ]
    );
    assert_eq!(world.log[mark].event.id, event_id(901));
    assert_eq!(world.log[mark + 1].event.id, event_id(902));
    assert_eq!(world.log[mark + 3].event.id, event_id(903));
}

#[test]
fn previews_of_a_partial_answer_keep_their_ids_too() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    let mark = world.log.len();
    let previews = PreviewIds::from([(0, event_id(901)), (1, event_id(902)), (3, event_id(903))]);
    let content = vec![thinking("hm"), text("a"), call("toolu_1", "bash"), text("b")];
    world.answer_only(partial(content), &previews);
    let message_with = |text: &str| {
        world.log[mark..]
            .iter()
            .find(|e| matches!(&e.event.body, EventBody::AgentMessage { content } if *content == [ContentBlock::text(text)]))
            .map(|e| e.event.id.clone())
    };
    assert_eq!(message_with("a"), Some(event_id(902)));
    assert_eq!(message_with("b"), Some(event_id(903)));
    assert!(
        world.judge().calls().is_empty(),
        "the call of a partial answer was never made"
    );
}

#[test]
fn an_answer_that_nobody_waits_for_is_ignored() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    world.answer(says("done"));
    let before = world.session.clone();
    world.requesting = true;
    world.answer_only(says("too late"), &PreviewIds::new());
    assert_eq!(world.session, before);
}

#[test]
fn a_lost_request_is_ended_and_asked_again() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    let asked = world.request.clone();
    world.skip();
    world.crash();
    assert!(world.session.view().needs_owner);
    world.go();
    world.expect(&["span.model_request_end error", "span.model_request_start"]);
    assert_eq!(world.request, asked, "the same conversation is sent again");
    world.answer(says("done"));
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
}

#[test]
fn nonsense_is_told_from_an_answer() {
    let good = calls(&[("toolu_1", "bash"), ("toolu_2", "bash")]);
    assert!(outwork_engine::validate_answer(&good).is_ok());
    for (content, stop, word) in [
        (
            vec![json!({"type": "tool_use", "name": "bash", "input": {}})],
            StopReason::ToolUse,
            "id",
        ),
        (
            vec![json!({"type": "tool_use", "id": "", "name": "bash", "input": {}})],
            StopReason::ToolUse,
            "id",
        ),
        (vec![call("a", "bash"), call("a", "bash")], StopReason::ToolUse, "id"),
        (
            vec![json!({"type": "tool_use", "id": "a", "input": {}})],
            StopReason::ToolUse,
            "name",
        ),
        (
            vec![json!({"type": "tool_use", "id": "a", "name": "b", "input": []})],
            StopReason::ToolUse,
            "input",
        ),
        (vec![text("hello")], StopReason::ToolUse, "no tool"),
        (vec![json!({"text": "no type"})], StopReason::EndTurn, "type"),
        (vec![json!("no object")], StopReason::EndTurn, "type"),
    ] {
        let error = outwork_engine::validate_answer(&answer(content, stop)).unwrap_err();
        assert_eq!(error.kind, outwork_wire::model::FailureKind::Nonsense);
        assert!(error.message.contains(word), "{}", error.message);
    }
}

#[test]
fn a_message_may_hold_pictures() {
    let mut world = World::self_hosted();
    world.send(vec![EventParams::UserMessage {
        content: vec![world::build::image(), ContentBlock::text("what is this?")],
    }]);
    assert_eq!(world.conversation(), [r#"user: image, "what is this?""#]);
}

#[test]
fn tokens_of_a_partial_answer_count() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    let mut cut = partial(vec![]);
    cut.usage = ModelUsage {
        output_tokens: 9,
        ..ModelUsage::default()
    };
    world.answer(cut);
    assert_eq!(world.session.view().usage.output_tokens, 9);
}

/// The error that ended the turn, if one did.
fn limit(world: &World) -> Option<String> {
    world.log.iter().rev().find_map(|entry| match &entry.event.body {
        EventBody::SessionError { error } if error.kind == SessionErrorKind::ToolUseLimitReachedError => {
            Some(error.message.clone())
        }
        _ => None,
    })
}

#[test]
fn a_model_that_only_pauses_is_not_asked_for_ever() {
    let mut world = World::self_hosted();
    world.send(vec![message("hello")]);
    for _ in 0..16 {
        assert!(matches!(world.effect, Effect::AskModel(_)));
        world.answer(answer(vec![text("hm")], StopReason::PauseTurn));
    }
    assert_eq!(world.effect, Effect::Rest);
    assert!(limit(&world).is_some_and(|message| message.contains("16 times")));
    world.send(vec![message("go on")]);
    assert!(matches!(world.effect, Effect::AskModel(_)), "another message goes on");
}

#[test]
fn a_model_that_only_calls_tools_it_lacks_is_not_asked_for_ever() {
    let mut world = World::cloud();
    world.send(vec![message("hello")]);
    for round in 0..16 {
        assert!(matches!(world.effect, Effect::AskModel(_)), "round {round}");
        world.answer(answer(
            vec![call(&format!("toolu_{round}"), "no_such_tool")],
            StopReason::ToolUse,
        ));
    }
    assert_eq!(world.effect, Effect::Rest);
    assert!(limit(&world).is_some());
}

#[test]
fn a_turn_has_a_limit_of_requests_and_results_do_not_lift_it() {
    let mut world = World::self_hosted();
    world.options.max_turn_requests = 3;
    world.send(vec![message("hello")]);
    for round in 0..3 {
        assert!(matches!(world.effect, Effect::AskModel(_)), "round {round}");
        let id = format!("toolu_{round}");
        world.answer(answer(vec![call(&id, "bash")], StopReason::ToolUse));
        world.send(vec![world.result(&id, "done")]);
    }
    assert_eq!(world.effect, Effect::Rest);
    assert!(limit(&world).is_some_and(|message| message.contains("max_turn_requests")));
    world.send(vec![message("go on")]);
    assert!(matches!(world.effect, Effect::AskModel(_)));
}
