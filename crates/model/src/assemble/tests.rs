//! Tables and properties of the assembler.

use outwork_wire::model::FailureKind;
use outwork_wire::sse::SseDecoder;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn wire(events: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for data in events {
        let name = data["type"].as_str().unwrap();
        bytes.extend(format!("event: {name}\ndata: {data}\n\n").bytes());
    }
    bytes
}

/// Decodes and assembles a stream that arrives in these pieces.
fn assemble(pieces: &[&[u8]]) -> Result<(Assembler, Vec<ModelDelta>), ModelFailure> {
    let mut decoder = SseDecoder::new(1 << 20);
    let mut assembler = Assembler::default();
    let mut deltas = Vec::new();
    for piece in pieces {
        decoder.push(piece).unwrap();
        while let Some(event) = decoder.next_event() {
            assembler.take(&event, &mut |delta| deltas.push(delta))?;
        }
    }
    Ok((assembler, deltas))
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {
        "input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}}}})
}

fn open(index: usize, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: usize, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn close(index: usize) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str) -> [Value; 2] {
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": 42}}),
        json!({"type": "message_stop"}),
    ]
}

fn text(index: usize, text: &str) -> Vec<Value> {
    vec![
        open(index, json!({"type": "text", "text": ""})),
        delta(index, json!({"type": "text_delta", "text": text})),
        close(index),
    ]
}

