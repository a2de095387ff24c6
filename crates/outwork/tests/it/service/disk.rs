//! A disk that is full: requests get 503, nothing of them is kept and nothing else is lost, and when there is room
//! again the same process goes on.
//!
//! The disk is a small file system in memory, in a mount namespace that only the server sees.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::api::last_message;
use crate::world::{
    Api, MODEL_KEY, SCRIPT, SOON, Server, ServerOptions, log, message, rehearsal, script_message, until,
};

/// Holds the place that a disk has left.
const BALLAST: &str = "ballast";

/// A command line that gives a server a file system of a few megabytes, half of it ballast, mounted over `folder`.
pub fn small_disk(folder: &Path) -> Vec<String> {
    let script = format!(
        "mount -t tmpfs -o size=6m,mode=0700 tmpfs {folder} && mkdir -m 700 {folder}/data && \
         dd if=/dev/zero of={folder}/{BALLAST} bs=1M count=3 status=none && exec \"$@\"",
        folder = folder.display()
    );
    let mut line: Vec<String> = vec!["unshare".into(), "--mount".into()];
    if !rustix::process::geteuid().is_root() {
        line.extend(["--map-root-user".to_owned(), "--user".to_owned()]);
    }
    line.extend(["sh".into(), "-c".into(), script, "sh".into()]);
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_and_loses_nothing() {
    let model = rehearsal().await;
    let folder = TempDir::new().unwrap();
    let options = ServerOptions {
        wrapper: small_disk(folder.path()),
        data_dir: Some(folder.path().join("data")),
        ..ServerOptions::default()
    };
    let server = Server::start(options.model(&model.base_url(), MODEL_KEY)).await;
    let api = server.api();
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let waiting = api.session(&agent, &environment).await;

    // Messages that wait, until there is no room. What was accepted is remembered.
    let steps = json!([{ "say": [{ "text": "it goes on" }], "pace": { "first_token_ms": 4000 } }]);
    api.send_events(&waiting, &[script_message(steps)]).await;
    let mut accepted = Vec::new();
    let refused = loop {
        assert!(accepted.len() < 400, "the disk did not fill up");
        let body = json!({ "name": "filler", "model": SCRIPT, "system": "x".repeat(60_000), "metadata": { "n": accepted.len().to_string() } });
        let answer = api.post("/v1/agents", body).await;
        match answer.status {
            200 => accepted.push(answer.body),
            _ => break answer,
        }
    };
    refused.refused(503, &["store", "try again"]);
    assert!(accepted.len() > 5);

    // Events fall too, and leave nothing; reading goes on.
    let big = message(&"y".repeat(200_000));
    for _ in 0..3 {
        let answer = api
            .post(&format!("/v1/sessions/{session}/events"), json!({ "events": [big] }))
            .await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
        answer.check_error();
    }
    assert!(api.events(&session).await.is_empty(), "a refused event is in the log");
    all_there(&api, &accepted).await;
    assert_eq!(Api::send(api.bare(reqwest::Method::GET, "/healthz")).await.status, 200);

    // The model's answer comes while there is no room for it.
    until("the answer was given", SOON, || async {
        model.requests().iter().any(|r| r.outcome == "answer").then_some(())
    })
    .await;

    // Room again: the same process goes on, with the answer that it held.
    std::fs::remove_file(inside(&server, folder.path()).join(BALLAST)).unwrap();
    until("writes are taken again", SOON, || async {
        let answer = api
            .post("/v1/agents", json!({ "name": "after", "model": SCRIPT }))
            .await;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text);
        (answer.status == 200).then_some(())
    })
    .await;
    api.wait_ready().await;
    let events = api.wait_idle(&waiting).await;
    assert_eq!(last_message(&events), "it goes on");
    log::check(&events);
    all_there(&api, &accepted).await;
    api.send_events(
        &session,
        &[script_message(json!([{ "say": [{ "text": "so does this" }] }]))],
    )
    .await;
    assert_eq!(last_message(&api.wait_idle(&session).await), "so does this");
}

/// The server's own view of a path.
pub fn inside(server: &Server, path: &Path) -> PathBuf {
    let root = format!("/proc/{}/root", server.pid().as_raw_nonzero());
    Path::new(&root).join(path.strip_prefix("/").unwrap())
}

async fn all_there(api: &Api, accepted: &[Value]) {
    for agent in accepted {
        let id = agent["id"].as_str().unwrap();
        assert_eq!(api.get(&format!("/v1/agents/{id}")).await.ok(), *agent);
    }
}
