//! What keeps the queue in order: no session that needs a worker is ever without an item, and nothing outlives the
//! key that it was given to.

use outwork_store::{KeyHash, NewEnvironmentKey, ProjectionChange, SessionStatus, StopOutcome, StoppedBy, Store};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId};
use outwork_wire::work::{NO_HEARTBEAT, Work, WorkState};

use crate::support::{Bed, append, at, bed, message, poll, projection};

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

    fn store(&self) -> &Store {
        &self.bed.store
    }

    /// A session that needs a worker since a time, and its item.
    async fn busy(&self, seconds: i64) -> (SessionId, WorkId) {
        let session = self.bed.session_in(&self.env, at(seconds), Vec::new(), None).await.id;
        self.change(&session, true, seconds).await;
        let item = self.live(&session).await.unwrap().id;
        (session, item)
    }

    /// Something happens in a session.
    async fn change(&self, session: &SessionId, needs_worker: bool, seconds: i64) {
        let now = at(seconds);
        let mut append = append(session, vec![message("x", now, true)]);
        append.at = now;
        let mut state = projection(SessionStatus::Running, now);
        state.needs_worker = needs_worker;
        append.projection = ProjectionChange::Set(Box::new(state));
        append.enqueue_work = needs_worker.then(WorkId::fresh);
        self.store().append(&self.bed.ws, append).await.unwrap();
    }

    async fn live(&self, session: &SessionId) -> Option<Work> {
        self.store().live_work_of_session(&self.bed.ws, session).await.unwrap()
    }

    async fn poll(&self, token: &str, now: Time) -> Option<Work> {
        let poll = poll("w", token, now);
        self.store().poll_work(&self.bed.ws, &self.env, poll).await.unwrap()
    }

    async fn ack(&self, id: &WorkId, seconds: i64) {
        let (store, ws) = (self.store(), &self.bed.ws);
        store
            .acknowledge_work(ws, &self.env, id, Some("w"), at(seconds))
            .await
            .unwrap();
    }

    async fn stop(&self, id: &WorkId, by: StoppedBy, now: Time) -> StopOutcome {
        let (store, ws) = (self.store(), &self.bed.ws);
        store.stop_work(ws, &self.env, id, true, by, now).await.unwrap()
    }

    /// Whether an item is offered at a time, and not a microsecond before.
    async fn offered_from(&self, id: &WorkId, from: Time) -> bool {
        self.poll(&format!("before {id}"), from.plus_micros(-1)).await.is_none()
            && self
                .poll(&format!("then {id}"), from)
                .await
                .is_some_and(|work| work.id == *id)
    }
}

#[tokio::test]
async fn the_end_of_an_item_makes_the_next_one_if_the_session_needs_a_worker() {
    let q = Queue::new().await;
    let (session, first) = q.busy(0).await;
    q.poll("t1", at(1)).await.unwrap();
    q.ack(&first, 1).await;
    let outcome = q.stop(&first, StoppedBy::Operator, at(2)).await;
    let next = outcome.next.unwrap();
    assert_ne!(next.id, first);
    assert_eq!(q.live(&session).await.unwrap().id, next.id);
    assert_eq!(
        q.poll("t2", at(2)).await.unwrap().id,
        next.id,
        "an operator's stop holds nothing back"
    );
    let again = q.stop(&first, StoppedBy::Operator, at(3)).await;
    assert!(again.next.is_none(), "what is stopped is not stopped again");

    q.change(&session, false, 4).await;
    let outcome = q.stop(&next.id, StoppedBy::Worker, at(5)).await;
    assert!(outcome.ended_now && outcome.next.is_none());
    assert!(q.live(&session).await.is_none());
}

#[tokio::test]
async fn after_a_lost_order_there_is_no_next_item_until_the_log_says_so() {
    let q = Queue::new().await;
    let (session, first) = q.busy(0).await;
    q.poll("t1", at(1)).await.unwrap();
    q.ack(&first, 1).await;
    let outcome = q.stop(&first, StoppedBy::LostOrder, at(2)).await;
    assert!(outcome.ended_now && outcome.next.is_none());
    q.store().enqueue_missing_work(at(3), 9).await.unwrap();
    assert!(q.live(&session).await.is_none(), "the upkeep made one");
    q.change(&session, true, 4).await;
    assert_ne!(q.live(&session).await.unwrap().id, first);
}

#[tokio::test]
async fn the_next_item_survives_a_crash_right_after_the_stop() {
    let q = Queue::new().await;
    let (session, item) = q.busy(0).await;
    q.poll("t1", at(1)).await.unwrap();
    q.stop(&item, StoppedBy::Worker, at(2)).await;
    let Queue { bed, .. } = q;
    bed.store.close().await;
    let Bed { store, dir, ws } = bed;
    drop(store);
    let store = Store::open(outwork_store::Options::new(dir.path())).unwrap();
    let live = store.live_work_of_session(&ws, &session).await.unwrap().unwrap();
    assert_eq!(live.state, WorkState::Queued);
}

