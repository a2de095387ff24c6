//! Sessions with vaults: calls carry the token, a rejected one is refreshed on the way, one that cannot be is said.

use serde_json::{Value, json};

use super::upstream::Upstream;
use super::{LOOPBACK, MARK, vault};
use crate::world::{SCRIPT, ServerOptions, World, script_message};

/// A session of an agent with the upstream as its server `notes`, which has made one call.
async fn called(world: &World, upstream: &Upstream, vaults: &[&str]) -> Vec<Value> {
    let api = &world.api;
    let agent = json!({
        "name": "tester", "model": SCRIPT,
        "mcp_servers": [{ "type": "url", "name": "notes", "url": upstream.mcp_url() }],
        "tools": [{
            "type": "mcp_toolset", "mcp_server_name": "notes",
            "default_config": { "permission_policy": { "type": "always_allow" } },
        }],
    });
    let agent = api.make("/v1/agents", agent).await;
    let environment = api.environment("self_hosted").await;
    let body = json!({ "agent": agent, "environment_id": environment, "vault_ids": vaults });
    let session = api.make("/v1/sessions", body).await;
    let steps = json!([
        { "say": [{ "tool_use": { "name": "mcp__notes__lookup", "input": {} } }] },
        { "say": [{ "text": "done" }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    api.wait_idle(&session).await;
    let events = api.events(&session).await;
    assert!(!Value::from(events.clone()).to_string().contains(MARK));
    events
}

fn of_type<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_the_token_of_the_sessions_vault() {
    let world = World::start_with(ServerOptions::default().settings(LOOPBACK)).await;
    let upstream = Upstream::start().await;
    let vault = vault(&world.api).await;
    // The stored token is not taken; the first request of the session refreshes it.
    upstream.set(|known| {
        known.access_token = "taken-s3cr3t".into();
        known.refresh_token = "refresh-0-s3cr3t".into();
    });
    let credential = upstream.oauth("stale-s3cr3t", "refresh-0-s3cr3t", json!({ "type": "none" }));
    let path = format!("/v1/vaults/{vault}/credentials");
    let made = world.api.post(&path, credential).await.ok();
    let events = called(&world, &upstream, &[&vault]).await;
    let results = of_type(&events, "agent.mcp_tool_result");
    assert_eq!(results.len(), 1, "{events:?}");
    assert_eq!(results[0]["content"][0]["text"], "it is 42", "{events:?}");
    {
        let known = upstream.knowledge.lock().unwrap();
        assert_eq!(known.granted, 1);
        assert!(known.methods.contains(&"tools/call".to_owned()), "{:?}", known.methods);
    }
    // The next session begins with the token that the refresh brought.
    let events = called(&world, &upstream, &[&vault]).await;
    assert_eq!(of_type(&events, "agent.mcp_tool_result").len(), 1);
    assert_eq!(upstream.knowledge.lock().unwrap().granted, 1);

    // One that cannot be refreshed is said, by the server's name.
    upstream.set(|known| {
        known.access_token = "moved on".into();
        known.token_says = Some((400, json!({ "error": "invalid_grant" }).to_string()));
    });
    let failed = called(&world, &upstream, &[&vault]).await;
    let errors = of_type(&failed, "session.error");
    assert!(!errors.is_empty(), "{failed:?}");
    let error = &errors[0]["error"];
    assert_eq!(error["type"], "mcp_authentication_failed_error", "{error}");
    assert_eq!(error["mcp_server_name"], "notes", "{error}");
    assert!(error["message"].as_str().unwrap().contains("invalid_grant"), "{error}");

    // Without a vault, and after the credential is gone, there is no token at all.
    let id = made["id"].as_str().unwrap();
    world.api.post(&format!("{path}/{id}/archive"), json!({})).await.ok();
    for vaults in [&[][..], &[vault.as_str()]] {
        let failed = called(&world, &upstream, vaults).await;
        let error = &of_type(&failed, "session.error")[0]["error"];
        assert_eq!(error["type"], "mcp_authentication_failed_error", "{error}");
    }
    assert_eq!(upstream.knowledge.lock().unwrap().granted, 1);
}
