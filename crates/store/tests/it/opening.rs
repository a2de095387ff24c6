//! Opening: locks, modes, schemas, damage.

use std::os::unix::fs::PermissionsExt;

use outwork_store::{Options, Store, StoreError};
use rusqlite::Connection;

use crate::support::{at, bed, first, spec};

fn refusal(options: Options) -> StoreError {
    match Store::open(options) {
        Ok(_) => panic!("the store was opened"),
        Err(e) => e,
    }
}

#[tokio::test]
async fn a_second_server_is_refused_with_the_pid_of_the_first() {
    let bed = bed();
    let error = refusal(Options::new(bed.dir.path()));
    assert!(matches!(&error, StoreError::Locked { pid: Some(pid), .. } if *pid == std::process::id()));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");

    bed.store.close().await;
    let again = Store::open(Options::new(bed.dir.path())).unwrap();
    assert_eq!(again.default_workspace(), &bed.ws);
    assert!(matches!(bed.store.list_workspaces().await, Err(StoreError::Closed)));
    assert!(matches!(
        bed.store.create_workspace("late", at(0)).await,
        Err(StoreError::Closed)
    ));
}

#[tokio::test]
async fn dropping_every_handle_gives_the_folder_free() {
    let bed = bed();
    let agent = bed
        .store
        .create_agent(&bed.ws, outwork_wire::id::AgentId::fresh(), spec("kept"), at(1))
        .await
        .unwrap();
    let clone = bed.store.clone();
    drop(bed.store);
    drop(clone);
    let store = Store::open(Options::new(bed.dir.path())).unwrap();
    assert_eq!(store.agent(&bed.ws, &agent.id).await.unwrap(), agent);
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("a/data");
    let store = Store::open(Options::new(&dir)).unwrap();
    store.list_workspaces().await.unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 4, "database, log, index of the log, lock: {files}");
}

#[test]
fn a_folder_of_other_files_that_is_open_to_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let error = refusal(Options::new(dir.path()));
    assert!(matches!(error, StoreError::Folder { .. }), "{error}");
    let mode = std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755, "a folder that was refused is left as it was");
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(Options::new(dir.path())).unwrap());
    let conn = Connection::open(dir.path().join("outwork.db")).unwrap();
    conn.pragma_update(None, "user_version", 9999).unwrap();
    drop(conn);
    let error = refusal(Options::new(dir.path()));
    assert!(matches!(error, StoreError::SchemaTooNew { found: 9999, .. }), "{error}");
    let conn = Connection::open(dir.path().join("outwork.db")).unwrap();
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
    assert_eq!(version, 9999, "a database that was refused is left as it was");
}

#[test]
fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join("outwork.db")).unwrap();
    conn.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(conn);
    let error = refusal(Options::new(dir.path()));
    assert!(error.to_string().contains("another program"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outwork.db");
    std::fs::write(
        &path,
        "this is not a database at all, whatever its name says\n".repeat(200),
    )
    .unwrap();
    let error = refusal(Options::new(dir.path()));
    assert!(
        matches!(&error, StoreError::Corrupt { path: p, .. } if *p == path),
        "{error:?}"
    );
    assert!(error.to_string().contains("restore"), "{error}");
}

#[tokio::test]
async fn a_damaged_page_is_found_at_open() {
    let bed = bed();
    for n in 0..200 {
        let id = outwork_wire::id::AgentId::fresh();
        bed.store
            .create_agent(&bed.ws, id, spec(&format!("agent {n}")), at(n))
            .await
            .unwrap();
    }
    bed.store.close().await;
    let path = bed.dir.path().join("outwork.db");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 20 * 4096, "{}", bytes.len());
    let middle = (bytes.len() / 4096 - 4) * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = refusal(Options::new(bed.dir.path()));
    assert!(
        matches!(&error, StoreError::Corrupt { path: p, .. } if *p == path),
        "{error:?}"
    );
}

#[tokio::test]
async fn workspaces_are_apart() {
    let bed = bed();
    let other = bed.store.create_workspace("other", at(5)).await.unwrap();
    assert_eq!(bed.store.workspace(&other.id).await.unwrap(), other);
    let all = bed.store.list_workspaces().await.unwrap();
    assert_eq!(all.len(), 2);
    let agent = bed
        .store
        .create_agent(&bed.ws, outwork_wire::id::AgentId::fresh(), spec("mine"), at(1))
        .await
        .unwrap();
    assert!(matches!(
        bed.store.agent(&other.id, &agent.id).await,
        Err(StoreError::NotFound { what: "agent", .. })
    ));
    let theirs = bed
        .store
        .list_agents(&other.id, Default::default(), first(10))
        .await
        .unwrap();
    assert!(theirs.rows.is_empty());
    bed.store.probe().await.unwrap();
    bed.store.check().await.unwrap();
}
