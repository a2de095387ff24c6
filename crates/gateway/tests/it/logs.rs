//! Nothing of a payload and no secret is ever logged.

use std::io::Write;
use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::json;

use crate::world::server::whole;
use crate::world::tokens::{ISSUER, Issuer};
use crate::world::{Plan, Server};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_payload_and_no_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread, so that everything of this test is logged here and nothing else is.
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(calls());
    drop(runtime);
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    // It did log: refusals with their reasons, calls with their tools.
    for said in [
        "tools.deny",
        "identity.signature",
        "route=\"wiki\"",
        "drop",
        "mcp.parse",
        "redact.card_number",
    ] {
        assert!(text.contains(said), "{said} is not in the log:\n{text}");
    }
    for secret in ["s3cret", "S3CRET", "4111111111111111", "czNjcmV0", "eyJ"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
    }
}

async fn calls() {
    let server = Server::with(|seen| {
        Box::pin(async move {
            match &*seen.uri {
                "/broken" => whole(http::StatusCode::OK, "application/json", "{\"s3cret\": "),
                _ => crate::world::server::mcp(&seen),
            }
        })
    })
    .await;
    let issuer = Issuer::new("k1");
    let rules = "tools: {deny: [drop], read_only: false}\nlimits: {per_tool: {slow: 1/h}}\napprovals: [{tool: approve}]\nredact: [{detector: card_number, action: block, direction: both}]\nheaders: {set: {x-upstream: s3cret-of-the-upstream}}";
    let world = Plan::wiki(&server, rules)
        .more(&format!(
            "log_level: trace\nidentity: {{issuer: '{ISSUER}', jwks_file: jwks.json}}\napprovals_file: a.yaml"
        ))
        .file("jwks.json", issuer.jwks())
        .file("a.yaml", "approvals: []")
        .start();
    let mut caller = world.caller("wiki").await;
    let headers = [
        ("authorization", "Bearer s3cret"),
        ("mcp-session-id", "s3cret-session"),
        ("cookie", "a=s3cret"),
    ];
    let call = |tool: &str| crate::world::caller::call(tool, json!({"a": "s3cret", "b": {"s3cret": 1}}));
    for tool in ["echo", "drop", "slow", "slow", "approve", "s3cret tool", "s3cret\ntool"] {
        caller.post(&call(tool), &headers).await;
    }
    caller
        .post(
            &json!({"jsonrpc": "2.0", "id": "s3cret", "method": "s3cret method"}),
            &headers,
        )
        .await;
    caller.tool("echo", json!({"a": "4111111111111111"})).await;
    let mut token = issuer.sign(&Issuer::claims("wiki.t.example", Some("echo")));
    caller.post(&call("echo"), &[("outwork-agent-identity", &token)]).await;
    token.truncate(token.len() - 4);
    token.push_str("AAAA");
    caller.post(&call("echo"), &[("outwork-agent-identity", &token)]).await;
    for body in [
        "{\"s3cret\": ",
        "[\"s3cret\"]",
        "{\"jsonrpc\": \"s3cret\", \"method\": 1}",
        "s3cret",
    ] {
        let mut request = caller.request(Method::POST, "/mcp?token=s3cret", body);
        request
            .headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        caller.send(request).await;
    }
    for path in ["/broken?s3cret", "/s3cret"] {
        let request = caller.request(Method::GET, path, "");
        caller.send(request).await;
    }
    crate::world::caller::raw(
        &world,
        "wiki.t.example",
        b"GET /s3cret s3cret\r\ns3cret: s3cret\r\n\r\n",
    )
    .await;
}
