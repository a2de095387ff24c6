//! Files, their blobs, and what belongs to sessions: resources, outputs, long texts.

use futures_util::TryStreamExt;
use outwork_store::{
    BlobError, BlobPlace, Blobs, CredentialSlot, CredentialUse, FileRow, NewFile, NewSessionResource, NewVault,
    NewVaultCredential, OutputLimits, OutputState, RefusedOutput, ResourceSpec, SealedSecret, StoreError,
};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{AgentId, EventId, FileId, ResourceId, SessionId, VaultCredentialId, VaultId, WorkspaceId};
use serde_json::{Map, json};

use crate::support::{Bed, at, bed, first, from, new_session};

const LIMITS: OutputLimits = OutputLimits { outputs: 3, bytes: 100 };

impl Bed {
    fn blobs(&self) -> Blobs {
        Blobs::open(&BlobPlace::Folder(self.dir.path().join("blobs"))).unwrap()
    }

    fn new_file(&self, seconds: Option<i64>) -> NewFile {
        let id = FileId::fresh();
        NewFile {
            blob: format!("xx/{id}"),
            id,
            filename: "a.txt".into(),
            mime_type: "text/plain".into(),
            size_bytes: 5,
            sha256: "00".repeat(32),
            downloadable: false,
            scope: None,
            expires_at: seconds.map(at),
        }
    }

    async fn file(&self, ws: &WorkspaceId, seconds: Option<i64>) -> FileRow {
        let new = self.new_file(seconds);
        self.store.note_loose_blob(&new.blob, at(0)).await.unwrap();
        self.store.create_file(ws, new, at(0)).await.unwrap()
    }
}

fn resource(path: &str, file: &FileId) -> NewSessionResource {
    NewSessionResource {
        id: ResourceId::fresh(),
        mount_path: path.into(),
        spec: ResourceSpec::File { file_id: file.clone() },
        secrets: Vec::new(),
    }
}

fn repository(path: &str, sealed: Option<&[u8]>) -> NewSessionResource {
    NewSessionResource {
        id: ResourceId::fresh(),
        mount_path: path.into(),
        spec: ResourceSpec::GithubRepository {
            url: "https://github.com/a/b".into(),
            checkout: None,
            authorized: sealed.is_some(),
        },
        secrets: sealed.into_iter().map(secret).collect(),
    }
}

fn secret(sealed: &[u8]) -> SealedSecret {
    SealedSecret {
        field: "authorization_token".into(),
        data_key_id: "dkey_1".parse().unwrap(),
        sealed: sealed.to_vec(),
    }
}

