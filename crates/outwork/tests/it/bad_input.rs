//! What bad input gets: a 4xx that says what was wrong, where, and what to do, and nothing lost.

mod connections;
mod state;

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::api::BETA;
use crate::world::{Api, SCRIPT, World, message};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_strictly() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let events = format!("/v1/sessions/{session}/events");
    let with = |field: &str, value: Value| {
        let mut body = json!({ "agent": agent, "environment_id": environment });
        body[field] = value;
        body
    };
    let agent_with = |field: &str, value: Value| {
        let mut body = json!({ "name": "x", "model": SCRIPT });
        body[field] = value;
        body
    };
    let event = |event: Value| json!({ "events": [message("first"), event] });
    let text_block = json!([{ "type": "text", "text": "x" }]);
    let cases: Vec<(&str, Value, &[&str])> = vec![
        // Unknown fields.
        ("/v1/agents", agent_with("colour", json!("red")), &["colour"]),
        (
            "/v1/agents",
            agent_with("tools", json!([{ "type": "custom", "nam": "x" }])),
            &["tools[0]", "nam"],
        ),
        ("/v1/environments", json!({ "name": "x", "confg": {} }), &["confg"]),
        (
            "/v1/environments",
            json!({ "name": "x", "config": { "type": "self_hosted", "image": "x" } }),
            &["image"],
        ),
        ("/v1/sessions", with("agnt", json!(1)), &["agnt"]),
        ("/v1/api_keys", json!({ "name": "x", "secret": "mine" }), &["secret"]),
        (&events, json!({ "events": [], "event": [] }), &["event"]),
        (
            &events,
            event(json!({ "type": "user.message", "content": text_block, "role": "user" })),
            &["events.1", "role"],
        ),
        // Missing fields.
        ("/v1/agents", json!({ "name": "x" }), &["model"]),
        ("/v1/sessions", json!({ "agent": agent }), &["environment_id"]),
        (&events, json!({}), &["events"]),
        (&events, event(json!({ "content": text_block })), &["events.1.type"]),
        (
            &events,
            event(json!({ "type": "user.message" })),
            &["events.1", "content"],
        ),
        // Wrong types.
        ("/v1/agents", json!([]), &["array", "object"]),
        ("/v1/workspaces", json!(["x"]), &["array", "object"]),
        ("/v1/workspaces", json!("x"), &["string"]),
        ("/v1/workspaces", json!(null), &["null"]),
        ("/v1/agents", agent_with("name", json!(7)), &["name"]),
        ("/v1/agents", agent_with("tools", json!("bash")), &["tools"]),
        (
            "/v1/agents",
            agent_with("tools", json!([["custom", null, null, "x", "x", {}, null]])),
            &["tools[0]", "array"],
        ),
        (
            "/v1/environments",
            json!({ "name": "x", "config": ["self_hosted", null, null] }),
            &["config", "array"],
        ),
        (
            &events,
            event(json!({ "type": "user.message", "content": [["text", "hi"]] })),
            &["events[1].content[0]", "array"],
        ),
        (
            "/v1/agents",
            agent_with("metadata", json!({ "a": 1 })),
            &["metadata", "a"],
        ),
        ("/v1/sessions", with("agent", json!(7)), &["agent"]),
        ("/v1/sessions", with("title", json!(["x"])), &["title"]),
        (&events, json!({ "events": {} }), &["events"]),
        (&events, event(json!("hello")), &["events.1"]),
        (
            &events,
            event(json!({ "type": "user.message", "content": "x" })),
            &["events.1.content"],
        ),
        (
            &events,
            event(json!({ "type": "user.message", "content": [{ "type": "text", "text": 1 }] })),
            &["events.1.content[0]"],
        ),
        // Values that are none of those that exist.
        (
            "/v1/agents",
            agent_with("tools", json!([{ "type": "browser" }])),
            &["tools.0.type", "browser"],
        ),
        (
            "/v1/agents",
            agent_with("tools", json!([{ "type": "mcp_toolset" }])),
            &["tools.0.mcp_server_name", "mcp_toolset"],
        ),
        (
            "/v1/agents",
            agent_with(
                "tools",
                json!([{ "type": "agent_toolset_20260401", "default_config": { "permission_policy": { "type": "auto" } } }]),
            ),
            &["tools.0.default_config.permission_policy.type", "auto"],
        ),
        (
            "/v1/agents",
            agent_with(
                "tools",
                json!([{ "type": "agent_toolset_20260401", "configs": [{ "name": "telnet" }] }]),
            ),
            &["tools.0.configs.0.name", "telnet"],
        ),
        (
            "/v1/agents",
            agent_with("model", json!({ "id": SCRIPT, "speed": "warp" })),
            &["speed", "warp"],
        ),
        (
            "/v1/environments",
            json!({ "name": "x", "config": { "type": "lunar" } }),
            &["config.type", "lunar"],
        ),
        (
            "/v1/environments",
            json!({ "name": "x", "scope": "galaxy" }),
            &["scope", "galaxy"],
        ),
        (
            "/v1/api_keys",
            json!({ "name": "x", "role": "owner" }),
            &["role", "owner"],
        ),
        (
            &events,
            event(json!({ "type": "user.shout" })),
            &["events.1.type", "user.shout"],
        ),
        (
            &events,
            event(json!({ "type": "agent.message", "content": text_block })),
            &["events.1.type", "agent.message"],
        ),
        (
            &events,
            event(json!({ "type": "user.message", "content": [{ "type": "video" }] })),
            &["events.1", "video"],
        ),
        (
            &events,
            event(json!({ "type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "maybe" })),
            &["events.1.result", "maybe"],
        ),
        // Parts of the contract that are not served.
        (
            "/v1/agents",
            agent_with("mcp_servers", json!([{ "type": "url", "name": "x", "url": "ftp://x" }])),
            &["mcp_servers.0.url"],
        ),
        (
            "/v1/agents",
            agent_with("skills", json!([{ "type": "anthropic" }])),
            &["skills", "not supported"],
        ),
        (
            "/v1/agents",
            agent_with("multiagent", json!({ "type": "coordinator" })),
            &["multiagent", "not supported"],
        ),
        (
            "/v1/sessions",
            with("budget", json!({ "type": "limit" })),
            &["budget", "not supported"],
        ),
        (
            "/v1/sessions",
            with("vault_ids", json!(["agent_1"])),
            &["vault_ids", "vlt_"],
        ),
        (
            "/v1/sessions",
            with(
                "resources",
                json!([{ "type": "memory_store", "memory_store_id": "memstore_1" }]),
            ),
            &["resources.0.type", "not supported"],
        ),
        (
            "/v1/sessions",
            with("initial_events", json!([{ "type": "user.interrupt" }])),
            &["initial_events.0.type"],
        ),
        (
            &events,
            event(json!({ "type": "user.define_outcome" })),
            &["events.1.type", "user.define_outcome"],
        ),
        // Ids of another kind, and values without sense.
        (
            "/v1/sessions",
            with("environment_id", json!(agent)),
            &["environment_id"],
        ),
        ("/v1/sessions", with("agent", json!(environment)), &["agent"]),
        (
            &events,
            event(json!({ "type": "user.tool_result", "tool_use_id": session })),
            &["tool_use_id"],
        ),
        (&events, json!({ "events": [] }), &["events"]),
        (
            &events,
            event(json!({ "type": "user.message", "content": [] })),
            &["events.1", "content"],
        ),
        (
            &events,
            event(json!({ "type": "user.message", "content": [{ "type": "text", "text": "" }] })),
            &["events.1", "content.0"],
        ),
        ("/v1/agents", agent_with("name", json!("")), &["name"]),
        ("/v1/agents", agent_with("name", json!("x".repeat(300))), &["name"]),
        (
            "/v1/api_keys",
            json!({ "name": "x", "expires_at": "2001-01-01T00:00:00Z" }),
            &["expires_at"],
        ),
    ];
    for (path, body, named) in cases {
        let answer = api.post(path, body.clone()).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        answer.refused(400, named);
    }
    // Nothing of any batch was taken in, and nothing was made.
    assert!(api.events(&session).await.is_empty());
    assert_eq!(api.get("/v1/agents").await.ok()["data"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/v1/sessions").await.ok()["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        api.get("/v1/environments").await.ok()["data"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_json() {
    let world = World::start().await;
    let api = &world.api;
    let send = async |body: Vec<u8>, content_type: &str| {
        Api::send(
            api.request(Method::POST, "/v1/agents")
                .header("content-type", content_type)
                .body(body),
        )
        .await
    };
    for body in [
        "{",
        "{\"name\": \"x\"",
        "nope",
        "{\"name\": \"x\",}",
        "{} {}",
        "{\"name\": \"\\ud800\"}",
        "[1, 2",
    ] {
        send(body.into(), "application/json").await.refused(400, &[]);
    }
    send(b"{\"name\": \"\xff\xfe\"}".to_vec(), "application/json")
        .await
        .refused(400, &[]);
    send(br#"{"name": "x", "model": "m"}"#.to_vec(), "text/plain")
        .await
        .refused(400, &["content-type", "application/json"]);
    send(
        br#"{"name": "x", "model": "m", "name": "y"}"#.to_vec(),
        "application/json",
    )
    .await
    .refused(400, &["name"]);
    let deep = format!(
        "{{\"name\": \"x\", \"model\": {}1{}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    send(deep.into(), "application/json")
        .await
        .refused(400, &["nested", "64"]);
    let very_deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    send(very_deep.into(), "application/json")
        .await
        .refused(400, &["nested"]);
    let deep_schema = (0..70).fold(json!(1), |inner, _| json!({ "a": inner }));
    let tool = json!({ "type": "custom", "name": "x", "description": "x", "input_schema": deep_schema });
    api.post("/v1/agents", json!({ "name": "x", "model": "m", "tools": [tool] }))
        .await
        .refused(400, &["nested"]);
    // What is not too deep is not refused for its brackets within strings.
    let brackets = "[".repeat(500);
    api.post(
        "/v1/agents",
        json!({ "name": "x", "model": "m", "description": brackets }),
    )
    .await
    .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_read_strictly() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let worker = api.with_bearer(&api.environment_key(&environment).await);
    let cases: Vec<(String, &[&str])> = vec![
        ("/v1/agents?limt=5".into(), &["limt"]),
        ("/v1/agents?limit=0".into(), &["limit"]),
        ("/v1/agents?limit=101".into(), &["limit", "100"]),
        ("/v1/agents?limit=many".into(), &["limit", "many"]),
        ("/v1/agents?limit=1&limit=2".into(), &["limit"]),
        ("/v1/agents?page=garbage".into(), &["page"]),
        ("/v1/agents?include_archived=yes".into(), &["include_archived", "yes"]),
        (format!("/v1/agents/{agent}?version=-1"), &["version"]),
        (format!("/v1/agents/{agent}?version=0"), &["version"]),
        ("/v1/sessions?statuses[]=asleep".into(), &["statuses", "asleep"]),
        ("/v1/sessions?order=sideways".into(), &["order", "sideways"]),
        (
            "/v1/sessions?created_at[gt]=yesterday".into(),
            &["created_at[gt]", "yesterday"],
        ),
        ("/v1/sessions?agent_id=env_1".into(), &["agent_id"]),
        (
            "/v1/sessions?deployment_id=depl_1".into(),
            &["deployment_id", "not supported"],
        ),
        (format!("/v1/sessions/{session}?expand=all"), &["expand"]),
        (
            format!("/v1/sessions/{session}/events?types[]=user.shout"),
            &["types", "user.shout"],
        ),
        (format!("/v1/sessions/{session}/events?limit=1001"), &["limit", "1000"]),
        (
            format!("/v1/sessions/{session}/events/stream?event_deltas[]=user.message"),
            &["event_deltas", "user.message"],
        ),
        (format!("/v1/sessions/{session}/events/stream?since=now"), &["since"]),
        (format!("/v1/environments/{environment}/work?state=queued"), &["state"]),
        ("/v1/models?lifecycle=old".into(), &["lifecycle", "old"]),
    ];
    for (path, named) in cases {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        answer.refused(400, named);
    }
    let poll = format!("/v1/environments/{environment}/work/poll");
    for (query, named) in [
        ("block_ms=0", "block_ms"),
        ("block_ms=1000", "block_ms"),
        ("wait=1", "wait"),
    ] {
        worker.get(&format!("{poll}?{query}")).await.refused(400, &[named]);
    }
    // A cursor of one list is none of another.
    api.session(&agent, &environment).await;
    let page = api.get("/v1/sessions?limit=1").await.ok()["next_page"]
        .as_str()
        .unwrap()
        .to_owned();
    api.get(&format!("/v1/sessions?limit=1&page={page}")).await.ok();
    api.get(&format!("/v1/agents?page={page}"))
        .await
        .refused(400, &["page"]);
    api.get(&format!("/v1/sessions/{session}/events?page={page}"))
        .await
        .refused(400, &["page"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_asked_for_and_known() {
    let world = World::start().await;
    let api = &world.api;
    let get = async |path: &str, version: Option<&str>, beta: Option<&str>| {
        let mut request = api.bare(Method::GET, path);
        if let Some(version) = version {
            request = request.header("anthropic-version", version);
        }
        if let Some(beta) = beta {
            request = request.header("anthropic-beta", beta);
        }
        Api::send(request).await
    };
    let path = "/v1/agents";
    for version in ["2023-06-01", "2026-10-21"] {
        get(path, Some(version), Some(BETA)).await.ok();
        get(path, Some(version), Some(&format!("files-api-2025-04-14, {BETA}")))
            .await
            .ok();
    }
    get(path, None, Some(BETA))
        .await
        .refused(400, &["anthropic-version", "2026-10-21"]);
    get(path, Some("2020-01-01"), Some(BETA))
        .await
        .refused(400, &["anthropic-version", "2020-01-01"]);
    get(path, Some("2023-06-01"), None)
        .await
        .refused(400, &["anthropic-beta", BETA]);
    get(path, Some("2023-06-01"), Some("files-api-2025-04-14"))
        .await
        .refused(400, &[BETA]);
    get(
        path,
        Some("2023-06-01"),
        Some(&format!("{BETA},time-travel-2030-01-01")),
    )
    .await
    .refused(400, &["time-travel-2030-01-01"]);
    // Models are no part of the beta surface; the health of the service needs no version at all.
    get("/v1/models", Some("2023-06-01"), None).await.ok();
    get("/v1/models", None, None).await.refused(400, &["anthropic-version"]);
    get("/healthz", None, None).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_said_by_its_name() {
    let world = World::start().await;
    let api = &world.api;
    for (method, path, status, named) in [
        (Method::PUT, "/v1/vaults/vlt_1", 405, "PUT"),
        (Method::GET, "/v1/skills", 404, "skills"),
        (Method::PUT, "/v1/files/file_1", 405, "PUT"),
        (Method::GET, "/v1/memory_stores/memstore_1", 404, "memory stores"),
        (Method::POST, "/v1/deployments", 404, "deployments"),
        (Method::GET, "/v1/deployment_runs", 404, "deployments"),
        (Method::GET, "/v1/tunnels/tnl_1/nonsense", 404, "no such endpoint"),
        (Method::POST, "/v1/dreams", 404, "dreams"),
        (Method::GET, "/v1/user_profiles", 404, "user profiles"),
        (Method::POST, "/v1/messages", 404, "Messages API"),
        (Method::GET, "/v1/nonsense", 404, "/v1/nonsense"),
        (Method::GET, "/", 404, "GET /"),
        (Method::DELETE, "/v1/agents", 405, "DELETE"),
        (Method::PUT, "/v1/sessions", 405, "PUT"),
        (Method::PATCH, "/v1/environments/env_1", 405, "PATCH"),
        (Method::GET, "/v1/sessions/sesn_1/archive", 405, "GET"),
    ] {
        let answer = Api::send(api.request(method.clone(), path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        answer.refused(status, &[named]);
        // To somebody without a credential nothing is said of what there is.
        Api::send(api.without_credential().request(method, path))
            .await
            .refused(401, &[]);
    }
}
