//! The log is the session: through JSON and back it folds to the same state; a log that is none is refused.

mod world;

use outwork_engine::{Effect, FoldError, Session};
use outwork_wire::event::{EvaluatedPermission, SpanUsage};
use outwork_wire::log::{LogEntry, Private};
use outwork_wire::model::{FailureKind, StopReason};
use outwork_wire::{ContentBlock, Event, EventBody};
use serde_json::json;
use world::World;
use world::build::{
    CUSTOM, answer, call, calls, event_id, failure, genesis, image, interrupt, message, says, system, text, thinking,
    tool_result,
};

#[test]
fn every_kind_of_entry_goes_through_json() {
    let mut world = World::self_hosted();
    world.send(vec![message("go"), system("be kind")]);
    world.check_json();
    world.fail(&failure(FailureKind::Overloaded));
    world.check_json();
    world.pass_millis(1000);
    world.go();
    world.answer(answer(
        vec![
            thinking("hm"),
            text("so"),
            call("run", "bash"),
            call("ask", "write"),
            call("custom", CUSTOM),
        ],
        StopReason::ToolUse,
    ));
    world.check_json();
    world.send(vec![world.custom_result("custom", "early"), message("later")]);
    world.check_json();
    world.send(vec![world.deny("ask", Some("no"))]);
    let picture = tool_result(world.call_event("run"), vec![image(), ContentBlock::text("a")], false);
    world.send(vec![picture]);
    let mut refusal = answer(vec![], StopReason::Refusal);
    refusal.stop_details = Some(json!({"type": "refusal", "category": "bio", "explanation": "no"}));
    world.answer(refusal);
    world.send(vec![interrupt()]);
    world
        .update(outwork_engine::SessionChange {
            title: Some(Some("t".into())),
            metadata: Some(serde_json::Map::from_iter([("a".to_owned(), json!("b"))])),
            mcp_servers: None,
            tools: Some(vec![]),
        })
        .unwrap();
    world.archive().unwrap();
    world.check_json();
    let kinds: std::collections::BTreeSet<&str> = world.log.iter().map(|e| e.event.body.kind()).collect();
    assert_eq!(
        kinds.len(),
        23,
        "every kind but those of the cloud and of deletion: {kinds:?}"
    );
}

#[test]
fn numbers_of_a_model_survive_json() {
    // Shortest decimal forms that a sloppy reader gets wrong in the last digit.
    for number in [
        0.1 + 0.2,
        1.0 / 3.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        -1.119_313_317_998_188_7e-17,
    ] {
        let mut world = World::self_hosted();
        world.send(vec![message("go")]);
        let mut made = call("run", "bash");
        made["input"] = json!({"x": number, "big": u64::MAX, "small": i64::MIN});
        world.answer(answer(vec![made], StopReason::ToolUse));
        world.check_json();
    }
}

#[test]
fn ten_thousand_numbers_survive_json() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..10_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = f64::from_bits(state);
        if number.is_finite() {
            let text = serde_json::to_string(&json!(number)).unwrap();
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read, json!(number), "{text}");
        }
    }
}

#[test]
fn the_private_part_is_left_out_when_there_is_none() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    for entry in &world.log {
        assert!(serde_json::to_value(entry).unwrap().get("private").is_none());
    }
    world.answer(says("done"));
    let with: Vec<&str> = world
        .log
        .iter()
        .filter(|e| e.private.is_some())
        .map(|e| e.event.body.kind())
        .collect();
    assert_eq!(with, ["span.model_request_end"]);
}

#[test]
fn folding_stops_at_any_entry_and_goes_on_from_there() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("a", "bash"), ("b", "bash")]));
    world.send(vec![world.result("b", "2"), message("more")]);
    world.send(vec![world.result("a", "1")]);
    world.answer(says("done"));
    for end in 0..=world.log.len() {
        let once = Session::fold(world.genesis.clone(), &world.log[..end]).unwrap();
        let again = Session::fold(world.genesis.clone(), &world.log[..end]).unwrap();
        assert_eq!(once, again);
        assert_eq!(
            once == world.session,
            end == world.log.len(),
            "each entry of the end matters"
        );
    }
}

#[test]
fn a_session_can_be_folded_at_any_commit_and_reaches_the_same_end() {
    let script = |crash_at: Option<usize>| {
        let mut world = World::self_hosted();
        let mut done = 0;
        let mut point = |world: &mut World| {
            if crash_at == Some(done) {
                world.crash();
                world.go();
            }
            done += 1;
        };
        world.submit(vec![message("go")]).unwrap();
        point(&mut world);
        world.go();
        point(&mut world);
        world.answer(calls(&[("a", "bash"), ("b", "write")]));
        point(&mut world);
        world.submit(vec![world.allow("b"), world.result("b", "2")]).unwrap();
        point(&mut world);
        world.go();
        point(&mut world);
        world.submit(vec![world.result("a", "1")]).unwrap();
        point(&mut world);
        world.go();
        point(&mut world);
        world.answer(says("done"));
        point(&mut world);
        assert_eq!(world.effect, Effect::Rest);
        world.send(vec![message("more")]);
        world.conversation()
    };
    let undisturbed = script(None);
    for point in 0..8 {
        assert_eq!(
            script(Some(point)),
            undisturbed,
            "a crash at point {point} changes the conversation"
        );
    }
}

#[test]
fn a_log_that_describes_no_session_is_refused_by_name() {
    let entry = |body: EventBody, private: Option<Private>| LogEntry {
        event: Event {
            id: event_id(1),
            processed_at: Some(outwork_wire::Time::from_micros(1)),
            body,
        },
        created_at: outwork_wire::Time::from_micros(1),
        private,
    };
    let fold = |entry: LogEntry| {
        Session::fold(genesis(outwork_wire::agent::EnvironmentKind::SelfHosted), [&entry]).unwrap_err()
    };
    let id = event_id(1);
    let end = EventBody::ModelRequestEnd {
        model_request_start_id: event_id(2),
        is_error: None,
        model_usage: SpanUsage::default(),
    };
    assert_eq!(fold(entry(end, None)), FoldError::NoOpenRequest(id.clone()));
    let result = EventBody::UserToolResult {
        tool_use_id: event_id(2),
        content: vec![],
        is_error: None,
        session_thread_id: None,
    };
    let mut queued = entry(result.clone(), None);
    queued.event.processed_at = None;
    assert_eq!(fold(queued), FoldError::NoOpenCall(id.clone()));
    assert_eq!(fold(entry(result, None)), FoldError::NoOpenCall(id.clone()));
    let call = EventBody::AgentToolUse {
        name: "bash".into(),
        input: serde_json::Map::new(),
        evaluated_permission: Some(EvaluatedPermission::Allow),
        evaluation: None,
        session_thread_id: None,
    };
    let error = fold(entry(call, None));
    assert_eq!(error, FoldError::NoModelId(id.clone()));
    assert!(error.to_string().contains(id.as_str()), "{error}");
}