fn full() -> Vec<Value> {
    let mut events = vec![start()];
    events.extend([
        open(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        json!({"type": "ping"}),
        delta(0, json!({"type": "thinking_delta", "thinking": "so — "})),
        delta(0, json!({"type": "thinking_delta", "thinking": "naïve"})),
        delta(0, json!({"type": "signature_delta", "signature": "c2ln"})),
        close(0),
        open(1, json!({"type": "redacted_thinking", "data": "xyz"})),
        close(1),
    ]);
    events.extend(text(2, "Hello 🦀\r\nworld"));
    events.extend([
        open(3, json!({"type": "hologram", "depth": 3})),
        delta(3, json!({"type": "hologram_delta", "layer": "a", "size": 1})),
        delta(3, json!({"type": "hologram_delta", "layer": "b", "size": 2})),
        close(3),
        open(4, json!({"type": "tool_use", "id": "t1", "name": "bash", "input": {}})),
        delta(4, json!({"type": "input_json_delta", "partial_json": ""})),
        delta(
            4,
            json!({"type": "input_json_delta", "partial_json": "{\"z\":1,\"a\":"}),
        ),
        delta(4, json!({"type": "input_json_delta", "partial_json": "\"é\"}"})),
        close(4),
        open(5, json!({"type": "tool_use", "id": "t2", "name": "stop", "input": {}})),
        close(5),
        json!({"type": "news", "x": 1}),
    ]);
    events.extend(end("tool_use"));
    events
}

#[test]
fn keeps_every_block_as_it_came() {
    let (assembler, deltas) = assemble(&[&wire(&full())]).unwrap();
    assert!(assembler.is_done());
    let answer = assembler.finish().unwrap();
    let expected = json!([
        {"type": "thinking", "thinking": "so — naïve", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hello 🦀\r\nworld"},
        {"type": "hologram", "depth": 3, "layer": "ab", "size": 2},
        {"type": "tool_use", "id": "t1", "name": "bash", "input": {"z": 1, "a": "é"}},
        {"type": "tool_use", "id": "t2", "name": "stop", "input": {}},
    ]);
    assert_eq!(
        Value::from(answer.content.clone()).to_string(),
        expected.to_string(),
        "order of keys included"
    );
    assert_eq!(answer.stop_reason, Some(StopReason::ToolUse));
    assert!(!answer.partial);
    let usage = ModelUsage {
        input_tokens: 10,
        output_tokens: 42,
        cache_read_input_tokens: 5,
        cache_creation_input_tokens: 7,
        ephemeral_5m_input_tokens: 3,
        ephemeral_1h_input_tokens: 4,
    };
    assert_eq!(answer.usage, usage);
    assert_eq!(
        deltas[0],
        ModelDelta::BlockStart {
            index: 0,
            kind: BlockKind::Thinking
        }
    );
    assert!(deltas.contains(&ModelDelta::Text {
        index: 2,
        text: "Hello 🦀\r\nworld".into()
    }));
    assert!(deltas.contains(&ModelDelta::BlockStart {
        index: 3,
        kind: BlockKind::Other
    }));
    assert_eq!(deltas.last(), Some(&ModelDelta::BlockStop { index: 5 }));
}

#[test]
fn refuses_what_is_out_of_order_or_out_of_shape() {
    let [last, stop] = end("end_turn");
    let tool = || open(0, json!({"type": "tool_use", "id": "t", "name": "n", "input": {}}));
    let input = |json: &str| delta(0, json!({"type": "input_json_delta", "partial_json": json}));
    let cases: Vec<(&str, Vec<Value>)> = vec![
        (
            "`content_block_start` comes out of order",
            vec![open(0, json!({"type": "text", "text": ""}))],
        ),
        ("`message_start` comes out of order", vec![start(), start()]),
        (
            "has the index 1, not 0",
            vec![start(), open(1, json!({"type": "text", "text": ""}))],
        ),
        (
            "out of order",
            vec![
                start(),
                open(0, json!({"type": "text", "text": ""})),
                open(1, json!({"type": "text", "text": ""})),
            ],
        ),
        (
            "out of order",
            vec![start(), delta(0, json!({"type": "text_delta", "text": "x"}))],
        ),
        (
            "block 0 is open",
            vec![start(), open(0, json!({"type": "text", "text": ""})), close(3)],
        ),
        (
            "`text_delta` in a block of type `thinking`",
            vec![
                start(),
                open(0, json!({"type": "thinking", "thinking": ""})),
                delta(0, json!({"type": "text_delta", "text": "x"})),
            ],
        ),
        (
            "has no `text`",
            vec![
                start(),
                open(0, json!({"type": "text", "text": ""})),
                delta(0, json!({"type": "text_delta"})),
            ],
        ),
        (
            "out of order",
            vec![start(), open(0, json!({"type": "text", "text": ""})), last.clone()],
        ),
        ("`message_stop` comes out of order", vec![start(), stop.clone()]),
        (
            "out of order",
            vec![start(), last.clone(), open(0, json!({"type": "text", "text": ""}))],
        ),
        ("no message", vec![json!({"type": "message_start"})]),
        ("no type", vec![start(), open(0, json!({}))]),
        (
            "no id or no name",
            vec![start(), open(0, json!({"type": "tool_use", "input": {}}))],
        ),
        (
            "tool `n` is not JSON",
            vec![start(), tool(), input("{\"a\":"), close(0), last.clone(), stop.clone()],
        ),
        (
            "tool `n` is not a JSON object",
            vec![start(), tool(), input("[1]"), close(0), last.clone(), stop.clone()],
        ),
    ];
    for (fault, events) in cases {
        let failure = match assemble(&[&wire(&events)]) {
            Err(failure) => failure,
            Ok((assembler, _)) => assembler.finish().expect_err(fault),
        };
        assert_eq!(failure.kind, FailureKind::Nonsense);
        assert!(failure.message.contains(fault), "{fault}: {failure}");
    }
    let failure = assemble(&[b"event: message_start\ndata: {\"type\": \"message_stop\"}\n\n"]).unwrap_err();
    assert!(failure.message.contains("carries data of type"), "{failure}");
    assert_eq!(
        assemble(&[b"event: message_start\ndata: {oops\n\n"]).unwrap_err().kind,
        FailureKind::Nonsense
    );
}

#[test]
fn a_tool_call_that_a_limit_cut_off_is_left_out() {
    let mut events = vec![start()];
    events.extend(text(0, "I will"));
    events.push(open(
        1,
        json!({"type": "tool_use", "id": "t", "name": "n", "input": {}}),
    ));
    events.push(delta(
        1,
        json!({"type": "input_json_delta", "partial_json": "{\"a\": \"b"}),
    ));
    events.push(close(1));
    events.extend(end("max_tokens"));
    let answer = assemble(&[&wire(&events)]).unwrap().0.finish().unwrap();
    // Its place stays, so that the blocks after it keep their positions.
    assert_eq!(answer.content, [json!({"type": "text", "text": "I will"}), Value::Null]);
    assert_eq!(answer.stop_reason, Some(StopReason::MaxTokens));
}

#[test]
fn a_partial_answer_has_only_what_can_be_sent_back() {
    let events = full();
    let bytes = wire(&events);
    let kinds = |count: usize| {
        let (assembler, _) = assemble(&[&wire(&events[..count])]).unwrap();
        let answer = assembler.finish_early();
        assert!(answer.partial);
        answer
            .content
            .iter()
            .map(|block| block["type"].as_str().unwrap_or("nothing").to_owned())
            .collect::<Vec<_>>()
    };
    assert!(kinds(0).is_empty());
    assert_eq!(
        kinds(6),
        ["nothing"],
        "thinking that is not complete leaves its place only"
    );
    assert_eq!(kinds(7), ["thinking"]);
    assert_eq!(
        kinds(10),
        ["thinking", "redacted_thinking", "nothing"],
        "a text without text leaves its place only"
    );
    assert_eq!(kinds(11), ["thinking", "redacted_thinking", "text"]);
    let cut = kinds(events.len() - 7);
    assert!(
        !cut.contains(&"tool_use".to_owned()),
        "a call without its whole input is left out: {cut:?}"
    );
    assert!(kinds(events.len()).contains(&"tool_use".to_owned()));
    assert!(!bytes.is_empty());
}

proptest! {
    #[test]
    fn pieces_do_not_matter(mut cuts in proptest::collection::vec(0usize..3000, 0..30)) {
        let bytes = wire(&full());
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        let (whole, whole_deltas) = assemble(&[&bytes]).unwrap();
        let (parts, part_deltas) = assemble(&pieces).unwrap();
        prop_assert_eq!(whole.finish().unwrap(), parts.finish().unwrap());
        prop_assert_eq!(whole_deltas, part_deltas);
    }

    #[test]
    fn a_preview_is_a_prefix_of_the_answer(count in 0usize..40) {
        let events = full();
        let (assembler, deltas) = assemble(&[&wire(&events[..count.min(events.len())])]).unwrap();
        let seen: String = deltas.iter().filter_map(|delta| match delta {
            ModelDelta::Text { index: 2, text } => Some(text.as_str()),
            _ => None,
        }).collect();
        let whole = assemble(&[&wire(&events)]).unwrap().0.finish().unwrap();
        prop_assert!(whole.content[2]["text"].as_str().unwrap().starts_with(&seen));
        let early = assembler.finish_early();
        let kept: String = early.content.iter().filter_map(|block| block["text"].as_str()).collect();
        prop_assert_eq!(kept, seen);
    }

    #[test]
    fn any_events_are_survived(events in proptest::collection::vec(
        (proptest::sample::select(KNOWN.to_vec()), "[ -~]{0,40}"), 0..10)) {
        let mut assembler = Assembler::default();
        for (event, data) in events {
            let event = SseEvent { event: Some(event.to_owned()), data, id: None };
            if assembler.take(&event, &mut |_| ()).is_err() {
                break;
            }
        }
        let _ = assembler.finish_early();
    }
}
