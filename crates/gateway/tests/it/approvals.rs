//! Calls that need a named approval.

use serde_json::json;

use crate::world::{Plan, Server, until};

const RULES: &str = "approvals: [{tool: 'deploy*', arguments: {env: 'prod*'}}]";

#[tokio::test]
async fn a_refusal_says_how_and_the_approval_then_holds() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, RULES)
        .more("approvals_file: approvals.yaml")
        .file("approvals.yaml", "approvals: []\n")
        .start();
    let mut caller = world.caller("wiki").await;
    assert_eq!(caller.tool("deploy", json!({"env": "test"})).await.rule(), None);
    assert_eq!(caller.tool("echo", json!({"env": "prod"})).await.rule(), None);

    let refused = caller.tool("deploy", json!({"env": "prod-eu", "n": 1})).await;
    assert_eq!(refused.rule().as_deref(), Some("approvals"));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    let hash = message.split("arguments_sha256: ").nth(1).unwrap()[..64].to_owned();
    assert_eq!(server.called(), ["deploy", "echo"]);

    let approval = format!(
        "approvals:\n- name: CHG-7\n  approver: alice\n  tool: deploy\n  arguments_sha256: {hash}\n  expires: 2999-01-01T00:00:00Z\n"
    );
    world.write("approvals.yaml", &approval);
    let reloads = || world.gateway.metrics.reloads.load(std::sync::atomic::Ordering::Relaxed);
    until(|| reloads() == 1).await;
    assert_eq!(
        caller.tool("deploy", json!({"n": 1, "env": "prod-eu"})).await.rule(),
        None
    );
    assert_eq!(
        caller
            .tool("deploy", json!({"n": 2, "env": "prod-eu"}))
            .await
            .rule()
            .as_deref(),
        Some("approvals")
    );
    let records = world.records(5).await;
    assert_eq!(
        (records[3].approval.as_deref(), records[3].approver.as_deref()),
        (Some("CHG-7"), Some("alice"))
    );

    // Expired, then broken: neither approves.
    for text in [approval.replace("2999", "2020"), "approvals: [".to_owned()] {
        let before = reloads();
        world.write("approvals.yaml", &text);
        until(|| reloads() > before).await;
        let refused = caller.tool("deploy", json!({"n": 1, "env": "prod-eu"})).await;
        assert_eq!(refused.rule().as_deref(), Some("approvals"));
    }
}

#[tokio::test]
async fn arguments_that_two_readers_read_differently_are_not_approved() {
    let server = Server::mcp().await;
    let approval = "approvals:\n- name: a\n  approver: b\n  tool: deploy\n  arguments: {env: '*'}\n  expires: 2999-01-01T00:00:00Z\n";
    let world = Plan::wiki(&server, "approvals: [{tool: deploy}]")
        .more("approvals_file: approvals.yaml")
        .file("approvals.yaml", approval)
        .start();
    let mut caller = world.caller("wiki").await;
    assert_eq!(caller.tool("deploy", json!({"env": "x"})).await.rule(), None);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"deploy","arguments":{"env":"x","env":"y"}}}"#;
    let mut request = caller.request(http::Method::POST, "/mcp", body);
    request
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    assert_eq!(caller.send(request).await.rule().as_deref(), Some("approvals"));
    assert_eq!(server.called().len(), 1);
}
