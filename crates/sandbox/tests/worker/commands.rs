//! `on-work` commands, and the single item that such a command serves.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outwork_sandbox::worker::{
    EXIT_LEASE_LOST, ItemEnd, ItemOptions, Queue, ServiceOptions, WorkerError, run_item_with,
};
use serde_json::{Value, json};

use crate::plane::{self, Beat, ENVIRONMENT, KEY, TOKEN};
use crate::{SESSION, Setup, answered, call};

async fn until_file(path: &Path) -> String {
    let wait = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the command writes its file")
}

#[tokio::test]
async fn a_command_is_told_everything_and_its_exit_releases_the_item() {
    let setup = Setup::new().await;
    let out = setup.folder.path().join("out");
    setup.plane.offer("work_1", SESSION);
    let command = format!(
        "(echo $ANTHROPIC_SESSION_ID $ANTHROPIC_WORK_ID $ANTHROPIC_ENVIRONMENT_ID $ANTHROPIC_ENVIRONMENT_KEY \
         $ANTHROPIC_BASE_URL ${{ANTHROPIC_WORK_SECRET-unset}}; cat) > '{}'",
        out.display()
    );
    let worker = setup.start(|o| o.on_work = Some(command));
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().served, 1);
    let text = fs::read_to_string(out).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let expected = format!("{SESSION} work_1 {ENVIRONMENT} {KEY} {} unset", setup.plane.base_url);
    assert_eq!(first, expected);
    let item: Value = serde_json::from_str(rest).unwrap();
    assert_eq!(item, plane::item("work_1", json!({"type": "session", "id": SESSION})));
    assert_eq!(setup.plane.count("POST", "/heartbeat"), 0, "the lease is the command's");
}

/// Set in a process that has the environment of a worker with secrets: this test starts itself as one.
const WITH_SECRETS: &str = "WORKER_TEST_WITH_SECRETS";

#[tokio::test]
async fn a_command_is_not_given_the_credentials_of_the_worker() {
    if std::env::var_os(WITH_SECRETS).is_none() {
        let test = "commands::a_command_is_not_given_the_credentials_of_the_worker";
        let mut itself = tokio::process::Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", test]).env(WITH_SECRETS, "1").kill_on_drop(true);
        for name in [
            "OUTWORK_API_KEY",
            "OUTWORK_MODEL_API_KEY",
            "OUTWORK_ENVIRONMENT_KEY",
            "OUTWORK_BASE_URL",
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_ENVIRONMENT_KEY",
            "ANTHROPIC_WORK_SECRET",
        ] {
            itself.env(name, "leaked");
        }
        itself.env("OUTWORK_CA_FILE", "/ca.pem").env("OTHER_API_KEY", "kept");
        let output = tokio::time::timeout(Duration::from_secs(30), itself.output()).await;
        let output = output.expect("the test ends").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    for (queue, key) in [
        (Queue::Environment(ENVIRONMENT.into()), Some(KEY)),
        (Queue::Cloud, None),
    ] {
        let setup = Setup::new().await;
        let out = setup.folder.path().join("out");
        setup.plane.offer("work_1", SESSION);
        let worker = setup.start(|o| {
            o.drain = true;
            o.queue = queue;
            o.on_work = Some(format!("env > '{}'", out.display()));
        });
        assert_eq!(worker.ended().await.unwrap().served, 1);
        let text = fs::read_to_string(out).unwrap();
        assert!(!text.contains("leaked"), "{text}");
        let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        assert_eq!(value("ANTHROPIC_ENVIRONMENT_KEY"), key);
        assert_eq!(value("ANTHROPIC_BASE_URL"), Some(&*setup.plane.base_url));
        assert_eq!(value("OUTWORK_CA_FILE"), Some("/ca.pem"));
        assert_eq!(value("OTHER_API_KEY"), Some("kept"), "what is not ours is left alone");
    }
}

#[tokio::test]
async fn a_command_that_fails_releases_the_item_and_one_that_lost_the_lease_does_not() {
    for (code, stops) in [(3, 1), (EXIT_LEASE_LOST, 0)] {
        let setup = Setup::new().await;
        setup.plane.offer("work_1", SESSION);
        let worker = setup.start(|o| {
            o.drain = true;
            o.on_work = Some(format!("exit {code}"));
        });
        let summary = worker.ended().await.unwrap();
        assert_eq!((summary.failed, summary.lost), if stops == 1 { (1, 0) } else { (0, 1) });
        assert_eq!(setup.plane.count("POST", "/stop"), stops);
    }
}

#[tokio::test]
async fn a_drain_asks_the_command_to_end() {
    let setup = Setup::new().await;
    let out = setup.folder.path().join("out");
    setup.plane.offer("work_1", SESSION);
    let command = format!(
        "trap 'echo ended >> \"{0}\"; exit 0' TERM; echo began > '{0}'; while :; do sleep 0.02; done",
        out.display()
    );
    let worker = setup.start(|o| o.on_work = Some(command));
    assert_eq!(until_file(&out).await, "began\n");
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().served, 1);
    assert_eq!(fs::read_to_string(&out).unwrap(), "began\nended\n");
    assert_eq!(setup.plane.count("POST", "/stop"), 1);
}

