//! Files that change while the gateway runs.

use std::sync::atomic::Ordering::Relaxed;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::world::caller::tls;
use crate::world::server::{mcp, pieces};
use crate::world::{Plan, Server, soon, until};

#[tokio::test]
async fn a_new_configuration_holds_for_the_next_call_and_drops_none() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            if seen.uri != "/events" {
                return mcp(&seen);
            }
            let (sender, response) = pieces("text/event-stream");
            tokio::spawn(async move {
                sender.send("data: 1\n\n".into()).await.unwrap();
                // As long as anybody listens.
                sender.closed().await;
            });
            response
        })
    })
    .await;
    let plan = Plan::wiki(&server, "");
    let text = plan.text();
    let world = plan.start();
    let reloads = || world.gateway.metrics.reloads.load(Relaxed);
    let mut caller = world.caller("wiki").await;
    let mut streaming = world.caller("wiki").await;
    let request = streaming.request(Method::GET, "/events", "");
    let mut body = streaming.open(request).await.unwrap().into_body();
    soon(body.frame()).await.unwrap().unwrap();
    assert_eq!(caller.tool("drop", json!({})).await.rule(), None);
    let connections = server.connections.load(Relaxed);

    // By the watcher.
    world.write(
        "config.yaml",
        &text.replace("  wiki:\n", "  wiki:\n    tools: {deny: [drop]}\n"),
    );
    until(|| reloads() == 1).await;
    assert_eq!(
        caller.tool("drop", json!({})).await.rule().as_deref(),
        Some("tools.deny"),
        "the same connection"
    );
    assert_eq!(caller.tool("echo", json!({})).await.rule(), None);
    assert_eq!(
        server.connections.load(Relaxed),
        connections,
        "connections are carried over"
    );

    // A new route, a route that is gone.
    world.write("config.yaml", &text.replace("  wiki:\n", "  docs:\n"));
    until(|| reloads() == 2).await;
    assert_eq!(caller.tool("echo", json!({})).await.rule().as_deref(), Some("route"));
    assert_eq!(world.caller("docs").await.tool("echo", json!({})).await.rule(), None);

    // By the handle, as SIGHUP does.
    world.write("config.yaml", &text);
    world.gateway.reload().unwrap();
    assert_eq!(caller.tool("drop", json!({})).await.rule(), None);

    // A call from before all of it is still under way.
    let next = tokio::time::timeout(std::time::Duration::from_millis(50), body.frame()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_one_and_says_so() {
    let server = Server::mcp().await;
    let plan = Plan::wiki(&server, "");
    let text = plan.text();
    let world = plan.start();
    let metrics = world.gateway.metrics.clone();
    let mut caller = world.caller("wiki").await;
    for (failed, bad) in [
        (1, text.replace("tunnel_domain", "tunel_domain")),
        (2, text.replace("cert_file: tls.crt", "cert_file: absent.crt")),
        (3, "routes: [".to_owned()),
    ] {
        world.write("config.yaml", &bad);
        until(|| metrics.reloads_failed.load(Relaxed) == failed).await;
        assert!(metrics.render().contains("outwork_gateway_config_stale 1\n"));
        assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    }
    world.write(
        "config.yaml",
        &text.replace("tunnel_domain", "log_level: debug\ntunnel_domain"),
    );
    until(|| metrics.reloads.load(Relaxed) == 1).await;
    assert!(metrics.render().contains("outwork_gateway_config_stale 0\n"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_caller() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "").start();
    let shown = async || {
        let stream = tls(&world, "wiki.t.example", "wiki.t.example").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    let mut before = world.caller("wiki").await;
    assert_eq!(before.tool("echo", json!({})).await.status, StatusCode::OK);

    let (cert, key) = world.authority.sign(&["*.t.example"]);
    // The certificate without its key is refused, and then both hold.
    world.write("tls.crt", &cert);
    until(|| world.gateway.metrics.reloads_failed.load(Relaxed) >= 1).await;
    assert_eq!(shown().await, first);
    world.write("tls.key", &key);
    until(|| world.gateway.metrics.reloads.load(Relaxed) >= 1).await;
    assert_ne!(shown().await, first);
    assert_eq!(before.tool("echo", json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn narrower_ranges_close_what_was_open() {
    let server = Server::mcp().await;
    let plan = Plan::wiki(&server, "");
    let text = plan.text();
    let world = plan.start();
    let mut caller = world.caller("wiki").await;
    assert_eq!(caller.tool("echo", json!({})).await.status, StatusCode::OK);
    world.write("config.yaml", &text.replace("[127.0.0.1/32]", "[10.0.0.0/8]"));
    world.gateway.reload().unwrap();
    let answer = caller.tool("echo", json!({})).await;
    assert_eq!(
        answer.rule().as_deref(),
        Some("upstream.allowed_ips"),
        "a kept connection is not used either"
    );
}

#[tokio::test]
async fn a_file_that_comes_later_mends_what_was_refused() {
    let server = Server::mcp().await;
    let plan = Plan::wiki(&server, "");
    let text = plan.text();
    let world = plan.start();
    let metrics = world.gateway.metrics.clone();
    world.write(
        "config.yaml",
        &text.replace("tls.crt", "new.crt").replace("tls.key", "new.key"),
    );
    until(|| metrics.reloads_failed.load(Relaxed) == 1).await;
    let (cert, key) = world.authority.sign(&["*.t.example"]);
    world.write("new.key", &key);
    world.write("new.crt", &cert);
    until(|| metrics.reloads.load(Relaxed) >= 1).await;
    assert_eq!(
        world.caller("wiki").await.tool("echo", json!({})).await.status,
        StatusCode::OK
    );
}
