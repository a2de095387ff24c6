//! Environments.

use outwork_store::{Append, KeyHash, NewEnvironmentKey, ProjectionChange, SessionStatus, StoreError};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, EnvironmentId, EnvironmentKeyId, SessionId};
use outwork_wire::work::WorkState;

use crate::support::{append, at, bed, first, message, new_session, poll, projection};

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
async fn an_environment_is_deleted_only_when_no_session_in_it_can_wait_for_a_worker() {
    let bed = bed();
    let store = &bed.store;
    let id = bed.environment(EnvironmentKind::SelfHosted).await;
    let (busy, work) = bed.session_with_work(&id, at(1)).await;
    let idle = bed.session_in(&id, at(1), Vec::new(), None).await.id;
    let key = NewEnvironmentKey {
        id: EnvironmentKeyId::fresh(),
        name: "host".into(),
        hash: KeyHash::of("secret"),
        expires_at: None,
    };
    store.create_environment_key(&bed.ws, &id, key, at(1)).await.unwrap();
    store
        .poll_work(&bed.ws, &id, poll("w", "token", at(1)))
        .await
        .unwrap()
        .unwrap();

    let refused = async |sessions: &str, items: &str| {
        let refused = store.delete_environment(&bed.ws, &id, at(2)).await;
        let Err(StoreError::Conflict { message }) = refused else {
            panic!("{refused:?}");
        };
        for part in [sessions, items, "archive", "force=true"] {
            assert!(message.contains(part), "{message}");
        }
    };
    refused("2 session(s)", "1 work item(s)").await;
    assert!(store.environment(&bed.ws, &id).await.is_ok());
    assert_eq!(
        store.sessions_to_stop(&bed.ws, Some(&id), true).await.unwrap(),
        [busy.clone(), idle.clone()]
    );
    assert_eq!(store.sessions_to_stop(&bed.ws, None, true).await.unwrap().len(), 2);

    // The append that ends a session stops its item.
    store.append(&bed.ws, ending(&busy, at(3))).await.unwrap();
    let stopped = store.work(&bed.ws, &id, &work).await.unwrap();
    assert_eq!((stopped.state, stopped.stopped_at), (WorkState::Stopped, Some(at(3))));
    refused("1 session(s)", "0 work item(s)").await;
    store.append(&bed.ws, ending(&idle, at(3))).await.unwrap();
    let token = async |seconds| store.token_grant(KeyHash::of("token"), at(seconds)).await.unwrap();
    assert!(token(4).await.is_some(), "its worker may still end cleanly");

    store.delete_environment(&bed.ws, &id, at(4)).await.unwrap();
    assert!(token(4).await.is_none());
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
    let again = store
        .enqueue_work(&bed.ws, &busy, outwork_wire::id::WorkId::fresh(), at(4))
        .await
        .unwrap();
    assert!(again.is_none(), "there is no queue any more");
    assert!(matches!(
        store.delete_environment(&bed.ws, &EnvironmentId::fresh(), at(2)).await,
        Err(StoreError::NotFound { .. })
    ));
}

fn ending(session: &SessionId, now: Time) -> Append {
    let mut append = append(session, vec![message("the last words", now, true)]);
    append.at = now;
    let mut end = projection(SessionStatus::Terminated, now);
    // Wrong of the caller: what is over needs nobody.
    end.needs_worker = true;
    append.projection = ProjectionChange::Set(Box::new(end));
    append.enqueue_work = Some(outwork_wire::id::WorkId::fresh());
    append
}
