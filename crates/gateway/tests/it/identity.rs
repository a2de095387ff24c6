//! Who may call: signed identities, and everything that is not one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use outwork_gateway::record::Decision;
use serde_json::{Value, json};

use crate::world::server::json_answer;
use crate::world::tokens::{ISSUER, Issuer, now};
use crate::world::{Plan, Server, World, until};

const HOST: &str = "wiki.t.example";

fn world(server: &Server, issuer: &Issuer, rules: &str, required: bool) -> World {
    Plan::wiki(server, rules)
        .more(&format!(
            "identity: {{issuer: '{ISSUER}', jwks_file: jwks.json, required: {required}}}"
        ))
        .file("jwks.json", issuer.jwks())
        .start()
}

async fn call(world: &World, token: &str) -> crate::world::caller::Answer {
    let message = crate::world::caller::call("echo", json!({}));
    world
        .caller("wiki")
        .await
        .post(&message, &[("outwork-agent-identity", token)])
        .await
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = Issuer::claims(HOST, Some("echo"));
    change(&mut claims);
    claims
}

#[tokio::test]
async fn what_is_no_identity_is_refused_and_what_is_one_passes() {
    let server = Server::mcp().await;
    let issuer = Issuer::new("k1");
    let stranger = Issuer::new("k1");
    let world = world(&server, &issuer, "", true);
    let good = claims(|_| {});
    let signed = issuer.sign(&good);
    let (head, rest) = signed.split_once('.').unwrap();
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let other_payload = part(&claims(|claims| claims["agent_id"] = json!("agent_2")));
    let signature = rest.split_once('.').unwrap().1;
    for (name, token, rule) in [
        (
            "alg none",
            format!("{}.{}.", part(&json!({"alg": "none", "kid": "k1"})), part(&good)),
            "identity.algorithm",
        ),
        (
            "no alg",
            format!("{}.{}.", part(&json!({"kid": "k1"})), part(&good)),
            "identity.algorithm",
        ),
        (
            "hmac",
            issuer.sign_as(&json!({"alg": "HS256", "kid": "k1"}), &good),
            "identity.algorithm",
        ),
        (
            "another family",
            issuer.sign_as(&json!({"alg": "RS256", "kid": "k1"}), &good),
            "identity.algorithm",
        ),
        (
            "unknown key",
            issuer.sign_as(&json!({"alg": "EdDSA", "kid": "k2"}), &good),
            "identity.key",
        ),
        (
            "no key id",
            issuer.sign_as(&json!({"alg": "EdDSA"}), &good),
            "identity.key",
        ),
        ("another signer", stranger.sign(&good), "identity.signature"),
        (
            "another payload",
            format!("{head}.{other_payload}.{signature}"),
            "identity.signature",
        ),
        ("no signature", format!("{head}.{}.", part(&good)), "identity.signature"),
        (
            "issuer",
            issuer.sign(&claims(|claims| claims["iss"] = json!("https://evil.example"))),
            "identity.issuer",
        ),
        (
            "audience",
            issuer.sign(&claims(|claims| claims["aud"] = json!("https://other.t.example"))),
            "identity.audience",
        ),
        (
            "audience without scheme",
            issuer.sign(&claims(|claims| claims["aud"] = json!(HOST))),
            "identity.audience",
        ),
        (
            "expired",
            issuer.sign(&claims(|claims| claims["exp"] = json!(now() - 60))),
            "identity.expired",
        ),
        (
            "not yet valid",
            issuer.sign(&claims(|claims| claims["nbf"] = json!(now() + 120))),
            "identity.expired",
        ),
        (
            "too long",
            issuer.sign(&claims(|claims| claims["exp"] = json!(now() + 3600))),
            "identity.lifetime",
        ),
        (
            "no session",
            issuer.sign(&claims(|claims| {
                drop(claims.as_object_mut().unwrap().remove("session_id"))
            })),
            "identity.claims",
        ),
        (
            "no expiry",
            issuer.sign(&claims(|claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
            "identity.claims",
        ),
        (
            "no audience",
            issuer.sign(&claims(|claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
            "identity.claims",
        ),
        (
            "another tool",
            issuer.sign(&claims(|claims| claims["tool"] = json!("drop"))),
            "identity.tool",
        ),
        (
            "no tool",
            issuer.sign(&claims(|claims| claims["tool"] = Value::Null)),
            "identity.tool",
        ),
        ("no token", "x".to_owned(), "identity.malformed"),
        ("a long token", "x".repeat(9000), "identity.malformed"),
    ] {
        let answer = call(&world, &token).await;
        assert_eq!(answer.rule().as_deref(), Some(rule), "{name}");
    }
    assert_eq!(
        world
            .caller("wiki")
            .await
            .tool("echo", json!({}))
            .await
            .rule()
            .as_deref(),
        Some("identity.missing")
    );
    let twice = [
        ("outwork-agent-identity", &*signed),
        ("outwork-agent-identity", &*signed),
    ];
    let message = crate::world::caller::call("echo", json!({}));
    let answer = world.caller("wiki").await.post(&message, &twice).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::FORBIDDEN, Some("identity.malformed"))
    );
    assert!(server.seen().is_empty());

    // The good one passes, again too, and goes no further.
    for _ in 0..2 {
        assert!(call(&world, &signed).await.json()["result"].is_object());
    }
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("outwork-agent-identity").is_none())
    );
    let passed = || {
        let calls = world.calls.all();
        calls.into_iter().filter(|call| call.decision == Decision::Allowed)
    };
    until(|| passed().count() == 2).await;
    let record = passed().next_back().unwrap();
    assert_eq!(
        (
            record.workspace.as_deref(),
            record.agent.as_deref(),
            record.agent_version.as_deref(),
            record.session.as_deref()
        ),
        (Some("wrkspc_1"), Some("agent_1"), Some("3"), Some("sesn_1"))
    );
}