#[tokio::test]
async fn a_file_is_seen_in_its_workspace_only_and_its_blob_is_loose_before_and_after() {
    let bed = bed();
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    let new = bed.new_file(None);
    // Without a note, whoever removes loose blobs may have been there.
    let refused = bed.store.create_file(&bed.ws, new.clone(), at(0)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    bed.store.note_loose_blob(&new.blob, at(0)).await.unwrap();
    assert_eq!(
        bed.store.loose_blobs(10).await.unwrap(),
        std::slice::from_ref(&new.blob)
    );
    let file = bed.store.create_file(&bed.ws, new, at(1)).await.unwrap();
    assert!(bed.store.loose_blobs(10).await.unwrap().is_empty());
    assert_eq!(bed.store.file(&bed.ws, &file.id).await.unwrap(), file);
    assert!(bed.store.file(&other, &file.id).await.is_err());
    assert!(bed.store.delete_file(&other, &file.id, at(2)).await.is_err());
    assert!(
        bed.store
            .list_files(&other, None, first(10))
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    let ids = [file.id.clone(), FileId::fresh()];
    assert_eq!(bed.store.files_of_ids(&bed.ws, None, &ids).await.unwrap().len(), 1);
    assert!(bed.store.files_of_ids(&other, None, &ids).await.unwrap().is_empty());
    let deleted = bed.store.delete_file(&bed.ws, &file.id, at(3)).await.unwrap();
    let blob = deleted.blob.unwrap();
    assert_eq!(bed.store.loose_blobs(10).await.unwrap(), std::slice::from_ref(&blob));
    let asked = vec![blob.clone(), "xx/none".to_owned()];
    assert_eq!(bed.store.still_loose(asked).await.unwrap(), std::slice::from_ref(&blob));
    bed.store.forget_loose_blobs(vec![blob]).await.unwrap();
    assert!(bed.store.loose_blobs(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn files_whose_time_is_over_keep_their_row_and_lose_their_blob() {
    let bed = bed();
    let (soon, late, never) = (
        bed.file(&bed.ws, Some(10)).await,
        bed.file(&bed.ws, Some(20)).await,
        bed.file(&bed.ws, None).await,
    );
    assert!(soon.has_bytes(at(9)) && !soon.has_bytes(at(10)) && never.has_bytes(at(1_000_000)));
    assert_eq!(bed.store.expire_files(at(10), 10).await.unwrap(), 1);
    assert_eq!(bed.store.expire_files(at(10), 10).await.unwrap(), 0);
    let row = bed.store.file(&bed.ws, &soon.id).await.unwrap();
    assert_eq!((row.blob, row.size_bytes), (None, 5));
    assert_eq!(bed.store.loose_blobs(10).await.unwrap(), [soon.blob.unwrap()]);
    assert!(bed.store.file(&bed.ws, &late.id).await.unwrap().blob.is_some());
    assert_eq!(bed.store.expire_files(at(1_000_000), 10).await.unwrap(), 1);
}

#[tokio::test]
async fn blobs_appear_whole_or_not_at_all() {
    let bed = bed();
    let blobs = bed.blobs();
    for size in [0usize, 1, 1 << 20, (1 << 20) + 1, 3_500_000] {
        let key = format!("ab/{size}");
        let content: Vec<u8> = (0..size).map(|n| (n % 249) as u8).collect();
        let mut writer = blobs.writer(&key);
        for piece in content.chunks(100_000) {
            writer.push(piece).await.unwrap();
            assert!(matches!(blobs.read(&key).await, Err(BlobError::Missing { .. })));
        }
        let written = writer.finish().await.unwrap();
        assert_eq!((written.size, written.sha256.len()), (size as u64, 64));
        assert!(blobs.is_busy(&key));
        drop(written);
        assert!(!blobs.is_busy(&key));
        let reader = blobs.read(&key).await.unwrap();
        assert_eq!(reader.size, size as u64);
        let pieces: Vec<_> = reader.stream.try_collect().await.unwrap();
        assert!(pieces.concat() == content, "{size}");
        blobs.remove(&key).await.unwrap();
        blobs.remove(&key).await.unwrap();
        assert!(matches!(blobs.read(&key).await, Err(BlobError::Missing { .. })));
    }
    let empty = blobs.writer("ab/empty").finish().await.unwrap();
    assert_eq!(
        empty.sha256,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_nothing_and_a_crash_what_its_key_removes() {
    let bed = bed();
    let blobs = bed.blobs();
    let folder = bed.dir.path().join("blobs/ab");
    let there = || std::fs::read_dir(&folder).map(Iterator::count).unwrap_or(0);
    let mut writer = blobs.writer("ab/dropped");
    writer.push(&vec![0; 2 << 20]).await.unwrap();
    assert_eq!(there(), 1);
    drop(writer);
    blobs.close().await;
    assert_eq!(there(), 0);
    let mut writer = blobs.writer("ab/crashed");
    writer.push(&vec![0; 2 << 20]).await.unwrap();
    std::mem::forget(writer);
    assert_eq!(there(), 1);
    bed.blobs().remove("ab/crashed").await.unwrap();
    assert_eq!(there(), 0);
}

#[test]
fn places_that_there_are_not_are_refused() {
    for url in [
        "gs://bucket",
        "s3://",
        "s3://key:secret@bucket",
        "s3://bucket?x=1",
        "http://a",
        "/folder",
    ] {
        let error = Blobs::open(&BlobPlace::Url(url.into())).unwrap_err();
        assert!(matches!(error, BlobError::Place { .. }), "{url}");
    }
}

#[tokio::test]
async fn resources_of_a_session_are_in_nobodys_way() {
    let bed = bed();
    let (file, other_file) = (bed.file(&bed.ws, None).await.id, bed.file(&bed.ws, Some(5)).await.id);
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let mut new = new_session(&environment, &AgentId::fresh(), at(1), Vec::new(), None);
    new.resources = vec![resource("/a/b", &file), repository("/srv/code", Some(b"sealed"))];
    let mut twice = new.clone();
    twice.resources.push(resource("/a/b/c", &file));
    let refused = bed.store.create_session(&bed.ws, twice.clone()).await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })));
    twice.resources[2] = resource("/c", &FileId::fresh());
    let refused = bed.store.create_session(&bed.ws, twice).await;
    assert!(matches!(refused, Err(StoreError::NotFound { what: "file", .. })));
    let session = bed.store.create_session(&bed.ws, new).await.unwrap();
    let paths: Vec<&str> = session.resources.iter().map(|r| r.mount_path.as_str()).collect();
    assert_eq!(paths, ["/a/b", "/srv/code"]);
    assert_eq!(session.resources[0].created_at(), at(1));

    let add = async |new, seconds| {
        bed.store
            .add_session_resource(&bed.ws, &session.id, new, at(seconds))
            .await
    };
    for bad in ["/a", "/a/b", "/a/b/c", "/srv/code/x"] {
        assert!(
            matches!(add(resource(bad, &file), 2).await, Err(StoreError::Rejected { .. })),
            "{bad}"
        );
    }
    // Its bytes are gone by then.
    assert!(matches!(
        add(resource("/late", &other_file), 6).await,
        Err(StoreError::Rejected { .. })
    ));
    let added = add(resource("/a/bc", &file), 2).await.unwrap();
    let page = bed
        .store
        .list_session_resources(&bed.ws, &session.id, first(2))
        .await
        .unwrap();
    assert_eq!(page.rows.len(), 2);
    let rest = from(2, &page.next.unwrap());
    let rest = bed
        .store
        .list_session_resources(&bed.ws, &session.id, rest)
        .await
        .unwrap();
    assert_eq!((rest.rows, rest.next), (vec![added.clone()], None));

    let held = bed.store.repository_secrets(&bed.ws, &session.id).await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].secrets, [secret(b"sealed")]);
    let id = &held[0].row.id;
    let replaced = bed
        .store
        .replace_resource_secrets(&bed.ws, &session.id, id, vec![secret(b"again")], at(9))
        .await
        .unwrap();
    assert_eq!(replaced.updated_at(), at(9));
    let held = bed.store.repository_secrets(&bed.ws, &session.id).await.unwrap();
    assert_eq!(held[0].secrets, [secret(b"again")]);
    let of_file = bed
        .store
        .replace_resource_secrets(&bed.ws, &session.id, &added.id, vec![secret(b"x")], at(9))
        .await;
    assert!(matches!(of_file, Err(StoreError::Rejected { .. })));

    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    assert!(
        bed.store
            .session_resource(&other, &session.id, &added.id)
            .await
            .is_err()
    );
    assert!(
        bed.store
            .repository_secrets(&other, &session.id)
            .await
            .unwrap()
            .is_empty()
    );
    bed.store
        .delete_session_resource(&bed.ws, &session.id, &added.id)
        .await
        .unwrap();
    assert!(
        bed.store
            .delete_session_resource(&bed.ws, &session.id, &added.id)
            .await
            .is_err()
    );
    bed.store.delete_session(&bed.ws, &session.id).await.unwrap();
    assert!(
        bed.store
            .repository_secrets(&bed.ws, &session.id)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(bed.store.file(&bed.ws, &file).await.is_ok());
}

#[tokio::test]
async fn a_session_has_a_limited_number_of_each_kind() {
    let bed = bed();
    let file = bed.file(&bed.ws, None).await.id;
    let session = bed.session().await.id;
    for number in 0..20 {
        let new = repository(&format!("/r/{number}"), None);
        bed.store
            .add_session_resource(&bed.ws, &session, new, at(1))
            .await
            .unwrap();
    }
    let one_more = repository("/r/more", None);
    let refused = bed.store.add_session_resource(&bed.ws, &session, one_more, at(1)).await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })));
    let other_kind = resource("/f", &file);
    bed.store
        .add_session_resource(&bed.ws, &session, other_kind, at(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_same_output_is_one_and_the_limits_hold() {
    let bed = bed();
    let session = bed.session().await.id;
    let add = async |path: &str, hash: &str, size: u64| {
        let mut new = bed.new_file(None);
        new.scope = Some(session.clone());
        new.sha256 = hash.repeat(32);
        new.size_bytes = size;
        bed.store.note_loose_blob(&new.blob, at(1)).await.unwrap();
        bed.store
            .create_output(&bed.ws, &session, path, new, LIMITS, at(1))
            .await
    };
    let (one, file) = add("a/b", "aa", 60).await.unwrap();
    let file = file.unwrap();
    assert_eq!(file.scope.as_ref(), Some(&session));
    let (again, none) = add("a/b", "aa", 60).await.unwrap();
    assert_eq!((again, none), (one.clone(), None));
    assert_eq!(
        bed.store.loose_blobs(10).await.unwrap().len(),
        1,
        "the bytes that came again are loose"
    );
    assert!(matches!(add("c", "bb", 41).await, Err(StoreError::Rejected { .. })));
    add("c", "bb", 40).await.unwrap();
    let refused = RefusedOutput {
        path: "d".into(),
        reason: "it holds a key".into(),
        size_bytes: None,
        sha256: None,
    };
    let note = async |refused: RefusedOutput| {
        bed.store
            .note_refused_output(&bed.ws, &session, refused, LIMITS, at(2))
            .await
    };
    let noted = note(refused.clone()).await.unwrap();
    assert_eq!(note(refused.clone()).await.unwrap(), noted);
    let other = RefusedOutput {
        path: "e".into(),
        ..refused
    };
    assert!(matches!(note(other).await, Err(StoreError::Rejected { .. })));
    bed.store.delete_file(&bed.ws, &file.id, at(3)).await.unwrap();
    let page = bed.store.list_outputs(&bed.ws, &session, first(10)).await.unwrap();
    assert_eq!(
        page.rows.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(),
        ["d", "c", "a/b"]
    );
    assert!(matches!(&page.rows[2].state, OutputState::Stored { deleted: true, .. }));
    let scoped = bed
        .store
        .list_files(&bed.ws, Some(session.as_str()), first(10))
        .await
        .unwrap();
    assert_eq!(scoped.rows.len(), 1);
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    assert!(bed.store.list_outputs(&other, &session, first(10)).await.is_err());
}

#[tokio::test]
async fn long_texts_go_with_their_session() {
    let bed = bed();
    let session = bed.session().await.id;
    let (one, two) = (EventId::fresh(), EventId::fresh());
    let keep = async |event: &EventId, text: &str| {
        bed.store
            .keep_session_text(&bed.ws, &session, event, text.into(), at(1))
            .await
    };
    keep(&one, "first").await.unwrap();
    keep(&one, "\u{e4}gain").await.unwrap();
    keep(&two, "second").await.unwrap();
    let known = bed.store.session_texts(&bed.ws, &session).await.unwrap();
    assert_eq!(known.len(), 2);
    let first = known.iter().find(|row| row.event_id == one).unwrap();
    assert_eq!((first.characters, first.size_bytes), (5, 6));
    assert_eq!(
        bed.store.session_text(&bed.ws, &session, &one).await.unwrap(),
        "\u{e4}gain"
    );
    let other = bed.store.create_workspace("other", at(0)).await.unwrap().id;
    assert!(bed.store.session_text(&other, &session, &one).await.is_err());
    let gone = SessionId::fresh();
    let refused = bed
        .store
        .keep_session_text(&bed.ws, &gone, &one, "x".into(), at(1))
        .await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    bed.store.delete_session(&bed.ws, &session).await.unwrap();
    assert!(bed.store.session_text(&bed.ws, &session, &one).await.is_err());
}

#[tokio::test]
async fn of_several_credentials_for_a_variable_the_first_vault_counts() {
    let bed = bed();
    let mut vaults = Vec::new();
    for _ in 0..2 {
        let new = NewVault {
            id: VaultId::fresh(),
            display_name: "Alice".into(),
            metadata: Map::new(),
        };
        vaults.push(bed.store.create_vault(&bed.ws, new, at(0)).await.unwrap().id);
    }
    let add = async |vault: &VaultId, used_for, name: &str, sealed: &[u8]| {
        let new = NewVaultCredential {
            id: VaultCredentialId::fresh(),
            vault_id: vault.clone(),
            slot: CredentialSlot {
                used_for,
                name: name.into(),
            },
            display_name: None,
            auth: json!({}),
            metadata: Map::new(),
            secrets: vec![secret(sealed)],
            limit: 20,
        };
        bed.store.create_vault_credential(&bed.ws, new, at(1)).await.unwrap().id
    };
    add(&vaults[0], CredentialUse::Variable, "KEY", b"first").await;
    add(&vaults[0], CredentialUse::Mcp, "https://a", b"never").await;
    add(&vaults[1], CredentialUse::Variable, "KEY", b"second").await;
    let archived = add(&vaults[1], CredentialUse::Variable, "OLD", b"old").await;
    bed.store
        .archive_vault_credential(&bed.ws, &vaults[1], &archived, at(2))
        .await
        .unwrap();
    let sealed = async |vaults: &[VaultId]| -> Vec<Vec<u8>> {
        let held = bed.store.variable_secrets(&bed.ws, vaults).await.unwrap();
        held.into_iter().map(|held| held.secrets[0].sealed.clone()).collect()
    };
    assert_eq!(sealed(&vaults).await, [b"first".to_vec()]);
    vaults.reverse();
    assert_eq!(sealed(&vaults).await, [b"second".to_vec()]);
    assert!(sealed(&[VaultId::fresh()]).await.is_empty());
}
