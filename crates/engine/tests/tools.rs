//! Tool calls: where they run, who answers them, who is asked first, and in which order answers are taken.

mod world;

use outwork_engine::{Effect, Status, Submitter};
use outwork_wire::EventBody;
use outwork_wire::event::IdleReason;
use outwork_wire::model::StopReason;
use world::build::{CUSTOM, answer, call, calls, image, message, says, text, thinking, tool_result};
use world::{World, rests};

/// A world whose model has just made these calls.
fn called(mut world: World, list: &[(&str, &str)]) -> World {
    world.send(vec![message("go")]);
    world.skip();
    world.answer(calls(list));
    world
}

#[test]
fn a_tool_turn_on_the_owners_workers() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.skip();
    world.answer(answer(
        vec![text("let me see"), call("toolu_1", "bash")],
        StopReason::ToolUse,
    ));
    world.expect(&[
        "agent.message let me see",
        "agent.tool_use toolu_1 bash allow",
        "span.model_request_end",
        "session.usage",
        "session.thread_status_idle requires_action toolu_1",
        "session.status_idle requires_action toolu_1",
    ]);
    assert_eq!(world.effect, Effect::Rest);
    assert!(world.session.needs_worker());
    let events = world
        .submit_as(vec![world.result("toolu_1", "42")], Submitter::Worker)
        .unwrap();
    assert!(events[0].processed_at.is_some(), "a result is stamped on receipt");
    world.expect(&["user.tool_result toolu_1 ok"]);
    world.go();
    world.expect(&[
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
    assert_eq!(
        world.conversation(),
        [
            r#"user: "go""#,
            r#"assistant: "let me see", call toolu_1"#,
            r#"user: result toolu_1 "42""#
        ]
    );
    world.answer(says("it is 42"));
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
    assert!(!world.session.needs_worker());
}

#[test]
fn a_tool_turn_in_the_cloud_stays_running() {
    let mut world = called(World::cloud(), &[("toolu_1", "bash")]);
    world.expect(&["agent.tool_use toolu_1 bash allow", "span.model_request_end"]);
    assert_eq!(
        (world.session.status(), world.effect.clone()),
        (Status::Running, Effect::Rest)
    );
    assert!(world.session.needs_worker());
    let events = world
        .submit_as(vec![world.result("toolu_1", "42")], Submitter::Worker)
        .unwrap();
    assert!(events[0].processed_at.is_some());
    world.go();
    world.expect(&["agent.tool_result toolu_1 ok", "span.model_request_start"]);
    assert!(!world.session.needs_worker());
}

#[test]
fn results_of_the_cloud_are_processed_on_receipt_in_any_order() {
    let mut world = called(World::cloud(), &[("toolu_1", "bash"), ("toolu_2", "read")]);
    world.skip();
    for id in ["toolu_2", "toolu_1"] {
        world.submit_as(vec![world.result(id, id)], Submitter::Worker).unwrap();
        world.go();
    }
    world.expect(&[
        "agent.tool_result toolu_2 ok",
        "agent.tool_result toolu_1 ok",
        "span.model_request_start",
    ]);
    assert_eq!(
        world.conversation()[2],
        r#"user: result toolu_1 "toolu_1", result toolu_2 "toolu_2""#,
        "the model gets them in the order of its calls"
    );
}

#[test]
fn custom_tools_wait_for_the_client_everywhere() {
    for world in [World::self_hosted(), World::cloud()] {
        let mut world = called(world, &[("toolu_1", CUSTOM)]);
        world.expect(&[
            "agent.custom_tool_use toolu_1 look_up_order",
            "span.model_request_end",
            "session.usage",
            "session.thread_status_idle requires_action toolu_1",
            "session.status_idle requires_action toolu_1",
        ]);
        world.send(vec![world.custom_result("toolu_1", "shipped")]);
        world.expect(&[
            "user.custom_tool_result toolu_1 ok",
            "session.status_running",
            "session.thread_status_running",
            "span.model_request_start",
        ]);
    }
}

#[test]
fn the_cloud_asks_the_client_once_its_own_workers_are_done() {
    let mut world = called(
        World::cloud(),
        &[("toolu_1", "bash"), ("toolu_2", CUSTOM), ("toolu_3", "write")],
    );
    world.skip();
    assert_eq!(world.session.status(), Status::Running);
    world
        .submit_as(vec![world.result("toolu_1", "ok")], Submitter::Worker)
        .unwrap();
    world.go();
    world.expect(&[
        "agent.tool_result toolu_1 ok",
        "session.usage",
        "session.thread_status_idle requires_action toolu_2,toolu_3",
        "session.status_idle requires_action toolu_2,toolu_3",
    ]);
    assert!(!world.session.needs_worker());
    world.send(vec![world.allow("toolu_3")]);
    world.expect(&[
        "user.tool_confirmation toolu_3 allow",
        "session.status_running",
        "session.thread_status_running",
    ]);
    assert!(world.session.needs_worker());
    world
        .submit_as(vec![world.result("toolu_3", "ok")], Submitter::Worker)
        .unwrap();
    world.go();
    world.expect(&[
        "agent.tool_result toolu_3 ok",
        "session.usage",
        "session.thread_status_idle requires_action toolu_2",
        "session.status_idle requires_action toolu_2",
    ]);
    world.send(vec![world.custom_result("toolu_2", "ok")]);
    assert!(matches!(world.effect, Effect::AskModel(_)));
}

#[test]
fn an_allowed_call_is_announced_again_and_then_runs() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "write")]);
    world.expect(&[
        "agent.tool_use toolu_1 write ask",
        "span.model_request_end",
        "session.usage",
        "session.thread_status_idle requires_action toolu_1",
        "session.status_idle requires_action toolu_1",
    ]);
    let early = vec![world.result("toolu_1", "ok")];
    let refusal = world.refused(early, Submitter::Worker);
    assert!(refusal.contains("user.tool_confirmation"), "{refusal}");
    world.send(vec![world.allow("toolu_1")]);
    world.expect(&[
        "user.tool_confirmation toolu_1 allow",
        "session.status_running",
        "session.thread_status_running",
        "session.usage",
        "session.thread_status_idle requires_action toolu_1",
        "session.status_idle requires_action toolu_1",
    ]);
    world.send(vec![world.result("toolu_1", "written")]);
    world.expect(&[
        "user.tool_result toolu_1 ok",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
}

#[test]
fn a_denied_call_becomes_an_error_with_the_persons_words() {
    for (words, told) in [
        (Some("not this file"), "The user did not allow this call: not this file"),
        (Some(""), "The user did not allow this call."),
        (None, "The user did not allow this call."),
    ] {
        for world in [World::self_hosted(), World::cloud()] {
            let mut world = called(world, &[("toolu_1", "write")]);
            world.skip();
            world.send(vec![world.deny("toolu_1", words)]);
            world.expect(&[
                "user.tool_confirmation toolu_1 deny",
                "session.status_running",
                "session.thread_status_running",
                "span.model_request_start",
            ]);
            assert_eq!(world.conversation()[2], format!("user: error toolu_1 {told:?}"));
        }
    }
}

#[test]
fn each_partial_answer_says_what_is_left() {
    let mut world = called(
        World::self_hosted(),
        &[("toolu_1", "bash"), ("toolu_2", "write"), ("toolu_3", CUSTOM)],
    );
    world.skip();
    world.send(vec![world.result("toolu_1", "a")]);
    world.expect(&[
        "user.tool_result toolu_1 ok",
        "session.usage",
        "session.thread_status_idle requires_action toolu_2,toolu_3",
        "session.status_idle requires_action toolu_2,toolu_3",
    ]);
    world.send(vec![world.deny("toolu_2", None)]);
    world.expect(&[
        "user.tool_confirmation toolu_2 deny",
        "session.usage",
        "session.thread_status_idle requires_action toolu_3",
        "session.status_idle requires_action toolu_3",
    ]);
    world.send(vec![world.custom_result("toolu_3", "c")]);
    world.expect(&[
        "user.custom_tool_result toolu_3 ok",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
}

#[test]
fn a_result_out_of_order_waits_for_the_earlier_call() {
    let mut world = called(
        World::self_hosted(),
        &[("toolu_1", "bash"), ("toolu_2", "bash"), ("toolu_3", CUSTOM)],
    );
    world.skip();
    let events = world.send(vec![world.custom_result("toolu_3", "c"), world.result("toolu_2", "b")]);
    assert!(events.iter().all(|e| e.processed_at.is_none()));
    world.expect(&[
        "queued: user.custom_tool_result toolu_3 ok",
        "queued: user.tool_result toolu_2 ok",
        "session.usage",
        "session.thread_status_idle requires_action toolu_1",
        "session.status_idle requires_action toolu_1",
    ]);
    let twice = vec![world.result("toolu_2", "again")];
    let refusal = world.refused(twice, Submitter::Worker);
    assert!(refusal.contains("has its answer already"), "{refusal}");
    world.crash();
    world.pass_millis(10);
    let settled = world.send(vec![world.result("toolu_1", "a")]);
    assert!(settled[0].processed_at.is_some());
    world.expect(&[
        "user.tool_result toolu_1 ok",
        "user.tool_result toolu_2 ok",
        "user.custom_tool_result toolu_3 ok",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
    assert_eq!(
        world.conversation()[2],
        r#"user: result toolu_1 "a", result toolu_2 "b", result toolu_3 "c""#
    );
}

#[test]
fn a_denial_releases_the_results_behind_it() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "write"), ("toolu_2", "bash")]);
    world.send(vec![world.result("toolu_2", "b")]);
    world.skip();
    world.send(vec![world.deny("toolu_1", None)]);
    world.expect(&[
        "user.tool_confirmation toolu_1 deny",
        "user.tool_result toolu_2 ok",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
}

#[test]
fn one_batch_may_allow_a_call_and_bring_its_result() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "write")]);
    world.skip();
    world.send(vec![world.allow("toolu_1"), world.result("toolu_1", "ok")]);
    world.expect(&[
        "user.tool_confirmation toolu_1 allow",
        "user.tool_result toolu_1 ok",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
}

#[test]
fn messages_wait_behind_open_calls_and_follow_the_results() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "bash")]);
    world.skip();
    let events = world.send(vec![message("by the way")]);
    assert_eq!(events[0].processed_at, None);
    world.expect(&["queued: user.message by the way"]);
    world.send(vec![world.result("toolu_1", "a")]);
    world.expect(&[
        "user.tool_result toolu_1 ok",
        "session.status_running",
        "session.thread_status_running",
        "user.message by the way",
        "span.model_request_start",
    ]);
    assert_eq!(world.conversation()[2], r#"user: result toolu_1 "a", "by the way""#);
}

