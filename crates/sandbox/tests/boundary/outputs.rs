//! What a session hands over.

use outwork_ledger::{Decision, Hash, Kind};
use serde_json::{Value, json};

use crate::plane::own::Own;
use crate::{World, limited, of_kind};

const VALUE: &str = "sk-live-0123456789abcdefghijklmnop";

#[tokio::test(flavor = "multi_thread")]
async fn results_are_handed_over_when_a_turn_ends() {
    let mut world = World::new(Own::of("self_hosted", Value::Null)).await;
    world.bash("mkdir -p /mnt/session/outputs/deep; echo one > /mnt/session/outputs/one; echo two > /mnt/session/outputs/deep/two; ln -s /etc/passwd /mnt/session/outputs/link").await;
    assert!(
        world.plane.script().own.as_ref().unwrap().outputs.is_empty(),
        "not before"
    );
    world.idle();
    world
        .until_own("both are there", |own| own.outputs.len() == 2 && own.refused.len() == 1)
        .await;
    {
        let script = world.plane.script();
        let own = script.own.as_ref().unwrap();
        let mut outputs = own.outputs.clone();
        outputs.sort();
        assert_eq!(outputs[0], ("deep/two".to_owned(), b"two\n".to_vec()));
        assert_eq!(outputs[1], ("one".to_owned(), b"one\n".to_vec()));
        assert_eq!(own.refused[0].0, "link");
    }
    // The same again is not sent again; another one is, at the end.
    world.bash("echo three > /mnt/session/outputs/three").await;
    let records = world.records().await;
    let outputs = world.plane.script().own.as_ref().unwrap().outputs.clone();
    assert_eq!(outputs.len(), 3);
    assert_eq!(outputs[2].0, "three");
    let sent: Vec<_> = of_kind(&records, Kind::FileOut)
        .into_iter()
        .filter(|record| record.output_location.is_some())
        .map(|record| (record.path.clone().unwrap(), record.output_hash.unwrap()))
        .collect();
    assert_eq!(sent.len(), 3);
    assert!(sent.contains(&("one".to_owned(), Hash::of(b"one\n"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_is_kept_back_with_the_reason() {
    let mut own = Own::of("cloud", limited(&["api.test.example"]));
    own.secrets["variables"] = json!([{
        "vault_id": "vlt_1", "credential_id": "cred_1", "name": "API_KEY", "value": VALUE,
        "networking": {"type": "limited", "allowed_hosts": ["api.test.example"]},
        "injection_location": {"header": true, "body": false},
    }]);
    let mut world = World::with(Some(own), |boundary| {
        boundary.outputs.allowed = vec!["*.txt".into()];
        boundary.outputs.limits.max_file_bytes = 1000;
        boundary.outputs.scan_command =
            Some("if grep -q virus \"$1\"; then echo \"found in $OUTWORK_OUTPUT_PATH\"; exit 1; fi".into());
    })
    .await;
    // The value is not inside; somebody else may have brought it there.
    let half = VALUE.split_at(10);
    world
        .bash(&format!(
            "cd /mnt/session/outputs; echo fine > fine.txt; echo x > x.exe; echo a virus > bad.txt; head -c 2000 /dev/zero > large.txt; printf 'key: %s%s' {} {} | base64 -w0 > secret.txt",
            half.0, half.1
        ))
        .await;
    let records = world.records().await;
    let script = world.plane.script();
    let own = script.own.as_ref().unwrap();
    assert_eq!(own.outputs, [("fine.txt".to_owned(), b"fine\n".to_vec())]);
    let mut refused = own.refused.clone();
    refused.sort();
    for ((path, reason), (expected, says)) in refused.iter().zip([
        ("bad.txt", "found in bad.txt"),
        ("large.txt", "2000 bytes"),
        ("secret.txt", "API_KEY"),
        ("x.exe", "outputs.allowed"),
    ]) {
        assert!(path == expected && reason.contains(says), "{path}: {reason}");
    }
    assert_eq!(refused.len(), 4);
    let denied = of_kind(&records, Kind::FileOut);
    assert_eq!(
        denied
            .iter()
            .filter(|record| record.decision == Some(Decision::Denied))
            .count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_kept_and_sent_later() {
    let mut own = Own::of("self_hosted", Value::Null);
    own.output_status.extend([503; 3]);
    let mut world = World::new(own).await;
    world.bash("echo one > /mnt/session/outputs/one").await;
    world.idle();
    world
        .until_own("it was sent after all", |own| own.outputs.len() == 1)
        .await;
    // A worker that ends in the meantime: the next one sends it.
    world.say(|own| own.output_status.extend([503; 50]));
    world.bash("echo two > /mnt/session/outputs/two").await;
    world.end().await;
    assert_eq!(world.plane.script().own.as_ref().unwrap().outputs.len(), 1);
    std::fs::remove_file(world.state.path().join("sessions/sesn_1/outputs/two")).unwrap();
    world.say(|own| own.output_status.clear());
    world.plane.offer("work_2", crate::SESSION);
    world.start(|_| {}).await;
    world
        .until_own("the next worker sends it", |own| {
            own.outputs.iter().any(|(path, _)| path == "two")
        })
        .await;
    world.end().await;
}
