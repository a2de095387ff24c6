//! Leases and their fence.

use outwork_store::{LeaseOutcome, ProjectionChange, SessionStatus, StoreError};
use outwork_wire::id::SessionId;

use crate::support::{append, at, bed, message, projection};

fn generation(outcome: LeaseOutcome) -> u64 {
    match outcome {
        LeaseOutcome::Acquired { generation } => generation,
        LeaseOutcome::Held { by, .. } => panic!("held by {by}"),
    }
}

#[tokio::test]
async fn one_owner_at_a_time_and_generations_only_grow() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let id = bed.session().await.id;
    let first = generation(store.acquire_lease(ws, &id, "a", 30, at(0)).await.unwrap());
    let held = store.acquire_lease(ws, &id, "b", 30, at(10)).await.unwrap();
    assert_eq!(
        held,
        LeaseOutcome::Held {
            by: "a".into(),
            until: at(30)
        }
    );
    store.renew_lease(ws, &id, first, 30, at(20)).await.unwrap();
    assert!(matches!(
        store.acquire_lease(ws, &id, "b", 30, at(40)).await.unwrap(),
        LeaseOutcome::Held { .. }
    ));
    let second = generation(store.acquire_lease(ws, &id, "b", 30, at(50)).await.unwrap());
    assert!(second > first);
    assert!(matches!(
        store.renew_lease(ws, &id, first, 30, at(51)).await,
        Err(StoreError::StaleGeneration { given, current, .. }) if given == first && current == second
    ));
    assert!(matches!(
        store.release_lease(ws, &id, first).await,
        Err(StoreError::StaleGeneration { .. })
    ));
    store.release_lease(ws, &id, second).await.unwrap();
    let third = generation(store.acquire_lease(ws, &id, "a", 30, at(52)).await.unwrap());
    assert!(third > second);
    let lease = store.session(ws, &id).await.unwrap().lease.unwrap();
    assert_eq!(
        (lease.owner.as_str(), lease.generation, lease.expires_at),
        ("a", third, at(82))
    );
    assert!(matches!(
        store.acquire_lease(ws, &SessionId::fresh(), "a", 30, at(0)).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn appends_of_an_earlier_owner_are_refused() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let id = bed.session().await.id;
    let old = generation(store.acquire_lease(ws, &id, "a", 10, at(0)).await.unwrap());
    let new = generation(store.acquire_lease(ws, &id, "b", 10, at(20)).await.unwrap());
    let with = |generation| {
        let mut a = append(&id, vec![message("x", at(21), true)]);
        a.generation = Some(generation);
        a
    };
    assert!(matches!(
        store.append(ws, with(old)).await,
        Err(StoreError::StaleGeneration { .. })
    ));
    store.append(ws, with(new)).await.unwrap();
    store.release_lease(ws, &id, new).await.unwrap();
    assert!(matches!(
        store.append(ws, with(new)).await,
        Err(StoreError::StaleGeneration { .. })
    ));
    assert_eq!(store.load(ws, &id).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn sessions_without_an_owner_are_found_when_they_are_due() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let (busy, waiting, idle) = (bed.session().await.id, bed.session().await.id, bed.session().await.id);
    let set = |id: &SessionId, needs, wake: Option<i64>| {
        let mut a = append(id, vec![message("x", at(1), true)]);
        let mut p = projection(SessionStatus::Running, at(1));
        p.needs_owner = needs;
        p.wake_at = wake.map(at);
        a.projection = ProjectionChange::Set(Box::new(p));
        a
    };
    store.append(ws, set(&busy, true, None)).await.unwrap();
    store.append(ws, set(&waiting, true, Some(100))).await.unwrap();
    store.append(ws, set(&idle, false, None)).await.unwrap();

    let due = async |now| -> Vec<SessionId> {
        let rows = store.list_unowned_needing_work(at(now), 0, 10).await.unwrap();
        rows.into_iter().map(|d| d.session_id).collect()
    };
    assert_eq!(due(10).await, std::slice::from_ref(&busy));
    assert_eq!(store.next_due_session(at(10)).await.unwrap(), Some(at(100)));
    assert_eq!(due(100).await, [busy.clone(), waiting.clone()]);
    let part = store.list_unowned_needing_work(at(100), 0, 1).await.unwrap();
    assert_eq!(part.len(), 1);
    let rest = store
        .list_unowned_needing_work(at(100), part[0].place, 9)
        .await
        .unwrap();
    assert_eq!(
        rest.into_iter().map(|d| d.session_id).collect::<Vec<_>>(),
        std::slice::from_ref(&waiting)
    );

    store.acquire_lease(ws, &busy, "a", 30, at(100)).await.unwrap();
    store.acquire_lease(ws, &waiting, "b", 60, at(100)).await.unwrap();
    assert!(due(110).await.is_empty());
    assert_eq!(store.next_due_session(at(110)).await.unwrap(), Some(at(130)));
    assert_eq!(due(130).await, std::slice::from_ref(&busy), "a lease that ended");
    assert_eq!(store.next_due_session(at(130)).await.unwrap(), Some(at(160)));

    let held = store.leases_of("a").await.unwrap();
    assert_eq!(store.renew_leases(held, 100, at(130)).await.unwrap(), 1);
    assert!(due(150).await.is_empty());
    assert_eq!(store.take_over_all_leases("b").await.unwrap(), 1, "of a, who is gone");
    assert_eq!(due(150).await, std::slice::from_ref(&busy));
    assert_eq!(store.release_all_leases("b").await.unwrap(), 1);
    assert_eq!(due(150).await, [busy, waiting]);

    // Who queues an event makes the session due, without touching anything else.
    let mut queue = append(&idle, vec![message("hello", at(151), false)]);
    queue.projection = ProjectionChange::NeedsOwner;
    store.append(ws, queue).await.unwrap();
    assert!(due(151).await.contains(&idle));
    assert_eq!(store.session(ws, &idle).await.unwrap().status, SessionStatus::Running);
}

#[tokio::test]
async fn only_leases_that_are_named_are_renewed_and_only_for_their_generation() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let (kept, left_behind, taken_anew) = (bed.session().await.id, bed.session().await.id, bed.session().await.id);
    for id in [&kept, &left_behind, &taken_anew] {
        store.acquire_lease(ws, id, "a", 30, at(0)).await.unwrap();
    }
    let mut held = store.leases_of("a").await.unwrap();
    assert_eq!(held.len(), 3);
    assert!(store.leases_of("b").await.unwrap().is_empty());
    held.retain(|lease| lease.session_id != left_behind);
    store.acquire_lease(ws, &taken_anew, "a", 30, at(5)).await.unwrap();
    assert_eq!(store.renew_leases(held, 30, at(20)).await.unwrap(), 1);

    let until = async |id| store.session(ws, id).await.unwrap().lease.unwrap().expires_at;
    assert_eq!(until(&kept).await, at(50));
    assert_eq!(
        until(&left_behind).await,
        at(30),
        "nobody said that it is still at work"
    );
    assert_eq!(until(&taken_anew).await, at(35), "a later generation sees to itself");
}