#[test]
fn unknown_and_disabled_tools_are_denied_without_asking_anybody() {
    for name in ["does_not_exist", "edit", "web_search", "web_fetch"] {
        for world in [World::self_hosted(), World::cloud()] {
            let mut world = called(world, &[("toolu_1", name)]);
            world.expect(&[
                &format!("agent.tool_use toolu_1 {name} deny"),
                "span.model_request_end",
                "span.model_request_start",
            ]);
            let told = world.conversation()[2].clone();
            assert!(told.starts_with("user: error toolu_1") && told.contains(name), "{told}");
            let answer = vec![world.result("toolu_1", "ok")];
            let refusal = world.refused(answer, Submitter::Worker);
            assert!(refusal.contains("has its answer already"), "{refusal}");
        }
    }
}

#[test]
fn a_denied_call_among_others_waits_for_them() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "edit"), ("toolu_2", "bash")]);
    world.skip();
    assert_eq!(world.session.status(), Status::Idle);
    world.send(vec![world.result("toolu_2", "b")]);
    let told = world.conversation()[2].clone();
    assert!(
        told.starts_with("user: error toolu_1") && told.ends_with(r#"result toolu_2 "b""#),
        "{told}"
    );
}

#[test]
fn thoughts_before_a_call_are_sent_back_as_they_came() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    let redacted = serde_json::json!({"type": "redacted_thinking", "data": "AAAA"});
    let thought = vec![thinking("hm"), redacted.clone(), text("\n\n"), call("toolu_1", "bash")];
    world.answer(answer(thought, StopReason::ToolUse));
    world.send(vec![world.result("toolu_1", "a")]);
    let sent = world.asked().messages[1]["content"].as_array().unwrap().clone();
    assert_eq!(sent, [thinking("hm"), redacted, call("toolu_1", "bash")]);
}