#[tokio::test]
async fn items_given_up_at_once_are_held_back_longer_each_time() {
    for acknowledged in [true, false] {
        let q = Queue::new().await;
        let (session, mut item) = q.busy(0).await;
        let mut now = 10;
        q.poll("t", at(now)).await.unwrap();
        for delay in [1, 2, 4, 8, 16, 30, 30] {
            if acknowledged {
                q.ack(&item, now).await;
            }
            now += 4;
            let next = q.stop(&item, StoppedBy::Worker, at(now)).await.next.unwrap().id;
            let env = std::slice::from_ref(&q.env);
            let due = |from, until| q.store().work_due_between(from, until);
            assert_eq!(due(at(now), at(now + delay)).await.unwrap(), env);
            assert!(due(at(now), at(now + delay).plus_micros(-1)).await.unwrap().is_empty());
            assert!(due(at(now + delay), at(now + 99)).await.unwrap().is_empty());
            now += delay;
            assert!(q.offered_from(&next, at(now)).await, "after {delay} s");
            item = next;
        }

        // Whatever happens in the session shows that its workers are good for something.
        if acknowledged {
            q.ack(&item, now).await;
        }
        q.change(&session, true, now + 1).await;
        let next = q.stop(&item, StoppedBy::Worker, at(now + 2)).await.next.unwrap().id;
        assert_eq!(q.poll("at once", at(now + 2)).await.unwrap().id, next);
        // So does holding it for a while.
        let next = q.stop(&next, StoppedBy::Worker, at(now + 7)).await.next.unwrap().id;
        assert_eq!(q.poll("at once too", at(now + 7)).await.unwrap().id, next);
        // And the count begins anew.
        let next = q.stop(&next, StoppedBy::Worker, at(now + 8)).await.next.unwrap().id;
        assert!(q.offered_from(&next, at(now + 9)).await);
    }
}

#[tokio::test]
async fn a_worker_that_stops_what_it_never_polled_does_not_make_the_queue_spin() {
    let q = Queue::new().await;
    let (_, item) = q.busy(0).await;
    let next = q.stop(&item, StoppedBy::Worker, at(60)).await.next.unwrap().id;
    assert!(q.offered_from(&next, at(61)).await);
}

#[tokio::test]
async fn a_stopping_item_that_lapses_is_followed_by_the_next() {
    let q = Queue::new().await;
    let (session, item) = q.busy(0).await;
    q.poll("token", at(1)).await.unwrap();
    q.ack(&item, 1).await;
    let (store, ws) = (q.store(), &q.bed.ws);
    store
        .stop_work(ws, &q.env, &item, false, StoppedBy::Operator, at(2))
        .await
        .unwrap();
    assert_eq!(q.live(&session).await.unwrap().state, WorkState::Stopping);
    let lapsed = store.requeue_lapsed_work(at(200)).await.unwrap();
    assert_eq!((&lapsed[0].work_id, lapsed[0].state), (&item, WorkState::Stopped));
    let next = q.poll("next", at(200)).await.unwrap();
    assert_ne!(next.id, item);
    assert_eq!(q.live(&session).await.unwrap().id, next.id);
}

#[tokio::test]
async fn a_silent_worker_loses_its_item_when_asked_for() {
    let queue = Queue::new().await;
    let (session, item) = queue.busy(1).await;
    let (other, _) = queue.busy(1).await;
    queue.poll("token", at(2)).await.unwrap();
    queue.ack(&item, 2).await;
    let take_back = async |silent_since: i64| {
        let taken = queue
            .store()
            .requeue_silent_work(&session, at(silent_since), at(60))
            .await;
        taken.unwrap().len()
    };
    assert_eq!(take_back(1).await, 0, "it was heard after that");
    assert_eq!(queue.live(&session).await.unwrap().state, WorkState::Starting);
    assert_eq!(take_back(15).await, 1);
    let back = queue.live(&session).await.unwrap();
    assert_eq!((back.id, back.state), (item, WorkState::Queued));
    assert_eq!(take_back(60).await, 0, "what is queued has no worker");
    assert_eq!(queue.live(&other).await.unwrap().state, WorkState::Queued);
}

#[tokio::test]
async fn a_lapse_ends_the_token() {
    let q = Queue::new().await;
    let (_, item) = q.busy(0).await;
    q.poll("token", at(1)).await.unwrap();
    q.ack(&item, 1).await;
    let grant = async || q.store().token_grant(KeyHash::of("token"), at(200)).await.unwrap();
    assert!(grant().await.is_some());
    q.store().requeue_lapsed_work(at(200)).await.unwrap();
    assert!(grant().await.is_none());
}

