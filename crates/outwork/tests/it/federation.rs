//! Workload identity over real HTTP, with an OpenID issuer that the test runs: which tokens are exchanged, which are
//! not, and what the token that comes back opens.

use std::sync::{Arc, Mutex};

use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outwork_wire::Time;
use rcgen::{KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::world::{Answer, Api, Server, ServerOptions};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ORGANIZATION: &str = "11111111-2222-3333-4444-555555555555";
const SUBJECT: &str = "repo:example/infra:environment:prod";

/// A key of the issuer.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Vec<u8>,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let made: &'static SignatureAlgorithm = match algorithm {
            Algorithm::RS256 => &rcgen::PKCS_RSA_SHA256,
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            other => panic!("{other:?}"),
        };
        let pair = KeyPair::generate_for(made).unwrap();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap(),
            Algorithm::ES256 => EncodingKey::from_ec_der(&pair.serialize_der()),
            _ => EncodingKey::from_ed_der(&pair.serialize_der()),
        };
        Self {
            id,
            algorithm,
            key,
            public: pair.public_key_raw().to_vec(),
        }
    }

    fn published(&self) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(&self.public);
            return json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x });
        }
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

/// An OpenID issuer.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<Mutex<usize>>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(json!({ "keys": [] })));
        let asked = Arc::new(Mutex::new(0));
        let (shown, count, own) = (keys.clone(), asked.clone(), url.clone());
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || async move { Json(json!({ "issuer": own, "jwks_uri": format!("{own}/keys") })) }),
            )
            .route(
                "/keys",
                get(move || async move {
                    *count.lock().unwrap() += 1;
                    Json(shown.lock().unwrap().clone())
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, keys, asked }
    }

    fn publish(&self, keys: &[&Key]) {
        let mut all: Vec<Value> = keys.iter().map(|key| key.published()).collect();
        // What a later standard may bring is in nobody's way.
        all.insert(
            0,
            json!({ "kty": "AKP", "alg": "ML-DSA-65", "kid": "later", "pub": "AAAA" }),
        );
        *self.keys.lock().unwrap() = json!({ "keys": all });
    }

    fn claims(&self) -> Value {
        let now = Time::now().as_micros() / 1_000_000;
        json!({ "iss": self.url, "sub": SUBJECT, "aud": "outwork.example", "iat": now, "exp": now + 300 })
    }

    /// A server with the rule `fdrl_prod`.
    async fn server(&self) -> Server {
        self.server_with(&[]).await
    }

    async fn server_with(&self, flags: &[&str]) -> Server {
        let settings = format!(
            "[federation]\norganization_id = \"{ORGANIZATION}\"\n[[federation.rules]]\nid = \"fdrl_prod\"\n\
             issuer = \"{}\"\naudience = \"outwork.example\"\nsubject = \"repo:example/infra:environment:*\"\n\
             scope = \"workspace:manage_tunnels\"\nlifetime = \"10m\"\n",
            self.url
        );
        Server::start(
            ServerOptions::default()
                .settings(&settings)
                .flags(&["--log-level", "trace"])
                .flags(flags),
        )
        .await
    }
}

