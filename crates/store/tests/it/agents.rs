//! Agents and versions.

use outwork_store::{AgentFilter, StoreError};
use outwork_wire::id::AgentId;

use crate::support::{at, bed, first, from, spec};

#[tokio::test]
async fn every_change_is_a_version() {
    let bed = bed();
    let store = &bed.store;
    let made = store
        .create_agent(&bed.ws, AgentId::fresh(), spec("one"), at(1))
        .await
        .unwrap();
    assert_eq!((made.version, made.created_at, made.updated_at), (1, at(1), at(1)));

    let second = store
        .update_agent(&bed.ws, &made.id, Some(1), at(2), |s| {
            s.name = "two".into();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((second.version, second.updated_at), (2, at(2)));
    let same = store
        .update_agent(&bed.ws, &made.id, Some(2), at(3), |_| Ok(()))
        .await
        .unwrap();
    assert_eq!(same, second, "no difference, no version");

    let stale = store
        .update_agent(&bed.ws, &made.id, Some(1), at(4), |s| {
            s.name = "late".into();
            Ok(())
        })
        .await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let refused = store
        .update_agent(&bed.ws, &made.id, None, at(4), |s| {
            s.name = "half".into();
            Err(StoreError::rejected("not so"))
        })
        .await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })));

    assert_eq!(store.agent(&bed.ws, &made.id).await.unwrap(), second);
    let old = store.agent_version(&bed.ws, &made.id, 1).await.unwrap();
    assert_eq!((old.spec.name.as_str(), old.updated_at), ("one", at(1)));
    assert!(matches!(
        store.agent_version(&bed.ws, &made.id, 3).await,
        Err(StoreError::NotFound {
            what: "agent version",
            ..
        })
    ));
    let page = store.list_agent_versions(&bed.ws, &made.id, first(1)).await.unwrap();
    assert_eq!(page.rows[0].version, 2);
    let page = store
        .list_agent_versions(&bed.ws, &made.id, from(1, &page.next.unwrap()))
        .await
        .unwrap();
    assert_eq!((page.rows[0].version, page.next.is_none()), (1, true));
}

#[tokio::test]
async fn archived_agents_stay_as_they_are() {
    let bed = bed();
    let store = &bed.store;
    let made = store
        .create_agent(&bed.ws, AgentId::fresh(), spec("one"), at(1))
        .await
        .unwrap();
    let archived = store.archive_agent(&bed.ws, &made.id, at(2)).await.unwrap();
    assert_eq!(archived.archived_at, Some(at(2)));
    assert_eq!(store.archive_agent(&bed.ws, &made.id, at(3)).await.unwrap(), archived);
    let change = store
        .update_agent(&bed.ws, &made.id, None, at(4), |s| {
            s.system = Some("x".into());
            Ok(())
        })
        .await;
    assert!(matches!(change, Err(StoreError::Conflict { .. })));
    assert!(matches!(
        store.archive_agent(&bed.ws, &AgentId::fresh(), at(1)).await,
        Err(StoreError::NotFound { .. })
    ));
    let shown = store
        .list_agents(&bed.ws, AgentFilter::default(), first(9))
        .await
        .unwrap();
    assert!(shown.rows.is_empty());
    let all = AgentFilter {
        include_archived: true,
        ..AgentFilter::default()
    };
    assert_eq!(
        store.list_agents(&bed.ws, all, first(9)).await.unwrap().rows,
        [archived]
    );
}

#[tokio::test]
async fn lists_run_from_the_newest_within_their_limits() {
    let bed = bed();
    for n in 0..6 {
        bed.store
            .create_agent(&bed.ws, AgentId::fresh(), spec(&n.to_string()), at(n))
            .await
            .unwrap();
    }
    let filter = AgentFilter {
        created_at_gte: Some(at(1)),
        created_at_lte: Some(at(4)),
        ..AgentFilter::default()
    };
    let page = bed.store.list_agents(&bed.ws, filter, first(10)).await.unwrap();
    let names: Vec<_> = page.rows.iter().map(|r| r.spec.name.as_str()).collect();
    assert_eq!(names, ["4", "3", "2", "1"]);
}

#[tokio::test]
async fn an_edit_that_panics_is_undone_and_harms_nobody_else() {
    let bed = bed();
    let store = &bed.store;
    let made = store
        .create_agent(&bed.ws, AgentId::fresh(), spec("one"), at(1))
        .await
        .unwrap();
    let broken = store.update_agent(&bed.ws, &made.id, None, at(2), |_| panic!("a defect of the caller"));
    let sound = store.update_agent(&bed.ws, &made.id, None, at(3), |s| {
        s.name = "two".into();
        Ok(())
    });
    let (broken, sound) = tokio::join!(broken, sound);
    assert!(matches!(broken, Err(StoreError::Internal(_))));
    assert_eq!(sound.unwrap().version, 2);
    assert_eq!(store.agent(&bed.ws, &made.id).await.unwrap().spec.name, "two");
}
