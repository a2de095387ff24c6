//! Interrupts: whatever is under way ends, the session rests with `end_turn`, and what waits behind goes on.

mod world;

use outwork_engine::{Effect, Status};
use outwork_wire::EventBody;
use outwork_wire::event::IdleReason;
use outwork_wire::model::FailureKind;
use world::build::{CUSTOM, call, calls, failure, interrupt, message, partial, says, text, thinking};
use world::{World, rests};

const REST: [&str; 4] = [
    "user.interrupt",
    "session.usage",
    "session.thread_status_idle end_turn",
    "session.status_idle end_turn",
];

#[test]
fn of_a_model_request() {
    let mut world = World::self_hosted();
    world.send(vec![message("tell me a story")]);
    world.skip();
    let events = world.send(vec![interrupt()]);
    assert_eq!(events[0].processed_at, None);
    assert_eq!(world.effect, Effect::CancelModel);
    assert_eq!(
        world.go(),
        Effect::CancelModel,
        "it is said until the request has ended"
    );
    world.expect(&["queued: user.interrupt"]);
    world.answer(partial(vec![
        thinking("which?"),
        text("Once upon"),
        call("toolu_1", "bash"),
    ]));
    let lines = world.lines();
    assert!(lines.contains(&"agent.message Once upon".to_owned()), "{lines:?}");
    assert!(lines.ends_with(&REST.map(str::to_owned)), "{lines:?}");
    assert!(
        world.judge().calls().is_empty(),
        "a call of a partial answer was never made"
    );
    assert_eq!(world.effect, Effect::Rest);
    world.send(vec![message("another one")]);
    assert_eq!(
        world.conversation(),
        [
            r#"user: "tell me a story""#,
            r#"assistant: "Once upon""#,
            r#"user: "another one""#
        ]
    );
}

#[test]
fn of_a_model_request_that_has_said_nothing_yet() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.send(vec![interrupt()]);
    world.skip();
    world.answer(partial(vec![]));
    world.expect(&[&["span.model_request_end"], &REST[..]].concat());
    world.send(vec![message("two")]);
    assert_eq!(world.conversation(), [r#"user: "one", "two""#]);
}

#[test]
fn of_a_model_request_that_fails_meanwhile() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.send(vec![interrupt()]);
    world.skip();
    world.fail(&failure(FailureKind::Connection));
    let lines = world.lines();
    assert!(lines.ends_with(&REST.map(str::to_owned)), "{lines:?}");
    assert_eq!(world.effect, Effect::Rest, "nothing is tried again");
    assert_eq!(world.session.view().retry_at, None);
}

#[test]
fn of_a_model_request_that_was_lost() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.submit(vec![interrupt()]).unwrap();
    world.skip();
    world.crash();
    world.go();
    world.expect(&[&["span.model_request_end error"], &REST[..]].concat());
    assert_eq!(world.effect, Effect::Rest);
}

#[test]
fn of_a_model_request_that_makes_calls_meanwhile() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.send(vec![interrupt()]);
    world.skip();
    world.answer(calls(&[("toolu_1", "bash"), ("toolu_2", "edit")]));
    world.expect(
        &[
            &[
                "agent.tool_use toolu_1 bash allow",
                "agent.tool_use toolu_2 edit deny",
                "span.model_request_end",
                "user.tool_result toolu_1 error",
            ],
            &REST[..],
        ]
        .concat(),
    );
}

#[test]
fn with_messages_behind_it() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.send(vec![interrupt(), message("do this instead")]);
    world.skip();
    world.answer(partial(vec![text("Well")]));
    world.expect(
        &[
            &["agent.message Well", "span.model_request_end"],
            &REST[..],
            &[
                "session.status_running",
                "session.thread_status_running",
                "user.message do this instead",
                "span.model_request_start",
            ],
        ]
        .concat(),
    );
}

