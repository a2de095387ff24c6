//! Addresses as a way out.

use tokio::io::AsyncWriteExt;

use super::cases;
use crate::client::rest;
use crate::world::World;

/// A request in the clear.
async fn plain(world: &World, to: &str, host: &str, mark: &str) {
    let request = format!("GET /ok/{mark} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    world.plain(to, request.as_bytes()).await;
}

async fn secure(world: &World, to: &str, name: &str, mark: &str) {
    let request = format!("GET /ok/{mark} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    world.secure(to, name, &request).await;
}

async fn raw(world: &World, to: &str, mark: &str) {
    let mut stream = world.dial(to).await;
    let _ = stream.write_all(format!("\x01\x02 {mark}\n").as_bytes()).await;
    let _ = stream.shutdown().await;
    rest(&mut stream).await;
}

cases! {
    "ip-http": "a request to an address that was never answered", Escapes, |w, m| {
        plain(&w, "93.184.215.66:80", "93.184.215.66", &m).await;
        false
    };
    "ip-https": "TLS without a name to an address that was never answered", Escapes, |w, m| {
        let request = format!("GET /{m} HTTP/1.1\r\nHost: 93.184.216.10\r\nConnection: close\r\n\r\n");
        w.secure("93.184.215.66:443", "93.184.216.10", &request).await;
        false
    };
    "ip-raw": "bytes to an address that was never answered", Escapes, |w, m| {
        raw(&w, "93.184.215.66:4444", &m).await;
        false
    };
    "forged-name-inspected": "an allowed name in TLS, to somebody else's address", Escapes, |w, m| {
        w.lookup("inspected.example.").await;
        secure(&w, "93.184.215.66:443", "inspected.example", &m).await;
        false
    };
    "forged-name-passed": "the same with a host that is passed through", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        secure(&w, "93.184.215.66:443", "passed.example", &m).await;
        false
    };
    "forged-host": "an allowed name in the Host field, to somebody else's address", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        plain(&w, "93.184.215.66:80", "passed.example", &m).await;
        false
    };
    "other-name's-address": "an allowed name, to the address of another allowed name", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        w.lookup("front.example.").await;
        secure(&w, "93.184.215.20:443", "passed.example", &m).await;
        false
    };
    "rebound-later": "a name that was rebound to this machine after its first answer", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        w.zone.set("passed.example", &["127.0.0.1"]);
        plain(&w, "127.0.0.1:80", "passed.example", &m).await;
        false
    };
    "metadata": "the metadata service by its address", Escapes, |w, m| {
        plain(&w, "169.254.169.254:80", "169.254.169.254", &m).await;
        false
    };
    "metadata-named": "the metadata service under an allowed name", Escapes, |w, m| {
        plain(&w, "169.254.169.254:80", "metadata.example", &m).await;
        false
    };
    "metadata-alibaba": "another cloud's metadata service", Escapes, |w, m| {
        plain(&w, "100.100.100.200:80", "100.100.100.200", &m).await;
        false
    };
    "metadata-azure": "another cloud's service for its machines", Escapes, |w, m| {
        plain(&w, "168.63.129.16:80", "168.63.129.16", &m).await;
        false
    };
    "metadata-mapped": "the metadata service mapped into IPv6", Escapes, |w, m| {
        plain(&w, "[::ffff:169.254.169.254]:80", "[::ffff:169.254.169.254]", &m).await;
        false
    };
    "metadata-nat64": "the metadata service through NAT64", Escapes, |w, m| {
        plain(&w, "[64:ff9b::a9fe:a9fe]:80", "[64:ff9b::a9fe:a9fe]", &m).await;
        false
    };
    "metadata-6to4": "the metadata service through 6to4", Escapes, |w, m| {
        plain(&w, "[2002:a9fe:a9fe::]:80", "[2002:a9fe:a9fe::]", &m).await;
        false
    };
    "metadata-v6": "the metadata service of IPv6", Escapes, |w, m| {
        plain(&w, "[fd00:ec2::254]:80", "[fd00:ec2::254]", &m).await;
        false
    };
    "loopback": "this machine", Escapes, |w, m| {
        plain(&w, "127.0.0.1:80", "localhost", &m).await;
        false
    };
    "loopback-named": "this machine under an allowed name", Escapes, |w, m| {
        plain(&w, "127.0.0.1:80", "rebind.example", &m).await;
        false
    };
    "loopback-v6": "this machine by IPv6", Escapes, |w, m| {
        plain(&w, "[::1]:80", "[::1]", &m).await;
        false
    };
    "loopback-compatible": "this machine in the oldest form of IPv6", Escapes, |w, m| {
        plain(&w, "[::7f00:1]:80", "[::7f00:1]", &m).await;
        false
    };
    "unspecified": "no address, which some systems take for their own", Escapes, |w, m| {
        plain(&w, "0.0.0.0:80", "0.0.0.0", &m).await;
        false
    };
    "link-local": "a neighbour of the worker", Escapes, |w, m| {
        raw(&w, "169.254.7.7:5432", &m).await;
        false
    };
    "private": "a private address that no range names", Escapes, |w, m| {
        plain(&w, "10.0.0.1:80", "10.0.0.1", &m).await;
        false
    };
    "private-named": "a private address under an allowed name that may only be public", Escapes, |w, m| {
        plain(&w, "192.168.1.1:80", "private.example", &m).await;
        false
    };
    "private-neighbour": "a private address beside the one that an allowed name has", Escapes, |w, m| {
        w.lookup("internal.example.").await;
        plain(&w, "10.8.0.6:80", "internal.example", &m).await;
        false
    };
    "range-port": "another port of an allowed range", Escapes, |w, m| {
        raw(&w, "10.7.0.1:22", &m).await;
        false
    };
    "range-denied-name": "a name that a rule refuses, said to an address of an allowed range", Escapes, |w, m| {
        secure(&w, "93.184.216.10:443", "never.wild.example", &m).await;
        false
    };
    "raw-port": "another port of an allowed host", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        raw(&w, "93.184.215.11:22", &m).await;
        false
    };
    "tls-port": "TLS at another port of an allowed host", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        secure(&w, "93.184.215.11:8443", "passed.example", &m).await;
        false
    };
    "raw-at-443": "bytes that are no TLS, at the TLS port of an allowed host", Escapes, |w, m| {
        w.lookup("passed.example.").await;
        // The server behind it takes any name, so that the mark is what a raw client could say first.
        let mut stream = w.dial("93.184.215.11:443").await;
        let _ = stream.write_all(format!("\x01\x02 {m}\n").as_bytes()).await;
        rest(&mut stream).await;
        w.wires.dialled.lock().unwrap().iter().any(|to| to.port() == 443)
    };
    "dot": "DNS over TLS to a public resolver", Escapes, |w, m| {
        raw(&w, "1.1.1.1:853", &m).await;
        false
    };
    "dot-allowed-port": "DNS over TLS although a rule names the port", Escapes, |w, m| {
        w.lookup("mail.example.").await;
        raw(&w, "93.184.215.31:853", &m).await;
        false
    };
    "doh": "DNS over HTTPS to a resolver that is not allowed", Escapes, |w, m| {
        secure(&w, "1.1.1.1:443", "dns.resolver.example", &m).await;
        false
    };
    "raw-quota": "more bytes than a rule's quota", Escapes, |w, m| {
        w.lookup("tiny.example.").await;
        raw(&w, "93.184.215.53:5432", &"x".repeat(900)).await;
        raw(&w, "93.184.215.53:5432", &format!("{}{m}", "x".repeat(900))).await;
        false
    };
    "unrecorded-connection": "a connection whose record cannot be kept", Holds, |w, m| {
        w.lookup("db.example.").await;
        w.notes.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        raw(&w, "93.184.215.30:5432", &m).await;
        false
    };
    "not-redirected": "a connection to the listener itself", Holds, |w, m| {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(w.tcp).await {
            let _ = stream.write_all(format!("GET /{m} HTTP/1.1\r\nHost: passed.example\r\n\r\n").as_bytes()).await;
            rest(&mut stream).await;
        }
        false
    };
}
