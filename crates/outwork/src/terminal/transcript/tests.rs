use serde_json::json;

use super::*;

const QUIET: Shown = Shown {
    verbose: false,
    user: true,
    clock: false,
};

fn event(value: Value) -> ObservedEvent {
    ObservedEvent::from_object(value.as_object().unwrap().clone()).unwrap()
}

fn at(second: f64) -> String {
    Time::from_micros(1_700_000_000_000_000 + (second * 1e6) as i64).to_string()
}

fn shown(live: bool, what: Shown, events: &[Value]) -> (String, Tally) {
    let look = Look {
        width: 60,
        colour: false,
        live,
    };
    let mut transcript = Transcript::new(Vec::new(), look, what);
    for value in events {
        transcript.observe(&event(value.clone())).unwrap();
    }
    transcript.pause().unwrap();
    let tally = transcript.tally().clone();
    (String::from_utf8(transcript.out).unwrap(), tally)
}

fn call(id: &str, second: f64, command: &str) -> Value {
    json!({"type": "agent.tool_use", "id": id, "processed_at": at(second), "name": "bash", "input": {"command": command}})
}

fn result(id: &str, second: f64, text: &str, is_error: bool) -> Value {
    json!({"type": "user.tool_result", "id": format!("r{id}"), "processed_at": at(second), "tool_use_id": id,
           "content": [{"type": "text", "text": text}], "is_error": is_error})
}

#[test]
fn a_turn_reads_like_a_page() {
    let (text, tally) = shown(
        false,
        QUIET,
        &[
            json!({"type": "session.status_running", "id": "s1", "processed_at": at(0.0)}),
            json!({"type": "user.message", "id": "m1", "processed_at": at(0.0), "content": [{"type": "text", "text": "Mend the check, and explain what was wrong with it."}]}),
            json!({"type": "agent.message", "id": "a1", "processed_at": at(1.0), "content": [{"type": "text", "text": "I run it."}]}),
            call("c1", 1.0, "python3 check.py"),
            json!({"type": "span.model_request_end", "id": "e1", "processed_at": at(1.0), "model_usage": {"input_tokens": 10, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 5, "output_tokens": 7}}),
            json!({"type": "session.status_idle", "id": "i1", "processed_at": at(1.0), "stop_reason": {"type": "requires_action", "event_ids": ["c1"]}}),
            result("c1", 1.41, "FAIL a\n\nFAIL b\n2 failed", true),
            json!({"type": "agent.brand_new", "id": "x", "processed_at": at(2.0)}),
        ],
    );
    assert_eq!(
        text,
        "\
you      Mend the check, and explain what was wrong with it.
agent    I run it.
bash     python3 check.py                            0.41s ✗
         FAIL a
         2 failed  (+1 line)
event    agent.brand_new
"
    );
    assert_eq!((tally.calls, tally.failed_calls, tally.model_requests), (1, 1, 1));
    assert_eq!(
        (tally.tokens_in, tally.tokens_cached, tally.tokens_out),
        (1015, 1000, 7)
    );
    assert_eq!(
        tally.line(),
        "2.00s · 1 tool call · 1 model request · 1,015 tokens in (1,000 cached), 7 out"
    );
}

#[test]
fn calls_at_the_same_time_each_get_their_result() {
    let (text, _) = shown(
        false,
        QUIET,
        &[
            call("c1", 0.0, "one"),
            call("c2", 0.0, "two"),
            result("c1", 0.5, "1", false),
            result("c2", 0.7, "2", false),
        ],
    );
    assert_eq!(
        text,
        "\
bash     one
bash     two
bash     ↳ one                                       0.50s ✓
         1
bash     ↳ two                                       0.20s ✓
         2
"
    );
}

#[test]
fn an_edit_shows_its_change_and_a_failed_one_why() {
    let edit = |id: &str| {
        json!({"type": "agent.tool_use", "id": id, "processed_at": at(0.0), "name": "edit",
        "input": {"file_path": "a.py", "old_string": "if a < b:", "new_string": "if a <= b:"}})
    };
    let (text, _) = shown(
        false,
        QUIET,
        &[
            edit("c1"),
            result("c1", 0.01, "edited", false),
            edit("c2"),
            result("c2", 0.03, "no such text", true),
        ],
    );
    assert_eq!(
        text,
        "\
edit     a.py                                         10ms ✓
         - if a < b:
         + if a <= b:
edit     a.py                                         20ms ✗
         no such text
"
    );
}

