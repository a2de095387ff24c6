//! Keys and credentials.

use outwork_store::{Credential, KeyHash, NewApiKey, NewEnvironmentKey, StoreError};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{ApiKeyId, EnvironmentKeyId};

use crate::support::{at, bed, first, poll};

fn api(secret: &str) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId::fresh(),
        name: "laptop".into(),
        role: "admin".into(),
        hash: KeyHash::of(secret),
        expires_at: Some(at(1000)),
    }
}

#[tokio::test]
async fn a_secret_finds_its_kind() {
    let bed = bed();
    let store = &bed.store;
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let api = store.create_api_key(&bed.ws, api("one"), at(1)).await.unwrap();
    let new = NewEnvironmentKey {
        id: EnvironmentKeyId::fresh(),
        name: "host".into(),
        hash: KeyHash::of("two"),
        expires_at: None,
    };
    let key = store
        .create_environment_key(&bed.ws, &environment, new, at(2))
        .await
        .unwrap();
    let worker = store
        .set_worker_key("local", KeyHash::of("three"), at(3))
        .await
        .unwrap();
    let (session, work) = bed.session_with_work(&environment, at(4)).await;
    store
        .poll_work(&bed.ws, &environment, poll("w", "four", at(5)))
        .await
        .unwrap()
        .unwrap();

    let find = async |secret: &str| store.find_credential(KeyHash::of(secret), at(6)).await.unwrap();
    assert_eq!(find("one").await, Some(Credential::Api(api)));
    assert_eq!(find("two").await, Some(Credential::Environment(key)));
    assert_eq!(find("three").await, Some(Credential::Worker(worker)));
    match find("four").await {
        Some(Credential::Session(grant)) => assert_eq!((grant.session_id, grant.work_id), (session, work)),
        other => panic!("{other:?}"),
    }
    assert_eq!(find("five").await, None);

    store.set_worker_key("local", KeyHash::of("six"), at(7)).await.unwrap();
    assert_eq!(find("three").await, None, "an earlier worker key of the name ends");
    assert!(find("six").await.is_some());
}

#[tokio::test]
async fn revoked_keys_say_so() {
    let bed = bed();
    let store = &bed.store;
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let made = store.create_api_key(&bed.ws, api("one"), at(1)).await.unwrap();
    let revoked = store.revoke_api_key(&bed.ws, &made.id, at(2)).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(at(2)));
    assert_eq!(store.revoke_api_key(&bed.ws, &made.id, at(3)).await.unwrap(), revoked);
    match store.find_credential(KeyHash::of("one"), at(4)).await.unwrap() {
        Some(Credential::Api(row)) => assert_eq!(row.revoked_at, Some(at(2))),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.list_api_keys(&bed.ws, first(5)).await.unwrap().rows, [revoked]);

    let other = store.create_workspace("other", at(0)).await.unwrap().id;
    assert!(matches!(
        store.revoke_api_key(&other, &made.id, at(5)).await,
        Err(StoreError::NotFound { .. })
    ));

    let new = NewEnvironmentKey {
        id: EnvironmentKeyId::fresh(),
        name: "host".into(),
        hash: KeyHash::of("two"),
        expires_at: Some(at(99)),
    };
    let key = store
        .create_environment_key(&bed.ws, &environment, new, at(2))
        .await
        .unwrap();
    let second = bed.environment(EnvironmentKind::SelfHosted).await;
    assert!(matches!(
        store.revoke_environment_key(&bed.ws, &second, &key.id, at(5)).await,
        Err(StoreError::NotFound { .. })
    ));
    let (key, ended) = store
        .revoke_environment_key(&bed.ws, &environment, &key.id, at(5))
        .await
        .unwrap();
    assert!(ended.is_empty());
    assert_eq!((key.revoked_at, key.expires_at), (Some(at(5)), Some(at(99))));
    let listed = store
        .list_environment_keys(&bed.ws, &environment, first(5))
        .await
        .unwrap();
    assert_eq!(listed.rows, [key]);
}

#[tokio::test]
async fn uses_are_written_together() {
    let bed = bed();
    let made = bed.store.create_api_key(&bed.ws, api("one"), at(1)).await.unwrap();
    bed.store.note_api_key_use(&made.id, at(10));
    bed.store.note_api_key_use(&made.id, at(11));
    let rows = bed.store.list_api_keys(&bed.ws, first(1)).await.unwrap().rows;
    assert_eq!(rows[0].last_used_at, None);
    bed.store.flush_key_uses().await.unwrap();
    let rows = bed.store.list_api_keys(&bed.ws, first(1)).await.unwrap().rows;
    assert_eq!(rows[0].last_used_at, Some(at(11)));
}

#[tokio::test]
async fn one_secret_cannot_be_two_keys() {
    let bed = bed();
    bed.store.create_api_key(&bed.ws, api("one"), at(1)).await.unwrap();
    assert!(bed.store.create_api_key(&bed.ws, api("one"), at(1)).await.is_err());
}
