//! Plays: selection, scenes, steps, captures, branches, loops, and how they look on the wire.

use outwork_rehearsal::Scenario;
use serde_json::{Value, json};

use crate::client::{KEY, Server, go_on, request, say, text_of, tool};

const PLAYS: &str = r#"
default = "plain"
models = ["other-model"]

[[play]]
name = "plain"
step = [{ say = [{ text = "plain: {{user}} ({{count}}, {{model}})" }] }]

[[play]]
name = "greet"
match = "(?i)^hello"
[[play.scene]]
step = [{ say = [{ text = "scene {{scene}}" }] }]
[[play.scene]]
step = [{ say = [{ text = "later: {{scene}} {{user}} {{first_user}}" }] }]

[[play]]
name = "look"
[[play.step]]
say = [
  { thinking = "I look at the clock first, then I think again." },
  { text = "One moment." },
  { tool_use = { name = "clock", input = { zone = "{{user}}", lines = [1, 2], note = "a longer note, sent in several pieces" } } },
]
[[play.step]]
expect = '(?P<hour>\d\d):(?P<minute>\d\d)'
capture.zone = { from = "user", pattern = 'in (\w+)' }
when = [{ if = { result = "^00" }, say = [{ text = "Midnight." }] }]
say = [{ tool_use = { name = "clock", input = { minute = "{{minute|int}}" } } }]
[[play.step]]
say = [{ text = "It was {{hour}} h {{minute}} in {{zone}}." }]
"#;

#[tokio::test]
async fn a_play_is_selected_by_model_or_by_the_first_message() {
    let server = Server::new(PLAYS).await;
    let hi = |text: &str| json!([{"role": "user", "content": text}]);
    assert_eq!(
        text_of(&server.message(&request("rehearsal", hi("x"))).await),
        "plain: x (0, rehearsal)"
    );
    assert_eq!(
        text_of(&server.message(&request("other-model", hi("x"))).await),
        "plain: x (0, other-model)"
    );
    assert_eq!(
        text_of(&server.message(&request("rehearsal", hi("Hello"))).await),
        "scene 1"
    );
    assert_eq!(
        text_of(&server.message(&request("rehearsal/greet", hi("x"))).await),
        "scene 1"
    );
    assert_eq!(
        text_of(&server.message(&request("rehearsal/echo", hi("abc"))).await),
        "abc"
    );
    let (status, error) = server.call(&request("rehearsal/none", hi("x"))).await;
    assert_eq!((status, &error["error"]["type"]), (404, &json!("not_found_error")));
    assert!(error["error"]["message"].as_str().unwrap().contains("rehearsal/none"));
}

#[tokio::test]
async fn each_human_message_opens_a_scene_and_the_last_scene_stays() {
    let server = Server::new(PLAYS).await;
    let mut conversation = request("rehearsal/greet", json!([{"role": "user", "content": "a"}]));
    for expected in ["scene 1", "later: 2 b a", "later: 3 c a"] {
        let message = server.message(&conversation).await;
        assert_eq!(text_of(&message), expected);
        let next = if conversation["messages"].as_array().unwrap().len() == 1 {
            "b"
        } else {
            "c"
        };
        conversation = say(&go_on(&conversation, &message, |_| unreachable!()), next);
    }
}

#[tokio::test]
async fn captures_come_from_real_results() {
    let server = Server::new(PLAYS).await;
    let mut first = request("rehearsal/look", json!([{"role": "user", "content": "time in Oslo"}]));
    first["tools"] = json!([tool("clock")]);
    let message = server.message(&first).await;
    // Without `thinking` in the request there is none in the answer.
    assert_eq!(message["content"][0]["type"], "text");
    assert_eq!(message["content"][1]["input"]["zone"], "time in Oslo");
    assert_eq!(message["stop_reason"], "tool_use");
    let second = go_on(&first, &message, |_| ("12:34".into(), false));
    let message = server.message(&second).await;
    assert_eq!(message["content"][0]["input"], json!({"minute": 34}));
    let third = go_on(&second, &message, |_| ("fine".into(), false));
    assert_eq!(text_of(&server.message(&third).await), "It was 12 h 34 in Oslo.");

    let midnight = go_on(&first, &server.message(&first).await, |_| ("00:01".into(), false));
    assert_eq!(text_of(&server.message(&midnight).await), "Midnight.");

    let lie = go_on(&first, &server.message(&first).await, |_| {
        ("no clock here".into(), true)
    });
    let message = server.message(&lie).await;
    assert_eq!(message["stop_reason"], "end_turn");
    let text = text_of(&message);
    assert!(
        text.contains("step 2") && text.contains("no clock here") && text.contains(r"\d\d"),
        "{text}"
    );
    assert_eq!(server.handle.requests().last().unwrap().outcome, "astray");

    let mut without = first.clone();
    without["tools"] = json!([tool("other")]);
    let text = text_of(&server.message(&without).await);
    assert!(text.contains("`clock`") && text.contains("other"), "{text}");
}

