//! Connections that are too slow, bodies that are too large, and bodies that do not come.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::world::api::BETA;
use crate::world::{ADMIN_KEY, Api, SCRIPT, SOON, ServerOptions, World, message};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let huge = json!({ "events": [message(&"x".repeat(33 << 20))] });
    // The server may close the connection before all of it was sent.
    if let Ok(answer) = Api::try_send(api.request(Method::POST, &path).json(&huge)).await {
        answer.refused(413, &["32", "larger"].map(|w| if w == "32" { "33554432" } else { w }));
    }
    assert!(api.events(&session).await.is_empty());

    // A body that says its size is refused before it is sent.
    let mut connection = connect(api).await;
    let head = format!("{}content-length: 99999999999\r\n\r\n", head("POST", &path));
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(api.get(&format!("/v1/sessions/{session}")).await.ok()["status"], "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_too_slow_is_dropped() {
    let short = "[limits]\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"\n";
    let world = World::start_with(ServerOptions::default().settings(short)).await;
    // One byte now and then does not keep a connection: the whole head has its time.
    let mut slow = connect(&world.api).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
        .await
        .unwrap();
    let dropped = timeout(SOON, async {
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                read = slow.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
                    }
                },
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    let _ = slow.write_all(b"x").await;
                }
            }
        }
    });
    dropped.await.expect("a slow client keeps its connection");
    // Nor does one that says nothing, or not enough to tell which version of HTTP it speaks.
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut silent = connect(&world.api).await;
        silent.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, silent.read_to_end(&mut rest))
            .await
            .unwrap_or_else(|_| panic!("a client that sends {beginning:?} keeps its connection"))
            .ok();
    }
    // A body that does not come in time is answered, since its request was understood.
    let mut connection = connect(&world.api).await;
    let head = format!("{}content-length: 100\r\n\r\n{{", head("POST", "/v1/agents"));
    connection.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // Everybody else goes on.
    world.api.wait_ready().await;
    world.api.agent(SCRIPT, json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_too_early_or_never_begins() {
    let world = World::start().await;
    let api = &world.api;
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let path = format!("/v1/sessions/{session}/events");
    let body = json!({ "events": [message("half")] }).to_string();
    // Half a body and then nothing more: the connection goes, and nothing of it is taken in.
    for _ in 0..20 {
        let mut connection = connect(api).await;
        let head = format!("{}content-length: {}\r\n\r\n", head("POST", &path), body.len());
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body.as_bytes()[..body.len() / 2]).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(SOON, connection.read_to_end(&mut rest))
            .await
            .expect("the connection stays open")
            .ok();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    // What follows the body is not part of it.
    let mut connection = connect(api).await;
    let head = format!("{}content-length: {}\r\n\r\n", head("POST", &path), body.len() - 1);
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body.as_bytes()).await.unwrap();
    let answer = read_head(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(api.events(&session).await.is_empty());
}

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.base_url().strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// The head of a request with a JSON body, without its length and its end.
fn head(method: &str, path: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {ADMIN_KEY}\r\nanthropic-version: 2023-06-01\r\n\
         anthropic-beta: {BETA}\r\ncontent-type: application/json\r\n"
    )
}

/// The first bytes of an answer.
async fn read_head(connection: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = timeout(SOON, connection.read(&mut buffer))
            .await
            .expect("no answer")
            .unwrap();
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}