#[tokio::test]
async fn a_missing_item_is_made_once() {
    let q = Queue::new().await;
    let (store, ws) = (q.store(), &q.bed.ws);
    let session = q.bed.session_in(&q.env, at(0), Vec::new(), None).await.id;
    assert!(store.enqueue_missing_work(at(1), 10).await.unwrap().is_empty());
    // An owner that forgot the item.
    let mut forgetful = append(&session, Vec::new());
    let mut state = projection(SessionStatus::Running, at(1));
    state.needs_worker = true;
    forgetful.projection = ProjectionChange::Set(Box::new(state));
    store.append(ws, forgetful).await.unwrap();
    assert_eq!(
        store.enqueue_missing_work(at(2), 10).await.unwrap(),
        std::slice::from_ref(&q.env)
    );
    assert!(q.live(&session).await.is_some());
    assert!(store.enqueue_missing_work(at(3), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_revoked_key_takes_what_it_was_given_with_it() {
    let q = Queue::new().await;
    let (store, ws) = (q.store(), &q.bed.ws);
    let mut keys = Vec::new();
    for name in ["lost", "kept"] {
        let new = NewEnvironmentKey {
            id: EnvironmentKeyId::fresh(),
            name: name.into(),
            hash: KeyHash::of(name),
            expires_at: None,
        };
        keys.push(store.create_environment_key(ws, &q.env, new, at(0)).await.unwrap().id);
    }
    let claim = async |key: &EnvironmentKeyId, token: &str, ack: bool| {
        let (session, item) = q.busy(1).await;
        let mut poll = poll("w", token, at(2));
        poll.key = Some(key.clone());
        assert_eq!(store.poll_work(ws, &q.env, poll).await.unwrap().unwrap().id, item);
        if ack {
            q.ack(&item, 3).await;
        }
        (session, item)
    };
    let (_, active) = claim(&keys[0], "active", true).await;
    store
        .heartbeat_work(ws, &q.env, &active, Some(NO_HEARTBEAT), None, at(4))
        .await
        .unwrap();
    let (_, offered) = claim(&keys[0], "offered", false).await;
    let (_, over) = claim(&keys[0], "over", true).await;
    let (_, others) = claim(&keys[1], "others", true).await;
    store.requeue_lapsed_work(at(4)).await.unwrap();
    let next = q.stop(&over, StoppedBy::Operator, at(4)).await.next.unwrap().id;

    let (row, ended) = store.revoke_environment_key(ws, &q.env, &keys[0], at(5)).await.unwrap();
    assert_eq!(row.revoked_at, Some(at(5)));
    assert_eq!(
        ended.iter().map(|l| (&l.work_id, l.state)).collect::<Vec<_>>(),
        [(&active, WorkState::Queued)]
    );
    for token in ["active", "offered", "over"] {
        let grant = store.token_grant(KeyHash::of(token), at(5)).await.unwrap();
        assert!(grant.is_none(), "{token}");
    }
    assert!(store.token_grant(KeyHash::of("others"), at(5)).await.unwrap().is_some());
    let state = async |id| store.work(ws, &q.env, id).await.unwrap().state;
    assert_eq!(state(&others).await, WorkState::Starting);
    let mut again = Vec::new();
    for n in 0..3 {
        again.push(q.poll(&format!("again {n}"), at(5)).await.unwrap().id);
    }
    again.sort();
    let mut expected = [active, offered, next];
    expected.sort();
    assert_eq!(again, expected, "other workers get them at once");
}

#[tokio::test]
async fn old_items_are_forgotten_but_for_the_last_of_each_session() {
    let q = Queue::new().await;
    let (store, ws) = (q.store(), &q.bed.ws);
    let (session, first) = q.busy(0).await;
    let second = q.stop(&first, StoppedBy::Operator, at(10)).await.next.unwrap().id;
    let third = q.stop(&second, StoppedBy::Operator, at(20)).await.next.unwrap().id;
    q.change(&session, false, 25).await;
    q.stop(&third, StoppedBy::Operator, at(30)).await;
    let exists = async |id: &WorkId| store.work(ws, &q.env, id).await.is_ok();

    assert_eq!(store.prune_stopped_work(at(10), 9).await.unwrap(), 0);
    assert_eq!(store.prune_stopped_work(at(11), 9).await.unwrap(), 1);
    assert!(!exists(&first).await && exists(&second).await);
    assert_eq!(
        store.prune_stopped_work(at(999), 0).await.unwrap(),
        0,
        "no more than asked for"
    );
    assert_eq!(store.prune_stopped_work(at(999), 9).await.unwrap(), 1);
    assert!(!exists(&second).await && exists(&third).await);
    assert_eq!(store.prune_stopped_work(at(999), 9).await.unwrap(), 0);
}
