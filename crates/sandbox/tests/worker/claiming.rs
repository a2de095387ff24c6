//! Polls, acknowledgements, items of other kinds, several sessions, and what never reaches a log.

use std::io::Write;
use std::sync::{Arc, Mutex};

use outwork_sandbox::worker::{Queue, WorkerError};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::plane::{self, KEY, TOKEN};
use crate::{SESSION, Setup, call};

#[tokio::test]
async fn a_refused_poll_ends_the_worker_and_lets_go() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| *o = o.clone().concurrency(2));
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.plane.set(|s| s.poll_status.push_back(401));
    let error = worker.ended().await.unwrap_err();
    assert!(
        matches!(&error, WorkerError::PollRefused(e) if e.status() == Some(401)),
        "{error}"
    );
    assert!(
        error.to_string().contains("revoked") && !error.to_string().contains(KEY),
        "{error}"
    );
    assert_eq!(setup.plane.count("POST", "/stop"), 1);
    assert_eq!(setup.hands.cancelled(), ["a"]);
}

#[tokio::test]
async fn a_poll_that_fails_is_tried_again() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.poll_status.push_back(503));
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    assert!(setup.plane.count("GET", "/poll") >= 2);
    setup.finish(worker).await;
}

#[tokio::test]
async fn an_item_that_cannot_be_acknowledged_is_not_served() {
    for (status, stops) in [(400, 1), (500, 0)] {
        let setup = Setup::new().await;
        setup.plane.set(|s| s.ack_status.push_back(status));
        setup.emit(call("a", "answer"));
        let worker = setup.serve();
        setup
            .plane
            .until("the worker polls on", |s| {
                s.count("POST", "/ack") == 1 && s.count("GET", "/poll") >= 2
            })
            .await;
        setup
            .plane
            .until("the refused item is released", |s| s.count("POST", "/stop") == stops)
            .await;
        setup.stop.drain.cancel();
        assert_eq!(worker.ended().await.unwrap().failed, 1);
        assert!(setup.hands.began().is_empty());
        assert_eq!(setup.plane.count("POST", "/stop"), stops);
        assert_eq!(setup.plane.count("POST", "/heartbeat"), 0);
    }
}

#[tokio::test]
async fn a_healthcheck_runs_nothing_and_is_released() {
    let setup = Setup::new().await;
    setup
        .plane
        .offer_item(plane::item("work_h", json!({"type": "healthcheck"})));
    let worker = setup.start(|_| {});
    setup
        .plane
        .until("released", |s| s.count("POST", "/work/work_h/stop") == 1)
        .await;
    setup.stop.drain.cancel();
    let summary = worker.ended().await.unwrap();
    assert_eq!((summary.claimed, summary.empty), (1, 1));
    assert_eq!(setup.plane.count("POST", "/work/work_h/ack"), 1);
    assert!(setup.hands.0.launched.lock().unwrap().is_empty());
}

#[tokio::test]
async fn drain_ends_when_the_queue_is_empty() {
    let setup = Setup::new().await;
    setup
        .plane
        .emit("sesn_1", json!({"type": "session.status_terminated", "id": "x"}));
    setup.plane.offer("work_1", "sesn_1");
    setup
        .plane
        .offer_item(plane::item("work_h", json!({"type": "healthcheck"})));
    let summary = setup.start(|o| o.drain = true).ended().await.unwrap();
    assert_eq!((summary.claimed, summary.served, summary.empty), (2, 1, 1));
    let seen = setup.plane.script().seen.clone();
    assert!(
        seen.iter()
            .filter(|s| s.is("GET", "/poll"))
            .all(|s| !s.query.contains_key("block_ms"))
    );
}

#[tokio::test]
async fn several_sessions_have_a_folder_each() {
    let setup = Setup::new().await;
    for n in 1..=3 {
        setup.plane.emit(&format!("sesn_{n}"), call(&format!("c{n}"), "hang"));
        setup.plane.offer(&format!("work_{n}"), &format!("sesn_{n}"));
    }
    let worker = setup.start(|o| *o = o.clone().concurrency(2));
    setup
        .hands
        .until("two run", |r| r.began.lock().unwrap().len() == 2)
        .await;
    assert_eq!(setup.plane.count("POST", "/ack"), 2, "no more than asked for");
    setup
        .plane
        .emit("sesn_1", json!({"type": "session.deleted", "id": "d"}));
    setup
        .hands
        .until("the third runs", |r| r.began.lock().unwrap().len() == 3)
        .await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().served, 3);
    let mut folders: Vec<_> = setup.hands.0.launched.lock().unwrap().clone();
    folders.sort();
    let root = setup.folder.path().canonicalize().unwrap();
    assert_eq!(folders, ["sesn_1", "sesn_2", "sesn_3"].map(|s| root.join(s)));
}

#[tokio::test]
async fn one_session_at_a_time_works_in_the_folder_itself() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
    let root = setup.folder.path().canonicalize().unwrap();
    assert_eq!(*setup.hands.0.launched.lock().unwrap(), [root]);
}

#[tokio::test]
async fn a_worker_key_serves_cloud_environments() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| o.queue = Queue::Cloud);
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
    let seen = setup.plane.script().seen.clone();
    let with_key: Vec<_> = seen
        .iter()
        .filter(|s| s.bearer == KEY && !s.path.ends_with("/poll"))
        .map(|s| &s.path)
        .collect();
    assert_eq!(with_key, ["/v1/outwork/work/work_1/ack"]);
    assert!(seen.iter().any(|s| s.path == "/v1/outwork/work/poll"));
    assert!(
        seen.iter()
            .any(|s| s.path == "/v1/environments/env_1/work/work_1/stop" && s.bearer == TOKEN)
    );
}

#[tokio::test]
async fn an_item_without_a_readable_secret_is_served_with_the_environment_key() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    let mut item = plane::item("work_1", json!({"type": "session", "id": SESSION}));
    item["secret"] = json!("not a secret");
    setup.plane.offer_item(item);
    let worker = setup.start(|_| {});
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
    assert!(setup.plane.script().seen.iter().all(|s| s.bearer == KEY));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The log of the whole process is taken, so of every test that runs beside this one too.
#[tokio::test]
async fn no_secret_reaches_the_log() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let setup = Setup::new().await;
    setup.plane.set(|s| {
        s.poll_status.push_back(503);
        s.send_status.push_back(500);
    });
    setup.emit(call("logged", "answer"));
    setup.plane.offer("work_logged", SESSION);
    let worker = setup.start(|_| {});
    setup.plane.until("a result", |s| s.results().len() == 2).await;
    setup.finish(worker).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("claimed work=\"work_logged\""), "the log was taken");
    assert!(
        log.contains("result not sent; trying again call=\"logged\""),
        "the log was taken"
    );
    let packed = plane::item("x", json!({}))["secret"].as_str().unwrap().to_owned();
    for secret in [KEY, TOKEN, &packed] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
