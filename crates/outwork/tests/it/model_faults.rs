//! A model that is not there, is slow, refuses, or answers nonsense: the session says what happened, tries again
//! where that can help, comes to rest where it cannot, and takes the next message.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::api::{last_message, last_status, of_type};
use crate::world::{MODEL_KEY, SCRIPT, Server, ServerOptions, World, bare_script_message, message, script_message};

/// A script of one step that fails in these ways before it succeeds.
fn faulty(name: &str, faults: Value) -> Value {
    script_message(json!([{ "say": [{ "text": format!("after {name}") }], "faults": faults }]))
}

/// The same for a message that is never answered, so that the next one's script is played.
fn hopeless(name: &str, fault: Value) -> Value {
    bare_script_message(json!([{ "say": [{ "text": format!("after {name}") }], "faults": [fault] }]))
}

async fn session(world: &World) -> String {
    let agent = world.api.agent(SCRIPT, json!([])).await;
    let environment = world.api.environment("self_hosted").await;
    world.api.session(&agent, &environment).await
}

fn errors(events: &[Value]) -> Vec<(String, String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_type(events, "session.error")
        .iter()
        .map(|e| {
            (
                word(&e["error"]["type"]),
                word(&e["error"]["retry_status"]["type"]),
                word(&e["error"]["message"]),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again() {
    let world = World::start().await;
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("overload", json!({ "status": 529 }), "model_overloaded_error", "529"),
        (
            "rate",
            json!({ "status": 429, "message": "slow down" }),
            "model_rate_limited_error",
            "slow down",
        ),
        ("fault", json!({ "status": 500 }), "model_request_failed_error", "500"),
        (
            "gateway",
            json!({ "status": 502, "body": "<html>bad</html>", "content_type": "text/html" }),
            "model_request_failed_error",
            "502",
        ),
        (
            "cut at once",
            json!({ "cut_after_events": 0 }),
            "model_request_failed_error",
            "",
        ),
        (
            "cut later",
            json!({ "cut_after_events": 3 }),
            "model_request_failed_error",
            "",
        ),
        (
            "no answer",
            json!({ "disconnect": true }),
            "model_request_failed_error",
            "",
        ),
        (
            "error event",
            json!({ "error_event": "overloaded_error", "after_events": 3 }),
            "model_overloaded_error",
            "overloaded_error",
        ),
        (
            "not json",
            json!({ "nonsense": "json", "after_events": 2 }),
            "model_request_failed_error",
            "",
        ),
        (
            "wrong order",
            json!({ "nonsense": "order", "after_events": 1 }),
            "model_request_failed_error",
            "",
        ),
        (
            "twice",
            json!({ "nonsense": "duplicate_start", "after_events": 2 }),
            "model_request_failed_error",
            "",
        ),
        (
            "bytes",
            json!({ "nonsense": "utf8", "after_events": 2 }),
            "model_request_failed_error",
            "",
        ),
        (
            "shape",
            json!({ "nonsense": "shape", "after_events": 2 }),
            "model_request_failed_error",
            "",
        ),
        (
            "early end",
            json!({ "nonsense": "early_end", "after_events": 3 }),
            "model_request_failed_error",
            "",
        ),
        (
            "html",
            json!({ "content_type": "text/html", "body": "<p>Welcome</p>" }),
            "model_request_failed_error",
            "",
        ),
        (
            "huge line",
            json!({ "oversized": 50_000_000, "one_line": true }),
            "model_request_failed_error",
            "",
        ),
    ];
    // All at the same time, each in a session of its own.
    let mut sessions = Vec::new();
    for (name, fault, ..) in &cases {
        let mut once = fault.clone();
        once["times"] = json!(1);
        let session = session(&world).await;
        world.api.send_events(&session, &[faulty(name, json!([once]))]).await;
        sessions.push(session);
    }
    for (session, (name, _, kind, named)) in sessions.iter().zip(&cases) {
        let events = world.api.wait_idle(session).await;
        let seen = errors(&events);
        assert_eq!(seen.len(), 1, "{name}: {seen:?}");
        assert_eq!(
            (seen[0].0.as_str(), seen[0].1.as_str()),
            (*kind, "retrying"),
            "{name}: {seen:?}"
        );
        assert!(seen[0].2.len() > 10 && seen[0].2.contains(named), "{name}: {seen:?}");
        assert_eq!(last_message(&events), format!("after {name}"));
        assert_eq!(
            last_status(&events).unwrap()["stop_reason"]["type"],
            "end_turn",
            "{name}"
        );
        assert_eq!(of_type(&events, "session.status_rescheduled").len(), 1, "{name}");
        assert_eq!(
            of_type(&events, "agent.message").len(),
            1,
            "{name}: a piece of a failed answer was kept"
        );
        let counted = crate::world::log::check(&events);
        assert_eq!((counted.requests, counted.requests_given_up), (2, 1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_says_how_long_to_wait() {
    let world = World::start().await;
    let session = session(&world).await;
    let fault = json!([{ "times": 1, "status": 429, "retry_after": 3 }]);
    world.api.send_events(&session, &[faulty("rest", fault)]).await;
    world
        .api
        .wait_for(&session, "rescheduled", |e| {
            !of_type(e, "session.status_rescheduled").is_empty()
        })
        .await;
    let failed = Instant::now();
    assert_eq!(
        world.api.get(&format!("/v1/sessions/{session}")).await.ok()["status"],
        "rescheduling"
    );
    let events = world.api.wait_idle(&session).await;
    assert!(
        failed.elapsed().as_secs_f64() > 2.5,
        "it was asked again after {:?}",
        failed.elapsed()
    );
    assert_eq!(last_message(&events), "after rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_pass_ends_the_turn_and_the_next_message_begins_another() {
    let world = World::start().await;
    for (name, fault, kind, named) in [
        (
            "key",
            json!({ "status": 401, "message": "no such key" }),
            "model_request_failed_error",
            "no such key",
        ),
        (
            "forbidden",
            json!({ "status": 403 }),
            "model_request_failed_error",
            "403",
        ),
        (
            "money",
            json!({ "status": 402, "message": "pay first" }),
            "billing_error",
            "pay first",
        ),
        (
            "request",
            json!({ "status": 400, "message": "odd field" }),
            "model_request_failed_error",
            "odd field",
        ),
        (
            "model",
            json!({ "status": 404, "message": "no such model" }),
            "model_request_failed_error",
            "no such model",
        ),
        ("large", json!({ "status": 413 }), "model_request_failed_error", "413"),
    ] {
        let session = session(&world).await;
        world.api.send_events(&session, &[hopeless(name, fault)]).await;
        let events = world.api.wait_idle(&session).await;
        let seen = errors(&events);
        assert_eq!(seen.len(), 1, "{name}: {seen:?}");
        assert_eq!((seen[0].0.as_str(), seen[0].1.as_str()), (kind, "terminal"), "{name}");
        assert!(seen[0].2.contains(named), "{name}: {seen:?}");
        assert_eq!(
            last_status(&events).unwrap()["stop_reason"]["type"],
            "retries_exhausted",
            "{name}"
        );
        assert!(of_type(&events, "session.status_rescheduled").is_empty(), "{name}");
        world.api.send_events(&session, &[faulty("all", json!([]))]).await;
        let events = world
            .api
            .wait_for(&session, "answer", |e| last_message(e) == "after all")
            .await;
        assert!(!events.is_empty());
        crate::world::log::check(&world.api.wait_idle(&session).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_only_talks_nonsense_is_given_up() {
    let world = World::start().await;
    let session = session(&world).await;
    let nonsense = json!({ "nonsense": "json", "after_events": 2 });
    world
        .api
        .send_events(&session, &[hopeless("nothing", nonsense.clone())])
        .await;
    world
        .api
        .wait_for(&session, "first failure", |e| !of_type(e, "session.error").is_empty())
        .await;
    // What comes meanwhile is taken up, dies with the turn, and starts no other.
    world
        .api
        .send_events(&session, &[faulty("nothing", json!([nonsense]))])
        .await;
    let events = world.api.wait_idle(&session).await;
    let statuses: Vec<String> = errors(&events).into_iter().map(|e| e.1).collect();
    assert_eq!(statuses, ["retrying", "retrying", "exhausted"]);
    assert_eq!(
        last_status(&events).unwrap()["stop_reason"]["type"],
        "retries_exhausted"
    );
    assert!(of_type(&events, "agent.message").is_empty());
    crate::world::log::check(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_ends_is_interrupted() {
    let world = World::start().await;
    for (name, hang) in [("head", "headers"), ("words", "silence"), ("pings", "ping")] {
        let session = session(&world).await;
        let fault = json!({ "hang": hang, "after_events": 2 });
        world.api.send_events(&session, &[hopeless(name, fault)]).await;
        world
            .api
            .wait_for(&session, "request", |e| {
                !of_type(e, "span.model_request_start").is_empty()
            })
            .await;
        // A message that comes meanwhile waits.
        let queued = world
            .api
            .send_events(&session, &[faulty("the interrupt", json!([]))])
            .await;
        assert!(queued[0]["processed_at"].is_null(), "{name}");
        world
            .api
            .send_events(&session, &[json!({ "type": "user.interrupt" })])
            .await;
        let events = world
            .api
            .wait_for(&session, "answer", |e| last_message(e) == "after the interrupt")
            .await;
        assert!(
            of_type(&events, "session.error").is_empty(),
            "{name}: {:?}",
            errors(&events)
        );
        let rests: Vec<&Value> = of_type(&events, "session.status_idle");
        assert_eq!(rests[0]["stop_reason"]["type"], "end_turn", "{name}");
        crate::world::log::check(&world.api.wait_idle(&session).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_an_answer_may_stop() {
    let world = World::start().await;
    let play = async |steps: Value| {
        let session = session(&world).await;
        world.api.send_events(&session, &[script_message(steps)]).await;
        let events = world.api.wait_idle(&session).await;
        crate::world::log::check(&events);
        (session, events)
    };
    // A refusal, with what the provider says of it.
    let details = json!({ "type": "refusal", "category": "cyber", "explanation": "not this" });
    let (refused, events) =
        play(json!([{ "say": [{ "text": "I" }], "stop_reason": "refusal", "stop_details": details }])).await;
    let idle = last_status(&events).unwrap();
    assert_eq!(
        (&idle["stop_reason"]["type"], &idle["stop_details"]),
        (&json!("refusal"), &details),
        "{idle}"
    );
    world.api.send_events(&refused, &[faulty("refusal", json!([]))]).await;
    world
        .api
        .wait_for(&refused, "answer", |e| last_message(e) == "after refusal")
        .await;
    // A refusal without a word.
    let (_, events) = play(json!([{ "say": [], "stop_reason": "refusal" }])).await;
    assert_eq!(last_status(&events).unwrap()["stop_reason"]["type"], "refusal");
    // A pause goes on by itself.
    let (_, events) = play(json!([
        { "say": [{ "text": "wait" }], "stop_reason": "pause_turn" },
        { "say": [{ "text": "over" }] },
    ]))
    .await;
    assert_eq!(last_message(&events), "over");
    // The limit of an answer ends the turn with what there is.
    let (cut, events) = play(json!([{ "say": [{ "text": "so lo" }], "stop_reason": "max_tokens" }])).await;
    assert_eq!(last_message(&events), "so lo");
    assert_eq!(last_status(&events).unwrap()["stop_reason"]["type"], "end_turn");
    world.api.send_events(&cut, &[faulty("the limit", json!([]))]).await;
    world
        .api
        .wait_for(&cut, "answer", |e| last_message(e) == "after the limit")
        .await;
    // Nothing at all, and nothing but white space.
    for say in [json!([]), json!([{ "text": "  \n" }])] {
        let session = session(&world).await;
        let steps = json!([{ "say": say, "stop_reason": "end_turn" }]);
        world.api.send_events(&session, &[bare_script_message(steps)]).await;
        let events = world.api.wait_idle(&session).await;
        assert_eq!(last_status(&events).unwrap()["stop_reason"]["type"], "end_turn");
        world.api.send_events(&session, &[faulty("nothing", json!([]))]).await;
        world
            .api
            .wait_for(&session, "answer", |e| last_message(e) == "after nothing")
            .await;
    }
    // A call of a tool that was not offered is not run; the model is told and goes on.
    let (_, events) = play(json!([
        { "say": [{ "tool_use": { "name": "launch", "input": {}, "unlisted": true } }] },
        { "say": [{ "text": "I see" }] },
    ]))
    .await;
    assert_eq!(of_type(&events, "agent.tool_use")[0]["evaluated_permission"], "deny");
    assert_eq!(last_message(&events), "I see");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_a_session_says_what_to_set() {
    let server = Server::start(ServerOptions::default()).await;
    let api = server.api();
    let agent = api.agent("some-model", json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    api.send_events(&session, &[message("hello")]).await;
    let events = api.wait_idle(&session).await;
    let seen = errors(&events);
    assert_eq!((seen.len(), seen[0].1.as_str()), (1, "terminal"), "{seen:?}");
    for name in ["OUTWORK_MODEL_BASE_URL", "OUTWORK_MODEL_API_KEY"] {
        assert!(seen[0].2.contains(name), "{seen:?}");
    }
    // The list of models says the same instead of an empty list or a fault.
    let models = api.get("/v1/models").await;
    assert!(
        (400..500).contains(&models.status) || models.status == 503,
        "{}",
        models.text
    );
    assert!(models.message().contains("OUTWORK_MODEL_BASE_URL"), "{}", models.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_gone_is_waited_for() {
    let mut world = World::start().await;
    let session = session(&world).await;
    let address = world.model.addr();
    let placeholder = crate::world::rehearsal().await;
    std::mem::replace(&mut world.model, placeholder).shutdown().await;
    world.api.send_events(&session, &[faulty("the gap", json!([]))]).await;
    let events = world
        .api
        .wait_for(&session, "failure", |e| !of_type(e, "session.error").is_empty())
        .await;
    assert_eq!(errors(&events)[0].1, "retrying");
    let options = outwork_rehearsal::Options {
        api_key: Some(MODEL_KEY.into()),
        listen: address,
        ..outwork_rehearsal::Options::new(outwork_rehearsal::Scenario::built_in())
    };
    let _back = outwork_rehearsal::Rehearsal::start(options).await.unwrap();
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "after the gap");
    crate::world::log::check(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_model_is_given_up_and_asked_again() {
    let quick = "[model]\nfirst_byte_timeout = \"700ms\"\nidle_timeout = \"700ms\"\nretry_base = \"50ms\"\n";
    let world = World::start_with(ServerOptions::default().settings(quick)).await;
    for (name, hang) in [("head", "headers"), ("words", "silence")] {
        let session = session(&world).await;
        let fault = json!([{ "times": 1, "hang": hang, "after_events": 3 }]);
        world.api.send_events(&session, &[faulty(name, fault)]).await;
        let events = world.api.wait_idle(&session).await;
        let seen = errors(&events);
        assert_eq!(seen.len(), 1, "{name}: {seen:?}");
        assert_eq!(seen[0].1, "retrying", "{name}: {seen:?}");
        assert_eq!(last_message(&events), format!("after {name}"));
        crate::world::log::check(&events);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_attempts_is_bounded() {
    let quick = "[model]\nmax_attempts = 4\nretry_base = \"40ms\"\nretry_cap = \"100ms\"\n";
    let world = World::start_with(ServerOptions::default().settings(quick)).await;
    let session = session(&world).await;
    world
        .api
        .send_events(&session, &[hopeless("nothing", json!({ "status": 529 }))])
        .await;
    let events = world.api.wait_idle(&session).await;
    let seen = errors(&events);
    assert!(seen.iter().all(|e| e.0 == "model_overloaded_error"), "{seen:?}");
    let statuses: Vec<&str> = seen.iter().map(|e| e.1.as_str()).collect();
    assert_eq!(statuses, ["retrying", "retrying", "retrying", "exhausted"]);
    assert_eq!(
        last_status(&events).unwrap()["stop_reason"]["type"],
        "retries_exhausted"
    );
    assert_eq!(world.model.requests().len(), 4);
    world.api.send_events(&session, &[faulty("all", json!([]))]).await;
    let events = world
        .api
        .wait_for(&session, "answer", |e| last_message(e) == "after all")
        .await;
    assert!(events.len() > 10);
    crate::world::log::check(&world.api.wait_idle(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_comes_to_an_end_is_stopped() {
    let few = "[model]\nmax_turn_requests = 5\n";
    let world = World::start_with(ServerOptions::default().settings(few)).await;
    let session = session(&world).await;
    // Calls that are denied are answered at once, so the turn would go on by itself for ever.
    let again = json!([{
        "repeat": 1000,
        "say": [{ "tool_use": { "name": "launch", "input": {}, "unlisted": true } }],
    }]);
    world.api.send_events(&session, &[script_message(again)]).await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(world.model.requests().len(), 5);
    let seen = errors(&events);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].2.contains("max_turn_requests"), "{seen:?}");
    crate::world::log::check(&events);
    world.api.send_events(&session, &[faulty("the limit", json!([]))]).await;
    world
        .api
        .wait_for(&session, "answer", |e| last_message(e) == "after the limit")
        .await;
}
