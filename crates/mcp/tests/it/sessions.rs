//! Sessions of the older revisions: how they begin, end, and are begun again.

use axum::{
    http::{Method, StatusCode},
    response::IntoResponse,
};
use futures_util::{StreamExt, stream};
use outwork_mcp::{Block, CallErrorKind};
use serde_json::json;

use crate::server::*;

#[tokio::test]
async fn a_session_that_is_gone_is_begun_again_once() {
    let server = Server::plain(Revision::Legacy).await;
    let connection = server.connect().await;
    call(&connection, "echo").await.unwrap();
    server.forget();
    call(&connection, "echo").await.unwrap();
    assert_eq!(server.count("initialize"), 2);
    let sessions: Vec<String> = server
        .seen()
        .iter()
        .filter(|seen| seen.is_call())
        .map(|seen| seen.header("mcp-session-id").to_owned())
        .collect();
    assert_eq!(sessions, ["s-0", "s-0", "s-1"]);
}

#[tokio::test]
async fn a_server_that_forgets_at_once_is_not_asked_for_ever() {
    let server = Server::start(Revision::Legacy, |seen| async move {
        seen.is_call().then(|| StatusCode::NOT_FOUND.into_response())
    })
    .await;
    let connection = server.connect().await;
    let error = call(&connection, "echo").await.unwrap_err();
    assert_eq!((error.kind, error.sent), (CallErrorKind::Connection, false), "{error}");
    assert_eq!(server.count("tools/call"), 2);
}

#[tokio::test]
async fn closing_ends_the_session() {
    let server = Server::plain(Revision::Legacy).await;
    let connection = server.connect().await;
    connection.close(deadline()).await;
    let ended = server.saw(|seen| seen.http == Method::DELETE).await;
    assert_eq!(ended.header("mcp-session-id"), "s-0");
}

#[tokio::test]
async fn dropping_ends_the_session_too() {
    let server = Server::plain(Revision::Legacy).await;
    drop(server.connect().await);
    server.saw(|seen| seen.http == Method::DELETE).await;
}

#[tokio::test]
async fn an_older_revision_and_a_server_without_sessions_do() {
    for version in ["2025-06-18", "2025-03-26"] {
        let server = Server::start(Revision::Legacy, move |seen| async move {
            Some(match (seen.http.clone(), seen.method()) {
                (Method::GET, _) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
                (_, "initialize") => reply(seen.result(json!({
                    "protocolVersion": version, "capabilities": {"tools": {}},
                    "serverInfo": {"name": "older", "version": "1"}}))),
                (_, "server/discover") => reply(seen.error(-32601, "Method not found")),
                (_, "tools/call") => sse(stream::iter([seen.result(text("old"))])),
                _ => StatusCode::ACCEPTED.into_response(),
            })
        })
        .await;
        let connection = server.connect().await;
        assert_eq!(connection.protocol_version(), version);
        assert_eq!(
            call(&connection, "echo").await.unwrap().content,
            [Block::Text("old".into())]
        );
    }
}

#[tokio::test]
async fn a_stream_that_closes_between_events_is_taken_up_again() {
    let server = Server::start(Revision::Legacy, |seen| async move {
        if seen.is_call() {
            return Some(sse_bytes(stream::iter([Ok("id: e1\nretry: 10\ndata:\n\n".into())])));
        }
        if seen.http == Method::GET && seen.header("last-event-id") == "e1" {
            // The number that the SDK gave to the call: one after the handshake's two.
            let answer = json!({"jsonrpc": "2.0", "id": 2, "result": text("late")});
            return Some(sse(stream::iter([answer]).chain(silence())));
        }
        None
    })
    .await;
    let connection = server.connect().await;
    assert_eq!(
        call(&connection, "echo").await.unwrap().content,
        [Block::Text("late".into())]
    );
}
