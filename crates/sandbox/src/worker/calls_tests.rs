//! The rules of which call is run, as tables over small logs.

use serde_json::json;

use super::*;

fn event(value: serde_json::Value) -> ObservedEvent {
    serde_json::from_value(value).unwrap()
}

fn tool_use(id: &str, permission: Option<&str>) -> ObservedEvent {
    event(
        json!({"type": "agent.tool_use", "id": id, "name": "bash", "input": {"command": "true"},
                 "evaluated_permission": permission}),
    )
}

fn result(call: &str) -> ObservedEvent {
    event(json!({"type": "user.tool_result", "id": format!("r_{call}"), "tool_use_id": call}))
}

fn verdict(call: &str, result: &str) -> ObservedEvent {
    event(json!({"type": "user.tool_confirmation", "id": format!("v_{call}"), "tool_use_id": call, "result": result}))
}

fn interrupt(id: &str) -> ObservedEvent {
    event(json!({"type": "user.interrupt", "id": id}))
}

fn history(events: &[ObservedEvent]) -> History {
    let mut history = History::default();
    for event in events {
        history.add(event);
    }
    history
}

fn run_all(calls: &mut Calls) -> Vec<String> {
    let mut ran = Vec::new();
    while let Some(call) = calls.start_next() {
        calls.finish(&call.id);
        ran.push(call.id);
    }
    ran
}

#[test]
fn a_call_is_given_out_once_however_often_it_is_seen() {
    let mut calls = Calls::default();
    calls.observe(&tool_use("a", None));
    calls.reconcile(history(&[tool_use("a", None), tool_use("b", None)]));
    calls.observe(&tool_use("b", None));
    assert_eq!(run_all(&mut calls), ["a", "b"]);
    calls.reconcile(history(&[tool_use("a", None), tool_use("b", None)]));
    assert_eq!(run_all(&mut calls), Vec::<String>::new());
}

#[test]
fn an_answered_call_is_not_given_out() {
    let mut calls = Calls::default();
    let by_server = event(json!({"type": "agent.tool_result", "id": "r", "tool_use_id": "b"}));
    calls.reconcile(history(&[
        tool_use("a", None),
        tool_use("b", None),
        tool_use("c", None),
        result("a"),
        by_server,
    ]));
    assert_eq!(run_all(&mut calls), ["c"]);
    let mut calls = Calls::default();
    calls.observe(&tool_use("a", None));
    calls.observe(&result("a"));
    assert_eq!(run_all(&mut calls), Vec::<String>::new());
}

#[test]
fn only_an_explicit_allow_releases_a_gated_call() {
    for (permission, word, runs) in [
        (None, None, true),
        (Some("allow"), None, true),
        (Some("ask"), None, false),
        (Some("ask"), Some("allow"), true),
        (Some("ask"), Some("deny"), false),
        (Some("ask"), Some("perhaps"), false),
        (Some("deny"), Some("allow"), false),
        (Some("newer"), None, false),
        (Some("newer"), Some("allow"), true),
        (None, Some("deny"), false),
    ] {
        let events: Vec<_> = [Some(tool_use("a", permission)), word.map(|w| verdict("a", w))]
            .into_iter()
            .flatten()
            .collect();
        let mut from_history = Calls::default();
        from_history.reconcile(history(&events));
        assert_eq!(
            !run_all(&mut from_history).is_empty(),
            runs,
            "history {permission:?} {word:?}"
        );
        if permission.is_some() {
            let mut live = Calls::default();
            for event in &events {
                live.observe(event);
            }
            assert_eq!(!run_all(&mut live).is_empty(), runs, "live {permission:?} {word:?}");
        }
    }
}

#[test]
fn other_tools_are_left_to_their_owners() {
    let mut calls = Calls::default();
    calls.observe(&event(
        json!({"type": "agent.tool_use", "id": "a", "name": "web_search", "input": {}}),
    ));
    calls.observe(&event(
        json!({"type": "agent.custom_tool_use", "id": "b", "name": "bash", "input": {}}),
    ));
    calls.observe(&event(
        json!({"type": "agent.mcp_tool_use", "id": "c", "name": "bash", "input": {}}),
    ));
    assert!(!calls.is_busy());
    assert_eq!(run_all(&mut calls), Vec::<String>::new());
}

