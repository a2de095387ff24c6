//! Requests that two parsers could read as different ones, and clients that take too long or send too much.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cases;
use crate::client::{in_time, rest};
use crate::world::World;

/// Bytes on an opened connection, as they are.
async fn send(world: &World, bytes: &str) -> String {
    world.lookup("inspected.example.").await;
    let mut stream = world
        .tls("93.184.215.10:443", "inspected.example", &["http/1.1"])
        .await
        .unwrap();
    let _ = stream.write_all(bytes.as_bytes()).await;
    rest(&mut stream).await
}

/// A request with these fields that carries another request behind it.
async fn smuggle(world: &World, fields: &str, body: &str, mark: &str) -> bool {
    let hidden = format!("GET /admin/{mark} HTTP/1.1\r\nHost: inspected.example\r\n\r\n");
    let request = format!("POST /ok/first HTTP/1.1\r\nHost: inspected.example\r\n{fields}\r\n{body}{hidden}");
    let answer = send(world, &request).await;
    // Not even the first one may pass: its end is not certain.
    world.seen.has("/ok/first") || !answer.starts_with("HTTP/1.1 400")
}

cases! {
    "te-and-cl": "a length and a transfer coding", Escapes, |w, m| {
        smuggle(&w, "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", &m).await
    };
    "cl-and-te": "the same the other way round", Escapes, |w, m| {
        smuggle(&w, "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", &m).await
    };
    "cl-cl": "two different lengths", Holds, |w, m| {
        smuggle(&w, "Content-Length: 0\r\nContent-Length: 60\r\n", "", &m).await
    };
    "cl-cl-same": "the same length twice", Escapes, |w, m| {
        smuggle(&w, "Content-Length: 0\r\nContent-Length: 0\r\n", "", &m).await
    };
    "cl-list": "lengths in a list", Holds, |w, m| {
        smuggle(&w, "Content-Length: 0, 60\r\n", "", &m).await
    };
    "cl-sign": "a length with a sign", Holds, |w, m| {
        smuggle(&w, "Content-Length: +0\r\n", "", &m).await
    };
    "te-list": "several transfer codings", Holds, |w, m| {
        smuggle(&w, "Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n", &m).await
    };
    "te-space": "a space before the colon", Holds, |w, m| {
        smuggle(&w, "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", &m).await
    };
    "te-unknown": "a transfer coding that nobody knows", Holds, |w, m| {
        smuggle(&w, "Transfer-Encoding: xchunked\r\n", "", &m).await
    };
    "te-folded": "a transfer coding on a folded line", Holds, |w, m| {
        smuggle(&w, "X: y\r\n Transfer-Encoding: chunked\r\n", "", &m).await
    };
    "bare-lf": "lines that end in LF alone", Escapes, |w, m| {
        let answer = send(&w, "GET /ok/first HTTP/1.1\nHost: inspected.example\nConnection: close\n\n").await;
        w.seen.has("/ok/first") || !answer.starts_with("HTTP/1.1 400")
    };
    "bare-cr": "a CR inside a field", Holds, |w, m| {
        smuggle(&w, &format!("X: a\rGET /{m}\r\n"), "", &m).await
    };
    "zero-byte": "a zero byte inside a field", Holds, |w, m| {
        smuggle(&w, "X: a\0b\r\n", "", &m).await
    };
    "chunk-extension": "an extension of a chunk", Escapes, |w, m| {
        let body = format!("POST /ok/x HTTP/1.1\r\nHost: inspected.example\r\nTransfer-Encoding: chunked\r\n\r\n\
            7;{m}=1\r\nabcdefg\r\n0\r\n\r\n");
        send(&w, &body).await;
        w.seen.has("7 bytes, broken: false")
    };
    "chunk-too-long": "a chunk that is longer than it says", Holds, |w, m| {
        let body = format!("POST /ok/x HTTP/1.1\r\nHost: inspected.example\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc{m}\r\n0\r\n\r\n");
        send(&w, &body).await;
        w.seen.has("broken: false")
    };
    "no-version": "a request of HTTP/0.9", Holds, |w, m| {
        send(&w, &format!("GET /ok/{m}\r\n")).await;
        false
    };
    "no-host": "a request without a host", Holds, |w, m| {
        send(&w, &format!("GET /ok/{m} HTTP/1.0\r\n\r\n")).await;
        false
    };
    "two-hosts": "two Host fields", Holds, |w, m| {
        send(&w, &format!("GET /ok/{m} HTTP/1.1\r\nHost: inspected.example\r\nHost: evil.example\r\n\r\n")).await;
        false
    };
    "host-user": "a user name before the host", Holds, |w, m| {
        send(&w, &format!("GET /ok/{m} HTTP/1.1\r\nHost: inspected.example@evil.example\r\n\r\n")).await;
        false
    };
    "long-head": "a head that is too long", Holds, |w, m| {
        let long = "x".repeat(100_000);
        let answer = send(&w, &format!("GET /ok/{m} HTTP/1.1\r\nHost: inspected.example\r\nX: {long}\r\n\r\n")).await;
        answer.starts_with("HTTP/1.1 2")
    };
    "many-fields": "a head of too many fields", Holds, |w, m| {
        let many = "X: y\r\n".repeat(2000);
        send(&w, &format!("GET /ok/{m} HTTP/1.1\r\nHost: inspected.example\r\n{many}\r\n")).await;
        false
    };
    "slow-head": "a head that never ends, to hold the connection", Holds, |w, m| {
        w.lookup("inspected.example.").await;
        let mut stream = w.tls("93.184.215.10:443", "inspected.example", &["http/1.1"]).await.unwrap();
        stream.write_all(format!("GET /ok/{m} HTTP/1.1\r\nHost:").as_bytes()).await.unwrap();
        // It is ended by the boundary; waiting longer fails the test.
        let _ = in_time(stream.read(&mut [0; 256])).await;
        false
    };
    "slow-greeting": "a TLS greeting that never ends", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let mut stream = w.dial("93.184.215.11:443").await;
        stream.write_all(&[22, 3, 1, 2]).await.unwrap();
        let _ = in_time(stream.read(&mut [0; 256])).await;
        false
    };
    "slow-first-byte": "a connection that says nothing where the client must speak first", Holds, |w, m| {
        let mut stream = w.dial("93.184.215.11:443").await;
        let _ = in_time(stream.read(&mut [0; 256])).await;
        !w.wires.dialled.lock().unwrap().is_empty()
    };
}
