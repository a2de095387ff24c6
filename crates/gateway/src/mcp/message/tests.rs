//! Which bodies are messages.

use super::*;

#[test]
fn a_call_is_read() {
    let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"e\u0063ho","arguments":{"a":[1, 2]},
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"progress":1}}"#;
    let message = Message::parse(body).unwrap();
    assert_eq!((message.kind, message.tool()), (Kind::Request, Some("echo")));
    assert_eq!(message.params.arguments.unwrap().get(), r#"{"a":[1, 2]}"#);
    assert_eq!(message.params.revision.as_deref(), Some("2026-07-28"));
    assert_eq!(message.id.unwrap().get(), "7");
}

#[test]
fn kinds() {
    for (body, kind) in [
        (
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            Kind::Notification,
        ),
        (r#"{"jsonrpc":"2.0","id":"a","result":{}}"#, Kind::Response),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
            Kind::Response,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":true}"#,
            Kind::Request,
        ),
    ] {
        assert_eq!(Message::parse(body.as_bytes()).unwrap().kind, kind, "{body}");
    }
}

#[test]
fn what_two_parsers_may_read_differently_is_refused() {
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{\"name\":\"x\"}}",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":["tools/call"]}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}"#,
    ] {
        assert!(
            matches!(Message::parse(body.as_bytes()), Err(NotAMessage::Invalid(_))),
            "{body}"
        );
    }
}

#[test]
fn what_is_no_message() {
    for (body, why) in [
        ("", NotAMessage::NotJson),
        ("{", NotAMessage::NotJson),
        ("{} {}", NotAMessage::NotJson),
        ("\u{feff}{}", NotAMessage::NotJson),
        (
            "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]",
            NotAMessage::Batch,
        ),
        ("[", NotAMessage::NotJson),
        ("{\"client_name\":\"x\"}", NotAMessage::NotJsonRpc),
        ("\"text\"", NotAMessage::NotJsonRpc),
        ("a=b", NotAMessage::NotJson),
    ] {
        assert_eq!(Message::parse(body.as_bytes()).err(), Some(why), "{body}");
    }
    assert_eq!(
        Message::parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}").err(),
        Some(NotAMessage::NotJson)
    );
}
