//! `/v1/tunnels` over real HTTP: their life, their tokens, their certificates, what is kept and what is not shown.

use std::collections::BTreeSet;
use std::path::Path;

use outwork_store::{KeyHash, Options as StoreOptions, Store, TunnelRefusal};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::api::id;
use crate::world::process::BINARY;
use crate::world::{ADMIN_KEY, Api, SOON, Server, ServerOptions};

/// The PEM text of a fresh certificate authority; by itself it keeps every rule.
pub fn authority_pem(change: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate().unwrap();
    authority_params(change).self_signed(&key).unwrap().pem()
}

/// What makes such an authority.
pub fn authority_params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "an authority of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    params
}

async fn server(flags: &[&str]) -> Server {
    Server::start(ServerOptions::default().flags(flags)).await
}

async fn tunnel(api: &Api) -> String {
    api.make("/v1/tunnels", json!({})).await
}

async fn reveal(api: &Api, tunnel: &str) -> Value {
    api.post(&format!("/v1/tunnels/{tunnel}/reveal_token"), json!({}))
        .await
        .ok()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_made_listed_archived_and_its_domain_never_comes_back() {
    let server = server(&[]).await;
    let api = server.api();
    let made = api.post("/v1/tunnels", json!({ "display_name": "Büro" })).await.ok();
    let fields: Vec<&String> = made.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        ["id", "type", "display_name", "domain", "created_at", "archived_at"]
    );
    assert!(text(&made, "id").starts_with("tnl_"));
    assert_eq!(
        (&made["type"], &made["display_name"]),
        (&json!("tunnel"), &json!("Büro"))
    );
    let label = text(&made, "domain").strip_suffix(".tunnel.outwork.internal").unwrap();
    assert!(label.len() >= 12 && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    let one = format!("/v1/tunnels/{}", id(&made));
    assert_eq!(api.get(&one).await.ok(), made);

    // Not idempotent: the same request makes another tunnel. Ten at most, archived ones do not count.
    let mut domains = BTreeSet::from([text(&made, "domain").to_owned()]);
    let mut tunnels = vec![id(&made)];
    for _ in 0..9 {
        let next = api.post("/v1/tunnels", json!({ "display_name": null })).await.ok();
        assert!(domains.insert(text(&next, "domain").to_owned()));
        tunnels.push(id(&next));
    }
    api.post("/v1/tunnels", json!({})).await.refused(409, &["10"]);
    let archived = api.post(&format!("{one}/archive"), json!({})).await.ok();
    assert!(archived["archived_at"].is_string());
    assert_eq!(api.post(&format!("{one}/archive"), json!({})).await.ok(), archived);
    assert_eq!(api.get(&one).await.ok(), archived);
    let eleventh = api.post("/v1/tunnels", json!({})).await.ok();
    assert!(domains.insert(text(&eleventh, "domain").to_owned()));
    tunnels.push(id(&eleventh));

    let list = async |query: &str| {
        let mut seen = Vec::new();
        let mut page = String::new();
        loop {
            let answer = api.get(&format!("/v1/tunnels?limit=4{query}{page}")).await.ok();
            seen.extend(answer["data"].as_array().unwrap().iter().map(id));
            match answer["next_page"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => return seen,
            }
        }
    };
    tunnels.reverse();
    assert_eq!(list("&include_archived=true").await, tunnels);
    tunnels.pop();
    assert_eq!(list("").await, tunnels);
    assert_eq!(list("&include_archived=false").await, tunnels);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_by_name() {
    let server = server(&[]).await;
    let api = server.api();
    let one = tunnel(&api).await;
    for (body, named) in [
        (json!({ "display_name": "" }), "display_name"),
        (json!({ "display_name": "x".repeat(256) }), "display_name"),
        (json!({ "display_name": 7 }), "display_name"),
        (json!({ "domain": "chosen.example" }), "domain"),
    ] {
        api.post("/v1/tunnels", body).await.refused(400, &[named]);
    }
    let path = |rest: &str| format!("/v1/tunnels/{one}/{rest}");
    for (rest, body, named) in [
        ("rotate_token", json!({ "reason": "x".repeat(1001) }), "reason"),
        ("rotate_token", json!({ "reasons": "x" }), "reasons"),
        ("reveal_token", json!({ "reason": "x" }), "reason"),
        ("archive", json!({ "force": true }), "force"),
        ("pause", json!({ "for": "1h" }), "for"),
        ("certificates", json!({}), "ca_certificate_pem"),
        (
            "certificates",
            json!({ "ca_certificate_pem": null }),
            "ca_certificate_pem",
        ),
    ] {
        api.post(&path(rest), body).await.refused(400, &[named]);
    }
    for query in [
        "limit=0",
        "limit=1001",
        "page=nonsense",
        "order=asc",
        "include_archived=yes",
    ] {
        let name = query.split('=').next().unwrap();
        api.get(&format!("/v1/tunnels?{query}")).await.refused(400, &[name]);
        api.get(&path(&format!("certificates?{query}")))
            .await
            .refused(400, &[name]);
    }
    for unknown in ["tnl_0123456789", "tnl_", "env_1", "x"] {
        api.get(&format!("/v1/tunnels/{unknown}"))
            .await
            .refused(404, &["tunnel"]);
    }
    api.get(&path("certificates/tcrt_1"))
        .await
        .refused(404, &["certificate"]);
    // The beta header of tunnels, not that of agents.
    let request = api
        .bare(Method::GET, "/v1/tunnels")
        .header("anthropic-version", "2023-06-01");
    for beta in ["managed-agents-2026-04-01", ""] {
        let request = request.try_clone().unwrap().header("anthropic-beta", beta);
        Api::send(request).await.refused(400, &["mcp-tunnels-2026-06-22"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_name_its_own_workspace_and_no_other() {
    let server = server(&[]).await;
    let api = server.api();
    let other = api.make("/v1/workspaces", json!({ "name": "other" })).await;
    let wish = json!({ "name": "x", "role": "admin", "workspace_id": other });
    let key = api.post("/v1/api_keys", wish).await.ok();
    let theirs = api.with_key(text(&key, "key"));
    let named = async |api: &Api, path: &str, workspace: &str| {
        let request = api
            .request(Method::GET, path)
            .header("anthropic-workspace-id", workspace);
        Api::send(request).await
    };
    for path in ["/v1/tunnels", "/v1/agents"] {
        named(&api, path, "default").await.ok();
        named(&theirs, path, &other).await.ok();
        named(&theirs, path, "default")
            .await
            .refused(403, &["anthropic-workspace-id"]);
        named(&api, path, &other)
            .await
            .refused(403, &["anthropic-workspace-id"]);
        named(&api, path, "").await.refused(403, &["anthropic-workspace-id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stays_until_it_is_rotated_and_is_nowhere_in_clear_text() {
    let mut server = server(&["--log-level", "trace"]).await;
    let api = server.api();
    let (one, two) = (tunnel(&api).await, tunnel(&api).await);
    let first = reveal(&api, &one).await;
    assert_eq!(first["type"], "tunnel_token");
    assert!(text(&first, "id").starts_with("ttok_"));
    assert!(text(&first, "tunnel_token").starts_with("outwork_tnl_"));
    assert_eq!(reveal(&api, &one).await, first);
    let answer = api.post(&format!("/v1/tunnels/{one}/reveal_token"), json!({})).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_ne!(reveal(&api, &two).await["tunnel_token"], first["tunnel_token"]);

    let rotate = format!("/v1/tunnels/{one}/rotate_token");
    let second = api.post(&rotate, json!({ "reason": "it was on a screen" })).await.ok();
    assert_ne!(second["id"], first["id"]);
    assert_ne!(second["tunnel_token"], first["tunnel_token"]);
    assert_eq!(reveal(&api, &one).await, second);
    let third = api.post(&rotate, json!({})).await.ok();
    let status = api.get(&format!("/v1/tunnels/{one}/status")).await.ok();
    assert_eq!(
        (&status["token"]["id"], &status["token"]["generation"]),
        (&third["id"], &json!(3))
    );
    let reasons: Vec<&Value> = status["token"]["rotations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(reasons, [&Value::Null, &json!("it was on a screen")]);
    assert!(text(&status["token"]["rotations"][0], "rotated_by").starts_with("apikey_"));

    // A restart changes nothing.
    server.terminate();
    assert!(server.ended().await.success());
    server.restart().await;
    assert_eq!(reveal(&api, &one).await, third);

    // An archived tunnel has no token any more.
    let gone = reveal(&api, &two).await;
    api.post(&format!("/v1/tunnels/{two}/archive"), json!({})).await.ok();
    for path in ["reveal_token", "rotate_token", "pause", "resume"] {
        api.post(&format!("/v1/tunnels/{two}/{path}"), json!({}))
            .await
            .refused(409, &["archived", &two]);
    }

    server.terminate();
    assert!(server.ended().await.success());
    let shown = [&first, &second, &third, &gone].map(|token| text(token, "tunnel_token").to_owned());
    for secret in &shown {
        assert!(!server.log().contains(secret), "a token is in the log");
        for file in std::fs::read_dir(server.data_dir()).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "a token is in {}", path.display());
            }
        }
    }
    // What the edge is told of each of them.
    let store = open(server.data_dir()).await;
    let admit = async |tunnel: &str, token: &str| {
        let id = tunnel.parse().unwrap();
        store.admit_to_tunnel(&id, KeyHash::of(token)).await.unwrap()
    };
    assert_eq!(admit(&one, &shown[0]).await, Err(TunnelRefusal::Token));
    assert_eq!(admit(&one, &shown[1]).await, Err(TunnelRefusal::Token));
    assert_eq!(admit(&one, &shown[2]).await.unwrap().generation, 3);
    assert_eq!(admit(&two, &shown[3]).await, Err(TunnelRefusal::Archived));
    store.close().await;
}

async fn open(data_dir: &Path) -> Store {
    let dir = data_dir.to_owned();
    tokio::task::spawn_blocking(|| Store::open(StoreOptions::new(dir)).unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_moved_is_not_opened_and_a_rotation_mends_it() {
    let mut server = server(&[]).await;
    let api = server.api();
    let (one, two) = (tunnel(&api).await, tunnel(&api).await);
    server.kill().await;
    let db = rusqlite::Connection::open(server.data_dir().join("outwork.db")).unwrap();
    let moved = "UPDATE tunnels SET token_sealed = (SELECT token_sealed FROM tunnels WHERE id = ?2) WHERE id = ?1";
    assert_eq!(db.execute(moved, [&one, &two]).unwrap(), 1);
    drop(db);
    server.restart().await;
    api.post(&format!("/v1/tunnels/{one}/reveal_token"), json!({}))
        .await
        .refused(500, &["rotate", &one]);
    let rotated = api
        .post(&format!("/v1/tunnels/{one}/rotate_token"), json!({}))
        .await
        .ok();
    assert_eq!(reveal(&api, &one).await, rotated);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_by_every_rule_and_two_are_trusted_at_most() {
    let server = server(&[]).await;
    let api = server.api();
    let one = tunnel(&api).await;
    let path = format!("/v1/tunnels/{one}/certificates");
    let register = async |pem: &str| api.post(&path, json!({ "ca_certificate_pem": pem })).await;
    let good = authority_pem(|_| {});
    for (pem, rule) in [
        (String::new(), "one_certificate"),
        (format!("{good}{}", authority_pem(|_| {})), "one_certificate"),
        (
            format!("{good}{}", KeyPair::generate().unwrap().serialize_pem()),
            "no_private_key",
        ),
        (format!("{}{good}", " ".repeat(8192)), "size"),
        (authority_pem(|p| p.is_ca = IsCa::ExplicitNoCa), "ca_true_critical"),
        (
            authority_pem(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
            "key_cert_sign",
        ),
        (
            authority_pem(|p| p.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            "valid_now",
        ),
        (
            authority_pem(|p| p.not_before = rcgen::date_time_ymd(2200, 1, 1)),
            "valid_now",
        ),
    ] {
        let answer = register(&pem).await.refused(400, &["ca_certificate_pem", rule]);
        assert_eq!(answer.body["error"]["details"]["rule"], rule);
    }
    assert_eq!(api.get(&path).await.ok()["data"], json!([]));

    let first = register(&authority_pem(|p| p.not_after = rcgen::date_time_ymd(2100, 1, 1)))
        .await
        .ok();
    let fields: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "id",
            "type",
            "tunnel_id",
            "fingerprint",
            "created_at",
            "expires_at",
            "archived_at"
        ]
    );
    assert!(text(&first, "id").starts_with("tcrt_"));
    assert_eq!(
        (&first["tunnel_id"], &first["type"]),
        (&json!(one), &json!("tunnel_certificate"))
    );
    assert_eq!(first["expires_at"], "2100-01-01T00:00:00.000000Z");
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    assert!(text(&first, "fingerprint").len() == 64 && text(&first, "fingerprint").bytes().all(hex));
    let second = register(&good).await.ok();
    register(&good).await.refused(409, &[text(&second, "id")]);
    register(&authority_pem(|_| {})).await.refused(409, &["2"]);
    assert_eq!(api.get(&path).await.ok()["data"], json!([second, first]));
    assert_eq!(api.get(&format!("{path}/{}", id(&first))).await.ok(), first);

    // One follows the other; the last may go, too.
    let archive = async |certificate: &Value| {
        api.post(&format!("{path}/{}/archive", id(certificate)), json!({}))
            .await
            .ok()
    };
    let archived = archive(&first).await;
    assert!(archived["archived_at"].is_string());
    assert_eq!(archive(&first).await, archived);
    let third = register(&authority_pem(|_| {})).await.ok();
    let status = format!("/v1/tunnels/{one}/status");
    assert_eq!(api.get(&status).await.ok()["active_certificates"], 2);
    archive(&second).await;
    archive(&third).await;
    assert_eq!(api.get(&status).await.ok()["active_certificates"], 0);
    assert_eq!(api.get(&path).await.ok()["data"], json!([]));
    let all = api.get(&format!("{path}?include_archived=true&limit=2")).await.ok();
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    assert!(all["next_page"].is_string());

    // A tunnel takes its certificates with it, and none of another tunnel is found in it.
    let other = tunnel(&api).await;
    let theirs = format!("/v1/tunnels/{other}/certificates");
    let last = api.post(&theirs, json!({ "ca_certificate_pem": good })).await.ok();
    api.get(&format!("{path}/{}", id(&last)))
        .await
        .refused(404, &["certificate"]);
    api.post(&format!("/v1/tunnels/{other}/archive"), json!({})).await.ok();
    let last = api.get(&format!("{theirs}/{}", id(&last))).await.ok();
    assert!(last["archived_at"].is_string());
    api.post(&theirs, json!({ "ca_certificate_pem": good }))
        .await
        .refused(409, &["archived"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_tunnel_is_paused_after_a_restart_and_without_an_edge_it_is_said() {
    let mut server = server(&[]).await;
    let api = server.api();
    let one = tunnel(&api).await;
    let path = |rest: &str| format!("/v1/tunnels/{one}/{rest}");
    let fresh = api.get(&path("status")).await.ok();
    assert_eq!((&fresh["paused"], &fresh["paused_at"]), (&json!(false), &Value::Null));
    assert_eq!(fresh["edge"]["listening"], false);
    assert!(text(&fresh["edge"], "message").contains("--tunnel-listen"));
    assert_eq!(
        (&fresh["type"], &fresh["connections"]),
        (&json!("tunnel_status"), &json!([]))
    );
    assert_eq!(
        api.get(&path("connections")).await.ok(),
        json!({ "data": [], "edge": fresh["edge"] })
    );
    assert_eq!(
        api.get(&path("usage")).await.ok(),
        json!({
            "type": "tunnel_usage", "tunnel_id": one, "calls": 0, "bytes_in": 0, "bytes_out": 0, "routes": []
        })
    );

    let paused = api.post(&path("pause"), json!({})).await.ok();
    assert!(paused["paused"] == true && paused["paused_at"].is_string());
    assert_eq!(api.post(&path("pause"), json!({})).await.ok(), paused);
    server.kill().await;
    server.restart().await;
    assert_eq!(api.get(&path("status")).await.ok(), paused);
    // The contract's object does not know of it.
    let shown = api.get(&format!("/v1/tunnels/{one}")).await.ok();
    assert!(shown.get("paused").is_none());
    assert_eq!(api.post(&path("resume"), json!({})).await.ok(), fresh);
    assert_eq!(api.post(&path("resume"), json!({})).await.ok(), fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_are_under_the_suffix_of_the_settings() {
    let options = ServerOptions::default().settings("[tunnel]\ndomain_suffix = \"t.example.test\"\n");
    let server = Server::start(options).await;
    let made = server.api().post("/v1/tunnels", json!({})).await.ok();
    assert!(text(&made, "domain").ends_with(".t.example.test"));
    let options = ServerOptions::default().settings("[tunnel]\ndomain_suffix = \"Example\"\n");
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = options.refused(&folder.path().join("data")).await;
    assert!(!status.success() && said.contains("tunnel.domain_suffix"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_the_same() {
    let server = server(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("ca.pem");
    std::fs::write(&pem, authority_pem(|_| {})).unwrap();
    let run = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(BINARY)
            .arg("tunnels")
            .args(arguments)
            .env("OUTWORK_BASE_URL", server.base_url())
            .env("OUTWORK_API_KEY", ADMIN_KEY)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SOON, output).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said, error)
    };
    let ok = async |arguments: &[&str]| {
        let (done, said, error) = run(arguments).await;
        assert!(done, "{arguments:?}: {error}");
        said
    };
    let json = |said: String| serde_json::from_str::<Value>(&said).unwrap();
    let made = json(ok(&["create", "--name", "office", "--json"]).await);
    let one = id(&made);
    assert!(ok(&["list"]).await.contains(text(&made, "domain")));
    let token = json(ok(&["token", &one, "--json"]).await);
    let rotated = json(ok(&["token", &one, "--rotate", "--reason", "lost", "--json"]).await);
    assert_ne!(token["tunnel_token"], rotated["tunnel_token"]);
    let certificate = json(ok(&["certificates", "add", &one, pem.to_str().unwrap(), "--json"]).await);
    let listed = ok(&["certificates", "list", &one]).await;
    assert!(listed.contains(text(&certificate, "fingerprint")) && listed.contains("active"));
    assert!(ok(&["pause", &one]).await.contains("nothing passes"));
    let shown = ok(&["show", &one]).await;
    assert!(shown.contains("true") && shown.contains("--tunnel-listen"), "{shown}");
    ok(&["resume", &one]).await;
    assert_eq!(json(ok(&["usage", &one, "--json"]).await)["calls"], 0);
    ok(&["usage", &one]).await;
    ok(&["certificates", "archive", &one, &id(&certificate)]).await;
    ok(&["archive", &one]).await;
    let (done, _, error) = run(&["token", &one]).await;
    assert!(!done && error.contains("archived"), "{error}");
}
