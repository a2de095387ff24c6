//! The log: order, taking up, listing.

use outwork_store::{EventQuery, Order, ProjectionChange, SessionProfile, SessionStatus, StoreError, TimeRange};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, EventId, SessionId, WorkId};
use outwork_wire::log::{LogEntry, Private};
use outwork_wire::{Event, EventBody};
use serde_json::{Map, Value};

use crate::support::{Bed, append, at, bed, config, first, from, message, processed, projection};

fn status_running(seconds: i64) -> LogEntry {
    LogEntry {
        event: Event {
            id: EventId::fresh(),
            processed_at: Some(at(seconds)),
            body: EventBody::StatusRunning {},
        },
        created_at: at(seconds),
        private: None,
    }
}

async fn ids(bed: &Bed, session: &SessionId) -> Vec<EventId> {
    let log = bed.store.load(&bed.ws, session).await.unwrap();
    log.entries.into_iter().map(|(_, e)| e.event.id).collect()
}

#[tokio::test]
async fn queued_events_wait_at_the_tail_until_they_are_taken_up() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let id = bed.session().await.id;
    let queued = message("first", at(1), false);
    let later = message("second", at(2), false);
    let done = store
        .append(ws, append(&id, vec![queued.clone(), later.clone()]))
        .await
        .unwrap();
    assert_eq!((done.first_seq, done.last_seq), (1, 2));
    let running = status_running(3);
    store.append(ws, append(&id, vec![running.clone()])).await.unwrap();
    assert_eq!(
        ids(&bed, &id).await,
        [
            running.event.id.clone(),
            queued.event.id.clone(),
            later.event.id.clone()
        ]
    );

    let taken = processed(&later, at(4));
    let done = store.append(ws, append(&id, vec![taken.clone()])).await.unwrap();
    assert_eq!((done.first_seq, done.last_seq), (4, 4));
    assert_eq!(
        ids(&bed, &id).await,
        [
            running.event.id.clone(),
            later.event.id.clone(),
            queued.event.id.clone()
        ]
    );
    let (seq, entry) = store.entry(ws, &id, &later.event.id).await.unwrap();
    assert_eq!((seq, entry), (4, taken));
    let after: Vec<_> = store.entries_after(ws, &id, 2).await.unwrap();
    assert_eq!(after.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3, 4]);

    let again = store.append(ws, append(&id, vec![processed(&later, at(5))])).await;
    assert!(matches!(again, Err(StoreError::DuplicateEvent { event, .. }) if event == later.event.id));

    let mut flush = append(&id, vec![status_running(6)]);
    flush.drop_queued = vec![queued.event.id.clone()];
    store.append(ws, flush).await.unwrap();
    assert!(!ids(&bed, &id).await.contains(&queued.event.id));
    let mut flush = append(&id, vec![status_running(7)]);
    flush.drop_queued = vec![later.event.id.clone()];
    assert!(
        matches!(
            store.append(ws, flush).await,
            Err(StoreError::NotFound {
                what: "queued event",
                ..
            })
        ),
        "what was processed cannot be dropped"
    );
    assert_eq!(
        store.load(ws, &id).await.unwrap().last_seq,
        5,
        "nothing of the refused append stays"
    );
}

#[tokio::test]
async fn an_event_of_another_session_is_not_taken_over() {
    let bed = bed();
    let (one, two) = (bed.session().await.id, bed.session().await.id);
    let queued = message("mine", at(1), false);
    bed.store
        .append(&bed.ws, append(&one, vec![queued.clone()]))
        .await
        .unwrap();
    let stolen = bed
        .store
        .append(&bed.ws, append(&two, vec![processed(&queued, at(2))]))
        .await;
    assert!(matches!(stolen, Err(StoreError::DuplicateEvent { .. })));
    assert_eq!(ids(&bed, &one).await, [queued.event.id]);
    assert!(ids(&bed, &two).await.is_empty());
}

#[tokio::test]
async fn an_append_over_an_old_reading_is_refused() {
    let bed = bed();
    let id = bed.session().await.id;
    let with = |expected| {
        let mut a = append(&id, vec![status_running(1)]);
        a.expected_last_seq = Some(expected);
        a
    };
    bed.store.append(&bed.ws, with(0)).await.unwrap();
    assert!(matches!(
        bed.store.append(&bed.ws, with(0)).await,
        Err(StoreError::LogMoved {
            expected: 0,
            current: 1,
            ..
        })
    ));
    bed.store.append(&bed.ws, with(1)).await.unwrap();
}

