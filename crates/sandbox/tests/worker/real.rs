//! The worker with this machine's own sandboxes.

use std::sync::Arc;

use outwork_sandbox::worker::{LocalSandboxes, Worker};
use outwork_sandbox::{LauncherOptions, Limits};
use serde_json::{Value, json};

use crate::{Running, SESSION, Setup, result};

async fn start(setup: &Setup) -> Running {
    let options = LauncherOptions {
        program: env!("CARGO_BIN_EXE_outwork-jail").into(),
        ..LauncherOptions::default()
    };
    let sandboxes = LocalSandboxes::start(options, Limits::default()).await.unwrap();
    setup.plane.offer("work_1", SESSION);
    let worker = Worker::with_provider(setup.options(), Arc::new(sandboxes)).unwrap();
    Running(tokio::spawn(worker.run(setup.stop.clone())))
}

fn tool(id: &str, name: &str, input: Value) -> Value {
    json!({"type": "agent.tool_use", "id": id, "name": name, "input": input})
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_work_in_the_workspace() {
    let setup = Setup::new().await;
    setup.emit(tool(
        "a",
        "write",
        json!({"file_path": "/workspace/note.txt", "content": "one\n"}),
    ));
    setup.emit(tool("b", "bash", json!({"command": "cat note.txt; X=7"})));
    setup.emit(tool("c", "bash", json!({"command": "echo $X; exit 3"})));
    let worker = start(&setup).await;
    setup.plane.until("all results", |s| s.results().len() == 3).await;
    setup.finish(worker).await;
    let results = setup.plane.results();
    assert!(!results[0].1, "{results:?}");
    assert!(!results[1].1 && results[1].2.contains("one"), "{results:?}");
    assert!(results[2].1 && results[2].2.contains('7'), "{results:?}");
    let written = std::fs::read_to_string(setup.folder.path().join("note.txt")).unwrap();
    assert_eq!(written, "one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_what_runs_inside() {
    let setup = Setup::new().await;
    setup.emit(tool(
        "a",
        "bash",
        json!({"command": "echo began > began; sleep 1000; echo went-on > went-on"}),
    ));
    let worker = start(&setup).await;
    let began = setup.folder.path().join("began");
    let wait = async {
        while !began.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait)
        .await
        .expect("the command begins");
    setup.emit(result("a"));
    setup.emit(tool("b", "bash", json!({"command": "echo next"})));
    setup.plane.until("the next result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
    let results = setup.plane.results();
    assert!(results[0].0 == "b" && results[0].2.contains("next"), "{results:?}");
    assert!(!setup.folder.path().join("went-on").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_what_runs_inside_and_answers_it() {
    let setup = Setup::new().await;
    setup.emit(tool("a", "bash", json!({"command": "echo began > began; sleep 1000"})));
    let worker = start(&setup).await;
    let began = setup.folder.path().join("began");
    let wait = async {
        while !began.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait)
        .await
        .expect("the command begins");
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().served, 1);
    let results = setup.plane.results();
    assert!(results.len() == 1 && results[0].1, "{results:?}");
    assert_eq!(setup.plane.count("POST", "/stop"), 1);
}
