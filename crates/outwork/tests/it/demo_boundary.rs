//! `outwork demo --boundary`, from its first line to its last; and that it fails where there is no boundary.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::SOON;
use crate::world::process::{BINARY, clean};

/// Runs the binary with temporary files in a folder of the test's own.
async fn run(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    let command = command
        .args(words)
        .env("TMPDIR", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    timeout(SOON * 2, command.output())
        .await
        .expect("it did not end")
        .unwrap()
}

/// What a demonstration that was to end with this code wrote.
async fn demo(folder: &Path, code: i32, flags: &[&str]) -> Vec<Value> {
    let output = run(folder, &[&["demo", "--boundary", "--json"], flags].concat()).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}\n{complained}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The outcome of each way, and the summary that has them.
fn ways(objects: &[Value]) -> (Vec<&str>, &Value) {
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!(
        (&first["type"], &last["type"]),
        (&"demo.started".into(), &"demo.summary".into())
    );
    let ways = last["ways"].as_array().unwrap();
    assert_eq!(ways.len(), first["ways"].as_array().unwrap().len());
    let outcomes = ways.iter().map(|way| way["outcome"].as_str().unwrap()).collect();
    (outcomes, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_out_is_stopped_and_the_evidence_says_by_what() {
    let folder = TempDir::new().unwrap();
    let objects = demo(folder.path(), 0, &["--keep"]).await;
    let (outcomes, last) = ways(&objects);
    assert_eq!(last["outcome"], "done", "{last}");
    assert_eq!(outcomes, ["stopped"; 12], "{last}");
    let ways = &last["ways"];
    for (way, rule) in [
        (0, "environment/default"),
        (1, "environment/default"),
        (2, "address-class"),
        (3, "environment/default"),
        (4, "environment/allowed_hosts[0]"),
        (5, "http-host"),
        (6, "secret"),
    ] {
        assert_eq!(ways[way]["rule"], rule, "{}", ways[way]);
    }
    assert!(ways[4]["reason"].as_str().unwrap().contains("port"), "{}", ways[4]);
    assert!(
        ways[7]["saw"].as_str().unwrap().contains("not permitted"),
        "{}",
        ways[7]
    );
    let placeholder = ways[8]["saw"].as_str().unwrap().strip_prefix("SHOP_TOKEN=").unwrap();
    assert!(ways[11]["saw"].as_str().unwrap().contains(placeholder), "{}", ways[11]);
    assert_eq!((&last["authorized"], &last["answered"]), (&json!(true), &json!(true)));
    let used = &last["credential_use"];
    assert_eq!(used["credential"]["name"], "SHOP_TOKEN");
    assert_eq!(used["rule"], "environment/allowed_hosts[0] + worker/shop");
    assert_eq!(last["value_is_in"], json!([]));

    // The evidence by the command that strangers use, with its key and with another.
    let evidence = &last["evidence"];
    assert_eq!((&evidence["sound"], &evidence["findings"]), (&json!(true), &json!([])));
    assert_eq!(
        evidence["ledgers"].as_array().unwrap().len(),
        2,
        "the plane's and the worker's"
    );
    let (path, key) = (evidence["path"].as_str().unwrap(), evidence["key"].as_str().unwrap());
    let verified = run(folder.path(), &["evidence", "verify", path, "--key", key, "--json"]).await;
    assert!(verified.status.success(), "{verified:?}");
    let another = run(folder.path(), &["evidence", "verify", path, "--key", &"0".repeat(32)]).await;
    assert_eq!(another.status.code(), Some(1), "{another:?}");

    // From the worker's ledger: rules for what they could allow, and what none can.
    let session = last["session_id"].as_str().unwrap();
    let state = PathBuf::from(path).parent().unwrap().join("worker");
    let words = [
        "policy",
        "suggest",
        session,
        "--state-dir",
        state.to_str().unwrap(),
        "--json",
    ];
    let suggested = run(folder.path(), &words).await;
    let suggested: Value = serde_json::from_slice(&suggested.stdout).unwrap();
    let rules = suggested["policy"]["allow"].as_array().unwrap();
    assert!(
        rules.iter().any(|rule| rule["host"] == json!(["collector.example"])),
        "{suggested}"
    );
    let left_out = suggested["left_out"].as_array().unwrap();
    let left_out: Vec<&str> = left_out.iter().map(|one| one["rule"].as_str().unwrap()).collect();
    for check in ["address-class", "http-host", "secret"] {
        assert!(left_out.contains(&check), "{suggested}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_boundary_every_way_leads_out() {
    let folder = TempDir::new().unwrap();
    let objects = demo(folder.path(), 1, &["--isolation", "none"]).await;
    let (outcomes, last) = ways(&objects);
    assert_eq!(outcomes, ["escaped"; 12], "{last}");
    assert_eq!(last["outcome"], "failed");
    assert!(!last["value_is_in"].as_array().unwrap().is_empty());
    // What it was asked for was done no less.
    assert_eq!((&last["authorized"], &last["answered"]), (&json!(true), &json!(true)));
}

/// The sandbox stands, and its policy allows everything: what only the policy stops gets out.
#[tokio::test(flavor = "multi_thread")]
async fn with_an_open_policy_what_the_policy_stopped_gets_out() {
    let folder = TempDir::new().unwrap();
    let objects = demo(folder.path(), 1, &["--open-policy"]).await;
    let (outcomes, last) = ways(&objects);
    let escaped: Vec<usize> = (0..12).filter(|way| outcomes[*way] == "escaped").collect();
    assert_eq!(escaped, [0, 1, 3, 4], "{last}");
    assert!(outcomes.iter().all(|outcome| *outcome != "not_tried"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_what_stopped_each() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["demo", "--boundary"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("\nstopped  ").count(), 12, "{said}");
    for part in [
        "by environment/default: no rule allows collector.example",
        "an address of the kind cloud metadata",
        "allowed  GET api.shop.example:443/v1/orders/4711",
        "outwork evidence verify",
        "12 of 12 ways out stopped",
    ] {
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(
            words
                .join(" ")
                .contains(&part.split_whitespace().collect::<Vec<_>>().join(" ")),
            "{part}: {said}"
        );
    }
    assert!(!said.contains("ESCAPED"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 1, "only the evidence stays: {left:?}");
}
