//! Which tools may be called: by name, by hint, and how often.

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::server::{json_answer, mcp, pieces};
use crate::world::{Plan, Server};

fn names(list: &Value) -> Vec<&str> {
    list["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect()
}

fn list() -> Value {
    json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"})
}

#[tokio::test]
async fn by_name() {
    for (rules, allowed, listed) in [
        (
            "",
            vec!["read", "write", "drop", "echo"],
            vec!["read", "write", "drop", "echo"],
        ),
        (
            "tools: {allow: [read, 'ec*']}",
            vec!["read", "echo"],
            vec!["read", "echo"],
        ),
        ("tools: {deny: ['*r*']}", vec!["echo"], vec!["echo"]),
        (
            "tools: {allow: ['*'], deny: [drop]}",
            vec!["read", "write", "echo"],
            vec!["read", "write", "echo"],
        ),
        ("tools: {allow: []}", vec![], vec![]),
    ] {
        let server = Server::mcp().await;
        let world = Plan::wiki(&server, rules).start();
        let mut caller = world.caller("wiki").await;
        for tool in ["read", "write", "drop", "echo"] {
            let answer = caller.tool(tool, json!({})).await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.json()["id"], 7);
            assert_eq!(
                answer.json()["result"].is_object(),
                allowed.contains(&tool),
                "{rules}: {tool}"
            );
            assert_eq!(answer.rule().is_none(), allowed.contains(&tool), "{rules}: {tool}");
        }
        assert_eq!(server.called(), allowed, "{rules}");
        assert_eq!(names(&caller.post(&list(), &[]).await.json()), listed, "{rules}");
    }
}

#[tokio::test]
async fn by_the_hint_that_is_asked_for() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "tools: {read_only: true}").start();
    let mut caller = world.caller("wiki").await;
    // Nothing has been listed yet: the gateway asks, once, with the caller's headers.
    let headers = [("authorization", "Bearer s"), ("mcp-session-id", "s1")];
    let call = |tool: &str| crate::world::caller::call(tool, json!({}));
    assert!(caller.post(&call("read"), &headers).await.json()["result"].is_object());
    for tool in ["write", "drop", "echo", "unknown"] {
        let answer = caller.post(&call(tool), &headers).await;
        assert_eq!(answer.rule().as_deref(), Some("tools.read_only"), "{tool}");
    }
    assert_eq!(server.called(), ["read"]);
    let asked: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.json()["method"] == "tools/list")
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].header("authorization"), asked[0].header("mcp-session-id")),
        (Some("Bearer s"), Some("s1"))
    );
    assert_eq!(names(&caller.post(&list(), &headers).await.json()), ["read"]);
}

