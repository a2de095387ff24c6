//! The model request: parameters, tools, system prompt, cache breakpoints, and a validator that really refuses.

mod world;

use outwork_wire::agent::{Effort, EnvironmentKind, Speed};
use outwork_wire::model::{ModelRequest, StopReason};
use serde_json::{Map, Value, json};
use world::build::{CUSTOM, answer, call, calls, genesis, message, says, text, thinking};
use world::{World, messages_api};

/// The request of a session that begins with that model.
fn first_request(change: impl FnOnce(&mut outwork_wire::agent::AgentConfig)) -> ModelRequest {
    let mut genesis = genesis(EnvironmentKind::SelfHosted);
    change(&mut genesis.agent);
    let mut world = World::with_genesis(genesis);
    world.send(vec![message("hello")]);
    world.asked().clone()
}

#[test]
fn parameters_follow_the_agents_model() {
    let request = first_request(|_| {});
    assert_eq!(
        (request.model.as_str(), request.max_tokens),
        ("claude-opus-5-5", 32_000)
    );
    assert_eq!(Value::Object(request.extra), json!({"thinking": {"type": "adaptive"}}));
    let request = first_request(|agent| {
        agent.model.id = "other-model".into();
        agent.model.effort = Some(Effort::Xhigh {});
        agent.model.speed = Some(Speed::Fast);
    });
    assert_eq!(
        Value::Object(request.extra),
        json!({"output_config": {"effort": "xhigh"}, "speed": "fast"})
    );
    let request = first_request(|agent| {
        agent.model.id = "other-model".into();
        agent.model.speed = Some(Speed::Standard);
    });
    assert_eq!(Value::Object(request.extra), json!({}));
}

#[test]
fn only_enabled_tools_are_offered() {
    let request = first_request(|_| {});
    let names: Vec<&Value> = request.tools.iter().map(|t| &t["name"]).collect();
    assert_eq!(names, ["bash", "read", "write", "glob", "grep", CUSTOM]);
    let request = first_request(|agent| agent.tools.clear());
    assert!(request.tools.is_empty());
    assert!(
        serde_json::to_value(&request).unwrap().get("tools").is_none(),
        "left out when there is none"
    );
}

#[test]
fn a_system_prompt_without_text_is_left_out() {
    for system in [None, Some(""), Some(" \n")] {
        let request = first_request(|agent| agent.system = system.map(str::to_owned));
        assert!(request.system.is_empty(), "{:?}", request.system);
    }
}

#[test]
fn breakpoints_stand_after_tools_system_and_the_last_two_user_messages() {
    let mut world = World::self_hosted();
    world.send(vec![message("one"), world::build::system("be kind")]);
    for turn in 0..4 {
        world.answer(says("yes"));
        world.send(vec![message(&format!("and {turn}?"))]);
    }
    let request = world.asked();
    let marked = |block: &Value| block.get("cache_control").is_some();
    assert_eq!(
        request.tools.iter().map(marked).collect::<Vec<_>>(),
        [false, false, false, false, false, true]
    );
    assert_eq!(request.system.iter().map(marked).collect::<Vec<_>>(), [false, true]);
    let messages: Vec<bool> = request
        .messages
        .iter()
        .map(|m| m["content"].as_array().unwrap().iter().any(marked))
        .collect();
    assert_eq!(messages, [false, false, false, false, false, false, true, false, true]);
}

#[test]
fn a_request_begins_with_the_one_before_it() {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    let mut before = unmarked(&world);
    for turn in 0..3 {
        let id = format!("toolu_{turn}");
        world.answer(answer(
            vec![thinking("hm"), text("so"), call(&id, "bash")],
            StopReason::ToolUse,
        ));
        world.send(vec![world.result(&id, "a")]);
        let now = unmarked(&world);
        assert_eq!(
            now[..before.len()],
            before,
            "the provider's cache would not find the prefix"
        );
        before = now;
    }
}

fn unmarked(world: &World) -> Vec<Value> {
    let mut messages = world.asked().messages.clone();
    let blocks = messages
        .iter_mut()
        .filter_map(|m| m["content"].as_array_mut())
        .flatten();
    for fields in blocks.filter_map(Value::as_object_mut) {
        fields.shift_remove("cache_control");
    }
    messages
}

#[test]
fn calls_of_several_turns_are_answered_each_in_its_place() {
    let mut world = World::self_hosted();
    world.send(vec![message("go")]);
    world.answer(calls(&[("a", "bash"), ("b", "bash")]));
    world.send(vec![world.result("b", "2"), world.result("a", "1")]);
    world.answer(calls(&[("c", "write")]));
    world.send(vec![world.deny("c", None)]);
    assert_eq!(
        world.conversation(),
        [
            r#"user: "go""#,
            "assistant: call a, call b",
            r#"user: result a "1", result b "2""#,
            "assistant: call c",
            r#"user: error c "The user did not allow this call.""#,
        ]
    );
}

/// The validator is only worth something if it refuses what the real API refuses.
#[test]
fn the_validator_refuses() {
    let user = |content: Value| json!({"role": "user", "content": content});
    let assistant = |content: Value| json!({"role": "assistant", "content": content});
    let hi = || user(json!([text("hi")]));
    let result =
        |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": [text("x")], "is_error": false});
    let good = vec![
        hi(),
        assistant(json!([thinking("t"), call("a", "bash")])),
        user(json!([result("a"), text("and")])),
    ];
    assert_eq!(messages_api::validate(&request(good), false), Ok(()));
    let marked = |n: usize| {
        let block = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
        user(Value::Array(vec![block; n]))
    };
    assert_eq!(messages_api::validate(&request(vec![marked(4)]), false), Ok(()));
    let picture = json!({"type": "image", "source": {"type": "url", "url": "https://example.com"}});
    for messages in [
        vec![],
        vec![assistant(json!([text("hi")]))],
        vec![hi(), hi()],
        vec![hi(), assistant(json!([text("yes")]))],
        vec![hi(), assistant(json!([])), hi()],
        vec![user(json!([text("")]))],
        vec![user(json!([text(" ")]))],
        vec![hi(), assistant(json!([text("a"), thinking("t")])), hi()],
        vec![hi(), assistant(json!([call("a", "bash")])), hi()],
        vec![
            hi(),
            assistant(json!([call("a", "bash")])),
            user(json!([text("x"), result("a")])),
        ],
        vec![
            hi(),
            assistant(json!([call("a", "bash")])),
            user(json!([result("a"), result("a")])),
        ],
        vec![
            hi(),
            assistant(json!([call("a", "bash"), call("a", "bash")])),
            user(json!([result("a"), result("a")])),
        ],
        vec![hi(), assistant(json!([text("x")])), user(json!([result("a")]))],
        vec![
            hi(),
            assistant(json!([call("a", "bash")])),
            user(json!([{"type": "tool_result", "tool_use_id": "a", "content": [picture], "is_error": true}])),
        ],
        vec![marked(5)],
    ] {
        let request = request(messages);
        assert!(
            messages_api::validate(&request, false).is_err(),
            "{:?}",
            request.messages
        );
    }
}

fn request(messages: Vec<Value>) -> ModelRequest {
    ModelRequest {
        model: "m".into(),
        max_tokens: 1,
        system: Vec::new(),
        tools: Vec::new(),
        messages,
        extra: Map::new(),
    }
}
