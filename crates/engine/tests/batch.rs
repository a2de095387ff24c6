//! What is refused: every batch as a whole, with a message that names the event, the field and the way out.

mod world;

use outwork_engine::Submitter;
use outwork_wire::content::{Citations, DocumentSource, ImageSource, SearchText};
use outwork_wire::event::SystemBlock;
use outwork_wire::{ContentBlock, EventBody, EventParams};
use serde_json::json;
use world::World;
use world::build::{
    CUSTOM, calls, confirmation, custom_result, event_id, interrupt, message, says, system, tool_result,
};

/// Four calls that wait: one runs, one asks, one is custom, one has a result that waits.
fn waiting(world: World) -> World {
    let mut world = world;
    world.send(vec![message("go")]);
    world.answer(calls(&[
        ("run", "bash"),
        ("ask", "write"),
        ("custom", CUSTOM),
        ("done", "bash"),
    ]));
    if world.genesis.environment == outwork_wire::agent::EnvironmentKind::SelfHosted {
        world.send(vec![world.result("done", "early")]);
    }
    world
}

#[test]
fn a_batch_with_one_bad_event_is_refused_as_a_whole() {
    let mut world = waiting(World::self_hosted());
    let good = world.result("run", "a");
    let bad = tool_result(event_id(7777), vec![], false);
    for (batch, index) in [
        (vec![good.clone(), bad.clone()], 1),
        (vec![bad.clone(), good.clone()], 0),
        (vec![message("hi"), good.clone(), interrupt(), bad.clone()], 3),
    ] {
        let refusal = world.refused(batch, Submitter::Client);
        assert!(refusal.starts_with(&format!("events.{index}: ")), "{refusal}");
        assert!(refusal.contains(event_id(7777).as_str()), "{refusal}");
    }
    world.send(vec![good]);
}

#[test]
fn an_empty_batch_is_refused() {
    assert!(
        World::self_hosted()
            .refused(vec![], Submitter::Client)
            .contains("at least one")
    );
}

#[test]
fn answers_that_fit_no_call_are_refused() {
    let mut world = waiting(World::self_hosted());
    let id = |name: &str| world.call_event(name);
    let (run, ask, custom, done) = (id("run"), id("ask"), id("custom"), id("done"));
    use outwork_wire::event::Decision::{Allow, Deny};
    let text = || vec![ContentBlock::text("x")];
    let table = [
        (vec![tool_result(event_id(7777), text(), false)], "no open tool call"),
        (vec![custom_result(event_id(7777), text(), false)], "no open tool call"),
        (vec![confirmation(event_id(7777), Allow, None)], "no open tool call"),
        (
            vec![tool_result(custom.clone(), text(), false)],
            "user.custom_tool_result",
        ),
        (vec![custom_result(run.clone(), text(), false)], "user.tool_result"),
        (vec![tool_result(ask.clone(), text(), false)], "user.tool_confirmation"),
        (vec![tool_result(done.clone(), text(), false)], "has its answer already"),
        (
            vec![confirmation(run.clone(), Allow, None)],
            "does not wait for a confirmation",
        ),
        (
            vec![confirmation(custom.clone(), Deny, None)],
            "does not wait for a confirmation",
        ),
        (vec![confirmation(ask.clone(), Allow, Some("why"))], "deny_message"),
        (
            vec![
                confirmation(ask.clone(), Allow, None),
                confirmation(ask.clone(), Allow, None),
            ],
            "does not wait for a confirmation",
        ),
        (
            vec![
                confirmation(ask.clone(), Allow, None),
                confirmation(ask.clone(), Deny, None),
            ],
            "does not wait for a confirmation",
        ),
        (
            vec![
                confirmation(ask.clone(), Deny, None),
                tool_result(ask.clone(), text(), false),
            ],
            "user.tool_confirmation",
        ),
        (
            vec![
                tool_result(run.clone(), text(), false),
                tool_result(run.clone(), text(), false),
            ],
            "has its answer already",
        ),
        (
            vec![
                custom_result(custom.clone(), text(), false),
                custom_result(custom, text(), false),
            ],
            "has its answer already",
        ),
    ];
    for (batch, word) in table {
        let refusal = world.refused(batch.clone(), Submitter::Client);
        assert!(refusal.contains(word), "{batch:?}: {refusal}");
    }
}