#[tokio::test]
async fn a_remembered_identity_is_good_for_its_host_only() {
    let server = Server::mcp().await;
    let issuer = Issuer::new("k1");
    let mut plan = Plan::wiki(&server, "")
        .more(&format!(
            "identity: {{issuer: '{ISSUER}', jwks_file: jwks.json, required: true}}"
        ))
        .file("jwks.json", issuer.jwks());
    plan.routes
        .push_str(&format!("  other: http://other.internal:{}\n", server.port()));
    let world = plan.start();
    let token = issuer.sign(&claims(|_| {}));
    assert!(call(&world, &token).await.json()["result"].is_object());
    let message = crate::world::caller::call("echo", json!({}));
    let answer = world
        .caller("other")
        .await
        .post(&message, &[("outwork-agent-identity", &token)])
        .await;
    assert_eq!(answer.rule().as_deref(), Some("identity.audience"));
}

#[tokio::test]
async fn callers_are_matched() {
    let server = Server::mcp().await;
    let issuer = Issuer::new("k1");
    let token = issuer.sign(&claims(|_| {}));
    for (rules, rule) in [
        (
            "callers: {workspaces: ['wrkspc_*'], agents: [agent_1], sessions: ['sesn_?']}",
            None,
        ),
        ("callers: {}", None),
        ("callers: {workspaces: [wrkspc_2]}", Some("callers.workspaces")),
        ("callers: {agents: ['agent_2*']}", Some("callers.agents")),
        ("callers: {sessions: [sesn_2]}", Some("callers.sessions")),
        ("callers: {agents: []}", Some("callers.agents")),
    ] {
        let world = world(&server, &issuer, rules, false);
        assert_eq!(call(&world, &token).await.rule().as_deref(), rule, "{rules}");
        // Where callers are named, one without an identity is none of them.
        let answer = world.caller("wiki").await.tool("echo", json!({})).await;
        assert_eq!(answer.rule().as_deref(), Some("identity.missing"), "{rules}");
    }
}

