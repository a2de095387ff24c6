//! Vaults, their credentials and data keys.

use outwork_store::{
    CredentialSlot, CredentialUse, DataKeyRow, NewVault, NewVaultCredential, SealedSecret, StoreError,
    VaultCredentialRow,
};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, DataKeyId, VaultCredentialId, VaultId, WorkspaceId};
use serde_json::{Map, json};

use crate::support::{Bed, at, bed, first, from, new_session};

fn mcp(name: &str) -> CredentialSlot {
    CredentialSlot {
        used_for: CredentialUse::Mcp,
        name: name.into(),
    }
}

fn secret(field: &str, sealed: &[u8]) -> SealedSecret {
    SealedSecret {
        field: field.into(),
        data_key_id: "dkey_1".parse().unwrap(),
        sealed: sealed.to_vec(),
    }
}

impl Bed {
    async fn vault(&self, seconds: i64) -> VaultId {
        self.vault_in(&self.ws, seconds).await
    }

    async fn vault_in(&self, ws: &WorkspaceId, seconds: i64) -> VaultId {
        let new = NewVault {
            id: VaultId::fresh(),
            display_name: "Alice".into(),
            metadata: Map::new(),
        };
        self.store.create_vault(ws, new, at(seconds)).await.unwrap().id
    }

    async fn credential(&self, vault: &VaultId, slot: CredentialSlot) -> Result<VaultCredentialRow, StoreError> {
        self.credential_at(vault, slot, 1).await
    }

    async fn credential_at(
        &self,
        vault: &VaultId,
        slot: CredentialSlot,
        seconds: i64,
    ) -> Result<VaultCredentialRow, StoreError> {
        let new = NewVaultCredential {
            id: VaultCredentialId::fresh(),
            vault_id: vault.clone(),
            slot,
            display_name: Some("a name".into()),
            auth: json!({ "type": "static_bearer" }),
            metadata: Map::new(),
            secrets: vec![secret("token", b"sealed-1"), secret("other", b"sealed-2")],
            limit: 3,
        };
        self.store.create_vault_credential(&self.ws, new, at(seconds)).await
    }

    async fn secrets(&self, id: &VaultCredentialId) -> Vec<(String, Vec<u8>)> {
        let kept = self.store.vault_credential_secrets(&self.ws, id).await.unwrap();
        let mut secrets: Vec<_> = kept.secrets.into_iter().map(|s| (s.field, s.sealed)).collect();
        secrets.sort();
        secrets
    }
}

