//! What was answered is on disk: after a kill, and around a disk that is full.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use outwork_store::{Options, PageRequest, SessionFilter, Store, StoreError};
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::SessionId;

use crate::support::{Bed, append, at, bed, message};

const CHILD_DIR: &str = "OUTWORK_STORE_TEST_CHILD_DIR";
const SESSIONS: usize = 8;

/// Not a test of its own: the process that [`a_killed_writer_loses_nothing_it_acknowledged`] kills. Appends for
/// ever and writes a line for every answer.
#[test]
#[ignore = "the child of another test"]
fn child_that_appends_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    crate::support::block_on(async {
        let store = Store::open(Options::new(dir)).unwrap();
        let ws = store.default_workspace().clone();
        let page = PageRequest {
            limit: SESSIONS,
            cursor: None,
        };
        let sessions = store.list_sessions(&ws, SessionFilter::default(), page).await.unwrap();
        let tasks: Vec<_> = sessions
            .rows
            .into_iter()
            .map(|session| {
                let (store, ws) = (store.clone(), ws.clone());
                tokio::spawn(async move {
                    // Bounded, should the parent die without killing this.
                    for _ in 0..200_000 {
                        let entry = message("x", at(1), true);
                        let event = entry.event.id.clone();
                        let done = store.append(&ws, append(&session.id, vec![entry])).await.unwrap();
                        let line = format!("ACK {} {} {event}\n", session.id, done.last_seq);
                        if std::io::stderr().lock().write_all(line.as_bytes()).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    crate::support::block_on(async {
        let store = Store::open(Options::new(dir.path())).unwrap();
        let bed = Bed {
            ws: store.default_workspace().clone(),
            store,
            dir: tempfile::tempdir().unwrap(),
        };
        let environment = bed.environment(EnvironmentKind::SelfHosted).await;
        for n in 0..SESSIONS {
            bed.session_in(&environment, at(n as i64), Vec::new(), None).await;
        }
        bed.store.close().await;
    });
    let mut acknowledged: HashMap<SessionId, HashMap<u64, String>> = HashMap::new();
    for round in 1..=5 {
        kill_after(dir.path(), 150 * round, &mut acknowledged);
        check(dir.path(), &acknowledged);
    }
}

/// Runs the child, kills it once it has answered `count` appends, and notes every answer.
fn kill_after(dir: &Path, count: usize, acknowledged: &mut HashMap<SessionId, HashMap<u64, String>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "durability::child_that_appends_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        // The last line may be cut off by the kill.
        let ["ACK", session, seq, event] = words[..] else {
            continue;
        };
        let (Ok(session), Ok(seq)) = (session.parse::<SessionId>(), seq.parse()) else {
            continue;
        };
        if event.len() < 27 {
            continue;
        }
        acknowledged.entry(session).or_default().insert(seq, event.to_owned());
        seen += 1;
        if seen == count {
            // SIGKILL, while the other appends are on their way.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= count, "the child answered {seen} appends only");
}

fn check(dir: &Path, acknowledged: &HashMap<SessionId, HashMap<u64, String>>) {
    crate::support::block_on(async {
        let store = Store::open(Options::new(dir)).unwrap();
        let ws = store.default_workspace().clone();
        for (session, events) in acknowledged {
            let log = store.load(&ws, session).await.unwrap();
            let found: HashMap<u64, String> = log
                .entries
                .into_iter()
                .map(|(seq, entry)| (seq, entry.event.id.to_string()))
                .collect();
            for (seq, event) in events {
                assert_eq!(found.get(seq), Some(event), "session {session}, entry {seq}");
            }
            assert_eq!(found.len() as u64, log.last_seq, "no gaps");
        }
        store.close().await;
    });
}

/// Appends large events until the store refuses; gives what was acknowledged.
async fn fill(bed: &Bed, session: &SessionId) -> (u64, StoreError) {
    let text = "x".repeat(20_000);
    let mut last = 0;
    for _ in 0..10_000 {
        match bed
            .store
            .append(&bed.ws, append(session, vec![message(&text, at(1), true)]))
            .await
        {
            Ok(done) => last = done.last_seq,
            Err(e) => return (last, e),
        }
    }
    panic!("the disk never filled");
}

#[tokio::test]
async fn a_database_that_may_not_grow_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path());
    options.max_bytes = Some(2 << 20);
    let store = Store::open(options).unwrap();
    let bed = Bed {
        ws: store.default_workspace().clone(),
        store,
        dir,
    };
    let environment = bed.environment(EnvironmentKind::SelfHosted).await;
    let large = bed.session_in(&environment, at(1), Vec::new(), None).await.id;
    let other = bed.session_in(&environment, at(2), Vec::new(), None).await.id;
    let (last, error) = fill(&bed, &large).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(last > 10);
    assert!(bed.store.counters().failed_commits > 0);
    assert_eq!(
        bed.store.load(&bed.ws, &large).await.unwrap().last_seq,
        last,
        "reading goes on"
    );

    bed.store.delete_session(&bed.ws, &large).await.unwrap();
    let done = bed
        .store
        .append(&bed.ws, append(&other, vec![message("room again", at(3), true)]))
        .await
        .unwrap();
    assert_eq!(done.last_seq, 1);
    bed.store.check().await.unwrap();
}

/// A small file system of its own, unmounted when it goes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where this process may not mount.
    fn mount(options: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, options) {
            Ok(()) => Some(Self(dir)),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => None,
            Err(e) => panic!("mount: {e}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_every_write_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount(c"size=4m,mode=0700") else {
        eprintln!("skipped: mounting needs root; the limit of the database's size is tested all the same");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    let data = disk.0.path().join("data");
    std::fs::write(&ballast, vec![0u8; 1 << 20]).unwrap();
    let store = Store::open(Options::new(&data)).unwrap();
    let bed = Bed {
        ws: store.default_workspace().clone(),
        store,
        dir: tempfile::tempdir().unwrap(),
    };
    let session = bed.session().await.id;
    let (last, error) = fill(&bed, &session).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let text = "x".repeat(20_000);
    let refused = bed
        .store
        .append(&bed.ws, append(&session, vec![message(&text, at(1), true)]))
        .await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    assert_eq!(bed.store.load(&bed.ws, &session).await.unwrap().last_seq, last);

    std::fs::remove_file(&ballast).unwrap();
    let done = bed
        .store
        .append(&bed.ws, append(&session, vec![message(&text, at(1), true)]))
        .await
        .unwrap();
    assert_eq!(done.last_seq, last + 1, "what was refused left no number behind");
    bed.store.close().await;
    let again = Store::open(Options::new(&data)).unwrap();
    again.check().await.unwrap();
    assert_eq!(
        again.load(&bed.ws, &session).await.unwrap().entries.len() as u64,
        last + 1
    );
}

#[tokio::test]
async fn what_waits_at_close_is_finished() {
    let bed = bed();
    let session = bed.session().await.id;
    let mut tasks = Vec::new();
    for _ in 0..100 {
        let (store, ws) = (bed.store.clone(), bed.ws.clone());
        let a = append(&session, vec![message("x", at(1), true)]);
        tasks.push(tokio::spawn(async move { store.append(&ws, a).await }));
    }
    tokio::task::yield_now().await;
    bed.store.close().await;
    let mut kept = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => kept += 1,
            Err(StoreError::Closed) => {}
            Err(e) => panic!("{e}"),
        }
    }
    let again = Store::open(Options::new(bed.dir.path())).unwrap();
    assert_eq!(again.load(&bed.ws, &session).await.unwrap().entries.len(), kept);
    assert!(
        !bed.dir
            .path()
            .join("outwork.db-wal")
            .metadata()
            .is_ok_and(|m| m.len() > 1 << 20)
    );
}
