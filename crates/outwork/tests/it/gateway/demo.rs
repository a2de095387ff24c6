//! `outwork demo --private`, from its first line to its last.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::SOON;
use crate::world::process::{BINARY, clean};

/// The objects that a demonstration writes.
async fn demo(flags: &[&str]) -> Vec<Value> {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    let output = command
        .args(["demo", "--private", "--json"])
        .args(flags)
        .stderr(Stdio::piped())
        .output();
    let output = timeout(SOON * 2, output).await.expect("it did not end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(objects: &[Value], namespace: bool) {
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!(
        (&first["type"], &last["type"]),
        (&"demo.started".into(), &"demo.summary".into())
    );
    assert_eq!(first["namespace"], namespace);
    assert_eq!(last["outcome"], "done", "{last}");
    let tries = last["without_tunnel"].as_array().unwrap();
    assert_eq!(tries.len(), if namespace { 2 } else { 1 }, "{last}");
    assert!(tries.iter().all(|tried| tried["reached"] == false), "{last}");
    assert_eq!(last["words_at_edge"], serde_json::json!([]));
    assert_eq!(last["words_in_events"], last["words"].as_array().unwrap().len());
    assert!(last["edge_bytes"]["from_gateway"].as_u64().unwrap() > 500, "{last}");
    assert!(
        last["edge_excerpts"][0].as_str().unwrap().starts_with("17 03 03"),
        "{last}"
    );
    let tools: Vec<&str> = last["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|record| record["tool"].as_str())
        .collect();
    assert_eq!(tools, ["late_orders", "track_parcel"]);
    assert!(objects.iter().any(|event| event["type"] == "agent.mcp_tool_result"));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback() {
    check(&demo(&["--loopback"]).await, false);
}

/// Where a namespace can be made: for root with `ip`. It leaves no interface behind.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_network_of_its_own() {
    let objects = demo(&[]).await;
    let namespace = objects[0]["namespace"] == true;
    check(&objects, namespace);
    let can = rustix::process::geteuid().is_root()
        && std::process::Command::new("unshare")
            .args([
                "--net", "ip", "link", "add", "owt0", "type", "veth", "peer", "name", "owt1",
            ])
            .output()
            .is_ok_and(|output| output.status.success());
    assert_eq!(namespace, can, "{}", objects[0]);
    let address = objects[0]["private_server"].as_str().unwrap();
    let network = address.rsplit_once('.').unwrap().0;
    if namespace {
        let routes = std::process::Command::new("ip")
            .args(["-4", "address"])
            .output()
            .unwrap();
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        assert!(!routes.contains(&format!("{network}.")), "{routes}");
    }
}