#[test]
fn of_open_calls() {
    for (world, kind) in [
        (World::self_hosted(), "user.tool_result"),
        (World::cloud(), "agent.tool_result"),
    ] {
        let mut world = world;
        world.send(vec![message("one")]);
        world.answer(calls(&[("toolu_1", "bash"), ("toolu_2", "write"), ("toolu_3", CUSTOM)]));
        world.skip();
        world.send(vec![interrupt()]);
        let made_up = [
            "queued: user.interrupt".to_owned(),
            format!("{kind} toolu_1 error"),
            format!("{kind} toolu_2 error"),
            "user.custom_tool_result toolu_3 error".to_owned(),
        ];
        let lines: Vec<String> = made_up.into_iter().chain(REST.map(str::to_owned)).collect();
        assert_eq!(world.lines(), lines);
        assert_eq!(world.effect, Effect::Rest, "the model is not asked by itself");
        assert!(!world.session.needs_worker());
        world.send(vec![message("two")]);
        let told = world.conversation()[2].clone();
        assert_eq!(told.matches("interrupted").count(), 3, "{told}");
        assert!(told.ends_with(r#""two""#), "{told}");
    }
}

#[test]
fn of_open_calls_keeps_the_results_that_are_there() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.answer(calls(&[("toolu_1", "bash"), ("toolu_2", "bash"), ("toolu_3", "bash")]));
    world.send(vec![world.result("toolu_2", "b")]);
    world.skip();
    world.send(vec![interrupt()]);
    world.expect(
        &[
            &[
                "queued: user.interrupt",
                "user.tool_result toolu_1 error",
                "user.tool_result toolu_2 ok",
                "user.tool_result toolu_3 error",
            ],
            &REST[..],
        ]
        .concat(),
    );
    assert!(world.session.queued_ids().is_empty());
}

#[test]
fn of_open_calls_with_messages_before_and_behind_it() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.answer(calls(&[("toolu_1", "bash")]));
    world.send(vec![message("before")]);
    world.skip();
    world.send(vec![interrupt(), message("behind")]);
    world.expect(
        &[
            &[
                "queued: user.interrupt",
                "queued: user.message behind",
                "user.tool_result toolu_1 error",
            ],
            &REST[..],
            &[
                "session.status_running",
                "session.thread_status_running",
                "user.message before",
                "user.message behind",
                "span.model_request_start",
            ],
        ]
        .concat(),
    );
}

#[test]
fn of_a_session_that_waits_to_try_again() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.fail(&failure(FailureKind::Overloaded));
    assert_eq!(world.session.status(), Status::Rescheduling);
    world.skip();
    world.send(vec![interrupt()]);
    world.expect(&[&["queued: user.interrupt"], &REST[..]].concat());
    assert_eq!(
        (world.effect.clone(), world.session.view().retry_at),
        (Effect::Rest, None)
    );
    world.pass_millis(600_000);
    assert_eq!(world.go(), Effect::Rest, "the retry is off");
    world.send(vec![message("two")]);
    world.fail(&failure(FailureKind::Overloaded));
    assert_eq!(
        world.session.view().retry_at,
        Some(world.now.plus_micros(500_000)),
        "waits begin anew"
    );
}

#[test]
fn of_a_session_at_rest_changes_nothing() {
    let mut world = World::self_hosted();
    let events = world.send(vec![interrupt()]);
    assert!(events[0].processed_at.is_some());
    world.expect(&["user.interrupt"]);
    world.send(vec![message("one")]);
    world.answer(says("done"));
    world.skip();
    world.send(vec![interrupt()]);
    world.expect(&["user.interrupt"]);
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
}

#[test]
fn at_rest_lets_a_message_of_the_same_batch_run() {
    let mut world = World::self_hosted();
    world.send(vec![interrupt(), message("one")]);
    world.expect(&[
        "user.interrupt",
        "queued: user.message one",
        "session.status_running",
        "session.thread_status_running",
        "user.message one",
        "span.model_request_start",
    ]);
}

#[test]
fn right_behind_the_last_result_ends_the_turn() {
    for one_batch in [true, false] {
        let mut world = World::self_hosted();
        world.send(vec![message("one")]);
        world.answer(calls(&[("toolu_1", "bash")]));
        world.skip();
        let result = world.result("toolu_1", "a");
        if one_batch {
            world.send(vec![result, interrupt()]);
        } else {
            world.submit(vec![result]).unwrap();
            world.send(vec![interrupt()]);
        }
        world.expect(&[&["user.tool_result toolu_1 ok", "queued: user.interrupt"], &REST[..]].concat());
        assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
    }
}

#[test]
fn several_interrupts_are_one() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.send(vec![interrupt(), interrupt()]);
    world.skip();
    world.answer(partial(vec![]));
    world.expect(&[&["span.model_request_end", "user.interrupt"], &REST[..]].concat());
}

#[test]
fn says_to_the_model_that_the_outcome_is_unknown() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.answer(calls(&[("toolu_1", "bash")]));
    world.send(vec![interrupt()]);
    let made_up = world.log.iter().find_map(|e| match &e.event.body {
        EventBody::UserToolResult { content, is_error, .. } => Some((content.clone(), *is_error)),
        _ => None,
    });
    let (content, is_error) = made_up.unwrap();
    assert_eq!(is_error, Some(true));
    assert!(format!("{content:?}").contains("interrupted"), "{content:?}");
}
