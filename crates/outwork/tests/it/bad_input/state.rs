//! Requests that are right by themselves and do not fit what is there: unknown ids, archived things, heartbeats of the
//! past, answers to calls that have one.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::api::{id, of_type, text};
use crate::world::{Api, SCRIPT, World, message, script_message};

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_nothing_of_another_kind_and_of_what_is_archived() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    for id in [
        environment.as_str(),
        "agent_0000000000000000000000",
        "agent_",
        "agent_../x",
        "%00",
        "agent_%F0%9F%98%80",
    ] {
        Api::send(api.request(Method::GET, &format!("/v1/agents/{id}")))
            .await
            .refused(404, &[]);
    }
    for id in [agent.as_str(), "sesn_0000000000000000000000", "x"] {
        api.get(&format!("/v1/sessions/{id}")).await.refused(404, &["session"]);
        api.get(&format!("/v1/sessions/{id}/events"))
            .await
            .refused(404, &["session"]);
        api.post(
            &format!("/v1/sessions/{id}/events"),
            json!({ "events": [message("x")] }),
        )
        .await
        .refused(404, &["session"]);
        api.get(&format!("/v1/environments/{id}/work"))
            .await
            .refused(404, &["environment"]);
    }
    api.get(&format!("/v1/sessions/{session}/threads/{session}"))
        .await
        .refused(404, &["thread"]);
    api.get(&format!("/v1/agents/{agent}?version=99"))
        .await
        .refused(404, &["99"]);

    // A session that is archived reads on and takes nothing more.
    api.post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .ok();
    let events = format!("/v1/sessions/{session}/events");
    api.post(&events, json!({ "events": [message("x")] }))
        .await
        .refused(400, &["archived"]);
    api.post(&format!("/v1/sessions/{session}"), json!({ "title": "new" }))
        .await
        .refused(400, &["archived"]);
    assert_eq!(
        api.get(&format!("/v1/sessions/{session}")).await.ok()["status"],
        "terminated"
    );
    assert!(!api.events(&session).await.is_empty());
    // An archived agent and an archived environment take no new session.
    let other = api.agent(SCRIPT, json!([])).await;
    api.post(&format!("/v1/agents/{other}/archive"), json!({})).await.ok();
    let body = json!({ "agent": other, "environment_id": environment });
    api.post("/v1/sessions", body)
        .await
        .refused(400, &["agent", "archived"]);
    api.post(&format!("/v1/agents/{other}"), json!({ "version": 1, "name": "y" }))
        .await
        .refused(400, &["archived"]);
    api.post(&format!("/v1/environments/{environment}/archive"), json!({}))
        .await
        .ok();
    let body = json!({ "agent": agent, "environment_id": environment });
    api.post("/v1/sessions", body)
        .await
        .refused(400, &["environment", "archived"]);
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
    api.get(&format!("/v1/sessions/{session}"))
        .await
        .refused(404, &["session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_of_the_past_does_not_hold_a_lease() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    api.session(&agent, &environment).await;
    let worker = api.with_bearer(&api.environment_key(&environment).await);
    let queue = format!("/v1/environments/{environment}/work");
    let work = id(&worker.get(&format!("{queue}/poll")).await.ok());
    let beat = async |expected: &str| {
        let path = format!("{queue}/{work}/heartbeat?desired_ttl_seconds=60&expected_last_heartbeat={expected}");
        worker.post(&path, json!({})).await
    };
    let lost = |answer: crate::world::Answer, expected: &str, actual: &Value, state: &str| {
        let shown = actual.as_str().unwrap_or("NULL").to_owned();
        let answer = answer.refused(412, &[expected, &shown]);
        let details = &answer.body["error"]["details"];
        assert_eq!(
            details["error_code"], "heartbeat_precondition_failed",
            "{}",
            answer.text
        );
        assert_eq!(details["error_visibility"], "user_facing");
        let current = details["current_state"].as_object().unwrap();
        let fields: Vec<&String> = current.keys().collect();
        assert_eq!(
            fields,
            [
                "state",
                "last_heartbeat",
                "lease_updated_at",
                "lease_extended",
                "ttl_seconds"
            ]
        );
        assert_eq!(
            (&current["state"], &current["lease_extended"]),
            (&json!(state), &json!(false))
        );
        assert_eq!(&current["last_heartbeat"], actual);
    };
    // Nobody holds what is only offered.
    lost(beat("NO_HEARTBEAT").await, "NO_HEARTBEAT", &Value::Null, "queued");
    worker.post(&format!("{queue}/{work}/ack"), json!({})).await.ok();
    lost(
        beat("2026-01-01T00:00:00.000000Z").await,
        "2026-01-01T00:00:00.000000Z",
        &Value::Null,
        "starting",
    );
    let first = beat("NO_HEARTBEAT").await.ok();
    assert_eq!(
        (&first["state"], &first["ttl_seconds"], &first["lease_extended"]),
        (&json!("active"), &json!(60), &json!(true))
    );
    // The first beat again, as another worker that believes to be the first would send it.
    lost(
        beat("NO_HEARTBEAT").await,
        "NO_HEARTBEAT",
        &first["last_heartbeat"],
        "active",
    );
    let stamp = first["last_heartbeat"].as_str().unwrap();
    let second = beat(stamp).await.ok();
    assert_ne!(second["last_heartbeat"], first["last_heartbeat"]);
    // A replay of the second beat.
    lost(beat(stamp).await, stamp, &second["last_heartbeat"], "active");
    // What failed changed nothing: the holder goes on.
    beat(second["last_heartbeat"].as_str().unwrap()).await.ok();
    worker
        .post(&format!("{queue}/{work}/ack"), json!({}))
        .await
        .refused(409, &["active"]);
    let path = format!("{queue}/{work}/heartbeat?desired_ttl_seconds=0");
    worker
        .post(&path, json!({}))
        .await
        .refused(400, &["desired_ttl_seconds"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_calls_that_are_answered_or_were_never_made() {
    let world = World::start().await;
    let api = &world.api;
    let custom = json!({
        "type": "custom", "name": "ticket", "description": "Opens a ticket.", "input_schema": { "type": "object" },
    });
    let ask = json!({
        "type": "agent_toolset_20260401",
        "configs": [{ "name": "write", "permission_policy": { "type": "always_ask" } }],
    });
    let agent = api.agent(SCRIPT, json!([ask, custom])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let steps = json!([
        { "say": [
            { "tool_use": { "name": "ticket", "input": {} } },
            { "tool_use": { "name": "bash", "input": { "command": "true" } } },
            { "tool_use": { "name": "write", "input": { "file_path": "a", "content": "b" } } },
        ] },
        { "say": [{ "text": "done" }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    let events = api
        .wait_for(&session, "requires_action", |e| {
            !of_type(e, "session.status_idle").is_empty()
        })
        .await;
    let call = |name: &str| id(events.iter().find(|e| e["name"] == name).unwrap());
    let (ticket, bash, write) = (call("ticket"), call("bash"), call("write"));
    let content = json!([{ "type": "text", "text": "fine" }]);
    let result = |call: &str| json!({ "type": "user.tool_result", "tool_use_id": call, "content": content });
    let ticket_result = json!({ "type": "user.custom_tool_result", "custom_tool_use_id": ticket, "content": content });
    let confirm =
        |call: &str, how: &str| json!({ "type": "user.tool_confirmation", "tool_use_id": call, "result": how });
    let message_id = id(&events[2]);
    let count = events.len();
    for (wrong, named) in [
        (
            vec![result("sevt_0000000000000000000000")],
            "sevt_0000000000000000000000",
        ),
        (vec![result(&message_id)], "no open tool call"),
        (vec![result(&ticket)], "custom tool call"),
        (
            vec![json!({ "type": "user.custom_tool_result", "custom_tool_use_id": bash, "content": content })],
            "user.tool_result",
        ),
        (vec![result(&write)], "confirmation"),
        (vec![confirm(&bash, "allow")], "does not wait for a confirmation"),
        (vec![confirm(&write, "allow"), confirm(&write, "deny")], "events.1"),
        (vec![result(&bash), result(&bash)], "events.1"),
        (vec![confirm(&write, "deny"), result(&write)], "events.1"),
        (
            vec![
                json!({ "type": "user.tool_confirmation", "tool_use_id": write, "result": "allow", "deny_message": "no" }),
            ],
            "deny_message",
        ),
        (vec![ticket_result.clone(), result("sevt_1")], "events.1"),
    ] {
        let answer = api.post(&path, json!({ "events": wrong })).await;
        assert_eq!(answer.status, 400, "{wrong:?}: {}", answer.text);
        answer.refused(400, &[named]);
    }
    assert_eq!(
        api.events(&session).await.len(),
        count,
        "a refused batch left something"
    );

    api.send_events(&session, &[result(&bash), confirm(&write, "allow")])
        .await;
    api.post(&path, json!({ "events": [result(&bash)] }))
        .await
        .refused(400, &["answer already"]);
    api.post(&path, json!({ "events": [confirm(&write, "allow")] }))
        .await
        .refused(400, &["confirmation"]);
    api.send_events(&session, &[ticket_result.clone(), result(&write)])
        .await;
    let events = api.wait_idle(&session).await;
    assert_eq!(text(of_type(&events, "agent.message")[0]), "done");
    for late in [result(&bash), ticket_result] {
        api.post(&path, json!({ "events": [late] }))
            .await
            .refused(400, &["answer already"]);
    }
    crate::world::log::check(&api.events(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_at_work_is_not_archived_or_deleted() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("cloud").await;
    let session = api.session(&agent, &environment).await;
    let steps = json!([{ "say": [{ "text": "late" }], "faults": [{ "hang": "silence" }] }]);
    api.send_events(&session, &[script_message(steps)]).await;
    api.wait_for(&session, "running", |e| {
        !of_type(e, "span.model_request_start").is_empty()
    })
    .await;
    api.post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .refused(400, &["running", "user.interrupt"]);
    api.delete(&format!("/v1/sessions/{session}"))
        .await
        .refused(400, &["running", "user.interrupt"]);
    api.send_events(&session, &[json!({ "type": "user.interrupt" })]).await;
    api.wait_idle(&session).await;
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
}
