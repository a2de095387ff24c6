//! Secrets are put in on the way out and taken out on the way back, and go nowhere else.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outwork_egress::secret::{Locations, SecretSet, SecretSpec};
use outwork_ledger::Kind;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{answer, handshake2, in_time, send2};
use crate::world::World;

const SECRET: &str = "sk-live-9f8e7d6c5b4a39281706";
const PLACEHOLDER: &str = "sk-live-PLACEHOLDER000000001";
const PASSED: &str = "93.184.215.11:443";

async fn world() -> World {
    let world = World::new().await;
    let mut spec = SecretSpec::new(
        "api key",
        SecretString::from(SECRET),
        PLACEHOLDER.to_owned(),
        vec!["passed.example".to_owned()],
    );
    spec.locations = Locations::from_injection(true, true);
    world.handle.set_secrets(SecretSet::new(vec![spec]).unwrap());
    for name in ["passed.example.", "front.example.", "inspected.example."] {
        world.lookup(name).await;
    }
    world
}

#[tokio::test]
async fn in_a_header_of_a_host_that_would_not_be_opened_otherwise() {
    let world = world().await;
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: passed.example\r\nAuthorization: Bearer {PLACEHOLDER}\r\nAccept-Encoding: gzip, zz\r\n\r\n"
    );
    let answer = world.secure(PASSED, "passed.example", &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(world.seen.has(&format!("Bearer {SECRET}")), "{:?}", world.seen.all());
    assert!(!world.seen.has("zz"));
    // The server says its request back; the secret does not come back.
    assert!(!answer.contains(SECRET) && answer.contains(PLACEHOLDER), "{answer}");
    let records = world.notes.records.lock().unwrap();
    let used = records
        .iter()
        .find(|record| record.kind == Kind::CredentialUse)
        .unwrap();
    assert_eq!(used.credential.as_ref().unwrap().name.as_deref(), Some("api key"));
    assert_eq!(used.http_path.as_deref(), Some("/a"));
    assert!(!format!("{records:?}").contains(SECRET));
}

#[tokio::test]
async fn in_bodies_of_both_versions() {
    let world = world().await;
    let body = format!("{{\"token\":\"{PLACEHOLDER}\"}}");
    let request = format!(
        "POST /b HTTP/1.1\r\nHost: passed.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = world.secure(PASSED, "passed.example", &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.contains(SECRET),
        "{answer}"
    );
    let sent = format!("body of POST /b: {{\"token\":\"{SECRET}\"}}");
    assert!(world.seen.has(&sent), "{:?}", world.seen.all());
    let stream = world.tls(PASSED, "passed.example", &["h2"]).await.unwrap();
    let mut client = handshake2(stream).await.unwrap();
    let mut request = Request::post("https://passed.example/c")
        .body(Full::from(Bytes::from(body)))
        .unwrap();
    request.headers_mut().insert("x-key", PLACEHOLDER.parse().unwrap());
    let reply = send2(&mut client, request).await.unwrap();
    assert_eq!(reply.head.status(), 200);
    assert!(!reply.body.contains(SECRET));
    assert!(
        world.seen.has(&format!("/c: {{\"token\":\"{SECRET}\"}}")),
        "{:?}",
        world.seen.all()
    );
    assert!(
        world
            .seen
            .all()
            .iter()
            .any(|line| line.contains("\"x-key\"") && line.contains(SECRET))
    );
}

#[tokio::test]
async fn a_placeholder_for_another_host_is_blocked() {
    let world = world().await;
    let request = format!("GET /m HTTP/1.1\r\nHost: front.example\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
    let answer = world.secure("93.184.215.20:443", "front.example", &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("credential api key"),
        "{answer}"
    );
    assert!(world.seen.all().is_empty());
    assert!(world.handle.refusals().iter().any(|refusal| refusal.rule == "secret"));
}

#[tokio::test]
async fn never_without_tls_and_never_where_the_name_is_not_certain() {
    let world = world().await;
    let request =
        format!("GET /m HTTP/1.1\r\nHost: passed.example\r\nX-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n");
    let answer = world.plain("93.184.215.11:80", request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    // An allowed range, under the name that the secret is for: passed through as it is.
    let request =
        format!("GET /n HTTP/1.1\r\nHost: passed.example\r\nX-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n");
    let answer = world.secure("93.184.216.5:443", "passed.example", &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!world.seen.has(SECRET), "{:?}", world.seen.all());
    assert!(world.seen.has(PLACEHOLDER));
}

#[tokio::test]
async fn a_request_that_is_blocked_late_is_never_sent_in_half() {
    let world = world().await;
    let mut stream = world
        .tls("93.184.215.20:443", "front.example", &["http/1.1"])
        .await
        .unwrap();
    let head = "POST /half HTTP/1.1\r\nHost: front.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{PLACEHOLDER}\r\n0\r\n\r\n", PLACEHOLDER.len());
    stream.write_all(chunk.as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(!world.seen.has("/half"), "{:?}", world.seen.all());
}

#[tokio::test]
async fn in_websocket_messages() {
    let world = world().await;
    let mut stream = world.tls(PASSED, "passed.example", &["http/1.1"]).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: passed.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let agreed = answer(&mut stream).await;
    assert!(agreed.starts_with("HTTP/1.1 101"), "{agreed}");
    // A text frame, masked with zeros, so that the server of the test reads it as it is.
    let mut frame = vec![0x81, 0x80 | u8::try_from(PLACEHOLDER.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(PLACEHOLDER.as_bytes());
    stream.write_all(&frame).await.unwrap();
    let mut read = [0; 1];
    // Whatever mask is used on the way out: the placeholder is gone.
    let _ = in_time(stream.read(&mut read)).await;
    let all = world.seen.all();
    assert!(
        all.iter().any(|line| line.starts_with("ws ")) && !all.iter().any(|line| line.contains(PLACEHOLDER)),
        "{all:?}"
    );
}
