//! What is run, what is not, and what becomes of results.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use crate::plane::{Beat, KEY, TOKEN};
use crate::{SESSION, Setup, answered, ask, call, idle, result, verdict};

#[tokio::test]
async fn calls_are_run_in_order_and_answered() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup.plane.until("first result", |s| s.results().len() == 1).await;
    setup.emit(call("b", "empty"));
    setup.emit(call("c", "fail"));
    setup.plane.until("all results", |s| s.results().len() == 3).await;
    let summary = setup.finish(worker).await;
    let no_output = ("b".to_owned(), false, "(no output)".to_owned());
    let failed = ("c".to_owned(), true, "failed".to_owned());
    assert_eq!(setup.plane.results(), [answered("a"), no_output, failed]);
    assert_eq!(setup.hands.began(), ["a", "b", "c"]);
    assert_eq!((summary.claimed, summary.served), (1, 1));
    assert_eq!(setup.hands.ended(), 1, "the sandbox is gone");

    let seen = setup.plane.script().seen.clone();
    let find = |method: &str, end: &str| seen.iter().position(|s| s.is(method, end)).unwrap();
    assert!(
        find("GET", "/events/stream") < find("GET", "/events"),
        "the stream is opened before the list"
    );
    assert!(find("POST", "/ack") < find("GET", "/events/stream"));
    for request in &seen {
        let standing = request.path.ends_with("/poll") || request.path.ends_with("/ack");
        assert_eq!(request.bearer, if standing { KEY } else { TOKEN }, "{}", request.path);
    }
    let poll = &seen[find("GET", "/poll")];
    assert_eq!(poll.path, "/v1/environments/env_1/work/poll");
    assert_eq!(poll.query["block_ms"], "999");
    assert!(!poll.headers["anthropic-worker-id"].is_empty());
    assert_eq!(seen[find("POST", "/stop")].body, json!({"force": true}));
    let send = &seen[find("POST", "/events")];
    let expected = json!({"events": [{"type": "user.tool_result", "tool_use_id": "a", "is_error": false,
                                      "content": [{"type": "text", "text": "bash a"}]}]});
    assert_eq!(send.body, expected);
}

#[tokio::test]
async fn what_is_answered_or_not_ours_is_not_run() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    setup.emit(json!({"type": "agent.custom_tool_use", "id": "x", "name": "bash", "input": {}}));
    setup.emit(json!({"type": "agent.tool_use", "id": "y", "name": "web_fetch", "input": {}}));
    setup.emit(json!({"type": "agent.mcp_tool_use", "id": "z", "name": "bash", "input": {}}));
    setup.emit(json!({"type": "from.the.future", "id": "f", "input": 7}));
    setup.emit(result("a"));
    setup.emit(call("b", "answer"));
    let worker = setup.serve();
    setup.plane.until("a result", |s| !s.results().is_empty()).await;
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["b"]);
    assert_eq!(setup.plane.results(), [answered("b")]);
}

#[tokio::test]
async fn a_call_that_asks_waits_for_its_word() {
    let setup = Setup::new().await;
    setup.emit(ask("a"));
    setup.emit(ask("b"));
    setup.emit(ask("c"));
    setup.emit(verdict("c", "allow"));
    let worker = setup.serve();
    setup
        .plane
        .until("the confirmed call", |s| s.results().len() == 1)
        .await;
    setup.emit(verdict("a", "deny"));
    setup.emit(verdict("b", "allow"));
    setup.plane.until("the second", |s| s.results().len() == 2).await;
    setup.finish(worker).await;
    assert_eq!(setup.plane.results(), [answered("c"), answered("b")]);
    assert_eq!(setup.hands.began(), ["c", "b"]);
}

#[tokio::test]
async fn a_waiting_call_keeps_the_session() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.ttl = 2.0);
    setup.emit(ask("a"));
    setup.emit(idle("requires_action"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| o.service.max_idle = Duration::from_millis(1));
    setup.plane.until("the session is held", |s| s.beats() >= 3).await;
    assert_eq!(setup.plane.count("POST", "/stop"), 0);
    setup.emit(verdict("a", "allow"));
    setup.plane.until("a result", |s| !s.results().is_empty()).await;
    setup.finish(worker).await;
}

