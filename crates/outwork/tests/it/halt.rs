//! Stops: of a call, a session, an environment, a workspace; who ordered them and why is in the log and in the ledger.

use outwork_ledger::{Filter, Kind, Record, Scope, scan};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authorization::claim_and_hold;
use crate::files::command_line::outwork;
use crate::world::api::{id, last_message, of_type, text};
use crate::world::{Api, SCRIPT, Server, World, script_message};

/// Two calls that nobody answers, and what the model says of their results.
fn two_calls() -> Value {
    let call = |command: &str| json!({ "tool_use": { "name": "bash", "input": { "command": command } } });
    script_message(json!([
        { "say": [call("sleep 1000"), call("sleep 2000")] },
        { "say": [{ "text": "I see." }] },
    ]))
}

async fn busy(api: &Api, agent: &str, environment: &str) -> (String, Vec<String>) {
    let session = api.session(agent, environment).await;
    api.send_events(&session, &[two_calls()]).await;
    let log = api
        .wait_for(&session, "two calls", |log| {
            of_type(log, "agent.tool_use").len() == 2 && log.last().unwrap()["type"] == "session.status_idle"
        })
        .await;
    (session, of_type(&log, "agent.tool_use").into_iter().map(id).collect())
}

fn stops(server: &Server, session: &str) -> Vec<Record> {
    let mut found = Vec::new();
    let filter = Filter::session(session).of_kind(Kind::Stop);
    scan(server.data_dir().join("ledger"), &filter, |_, record| {
        found.push(record.clone())
    })
    .unwrap();
    found
}

