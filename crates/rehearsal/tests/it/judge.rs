//! Requests that the server refuses, as the service does.

use outwork_rehearsal::Scenario;
use serde_json::{Value, json};

use crate::client::{KEY, Server, go_on, request, text_of, tool};

fn call(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "t", "input": {}})
}

fn result(id: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": "ok"})
}

#[tokio::test]
async fn messages_that_a_loop_gets_wrong() {
    let server = Server::with(Scenario::built_in()).await;
    let cases = [
        (json!([]), "at least one message"),
        (
            json!([{"role": "assistant", "content": "x"}]),
            "first message must use the \"user\" role",
        ),
        (json!([{"role": "robot", "content": "x"}]), "messages.0.role"),
        (json!([{"role": "user", "content": ""}]), "non-empty content"),
        (json!([{"role": "user", "content": []}]), "non-empty content"),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": ""}]}]),
            "messages.0.content.0: text content blocks must be non-empty",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": " \n"}]}]),
            "non-whitespace",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "x", "index": 0}]}]),
            "index: Extra inputs",
        ),
        (
            json!([{"role": "user", "content": "x", "name": "me"}]),
            "messages.0.name: Extra inputs",
        ),
        (json!([{"role": "user", "content": [{"type": "video"}]}]), "'video'"),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a")]}]),
            "without `tool_result` blocks immediately after: a",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a"), call("b")]}, {"role": "user", "content": [result("a")]}]),
            "immediately after: b",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a")]}, {"role": "user", "content": "y"}]),
            "immediately after: a",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a")]},
                {"role": "user", "content": [{"type": "text", "text": "y"}, result("a")]}]),
            "must come first",
        ),
        (
            json!([{"role": "user", "content": [result("a")]}]),
            "unexpected `tool_use_id`",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a")]}, {"role": "user", "content": [result("a"), result("a")]}]),
            "single result",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a")]}, {"role": "user", "content": [result("a")]},
                {"role": "assistant", "content": "fine"}, {"role": "user", "content": [result("a")]}]),
            "unexpected `tool_use_id`",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [call("a"), call("a")]}]),
            "must be unique",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": "{}"}]}]),
            "tool_use.input",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "text", "text": ""}, call("a")]}, {"role": "user", "content": [result("a")]}]),
            "messages.1.content.0",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "hm"}]),
            "prefill",
        ),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "c2lnbg=="}]}, {"role": "user", "content": "y"}]),
            "Invalid `signature`",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?"}}]}]),
            "valid base64",
        ),
    ];
    for (messages, fault) in cases {
        let refusal = server.refusal(&request("rehearsal/echo", messages.clone())).await;
        assert!(refusal.contains(fault), "{messages}: {refusal}");
    }
}

