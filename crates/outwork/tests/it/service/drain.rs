//! SIGTERM: what runs reaches a safe point, nothing that was acknowledged is lost, and the next server goes on.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::world::api::{last_message, of_type};
use crate::world::{SCRIPT, SOON, ServerOptions, World, log, script_message};

fn slow_answer(text: &str, first_token_ms: u64) -> Value {
    script_message(json!([{ "say": [{ "text": text }], "pace": { "first_token_ms": first_token_ms } }]))
}

async fn session(world: &World) -> String {
    let agent = world.api.agent(SCRIPT, json!([])).await;
    let environment = world.api.environment("self_hosted").await;
    world.api.session(&agent, &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_way_is_awaited() {
    let mut world = World::start().await;
    let session = session(&world).await;
    world.api.send_events(&session, &[slow_answer("worth it", 1500)]).await;
    world
        .api
        .wait_for(&session, "request", |e| {
            !of_type(e, "span.model_request_start").is_empty()
        })
        .await;
    let mut stream = world.api.stream(&session, "").await;
    world.server.terminate();
    // The stream ends in order, and new requests are not taken.
    while timeout(SOON, stream.try_next())
        .await
        .expect("the stream stays open")
        .expect("the stream was cut")
        .is_some()
    {}
    assert!(world.server.ended().await.success(), "{}", world.server.log());
    let asked = world.model.requests().len();
    world.server.restart().await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "worth it");
    assert_eq!(world.model.requests().len(), asked, "the model was asked again");
    assert_eq!(log::check(&events).requests_given_up, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_too_long_is_asked_for_again() {
    let mut world = World::start_with(ServerOptions::default().flags(&["--drain-timeout", "500ms"])).await;
    let session = session(&world).await;
    let once = json!([{ "times": 1, "hang": "silence", "after_events": 3 }]);
    let steps = json!([{ "say": [{ "text": "in the end" }], "faults": once }]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    world
        .api
        .wait_for(&session, "request", |e| {
            !of_type(e, "span.model_request_start").is_empty()
        })
        .await;
    world.server.terminate();
    let began = Instant::now();
    assert!(world.server.ended().await.success(), "{}", world.server.log());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "it took {:?} to end",
        began.elapsed()
    );
    world.server.restart().await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "in the end");
    let counted = log::check(&events);
    assert_eq!(counted.requests_given_up, 1);
    assert!(of_type(&events, "session.error").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_somebody_waits_on_after_a_restart() {
    let mut world = World::start().await;
    let tool = json!({
        "type": "custom", "name": "ticket", "description": "Opens a ticket.", "input_schema": { "type": "object" },
    });
    let agent = world.api.agent(SCRIPT, json!([tool])).await;
    let environment = world.api.environment("self_hosted").await;
    let session = world.api.session(&agent, &environment).await;
    let steps =
        json!([{ "say": [{ "tool_use": { "name": "ticket", "input": {} } }] }, { "say": [{ "text": "closed" }] }]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    let before = world
        .api
        .wait_for(&session, "requires_action", |e| {
            !of_type(e, "session.status_idle").is_empty()
        })
        .await;
    world.server.terminate();
    assert!(world.server.ended().await.success());
    world.server.restart().await;
    assert_eq!(
        world.api.events(&session).await,
        before,
        "a restart alone changed the log"
    );
    let call = &of_type(&before, "agent.custom_tool_use")[0]["id"];
    let result = json!({
        "type": "user.custom_tool_result", "custom_tool_use_id": call, "content": [{ "type": "text", "text": "7" }],
    });
    world.api.send_events(&session, &[result]).await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "closed");
    log::check(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut world = World::start().await;
    let session = session(&world).await;
    let steps =
        json!([{ "say": [{ "text": "again" }], "faults": [{ "times": 1, "hang": "silence", "after_events": 3 }] }]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    world
        .api
        .wait_for(&session, "request", |e| {
            !of_type(e, "span.model_request_start").is_empty()
        })
        .await;
    world.server.terminate();
    crate::world::until("it says that it drains", SOON, || async {
        world.server.log().contains("draining").then_some(())
    })
    .await;
    world.server.terminate();
    assert_eq!(world.server.ended().await.code(), Some(130));
    world.server.restart().await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "again");
    assert_eq!(log::check(&events).requests_given_up, 1);
}