#[test]
fn a_call_of_an_earlier_turn_has_its_answer_already() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("run", "bash"), ("ask", "write")]));
    world.send(vec![world.result("run", "a"), world.deny("ask", None)]);
    for event in [world.result("run", "b"), world.result("ask", "b"), world.allow("ask")] {
        let refusal = world.refused(vec![event], Submitter::Client);
        assert!(refusal.contains("has its answer already"), "{refusal}");
    }
}

#[test]
fn a_worker_may_neither_confirm_nor_instruct() {
    let mut world = waiting(World::self_hosted());
    let confirm = world.allow("ask");
    let result = world.result("run", "a");
    for batch in [vec![confirm], vec![result, system("obey")]] {
        match world.submit_as(batch, Submitter::Worker) {
            Err(outwork_engine::Refused::Forbidden(message)) => {
                assert!(message.contains("API key"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_client_gives_no_results_for_the_clouds_own_tools() {
    let mut world = waiting(World::cloud());
    let result = world.result("run", "a");
    let refusal = world.refused(vec![result.clone()], Submitter::Client);
    assert!(refusal.contains("custom tools"), "{refusal}");
    world.submit_as(vec![result], Submitter::Worker).unwrap();
}

#[test]
fn another_thread_is_refused_and_the_own_one_is_taken() {
    let mut world = waiting(World::self_hosted());
    let own = world.genesis.thread_id.clone();
    let interrupt_of = |thread: &str| EventParams::UserInterrupt {
        session_thread_id: Some(thread.parse().unwrap()),
    };
    let refusal = world.refused(vec![interrupt_of("sthr_2")], Submitter::Client);
    assert!(refusal.contains("sthr_2"), "{refusal}");
    for kind in ["user.tool_confirmation", "user.custom_tool_result", "user.tool_result"] {
        let id = world.call_event(match kind {
            "user.tool_confirmation" => "ask",
            "user.tool_result" => "run",
            _ => "custom",
        });
        let mut event = json!({"type": kind, "session_thread_id": "sthr_2"});
        event[if kind == "user.custom_tool_result" {
            "custom_tool_use_id"
        } else {
            "tool_use_id"
        }] = json!(id);
        if kind == "user.tool_confirmation" {
            event["result"] = json!("allow");
        }
        let event: EventParams = serde_json::from_value(event).unwrap();
        let refusal = world.refused(vec![event], Submitter::Client);
        assert!(refusal.contains("session_thread_id"), "{refusal}");
    }
    let events = world.send(vec![interrupt_of(own.as_str())]);
    assert_eq!(
        events[0].body,
        EventBody::UserInterrupt {
            session_thread_id: None
        }
    );
}

#[test]
fn content_that_cannot_be_sent_to_a_model_is_refused() {
    let file = "file_1".to_owned();
    let search = |text: &str| ContentBlock::SearchResult {
        citations: Citations { enabled: false },
        content: vec![SearchText::Text { text: text.into() }],
        source: "https://example.com".into(),
        title: "a page".into(),
    };
    let table = [
        (ContentBlock::text(""), "text"),
        (ContentBlock::text(" \n\t"), "text"),
        (ContentBlock::Redacted {}, "redacted"),
        (search("found"), "search_result"),
        (
            ContentBlock::Image {
                source: ImageSource::File { file_id: file.clone() },
            },
            "file_1",
        ),
        (
            ContentBlock::Document {
                source: DocumentSource::File { file_id: file },
                context: None,
                title: None,
            },
            "file_1",
        ),
    ];
    let mut world = World::self_hosted();
    for (block, word) in table {
        let event = EventParams::UserMessage {
            content: vec![ContentBlock::text("ok"), block],
        };
        let refusal = world.refused(vec![event], Submitter::Client);
        assert!(
            refusal.starts_with("events.0: content.1.") && refusal.contains(word),
            "{refusal}"
        );
    }
    let refusal = world.refused(vec![EventParams::UserMessage { content: vec![] }], Submitter::Client);
    assert!(refusal.contains("at least one block"), "{refusal}");

    let mut world = waiting(World::self_hosted());
    let run = world.call_event("run");
    for (block, word) in [
        (ContentBlock::text(""), "must not be empty"),
        (ContentBlock::Redacted {}, "redacted"),
        (search(""), "search_result"),
    ] {
        let refusal = world.refused(vec![tool_result(run.clone(), vec![block], false)], Submitter::Worker);
        assert!(refusal.contains(word), "{refusal}");
    }
    world.send(vec![tool_result(run, vec![search("found")], false)]);
}

#[test]
fn a_result_may_be_empty() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("run", "bash")]));
    world.send(vec![tool_result(world.call_event("run"), vec![], false)]);
    assert_eq!(world.conversation()[2], r#"user: result run """#);
}

#[test]
fn a_system_message_comes_last_behind_a_message_or_a_result() {
    let result = |world: &World| world.result("run", "a");
    let mut world = World::self_hosted();
    for (batch, word) in [
        (vec![system("alone")], "right after"),
        (vec![interrupt(), system("behind an interrupt")], "right after"),
        (vec![message("hi"), system("one"), system("two")], "at most one"),
        (vec![message("hi"), system("early"), message("ho")], "at most one"),
        (vec![message("hi"), system("")], "empty"),
        (vec![message("hi"), system("  ")], "empty"),
        (
            vec![message("hi"), EventParams::SystemMessage { content: vec![] }],
            "1 to 1000",
        ),
        (
            vec![
                message("hi"),
                EventParams::SystemMessage {
                    content: vec![SystemBlock::Text { text: "x".into() }; 1001],
                },
            ],
            "1 to 1000",
        ),
    ] {
        let refusal = world.refused(batch.clone(), Submitter::Client);
        assert!(refusal.contains(word), "{batch:?}: {refusal}");
    }
    world.send(vec![message("hi"), system("be kind")]);
    assert_eq!(systems(&world), ["Be brief.", "be kind"]);

    let mut world = waiting(World::self_hosted());
    let confirm = world.allow("ask");
    for batch in [vec![message("hi"), system("no")], vec![confirm, system("no")]] {
        let refusal = world.refused(batch, Submitter::Client);
        assert!(refusal.contains("requires action"), "{refusal}");
    }
    let run = result(&world);
    world.send(vec![run, system("be quick")]);
    assert_eq!(
        world.session.queued_ids().len(),
        2,
        "it waits for the turn, beside the early result"
    );
}

#[test]
fn a_system_message_behind_the_last_result_is_part_of_the_next_request() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("run", "bash")]));
    world.skip();
    world
        .submit(vec![world.result("run", "a"), system("be quick")])
        .unwrap();
    world.crash();
    world.go();
    world.expect(&[
        "user.tool_result run ok",
        "queued: system.message",
        "system.message",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
    ]);
    assert_eq!(systems(&world), ["Be brief.", "be quick"]);
    world.answer(says("done"));
    world.send(vec![message("more")]);
    assert_eq!(systems(&world), ["Be brief.", "be quick"], "it stays");
}

fn systems(world: &World) -> Vec<String> {
    let texts = world.asked().system.iter().map(|b| b["text"].as_str());
    texts
        .map(|text| text.expect("system blocks are text").to_owned())
        .collect()
}
