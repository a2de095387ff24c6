//! What changes a session from outside its conversation: title, metadata, tools, and its end.

mod world;

use outwork_engine::{SessionChange, Status, Submitter};
use serde_json::{Value, json};
use world::World;
use world::build::{CUSTOM, calls, custom_tool, interrupt, message, says};

#[test]
fn an_archived_session_takes_nothing_more() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    let refusal = world.archive().unwrap_err().to_string();
    assert!(
        refusal.contains("running") && refusal.contains("user.interrupt"),
        "{refusal}"
    );
    world.answer(says("done"));
    world.skip();
    world.archive().unwrap();
    world.expect(&["session.thread_status_terminated", "session.status_terminated"]);
    world.archive().unwrap();
    world.expect(&[]);
    assert_eq!(world.session.status(), Status::Terminated);
    for event in [message("hi"), interrupt()] {
        let refusal = world.refused(vec![event], Submitter::Client);
        assert!(refusal.contains("archived"), "{refusal}");
    }
    let change = SessionChange {
        title: Some(Some("x".into())),
        ..SessionChange::default()
    };
    assert!(world.update(change).unwrap_err().to_string().contains("archived"));
    assert_eq!(world.go(), outwork_engine::Effect::Rest);
    assert!(!world.session.view().needs_owner && !world.session.needs_worker());
    world.crash();
    assert_eq!(world.session.status(), Status::Terminated);
    world.check_json();
}

#[test]
fn a_session_that_waits_for_answers_can_be_archived_and_loses_no_event() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("run", "bash"), ("done", "bash")]));
    world.send(vec![world.result("done", "early")]);
    world.send(vec![message("later")]);
    world.skip();
    world.archive().unwrap();
    world.expect(&[
        "user.tool_result done ok",
        "user.message later",
        "session.thread_status_terminated",
        "session.status_terminated",
    ]);
    assert!(world.session.queued_ids().is_empty());
}

#[test]
fn a_session_that_waits_to_try_again_cannot_be_archived() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.fail(&world::build::failure(outwork_wire::model::FailureKind::Server));
    let refusal = world.archive().unwrap_err().to_string();
    assert!(refusal.contains("rescheduling"), "{refusal}");
}

#[test]
fn an_update_shows_only_what_changed() {
    let mut world = World::self_hosted();
    let titled = |title: Option<&str>| SessionChange {
        title: Some(title.map(str::to_owned)),
        ..SessionChange::default()
    };
    let Value::Object(metadata) = json!({"a": "b"}) else {
        unreachable!()
    };
    assert_eq!(world.update(titled(Some("first"))), Ok(true));
    assert_eq!(last(&world), json!({"type": "session.updated", "title": "first"}));
    assert_eq!(world.update(titled(Some("first"))), Ok(false));
    assert_eq!(world.update(SessionChange::default()), Ok(false));
    let change = SessionChange {
        metadata: Some(metadata.clone()),
        ..titled(Some("first"))
    };
    assert_eq!(world.update(change.clone()), Ok(true));
    assert_eq!(last(&world), json!({"type": "session.updated", "metadata": {"a": "b"}}));
    assert_eq!(world.update(change), Ok(false));
    assert_eq!(world.update(titled(None)), Ok(true));
    assert_eq!(world.session.view().title, None);
    assert_eq!(world.update(titled(Some(""))), Ok(false), "an empty title is no title");
    assert_eq!(world.session.view().metadata, metadata);
    world.crash();
    assert_eq!(
        (world.session.view().title, world.session.view().metadata),
        (None, metadata)
    );
}

#[test]
fn new_tools_are_taken_at_rest_only_and_hold_for_the_next_request() {
    let mut world = World::self_hosted();
    let change = SessionChange {
        tools: Some(vec![custom_tool()]),
        ..SessionChange::default()
    };
    world.send(vec![message("go")]);
    assert!(world.update(change.clone()).unwrap_err().to_string().contains("idle"));
    world.answer(calls(&[("run", "bash")]));
    assert!(
        world
            .update(change.clone())
            .unwrap_err()
            .to_string()
            .contains("tool call")
    );
    world.submit(vec![world.result("run", "a")]).unwrap();
    assert!(
        world.update(change.clone()).is_err(),
        "the turn goes on; it is not at rest"
    );
    world.go();
    world.answer(says("done"));
    assert_eq!(world.update(change.clone()), Ok(true));
    let shown = last(&world);
    assert_eq!(shown["agent"]["tools"][0]["name"], CUSTOM);
    assert!(shown.get("title").is_none() && shown.get("metadata").is_none());
    assert_eq!(world.update(change), Ok(false));
    world.send(vec![message("again")]);
    let names: Vec<&Value> = world.asked().tools.iter().map(|t| &t["name"]).collect();
    assert_eq!(names, [CUSTOM]);
    world.answer(calls(&[("gone", "bash")]));
    assert!(world.lines().contains(&"agent.tool_use gone bash deny".to_owned()));
}

#[test]
fn title_and_metadata_may_change_at_work() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    let change = SessionChange {
        title: Some(Some("x".into())),
        ..SessionChange::default()
    };
    assert_eq!(world.update(change), Ok(true));
    assert_eq!(world.go(), outwork_engine::Effect::AwaitModel);
}

/// What the latest event says, without its id and time.
fn last(world: &World) -> Value {
    let entry = world.log.last().expect("the log is not empty");
    serde_json::to_value(&entry.event.body).expect("an event is JSON")
}