#[tokio::test]
async fn what_is_written_reads_back_with_its_projection() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let row = bed.session().await;
    let mut entry = message("call", at(1), true);
    entry.private = Some(Private::Call {
        model_tool_use_id: "toolu_1".into(),
        repeatable: false,
    });
    let mut metadata = Map::new();
    metadata.insert("k".into(), "v".into());
    let profile = SessionProfile {
        agent: config(&AgentId::fresh()),
        title: None,
        metadata,
    };
    let mut p = projection(SessionStatus::Rescheduling, at(9));
    p.usage.input_tokens = 77;
    p.usage.active_seconds = 1.5;
    p.wake_at = Some(at(20));
    p.needs_owner = true;
    p.profile = Some(profile.clone());
    let mut a = append(&row.id, vec![entry.clone()]);
    a.projection = ProjectionChange::Set(Box::new(p.clone()));
    a.enqueue_work = Some(WorkId::fresh());
    assert!(store.append(ws, a.clone()).await.unwrap().work_enqueued);

    let log = store.load(ws, &row.id).await.unwrap();
    assert_eq!(log.entries, [(1, entry)]);
    assert_eq!(log.genesis.session_id, row.id);
    let now = store.session(ws, &row.id).await.unwrap();
    assert_eq!(now.profile, profile);
    assert_eq!(
        (now.status, now.usage, now.updated_at),
        (p.status, p.usage, p.updated_at)
    );
    assert_eq!((now.wake_at, now.needs_owner, now.last_seq), (Some(at(20)), true, 1));

    a.entries = vec![status_running(10)];
    a.enqueue_work = Some(WorkId::fresh());
    assert!(!store.append(ws, a).await.unwrap().work_enqueued, "it has a live item");
}

#[tokio::test]
async fn archived_sessions_take_events_only_from_their_owner() {
    let bed = bed();
    let id = bed.session().await.id;
    let mut p = projection(SessionStatus::Terminated, at(2));
    p.archived_at = Some(at(2));
    let mut a = append(&id, vec![status_running(2)]);
    a.projection = ProjectionChange::Set(Box::new(p));
    bed.store.append(&bed.ws, a).await.unwrap();
    let late = bed
        .store
        .append(&bed.ws, append(&id, vec![message("late", at(3), false)]))
        .await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn lists_filter_and_page_with_pending_events_at_the_tail() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let id = bed.session().await.id;
    let pending = message("pending", at(0), false);
    store.append(ws, append(&id, vec![pending.clone()])).await.unwrap();
    let mut order = Vec::new();
    for n in 1..=7 {
        let entry = if n % 2 == 0 {
            status_running(n)
        } else {
            message("m", at(n), true)
        };
        order.push(entry.event.id.to_string());
        store.append(ws, append(&id, vec![entry])).await.unwrap();
    }
    order.push(pending.event.id.to_string());

    let walk = async |query: EventQuery, limit: usize| -> Vec<String> {
        let mut seen = Vec::new();
        let mut page = store.list_events(ws, &id, query.clone(), first(limit)).await.unwrap();
        loop {
            assert!(page.rows.len() <= limit);
            for row in &page.rows {
                let event: Value = serde_json::from_str(row.get()).unwrap();
                seen.push(event["id"].as_str().unwrap().to_owned());
            }
            let Some(next) = page.next else { return seen };
            page = store
                .list_events(ws, &id, query.clone(), from(limit, &next))
                .await
                .unwrap();
        }
    };
    for limit in 1..=9 {
        assert_eq!(walk(EventQuery::default(), limit).await, order);
        let desc = EventQuery {
            order: Order::Desc,
            ..EventQuery::default()
        };
        let mut reversed = order.clone();
        reversed.reverse();
        assert_eq!(walk(desc, limit).await, reversed);
    }
    let typed = EventQuery {
        types: vec!["session.status_running".into()],
        ..EventQuery::default()
    };
    assert_eq!(walk(typed, 2).await, [&*order[1], &*order[3], &*order[5]]);
    let thread = EventQuery {
        thread_only: true,
        ..EventQuery::default()
    };
    assert_eq!(
        walk(thread, 2).await.len(),
        5,
        "status of the session is not the thread's"
    );
    let timed = EventQuery {
        created_at: TimeRange {
            gt: Some(at(2)),
            lte: Some(at(5)),
            ..TimeRange::default()
        },
        ..EventQuery::default()
    };
    assert_eq!(walk(timed, 2).await, order[2..5]);

    let page = store
        .list_events(ws, &id, EventQuery::default(), first(2))
        .await
        .unwrap();
    let other = EventQuery {
        order: Order::Desc,
        ..EventQuery::default()
    };
    let wrong = store.list_events(ws, &id, other, from(2, &page.next.unwrap())).await;
    assert!(
        matches!(wrong, Err(StoreError::InvalidCursor)),
        "a cursor belongs to its order"
    );
    let garbage = store
        .list_events(ws, &id, EventQuery::default(), from(2, "garbage"))
        .await;
    assert!(matches!(garbage, Err(StoreError::InvalidCursor)));
}