#[tokio::test]
async fn by_the_hint_in_the_new_revision_with_pages() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            let message = seen.json();
            if message["method"] != "tools/list" {
                return mcp(&seen);
            }
            // As a server of the new revision checks it.
            let agrees = seen.header("mcp-method") == Some("tools/list")
                && seen.header("mcp-name").is_none()
                && message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28";
            assert!(agrees, "{seen:?}");
            let (tool, cursor) = match message["params"]["cursor"].as_str() {
                None => (json!({"name": "first"}), json!("next")),
                Some(_) => (
                    json!({"name": "read", "annotations": {"readOnlyHint": true}}),
                    Value::Null,
                ),
            };
            json_answer(
                &json!({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": [tool], "nextCursor": cursor}}),
            )
        })
    })
    .await;
    let world = Plan::wiki(&server, "tools: {read_only: true}").start();
    let mut caller = world.caller("wiki").await;
    for (tool, allowed) in [("read", true), ("first", false)] {
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool,
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        let answer = caller.post(&message, &headers).await;
        assert_eq!(answer.json()["result"].is_object(), allowed, "{tool}: {answer:?}");
    }
    assert_eq!(server.called(), ["read"]);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_allows_nothing() {
    for kind in ["error", "status", "html", "endless"] {
        let server = Server::with(move |seen| {
            Box::pin(async move {
                let message = seen.json();
                match kind {
                    _ if message["method"] != "tools/list" => mcp(&seen),
                    "error" => json_answer(
                        &json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": 1, "message": "no"}}),
                    ),
                    "status" => crate::world::server::whole(StatusCode::UNAUTHORIZED, "text/plain", "no"),
                    "html" => crate::world::server::whole(StatusCode::OK, "text/html", "<p>"),
                    _ => json_answer(
                        &json!({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": [], "nextCursor": "more"}}),
                    ),
                }
            })
        })
        .await;
        let world = Plan::wiki(&server, "tools: {read_only: true}").start();
        let answer = world.caller("wiki").await.tool("read", json!({})).await;
        assert_eq!(answer.rule().as_deref(), Some("tools.read_only"), "{kind}");
        assert!(server.called().is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn hints_are_learnt_from_lists_that_pass_as_events() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            let message = seen.json();
            if message["method"] != "tools/list" {
                return mcp(&seen);
            }
            let (sender, response) = pieces("text/event-stream");
            let tools = crate::world::server::tools();
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": tools}});
            let text = format!(": hello\n\nevent: message\nid: 1\ndata: {answer}\n\n");
            for piece in text.as_bytes().chunks(7) {
                sender.send(bytes::Bytes::copy_from_slice(piece)).await.ok();
                if sender.capacity() == 0 {
                    break;
                }
            }
            let rest = bytes::Bytes::copy_from_slice(&text.as_bytes()[7 * 16..]);
            tokio::spawn(async move { sender.send(rest).await });
            response
        })
    })
    .await;
    let world = Plan::wiki(&server, "tools: {read_only: true}").start();
    let mut caller = world.caller("wiki").await;
    let answer = caller.post(&list(), &[]).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.starts_with(": hello\n\nevent: message\nid: 1\ndata: {"), "{text}");
    assert!(text.contains("\"read\"") && !text.contains("write"), "{text}");
    assert!(caller.tool("read", json!({})).await.json()["result"].is_object());
    assert_eq!(
        caller.tool("write", json!({})).await.rule().as_deref(),
        Some("tools.read_only")
    );
    let asked = server
        .seen()
        .into_iter()
        .filter(|seen| seen.json()["method"] == "tools/list")
        .count();
    assert_eq!(asked, 1, "what passed was enough");

    // And by the question itself, answered as events.
    let world = Plan::wiki(&server, "tools: {read_only: true}").start();
    assert!(world.caller("wiki").await.tool("read", json!({})).await.json()["result"].is_object());
}

#[tokio::test]
async fn a_call_without_an_id_is_ruled_too() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "tools: {deny: [drop]}").start();
    let message = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "drop"}});
    let answer = world.caller("wiki").await.post(&message, &[]).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::FORBIDDEN, Some("tools.deny"))
    );
    assert!(server.called().is_empty());
}

#[tokio::test]
async fn how_often() {
    let server = Server::mcp().await;
    let world = Plan::wiki(
        &server,
        "limits: {per_tool: {echo: 2/h}, per_session: 4/h, per_route: 7/h}",
    )
    .start();
    let mut caller = world.caller("wiki").await;
    let one = [("mcp-session-id", "one")];
    let two = [("mcp-session-id", "two")];
    let call = |tool: &str| crate::world::caller::call(tool, json!({}));
    for (tool, session, rule) in [
        ("echo", &one, None),
        ("echo", &one, None),
        ("echo", &one, Some("limits.per_tool")),
        ("read", &one, None),
        ("read", &one, Some("limits.per_session")),
        ("read", &two, None),
        ("read", &two, None),
        ("read", &two, Some("limits.per_route")),
    ] {
        let answer = caller.post(&call(tool), session).await;
        assert_eq!(answer.rule().as_deref(), rule, "{tool} {session:?}");
        if rule.is_some() {
            assert_eq!(answer.status, StatusCode::OK);
            assert!(answer.json()["error"]["data"]["retry_after_ms"].as_u64().unwrap() > 0);
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert_eq!(server.called().len(), 5);
}