#[tokio::test]
async fn an_answer_stops_the_running_call_at_once() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.emit(result("a"));
    setup.emit(json!({"type": "user.interrupt", "id": "sevt_i"}));
    setup
        .hands
        .until("a is stopped", |r| !r.cancelled.lock().unwrap().is_empty())
        .await;
    setup.emit(call("b", "answer"));
    setup.plane.until("the next result", |s| !s.results().is_empty()).await;
    setup.finish(worker).await;
    assert_eq!(
        setup.plane.results(),
        [answered("b")],
        "the stopped call has its answer already"
    );
}

#[tokio::test]
async fn an_interrupt_stops_the_running_call_and_those_that_wait() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    setup.emit(call("b", "answer"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.emit(json!({"type": "user.interrupt", "id": "sevt_i"}));
    setup.plane.until("both answered", |s| s.results().len() == 2).await;
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["a"]);
    assert_eq!(setup.plane.script().answered(SESSION), ["a", "b"]);
    assert!(
        setup
            .plane
            .results()
            .iter()
            .all(|(_, is_error, text)| *is_error && text.contains("interrupted"))
    );
}

#[tokio::test]
async fn a_cut_stream_does_not_run_a_call_again() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.plane.set(|s| s.list_status.extend([500; 3]));
    setup.plane.cut();
    setup
        .plane
        .until("the history is read again", |s| s.count("GET", "/events") >= 5)
        .await;
    setup
        .plane
        .until("the stream is open", |s| s.count("GET", "/events/stream") >= 3)
        .await;
    setup.emit(call("b", "answer"));
    setup.hands.0.go.notify_one();
    setup.plane.until("both results", |s| s.results().len() == 2).await;
    setup.plane.cut();
    let lists = setup.plane.count("GET", "/events");
    setup
        .plane
        .until("read once more", |s| s.count("GET", "/events") > lists)
        .await;
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["a", "b"]);
    assert_eq!(setup.plane.results().len(), 2);
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced_and_its_call_answered() {
    let setup = Setup::new().await;
    setup.emit(call("a", "die"));
    setup.emit(call("b", "answer"));
    let worker = setup.serve();
    setup.plane.until("both results", |s| s.results().len() == 2).await;
    setup.finish(worker).await;
    let results = setup.plane.results();
    assert!(
        results[0].1 && results[0].2.contains("outcome is not known"),
        "{results:?}"
    );
    assert_eq!(results[1], answered("b"));
    assert_eq!(setup.hands.0.launched.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn without_a_sandbox_nothing_runs_and_the_call_is_answered() {
    let setup = Setup::new().await;
    setup.hands.0.fail_launches.store(1, Ordering::SeqCst);
    setup.emit(call("a", "answer"));
    setup.emit(call("b", "answer"));
    let worker = setup.serve();
    setup.plane.until("both results", |s| s.results().len() == 2).await;
    setup.finish(worker).await;
    let results = setup.plane.results();
    assert!(results[0].1 && results[0].2.contains("nothing was run"), "{results:?}");
    assert!(
        !results[0].2.contains("no sandbox today"),
        "the host's reasons stay in the log"
    );
    assert_eq!(setup.hands.began(), ["b"]);
}

#[tokio::test]
async fn an_idle_session_is_let_go() {
    let setup = Setup::new().await;
    setup.emit(call("a", "answer"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| o.service.max_idle = Duration::from_millis(20));
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.emit(idle("end_turn"));
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().served, 1);
    assert_eq!(setup.hands.ended(), 1, "an idle session costs no sandbox");
    let closed = async {
        while setup.plane.script().open_streams() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed)
        .await
        .expect("its stream is closed");
}

#[tokio::test]
async fn a_terminated_session_is_not_served() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.session_status = "terminated".to_owned());
    setup.emit(call("a", "answer"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|_| {});
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    worker.ended().await.unwrap();
    assert!(setup.hands.began().is_empty());
}

#[tokio::test]
async fn nothing_runs_before_the_first_heartbeat_is_accepted() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.beat = Beat::Silence);
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup
        .plane
        .until("everything else is ready", |s| s.count("GET", "/events") == 1)
        .await;
    setup
        .hands
        .until("the sandbox is there", |r| r.launched.lock().unwrap().len() == 1)
        .await;
    assert!(setup.hands.began().is_empty());
    setup.plane.set(|s| s.beat = Beat::Extend);
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
}