#[tokio::test]
async fn a_stream_has_the_events_of_the_api_in_their_order() {
    let server = Server::new(PLAYS).await;
    let mut body = request("rehearsal/look", json!([{"role": "user", "content": "time in Oslo"}]));
    body["tools"] = json!([tool("clock")]);
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    let events = server.stream(&body).await;
    let mut names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert!(events.iter().all(|event| event.data["type"] == event.name.as_str()));
    names.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let mut expected = vec![
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
    ];
    expected.extend(block);
    expected.extend(block);
    expected.extend(["message_delta", "message_stop"]);
    assert_eq!(names, expected);

    let message = &events[0].data["message"];
    assert_eq!(message["content"], json!([]));
    assert_eq!(message["stop_reason"], Value::Null);
    assert!(message["usage"]["input_tokens"].as_u64().unwrap() > 0);
    let deltas = |kind: &str, field: &str| -> Vec<String> {
        let of_kind = events.iter().filter(|event| event.data["delta"]["type"] == kind);
        of_kind
            .map(|event| event.data["delta"][field].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        deltas("thinking_delta", "thinking").concat(),
        "I look at the clock first, then I think again."
    );
    assert_eq!(deltas("signature_delta", "signature").len(), 1);
    assert_eq!(deltas("text_delta", "text").concat(), "One moment.");
    let json_parts = deltas("input_json_delta", "partial_json");
    assert!(json_parts.len() > 3 && json_parts[0].is_empty());
    let input: Value = serde_json::from_str(&json_parts.concat()).unwrap();
    assert_eq!(input["lines"], json!([1, 2]));
    let end = &events[events.len() - 2].data;
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    assert!(end["usage"]["output_tokens"].as_u64().unwrap() > 1);
}

#[tokio::test]
async fn a_script_in_the_user_message_is_played() {
    let server = Server::with(Scenario::built_in()).await;
    let script = r#"Play this:
```json
[{"repeat": 3, "until": {"result": "stop"}, "say": [{"tool_use": {"name": "t", "input": {"round": "{{round|int}}"}}}]},
 {"capture": {"last": "\\w+"}, "say": [{"text": "ended with {{last}} after {{count}}"}]}]
```
Thanks."#;
    let mut conversation = request("rehearsal/script", json!([{"role": "user", "content": script}]));
    conversation["tools"] = json!([tool("t")]);
    let mut early = Value::Null;
    for round in 1..=3 {
        let message = server.message(&conversation).await;
        assert_eq!(message["content"][0]["input"], json!({"round": round}));
        early = go_on(&conversation, &message, |_| ("stop".into(), false));
        conversation = go_on(&conversation, &message, |_| ("more".into(), false));
        if round == 2 {
            assert_eq!(text_of(&server.message(&early).await), "ended with stop after 2");
        }
    }
    assert_eq!(text_of(&server.message(&early).await), "ended with stop after 3");
    let message = server.message(&conversation).await;
    assert_eq!(text_of(&message), "ended with more after 3");
    // The next user message brings its own script; one that brings none is told so.
    let next = go_on(&conversation, &message, |_| unreachable!());
    let again = say(&next, r#"{"say": [{"text": "again"}], "stop_reason": "max_tokens"}"#);
    let message = server.message(&again).await;
    assert_eq!(
        (text_of(&message).as_str(), &message["stop_reason"]),
        ("again", &json!("max_tokens"))
    );
    assert!(text_of(&server.message(&say(&next, "hello")).await).contains("expected a list of steps"));
    let unknown = say(&next, r#"[{"says": []}]"#);
    assert!(text_of(&server.message(&unknown).await).contains("`says`"));
}

#[tokio::test]
async fn loops_within_loops_are_counted() {
    let server = Server::with(Scenario::built_in()).await;
    let script = json!([
        {"repeat": 2, "steps": [
            {"repeat": 2, "say": [{"tool_use": {"name": "a", "input": {}}}]},
            {"say": [{"tool_use": {"name": "b", "input": {}}, "repeat": 2}]},
        ]},
        {"say": [{"text": "{{step}}"}]},
    ]);
    let mut conversation = request(
        "rehearsal/script",
        json!([{"role": "user", "content": script.to_string()}]),
    );
    conversation["tools"] = json!([tool("a"), tool("b")]);
    let mut played = String::new();
    let last = loop {
        let message = server.message(&conversation).await;
        let calls = message["content"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|block| block["name"].as_str());
        let calls = calls.collect::<String>();
        if calls.is_empty() {
            break message;
        }
        played += &format!("{calls} ");
        conversation = go_on(&conversation, &message, |_| ("ok".into(), false));
    };
    assert_eq!(played, "a a bb a a bb ");
    assert_eq!(text_of(&last), "7");
    let over = go_on(&conversation, &server.message(&conversation).await, |_| unreachable!());
    assert!(server.refusal(&over).await.contains("prefill"));
}

#[tokio::test]
async fn limits_of_the_request_end_an_answer() {
    let server = Server::with(Scenario::built_in()).await;
    let mut body = request(
        "rehearsal/echo",
        json!([{"role": "user", "content": "one two three four five six"}]),
    );
    body["max_tokens"] = json!(2);
    let message = server.message(&body).await;
    assert_eq!(
        (text_of(&message).as_str(), &message["stop_reason"]),
        ("one two ", &json!("max_tokens"))
    );
    assert_eq!(message["usage"]["output_tokens"], 2);
    body["max_tokens"] = json!(200);
    body["stop_sequences"] = json!(["five", " three"]);
    let message = server.message(&body).await;
    assert_eq!(
        (text_of(&message).as_str(), &message["stop_reason"]),
        ("one two", &json!("stop_sequence"))
    );
    assert_eq!(message["stop_sequence"], " three");
}

#[tokio::test]
async fn a_refusal_and_a_pause() {
    let server = Server::with(Scenario::built_in()).await;
    let script = json!([{"say": [{"text": "wait"}], "stop_reason": "pause_turn"},
        {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber", "explanation": "no"}}]);
    let first = request(
        "rehearsal/script",
        json!([{"role": "user", "content": script.to_string()}]),
    );
    let message = server.message(&first).await;
    assert_eq!(message["stop_reason"], "pause_turn");
    let second = go_on(&first, &message, |_| unreachable!());
    let message = server.message(&second).await;
    assert_eq!(message["content"], json!([]));
    assert_eq!(message["stop_details"]["category"], "cyber");
    let events = server.stream(&second).await;
    assert_eq!(events[1].data["delta"]["stop_details"]["explanation"], "no");
}

#[tokio::test]
async fn models_requests_and_health() {
    let server = Server::new(PLAYS).await;
    let get = |path: &str| {
        let request = server.http.get(server.url(path)).header("x-api-key", KEY);
        request.header("anthropic-version", "2023-06-01").send()
    };
    let list: Value = get("/v1/models?limit=3").await.unwrap().json().await.unwrap();
    assert_eq!(
        (list["data"].as_array().unwrap().len(), &list["has_more"]),
        (3, &json!(true))
    );
    let rest = format!("/v1/models?after_id={}", list["last_id"].as_str().unwrap());
    let rest: Value = get(&rest).await.unwrap().json().await.unwrap();
    assert_eq!(rest["data"][0]["id"], "rehearsal/greet");
    assert_eq!(rest["has_more"], false);
    let one: Value = get("/v1/models/rehearsal%2Flook").await.unwrap().json().await.unwrap();
    assert_eq!(one["id"], "rehearsal/look");
    assert_eq!(get("/v1/models/none").await.unwrap().status(), 404);
    assert_eq!(get("/healthz").await.unwrap().status(), 200);

    let text = "remember me";
    server
        .message(&request("rehearsal", json!([{"role": "user", "content": text}])))
        .await;
    server
        .message(&request("rehearsal", json!([{"role": "user", "content": "second"}])))
        .await;
    let seen: Value = get("/rehearsal/requests?after=1").await.unwrap().json().await.unwrap();
    assert_eq!(seen["data"].as_array().unwrap().len(), 1);
    assert_eq!(seen["data"][0]["number"], 2);
    let all = server.handle.requests();
    assert_eq!(all[0].body["messages"][0]["content"], text);
    assert!(!serde_json::to_string(&all).unwrap().contains(KEY));
    let counted = server
        .http
        .post(server.url("/v1/messages/count_tokens"))
        .header("x-api-key", KEY);
    let body = json!({"model": "rehearsal", "messages": [{"role": "user", "content": "12345678"}]});
    let counted: Value = counted
        .header("anthropic-version", "2023-06-01")
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(counted, json!({"input_tokens": 2}));
}

#[test]
fn a_scenario_with_a_mistake_is_refused_by_name() {
    let cases = [
        ("colour = 1", "colour"),
        ("default = \"x\"", "`x`"),
        ("[[play]]\nname = \"a\"", "neither `step` nor `scene`"),
        (
            "[[play]]\nname = \"a b\"\nstep = [{ say = [{ text = \"x\" }] }]",
            "`a b`",
        ),
        (
            "[[play]]\nname = \"script\"\nstep = [{ say = [{ text = \"x\" }] }]",
            "`script`",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ expect = \"(\", say = [{ text = \"x\" }] }]",
            "unclosed group",
        ),
        ("[[play]]\nname = \"a\"\nstep = [{ say = [{ txt = \"x\" }] }]", "txt"),
        (
            "[[play]]\nname = \"a\"\nstep = [{ say = [{ text = \"{{nobody}}\" }] }]",
            "nobody",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ say = [{ text = \"x\", thinking = \"y\" }] }]",
            "exactly one of",
        ),
        ("[[play]]\nname = \"a\"\nstep = [{}]", "step 1"),
        (
            "[[play]]\nname = \"a\"\nstep = [{ faults = [{ status = 200 }] }]",
            "400 to 599",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ faults = [{ status = 500, hang = \"ping\" }] }]",
            "only one of",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ faults = [{ times = 1 }] }]",
            "needs one of",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ repeat = 0, say = [{ text = \"x\" }] }]",
            "`repeat`",
        ),
        (
            "[[play]]\nname = \"a\"\nstep = [{ say = [{ text = \"x\" }], stop_reason = \"tired\" }]",
            "tired",
        ),
    ];
    for (text, named) in cases {
        let error = Scenario::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}
