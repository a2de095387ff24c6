//! Leases and their end; the worker's own end.

use std::time::Duration;

use crate::plane::Beat;
use crate::{SESSION, Setup, answered, call};

async fn hanging(setup: &Setup) -> crate::Running {
    setup.plane.set(|s| s.ttl = 2.0);
    setup.emit(call("a", "hang"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    worker
}

#[tokio::test]
async fn heartbeats_echo_the_last_answer() {
    let setup = Setup::new().await;
    let worker = hanging(&setup).await;
    setup.plane.until("three beats", |s| s.beats() == 3).await;
    setup.hands.0.go.notify_one();
    setup.plane.until("a result", |s| s.results().len() == 1).await;
    setup.finish(worker).await;
    let seen = setup.plane.script().seen.clone();
    let echoed: Vec<_> = seen
        .iter()
        .filter(|s| s.is("POST", "/heartbeat"))
        .take(3)
        .map(|s| s.query["expected_last_heartbeat"].clone())
        .collect();
    assert_eq!(echoed, ["NO_HEARTBEAT", "beat 1", "beat 2"]);
}

async fn is_lost(beat: Beat) {
    let setup = Setup::new().await;
    let worker = hanging(&setup).await;
    setup.plane.set(|s| s.beat = beat);
    setup
        .hands
        .until("a is stopped", |r| !r.cancelled.lock().unwrap().is_empty())
        .await;
    setup
        .hands
        .until("its sandbox is gone", |r| {
            r.ended.load(std::sync::atomic::Ordering::SeqCst) == 1
        })
        .await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().lost, 1);
    assert_eq!(
        setup.plane.results(),
        [],
        "nothing is sent for an item of somebody else"
    );
    assert_eq!(setup.plane.count("POST", "/stop"), 0, "nor is it stopped");
}

#[tokio::test]
async fn a_412_is_a_lost_lease() {
    is_lost(Beat::Status(412)).await;
}

#[tokio::test]
async fn a_lease_that_was_not_renewed_for_its_length_is_lost() {
    is_lost(Beat::Status(500)).await;
}

#[tokio::test]
async fn a_lease_without_any_answer_is_lost() {
    is_lost(Beat::Silence).await;
}

async fn is_told_to_stop(beat: Beat, answers: bool) {
    let setup = Setup::new().await;
    let worker = hanging(&setup).await;
    setup.emit(call("b", "answer"));
    setup.plane.set(|s| s.beat = beat);
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    worker.ended().await.unwrap();
    assert_eq!(setup.hands.cancelled(), ["a"]);
    assert_eq!(setup.hands.began(), ["a"]);
    assert_eq!(setup.plane.results().len(), if answers { 2 } else { 0 });
    assert!(setup.plane.results().iter().all(|(_, is_error, _)| *is_error));
}

#[tokio::test]
async fn stopping_stops_and_answers() {
    is_told_to_stop(Beat::State("stopping"), true).await;
}

#[tokio::test]
async fn stopped_stops() {
    is_told_to_stop(Beat::State("stopped"), false).await;
}

#[tokio::test]
async fn a_lease_that_is_not_extended_stops() {
    is_told_to_stop(Beat::NotExtended, false).await;
}

#[tokio::test]
async fn a_refused_heartbeat_stops() {
    is_told_to_stop(Beat::Status(403), false).await;
}

#[tokio::test]
async fn an_item_that_is_stopping_from_the_start_runs_nothing() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.beat = Beat::State("stopping"));
    setup.emit(call("a", "answer"));
    let worker = setup.serve();
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    worker.ended().await.unwrap();
    assert!(setup.hands.began().is_empty());
    assert_eq!(setup.plane.results(), []);
}

#[tokio::test]
async fn a_drain_answers_what_runs_and_what_waits_and_releases_the_item() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    setup.emit(call("b", "answer"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.stop.drain.cancel();
    let summary = worker.ended().await.unwrap();
    assert_eq!((summary.claimed, summary.served), (1, 1));
    assert_eq!(setup.hands.began(), ["a"], "what waits is not begun");
    let results = setup.plane.results();
    assert_eq!(results.len(), 2);
    assert_eq!((results[0].0.as_str(), results[0].2.as_str()), ("a", "interrupted"));
    assert!(results[1].2.contains("shutting down") && results[1].1);
    assert_eq!(setup.plane.count("POST", "/stop"), 1);
    assert_eq!(setup.hands.ended(), 1);
}

#[tokio::test]
async fn the_second_word_ends_at_once() {
    let setup = Setup::new().await;
    setup.emit(call("a", "hang"));
    let worker = setup.serve();
    setup
        .hands
        .until("a runs", |r| !r.began.lock().unwrap().is_empty())
        .await;
    setup.stop.now.cancel();
    worker.ended().await.unwrap();
    setup
        .hands
        .until("its sandbox is gone", |r| {
            r.ended.load(std::sync::atomic::Ordering::SeqCst) == 1
        })
        .await;
    assert_eq!(setup.plane.results(), []);
}

#[tokio::test]
async fn a_call_of_a_lost_item_is_not_run_again_by_the_same_worker() {
    let setup = Setup::new().await;
    let worker = hanging(&setup).await;
    setup.plane.set(|s| s.beat = Beat::Status(412));
    setup
        .hands
        .until("a is stopped", |r| !r.cancelled.lock().unwrap().is_empty())
        .await;
    setup.plane.set(|s| s.beat = Beat::Extend);
    setup.plane.offer("work_2", SESSION);
    setup.plane.until("answered", |s| s.results().len() == 1).await;
    let results = setup.plane.results();
    assert!(
        results[0].1 && results[0].2.contains("outcome is not known"),
        "{results:?}"
    );
    setup.emit(call("b", "answer"));
    setup.plane.until("the next", |s| s.results().len() == 2).await;
    let summary = setup.finish(worker).await;
    assert_eq!(setup.plane.results()[1], answered("b"));
    assert_eq!(setup.hands.began(), ["a", "b"]);
    assert_eq!((summary.lost, summary.served), (1, 1));
}

#[tokio::test]
async fn a_lost_session_is_refused_and_released() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.list_status.extend([404]));
    setup.plane.offer("work_1", SESSION);
    let worker = setup.start(|o| o.service.max_idle = Duration::from_secs(60));
    setup.plane.until("released", |s| s.count("POST", "/stop") == 1).await;
    setup.stop.drain.cancel();
    assert_eq!(worker.ended().await.unwrap().failed, 1);
}

#[tokio::test]
async fn sessions_that_cannot_be_served_are_followed_by_growing_waits() {
    let setup = Setup::new().await;
    setup.plane.set(|s| s.list_status.extend([404; 2]));
    setup.emit(call("a", "answer"));
    for n in 1..=3 {
        setup.plane.offer(&format!("work_{n}"), SESSION);
    }
    let worker = setup.start(|_| {});
    setup
        .plane
        .until("the third is served", |s| s.results().len() == 1)
        .await;
    let summary = setup.finish(worker).await;
    assert_eq!((summary.claimed, summary.failed, summary.served), (3, 2, 1));
    let seen = setup.plane.script().seen.clone();
    let at = |end: &str| -> Vec<_> { seen.iter().filter(|s| s.path.ends_with(end)).map(|s| s.at).collect() };
    let (polls, stops) = (at("/poll"), at("/stop"));
    let waits: Vec<_> = (0..2).map(|n| polls[n + 1] - stops[n]).collect();
    assert!(waits[0] >= Duration::from_secs(2), "{waits:?}");
    assert!(waits[1] >= Duration::from_secs(4), "{waits:?}");
}
