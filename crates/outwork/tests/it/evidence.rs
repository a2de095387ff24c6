//! The evidence of a session: what the plane records, what workers add, the file that comes of it and whether a stranger
//! can verify it; and that nothing is let through that cannot be recorded.

use std::path::{Path, PathBuf};

use outwork_ledger::evidence::{Evidence, Trust, verify_file};
use outwork_ledger::{Decision, Expect, Filter, Hash, Kind, Ledger, Options, Record, scan};
use outwork_wire::Time;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::files::command_line::outwork;
use crate::service::disk::inside;
use crate::world::api::{id, of_type};
use crate::world::{
    Answer, Api, MODEL_KEY, SCRIPT, SOON, Server, ServerOptions, World, rehearsal, script_message, until,
};

/// An agent whose commands a person allows.
fn asking() -> Value {
    let ask = json!({ "type": "always_ask" });
    json!([{
        "type": "agent_toolset_20260401", "configs": [{ "name": "bash", "enabled": true, "permission_policy": ask }],
    }])
}

fn call(name: &str, input: Value) -> Value {
    json!({ "tool_use": { "name": name, "input": input } })
}

/// The evidence of a session, in a file, with the id of the key that sealed it.
async fn fetched(api: &Api, session: &str, folder: &Path) -> (PathBuf, String) {
    let path = format!("/v1/outwork/sessions/{session}/evidence");
    let answer = Api::send(api.request(Method::GET, &path)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let key = answer.headers["outwork-ledger-key"].to_str().unwrap().to_owned();
    let file = folder.join(format!("{session}.jsonl"));
    std::fs::write(&file, &answer.text).unwrap();
    (file, key)
}

fn verified(file: &Path, key: &str) -> Evidence {
    verify_file(file, &Expect::key_ids([key.parse().unwrap()]))
        .unwrap()
        .sound()
        .unwrap()
}

/// The records of a session in the server's ledger, while it runs.
fn records(server: &Server, session: &str) -> Vec<Record> {
    let mut found = Vec::new();
    scan(
        server.data_dir().join("ledger"),
        &Filter::session(session),
        |_, record| {
            found.push(record.clone());
        },
    )
    .unwrap();
    found
}

async fn upload(worker: &Api, session: &str, part: &str, body: Vec<u8>) -> Answer {
    let path = format!("/v1/outwork/sessions/{session}/evidence?part={part}");
    Api::send(worker.request(Method::POST, &path).body(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_did_is_recorded_and_verifies_elsewhere() {
    let world = World::start().await;
    let (api, folder) = (&world.api, TempDir::new().unwrap());
    let agent = api.agent(SCRIPT, asking()).await;
    let environment = api.environment("self_hosted").await;
    let worker = api.with_bearer(&api.environment_key(&environment).await);
    let session = api.session(&agent, &environment).await;
    let steps = json!([
        { "say": [call("write", json!({ "file_path": "a.txt", "content": "secret words" }))] },
        { "say": [call("bash", json!({ "command": "true" }))] },
        { "say": [call("bash", json!({ "command": "false" }))] },
        { "say": [{ "text": "Done." }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    let events = format!("/v1/sessions/{session}/events");
    let mut answered = 0;
    while answered < 3 {
        let log = api
            .wait_for(&session, "a call that waits", |log| {
                of_type(log, "agent.tool_use").len() > answered
                    && log.iter().any(|e| e["stop_reason"]["type"] == "requires_action")
                    && log.last().unwrap()["type"] == "session.status_idle"
            })
            .await;
        let call = id(of_type(&log, "agent.tool_use")[answered]);
        if answered > 0 {
            let verdict = if answered == 1 { "allow" } else { "deny" };
            let confirmation = json!({ "type": "user.tool_confirmation", "tool_use_id": call, "result": verdict });
            api.post(&events, json!({ "events": [confirmation] })).await.ok();
        }
        answered += 1;
        if answered < 3 {
            let result = json!({
                "type": "user.tool_result", "tool_use_id": call, "content": [{ "type": "text", "text": "fine" }],
            });
            worker.post(&events, json!({ "events": [result] })).await.ok();
        }
    }
    api.wait_idle(&session).await;

    let (file, key) = fetched(api, &session, folder.path()).await;
    let found = verified(&file, &key);
    assert_eq!(found.findings, [], "{}", found.text());
    assert_eq!(found.session.as_deref(), Some(session.as_str()));
    let log = api.events(&session).await;
    assert_eq!(found.events, log.len() as u64);
    assert_eq!(found.ledgers[0].trust, Trust::Key);
    let records = records(&world.server, &session);
    let of = |kind: Kind| records.iter().filter(|r| r.kind == kind).collect::<Vec<_>>();
    assert_eq!(of(Kind::SessionStart).len(), 1);
    assert!(!of(Kind::SessionLog).is_empty());
    let calls = of(Kind::ToolCall);
    let inputs: Vec<_> = of_type(&log, "agent.tool_use")
        .iter()
        .map(|e| Hash::of_json(&e["input"]))
        .collect();
    assert!(calls.iter().all(|r| inputs.contains(&r.input_hash.unwrap())));
    assert_eq!(calls.iter().filter(|r| r.output_hash.is_some()).count(), 2);
    assert_eq!(calls.iter().filter(|r| r.decision == Some(Decision::Denied)).count(), 1);
    let approvals = of(Kind::Approval);
    let verdicts: Vec<_> = approvals.iter().map(|r| r.decision.unwrap()).collect();
    assert_eq!(verdicts, [Decision::Allowed, Decision::Denied]);
    assert!(
        approvals[0].approver.as_deref().unwrap().starts_with("apikey_"),
        "{:?}",
        approvals[0]
    );
    let text = std::fs::read_to_string(world.server.data_dir().join("ledger/ledger-1.jsonl"));
    assert!(!text.unwrap_or_default().contains("secret words"));

    // The command line does the same, and finds what was changed.
    let run = async |words: &[&str]| outwork(folder.path(), api.base_url(), words, "").await;
    let made = run(&["evidence", &session, "-o", "proof.jsonl", "--json"]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["key"], key.as_str());
    let good = run(&["evidence", "verify", "proof.jsonl", "--key", &key]).await;
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success() && said.contains("sound"), "{said}");
    let report = run(&["evidence", "report", "proof.jsonl", "--markdown"]).await;
    assert!(String::from_utf8_lossy(&report.stdout).contains(&session));
    let other = run(&["evidence", "verify", "proof.jsonl", "--key", &"ab".repeat(16)]).await;
    assert!(!other.status.success());
    let proof = folder.path().join("proof.jsonl");
    let changed = std::fs::read_to_string(&proof).unwrap().replacen("fine", "mine", 1);
    std::fs::write(&proof, changed).unwrap();
    let bad = run(&["evidence", "verify", "proof.jsonl", "--key", &key, "--json"]).await;
    let said: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert!(!bad.status.success() && said["sound"] == false, "{said}");
    let ledger = world.server.data_dir().join("ledger");
    let whole = run(&["ledger", "verify", "--ledger", ledger.to_str().unwrap()]).await;
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stdout));
    let ocsf = run(&[
        "ledger",
        "export",
        "--ledger",
        ledger.to_str().unwrap(),
        "--session",
        &session,
        "--form",
        "ocsf",
    ])
    .await;
    assert_eq!(String::from_utf8_lossy(&ocsf.stdout).lines().count(), records.len() + 1);

    // After a restart the chain goes on, and the log's hash still fits.
    let mut world = world;
    world.server.kill().await;
    world.server.restart().await;
    let (file, key) = fetched(&world.server.api(), &session, folder.path()).await;
    assert_eq!(verified(&file, &key).findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_adds_its_own_records_and_takes_nothing_back() {
    let world = World::start().await;
    let (api, folder) = (&world.api, TempDir::new().unwrap());
    let (session, worker) = api.claimed(json!({})).await;
    let policy = b"allow nothing".to_vec();
    let ledger = Ledger::open(folder.path().join("ledger"), Options::default()).unwrap();
    let dns = |name: &str| {
        Record::new(Kind::DnsQuery, Time::now())
            .session(session.as_str())
            .destination(name)
            .policy_hash(Hash::of(&policy))
            .decided(Decision::Denied, "default")
    };
    let bundle = |of: &str| {
        let mut bytes = Vec::new();
        ledger.export(&Filter::session(of), &mut bytes).unwrap();
        bytes
    };
    ledger.append(dns("a.example")).wait().unwrap();
    let first = bundle(&session);
    ledger.append(dns("b.example")).wait().unwrap();
    ledger
        .append(dns("c.example").session("sesn_of_somebody_else"))
        .wait()
        .unwrap();
    let second = bundle(&session);

    assert_eq!(
        upload(&worker, &session, "records", first.clone()).await.ok()["records"],
        1
    );
    assert_eq!(
        upload(&worker, &session, "records", second.clone()).await.ok()["records"],
        2
    );
    upload(&worker, &session, "policy", policy.clone()).await.ok();
    upload(&worker, &session, "records", first)
        .await
        .refused(409, &["stays"]);
    let foreign = bundle("sesn_of_somebody_else");
    upload(&worker, &session, "records", foreign)
        .await
        .refused(400, &["not about"]);
    let mut torn = second.clone();
    let middle = torn.len() / 2;
    torn[middle] ^= 1;
    upload(&worker, &session, "records", torn)
        .await
        .refused(400, &["does not hold"]);
    upload(&worker, &session, "records", Vec::new())
        .await
        .refused(400, &["empty"]);
    upload(&worker, &session, "wishes", second)
        .await
        .refused(400, &["part"]);
    upload(&worker, &session, "policy", vec![b'x'; (1 << 20) + 1])
        .await
        .refused(413, &[]);

    let (file, key) = fetched(api, &session, folder.path()).await;
    let found = verified(&file, &key);
    assert_eq!(found.findings, [], "{}", found.text());
    let parts: Vec<(bool, u64)> = found
        .ledgers
        .iter()
        .map(|part| (part.name.starts_with("worker-"), part.records))
        .collect();
    assert!(parts.contains(&(true, 2)), "{parts:?}");
    assert_eq!(found.documents.len(), 1);

    // With the session goes what was handed over for it.
    let kept = world.server.data_dir().join("evidence").join(&session);
    assert!(kept.is_dir());
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
    assert!(!kept.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_let_through_that_cannot_be_recorded() {
    let model = rehearsal().await;
    let folder = TempDir::new().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m,mode=0700 tmpfs {small} && exec \"$@\"",
        small = small.display()
    );
    let mut wrapper: Vec<String> = vec!["unshare".into(), "--mount".into()];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--map-root-user".to_owned(), "--user".to_owned()]);
    }
    wrapper.extend(["sh".into(), "-c".into(), script, "sh".into()]);
    let options = ServerOptions {
        wrapper,
        data_dir: Some(folder.path().join("data")),
        ..ServerOptions::default()
    };
    let settings = format!("[ledger]\ndir = \"{}/ledger\"\n", small.display());
    let server = Server::start(options.model(&model.base_url(), MODEL_KEY).settings(&settings)).await;
    let api = server.api();
    let file = id(&api.upload("a.csv", "a,b").await.ok());
    let resources = json!([{ "type": "file", "file_id": file, "mount_path": "/workspace/a.csv" }]);
    let (session, worker) = api.claimed(json!({ "resources": resources })).await;
    assert_eq!(worker.download(&file).await.text, "a,b");

    // The disk of the ledger is full; that of the store is not.
    let ballast = inside(&server, &small).join("ballast");
    let mut rest = 1 << 20;
    while rest > 0 {
        let wrote = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&ballast)
            .and_then(|mut file| std::io::Write::write(&mut file, &vec![0; rest]));
        if !matches!(wrote, Ok(written) if written > 0) {
            rest /= 2;
        }
    }
    until("the ledger is full", SOON, || async {
        let answer = worker.download(&file).await;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text);
        (answer.status == 503).then_some(answer)
    })
    .await
    .refused(503, &["ledger", "not let through"]);
    worker.get(&format!("/v1/outwork/sessions/{session}/mounts")).await.ok();
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let body = json!({ "agent": agent, "environment_id": environment });
    api.post("/v1/sessions", body.clone()).await.refused(503, &["ledger"]);
    assert_eq!(Api::send(api.bare(Method::GET, "/readyz")).await.status, 503);
    // A call of a tool is not shown to a worker; it comes as soon as it can be recorded.
    let steps = json!([{ "say": [call("bash", json!({ "command": "true" }))] }]);
    let tools = json!([{ "type": "agent_toolset_20260401" }]);
    api.post(
        &format!("/v1/sessions/{session}"),
        json!({ "agent": { "tools": tools } }),
    )
    .await
    .ok();
    api.send_events(&session, &[script_message(steps)]).await;
    until("the model has answered", SOON, || async {
        model.requests().iter().any(|r| r.outcome == "answer").then_some(())
    })
    .await;
    assert!(of_type(&api.events(&session).await, "agent.tool_use").is_empty());

    std::fs::remove_file(&ballast).unwrap();
    let log = api
        .wait_for(&session, "the call", |log| !of_type(log, "agent.tool_use").is_empty())
        .await;
    let call = id(of_type(&log, "agent.tool_use")[0]);
    until("downloads are taken again", SOON, || async {
        (worker.download(&file).await.status == 200).then_some(())
    })
    .await;
    api.post("/v1/sessions", body).await.ok();
    let (file, key) = fetched(&api, &session, folder.path()).await;
    let found = verified(&file, &key);
    assert_eq!(found.findings, [], "{}", found.text());
    assert!(
        found
            .summary
            .records
            .rows
            .iter()
            .any(|row| row.record.call.as_deref() == Some(call.as_str()))
    );
}
