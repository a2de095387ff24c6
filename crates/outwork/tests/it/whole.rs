//! Whole sessions: the built worker with the full sandbox runs the tools, the server carries the session.

use serde_json::{Value, json};

use crate::world::api::{id, last_message, of_type, text};
use crate::world::{
    Api, Isolation, MODEL_KEY, SCRIPT, SOON, Server, ServerOptions, Worker, WorkerOptions, World, log, rehearsal,
    script_message, until,
};

fn toolset() -> Value {
    json!([{ "type": "agent_toolset_20260401" }])
}

fn call(name: &str, input: Value) -> Value {
    json!({ "tool_use": { "name": name, "input": input } })
}

/// A small piece of work with all six tools, each step looking at what the one before brought.
fn six_tools() -> Value {
    script_message(json!([
        { "say": [
            { "text": "I begin." },
            call("write", json!({ "file_path": "notes/plan.txt", "content": "alpha\nbeta\ngamma\n" })),
        ] },
        { "say": [call("read", json!({ "file_path": "notes/plan.txt" }))] },
        { "expect": "beta", "say": [
            call("edit", json!({ "file_path": "notes/plan.txt", "old_string": "beta", "new_string": "delta" })),
        ] },
        { "say": [
            call("bash", json!({ "command": "cat notes/plan.txt; echo written > made.txt; pwd; id -u; ls /home /root 2>&1" })),
            call("glob", json!({ "pattern": "**/*.txt" })),
            call("grep", json!({ "pattern": "^del", "path": "notes" })),
        ] },
        { "expect": ["delta", "made\\.txt", "plan\\.txt"], "say": [{ "text": "The plan says delta." }] },
    ]))
}

/// Checks what came of [`six_tools`].
fn check_six(events: &[Value]) {
    assert_eq!(last_message(events), "The plan says delta.", "{}", log::shown(events));
    let counted = log::check(events);
    assert_eq!(counted.calls, 6);
    for event in events.iter().filter(|e| log::answered_call(e).is_some()) {
        assert_ne!(event["is_error"], true, "{event}");
    }
}