#[tokio::test]
async fn an_identity_is_passed_on_only_where_it_should() {
    let server = Server::mcp().await;
    let issuer = Issuer::new("k1");
    let token = issuer.sign(&claims(|_| {}));
    let world = world(&server, &issuer, "pass_identity: true", false);
    call(&world, &token).await;
    assert_eq!(server.seen()[0].header("outwork-agent-identity"), Some(&*token));
    assert!(world.caller("wiki").await.tool("echo", json!({})).await.json()["result"].is_object());
    assert_eq!(server.seen()[1].header("outwork-agent-identity"), None);
}

#[tokio::test]
async fn rs256_is_taken_too() {
    let server = Server::mcp().await;
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = key.public_key();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let trim = |bytes: &[u8]| {
        bytes
            .iter()
            .skip_while(|byte| **byte == 0)
            .copied()
            .collect::<Vec<u8>>()
    };
    let jwks = json!({"keys": [
        {"kty": "RSA", "kid": "r1", "n": encode(&trim(public.modulus().big_endian_without_leading_zero())), "e": encode(&trim(public.exponent().big_endian_without_leading_zero()))},
        {"kty": "EC", "kid": "e1", "crv": "P-256", "x": "AA", "y": "AA"},
    ]});
    let world = Plan::wiki(&server, "")
        .more(&format!(
            "identity: {{issuer: '{ISSUER}', jwks_file: jwks.json, required: true}}"
        ))
        .file("jwks.json", jwks.to_string())
        .start();
    let signed = format!(
        "{}.{}",
        encode(json!({"alg": "RS256", "kid": "r1"}).to_string().as_bytes()),
        encode(claims(|_| {}).to_string().as_bytes())
    );
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &aws_lc_rs::rand::SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    let answer = call(&world, &format!("{signed}.{}", encode(&signature))).await;
    assert!(answer.json()["result"].is_object(), "{answer:?}");
    signature[0] ^= 1;
    assert_eq!(
        call(&world, &format!("{signed}.{}", encode(&signature)))
            .await
            .rule()
            .as_deref(),
        Some("identity.signature")
    );
}

#[tokio::test]
async fn keys_at_an_address_are_fetched_once_and_again_for_a_new_key() {
    let issuer = Arc::new(Issuer::new("k1"));
    let fetched = Arc::new(AtomicUsize::new(0));
    let (keys, count) = (issuer.clone(), fetched.clone());
    let issuer_server = Server::with(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let jwk = keys.jwk();
        Box::pin(async move { json_answer(&json!({"keys": [jwk]})) })
    })
    .await;
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "")
        .more(&format!(
            "identity: {{issuer: '{ISSUER}', jwks_url: 'http://127.0.0.1:{}/jwks.json', required: true}}",
            issuer_server.port()
        ))
        .start();
    for _ in 0..3 {
        let token = issuer.sign(&claims(|claims| claims["iat"] = json!(now())));
        assert!(call(&world, &token).await.json()["result"].is_object());
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    // Unknown keys do not make the gateway fetch again and again.
    for _ in 0..3 {
        let token = issuer.sign_as(&json!({"alg": "EdDSA", "kid": "k9"}), &claims(|_| {}));
        assert_eq!(call(&world, &token).await.rule().as_deref(), Some("identity.key"));
    }
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_keys_nobody_is_known() {
    let server = Server::mcp().await;
    let world = Plan::wiki(&server, "")
        .more(&format!(
            "identity: {{issuer: '{ISSUER}', jwks_url: 'http://127.0.0.1:1/jwks.json', required: true}}"
        ))
        .start();
    let answer = call(&world, &Issuer::new("k1").sign(&claims(|_| {}))).await;
    assert_eq!(
        (answer.status, answer.rule().as_deref()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("identity.keys"))
    );
}

#[tokio::test]
async fn a_withdrawn_key_is_withdrawn() {
    let server = Server::mcp().await;
    let issuer = Issuer::new("k1");
    let world = world(&server, &issuer, "", true);
    let token = issuer.sign(&claims(|_| {}));
    assert!(call(&world, &token).await.json()["result"].is_object());
    world.write("jwks.json", &Issuer::new("k2").jwks());
    until(|| world.gateway.metrics.reloads.load(Ordering::Relaxed) == 1).await;
    assert_eq!(call(&world, &token).await.rule().as_deref(), Some("identity.key"));
}
