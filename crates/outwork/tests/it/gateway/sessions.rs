//! Sessions that call through the tunnel: what the caller sees, what is recorded, what the switch stops.

use serde_json::{Value, json};

use super::{Gateway, Office, Orders, called, late_orders, outcome, plane};
use crate::world::{SOON, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_calls_a_private_server_and_every_call_is_on_record() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    office.tunnel(&world, &["check"]).await.ok();
    let said = office.tunnel(&world, &["records"]).await.refused(&["no ledger"]);
    assert!(said.contains("ledger"), "{said}");
    let gateway = Gateway::connected(&world, &office).await;
    let events = called(&world, &office.url(), "late_orders", json!({ "customer": "Hartmann" })).await;
    assert!(outcome(&events).unwrap().contains(&orders.parcel));
    let session = events[0]["session_id"].as_str().map(str::to_owned);

    let records = async |more: &[&str]| -> Vec<Value> {
        let said = office
            .tunnel(&world, &[&["records", "--json"], more].concat())
            .await
            .ok();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let calls = until("the call is recorded", SOON, || async {
        let calls = records(&["--tool", "late_orders"]).await;
        (!calls.is_empty()).then_some(calls)
    })
    .await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    let call = &calls[0];
    for (field, value) in [
        ("route", "orders"),
        ("mcp_method", "tools/call"),
        ("decision", "allowed"),
        ("tunnel", office.tunnel_id.as_str()),
    ] {
        assert_eq!(call[field], value, "{call}");
    }
    let by = call["session"].as_str().unwrap();
    assert!(session.is_none_or(|session| session == by), "{call}");
    assert!(
        by.starts_with("sesn_") && call["agent"]["id"].as_str().unwrap().starts_with("agent_"),
        "{call}"
    );
    assert_eq!(
        records(&["--session", by, "--route", "orders"]).await.len(),
        records(&[]).await.len()
    );
    assert!(records(&["--session", "sesn_other"]).await.is_empty());
    let refused = records(&["--refused"]).await;
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(records(&["--since", "1h", "--limit", "1"]).await.len(), 1);
    // Nothing of the question or the answer is in the ledger, nor in the log.
    let ledger: String = std::fs::read_dir(office.file("ledger"))
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned())
        .collect();
    for payload in [orders.parcel.as_str(), "Hartmann"] {
        assert!(
            !ledger.contains(payload) && !gateway.log().contains(payload),
            "{payload}"
        );
    }
    let page = office.tunnel(&world, &["records"]).await.ok();
    assert!(
        page.contains("late_orders") && page.contains(by) && page.contains("allowed"),
        "{page}"
    );

    // It verifies, with the key that it names; and not once a record is changed.
    let report = office.tunnel(&world, &["records", "--verify", "--json"]).await.json();
    assert_eq!(report["sound"], true, "{report}");
    let key = report["keys"][0].as_str().unwrap();
    drop(gateway);
    office.tunnel(&world, &["records", "--verify", "--key", key]).await.ok();
    let other = "ab".repeat(32);
    office
        .tunnel(&world, &["records", "--verify", "--key", &other])
        .await
        .refused(&["NOT sound"]);
    let segment = std::fs::read_dir(office.file("ledger"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .unwrap();
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("late_orders", "late_ordesr", 1)).unwrap();
    office
        .tunnel(&world, &["records", "--verify"])
        .await
        .refused(&["NOT sound", "changed"]);
    office.tunnel(&world, &["records"]).await.refused(&["damaged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch_stops_a_route_at_once_and_over_a_restart() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let mut gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.is_ok());
    office
        .tunnel(&world, &["kill", "order"])
        .await
        .refused(&["no route `order`", "orders"]);
    let said = office.tunnel(&world, &["kill", "orders", "--json"]).await.json();
    assert!(said["killed"]["routes"]["orders"].is_string(), "{said}");
    let fails = async || {
        until("calls are refused", SOON, || async {
            late_orders(&world, &office).await.err()
        })
        .await
    };
    // The caller is told the kind of refusal; why is for the owner, in the records.
    let refused = fails().await;
    assert!(refused.contains("-32011"), "{refused}");
    let shown = office.tunnel(&world, &["status", "--json"]).await.json();
    assert!(shown["killed"]["routes"]["orders"].is_string(), "{shown}");
    assert!(
        office
            .tunnel(&world, &["check"])
            .await
            .ok()
            .contains("orders is killed")
    );
    // A gateway that is started anew knows it.
    assert!(gateway.drain().await.success());
    let gateway = Gateway::connected(&world, &office).await;
    let refused = late_orders(&world, &office).await.unwrap_err();
    assert!(refused.contains("-32011"), "{refused}");
    office.tunnel(&world, &["revive", "orders"]).await.ok();
    let back = async || {
        until("calls pass again", SOON, || async {
            late_orders(&world, &office).await.ok()
        })
        .await
    };
    assert!(back().await.contains(&orders.parcel));

    // Everything, also when the configuration cannot be read.
    office.configure("routes:", "ruotes:");
    gateway.says("the new configuration is refused", 0).await;
    let ran = office.tunnel(&world, &["kill", "--all"]).await;
    assert!(ran.error.contains("ruotes"), "{}", ran.error);
    ran.ok();
    fails().await;
    office.configure("ruotes:", "routes:");
    office
        .tunnel(&world, &["revive", "orders"])
        .await
        .refused(&["everything is", "--all"]);
    office.tunnel(&world, &["revive", "--all"]).await.ok();
    assert!(back().await.contains(&orders.parcel));
    let refusals = office.tunnel(&world, &["records", "--refused", "--json"]).await.ok();
    assert!(refusals.contains("\"rule\":\"kill\""), "{refusals}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_route_reaches_the_session_as_its_error() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = Office::set_up(&world, &orders).await;
    let target = format!("\"http://{}\"", orders.address);
    office.configure(
        &target,
        &format!("{{url: {target}, tools: {{read_only: true}}, limits: {{per_tool: 1/h}}}}"),
    );
    let _gateway = Gateway::connected(&world, &office).await;
    assert!(late_orders(&world, &office).await.is_ok());
    let limited = late_orders(&world, &office).await.unwrap_err();
    assert!(limited.contains("limits.per_tool"), "{limited}");
    let events = called(&world, &office.url(), "cancel_order", json!({ "order": "1" })).await;
    let refused = Value::from(events).to_string();
    assert!(!refused.contains("Cancelled"), "{refused}");
    let shown = office.tunnel(&world, &["check", "--json"]).await.json();
    assert_eq!(
        shown["routes"][0]["rules"],
        json!(["tools (read_only)", "limits"]),
        "{shown}"
    );
    // Paused on the server's side, nothing passes either.
    let path = format!("/v1/tunnels/{}/pause", office.tunnel_id);
    world.api.post(&path, json!({})).await.ok();
    let paused = late_orders(&world, &office).await.unwrap_err();
    assert!(paused.contains("paused"), "{paused}");
    let shown = office.tunnel(&world, &["status"]).await.ok();
    assert!(shown.contains("PAUSED"), "{shown}");
}