#[test]
fn a_result_that_the_model_provider_would_refuse_is_put_so_that_it_takes_it() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "bash"), ("toolu_2", "read")]);
    let blank = outwork_wire::ContentBlock::text(" \n");
    let why = outwork_wire::ContentBlock::text("it broke");
    let first = tool_result(world.call_event("toolu_1"), vec![why, image()], true);
    let second = tool_result(world.call_event("toolu_2"), vec![blank, image()], false);
    world.send(vec![first, second]);
    assert_eq!(
        world.conversation()[2],
        r#"user: error toolu_1 "it broke", result toolu_2 "image", image"#,
        "an error holds text only, so its picture follows the results"
    );
    let kept = world.log.iter().find_map(|e| match &e.event.body {
        EventBody::UserToolResult { content, .. } => Some(content.len()),
        _ => None,
    });
    assert_eq!(kept, Some(2), "the event shows what was sent");
}

#[test]
fn calls_are_made_whatever_the_model_says_it_stopped_for() {
    for stop in [
        StopReason::EndTurn,
        StopReason::MaxTokens,
        StopReason::PauseTurn,
        StopReason::Refusal,
    ] {
        let mut world = World::self_hosted();
        world.send(vec![message("go")]);
        world.answer(answer(vec![call("toolu_1", "bash")], stop));
        assert!(matches!(
            rests(&world),
            (Status::Idle, Some(IdleReason::RequiresAction { .. }))
        ));
        world.send(vec![world.result("toolu_1", "a")]);
        assert!(matches!(world.effect, Effect::AskModel(_)));
    }
}

#[test]
fn a_crash_between_a_result_and_what_follows_from_it_loses_neither() {
    let mut world = called(World::self_hosted(), &[("toolu_1", "bash")]);
    world.submit(vec![world.result("toolu_1", "a")]).unwrap();
    world.crash();
    assert!(world.session.view().needs_owner, "somebody has to go on");
    world.go();
    assert!(matches!(world.effect, Effect::AskModel(_)));
}