async fn place(world: &World) -> (String, String) {
    let tools = json!([{ "type": "agent_toolset_20260401" }]);
    let agent = world.api.agent(SCRIPT, tools).await;
    (agent, world.api.environment("self_hosted").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_stopped_and_the_session_goes_on() {
    let world = World::start().await;
    let api = &world.api;
    let (agent, environment) = place(&world).await;
    let (session, calls) = busy(api, &agent, &environment).await;
    let worker = api.with_bearer(&api.environment_key(&environment).await);
    let halt = |call: &str| format!("/v1/outwork/calls/{call}/halt");
    let wish = json!({ "reason": "it takes too long" });
    // The later one first: its result waits for the earlier one.
    let done = api.post(&halt(&calls[1]), wish).await.ok();
    assert_eq!(
        done["sessions"],
        json!([{ "session_id": session, "calls": [calls[1]] }])
    );
    let result = json!({ "type": "user.tool_result", "tool_use_id": calls[0], "content": [] });
    worker
        .post(&format!("/v1/sessions/{session}/events"), json!({ "events": [result] }))
        .await
        .ok();
    let log = api.wait_idle(&session).await;
    assert_eq!(last_message(&log), "I see.");
    let results = of_type(&log, "user.tool_result");
    assert_eq!((results.len(), &results[1]["is_error"]), (2, &json!(true)));
    let words = text(results[1]);
    assert!(
        words.contains("it takes too long") && words.contains("apikey_"),
        "{words}"
    );
    api.post(&halt(&calls[1]), json!({})).await.refused(400, &[&calls[1]]);
    api.post(&halt("sevt_nothing"), json!({})).await.refused(404, &[]);
    let stop = stops(&world.server, &session).remove(0);
    assert_eq!(stop.stop.as_ref().unwrap().scope, Scope::Call);
    assert_eq!(stop.stop.unwrap().ended, [calls[1].clone()]);
    assert_eq!(stop.reason.as_deref(), Some("it takes too long"));

    // By force, the worker is to end the sandbox; the session lives.
    let (session, calls) = busy(api, &agent, &environment).await;
    let (_, token) = loop {
        let held = claim_and_hold(&worker, &environment).await;
        let boundary = format!("/v1/outwork/sessions/{session}/boundary");
        if api.with_bearer(&held.1).get(&boundary).await.status == 200 {
            break held;
        }
    };
    let boundary = format!("/v1/outwork/sessions/{session}/boundary");
    let mine = api.with_bearer(&token);
    // What is no open call is refused, and nothing happens to the sandbox.
    let message = id(of_type(&api.events(&session).await, "user.message")[0]);
    api.post(&halt(&message), json!({ "force": true }))
        .await
        .refused(400, &[&message]);
    assert_eq!(mine.get(&boundary).await.ok()["stop"], Value::Null);
    let given = ["secrets", "mounts"].map(|what| format!("/v1/outwork/sessions/{session}/{what}"));
    for path in &given {
        mine.get(path).await.ok();
    }
    api.post(&halt(&calls[0]), json!({ "force": true })).await.ok();
    assert_eq!(mine.get(&boundary).await.ok()["stop"], "forced");
    // The sandbox is to end, so nothing more is given to it.
    for path in &given {
        mine.get(path).await.refused(403, &["over"]);
    }
    assert_eq!(api.get(&format!("/v1/sessions/{session}")).await.ok()["status"], "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_interrupted_gently_and_ended_by_force() {
    let world = World::start().await;
    let api = &world.api;
    let (agent, environment) = place(&world).await;
    let (session, calls) = busy(api, &agent, &environment).await;
    let folder = TempDir::new().unwrap();
    let run = async |words: &[&str]| outwork(folder.path(), api.base_url(), words, "").await;
    let done = run(&["halt", "session", &session, "--reason", "lunch", "--json"]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["sessions"][0]["calls"], json!(calls));
    let log = api.wait_idle(&session).await;
    let results = of_type(&log, "user.tool_result");
    assert!(
        results.len() == 2 && results.iter().all(|r| text(r).contains("lunch")),
        "{results:?}"
    );
    assert_eq!(of_type(&log, "user.interrupt").len(), 1);
    // It rests, and takes another message.
    let hello = script_message(json!([{ "say": [{ "text": "Here again." }] }]));
    api.send_events(&session, &[hello]).await;
    api.wait_for(&session, "answer", |log| last_message(log) == "Here again.")
        .await;

    // An interrupt that a client sends is a stop as well.
    api.wait_idle(&session).await;
    api.send_events(&session, &[two_calls()]).await;
    api.wait_for(&session, "calls", |log| of_type(log, "agent.tool_use").len() == 4)
        .await;
    api.send_events(&session, &[json!({ "type": "user.interrupt" })]).await;
    api.wait_idle(&session).await;

    let path = format!("/v1/outwork/sessions/{session}/halt");
    api.post(&path, json!({ "force": true, "reason": "runaway" }))
        .await
        .ok();
    assert_eq!(
        api.get(&format!("/v1/sessions/{session}")).await.ok()["status"],
        "terminated"
    );
    api.post(
        &format!("/v1/sessions/{session}/events"),
        json!({ "events": [two_calls()] }),
    )
    .await
    .refused(400, &["archived"]);
    let again = api.post(&path, json!({ "force": true })).await.ok();
    assert_eq!(again["sessions"][0]["calls"], json!([]));
    let reasons: Vec<_> = stops(&world.server, &session)
        .into_iter()
        .map(|stop| (stop.reason.unwrap(), stop.stop.unwrap().forced))
        .collect();
    let wanted = [("lunch", false), ("user.interrupt", false), ("runaway", true)];
    assert_eq!(reasons, wanted.map(|(reason, forced)| (reason.to_owned(), forced)));
    let log = world.server.log();
    assert!(log.contains("session.halted") && log.contains("runaway"), "{log}");
    for (body, named) in [
        (json!({ "force": "yes" }), "force"),
        (json!({ "why": "x" }), "why"),
        (json!({ "reason": "" }), "reason"),
        (json!({ "reason": "a\nb" }), "reason"),
    ] {
        api.post(&path, body).await.refused(400, &[named]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_and_a_workspace_stop_with_all_their_sessions() {
    let world = World::start().await;
    let api = &world.api;
    let (agent, environment) = place(&world).await;
    let elsewhere = api.environment("self_hosted").await;
    let (one, _) = busy(api, &agent, &environment).await;
    let (two, _) = busy(api, &agent, &environment).await;
    let (other, _) = busy(api, &agent, &elsewhere).await;
    let idle = api.session(&agent, &environment).await;
    let halted = |answer: &Value| -> Vec<String> {
        let sessions = answer["sessions"].as_array().unwrap();
        sessions
            .iter()
            .map(|s| s["session_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let path = format!("/v1/outwork/environments/{environment}/halt");
    let gently = api.post(&path, json!({ "reason": "maintenance" })).await.ok();
    let named = halted(&gently);
    assert!(
        named.contains(&one) && named.contains(&two) && !named.contains(&other),
        "{gently}"
    );
    for session in [&one, &two] {
        assert_eq!(of_type(&api.wait_idle(session).await, "user.interrupt").len(), 1);
    }
    let status = async |session: &str| api.get(&format!("/v1/sessions/{session}")).await.ok()["status"].clone();
    let by_force = api.post(&path, json!({ "force": true })).await.ok();
    assert_eq!(halted(&by_force).len(), 3);
    for session in [&one, &two, &idle] {
        assert_eq!(status(session).await, "terminated");
    }
    assert_ne!(status(&other).await, "terminated");

    let workspace = api.get("/v1/workspaces").await.ok()["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let all = api
        .post(
            &format!("/v1/outwork/workspaces/{workspace}/halt"),
            json!({ "force": true }),
        )
        .await
        .ok();
    assert_eq!(halted(&all), std::slice::from_ref(&other));
    assert_eq!(status(&other).await, "terminated");
    let stop = stops(&world.server, &other).remove(0).stop.unwrap();
    assert_eq!((stop.scope, stop.forced), (Scope::Workspace, true));
}
