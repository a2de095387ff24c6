//! Listing and calling, answers in all their forms, deadlines and cancelling.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use outwork_mcp::{Block, CallContext, CallErrorKind};
use serde_json::{Map, json};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::server::*;

#[tokio::test]
async fn lists_and_calls() {
    for revision in BOTH {
        let server = Server::plain(revision).await;
        let connection = server.connect().await;
        let version = if revision == Revision::Modern {
            "2026-07-28"
        } else {
            "2025-11-25"
        };
        assert_eq!(connection.protocol_version(), version);
        let tools = tools_of(&connection).await.unwrap();
        assert_eq!(tools.len(), 1);
        assert_eq!(
            (tools[0].name.as_str(), tools[0].description.as_str()),
            ("echo", "Says it again.")
        );
        assert!(tools[0].read_only && tools[0].repeatable() && !tools[0].destructive && !tools[0].idempotent);
        let result = call(&connection, "echo").await.unwrap();
        assert_eq!(result.content, [Block::Text("echo {\"secret_argument\":1}".into())]);
        assert!(!result.is_error);
        connection.close(deadline()).await;
    }
}

#[tokio::test]
async fn reads_all_pages() {
    for revision in BOTH {
        let server = Server::start(revision, |seen| async move {
            let cursor = seen.message["params"]["cursor"]
                .as_str()
                .unwrap_or("0")
                .parse::<usize>()
                .unwrap();
            (seen.method() == "tools/list").then(|| {
                let name = format!("t{cursor}");
                let mut result = tools(&[json!({"name": name, "inputSchema": {}}), echo()]);
                if cursor < 3 {
                    result["nextCursor"] = json!((cursor + 1).to_string());
                }
                reply(seen.result(result))
            })
        })
        .await;
        let names: Vec<String> = tools_of(&server.connect().await)
            .await
            .unwrap()
            .into_iter()
            .map(|tool| tool.name)
            .collect();
        assert_eq!(names, ["t0", "echo", "t1", "t2", "t3"]);
    }
}

#[tokio::test]
async fn a_list_has_bounds() {
    let cases = [
        ("many", 1001, 1, false),
        ("large", 5, 1 << 20, false),
        ("endless", 1, 1, true),
    ];
    for (case, count, length, endless) in cases {
        let server = Server::start(Revision::Modern, move |seen| async move {
            let page = seen.message["params"]["cursor"].as_str().unwrap_or_default().to_owned() + "x";
            (seen.method() == "tools/list").then(|| {
                let description = "d".repeat(length);
                let tool = |n| json!({"name": format!("{page}{n}"), "description": description, "inputSchema": {}});
                let mut result = tools(&(0..count).map(tool).collect::<Vec<_>>());
                if endless {
                    result["nextCursor"] = json!(page);
                }
                reply(seen.result(result))
            })
        })
        .await;
        let error = tools_of(&server.connect().await).await.unwrap_err();
        assert_eq!(error.kind, CallErrorKind::TooLarge, "{case}: {error}");
    }
}

#[tokio::test]
async fn an_unreadable_tool_does_not_take_the_others_along() {
    let server = Server::start(Revision::Legacy, |seen| async move {
        (seen.method() == "tools/list")
            .then(|| reply(seen.result(json!({"tools": [{"name": "bad", "inputSchema": "none"}, echo()]}))))
    })
    .await;
    let tools = tools_of(&server.connect().await).await.unwrap();
    assert_eq!(
        tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
        ["echo"]
    );
}

#[tokio::test]
async fn every_block_is_read() {
    for revision in BOTH {
        let server = Server::start(revision, |seen| async move {
            seen.is_call().then(|| {
                reply(seen.result(
                    json!({"resultType": "complete", "isError": true, "structuredContent": {"a": 1},
                    "content": [
                        {"type": "text", "text": "t"},
                        {"type": "image", "data": "aQ==", "mimeType": "image/png"},
                        {"type": "audio", "data": "YQ==", "mimeType": "audio/wav"},
                        {"type": "resource_link", "uri": "x://1", "name": "n", "mimeType": "text/plain"},
                        {"type": "resource", "resource": {"uri": "x://2", "text": "r"}},
                        {"type": "resource", "resource": {"uri": "x://3", "blob": "Yg==", "mimeType": "a/b"}},
                        {"type": "hologram", "size": 3},
                    ]}),
                ))
            })
        })
        .await;
        let result = call(&server.connect().await, "echo").await.unwrap();
        assert!(result.is_error);
        assert_eq!(result.structured, Some(json!({"a": 1})));
        assert_eq!(
            result.content,
            [
                Block::Text("t".into()),
                Block::Image {
                    data: "aQ==".into(),
                    media_type: "image/png".into()
                },
                Block::Audio {
                    data: "YQ==".into(),
                    media_type: "audio/wav".into()
                },
                Block::ResourceLink {
                    uri: "x://1".into(),
                    name: "n".into(),
                    description: None,
                    media_type: Some("text/plain".into())
                },
                Block::ResourceText {
                    uri: "x://2".into(),
                    media_type: None,
                    text: "r".into()
                },
                Block::ResourceBlob {
                    uri: "x://3".into(),
                    media_type: Some("a/b".into()),
                    data: "Yg==".into()
                },
                Block::Unknown {
                    kind: "hologram".into()
                },
            ]
        );
    }
}

