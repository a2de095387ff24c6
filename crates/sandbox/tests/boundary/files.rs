//! What comes into a session: files and repositories.

use outwork_egress::Document;
use outwork_ledger::{Decision, Hash, Kind};
use serde_json::{Value, json};

use crate::internet::GIT_TOKEN;
use crate::plane::own::Own;
use crate::{World, limited, of_kind};

fn file(id: &str, place: &str, bytes: &[u8]) -> Value {
    json!({
        "id": format!("sesrsc_{id}"), "type": "file", "file_id": id, "mount_path": place, "available": true,
        "size_bytes": bytes.len(), "sha256": Hash::of(bytes).to_string(),
    })
}

fn repository(place: &str, checkout: Value) -> Value {
    json!({
        "id": "sesrsc_git", "type": "github_repository", "url": "https://git.test.example/team/name",
        "mount_path": place, "checkout": checkout, "authorized": true, "available": true,
    })
}

fn with_repository(place: &str, checkout: Value) -> Own {
    let mut own = Own::of("cloud", limited(&[]));
    own.mounts = vec![repository(place, checkout)];
    own.secrets["repositories"] =
        json!([{"resource_id": "sesrsc_git", "url": "https://git.test.example/team/name", "token": GIT_TOKEN}]);
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_where_they_belong_and_stay_as_they_are() {
    let mut own = Own::of("self_hosted", Value::Null);
    own.mounts = vec![
        file("file_1", "/mnt/session/uploads/file_1", b"one\n"),
        file("file_2", "/workspace/data/two.txt", b"two\n"),
        file("file_3", "/opt/three", b"three\n"),
    ];
    let mut gone = file("file_4", "/opt/four", b"four\n");
    gone["available"] = json!(false);
    own.mounts.push(gone);
    for (id, bytes) in [("file_1", &b"one\n"[..]), ("file_2", b"two\n"), ("file_3", b"three\n")] {
        own.files.insert(id.to_owned(), bytes.to_vec());
    }
    let mut world = World::new(own).await;
    let said = world
        .bash("cat /mnt/session/uploads/file_1 /workspace/data/two.txt /opt/three; ls /opt")
        .await;
    assert_eq!(said, "one\ntwo\nthree\nthree");
    let said = world
        .bash("for f in /mnt/session/uploads/file_1 /workspace/data/two.txt /opt/three; do (echo x >> $f) 2>/dev/null && echo BREACH; rm -f $f 2>/dev/null; done; cat data/two.txt")
        .await;
    assert_eq!(said, "two");
    // One more at the usual place is there without a new sandbox.
    world.bash("X=1").await;
    world.say(|own| {
        own.files.insert("file_5".into(), b"five\n".to_vec());
        own.mounts
            .push(file("file_5", "/mnt/session/uploads/file_5", b"five\n"));
    });
    let said = world
        .bash("for i in $(seq 400); do [ -e /mnt/session/uploads/file_5 ] && break; sleep 0.05; done; cat /mnt/session/uploads/file_5; echo $X")
        .await;
    assert_eq!(said, "five\n1");
    let records = world.records().await;
    let came: Vec<_> = of_kind(&records, Kind::FileIn)
        .into_iter()
        .map(|record| (record.path.clone().unwrap(), record.decision.unwrap()))
        .collect();
    assert!(came.contains(&("/opt/three".into(), Decision::Allowed)), "{came:?}");
    assert!(came.contains(&("/opt/four".into(), Decision::Denied)), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_other_bytes_is_not_used() {
    let mut own = Own::of("self_hosted", Value::Null);
    own.mounts = vec![file("file_1", "/opt/one", b"one\n")];
    own.files.insert("file_1".into(), b"two\n".to_vec());
    let world = World::new(own).await;
    let call = world.ask("touch ran");
    let (is_error, text) = world.answer(&call).await;
    assert!(
        is_error && text.contains("/opt/one") && text.contains("other bytes"),
        "{text}"
    );
    assert!(!world.folder.path().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_cloned_and_pushed_without_its_token_inside() {
    let mut world = World::new(with_repository("/workspace/name", Value::Null)).await;
    let first = world.internet.repository("team/name");
    let said = world
        .bash("cat name/read.me; git -C name rev-parse HEAD; git -C name branch --show-current")
        .await;
    assert_eq!(said, format!("on main\n{first}\nmain"));
    let said = world
        .bash("cd name && echo more > more && git add more && git -c user.name=a -c user.email=a@test.example commit -qm more && git push -q origin HEAD:pushed && git ls-remote origin pushed | cut -f2; cd ..")
        .await;
    assert_eq!(said, "refs/heads/pushed");
    // Nowhere, in no encoding that git uses.
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{GIT_TOKEN}"));
    let found = world
        .bash(&format!("env | grep -cE '{GIT_TOKEN}|{pair}'; grep -rlE '{GIT_TOKEN}|{pair}' /proc/*/environ /workspace /tmp 2>/dev/null"))
        .await;
    assert_eq!(found.trim(), "0");
    // The rest of the host is closed.
    world.internet.repository("team/other");
    let said = world
        .bash("git ls-remote https://git.test.example/team/other 2>&1 || true")
        .await;
    assert!(!said.contains("refs/"), "{said}");
    let records = world.records().await;
    assert!(!format!("{records:?}").contains(GIT_TOKEN));
    assert!(!of_kind(&records, Kind::CredentialUse).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_and_commits_are_checked_out() {
    let world = World::new(with_repository(
        "/workspace/a/b",
        json!({"type": "branch", "name": "other"}),
    ))
    .await;
    world.internet.repository("team/name");
    assert_eq!(world.bash("cat a/b/read.me").await, "on other");

    let own = with_repository("/workspace/name", json!({"type": "commit", "sha": "0".repeat(40)}));
    let world = World::new(own).await;
    world.internet.repository("team/name");
    let call = world.ask("touch ran");
    let (is_error, text) = world.answer(&call).await;
    assert!(is_error && text.contains("git.test.example/team/name"), "{text}");
    assert!(!world.folder.path().join("ran").exists());

    // Outside of the workspace it can only be read.
    let world = World::new(with_repository("/opt/name", Value::Null)).await;
    world.internet.repository("team/name");
    assert_eq!(
        world
            .bash("cat /opt/name/read.me; (: > /opt/name/x) 2>/dev/null || echo closed")
            .await,
        "on main\nclosed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_hosted_session_gets_a_repository_if_the_worker_allows_its_host() {
    let mut own = with_repository("/workspace/name", Value::Null);
    own.boundary = Own::of("self_hosted", Value::Null).boundary;
    let world = World::new(own).await;
    world.internet.repository("team/name");
    let call = world.ask("ls");
    let (is_error, text) = world.answer(&call).await;
    assert!(is_error && text.contains("host = \"git.test.example\""), "{text}");

    let mut own = with_repository("/workspace/name", Value::Null);
    own.boundary = Own::of("self_hosted", Value::Null).boundary;
    let world = World::with(Some(own), |boundary| {
        let text = "[[allow]]\nhost = \"git.test.example\"\n";
        boundary.policy = Some(Document::from_toml("policy.toml", text).unwrap());
    })
    .await;
    world.internet.repository("team/name");
    assert_eq!(world.bash("cat name/read.me").await, "on main");
}
