//! What becomes of results: their order, and what follows when they are not taken.

use std::time::Duration;

use serde_json::json;

use crate::plane::Script;
use crate::{SESSION, Setup, answered, call, result};

fn is_substitute((call, is_error, text): &(String, bool, String), of: &str, reason: &str) -> bool {
    call == of && *is_error && text.contains("refused the result") && text.contains(reason)
}

#[tokio::test]
async fn a_result_is_sent_again_until_it_is_accepted() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.send_status.extend([500, 429, 503]));
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup
        .plane
        .until("accepted", |s| {
            s.send_status.is_empty() && s.history[SESSION].len() == 2
        })
        .await;
    setup.finish(worker).await;
    assert_eq!(setup.plane.results(), vec![answered("a"); 4]);
    assert_eq!(setup.hands.began(), ["a"]);
}

#[tokio::test]
async fn a_result_that_could_not_be_sent_is_kept_while_the_lease_is() {
    let setup = Setup::new().await;
    setup.plane.set(|s| {
        s.ttl = 2.0;
        s.send_status.extend([500; 200]);
    });
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    // For longer than a lease lasts.
    setup
        .plane
        .until("tries", |s| s.results().len() >= 2 && s.beats() >= 4)
        .await;
    setup.plane.set(|s| s.send_status.clear());
    setup.plane.cut();
    setup.plane.until("accepted", |s| s.history[SESSION].len() == 2).await;
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["a"]);
}

#[tokio::test]
async fn a_refused_result_is_replaced_by_an_error() {
    for status in [400, 403, 413, 422] {
        let setup = Setup::new().await;
        setup.plane.set(|s| s.send_status.push_back(status));
        setup.emit(call("a", "answer"));
        let worker = setup.serve();
        setup.plane.until("an answer", |s| s.answered(SESSION) == ["a"]).await;
        setup.plane.cut();
        setup.emit(call("b", "answer"));
        setup.plane.until("the next", |s| s.results().len() == 3).await;
        assert_eq!(setup.plane.count("POST", "/stop"), 0, "the session goes on");
        setup.finish(worker).await;
        let results = setup.plane.results();
        assert_eq!((&results[0], &results[2]), (&answered("a"), &answered("b")));
        assert!(is_substitute(&results[1], "a", &status.to_string()), "{results:?}");
        assert_eq!(setup.hands.began(), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_call_whose_every_answer_is_refused_is_given_up_and_not_run_again() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.send_status.extend([413, 403]));
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup
        .plane
        .until("the item is released", |s| s.count("POST", "/stop") == 1)
        .await;
    let results = setup.plane.results();
    assert_eq!(results.len(), 2, "{results:?}");
    assert!(results[0] == answered("a") && is_substitute(&results[1], "a", "413"));
    // The server hands the session out again: the same worker has the result still.
    setup.plane.offer("work_2", SESSION);
    setup.plane.until("an answer", |s| s.answered(SESSION) == ["a"]).await;
    setup.emit(call("b", "answer"));
    setup
        .plane
        .until("the next", |s| s.answered(SESSION) == ["a", "b"])
        .await;
    let summary = setup.finish(worker).await;
    assert_eq!(setup.plane.results()[2..], [answered("a"), answered("b")]);
    assert_eq!(setup.hands.began(), ["a", "b"], "no call is run twice");
    assert_eq!((summary.failed, summary.served), (1, 1));
}

#[tokio::test]
async fn a_result_that_is_refused_as_a_second_answer_is_dropped() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    // In the log, and not on the stream: the worker learns of it by the refusal only.
    setup
        .plane
        .set(|s| s.history.get_mut(SESSION).unwrap().push(result("a")));
    setup.hands.0.go.notify_one();
    setup.plane.until("both are refused", |s| s.results().len() == 2).await;
    setup.emit(call("b", "answer"));
    setup
        .plane
        .until("the next", |s| s.answered(SESSION) == ["a", "b"])
        .await;
    assert_eq!(setup.plane.count("POST", "/stop"), 0, "the session goes on");
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["a", "b"]);
}

#[tokio::test]
async fn results_are_sent_in_the_order_of_their_calls_while_the_next_run() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.hold_sends = true);
    for id in ["a", "b", "c"] {
        setup.emit(call(id, "answer"));
    }
    let worker = setup.serve();
    setup
        .hands
        .until("all run while the first result is on its way", |r| {
            r.began.lock().unwrap().len() == 3
        })
        .await;
    setup.plane.until("a send", |s| s.results().len() == 1).await;
    // The first is not taken at once; those behind it wait.
    setup.plane.set(|s| {
        s.send_status.extend([500, 503]);
        s.hold_sends = false;
    });
    setup
        .plane
        .until("all results", |s| s.answered(SESSION).len() == 3)
        .await;
    setup.finish(worker).await;
    assert_eq!(
        setup.plane.results(),
        ["a", "a", "a", "b", "c"].map(answered),
        "none is begun before the one before it has ended"
    );
}

#[tokio::test]
async fn a_thread_does_not_wait_for_what_runs_in_another() {
    let setup = Setup::new().await;
    let in_thread = |id: &str, does: &str, thread: &str| {
        let mut event = call(id, does);
        event["session_thread_id"] = json!(thread);
        event
    };
    setup.emit(in_thread("a", "hang", "sthr_1"));
    setup.emit(in_thread("b", "answer", "sthr_2"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.emit(json!({"type": "user.interrupt", "id": "sevt_i", "session_thread_id": "sthr_2"}));
    setup
        .plane
        .until("b is answered", |s| s.answered(SESSION) == ["b"])
        .await;
    setup.hands.0.go.notify_one();
    setup
        .plane
        .until("a is answered", |s| s.answered(SESSION) == ["b", "a"])
        .await;
    setup.finish(worker).await;
    assert_eq!(setup.hands.began(), ["a"]);
    assert!(setup.hands.cancelled().is_empty());
}

/// The lengths of pages that the histories were asked in.
fn page_limits(script: &Script) -> Vec<u32> {
    let lists = script.seen.iter().filter(|s| s.is("GET", "/events"));
    lists
        .filter(|s| !s.query.contains_key("page"))
        .map(|s| s.query["limit"].parse().unwrap())
        .collect()
}

#[tokio::test]
async fn a_history_that_is_too_large_is_read_in_shorter_pages() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.largest_page = 3);
    for id in ["a", "b", "c"] {
        setup.emit(call(id, "answer"));
    }
    let worker = setup.serve();
    setup.plane.until("all results", |s| s.results().len() == 3).await;
    setup.plane.cut();
    setup
        .plane
        .until("it is read again", |s| page_limits(s).len() == 10)
        .await;
    setup.finish(worker).await;
    let limits = page_limits(&setup.plane.script());
    assert_eq!(limits[..10], [1000, 500, 250, 125, 62, 31, 15, 7, 3, 3]);
}

#[tokio::test]
async fn a_history_with_an_event_that_is_too_large_is_given_up() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.largest_page = 0);
    setup.emit(call("a", "answer"));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| o.service.max_idle = Duration::from_secs(60));
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().failed, 1);
    let limits = page_limits(&setup.plane.script());
    assert_eq!((limits.len(), limits.last()), (10, Some(&1)));
    assert!(setup.hands.began().is_empty());
}