async fn worker(world: &World, environment: &str, isolation: Isolation) -> Worker {
    Worker::start(WorkerOptions {
        base_url: world.api.base_url().to_owned(),
        environment: environment.to_owned(),
        key: world.api.environment_key(environment).await,
        isolation,
        concurrency: 4,
        flags: Vec::new(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_with_its_sandbox_finishes_a_session() {
    let world = World::start().await;
    let agent = world.api.agent(SCRIPT, toolset()).await;
    let environment = world.api.environment("self_hosted").await;
    let worker = worker(&world, &environment, Isolation::Full).await;
    let session = world.api.session(&agent, &environment).await;
    world.api.send_events(&session, &[six_tools()]).await;
    let events = world.api.wait_idle(&session).await;
    check_six(&events);
    assert_eq!(of_type(&events, "user.tool_result").len(), 6);
    // What the agent made is on the worker's disk, in the session's folder.
    let plan = std::fs::read_to_string(worker.workdir().join(&session).join("notes/plan.txt")).unwrap();
    assert_eq!(plan, "alpha\ndelta\ngamma\n");
    // A second message goes on in the same workspace, and the same shell.
    let again = json!([
        { "say": [call("bash", json!({ "command": "cat made.txt" }))] },
        { "expect": "written", "say": [{ "text": "Still there." }] },
    ]);
    world.api.send_events(&session, &[script_message(again)]).await;
    world
        .api
        .wait_for(&session, "answer", |e| last_message(e) == "Still there.")
        .await;
    log::check(&world.api.wait_idle(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_a_cloud_session() {
    let model = rehearsal().await;
    let server = Server::start(ServerOptions::default().up().model(&model.base_url(), MODEL_KEY)).await;
    let api = server.api();
    let agent = api.agent(SCRIPT, toolset()).await;
    let environment = api.environment("cloud").await;
    let session = api.session(&agent, &environment).await;
    api.send_events(&session, &[six_tools()]).await;
    let events = api.wait_idle(&session).await;
    check_six(&events);
    // The server's own workers ran the calls: the session stayed at work through all of them.
    assert_eq!(of_type(&events, "agent.tool_result").len(), 6);
    assert!(of_type(&events, "user.tool_result").is_empty());
    assert_eq!(of_type(&events, "session.status_idle").len(), 1);
    // An agent cannot give results that are the workers' to give.
    let result = json!({ "type": "user.tool_result", "tool_use_id": id(of_type(&events, "agent.tool_use")[0]) });
    let path = format!("/v1/sessions/{session}/events");
    api.post(&path, json!({ "events": [result] }))
        .await
        .refused(400, &["cloud"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_and_nothing_runs_before_the_answer() {
    let world = World::start().await;
    let ask = json!([{ "type": "agent_toolset_20260401", "default_config": { "permission_policy": { "type": "always_ask" } } }]);
    for kind in ["self_hosted", "cloud"] {
        let agent = world.api.agent(SCRIPT, ask.clone()).await;
        let environment = world.api.environment(kind).await;
        let model = rehearsal().await;
        // A cloud environment is served by a server of its own.
        let up = match kind {
            "cloud" => Some(
                Server::start(
                    ServerOptions::default()
                        .up()
                        .flags(&["--isolation", "none"])
                        .model(&model.base_url(), MODEL_KEY),
                )
                .await,
            ),
            _ => None,
        };
        let (api, agent, environment, worker) = match &up {
            Some(server) => {
                let api = server.api();
                let (agent, environment) = (api.agent(SCRIPT, ask.clone()).await, api.environment("cloud").await);
                (api, agent, environment, None)
            }
            None => {
                let worker = worker(&world, &environment, Isolation::None).await;
                (world.api.clone(), agent, environment, Some(worker))
            }
        };
        let session = api.session(&agent, &environment).await;
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = folder.path().join(name);
            call("bash", json!({ "command": format!("touch {}", path.display()) }))
        };
        let steps = json!([{ "say": [touch("allowed"), touch("denied")] }, { "say": [{ "text": "understood" }] }]);
        api.send_events(&session, &[script_message(steps)]).await;
        let events = api
            .wait_for(&session, "question", |e| !of_type(e, "session.status_idle").is_empty())
            .await;
        let calls: Vec<String> = of_type(&events, "agent.tool_use").into_iter().map(id).collect();
        assert_eq!(
            of_type(&events, "session.status_idle")[0]["stop_reason"]["event_ids"],
            json!(calls)
        );
        assert!(
            of_type(&events, "agent.tool_use")
                .iter()
                .all(|e| e["evaluated_permission"] == "ask")
        );
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "it ran before the answer"
        );
        let confirm = |call: &str, result: &str| json!({ "type": "user.tool_confirmation", "tool_use_id": call, "result": result });
        let mut deny = confirm(&calls[1], "deny");
        deny["deny_message"] = json!("not that one");
        api.send_events(&session, &[confirm(&calls[0], "allow"), deny]).await;
        let events = api.wait_idle(&session).await;
        assert_eq!(last_message(&events), "understood", "{kind}");
        assert_eq!(log::check(&events).denied, 1);
        let made: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(made, ["allowed"], "{kind}");
        // The model was told why.
        let requests = if up.is_some() {
            model.requests()
        } else {
            world.model.requests()
        };
        assert!(
            requests.last().unwrap().body.to_string().contains("not that one"),
            "{kind}"
        );
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_a_queue() {
    let world = World::start().await;
    let agent = world.api.agent(SCRIPT, toolset()).await;
    let environment = world.api.environment("self_hosted").await;
    let workers = [
        worker(&world, &environment, Isolation::None).await,
        worker(&world, &environment, Isolation::None).await,
    ];
    until("both workers poll", SOON, || async {
        let stats = world
            .api
            .get(&format!("/v1/environments/{environment}/work/stats"))
            .await
            .ok();
        (stats["workers_polling"] == 2).then_some(())
    })
    .await;
    let mut sessions = Vec::new();
    for number in 0..8 {
        let session = world.api.session(&agent, &environment).await;
        let steps = json!([
            { "say": [call("bash", json!({ "command": format!("echo out-{number}; sleep 0.5") }))] },
            { "expect": format!("out-{number}"), "say": [{ "text": format!("end-{number}") }] },
        ]);
        world.api.send_events(&session, &[script_message(steps)]).await;
        sessions.push(session);
    }
    for (number, session) in sessions.iter().enumerate() {
        let events = world.api.wait_idle(session).await;
        assert_eq!(
            last_message(&events),
            format!("end-{number}"),
            "{}",
            log::shown(&events)
        );
        log::check(&events);
    }
    // Each worker holds four at most, so both had some; none was served by both.
    let folders = |worker: &Worker| {
        let entries = std::fs::read_dir(worker.workdir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("sesn_")).count()
    };
    let shares = workers.each_ref().map(folders);
    assert_eq!(shares.iter().sum::<usize>(), 8, "{shares:?}");
    assert!(shares.iter().all(|s| *s >= 2), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_end_answers_what_it_runs() {
    let world = World::start().await;
    let agent = world.api.agent(SCRIPT, toolset()).await;
    let environment = world.api.environment("self_hosted").await;
    let mut first = worker(&world, &environment, Isolation::None).await;
    let session = world.api.session(&agent, &environment).await;
    let marker = first.workdir().join("began");
    let steps = json!([
        { "say": [call("bash", json!({ "command": format!("touch {}; sleep 60", marker.display()) }))] },
        { "when": [{ "if": { "error": true }, "say": [call("bash", json!({ "command": "echo second try" }))] }], "say": [{ "text": "?" }] },
        { "expect": "second try", "say": [{ "text": "another worker did it" }] },
    ]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    until("the call runs", SOON, || async { marker.exists().then_some(()) }).await;
    assert!(first.drain().await.success(), "{}", first.log());
    let events = world.api.events(&session).await;
    let results = of_type(&events, "user.tool_result");
    assert_eq!(
        (results.len(), &results[0]["is_error"]),
        (1, &json!(true)),
        "{}",
        log::shown(&events)
    );
    assert!(!text(results[0]).is_empty());
    // The item was released, so the next worker takes the session over at once.
    let _second = worker(&world, &environment, Isolation::None).await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(last_message(&events), "another worker did it");
    log::check(&events);
    let work = world
        .api
        .get(&format!("/v1/environments/{environment}/work"))
        .await
        .ok();
    assert_eq!(work["data"].as_array().unwrap().len(), 2);
    assert_eq!(work["data"][1]["state"], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_reaches_the_running_call() {
    let world = World::start().await;
    let agent = world.api.agent(SCRIPT, toolset()).await;
    let environment = world.api.environment("self_hosted").await;
    let worker = worker(&world, &environment, Isolation::None).await;
    let session = world.api.session(&agent, &environment).await;
    let (began, ended) = (worker.workdir().join("began"), worker.workdir().join("ended"));
    let command = format!("touch {}; sleep 5; touch {}", began.display(), ended.display());
    let steps = json!([{ "say": [call("bash", json!({ "command": command }))] }, { "say": [{ "text": "?" }] }]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    until("the call runs", SOON, || async { began.exists().then_some(()) }).await;
    world
        .api
        .send_events(&session, &[json!({ "type": "user.interrupt" })])
        .await;
    let events = world.api.wait_idle(&session).await;
    assert_eq!(log::check(&events).calls, 1);
    assert!(of_type(&events, "agent.message").is_empty());
    // The worker goes on with the session, in a fresh call.
    let steps = json!([
        { "say": [call("bash", json!({ "command": "sleep 5; echo it lives" }))] },
        { "expect": "it lives", "say": [{ "text": "it lives" }] },
    ]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    world
        .api
        .wait_for(&session, "answer", |e| last_message(e) == "it lives")
        .await;
    assert!(!ended.exists(), "the interrupted call ran to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_a_worker() {
    let world = World::start().await;
    let agent = world.api.agent(SCRIPT, toolset()).await;
    let environment = world.api.environment("self_hosted").await;
    let session = world.api.session(&agent, &environment).await;
    let steps = json!([
        { "say": [call("bash", json!({ "command": "echo here" }))] },
        { "expect": "here", "say": [{ "text": "served" }] },
    ]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    let events = world
        .api
        .wait_for(&session, "requires_action", |e| {
            !of_type(e, "session.status_idle").is_empty()
        })
        .await;
    assert!(of_type(&events, "user.tool_result").is_empty());
    let stats = stats(&world.api, &environment).await;
    assert_eq!(
        (&stats["depth"], &stats["workers_polling"]),
        (&json!(1), &json!(0)),
        "{stats}"
    );
    let _worker = worker(&world, &environment, Isolation::None).await;
    assert_eq!(last_message(&world.api.wait_idle(&session).await), "served");
}

async fn stats(api: &Api, environment: &str) -> Value {
    api.get(&format!("/v1/environments/{environment}/work/stats"))
        .await
        .ok()
}