async fn exchange(api: &Api, assertion: &str, more: Value) -> Answer {
    let mut body = json!({
        "grant_type": GRANT, "assertion": assertion, "federation_rule_id": "fdrl_prod",
        "organization_id": ORGANIZATION,
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    // As the published SDKs send it: without a version.
    let request = api
        .without_credential()
        .bare(reqwest::Method::POST, "/v1/oauth/token")
        .header("anthropic-beta", "oauth-2025-04-20,oidc-federation-2026-04-01")
        .json(&body);
    Api::send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_every_algorithm_is_exchanged_for_one_that_opens_tunnels_only() {
    let issuer = Issuer::start().await;
    let keys = [
        Key::new("rsa", Algorithm::RS256),
        Key::new("ec", Algorithm::ES256),
        Key::new("ed", Algorithm::EdDSA),
    ];
    issuer.publish(&keys.each_ref());
    let server = issuer.server().await;
    let api = server.api();
    let mut secrets = Vec::new();
    for key in &keys {
        let assertion = key.sign(&issuer.claims());
        let answer = exchange(&api, &assertion, json!({})).await;
        assert_eq!(answer.headers["cache-control"], "no-store");
        let granted = answer.ok();
        let fields: Vec<&String> = granted.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["access_token", "token_type", "expires_in", "scope"]);
        assert_eq!(granted["token_type"], "Bearer");
        // Twice as long as the assertion lasts, but not longer than the rule says.
        let seconds = granted["expires_in"].as_i64().unwrap();
        assert!((550..=600).contains(&seconds), "{seconds}");
        let token = granted["access_token"].as_str().unwrap().to_owned();
        let workload = api.with_bearer(&token);
        let tunnel = workload.make("/v1/tunnels", json!({})).await;
        let path = format!("/v1/tunnels/{tunnel}/rotate_token");
        workload.post(&path, json!({})).await.ok();
        let status = workload.get(&format!("/v1/tunnels/{tunnel}/status")).await.ok();
        let by = status["token"]["rotations"][0]["rotated_by"].as_str().unwrap();
        assert_eq!(by, format!("fdrl_prod ({SUBJECT})"));
        for path in ["/v1/agents", "/v1/sessions", "/v1/api_keys", "/v1/models"] {
            workload.get(path).await.refused(403, &["workspace:manage_tunnels"]);
        }
        secrets.extend([assertion, token]);
    }
    assert_eq!(*issuer.asked.lock().unwrap(), 1, "keys are kept for a while");
    let log = server.log();
    assert!(log.contains(SUBJECT) && secrets.iter().all(|secret| !log.contains(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_set_up_by_a_workload_without_any_key() {
    let issuer = Issuer::start().await;
    let key = Key::new("ed", Algorithm::EdDSA);
    issuer.publish(&[&key]);
    let server = issuer.server_with(&["--tunnel-listen", "127.0.0.1:0"]).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("identity");
    std::fs::write(&token, key.sign(&issuer.claims())).unwrap();
    let gateway = folder.path().join("gateway");
    let setup = async |rule: &str| {
        let mut command = tokio::process::Command::new(crate::world::process::BINARY);
        crate::world::process::clean(&mut command);
        let output = command
            .args(["tunnel", "setup", "--name", "ci", "--folder"])
            .arg(&gateway)
            .env("OUTWORK_BASE_URL", server.base_url())
            .env("ANTHROPIC_FEDERATION_RULE_ID", rule)
            .env("ANTHROPIC_ORGANIZATION_ID", ORGANIZATION)
            .env("ANTHROPIC_IDENTITY_TOKEN_FILE", &token)
            .output();
        let output = tokio::time::timeout(crate::world::SOON, output).await.unwrap().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), said)
    };
    let (done, said) = setup("fdrl_other").await;
    assert!(!done && said.contains("no token for this identity"), "{said}");
    assert!(
        !said.contains(&std::fs::read_to_string(&token).unwrap()),
        "the identity token is in an error"
    );
    for _ in 0..2 {
        let (done, said) = setup("fdrl_prod").await;
        assert!(done && said.contains("registered"), "{said}");
    }
    let tunnels = server.api().get("/v1/tunnels").await.ok();
    assert_eq!(tunnels["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_fit_is_refused_with_the_reason() {
    let issuer = Issuer::start().await;
    let (key, stranger) = (Key::new("one", Algorithm::ES256), Key::new("one", Algorithm::ES256));
    issuer.publish(&[&key]);
    let server = issuer.server().await;
    let api = server.api();
    let now = issuer.claims()["iat"].as_i64().unwrap();
    let with = |field: &str, value: Value| {
        let mut claims = issuer.claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(field);
        } else {
            claims[field] = value;
        }
        key.sign(&claims)
    };
    exchange(&api, &with("aud", json!(["other", "outwork.example"])), json!({}))
        .await
        .ok();
    for (assertion, named) in [
        (with("iss", json!("https://issuer.example")), "iss"),
        (with("iss", json!(format!("{}/", issuer.url))), "iss"),
        (with("iss", Value::Null), "iss"),
        (with("aud", json!("outwork.example.org")), "aud"),
        (with("aud", Value::Null), "aud"),
        (with("sub", json!("repo:example/other:environment:prod")), "sub"),
        (with("sub", json!("repo:example/infra:environment")), "sub"),
        (with("sub", Value::Null), "sub"),
        (with("exp", json!(now - 60)), "expired"),
        (with("exp", Value::Null), "exp"),
        (with("exp", json!(now + 200_000)), "longer"),
        (with("nbf", json!(now + 3600)), "nbf"),
        (with("iat", json!(now + 3600)), "iat"),
        (with("iat", Value::Null), "iat"),
        (stranger.sign(&issuer.claims()), "signature"),
        ("not.a.token".to_owned(), "JSON web token"),
        (String::new(), "JSON web token"),
        (unsigned(&issuer.claims()), "JSON web token"),
        (by_secret(&issuer.claims(), &key), "another algorithm"),
        ("x".repeat(17 << 10), "bytes"),
    ] {
        let answer = exchange(&api, &assertion, json!({})).await.refused(401, &[named]);
        assert!(!answer.text.contains("access_token"));
    }
    let good = key.sign(&issuer.claims());
    for (more, status, named) in [
        (json!({ "federation_rule_id": "fdrl_other" }), 401, "fdrl_other"),
        (json!({ "federation_rule_id": "x" }), 401, "federation_rule_id"),
        (
            json!({ "organization_id": "00000000-0000-0000-0000-000000000000" }),
            401,
            "organization_id",
        ),
        (json!({ "workspace_id": "wrkspc_0123456789" }), 401, "workspace_id"),
        (json!({ "grant_type": "refresh_token" }), 400, "grant_type"),
        (json!({ "service_account_id": "svac_1" }), 400, "service_account_id"),
        (json!({ "scope": "org:admin" }), 400, "scope"),
    ] {
        exchange(&api, &good, more).await.refused(status, &[named]);
    }
    exchange(&api, &good, json!({ "workspace_id": "default" })).await.ok();
    // Without the beta header, and with more than a token can be.
    let bare = api.without_credential().bare(reqwest::Method::POST, "/v1/oauth/token");
    Api::send(bare.json(&json!({})))
        .await
        .refused(400, &["oidc-federation-2026-04-01"]);
    exchange(&api, &"x".repeat(40 << 10), json!({})).await.refused(413, &[]);
}

/// `alg` `none`.
fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({ "alg": "none", "kid": "one" })), part(claims))
}

/// HS256 with the public key as its secret, which careless libraries believe.
fn by_secret(claims: &Value, key: &Key) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.id.to_owned());
    let public = key.published().to_string();
    encode(&header, claims, &EncodingKey::from_secret(public.as_bytes())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_issuer_a_token_cannot_be_checked_and_with_it_known_keys_go_on() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let key = Key::new("one", Algorithm::ES256);
    let issuer = Issuer {
        url,
        keys: Arc::default(),
        asked: Arc::default(),
    };
    let server = issuer.server().await;
    let assertion = key.sign(&issuer.claims());
    let answer = exchange(&server.api(), &assertion, json!({}))
        .await
        .refused(503, &[&issuer.url]);
    assert_eq!(answer.headers["retry-after"], "1");

    let issuer = Issuer::start().await;
    issuer.publish(&[&key]);
    let server = issuer.server().await;
    let api = server.api();
    exchange(&api, &key.sign(&issuer.claims()), json!({})).await.ok();
    // A key that the issuer does not have yet is looked for, but an unknown one does not make it busy.
    let next = Key::new("two", Algorithm::ES256);
    for _ in 0..5 {
        exchange(&api, &next.sign(&issuer.claims()), json!({}))
            .await
            .refused(401, &["publish"]);
    }
    assert_eq!(*issuer.asked.lock().unwrap(), 1);
    exchange(&api, &key.sign(&issuer.claims()), json!({})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_the_rule_that_gave_it() {
    let issuer = Issuer::start().await;
    let key = Key::new("one", Algorithm::EdDSA);
    issuer.publish(&[&key]);
    let mut server = issuer.server().await;
    let granted = exchange(&server.api(), &key.sign(&issuer.claims()), json!({}))
        .await
        .ok();
    let workload = server.api().with_bearer(granted["access_token"].as_str().unwrap());
    workload.get("/v1/tunnels").await.ok();
    // The same after a restart; without the rule it is void.
    server.terminate();
    assert!(server.ended().await.success());
    server.restart().await;
    workload.get("/v1/tunnels").await.ok();
    server.kill().await;
    let options = ServerOptions {
        data_dir: Some(server.data_dir().to_owned()),
        ..ServerOptions::default()
    };
    let plain = Server::start(options).await;
    let workload = plain.api().with_bearer(granted["access_token"].as_str().unwrap());
    workload.get("/v1/tunnels").await.refused(401, &["rule"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_work_keeps_the_server_from_starting() {
    let rule = |issuer: &str, more: &str| {
        format!(
            "[[federation.rules]]\nid = \"fdrl_x\"\nissuer = \"{issuer}\"\naudience = \"a\"\nsubject = \"b\"\n\
             scope = \"workspace:manage_tunnels\"\n{more}"
        )
    };
    let good = rule("https://a.example", "");
    for (settings, named) in [
        (rule("http://issuer.example", ""), "https"),
        (
            rule("https://a.example", "workspace = \"wrkspc_0123456789\"\n"),
            "workspace",
        ),
        (format!("{good}{good}"), "another rule"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let options = ServerOptions::default().settings(&settings);
        let (status, said) = options.refused(&folder.path().join("data")).await;
        assert!(
            !status.success() && said.contains("fdrl_x") && said.contains(named),
            "{said}"
        );
    }
}