#[test]
fn results_in_another_order_take_no_time_from_each_other() {
    let events = [
        call("c1", 0.0, "one"),
        call("c2", 0.0, "two"),
        result("c2", 0.7, "2", false),
        result("c1", 0.7, "1", false),
    ];
    let (text, _) = shown(false, QUIET, &events);
    assert_eq!(text.matches("0.70s ✓").count(), 2, "{text}");
}

fn start(id: &str) -> Value {
    json!({"type": "event_start", "event": {"type": "agent.message", "id": id}})
}

fn delta(id: &str, text: &str) -> Value {
    json!({"type": "event_delta", "event_id": id, "delta": {"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}}})
}

fn message(id: &str, text: &str) -> Value {
    json!({"type": "agent.message", "id": id, "processed_at": at(1.0), "content": [{"type": "text", "text": text}]})
}

#[test]
fn text_grows_as_it_is_written_and_is_written_once() {
    let whole = [message("a", "Hello there, this is text.")];
    let pieces = [
        start("a"),
        delta("a", "Hello th"),
        delta("a", "ere, this"),
        message("a", "Hello there, this is text."),
    ];
    let wanted = "agent    Hello there, this is text.\n";
    assert_eq!(shown(true, QUIET, &whole).0, wanted);
    assert_eq!(shown(true, QUIET, &pieces).0, wanted);
    assert_eq!(shown(false, QUIET, &pieces).0, wanted);
    assert_eq!(
        shown(
            true,
            QUIET,
            &[&pieces[..3], &[start("b"), delta("b", "x "), message("b", "x y")]].concat()
        )
        .0,
        "agent    Hello there, this\nagent    x y\n"
    );
    // A preview whose start was missed after a reconnect.
    assert_eq!(shown(true, QUIET, &[delta("a", "there"), whole[0].clone()]).0, wanted);
}

#[test]
fn what_a_model_or_a_tool_says_cannot_drive_the_terminal() {
    let evil = "\u{1b}]0;x\u{7}\u{1b}[2J\r\u{9b}K\u{202e}";
    let (text, _) = shown(
        true,
        Shown {
            verbose: true,
            user: true,
            clock: true,
        },
        &[
            json!({"type": "user.message", "id": "m", "content": [{"type": "text", "text": evil}]}),
            start("a"),
            delta("a", evil),
            message("a", evil),
            call("c", 0.0, evil),
            result("c", 1.0, evil, false),
            json!({"type": "agent.custom_tool_use", "id": "d", "name": evil, "input": {evil: evil}}),
            json!({"type": "agent.tool_use", "id": "e", "name": "edit", "input": {"file_path": evil, "old_string": evil, "new_string": "a"}}),
            json!({"type": "session.error", "id": "f", "error": {"message": evil, "retry_status": {"type": "retrying"}}}),
            json!({"type": format!("agent.{evil}"), "id": "g"}),
            json!({"type": "user.tool_confirmation", "id": "h", "tool_use_id": "c", "result": evil, "deny_message": evil}),
        ],
    );
    assert!(
        text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')),
        "{text:?}"
    );
    assert!(text.contains("␛]0;x␇"));
}

#[test]
fn lines_stay_inside_the_terminal() {
    let long = "word ".repeat(60);
    let (text, _) = shown(
        true,
        Shown {
            verbose: false,
            user: true,
            clock: true,
        },
        &[
            message("a", &long),
            call("c", 0.0, &long),
            result("c", 1.0, &format!("{long}\n{long}\n{long}"), true),
            json!({"type": "agent.tool_use", "id": "e", "name": "edit", "processed_at": at(2.0), "input": {"file_path": long, "old_string": long, "new_string": "a"}}),
            result("e", 3.0, "", false),
        ],
    );
    for line in text.lines() {
        assert!(columns(line) <= 60, "{} columns: {line}", columns(line));
    }
}