#[tokio::test]
async fn a_stream_may_bring_progress_before_the_answer() {
    for revision in BOTH {
        let server = Server::start(revision, |seen| async move {
            seen.is_call().then(|| {
                let token = &seen.message["params"]["_meta"]["progressToken"];
                let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": 1, "total": 2}});
                sse(stream::iter([progress.clone(), progress, seen.result(text("done"))]).chain(silence()))
            })
        })
        .await;
        let result = call(&server.connect().await, "slow").await.unwrap();
        assert_eq!(result.content, [Block::Text("done".into())]);
    }
}

#[tokio::test]
async fn the_context_goes_into_meta_without_touching_the_protocol() {
    for revision in BOTH {
        let server = Server::plain(revision).await;
        let connection = server.connect().await;
        let meta = json!({"traceparent": "00-a-b-01", "progressToken": "mine",
            "io.modelcontextprotocol/protocolVersion": "1999-01-01"});
        let context = CallContext {
            call_id: Some("c1".into()),
            meta: meta.as_object().unwrap().clone(),
        };
        connection
            .call("echo", Map::new(), context, deadline(), &CancellationToken::new())
            .await
            .unwrap();
        let sent = &server.saw(|seen| seen.is_call()).await.message["params"]["_meta"];
        assert_eq!(sent["traceparent"], "00-a-b-01");
        assert_ne!(sent["progressToken"], "mine");
        assert_ne!(sent["io.modelcontextprotocol/protocolVersion"], "1999-01-01");
    }
}

#[tokio::test]
async fn many_calls_run_side_by_side() {
    for revision in BOTH {
        let all = Arc::new(tokio::sync::Barrier::new(8));
        let server = Server::start(revision, move |seen| {
            let all = all.clone();
            async move {
                if seen.is_call() {
                    all.wait().await;
                }
                None
            }
        })
        .await;
        let connection = server.connect().await;
        let calls = (0..8).map(|_| call(&connection, "echo"));
        for result in futures_util::future::join_all(calls).await {
            result.unwrap();
        }
    }
}

/// A server whose calls hang: before the head of the answer or in its stream. Says when a call's answer is dropped.
async fn hanging(revision: Revision, in_stream: bool) -> (Server, Arc<Notify>) {
    let closed = Arc::new(Notify::new());
    let notify = closed.clone();
    let server = Server::start(revision, move |seen| {
        let dropped = Dropped(notify.clone());
        async move {
            if !seen.is_call() {
                std::mem::forget(dropped);
                return None;
            }
            if !in_stream {
                let _dropped = dropped;
                return std::future::pending().await;
            }
            Some(sse_bytes(stream::once(async move {
                let _dropped = dropped;
                std::future::pending().await
            })))
        }
    })
    .await;
    (server, closed)
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_the_server_is_told() {
    for revision in BOTH {
        for in_stream in [false, true] {
            let (server, closed) = hanging(revision, in_stream).await;
            let connection = server.connect().await;
            let (name, at, never) = (
                "slow",
                Instant::now() + Duration::from_millis(300),
                CancellationToken::new(),
            );
            let error = connection
                .call(name, Map::new(), CallContext::default(), at, &never)
                .await
                .unwrap_err();
            assert_eq!((error.kind, error.sent), (CallErrorKind::Timeout, true), "{error}");
            told_of_the_end(&server, &closed).await;
            connection.close(deadline()).await;
        }
    }
}

#[tokio::test]
async fn cancelling_ends_a_call_and_the_server_is_told() {
    for revision in BOTH {
        for in_stream in [false, true] {
            let (server, closed) = hanging(revision, in_stream).await;
            let connection = server.connect().await;
            let cancel = CancellationToken::new();
            let calling = connection.call("slow", Map::new(), CallContext::default(), deadline(), &cancel);
            let cancelling = async {
                server.saw(|seen| seen.is_call()).await;
                cancel.cancel();
            };
            let (result, ()) = tokio::join!(calling, cancelling);
            let error = result.unwrap_err();
            assert_eq!((error.kind, error.sent), (CallErrorKind::Cancelled, true), "{error}");
            told_of_the_end(&server, &closed).await;
        }
    }
}

#[tokio::test]
async fn a_call_that_was_cancelled_before_it_left_was_not_sent() {
    let server = Server::plain(Revision::Modern).await;
    let connection = server.connect().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = connection
        .call("echo", Map::new(), CallContext::default(), deadline(), &cancel)
        .await
        .unwrap_err();
    assert_eq!((error.kind, error.sent), (CallErrorKind::Cancelled, false));
    assert_eq!(server.count("tools/call"), 0);
}

/// The stream is closed in the newest revision, and a notification names the request before.
async fn told_of_the_end(server: &Server, closed: &Notify) {
    tokio::time::timeout(PATIENCE, closed.notified())
        .await
        .expect("the answer's stream is closed");
    let cancelled = |seen: &Seen| seen.method() == "notifications/cancelled";
    match server.revision {
        Revision::Legacy => {
            let request = server.saw(|seen| seen.is_call()).await.message["id"].clone();
            let told = server.saw(cancelled).await;
            assert_eq!(told.message["params"]["requestId"], request);
        }
        Revision::Modern => assert!(!server.seen().iter().any(cancelled)),
    }
}

#[tokio::test]
async fn a_change_of_the_tools_is_noticed() {
    for revision in BOTH {
        let server = Server::plain(revision).await;
        let mut spec = server.spec();
        spec.watch_tools = true;
        let connection = connect(spec).await.unwrap();
        until(|| server.listeners() == 1).await;
        assert!(!connection.tools_changed());
        let change = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}});
        server.tell(change);
        until(|| connection.tools_changed()).await;
        tools_of(&connection).await.unwrap();
        assert!(!connection.tools_changed());
        connection.close(deadline()).await;
    }
}