#[tokio::test]
async fn appends_that_wait_together_are_committed_together_and_fail_alone() {
    let bed = bed();
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let mut sessions = Vec::new();
    for n in 0..16 {
        sessions.push(bed.session_in(&environment, at(n), Vec::new(), None).await.id);
    }
    let before = bed.store.counters();
    let mut tasks = Vec::new();
    for n in 0..800u64 {
        let (store, ws) = (bed.store.clone(), bed.ws.clone());
        let mut a = append(&sessions[(n % 16) as usize], vec![message("x", at(1), true)]);
        // Every tenth has a fence that does not hold.
        a.generation = (n % 10 == 0).then_some(99);
        tasks.push(tokio::spawn(async move { store.append(&ws, a).await }));
    }
    let mut kept = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => kept += 1,
            Err(StoreError::StaleGeneration { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(kept, 720);
    let mut found = 0;
    for id in &sessions {
        let log = bed.store.load(&bed.ws, id).await.unwrap();
        found += log.entries.len();
        let seqs: Vec<u64> = log.entries.iter().map(|(n, _)| *n).collect();
        assert_eq!(
            seqs,
            (1..=log.last_seq).collect::<Vec<_>>(),
            "a refused append takes no number"
        );
    }
    assert_eq!(found, 720);
    let after = bed.store.counters();
    assert_eq!(after.writes - before.writes, 800);
    assert!(
        after.commits - before.commits < 400,
        "800 writes took {} commits",
        after.commits - before.commits
    );
}

#[tokio::test]
async fn a_page_of_large_events_ends_before_its_limit_and_goes_on() {
    let bed = bed();
    let session = bed.session().await;
    let (store, ws) = (&bed.store, &bed.ws);
    let large = "x".repeat(3 << 20);
    for second in 0..5 {
        let entry = message(&large, at(10 + second), true);
        store.append(ws, append(&session.id, vec![entry])).await.unwrap();
    }
    let mut page = store
        .list_events(ws, &session.id, EventQuery::default(), first(100))
        .await
        .unwrap();
    let mut sizes = vec![page.rows.len()];
    while let Some(next) = page.next.take() {
        page = store
            .list_events(ws, &session.id, EventQuery::default(), from(100, &next))
            .await
            .unwrap();
        sizes.push(page.rows.len());
    }
    assert_eq!(sizes, [2, 2, 1]);
    let huge = message(&"x".repeat(9 << 20), at(90), true);
    store.append(ws, append(&session.id, vec![huge])).await.unwrap();
    let query = EventQuery {
        order: Order::Desc,
        ..EventQuery::default()
    };
    let page = store.list_events(ws, &session.id, query, first(100)).await.unwrap();
    assert_eq!(page.rows.len(), 1, "one event always fits");
}

#[tokio::test]
async fn what_is_taken_up_between_two_pages_is_listed_once() {
    for order in [Order::Asc, Order::Desc] {
        for limit in 1..=6 {
            for taken in 1..=6 {
                let bed = bed();
                let (store, ws) = (&bed.store, &bed.ws);
                let id = bed.session().await.id;
                let waiting: Vec<_> = (0..6).map(|n| message(&n.to_string(), at(n), false)).collect();
                store.append(ws, append(&id, waiting.clone())).await.unwrap();
                store
                    .append(ws, append(&id, vec![status_running(10), status_running(11)]))
                    .await
                    .unwrap();
                let query = EventQuery {
                    order,
                    ..EventQuery::default()
                };
                let mut seen = Vec::new();
                let mut page = store.list_events(ws, &id, query.clone(), first(limit)).await.unwrap();
                let up: Vec<_> = (0..)
                    .zip(&waiting[..taken])
                    .map(|(n, e)| processed(e, at(20 + n)))
                    .collect();
                store.append(ws, append(&id, up)).await.unwrap();
                loop {
                    for row in &page.rows {
                        let event: Value = serde_json::from_str(row.get()).unwrap();
                        seen.push(event["id"].as_str().unwrap().to_owned());
                    }
                    let Some(next) = page.next else { break };
                    page = store
                        .list_events(ws, &id, query.clone(), from(limit, &next))
                        .await
                        .unwrap();
                }
                for event in &waiting {
                    let count = seen.iter().filter(|id| *id == event.event.id.as_str()).count();
                    assert_eq!(count, 1, "{order:?}, pages of {limit}, {taken} taken up: {seen:?}");
                }
            }
        }
    }
}
