//! The work queue, rule by rule.

use outwork_store::{BeatOutcome, KeyHash, StoppedBy, StoreError};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, SessionId, WorkId};
use outwork_wire::work::{Heartbeat, NO_HEARTBEAT, Work, WorkState};
use serde_json::{Map, Value};

use crate::support::{Bed, at, bed, first, poll};

struct Queue {
    bed: Bed,
    env: EnvironmentId,
}

impl Queue {
    async fn new() -> Self {
        let bed = bed();
        let env = bed.environment(EnvironmentKind::SelfHosted).await;
        Self { bed, env }
    }

    async fn add(&self, seconds: i64) -> (SessionId, WorkId) {
        self.bed.session_with_work(&self.env, at(seconds)).await
    }

    async fn poll(&self, worker: &str, token: &str, seconds: i64) -> Option<Work> {
        let poll = poll(worker, token, at(seconds));
        self.bed.store.poll_work(&self.bed.ws, &self.env, poll).await.unwrap()
    }

    async fn ack(&self, id: &WorkId, worker: &str, seconds: i64) -> Result<Work, StoreError> {
        let (store, ws) = (&self.bed.store, &self.bed.ws);
        store
            .acknowledge_work(ws, &self.env, id, Some(worker), at(seconds))
            .await
    }

    async fn beat(&self, id: &WorkId, expected: &str, now: Time) -> BeatOutcome {
        let (store, ws) = (&self.bed.store, &self.bed.ws);
        store
            .heartbeat_work(ws, &self.env, id, Some(expected), None, now)
            .await
            .unwrap()
    }

    async fn beats(&self, id: &WorkId, expected: &str, seconds: i64) -> Heartbeat {
        match self.beat(id, expected, at(seconds)).await {
            BeatOutcome::Beat(beat) => beat,
            other => panic!("{other:?}"),
        }
    }

    async fn stop(&self, id: &WorkId, force: bool, seconds: i64) -> (Work, bool) {
        let (store, ws) = (&self.bed.store, &self.bed.ws);
        let done = store
            .stop_work(ws, &self.env, id, force, StoppedBy::Operator, at(seconds))
            .await
            .unwrap();
        (done.work, done.ended_now)
    }

    /// An item that was polled, with a token, and acknowledged by worker `w`.
    async fn starting(&self, token: &str) -> (SessionId, WorkId) {
        let (session, id) = self.add(0).await;
        self.poll("w", token, 1).await.unwrap();
        self.ack(&id, "w", 2).await.unwrap();
        (session, id)
    }
}

