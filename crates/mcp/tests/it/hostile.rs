//! Servers that answer wrongly, too much, half, or something else.

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::IntoResponse,
};
use futures_util::{StreamExt, stream};
use outwork_mcp::{Block, CallErrorKind, ConnectErrorKind};
use serde_json::json;

use crate::server::*;

const SMALL: u64 = 64 << 10;

/// The error of a call that is answered in this way.
async fn call_answered(
    revision: Revision,
    answer: impl Fn(Seen) -> axum::http::Response<Body> + Clone + Send + Sync + 'static,
) -> outwork_mcp::CallError {
    let server = Server::start(revision, move |seen| {
        let answer = answer.clone();
        async move { seen.is_call().then(|| answer(seen)) }
    })
    .await;
    let mut spec = server.spec();
    spec.limits.response_bytes = SMALL;
    spec.limits.event_bytes = SMALL as usize / 2;
    spec.limits.header_bytes = 16 << 10;
    let connection = connect(spec).await.unwrap();
    let error = call(&connection, "echo").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("files") && text.contains("echo"), "{text}");
    assert!(!text.contains("secret_argument") && !text.contains("hidden"), "{text}");
    // The connection outlives a bad answer.
    tools_of(&connection).await.unwrap();
    connection.close(deadline()).await;
    error
}

fn cut() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

#[tokio::test]
async fn a_stream_that_breaks_or_ends_before_the_answer_is_a_broken_connection() {
    for revision in BOTH {
        let half = Bytes::from_static(b"event: message\ndata: {\"jsonrpc\": \"2.0\", \"hidden\"");
        let breaking = move |_| sse_bytes(stream::iter([Ok(half.clone()), Err(cut())]));
        let error = call_answered(revision, breaking).await;
        assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, true), "{error}");
        let error = call_answered(revision, |_| sse(stream::empty())).await;
        assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, true), "{error}");
        let json = |_| {
            let body = stream::iter([Ok(Bytes::from_static(b"{\"hidden\":")), Err(cut())]);
            ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
        };
        let error = call_answered(revision, json).await;
        assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, true), "{error}");
    }
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused_while_it_comes() {
    for revision in BOTH {
        // None of these bodies ends by itself: what reads them whole would wait for ever.
        let page = Bytes::from(vec![b'x'; 4096]);
        let endless = {
            let page = page.clone();
            move |_| {
                let body = stream::repeat(page.clone()).map(Ok::<_, std::io::Error>);
                ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
            }
        };
        let error = call_answered(revision, endless).await;
        assert_eq!((error.kind, error.sent), (CallErrorKind::TooLarge, true), "{error}");
        let event = {
            let page = page.clone();
            move |_| {
                let start = stream::iter([Bytes::from_static(b"data: ")]);
                sse_bytes(start.chain(stream::repeat(page.clone())).map(Ok))
            }
        };
        let error = call_answered(revision, event).await;
        assert_eq!(error.kind, CallErrorKind::TooLarge, "{error}");
        let events = |_| {
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": 99, "progress": 1}});
            sse(stream::repeat(progress))
        };
        let error = call_answered(revision, events).await;
        assert_eq!(error.kind, CallErrorKind::TooLarge, "{error}");
        let resumable = |_| sse_bytes(stream::repeat(Bytes::from_static(b"id: 1\nretry: 0\ndata:\n\n")).map(Ok));
        let error = call_answered(revision, resumable).await;
        assert_eq!(error.kind, CallErrorKind::TooLarge, "{error}");
        let header = |seen: Seen| {
            let mut response = reply(seen.result(text("x")));
            response
                .headers_mut()
                .insert("x-long", "h".repeat(100 << 10).parse().unwrap());
            response
        };
        let error = call_answered(revision, header).await;
        assert_eq!(error.kind, CallErrorKind::TooLarge, "{error}");
    }
}

#[tokio::test]
async fn what_is_no_answer_ends_the_call_at_once() {
    for revision in BOTH {
        for body in ["{\"hidden\": ", "{\"hidden\": 1}", "[]", "", "null"] {
            let json = move |_| ([(header::CONTENT_TYPE, "application/json")], body).into_response();
            let error = call_answered(revision, json).await;
            assert_eq!(
                (error.kind, error.sent),
                (CallErrorKind::Protocol, true),
                "{body}: {error}"
            );
            if body.is_empty() {
                continue; // An empty event is a sign of life.
            }
            let event = move |_| sse_bytes(stream::iter([Ok(format!("data: {body}\n\n").into())]).chain(silence()));
            let error = call_answered(revision, event).await;
            assert_eq!(
                (error.kind, error.sent),
                (CallErrorKind::Protocol, true),
                "{body}: {error}"
            );
        }
        let other = |_| reply(json!({"jsonrpc": "2.0", "id": 4711, "result": text("hidden")}));
        assert_eq!(call_answered(revision, other).await.kind, CallErrorKind::Protocol);
        let other = |_| {
            let answer = json!({"jsonrpc": "2.0", "id": 4711, "result": text("hidden")});
            sse(stream::iter([answer]).chain(silence()))
        };
        assert_eq!(call_answered(revision, other).await.kind, CallErrorKind::Protocol);
        let nothing = |_| StatusCode::ACCEPTED.into_response();
        assert_eq!(call_answered(revision, nothing).await.kind, CallErrorKind::Protocol);
        let page = |_| ([(header::CONTENT_TYPE, "text/html")], "hidden").into_response();
        assert_eq!(call_answered(revision, page).await.kind, CallErrorKind::Protocol);
        let list = |seen: Seen| reply(seen.result(tools(&[])));
        assert_eq!(call_answered(revision, list).await.kind, CallErrorKind::Protocol);
        let packed = |seen: Seen| {
            let mut response = reply(seen.result(text("hidden")));
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
            response
        };
        assert_eq!(call_answered(revision, packed).await.kind, CallErrorKind::Protocol);
    }
}