fn item_options(setup: &Setup, secret: bool, key: bool) -> (ServiceOptions, ItemOptions) {
    let packed = plane::item("w", json!({}))["secret"].as_str().unwrap().to_owned();
    let read = |name: &str| match name {
        "ANTHROPIC_SESSION_ID" => Some(SESSION.to_owned()),
        "ANTHROPIC_WORK_ID" => Some("work_1".to_owned()),
        "ANTHROPIC_ENVIRONMENT_ID" => Some(ENVIRONMENT.to_owned()),
        "ANTHROPIC_WORK_SECRET" => secret.then(|| packed.clone()),
        "ANTHROPIC_ENVIRONMENT_KEY" => key.then(|| KEY.to_owned()),
        _ => None,
    };
    let service = ServiceOptions::new(&setup.plane.base_url, setup.folder.path());
    (service, ItemOptions::from_variables(read).unwrap())
}

#[tokio::test]
async fn one_item_is_served_with_its_token_or_with_the_key() {
    for (secret, key, bearer) in [(true, true, TOKEN), (true, false, TOKEN), (false, true, KEY)] {
        let setup = Setup::new().await;
        setup.emit(call("a", "answer"));
        let (service, item) = item_options(&setup, secret, key);
        let hands = Arc::new(setup.hands.clone());
        let running = tokio::spawn(run_item_with(service, item, Some(hands), setup.stop.clone()));
        setup.plane.until("a result", |s| s.results().len() == 1).await;
        setup.emit(json!({"type": "session.deleted", "id": "d"}));
        assert_eq!(running.await.unwrap().unwrap(), ItemEnd::Served);
        assert_eq!(setup.plane.results(), [answered("a")]);
        let seen = setup.plane.script().seen.clone();
        assert!(seen.iter().all(|s| s.bearer == bearer));
        assert_eq!(setup.plane.count("POST", "/ack"), 0, "who claimed it acknowledged it");
        assert_eq!(setup.plane.count("POST", "/stop"), 1);
    }
}

#[tokio::test]
async fn one_item_says_when_its_lease_is_lost_or_a_credential_is_missing() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.beat = Beat::Status(412));
    let (service, item) = item_options(&setup, true, false);
    let hands = Arc::new(setup.hands.clone());
    let end = run_item_with(service, item, Some(hands.clone()), setup.stop.clone()).await;
    assert_eq!(end.unwrap(), ItemEnd::LeaseLost);
    let (service, item) = item_options(&setup, false, false);
    let error = run_item_with(service, item, Some(hands), setup.stop.clone())
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            WorkerError::Option {
                what: "ANTHROPIC_ENVIRONMENT_KEY",
                ..
            }
        ),
        "{error}"
    );
    let Err(error) = ItemOptions::from_variables(|_| None) else {
        panic!("variables are needed")
    };
    assert!(error.to_string().contains("ANTHROPIC_SESSION_ID"), "{error}");
}