#[tokio::test]
async fn a_vault_is_changed_archived_listed_and_deleted() {
    let bed = bed();
    let store = &bed.store;
    let id = bed.vault(0).await;
    let row = store
        .update_vault(&bed.ws, &id, at(5), |row| {
            row.display_name = "Bob".into();
            row.metadata.insert("a".into(), "1".into());
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((row.display_name.as_str(), row.updated_at), ("Bob", at(5)));
    let same = store.update_vault(&bed.ws, &id, at(6), |_| Ok(())).await.unwrap();
    assert_eq!(same, row);
    let credential = bed.credential(&id, mcp("https://a")).await.unwrap();

    let archived = store.archive_vault(&bed.ws, &id, at(7)).await.unwrap();
    assert_eq!(archived.archived_at, Some(at(7)));
    assert_eq!(store.archive_vault(&bed.ws, &id, at(8)).await.unwrap(), archived);
    let gone_with_it = store.vault_credential(&bed.ws, &id, &credential.id).await.unwrap();
    assert_eq!(gone_with_it.archived_at, Some(at(7)));
    assert!(bed.secrets(&credential.id).await.is_empty());
    let change = store.update_vault(&bed.ws, &id, at(9), |_| Ok(())).await;
    assert!(matches!(change, Err(StoreError::Conflict { .. })));
    let full = bed.credential(&id, mcp("https://b")).await;
    assert!(matches!(full, Err(StoreError::Conflict { .. })));
    assert!(
        store
            .list_vaults(&bed.ws, false, first(5))
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert_eq!(
        store.list_vaults(&bed.ws, true, first(5)).await.unwrap().rows,
        [archived]
    );

    store.delete_vault(&bed.ws, &id).await.unwrap();
    for result in [
        store.vault(&bed.ws, &id).await.map(drop),
        store.delete_vault(&bed.ws, &id).await,
        store.vault_credential(&bed.ws, &id, &credential.id).await.map(drop),
        store.vault_credential_secrets(&bed.ws, &credential.id).await.map(drop),
    ] {
        assert!(matches!(result, Err(StoreError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_slot_is_taken_once_and_free_again_after_archiving() {
    let bed = bed();
    let vault = bed.vault(0).await;
    let one = bed.credential(&vault, mcp("https://a")).await.unwrap();
    let again = bed.credential(&vault, mcp("https://a")).await;
    let Err(StoreError::Conflict { message }) = again else {
        panic!("{again:?}");
    };
    assert!(
        message.contains(one.id.as_str()) && message.contains("mcp_server_url"),
        "{message}"
    );
    // A variable of the same name is something else, and so is another vault.
    let variable = CredentialSlot {
        used_for: CredentialUse::Variable,
        name: "https://a".into(),
    };
    bed.credential(&vault, variable).await.unwrap();
    let second = bed.vault(1).await;
    bed.credential(&second, mcp("https://a")).await.unwrap();

    let third = bed.credential(&vault, mcp("https://c")).await.unwrap();
    let full = bed.credential(&vault, mcp("https://d")).await;
    let Err(StoreError::Rejected { message }) = full else {
        panic!("{full:?}");
    };
    assert!(message.contains("3 credentials"), "{message}");
    let archived = bed
        .store
        .archive_vault_credential(&bed.ws, &vault, &one.id, at(3))
        .await
        .unwrap();
    assert_eq!(archived.archived_at, Some(at(3)));
    assert!(bed.secrets(&one.id).await.is_empty());
    let successor = bed.credential(&vault, mcp("https://a")).await.unwrap();
    bed.store
        .delete_vault_credential(&bed.ws, &vault, &third.id)
        .await
        .unwrap();
    bed.credential(&vault, mcp("https://c")).await.unwrap();

    let found = async |vaults: &[VaultId], slot: CredentialSlot| {
        let found = bed.store.find_vault_credential(&bed.ws, vaults, &slot).await.unwrap();
        found.map(|row| row.id)
    };
    let both = [vault.clone(), second.clone()];
    assert_eq!(found(&both, mcp("https://a")).await, Some(successor.id));
    assert_ne!(found(&[second], mcp("https://a")).await, None);
    assert_eq!(found(&both, mcp("https://nowhere")).await, None);
}

#[tokio::test]
async fn secrets_are_replaced_one_by_one_and_a_refresh_knows_when_it_is_late() {
    let bed = bed();
    let vault = bed.vault(0).await;
    let made = bed.credential(&vault, mcp("https://a")).await.unwrap();
    assert_eq!(made.generation, 1);
    let renamed = bed
        .store
        .update_vault_credential(&bed.ws, &vault, &made.id, Vec::new(), at(2), |row| {
            row.display_name = None;
            row.slot = mcp("https://elsewhere");
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((renamed.generation, renamed.display_name), (1, None));
    assert_eq!(renamed.slot, mcp("https://a"), "what it is for never changes");
    let replaced = bed
        .store
        .update_vault_credential(&bed.ws, &vault, &made.id, vec![secret("token", b"new")], at(3), |_| {
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((replaced.generation, replaced.updated_at), (2, at(3)));
    let expected = [
        ("other".to_owned(), b"sealed-2".to_vec()),
        ("token".to_owned(), b"new".to_vec()),
    ];
    assert_eq!(bed.secrets(&made.id).await, expected);

    // A refresh that read generation 1 keeps nothing; one that read the present one keeps all of it.
    let keep = async |generation| {
        bed.store
            .keep_refreshed_secrets(
                &bed.ws,
                &made.id,
                generation,
                vec![secret("token", b"refreshed")],
                at(4),
                |auth| auth["expires_at"] = json!("later"),
            )
            .await
            .unwrap()
    };
    assert_eq!(keep(1).await, None);
    assert_eq!(bed.secrets(&made.id).await, expected);
    let kept = keep(2).await.unwrap();
    assert_eq!((kept.generation, kept.auth["expires_at"].as_str()), (3, Some("later")));
    assert_eq!(bed.secrets(&made.id).await[1].1, b"refreshed");
    bed.store
        .archive_vault_credential(&bed.ws, &vault, &made.id, at(5))
        .await
        .unwrap();
    assert_eq!(keep(4).await, None, "archived");
    assert!(bed.secrets(&made.id).await.is_empty());
    bed.store
        .delete_vault_credential(&bed.ws, &vault, &made.id)
        .await
        .unwrap();
    assert_eq!(keep(4).await, None, "deleted");
    let change = bed
        .store
        .update_vault_credential(&bed.ws, &vault, &made.id, Vec::new(), at(6), |_| Ok(()))
        .await;
    assert!(matches!(change, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn nothing_of_another_workspace_or_another_vault_is_found() {
    let bed = bed();
    let (vault, beside) = (bed.vault(0).await, bed.vault(1).await);
    let credential = bed.credential(&vault, mcp("https://a")).await.unwrap();
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    let theirs = bed.vault_in(&other, 2).await;
    for (workspace, vault) in [
        (&other, &vault),
        (&other, &theirs),
        (&bed.ws, &beside),
        (&bed.ws, &theirs),
    ] {
        let store = &bed.store;
        for result in [
            store.vault_credential(workspace, vault, &credential.id).await.map(drop),
            store
                .archive_vault_credential(workspace, vault, &credential.id, at(3))
                .await
                .map(drop),
            store.delete_vault_credential(workspace, vault, &credential.id).await,
            store
                .update_vault_credential(workspace, vault, &credential.id, Vec::new(), at(3), |_| Ok(()))
                .await
                .map(drop),
        ] {
            assert!(matches!(result, Err(StoreError::NotFound { .. })), "{result:?}");
        }
    }
    assert!(
        bed.store
            .vault_credential_secrets(&other, &credential.id)
            .await
            .is_err()
    );
    let found = bed
        .store
        .find_vault_credential(&other, std::slice::from_ref(&vault), &mcp("https://a"))
        .await
        .unwrap();
    assert!(found.is_none());
    let kept = bed
        .store
        .keep_refreshed_secrets(&other, &credential.id, 1, Vec::new(), at(3), |_| ())
        .await
        .unwrap();
    assert!(kept.is_none());
    assert!(bed.store.list_vaults(&other, true, first(9)).await.unwrap().rows.len() == 1);
    let listed = bed.store.list_vault_credentials(&other, &vault, true, first(9)).await;
    assert!(matches!(listed, Err(StoreError::NotFound { .. })));
    assert_eq!(
        bed.store
            .vault_credential(&bed.ws, &vault, &credential.id)
            .await
            .unwrap(),
        credential
    );
}

#[tokio::test]
async fn credentials_come_in_pages() {
    let bed = bed();
    let vault = bed.vault(0).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        let slot = mcp(&format!("https://{number}"));
        ids.push(bed.credential_at(&vault, slot, number).await.unwrap().id);
    }
    ids.reverse();
    let page = bed
        .store
        .list_vault_credentials(&bed.ws, &vault, false, first(2))
        .await
        .unwrap();
    let mut seen: Vec<_> = page.rows.iter().map(|row| row.id.clone()).collect();
    let next = page.next.unwrap();
    let rest = bed
        .store
        .list_vault_credentials(&bed.ws, &vault, false, from(2, &next))
        .await
        .unwrap();
    seen.extend(rest.rows.iter().map(|row| row.id.clone()));
    assert_eq!((seen, rest.next), (ids.clone(), None));
    let beside = bed.vault(1).await;
    let stray = bed
        .store
        .list_vault_credentials(&bed.ws, &beside, false, from(2, &next))
        .await;
    assert!(matches!(stray, Err(StoreError::InvalidCursor)));
    bed.store
        .archive_vault_credential(&bed.ws, &vault, &ids[0], at(9))
        .await
        .unwrap();
    let count = async |archived| {
        let page = bed
            .store
            .list_vault_credentials(&bed.ws, &vault, archived, first(9))
            .await;
        page.unwrap().rows.len()
    };
    assert_eq!((count(false).await, count(true).await), (2, 3));
}

#[tokio::test]
async fn a_session_keeps_its_vaults_and_is_made_only_with_those_in_force() {
    let bed = bed();
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let (first_vault, second) = (bed.vault(0).await, bed.vault(1).await);
    let with = |vault_ids: Vec<VaultId>| {
        let mut new = new_session(&environment, &AgentId::fresh(), at(2), Vec::new(), None);
        new.vault_ids = vault_ids;
        bed.store.create_session(&bed.ws, new)
    };
    let order = vec![second.clone(), first_vault.clone()];
    let row = with(order.clone()).await.unwrap();
    assert_eq!(row.vault_ids, order);
    bed.store.archive_vault(&bed.ws, &second, at(3)).await.unwrap();
    assert!(matches!(
        with(vec![second.clone()]).await,
        Err(StoreError::Conflict { .. })
    ));
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    for stranger in [VaultId::fresh(), bed.vault_in(&other, 4).await] {
        let refused = with(vec![first_vault.clone(), stranger]).await;
        assert!(matches!(refused, Err(StoreError::NotFound { what: "vault", .. })));
    }
    // What a session began with stays, also when a vault goes.
    bed.store.delete_vault(&bed.ws, &second).await.unwrap();
    assert_eq!(bed.store.session(&bed.ws, &row.id).await.unwrap().vault_ids, order);
}

#[tokio::test]
async fn a_workspace_has_one_data_key_and_all_are_resealed_together() {
    let bed = bed();
    let row = |workspace: &WorkspaceId, sealed: &[u8]| DataKeyRow {
        id: DataKeyId::fresh(),
        workspace_id: workspace.clone(),
        master_key_id: "mkey_1".into(),
        sealed: sealed.to_vec(),
        created_at: at(0),
    };
    assert_eq!(bed.store.data_key(&bed.ws).await.unwrap(), None);
    let one = bed.store.keep_data_key(row(&bed.ws, b"1")).await.unwrap();
    assert_eq!(bed.store.keep_data_key(row(&bed.ws, b"2")).await.unwrap(), one);
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    let two = bed.store.keep_data_key(row(&other, b"3")).await.unwrap();
    assert_eq!(bed.store.data_keys().await.unwrap().len(), 2);

    let resealed = |row: &DataKeyRow| DataKeyRow {
        master_key_id: "mkey_2".into(),
        sealed: b"new".to_vec(),
        ..row.clone()
    };
    let mut stray = resealed(&two);
    stray.id = DataKeyId::fresh();
    assert!(bed.store.reseal_data_keys(vec![resealed(&one), stray]).await.is_err());
    assert_eq!(bed.store.data_key(&bed.ws).await.unwrap(), Some(one.clone()));
    bed.store
        .reseal_data_keys(vec![resealed(&one), resealed(&two)])
        .await
        .unwrap();
    for row in bed.store.data_keys().await.unwrap() {
        assert_eq!(
            (row.master_key_id.as_str(), row.sealed.as_slice()),
            ("mkey_2", &b"new"[..])
        );
    }
}
