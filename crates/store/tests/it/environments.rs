//! Environments.

use outwork_store::{KeyHash, NewEnvironmentKey, StoreError};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, EnvironmentId, EnvironmentKeyId};
use outwork_wire::work::WorkState;

use crate::support::{at, bed, first, new_session};

#[tokio::test]
async fn changes_are_kept_and_archived_ones_refused() {
    let bed = bed();
    let store = &bed.store;
    let id = bed.environment(EnvironmentKind::Cloud).await;
    let row = store
        .update_environment(&bed.ws, &id, at(5), |row| {
            row.name = "there".into();
            row.metadata.insert("team".into(), "blue".into());
            row.kind = EnvironmentKind::SelfHosted;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((row.name.as_str(), row.updated_at), ("there", at(5)));
    assert_eq!(row.kind, EnvironmentKind::Cloud, "the kind never changes");
    let same = store.update_environment(&bed.ws, &id, at(6), |_| Ok(())).await.unwrap();
    assert_eq!(same, row);
    assert_eq!(
        store.locate_environment(&id).await.unwrap(),
        (bed.ws.clone(), EnvironmentKind::Cloud)
    );

    let archived = store.archive_environment(&bed.ws, &id, at(7)).await.unwrap();
    assert_eq!(archived.archived_at, Some(at(7)));
    let change = store
        .update_environment(&bed.ws, &id, at(8), |row| {
            row.name = "x".into();
            Ok(())
        })
        .await;
    assert!(matches!(change, Err(StoreError::Conflict { .. })));
    let new = new_session(&id, &AgentId::fresh(), at(9), Vec::new(), None);
    let session = store.create_session(&bed.ws, new).await;
    assert!(matches!(session, Err(StoreError::Conflict { .. })));
    assert!(
        store
            .list_environments(&bed.ws, false, first(5))
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert_eq!(
        store.list_environments(&bed.ws, true, first(5)).await.unwrap().rows,
        [archived]
    );
}

#[tokio::test]
async fn an_undrained_queue_is_deleted_only_by_force() {
    let bed = bed();
    let store = &bed.store;
    let id = bed.environment(EnvironmentKind::SelfHosted).await;
    let (session, work) = bed.session_with_work(&id, at(1)).await;
    let key = NewEnvironmentKey {
        id: EnvironmentKeyId::fresh(),
        name: "host".into(),
        hash: KeyHash::of("secret"),
        expires_at: None,
    };
    store.create_environment_key(&bed.ws, &id, key, at(1)).await.unwrap();

    let refused = store.delete_environment(&bed.ws, &id, false, at(2)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { message }) if message.contains("force=true")));
    assert!(store.environment(&bed.ws, &id).await.is_ok());

    let ended = store.delete_environment(&bed.ws, &id, true, at(2)).await.unwrap();
    assert_eq!(ended, std::slice::from_ref(&session));
    assert!(matches!(
        store.environment(&bed.ws, &id).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(
        store
            .find_credential(KeyHash::of("secret"), at(3))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(store.work(&bed.ws, &id, &work).await.unwrap().state, WorkState::Stopped);
    let again = store
        .enqueue_work(&bed.ws, &session, outwork_wire::id::WorkId::fresh(), at(4))
        .await
        .unwrap();
    assert!(again.is_none(), "there is no queue any more");
    assert!(matches!(
        store
            .delete_environment(&bed.ws, &EnvironmentId::fresh(), true, at(2))
            .await,
        Err(StoreError::NotFound { .. })
    ));
}
