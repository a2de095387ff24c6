//! What a worker builds the boundary of a session from: what is in the document, who gets it, and that a wait for
//! another one ends at once when there is one.

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::authorization::{WORKER_KEY, claim_and_hold, server_with_worker_key};
use crate::world::api::id;
use crate::world::{Api, SCRIPT, SOON, World, rehearsal, script_message, until};

/// How long a wait is that has to be ended by what happens.
const LONG: u64 = 50;

fn path(session: &str) -> String {
    format!("/v1/outwork/sessions/{session}/boundary")
}

/// Waits for another document than the one with this hash while `change` is made, and gives it.
async fn woken_by(worker: &Api, session: &str, after: &Value, change: impl Future<Output = Value>) -> Value {
    let hash = after["hash"].as_str().unwrap().to_owned();
    let (waiting, at) = (worker.clone(), format!("{}?after={hash}&wait={LONG}", path(session)));
    let wait = tokio::spawn(async move { waiting.get(&at).await.ok() });
    // The wait is under way, or begins after the change: both give the new document.
    change.await;
    let next = timeout(SOON, wait).await.expect("the wait did not end").unwrap();
    assert_ne!(next["hash"], hash.as_str());
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boundary_of_a_cloud_session_follows_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let model = rehearsal().await;
    let server = server_with_worker_key(&folder.path().join("data"), &model.base_url()).await;
    let api = server.api();
    let networking = json!({ "type": "limited", "allowed_hosts": ["API.example.com"], "allow_mcp_servers": true });
    let config = json!({ "type": "cloud", "networking": networking });
    let environment = api
        .make("/v1/environments", json!({ "name": "cloud", "config": config }))
        .await;
    let tools = json!([{ "type": "agent_toolset_20260401" }, { "type": "mcp_toolset", "mcp_server_name": "wiki" }]);
    let servers = json!([{ "type": "url", "name": "wiki", "url": "https://wiki.example:8443/mcp" }]);
    let agent = api
        .make(
            "/v1/agents",
            json!({ "name": "a", "model": SCRIPT, "tools": tools, "mcp_servers": servers }),
        )
        .await;
    let session = api.session(&agent, &environment).await;
    api.send_events(
        &session,
        &[script_message(
            json!([{ "say": [{ "tool_use": { "name": "bash", "input": { "command": "true" } } }] }]),
        )],
    )
    .await;
    let own = server.api().with_bearer(WORKER_KEY);
    let polled = until("work of the session", SOON, async || {
        Some(own.get("/v1/outwork/work/poll?block_ms=500").await.ok()).filter(|work| !work.is_null())
    })
    .await;
    let worker = api.with_bearer(&crate::authorization::token_of(&polled));

    let first = worker.get(&path(&session)).await.ok();
    assert_eq!(first["environment"], "cloud");
    assert_eq!(first["environment_id"], environment.as_str());
    assert_eq!(first["session_id"], session.as_str());
    assert_eq!(first["agent"], json!({ "id": agent, "version": 1 }));
    assert_eq!(first["networking"]["allowed_hosts"], json!(["api.example.com"]));
    assert_eq!(first["networking"]["allow_package_managers"], false);
    assert_eq!(first["packages"]["pip"], json!([]));
    assert_eq!(
        first["mcp_servers"],
        json!([{ "name": "wiki", "host": "wiki.example", "port": 8443 }])
    );
    assert_eq!(first["stop"], Value::Null);
    assert_eq!(worker.get(&path(&session)).await.ok(), first);

    let environment_path = format!("/v1/environments/{environment}");
    let update = |config: Value| api.post(&environment_path, json!({ "config": config }));
    let open = json!({ "type": "cloud", "networking": { "type": "unrestricted" }, "packages": { "pip": ["rich"] } });
    let second = woken_by(&worker, &session, &first, async { update(open).await.ok() }).await;
    assert_eq!(second["networking"], json!({ "type": "unrestricted" }));
    assert_eq!(second["packages"]["pip"], json!(["rich"]));
    // What an update does not name stays, and what would let nothing be installed is refused.
    update(json!({ "type": "cloud" })).await.ok();
    assert_eq!(worker.get(&path(&session)).await.ok(), second);
    let closed = json!({ "type": "cloud", "networking": { "type": "limited" } });
    update(closed).await.refused(400, &["allow_package_managers"]);

    // Nothing changes: the wait ends by itself.
    let hash = second["hash"].as_str().unwrap();
    let same = worker.get(&format!("{}?after={hash}&wait=1", path(&session))).await;
    assert_eq!((same.status, same.text.as_str()), (204, ""));
    for (query, named) in [("after=x", "after"), ("wait=1", "wait"), ("wait=51&after=", "after")] {
        worker
            .get(&format!("{}?{query}", path(&session)))
            .await
            .refused(400, &[named]);
    }
    worker
        .get(&format!("{}?after={hash}&wait=51", path(&session)))
        .await
        .refused(400, &["wait", "50"]);
    api.get(&path(&session)).await.refused(403, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_resources_credentials_or_the_work_item_change() {
    let world = World::start().await;
    let api = &world.api;
    let vault = api.make("/v1/vaults", json!({ "display_name": "Alice" })).await;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let body = json!({ "agent": agent, "environment_id": environment, "vault_ids": [vault] });
    let session = api.make("/v1/sessions", body).await;
    let holder = api.with_bearer(&api.environment_key(&environment).await);
    let (work, token) = claim_and_hold(&holder, &environment).await;
    let worker = api.with_bearer(&token);

    let mut known = worker.get(&path(&session)).await.ok();
    assert_eq!(known["environment"], "self_hosted");
    assert_eq!((&known["networking"], &known["packages"]), (&Value::Null, &Value::Null));

    let file = id(&api.upload("a.csv", "a").await.ok());
    let resources = format!("/v1/sessions/{session}/resources");
    let added = json!({ "type": "file", "file_id": file, "mount_path": "/workspace/a.csv" });
    known = woken_by(&worker, &session, &known, async {
        api.post(&resources, added).await.ok()
    })
    .await;
    assert_eq!(known["resources"][0]["mount_path"], "/workspace/a.csv");

    let secret = "value-that-nobody-sees";
    let credentials = format!("/v1/vaults/{vault}/credentials");
    let variable = |value: &str| {
        json!({ "auth": {
            "type": "environment_variable", "secret_name": "API_KEY", "secret_value": value,
            "networking": { "type": "limited", "allowed_hosts": ["api.example.com"] },
        } })
    };
    known = woken_by(&worker, &session, &known, async {
        api.post(&credentials, variable(secret)).await.ok()
    })
    .await;
    let shown = &known["variables"][0];
    assert_eq!(shown["name"], "API_KEY");
    assert_eq!(shown["networking"]["allowed_hosts"], json!(["api.example.com"]));
    assert!(!known.to_string().contains(secret));

    let credential = shown["credential_id"].as_str().unwrap().to_owned();
    let replaced = json!({ "auth": { "type": "environment_variable", "secret_value": "another" } });
    known = woken_by(&worker, &session, &known, async {
        api.post(&format!("{credentials}/{credential}"), replaced).await.ok()
    })
    .await;
    assert_eq!(known["variables"][0]["credential_id"], credential.as_str());
    known = woken_by(&worker, &session, &known, async {
        api.delete(&format!("/v1/vaults/{vault}")).await.ok()
    })
    .await;
    assert_eq!(known["variables"], json!([]));

    // A gentle stop, then a forced one.
    let stop = format!("/v1/environments/{environment}/work/{work}/stop");
    known = woken_by(&worker, &session, &known, async {
        api.post(&stop, json!({})).await.ok()
    })
    .await;
    assert_eq!(known["stop"], "graceful");
    known = woken_by(&worker, &session, &known, async {
        api.post(&stop, json!({ "force": true })).await.ok()
    })
    .await;
    assert_eq!(known["stop"], "forced");
}