#[tokio::test]
async fn the_oldest_item_is_offered_once_and_again_when_nobody_takes_it() {
    let q = Queue::new().await;
    assert!(q.poll("w", "t0", 0).await.is_none());
    let (session, old) = q.add(1).await;
    let (_, young) = q.add(2).await;
    let offered = q.poll("w", "t1", 3).await.unwrap();
    assert_eq!((offered.id, offered.state), (old.clone(), WorkState::Queued));
    assert!(offered.secret.is_none());
    assert_eq!(q.poll("v", "t2", 4).await.unwrap().id, young);
    assert!(q.poll("v", "t3", 5).await.is_none());
    assert_eq!(q.poll("v", "t4", 8).await.unwrap().id, old, "after five seconds");

    let token = async |t: &str| q.bed.store.token_grant(KeyHash::of(t), at(9)).await.unwrap();
    assert!(token("t1").await.is_none(), "an offer that was lost");
    assert_eq!(token("t4").await.unwrap().session_id, session);

    let late = q.ack(&old, "w", 9).await;
    assert!(
        matches!(late, Err(StoreError::Conflict { .. })),
        "it was offered to v since"
    );
    let taken = q.ack(&old, "v", 10).await.unwrap();
    assert_eq!(
        (taken.state, taken.acknowledged_at),
        (WorkState::Starting, Some(at(10)))
    );
    let repeated = q.ack(&old, "v", 11).await.unwrap();
    assert_eq!(
        repeated.acknowledged_at,
        Some(at(10)),
        "a repeated call changes nothing"
    );
    assert!(matches!(q.ack(&old, "w", 11).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(
        q.ack(&WorkId::fresh(), "w", 11).await,
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(
        q.poll("w", "t5", 60).await.unwrap().id,
        young,
        "what was taken is not offered"
    );
}

#[tokio::test]
async fn a_session_has_at_most_one_live_item() {
    let q = Queue::new().await;
    let (store, ws) = (&q.bed.store, &q.bed.ws);
    let (session, id) = q.add(0).await;
    assert!(
        store
            .enqueue_work(ws, &session, WorkId::fresh(), at(1))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(store.live_work_of_session(ws, &session).await.unwrap().unwrap().id, id);
    let ended = store
        .stop_work_of_session(ws, &session, true, StoppedBy::Operator, at(2))
        .await
        .unwrap()
        .unwrap();
    assert!(ended.ended_now);
    assert!(
        store
            .stop_work_of_session(ws, &session, true, StoppedBy::Operator, at(3))
            .await
            .unwrap()
            .is_none()
    );
    let next = store
        .enqueue_work(ws, &session, WorkId::fresh(), at(4))
        .await
        .unwrap()
        .unwrap();
    assert_ne!(next.id, id);
    let listed = store.list_work(ws, &q.env, first(9)).await.unwrap().rows;
    assert_eq!(listed.iter().map(|w| w.id.clone()).collect::<Vec<_>>(), [next.id, id]);
}

#[tokio::test]
async fn heartbeats_hold_an_item_and_must_know_the_last_one() {
    let q = Queue::new().await;
    let (_, id) = q.starting("token").await;
    let one = q.beats(&id, NO_HEARTBEAT, 3).await;
    assert_eq!(
        (one.state, one.lease_extended, one.ttl_seconds),
        (WorkState::Active, true, 300)
    );
    assert_eq!(one.last_heartbeat, at(3).to_string());
    let item = q.bed.store.work(&q.bed.ws, &q.env, &id).await.unwrap();
    assert_eq!((item.started_at, item.latest_heartbeat_at), (Some(at(3)), Some(at(3))));

    match q.beat(&id, NO_HEARTBEAT, at(4)).await {
        BeatOutcome::PreconditionFailed {
            expected,
            actual,
            current,
        } => {
            assert_eq!(expected.as_deref(), Some(NO_HEARTBEAT));
            assert_eq!(actual.as_ref(), Some(&one.last_heartbeat));
            assert_eq!(current.state, WorkState::Active);
            assert_eq!(current.lease_updated_at, Some(at(3)));
        }
        other => panic!("{other:?}"),
    }
    let two = q.beats(&id, &one.last_heartbeat, 3).await;
    assert_ne!(
        two.last_heartbeat, one.last_heartbeat,
        "each beat differs, even at the same time"
    );
    assert!(matches!(
        q.beat(&id, &one.last_heartbeat, at(5)).await,
        BeatOutcome::PreconditionFailed { .. }
    ));
    let item = q.bed.store.work(&q.bed.ws, &q.env, &id).await.unwrap();
    assert_eq!(item.started_at, Some(at(3)), "the first beat starts it");
    assert!(matches!(q.ack(&id, "w", 6).await, Err(StoreError::Conflict { .. })));

    let (store, ws) = (&q.bed.store, &q.bed.ws);
    let outcome = store
        .heartbeat_work(ws, &q.env, &id, None, Some(60), at(10))
        .await
        .unwrap();
    assert!(matches!(outcome, BeatOutcome::Beat(b) if b.ttl_seconds == 60));
    assert_eq!(store.next_work_lapse().await.unwrap(), Some(at(70)));
}

#[tokio::test]
async fn a_lease_that_lapses_queues_the_item_again() {
    let q = Queue::new().await;
    let (session, id) = q.starting("token").await;
    let (store, ws) = (&q.bed.store, &q.bed.ws);
    assert_eq!(store.next_work_lapse().await.unwrap(), Some(at(122)));
    let beat = q.beats(&id, NO_HEARTBEAT, 3).await;
    assert!(store.requeue_lapsed_work(at(302)).await.unwrap().is_empty());
    let lapsed = store.requeue_lapsed_work(at(303)).await.unwrap();
    assert_eq!(lapsed.len(), 1);
    assert_eq!(
        (&lapsed[0].environment_id, &lapsed[0].session_id, lapsed[0].state),
        (&q.env, &session, WorkState::Queued)
    );
    assert_eq!(store.next_work_lapse().await.unwrap(), None);
    let item = store.work(ws, &q.env, &id).await.unwrap();
    assert_eq!(
        (
            item.state,
            item.acknowledged_at,
            item.started_at,
            item.latest_heartbeat_at
        ),
        (WorkState::Queued, None, None, None)
    );

    for expected in [&*beat.last_heartbeat, NO_HEARTBEAT] {
        match q.beat(&id, expected, at(304)).await {
            BeatOutcome::PreconditionFailed { actual, current, .. } => {
                assert_eq!(
                    (actual, current.state, current.ttl_seconds),
                    (None, WorkState::Queued, 120)
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(q.poll("other", "next", 305).await.unwrap().id, id);
    q.ack(&id, "other", 306).await.unwrap();
    assert!(matches!(
        q.beat(&id, &beat.last_heartbeat, at(307)).await,
        BeatOutcome::PreconditionFailed { .. }
    ));
    q.beats(&id, NO_HEARTBEAT, 308).await;
}

#[tokio::test]
async fn a_gentle_stop_is_told_with_the_next_heartbeat() {
    let q = Queue::new().await;
    let (_, id) = q.starting("token").await;
    let (work, ended) = q.stop(&id, false, 5).await;
    assert_eq!(
        (work.state, work.stop_requested_at, work.stopped_at, ended),
        (WorkState::Stopping, Some(at(5)), None, false)
    );
    let told = q.beats(&id, NO_HEARTBEAT, 6).await;
    assert_eq!((told.state, told.lease_extended), (WorkState::Stopping, false));
    assert_eq!((told.last_heartbeat.as_str(), told.ttl_seconds), ("", 120));
    let item = q.bed.store.work(&q.bed.ws, &q.env, &id).await.unwrap();
    assert_eq!(item.latest_heartbeat_at, None, "nothing was written");
    let again = q.stop(&id, false, 7).await;
    assert_eq!((again.0.stop_requested_at, again.1), (Some(at(5)), false));

    let (work, ended) = q.stop(&id, true, 8).await;
    assert_eq!(
        (work.state, work.stop_requested_at, work.stopped_at, ended),
        (WorkState::Stopped, Some(at(5)), Some(at(8)), true)
    );
    for force in [true, false] {
        let (same, ended) = q.stop(&id, force, 9).await;
        assert_eq!(
            (same.stopped_at, ended),
            (Some(at(8)), false),
            "what is stopped stays so"
        );
    }
    let over = q.beats(&id, "whatever", 10).await;
    assert_eq!((over.state, over.lease_extended), (WorkState::Stopped, false));
    assert!(matches!(q.ack(&id, "w", 11).await, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn stops_of_other_states() {
    let q = Queue::new().await;
    let (_, queued) = q.add(0).await;
    let (work, ended) = q.stop(&queued, false, 1).await;
    assert_eq!((work.state, ended), (WorkState::Stopped, true), "nobody holds it");

    let (_, active) = q.starting("token").await;
    let beat = q.beats(&active, NO_HEARTBEAT, 3).await;
    let (work, _) = q.stop(&active, false, 4).await;
    assert_eq!(work.state, WorkState::Stopping);
    let told = q.beats(&active, "anything: it is not compared", 5).await;
    assert_eq!(told.last_heartbeat, beat.last_heartbeat);
    let lapsed = q.bed.store.requeue_lapsed_work(at(400)).await.unwrap();
    assert_eq!(
        lapsed[0].state,
        WorkState::Stopped,
        "its worker is gone, and it was to stop"
    );

    let (_, forced) = q.starting("another").await;
    q.beats(&forced, NO_HEARTBEAT, 3).await;
    let (work, ended) = q.stop(&forced, true, 4).await;
    assert_eq!(
        (work.state, work.stop_requested_at, ended),
        (WorkState::Stopped, Some(at(4)), true)
    );
}

#[tokio::test]
async fn a_token_outlives_its_item_by_a_minute() {
    let q = Queue::new().await;
    let (session, id) = q.starting("token").await;
    let store = &q.bed.store;
    let grant = async |seconds| store.token_grant(KeyHash::of("token"), at(seconds)).await.unwrap();
    assert_eq!(grant(50).await.unwrap().session_id, session);
    q.stop(&id, true, 100).await;
    assert_eq!(grant(159).await.unwrap().state, WorkState::Stopped);
    assert!(grant(160).await.is_none());
}

#[tokio::test]
async fn figures_of_a_queue() {
    let q = Queue::new().await;
    let (store, ws) = (&q.bed.store, &q.bed.ws);
    q.add(10).await;
    q.add(20).await;
    q.add(30).await;
    q.poll("a", "t1", 40).await.unwrap();
    q.poll("b", "t2", 41).await.unwrap();
    q.poll("a", "t3", 42).await.unwrap();
    let stats = store.work_stats(ws, &q.env, at(43)).await.unwrap();
    assert_eq!((stats.depth, stats.pending), (0, 3));
    assert_eq!((stats.oldest_queued_at, stats.workers_polling), (Some(at(10)), 2));
    assert_eq!(store.work_stats(ws, &q.env, at(72)).await.unwrap().workers_polling, 1);
    assert_eq!(store.work_stats(ws, &q.env, at(99)).await.unwrap().workers_polling, 0);
    let other = store.create_workspace("other", at(0)).await.unwrap().id;
    let stats = store.work_stats(&other, &q.env, at(43)).await.unwrap();
    assert_eq!((stats.depth, stats.pending), (0, 0));
}

#[tokio::test]
async fn metadata_merges() {
    let q = Queue::new().await;
    let (store, ws) = (&q.bed.store, &q.bed.ws);
    let (_, id) = q.add(0).await;
    let patch = |pairs: &[(&str, Option<&str>)]| -> Map<String, Value> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.map_or(Value::Null, Value::from)))
            .collect()
    };
    let first = patch(&[("a", Some("1")), ("b", Some("2"))]);
    store.merge_work_metadata(ws, &q.env, &id, first).await.unwrap();
    let work = store
        .merge_work_metadata(ws, &q.env, &id, patch(&[("a", None), ("c", Some("3"))]))
        .await
        .unwrap();
    assert_eq!(
        Value::Object(work.metadata.clone()),
        serde_json::json!({ "b": "2", "c": "3" })
    );
    assert_eq!(store.work(ws, &q.env, &id).await.unwrap().metadata, work.metadata);
}

#[tokio::test]
async fn the_servers_own_workers_serve_every_cloud_environment() {
    let q = Queue::new().await;
    let store = &q.bed.store;
    let other = store.create_workspace("other", at(0)).await.unwrap().id;
    let cloud = q.bed.environment_in(&other, EnvironmentKind::Cloud).await;
    q.add(0).await;
    assert!(
        store.poll_cloud_work(poll("own", "t", at(1))).await.unwrap().is_none(),
        "self-hosted work is not theirs"
    );
    let mut new = crate::support::new_session(&cloud, &outwork_wire::id::AgentId::fresh(), at(1), Vec::new(), None);
    new.enqueue_work = Some(WorkId::fresh());
    new.genesis.environment = EnvironmentKind::Cloud;
    let session = store.create_session(&other, new).await.unwrap();
    let (ws, work) = store.poll_cloud_work(poll("own", "t", at(2))).await.unwrap().unwrap();
    assert_eq!((ws, work.environment_id), (other, cloud));
    let grant = store.token_grant(KeyHash::of("t"), at(3)).await.unwrap().unwrap();
    assert_eq!(
        (grant.session_id, grant.environment_kind),
        (session.id, EnvironmentKind::Cloud)
    );
    assert!(store.poll_cloud_work(poll("own", "u", at(3))).await.unwrap().is_none());
}

#[tokio::test]
async fn workers_that_poll_together_never_get_the_same_item() {
    let q = Queue::new().await;
    for n in 0..20 {
        q.add(n).await;
    }
    let mut tasks = Vec::new();
    for n in 0..40 {
        let (store, ws, env) = (q.bed.store.clone(), q.bed.ws.clone(), q.env.clone());
        tasks.push(tokio::spawn(async move {
            let poll = poll(&format!("w{n}"), &format!("token {n}"), at(100));
            store.poll_work(&ws, &env, poll).await.unwrap().map(|w| w.id)
        }));
    }
    let mut got = Vec::new();
    for task in tasks {
        got.extend(task.await.unwrap());
    }
    got.sort();
    assert_eq!(got.len(), 20);
    got.dedup();
    assert_eq!(got.len(), 20);
}