#[tokio::test]
async fn a_status_says_whether_a_call_can_be_repeated() {
    for revision in BOTH {
        for (status, sent) in [
            (500, true),
            (503, true),
            (408, true),
            (400, false),
            (405, false),
            (429, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = call_answered(revision, move |_| (status, "hidden").into_response()).await;
            assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, sent), "{error}");
            assert!(error.message.contains(status.as_str()), "{error}");
        }
    }
}

#[tokio::test]
async fn an_error_of_the_protocol_keeps_the_servers_words_apart() {
    for revision in BOTH {
        for (code, words, kind) in [
            (-32602, "Unknown tool: hidden", CallErrorKind::ToolGone),
            (-32602, "Tool hidden not found", CallErrorKind::ToolGone),
            (-32601, "hidden", CallErrorKind::ToolGone),
            (-32602, "hidden is no number", CallErrorKind::Protocol),
            (-32603, "hidden", CallErrorKind::Protocol),
        ] {
            for status in [
                StatusCode::OK,
                StatusCode::BAD_REQUEST,
                StatusCode::INTERNAL_SERVER_ERROR,
            ] {
                let server = Server::start(revision, move |seen| async move {
                    seen.is_call().then(|| status_json(status, &seen.error(code, words)))
                })
                .await;
                let error = call(&server.connect().await, "echo").await.unwrap_err();
                assert_eq!(error.kind, kind, "{error}");
                assert_eq!(error.server_message.as_deref(), Some(words));
                assert!(!error.to_string().contains("hidden"), "{error}");
            }
        }
        // An error without an id belongs to the request that it answers.
        let answer = |seen: Seen| {
            let mut error = seen.error(-32603, "x");
            error.as_object_mut().unwrap().remove("id");
            sse(stream::iter([error]).chain(silence()))
        };
        let server = Server::start(
            revision,
            move |seen| async move { seen.is_call().then(|| answer(seen)) },
        )
        .await;
        let error = call(&server.connect().await, "echo").await.unwrap_err();
        assert_eq!(
            (error.kind, error.server_message.as_deref()),
            (CallErrorKind::Protocol, Some("x"))
        );
    }
}

#[tokio::test]
async fn what_a_server_asks_for_is_refused_and_the_call_goes_on() {
    for method in [
        "sampling/createMessage",
        "elicitation/create",
        "roots/list",
        "ping",
        "x/y",
    ] {
        let (tell, told) = tokio::sync::watch::channel(None);
        let server = Server::start(Revision::Legacy, move |seen| {
            let (tell, mut told) = (tell.clone(), told.clone());
            async move {
                if seen.message["id"] == "ask" {
                    tell.send_replace(Some(seen.message.clone()));
                }
                seen.is_call().then(|| {
                    let params = match method {
                        "sampling/createMessage" => json!({"messages": [], "maxTokens": 1}),
                        "elicitation/create" => {
                            json!({"message": "m", "requestedSchema": {"type": "object", "properties": {}}})
                        }
                        _ => json!({}),
                    };
                    let ask = json!({"jsonrpc": "2.0", "id": "ask", "method": method, "params": params});
                    let rest = stream::once(async move {
                        told.wait_for(Option::is_some).await.unwrap();
                        seen.result(text("went on"))
                    });
                    sse(stream::iter([ask]).chain(rest).boxed())
                })
            }
        })
        .await;
        let result = call(&server.connect().await, "echo").await.unwrap();
        assert_eq!(result.content, [Block::Text("went on".into())]);
        let answer = server.saw(|seen| seen.message["id"] == "ask").await.message;
        if method == "ping" {
            assert!(answer["result"].is_object(), "{answer}");
        } else {
            assert_eq!(answer["error"]["code"], -32601, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_request_for_input_is_no_result() {
    let asks = |seen: Seen| {
        reply(seen.result(json!({"resultType": "input_required", "inputRequests": {"q": {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "hidden", "requestedSchema": {"type": "object", "properties": {}}}}}})))
    };
    let error = call_answered(Revision::Modern, asks).await;
    assert_eq!((error.kind, error.sent), (CallErrorKind::Protocol, true));
    assert!(error.message.contains("asks for input"), "{error}");
}

#[tokio::test]
async fn what_is_no_server_of_the_protocol_is_not_connected_to() {
    for (status, body) in [
        (200, "<html>hidden</html>"),
        (404, "hidden"),
        (500, "hidden"),
        (301, "hidden"),
    ] {
        let server = Server::start(Revision::Modern, move |_| async move {
            let head = (
                StatusCode::from_u16(status).unwrap(),
                [(header::CONTENT_TYPE, "text/html")],
            );
            Some((head.0, head.1, body).into_response())
        })
        .await;
        let error = connect(server.spec()).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Connection, "{error}");
        assert!(
            error.message.contains("files") && !format!("{error:?}").contains("hidden"),
            "{error}"
        );
    }
}