#[test]
fn an_answer_or_an_interrupt_stops_the_running_call() {
    let mut calls = Calls::default();
    calls.observe(&tool_use("a", None));
    calls.observe(&tool_use("b", None));
    assert_eq!(calls.start_next().unwrap().id, "a");
    assert!(calls.start_next().is_none(), "one at a time");
    assert_eq!(calls.observe(&result("a")), [Effect::DropRunning]);
    assert!(!calls.finish("a"), "its result is not wanted");
    assert_eq!(calls.start_next().unwrap().id, "b");
    calls.observe(&tool_use("c", None));
    let effects = calls.observe(&interrupt("i"));
    assert!(matches!(&effects[..], [Effect::InterruptRunning, Effect::AnswerInterrupted(c)] if c.id == "c"));
    assert!(calls.finish("b"), "its result says that it was interrupted");
    assert_eq!(calls.observe(&interrupt("i")), [], "an interrupt counts once");
}

#[test]
fn an_interrupt_of_another_thread_leaves_a_call_alone() {
    let mut calls = Calls::default();
    calls.observe(&event(
        json!({"type": "session.thread_status_running", "id": "t", "session_thread_id": "sthr_main"}),
    ));
    calls.observe(&tool_use("a", None));
    calls.start_next().unwrap();
    let other = event(json!({"type": "user.interrupt", "id": "i1", "session_thread_id": "sthr_other"}));
    assert_eq!(calls.observe(&other), []);
    let ours = event(json!({"type": "user.interrupt", "id": "i2", "session_thread_id": "sthr_main"}));
    assert_eq!(calls.observe(&ours), [Effect::InterruptRunning]);
}

#[test]
fn an_old_interrupt_does_not_stop_later_calls() {
    let mut calls = Calls::default();
    let effects = calls.reconcile(history(&[
        tool_use("a", None),
        result("a"),
        interrupt("i"),
        tool_use("b", None),
    ]));
    assert_eq!(effects, []);
    assert_eq!(run_all(&mut calls), ["b"]);
    let mut calls = Calls::default();
    let effects = calls.reconcile(history(&[tool_use("a", None), interrupt("i"), tool_use("b", None)]));
    assert!(matches!(&effects[..], [Effect::AnswerInterrupted(c)] if c.id == "a"));
    assert_eq!(run_all(&mut calls), ["b"]);
}

#[test]
fn nothing_is_run_for_a_thread_that_is_over() {
    let call =
        event(json!({"type": "agent.tool_use", "id": "a", "name": "bash", "input": {}, "session_thread_id": "t"}));
    let over = event(json!({"type": "session.thread_status_terminated", "id": "o", "session_thread_id": "t"}));
    let mut calls = Calls::default();
    calls.observe(&call);
    calls.start_next().unwrap();
    assert_eq!(calls.observe(&over), [Effect::DropRunning]);
    assert!(!calls.finish("a"));
    let mut calls = Calls::default();
    calls.reconcile(history(&[call, over]));
    assert_eq!(run_all(&mut calls), Vec::<String>::new());
}

#[test]
fn the_last_word_on_the_turn_counts() {
    let idle = |reason: &str| event(json!({"type": "session.status_idle", "id": "s", "stop_reason": {"type": reason}}));
    let message = event(json!({"type": "user.message", "id": "m", "content": []}));
    assert!(history(&[message.clone(), idle("end_turn")]).turn_ended);
    assert!(history(&[idle("newer_reason"), verdict("x", "allow")]).turn_ended);
    assert!(!history(&[idle("requires_action")]).turn_ended);
    assert!(!history(&[idle("end_turn"), message]).turn_ended);
}

#[test]
fn the_end_of_the_session_is_seen_live_and_in_the_history() {
    let over = event(json!({"type": "session.status_terminated", "id": "x"}));
    assert_eq!(Calls::default().observe(&over), [Effect::SessionOver]);
    assert_eq!(
        Calls::default().reconcile(history(&[tool_use("a", None), over])),
        [Effect::SessionOver]
    );
}