#[tokio::test]
async fn fields_that_are_wrong() {
    let server = Server::with(Scenario::built_in()).await;
    let base = || request("rehearsal/echo", json!([{"role": "user", "content": "x"}]));
    let with = |field: &str, value: Value| {
        let mut body = base();
        body[field] = value;
        body
    };
    let block = json!({"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}});
    let long = json!({"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}});
    let cases = [
        (with("colour", json!(1)), "colour: Extra inputs are not permitted"),
        (with("max_tokens", json!(0)), "greater than or equal to 1"),
        (
            with("max_tokens", json!(1_000_000)),
            "maximum allowed number of output tokens",
        ),
        (with("max_tokens", json!("many")), "max_tokens"),
        (with("stream", json!("yes")), "stream"),
        (with("temperature", json!(2)), "temperature"),
        (
            with("thinking", json!({"type": "enabled", "budget_tokens": 100})),
            "1024",
        ),
        (
            with("thinking", json!({"type": "enabled", "budget_tokens": 4096})),
            "`max_tokens` must be greater",
        ),
        (with("thinking", json!({"type": "deep"})), "thinking.type"),
        (
            with("tools", json!([tool("t"), tool("t")])),
            "Tool names must be unique",
        ),
        (with("tools", json!([tool("a b")])), "tools.0.custom.name"),
        (with("tools", json!([{"name": "t"}])), "input_schema: Field required"),
        (
            with("tools", json!([{"name": "t", "input_schema": {"type": "string"}}])),
            "input_schema.type",
        ),
        (with("tool_choice", json!({"type": "auto"})), "while providing tools"),
        (with("system", json!([block, block, block, block, block])), "Found 5"),
        (with("system", json!([block, long])), "must not come after"),
        (
            with(
                "system",
                json!([{"type": "text", "text": "s", "cache_control": {"type": "forever"}}]),
            ),
            "ephemeral",
        ),
        (with("metadata", json!({"session": "x"})), "metadata.session"),
        (with("mcp_servers", json!([])), "mcp_servers"),
    ];
    for (body, fault) in cases {
        let refusal = server.refusal(&body).await;
        assert!(refusal.contains(fault), "{body}: {refusal}");
    }
    let mut missing = base();
    missing.as_object_mut().unwrap().shift_remove("max_tokens");
    assert!(server.refusal(&missing).await.contains("max_tokens: Field required"));
}

#[tokio::test]
async fn headers_bodies_and_paths() {
    let server = Server::with(Scenario::built_in()).await;
    let url = server.url("/v1/messages");
    let body = request("rehearsal/echo", json!([{"role": "user", "content": "x"}]));
    let post = || {
        server
            .http
            .post(&url)
            .json(&body)
            .header("anthropic-version", "2023-06-01")
    };
    assert_eq!(post().send().await.unwrap().status(), 401);
    let wrong: Value = post()
        .header("x-api-key", "wrong")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(wrong["error"]["type"], "authentication_error");
    assert!(wrong["request_id"].as_str().unwrap().starts_with("req_"));
    assert_eq!(
        post()
            .header("authorization", format!("Bearer {KEY}"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let no_version = server
        .http
        .post(&url)
        .json(&body)
        .header("x-api-key", KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(no_version.status(), 400);
    assert!(no_version.text().await.unwrap().contains("anthropic-version"));
    let raw = |text: String| {
        let request = server
            .http
            .post(&url)
            .header("x-api-key", KEY)
            .header("anthropic-version", "2023-06-01");
        request.header("content-type", "application/json").body(text).send()
    };
    assert_eq!(raw("{".into()).await.unwrap().status(), 400);
    assert_eq!(raw("[]".into()).await.unwrap().status(), 400);
    assert_eq!(raw(" ".repeat((32 << 20) + 1)).await.unwrap().status(), 413);
    assert_eq!(server.http.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(
        server.http.get(server.url("/v1/none")).send().await.unwrap().status(),
        404
    );
}

const THINKS: &str = r#"
[[play]]
name = "thinks"
context_tokens = 120
[[play.step]]
say = [{ thinking = "first" }, { redacted_thinking = "x" }, { tool_use = { name = "t", input = {} } }]
[[play.step]]
say = [{ text = "done" }]
"#;

#[tokio::test]
async fn thinking_comes_back_as_it_was_while_a_tool_is_in_use() {
    let server = Server::new(THINKS).await;
    let mut first = request("rehearsal", json!([{"role": "user", "content": "x"}]));
    first["tools"] = json!([tool("t")]);
    first["thinking"] = json!({"type": "adaptive"});
    let message = server.message(&first).await;
    assert_eq!(message["content"][0]["thinking"], "first");
    let good = go_on(&first, &message, |_| ("ok".into(), false));
    assert_eq!(text_of(&server.message(&good).await), "done");

    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut next = good.clone();
        change(next["messages"][1]["content"].as_array_mut().unwrap());
        next
    };
    let altered = changed(&|blocks| blocks[0]["thinking"] = json!("First"));
    assert!(server.refusal(&altered).await.contains("Invalid `signature`"));
    let unsigned = changed(&|blocks| blocks[0]["signature"] = json!(""));
    assert!(server.refusal(&unsigned).await.contains("Invalid `signature`"));
    let dropped = changed(&|blocks| drop(blocks.remove(0)));
    assert!(server.refusal(&dropped).await.contains("dropped, moved or exchanged"));
    let without_redacted = changed(&|blocks| drop(blocks.remove(1)));
    assert!(
        server
            .refusal(&without_redacted)
            .await
            .contains("dropped, moved or exchanged")
    );
    let moved = changed(&|blocks| blocks.swap(0, 1));
    assert!(server.refusal(&moved).await.contains("dropped, moved or exchanged"));

    // In an earlier turn, and without thinking, they may be left out.
    let mut later = dropped.clone();
    later["messages"].as_array_mut().unwrap().extend([
        json!({"role": "assistant", "content": "done"}),
        json!({"role": "user", "content": "next"}),
    ]);
    assert_eq!(server.call(&later).await.0, 200);
    let mut off = dropped;
    off.as_object_mut().unwrap().shift_remove("thinking");
    assert_eq!(text_of(&server.message(&off).await), "done");

    first["thinking"] = json!({"type": "adaptive", "display": "omitted"});
    let message = server.message(&first).await;
    assert_eq!(message["content"][0]["thinking"], "");
    let good = go_on(&first, &message, |_| ("ok".into(), false));
    assert_eq!(text_of(&server.message(&good).await), "done");

    let long = request(
        "rehearsal/thinks",
        json!([{"role": "user", "content": "x".repeat(500)}]),
    );
    assert!(
        server
            .refusal(&long)
            .await
            .contains("prompt is too long: 125 tokens > 120 maximum")
    );
}

#[tokio::test]
async fn the_prompt_cache_shows_in_the_usage() {
    let server = Server::with(Scenario::built_in()).await;
    let mut body = request("rehearsal/echo", json!([{"role": "user", "content": "12345678"}]));
    body["system"] = json!([{"type": "text", "text": "s".repeat(100), "cache_control": {"type": "ephemeral"}}]);
    let usage = &server.message(&body).await["usage"];
    assert_eq!(
        (&usage["cache_creation_input_tokens"], &usage["cache_read_input_tokens"]),
        (&json!(25), &json!(0))
    );
    assert_eq!(usage["cache_creation"]["ephemeral_5m_input_tokens"], 25);
    let usage = &server.message(&body).await["usage"];
    assert_eq!(
        (&usage["cache_creation_input_tokens"], &usage["cache_read_input_tokens"]),
        (&json!(0), &json!(25))
    );
    assert_eq!(usage["input_tokens"], 2);
}
