//! Sessions: creating, filters, deleting.

use outwork_store::{ProjectionChange, SessionFilter, SessionStatus, StoreError, TimeRange};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, EnvironmentId, WorkId};
use outwork_wire::work::WorkState;

use crate::support::{append, at, bed, first, message, new_session, projection};

#[tokio::test]
async fn a_session_comes_with_its_first_events_and_its_work() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let work = WorkId::fresh();
    let entries = vec![message("a", at(1), true), message("b", at(1), false)];
    let row = bed
        .session_in(&environment, at(1), entries.clone(), Some(work.clone()))
        .await;
    assert_eq!(row.last_seq, 2);
    assert_eq!(store.session(ws, &row.id).await.unwrap(), row);
    let log = store.load(ws, &row.id).await.unwrap();
    assert_eq!(log.entries.into_iter().map(|(_, e)| e).collect::<Vec<_>>(), entries);
    let item = store.live_work_of_session(ws, &row.id).await.unwrap().unwrap();
    assert_eq!((item.id, item.state), (work, WorkState::Queued));

    let nowhere = new_session(&EnvironmentId::fresh(), &AgentId::fresh(), at(1), entries.clone(), None);
    let id = nowhere.genesis.session_id.clone();
    assert!(matches!(
        store.create_session(ws, nowhere).await,
        Err(StoreError::NotFound {
            what: "environment",
            ..
        })
    ));
    // The events are already there, so this fails half way: nothing of it stays.
    let again = new_session(&environment, &AgentId::fresh(), at(1), entries, None);
    let half = again.genesis.session_id.clone();
    assert!(matches!(
        store.create_session(ws, again).await,
        Err(StoreError::DuplicateEvent { .. })
    ));
    for id in [id, half] {
        assert!(matches!(store.session(ws, &id).await, Err(StoreError::NotFound { .. })));
    }
    let other = store.create_workspace("other", at(0)).await.unwrap().id;
    assert!(matches!(
        store.session(&other, &row.id).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.load(&other, &row.id).await,
        Err(StoreError::NotFound { .. })
    ));
    let foreign = store
        .append(&other, append(&row.id, vec![message("x", at(2), false)]))
        .await;
    assert!(matches!(foreign, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn lists_filter() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let agent = AgentId::fresh();
    let mut ids = Vec::new();
    for n in 0..4 {
        let who = if n == 3 { AgentId::fresh() } else { agent.clone() };
        let new = new_session(&environment, &who, at(n), Vec::new(), None);
        ids.push(store.create_session(ws, new).await.unwrap().id);
    }
    let mut archive = append(&ids[0], vec![message("x", at(9), true)]);
    let mut p = projection(SessionStatus::Terminated, at(9));
    p.archived_at = Some(at(9));
    archive.projection = ProjectionChange::Set(Box::new(p));
    store.append(ws, archive).await.unwrap();
    let mut run = append(&ids[1], vec![message("x", at(9), true)]);
    run.projection = ProjectionChange::Set(Box::new(projection(SessionStatus::Running, at(9))));
    store.append(ws, run).await.unwrap();

    let list = async |filter: SessionFilter| -> Vec<usize> {
        let page = store.list_sessions(ws, filter, first(10)).await.unwrap();
        page.rows
            .iter()
            .map(|r| ids.iter().position(|id| *id == r.id).unwrap())
            .collect()
    };
    let base = SessionFilter::default;
    assert_eq!(list(base()).await, [3, 2, 1]);
    let all = SessionFilter {
        include_archived: true,
        ..base()
    };
    assert_eq!(list(all).await, [3, 2, 1, 0]);
    let of_agent = SessionFilter {
        agent_id: Some(agent.clone()),
        agent_version: Some(1),
        ..base()
    };
    assert_eq!(list(of_agent).await, [2, 1]);
    let of_version = SessionFilter {
        agent_id: Some(agent),
        agent_version: Some(2),
        ..base()
    };
    assert!(list(of_version).await.is_empty());
    let running = SessionFilter {
        statuses: vec![SessionStatus::Running, SessionStatus::Rescheduling],
        ..base()
    };
    assert_eq!(list(running).await, [1]);
    let timed = SessionFilter {
        created_at: TimeRange {
            gte: Some(at(1)),
            lt: Some(at(3)),
            ..TimeRange::default()
        },
        ..base()
    };
    assert_eq!(list(timed).await, [2, 1]);
}

#[tokio::test]
async fn a_deleted_session_leaves_nothing() {
    let bed = bed();
    let (store, ws) = (&bed.store, &bed.ws);
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let (id, work) = bed.session_with_work(&environment, at(1)).await;
    let entries = vec![message("a", at(1), true), message("b", at(1), false)];
    let mut run = append(&id, entries.clone());
    run.projection = ProjectionChange::Set(Box::new(projection(SessionStatus::Running, at(9))));
    store.append(ws, run).await.unwrap();
    assert!(matches!(
        store.delete_session(ws, &id).await,
        Err(StoreError::Conflict { .. })
    ));

    let mut idle = append(&id, Vec::new());
    idle.projection = ProjectionChange::Set(Box::new(projection(SessionStatus::Idle, at(9))));
    store.append(ws, idle).await.unwrap();
    store.delete_session(ws, &id).await.unwrap();
    assert!(matches!(store.session(ws, &id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(
        store.work(ws, &environment, &work).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.delete_session(ws, &id).await,
        Err(StoreError::NotFound { .. })
    ));
    bed.store.close().await;
    let conn = rusqlite::Connection::open(bed.dir.path().join("outwork.db")).unwrap();
    for table in ["sessions", "session_state", "events", "work"] {
        let rows: i64 = conn
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0))
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
