//! What goes out of a session, and what does not.

use outwork_egress::Document;
use outwork_egress::secret::Locations;
use outwork_ledger::{Decision, Hash, Kind};
use outwork_sandbox::worker::{SecretSource, WorkerSecret};
use serde_json::{Value, json};

use crate::plane::own::Own;
use crate::{World, limited, of_kind};

const VALUE: &str = "sk-live-0123456789abcdefghijklmnop";

fn variable(name: &str, value: &str, hosts: &[&str]) -> Value {
    json!({
        "vault_id": "vlt_1", "credential_id": "cred_1", "name": name, "value": value,
        "networking": {"type": "limited", "allowed_hosts": hosts},
        "injection_location": {"header": true, "body": false},
    })
}

fn policy(text: &str) -> Option<Document> {
    Some(Document::from_toml("policy.toml", text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_that_nobody_allowed() {
    // A server that knows no boundaries, a self-hosted environment, and one that allows nothing.
    for own in [
        None,
        Some(Own::of("self_hosted", Value::Null)),
        Some(Own::of("cloud", limited(&[]))),
    ] {
        let mut world = World::with(own, |_| {}).await;
        let said = world.curl("https://api.test.example/").await;
        assert!(said.ends_with(" 000"), "{said}");
        // The cheapest sandbox: not even a name server is named.
        assert_eq!(
            world
                .bash("grep -q nameserver /etc/resolv.conf && echo named || echo none")
                .await,
            "none"
        );
        assert!(world.internet.seen().is_empty() && world.internet.asked.lock().unwrap().is_empty());
        let records = world.records().await;
        for kind in [
            Kind::SessionStart,
            Kind::PolicyApplied,
            Kind::SandboxStart,
            Kind::SandboxEnd,
            Kind::SessionEnd,
        ] {
            assert_eq!(of_kind(&records, kind).len(), 1, "{kind:?}");
        }
        assert_eq!(of_kind(&records, Kind::ToolCall).len(), 4, "before and after each call");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_opens_what_it_names() {
    let mut world = World::new(Own::of("cloud", limited(&["api.test.example"]))).await;
    let said = world.curl("https://api.test.example/one").await;
    assert_eq!(said, "GET /one authorization= body= 200");
    let said = world.curl("https://other.test.example/").await;
    assert!(said.ends_with(" 000") || said.contains("403"), "{said}");
    assert!(
        !world
            .internet
            .asked
            .lock()
            .unwrap()
            .contains(&"other.test.example".to_owned())
    );
    let records = world.records().await;
    // The server has them, too.
    let handed = world.plane.script().own.as_ref().unwrap().evidence.clone();
    let (records_at, policies) = handed.split_last().unwrap();
    assert!(records_at.0 == "records" && policies.iter().all(|(part, _)| part == "policy"));
    let report = outwork_ledger::verify_bundle(
        &records_at.1[..],
        "records",
        &outwork_ledger::Expect::any_key(),
        |_, _| {},
    )
    .unwrap();
    assert!(report.is_sound() && report.records == records.len() as u64);
    let known: Vec<Hash> = policies.iter().map(|(_, text)| Hash::of(text)).collect();
    assert!(
        records
            .iter()
            .filter_map(|record| record.policy_hash)
            .all(|hash| known.contains(&hash))
    );
    let agent = records.iter().find_map(|record| record.agent.as_ref()).unwrap();
    assert_eq!((agent.id.as_str(), agent.version), ("agent_1", Some(3)));
    let allowed = of_kind(&records, Kind::Connection);
    assert!(allowed.iter().any(|record| record.decision == Some(Decision::Allowed)
        && record.destination.as_deref() == Some("api.test.example:443")));
    assert!(records.iter().any(|record| {
        record.decision == Some(Decision::Denied)
            && record
                .destination
                .as_deref()
                .is_some_and(|to| to.starts_with("other.test.example"))
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_policy_only_narrows() {
    let own = Own::of("cloud", limited(&["api.test.example", "other.test.example"]));
    let world = World::with(Some(own), |boundary| {
        boundary.policy = policy("[[allow]]\nhost = \"api.test.example\"\nmethods = [\"GET\"]\n");
    })
    .await;
    assert!(world.curl("https://api.test.example/").await.ends_with("200"));
    let said = world.curl("-d x https://api.test.example/").await;
    assert!(said.ends_with("403"), "{said}");
    assert!(!world.curl("https://other.test.example/").await.ends_with("200"));
    // Where the server says nothing, the worker's own policy is all there is.
    let world = World::with(None, |boundary| {
        boundary.policy = policy("[[allow]]\nhost = \"api.test.example\"\n");
    })
    .await;
    assert!(world.curl("https://api.test.example/").await.ends_with("200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_works_without_being_inside() {
    let mut own = Own::of("cloud", limited(&["api.test.example", "other.test.example"]));
    own.secrets["variables"] = json!([variable("API_KEY", VALUE, &["api.test.example"])]);
    let mut world = World::new(own).await;
    let said = world
        .curl("-H \"Authorization: Bearer $API_KEY\" https://api.test.example/")
        .await;
    let placeholder = world.bash("echo $API_KEY").await;
    assert_eq!(placeholder.len(), VALUE.len());
    assert!(placeholder != VALUE && placeholder.starts_with("sk-"), "{placeholder}");
    // The server got the value and said it again; what came back is the placeholder.
    assert_eq!(said, format!("GET / authorization=Bearer {placeholder} body= 200"));
    assert_eq!(
        world.internet.seen()[0].headers["authorization"],
        format!("Bearer {VALUE}")
    );
    // Not to another host, not in a body.
    let said = world
        .curl("-H \"Authorization: Bearer $API_KEY\" https://other.test.example/")
        .await;
    assert!(said.contains("403") || said.contains("401"), "{said}");
    let said = world.curl("-d \"$API_KEY\" https://api.test.example/").await;
    assert!(said.ends_with("403"), "{said}");
    assert_eq!(world.internet.seen().len(), 1);
    let found = world
        .bash(&format!(
            "env | grep -c {VALUE}; grep -rl {VALUE} /proc/*/environ /workspace /tmp /etc 2>/dev/null"
        ))
        .await;
    assert_eq!(found.trim(), "0");
    let records = world.records().await;
    let used = of_kind(&records, Kind::CredentialUse);
    assert!(used.iter().any(|record| {
        record.decision == Some(Decision::Allowed)
            && record
                .credential
                .as_ref()
                .is_some_and(|credential| credential.name.as_deref() == Some("API_KEY"))
    }));
    assert!(!format!("{records:?}").contains(VALUE));
    let results = world.plane.results();
    assert!(!format!("{results:?}").contains(VALUE));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_own_secrets_work_with_any_server() {
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    std::fs::write(&file, "own-token-0123456789abcdef\n").unwrap();
    let secret = |name: &str, source| WorkerSecret {
        name: name.into(),
        source,
        hosts: vec!["api.test.example".into()],
        locations: Locations::from_injection(true, false),
    };
    let world = World::with(None, |boundary| {
        boundary.policy = policy("[[allow]]\nhost = \"api.test.example\"\n");
        boundary.secrets = vec![
            secret("FROM_FILE", SecretSource::File(file.clone())),
            secret(
                "FROM_COMMAND",
                SecretSource::Command("printf 'command-%s' 0123456789".into()),
            ),
        ];
    })
    .await;
    world
        .curl("-H \"X-One: $FROM_FILE\" -H \"X-Two: $FROM_COMMAND\" https://api.test.example/")
        .await;
    let seen = world.internet.seen();
    assert_eq!(seen[0].headers["x-one"], "own-token-0123456789abcdef");
    assert_eq!(seen[0].headers["x-two"], "command-0123456789");
    // One that cannot be had: nothing runs, and the session is told which.
    let world = World::with(None, |boundary| {
        boundary.secrets = vec![secret("GONE", SecretSource::File("/nowhere/token".into()))];
    })
    .await;
    let call = world.ask("echo ran");
    let (is_error, text) = world.answer(&call).await;
    assert!(is_error && text.contains("`GONE`") && !text.contains("ran\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_holds_at_the_next_request() {
    let mut own = Own::of("cloud", limited(&["api.test.example"]));
    own.secrets["variables"] = json!([variable("API_KEY", VALUE, &["api.test.example"])]);
    let world = World::new(own).await;
    assert_eq!(world.bash("X=7; echo $X").await, "7");
    assert!(!world.curl("https://other.test.example/").await.ends_with("200"));
    world.say(|own| own.boundary["networking"] = limited(&["other.test.example"]));
    // The sandbox is the same one, and asks until the change has come.
    let turned = "for i in $(seq 200); do curl -sf -m 5 -o /dev/null https://other.test.example/ && break; sleep 0.05; done; echo $X";
    assert_eq!(world.bash(turned).await, "7");
    assert!(world.curl("https://other.test.example/").await.ends_with("200"));
    assert!(!world.curl("https://api.test.example/").await.ends_with("200"));
    // Another value behind the same variable: the placeholder is another one, so the sandbox is, too.
    world.say(|own| own.boundary["networking"] = limited(&["api.test.example"]));
    let other = VALUE.replace("sk-live", "sk-next");
    world.say(|own| own.secrets["variables"] = json!([variable("API_KEY", &other, &["api.test.example"])]));
    for _ in 0..200 {
        world
            .curl("-H \"Authorization: Bearer $API_KEY\" https://api.test.example/")
            .await;
        if world.internet.got(&other) {
            break;
        }
    }
    assert!(world.internet.got(&other));
    assert_eq!(world.bash("echo ${X-fresh}").await, "fresh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_can_come_to_a_session_that_had_none() {
    let world = World::new(Own::of("cloud", limited(&[]))).await;
    assert!(world.curl("https://api.test.example/").await.ends_with("000"));
    world.say(|own| own.boundary["networking"] = json!({"type": "unrestricted"}));
    for _ in 0..200 {
        if world.curl("https://api.test.example/").await.ends_with("200") {
            return;
        }
    }
    panic!("the session has no network yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_without_a_boundary() {
    for (what, own) in [
        (
            "the network of the environment",
            Own::of("cloud", limited(&["https://not-a-host/"])),
        ),
        ("environment: other", Own::of("other", Value::Null)),
        (
            "networking",
            Own::of("cloud", json!({"type": "limited", "unknown": true})),
        ),
        ("the credentials", {
            let mut own = Own::of("cloud", limited(&[]));
            own.secrets["variables"] = json!([variable("API_KEY", "short", &["api.test.example"])]);
            own
        }),
        ("the session's boundary", {
            let mut own = Own::of("cloud", limited(&[]));
            own.boundary_status.extend([403; 8]);
            own
        }),
    ] {
        let world = World::new(own).await;
        let call = world.ask("touch ran");
        let (is_error, text) = world.answer(&call).await;
        assert!(
            is_error && text.contains("nothing was run") && text.contains(what),
            "{what}: {text}"
        );
        assert!(!world.folder.path().join("ran").exists());
    }
}
