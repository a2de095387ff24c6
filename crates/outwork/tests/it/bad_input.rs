//! What bad input gets: a 4xx that says what was wrong, where, and what to do, and nothing lost.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::world::api::{BETA, id, of_type, text};
use crate::world::{ADMIN_KEY, Api, SCRIPT, SOON, World, message, script_message};

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
            &["tools.0.type", "mcp_toolset"],
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
            agent_with("mcp_servers", json!([{ "type": "url" }])),
            &["mcp_servers", "not supported"],
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
            with("vault_ids", json!(["vlt_1"])),
            &["vault_ids", "not supported"],
        ),
        (
            "/v1/sessions",
            with("resources", json!([{ "type": "file" }])),
            &["resources", "not supported"],
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
async fn a_body_that_is_too_large() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let huge = json!({ "events": [message(&"x".repeat(33 << 20))] });
    // The server may close the connection before all of it was sent.
    if let Ok(answer) = Api::try_send(api.request(Method::POST, &path).json(&huge)).await {
        answer.refused(413, &["32", "larger"].map(|w| if w == "32" { "33554432" } else { w }));
    }
    assert!(api.events(&session).await.is_empty());

    // A body that says its size is refused before it is sent.
    let mut connection = connect(api).await;
    let head = format!("{}content-length: 99999999999\r\n\r\n", head("POST", &path));
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(api.get(&format!("/v1/sessions/{session}")).await.ok()["status"], "idle");
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
        (Method::GET, "/v1/vaults", 404, "vaults"),
        (Method::POST, "/v1/vaults/vlt_1/credentials", 404, "vaults"),
        (Method::GET, "/v1/skills", 404, "skills"),
        (Method::POST, "/v1/files", 404, "Files API"),
        (Method::GET, "/v1/memory_stores/memstore_1", 404, "memory stores"),
        (Method::POST, "/v1/deployments", 404, "deployments"),
        (Method::GET, "/v1/deployment_runs", 404, "deployments"),
        (Method::GET, "/v1/tunnels", 404, "tunnels"),
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

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_nothing_of_another_kind_and_of_what_is_archived() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    for id in [
        environment.as_str(),
        "agent_0000000000000000000000",
        "agent_",
        "agent_../x",
        "%00",
        "agent_%F0%9F%98%80",
    ] {
        Api::send(api.request(Method::GET, &format!("/v1/agents/{id}")))
            .await
            .refused(404, &[]);
    }
    for id in [agent.as_str(), "sesn_0000000000000000000000", "x"] {
        api.get(&format!("/v1/sessions/{id}")).await.refused(404, &["session"]);
        api.get(&format!("/v1/sessions/{id}/events"))
            .await
            .refused(404, &["session"]);
        api.post(
            &format!("/v1/sessions/{id}/events"),
            json!({ "events": [message("x")] }),
        )
        .await
        .refused(404, &["session"]);
        api.get(&format!("/v1/environments/{id}/work"))
            .await
            .refused(404, &["environment"]);
    }
    api.get(&format!("/v1/sessions/{session}/threads/{session}"))
        .await
        .refused(404, &["thread"]);
    api.get(&format!("/v1/agents/{agent}?version=99"))
        .await
        .refused(404, &["99"]);

    // A session that is archived reads on and takes nothing more.
    api.post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .ok();
    let events = format!("/v1/sessions/{session}/events");
    api.post(&events, json!({ "events": [message("x")] }))
        .await
        .refused(400, &["archived"]);
    api.post(&format!("/v1/sessions/{session}"), json!({ "title": "new" }))
        .await
        .refused(400, &["archived"]);
    assert_eq!(
        api.get(&format!("/v1/sessions/{session}")).await.ok()["status"],
        "terminated"
    );
    assert!(!api.events(&session).await.is_empty());
    // An archived agent and an archived environment take no new session.
    let other = api.agent(SCRIPT, json!([])).await;
    api.post(&format!("/v1/agents/{other}/archive"), json!({})).await.ok();
    let body = json!({ "agent": other, "environment_id": environment });
    api.post("/v1/sessions", body)
        .await
        .refused(400, &["agent", "archived"]);
    api.post(&format!("/v1/agents/{other}"), json!({ "version": 1, "name": "y" }))
        .await
        .refused(400, &["archived"]);
    api.post(&format!("/v1/environments/{environment}/archive"), json!({}))
        .await
        .ok();
    let body = json!({ "agent": agent, "environment_id": environment });
    api.post("/v1/sessions", body)
        .await
        .refused(400, &["environment", "archived"]);
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
    api.get(&format!("/v1/sessions/{session}"))
        .await
        .refused(404, &["session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_of_the_past_does_not_hold_a_lease() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    api.session(&agent, &environment).await;
    let worker = api.with_bearer(&api.environment_key(&environment).await);
    let queue = format!("/v1/environments/{environment}/work");
    let work = id(&worker.get(&format!("{queue}/poll")).await.ok());
    let beat = async |expected: &str| {
        let path = format!("{queue}/{work}/heartbeat?desired_ttl_seconds=60&expected_last_heartbeat={expected}");
        worker.post(&path, json!({})).await
    };
    let lost = |answer: crate::world::Answer, expected: &str, actual: &Value, state: &str| {
        let shown = actual.as_str().unwrap_or("NULL").to_owned();
        let answer = answer.refused(412, &[expected, &shown]);
        let details = &answer.body["error"]["details"];
        assert_eq!(
            details["error_code"], "heartbeat_precondition_failed",
            "{}",
            answer.text
        );
        assert_eq!(details["error_visibility"], "user_facing");
        let current = details["current_state"].as_object().unwrap();
        let fields: Vec<&String> = current.keys().collect();
        assert_eq!(
            fields,
            [
                "state",
                "last_heartbeat",
                "lease_updated_at",
                "lease_extended",
                "ttl_seconds"
            ]
        );
        assert_eq!(
            (&current["state"], &current["lease_extended"]),
            (&json!(state), &json!(false))
        );
        assert_eq!(&current["last_heartbeat"], actual);
    };
    // Nobody holds what is only offered.
    lost(beat("NO_HEARTBEAT").await, "NO_HEARTBEAT", &Value::Null, "queued");
    worker.post(&format!("{queue}/{work}/ack"), json!({})).await.ok();
    lost(
        beat("2026-01-01T00:00:00.000000Z").await,
        "2026-01-01T00:00:00.000000Z",
        &Value::Null,
        "starting",
    );
    let first = beat("NO_HEARTBEAT").await.ok();
    assert_eq!(
        (&first["state"], &first["ttl_seconds"], &first["lease_extended"]),
        (&json!("active"), &json!(60), &json!(true))
    );
    // The first beat again, as another worker that believes to be the first would send it.
    lost(
        beat("NO_HEARTBEAT").await,
        "NO_HEARTBEAT",
        &first["last_heartbeat"],
        "active",
    );
    let stamp = first["last_heartbeat"].as_str().unwrap();
    let second = beat(stamp).await.ok();
    assert_ne!(second["last_heartbeat"], first["last_heartbeat"]);
    // A replay of the second beat.
    lost(beat(stamp).await, stamp, &second["last_heartbeat"], "active");
    // What failed changed nothing: the holder goes on.
    beat(second["last_heartbeat"].as_str().unwrap()).await.ok();
    worker
        .post(&format!("{queue}/{work}/ack"), json!({}))
        .await
        .refused(409, &["active"]);
    let path = format!("{queue}/{work}/heartbeat?desired_ttl_seconds=0");
    worker
        .post(&path, json!({}))
        .await
        .refused(400, &["desired_ttl_seconds"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_calls_that_are_answered_or_were_never_made() {
    let world = World::start().await;
    let api = &world.api;
    let custom = json!({
        "type": "custom", "name": "ticket", "description": "Opens a ticket.", "input_schema": { "type": "object" },
    });
    let ask = json!({
        "type": "agent_toolset_20260401",
        "configs": [{ "name": "write", "permission_policy": { "type": "always_ask" } }],
    });
    let agent = api.agent(SCRIPT, json!([ask, custom])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let steps = json!([
        { "say": [
            { "tool_use": { "name": "ticket", "input": {} } },
            { "tool_use": { "name": "bash", "input": { "command": "true" } } },
            { "tool_use": { "name": "write", "input": { "file_path": "a", "content": "b" } } },
        ] },
        { "say": [{ "text": "done" }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    let events = api
        .wait_for(&session, "requires_action", |e| {
            !of_type(e, "session.status_idle").is_empty()
        })
        .await;
    let call = |name: &str| id(events.iter().find(|e| e["name"] == name).unwrap());
    let (ticket, bash, write) = (call("ticket"), call("bash"), call("write"));
    let content = json!([{ "type": "text", "text": "fine" }]);
    let result = |call: &str| json!({ "type": "user.tool_result", "tool_use_id": call, "content": content });
    let ticket_result = json!({ "type": "user.custom_tool_result", "custom_tool_use_id": ticket, "content": content });
    let confirm =
        |call: &str, how: &str| json!({ "type": "user.tool_confirmation", "tool_use_id": call, "result": how });
    let message_id = id(&events[2]);
    let count = events.len();
    for (wrong, named) in [
        (
            vec![result("sevt_0000000000000000000000")],
            "sevt_0000000000000000000000",
        ),
        (vec![result(&message_id)], "no open tool call"),
        (vec![result(&ticket)], "custom tool call"),
        (
            vec![json!({ "type": "user.custom_tool_result", "custom_tool_use_id": bash, "content": content })],
            "user.tool_result",
        ),
        (vec![result(&write)], "confirmation"),
        (vec![confirm(&bash, "allow")], "does not wait for a confirmation"),
        (vec![confirm(&write, "allow"), confirm(&write, "deny")], "events.1"),
        (vec![result(&bash), result(&bash)], "events.1"),
        (vec![confirm(&write, "deny"), result(&write)], "events.1"),
        (
            vec![
                json!({ "type": "user.tool_confirmation", "tool_use_id": write, "result": "allow", "deny_message": "no" }),
            ],
            "deny_message",
        ),
        (vec![ticket_result.clone(), result("sevt_1")], "events.1"),
    ] {
        let answer = api.post(&path, json!({ "events": wrong })).await;
        assert_eq!(answer.status, 400, "{wrong:?}: {}", answer.text);
        answer.refused(400, &[named]);
    }
    assert_eq!(
        api.events(&session).await.len(),
        count,
        "a refused batch left something"
    );

    api.send_events(&session, &[result(&bash), confirm(&write, "allow")])
        .await;
    api.post(&path, json!({ "events": [result(&bash)] }))
        .await
        .refused(400, &["answer already"]);
    api.post(&path, json!({ "events": [confirm(&write, "allow")] }))
        .await
        .refused(400, &["confirmation"]);
    api.send_events(&session, &[ticket_result.clone(), result(&write)])
        .await;
    let events = api.wait_idle(&session).await;
    assert_eq!(text(of_type(&events, "agent.message")[0]), "done");
    for late in [result(&bash), ticket_result] {
        api.post(&path, json!({ "events": [late] }))
            .await
            .refused(400, &["answer already"]);
    }
    crate::world::log::check(&api.events(&session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_at_work_is_not_archived_or_deleted() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("cloud").await;
    let session = api.session(&agent, &environment).await;
    let steps = json!([{ "say": [{ "text": "late" }], "faults": [{ "hang": "silence" }] }]);
    api.send_events(&session, &[script_message(steps)]).await;
    api.wait_for(&session, "running", |e| {
        !of_type(e, "span.model_request_start").is_empty()
    })
    .await;
    api.post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .refused(400, &["running", "user.interrupt"]);
    api.delete(&format!("/v1/sessions/{session}"))
        .await
        .refused(400, &["running", "user.interrupt"]);
    api.send_events(&session, &[json!({ "type": "user.interrupt" })]).await;
    api.wait_idle(&session).await;
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_head_too_slowly_is_dropped() {
    let world = World::start().await;
    let mut slow = connect(&world.api).await;
    let mut silent = connect(&world.api).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
        .await
        .unwrap();
    let began = Instant::now();
    // One byte now and then does not keep a connection: the whole head has its time.
    let dropped = timeout(3 * SOON, async {
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                read = slow.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
                    }
                },
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    let _ = slow.write_all(b"x").await;
                }
            }
        }
    });
    dropped.await.expect("a slow client keeps its connection");
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "a client was dropped after {:?}",
        began.elapsed()
    );
    let mut buffer = [0; 16];
    timeout(3 * SOON, silent.read(&mut buffer))
        .await
        .expect("a silent client keeps its connection")
        .ok();
    world.api.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_too_early_or_never_begins() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let body = json!({ "events": [message("half")] }).to_string();
    // Half a body and then nothing more: the connection goes, and nothing of it is taken in.
    for _ in 0..20 {
        let mut connection = connect(api).await;
        let head = format!("{}content-length: {}\r\n\r\n", head("POST", &path), body.len());
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body.as_bytes()[..body.len() / 2]).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, connection.read_to_end(&mut rest))
            .await
            .expect("the connection stays open")
            .ok();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    // What follows the body is not part of it.
    let mut connection = connect(api).await;
    let head = format!("{}content-length: {}\r\n\r\n", head("POST", &path), body.len() - 1);
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body.as_bytes()).await.unwrap();
    let answer = read_head(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(api.events(&session).await.is_empty());
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.base_url().strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// The head of a request with a JSON body, without its length and its end.
fn head(method: &str, path: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {ADMIN_KEY}\r\nanthropic-version: 2023-06-01\r\n\
         anthropic-beta: {BETA}\r\ncontent-type: application/json\r\n"
    )
}

/// The first bytes of an answer.
async fn read_head(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = timeout(SOON, connection.read(&mut buffer))
            .await
            .expect("no answer")
            .unwrap();
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}
