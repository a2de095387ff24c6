//! Calls to MCP servers: which tools are offered, who is asked, and what becomes of a call whose owner dies.

mod world;

use outwork_engine::{Effect, ServerFailure, Status, Submitter};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::event::IdleReason;
use outwork_wire::model::StopReason;
use world::build::{answer, call, calls, genesis_with_mcp, message, notes, says, text};
use world::{World, rests};

fn connected() -> World {
    let mut world = World::with_genesis(genesis_with_mcp(EnvironmentKind::SelfHosted));
    world.send(vec![message("go")]);
    world.connect(notes());
    world.skip();
    world
}

fn under_way(world: &World) -> Vec<String> {
    match &world.effect {
        Effect::CallTools(calls) => calls.iter().map(|c| format!("{}/{}", c.server, c.tool)).collect(),
        effect => panic!("no calls are to be made: {effect:?}"),
    }
}

#[test]
fn a_run_connects_first_and_offers_what_is_enabled() {
    let mut world = World::with_genesis(genesis_with_mcp(EnvironmentKind::SelfHosted));
    world.send(vec![message("go")]);
    assert_eq!(world.effect, Effect::ConnectServers);
    world.expect(&[
        "queued: user.message go",
        "session.status_running",
        "session.thread_status_running",
        "user.message go",
    ]);
    world.connect(notes());
    world.expect(&["span.model_request_start"]);
    let names: Vec<&str> = world.asked().tools.iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(
        names.ends_with(&["mcp__notes__find", "mcp__notes__add", "mcp__notes__send"]),
        "{names:?}"
    );
    world.answer(says("done"));
    world.send(vec![message("again")]);
    assert_eq!(world.effect, Effect::ConnectServers, "each run connects anew");
}

#[test]
fn a_call_is_made_by_the_owner_while_the_session_runs() {
    let mut world = connected();
    world.answer(answer(
        vec![text("looking"), call("toolu_1", "mcp__notes__find")],
        StopReason::ToolUse,
    ));
    world.expect(&[
        "agent.message looking",
        "agent.mcp_tool_use toolu_1 notes/find allow",
        "span.model_request_end",
    ]);
    assert_eq!(under_way(&world), ["notes/find"]);
    assert_eq!(world.session.status(), Status::Running);
    world.mcp_answer("toolu_1", "two notes", false);
    world.expect(&["agent.mcp_tool_result toolu_1 ok", "span.model_request_start"]);
    assert_eq!(
        world.conversation().last().unwrap(),
        r#"user: result toolu_1 "two notes""#
    );
    world.answer(says("two"));
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
}

#[test]
fn nobody_else_can_answer_it() {
    let mut world = connected();
    world.answer(calls(&[("toolu_1", "mcp__notes__find")]));
    for by in [Submitter::Client, Submitter::Worker] {
        let refused = world.refused(vec![world.result("toolu_1", "mine")], by);
        assert!(refused.contains("MCP server"), "{refused}");
    }
    let refused = world.refused(vec![world.custom_result("toolu_1", "mine")], Submitter::Client);
    assert!(refused.contains("not a custom tool call"), "{refused}");
}

#[test]
fn a_call_that_asks_waits_and_then_runs() {
    let mut world = connected();
    world.answer(calls(&[
        ("toolu_1", "mcp__notes__send"),
        ("toolu_2", "mcp__notes__send"),
    ]));
    assert_eq!(world.effect, Effect::Rest);
    assert!(matches!(rests(&world).1, Some(IdleReason::RequiresAction { .. })));
    world.skip();
    world.send(vec![world.allow("toolu_1"), world.deny("toolu_2", None)]);
    assert_eq!(under_way(&world), ["notes/send"]);
    world.expect(&[
        "user.tool_confirmation toolu_1 allow",
        "user.tool_confirmation toolu_2 deny",
        "session.status_running",
        "session.thread_status_running",
    ]);
    world.mcp_answer("toolu_1", "sent", false);
    assert!(matches!(world.effect, Effect::AskModel(_)));
}

#[test]
fn what_is_off_or_unknown_is_denied() {
    let mut world = connected();
    world.answer(calls(&[
        ("toolu_1", "mcp__notes__drop"),
        ("toolu_2", "mcp__other__find"),
    ]));
    assert!(
        matches!(world.effect, Effect::AskModel(_)),
        "denials go back to the model"
    );
    world.expect(&[
        "agent.mcp_tool_use toolu_1 notes/drop deny",
        "agent.tool_use toolu_2 mcp__other__find deny",
        "span.model_request_end",
        "span.model_request_start",
    ]);
}

#[test]
fn an_interrupt_ends_a_call_and_its_late_answer_is_dropped() {
    let mut world = connected();
    world.answer(calls(&[("toolu_1", "mcp__notes__add")]));
    let id = world.call_event("toolu_1");
    world.skip();
    world.send(vec![outwork_wire::EventParams::UserInterrupt {
        session_thread_id: None,
    }]);
    assert_eq!(world.effect, Effect::Rest);
    world.mcp_answer_only(&id, "too late", false);
    world.expect(&[
        "queued: user.interrupt",
        "agent.mcp_tool_result toolu_1 error",
        "user.interrupt",
        "session.usage",
        "session.thread_status_idle end_turn",
        "session.status_idle end_turn",
    ]);
}

#[test]
fn after_a_crash_only_what_may_be_repeated_is_repeated() {
    let mut world = connected();
    world.answer(calls(&[
        ("toolu_1", "mcp__notes__find"),
        ("toolu_2", "mcp__notes__add"),
    ]));
    assert_eq!(under_way(&world), ["notes/find", "notes/add"]);
    world.skip();
    world.take_over();
    world.go();
    assert_eq!(under_way(&world), ["notes/find"]);
    world.expect(&["agent.mcp_tool_result toolu_2 error"]);
    world.mcp_answer("toolu_1", "found", false);
    assert_eq!(
        world.effect,
        Effect::ConnectServers,
        "the connections died with the owner"
    );
    world.connect(notes());
    let told = world.conversation().pop().unwrap();
    assert!(told.contains("not known"), "{told}");
}

#[test]
fn a_server_that_fails_takes_its_tools_from_the_turn_and_no_more() {
    let mut world = World::with_genesis(genesis_with_mcp(EnvironmentKind::Cloud));
    world.send(vec![message("go")]);
    world.skip();
    let failure = |authentication| ServerFailure {
        server: "notes".into(),
        authentication,
        message: "notes is away".into(),
    };
    world.servers_failed(vec![failure(false), failure(true)]);
    world.connect(Vec::new());
    world.expect(&[
        "session.error mcp_connection_failed_error retrying",
        "session.error mcp_authentication_failed_error retrying",
        "span.model_request_start",
    ]);
    world.answer(says("without it"));
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
}
