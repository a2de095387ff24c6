//! Provisioning by hand: an authority of one's own, a pasted token, no key of the server on the gateway's machine.

use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::json;

use super::{Gateway, Orders, called, connections, outcome, plane, tunnel};
use crate::tunnels::authority_params;

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_and_a_pasted_token() {
    let (world, orders) = (plane().await, Orders::start().await);
    // On the machine of whoever manages the tunnel.
    let made = world
        .api
        .post("/v1/tunnels", json!({ "display_name": "by hand" }))
        .await
        .ok();
    let (id, domain) = (made["id"].as_str().unwrap(), made["domain"].as_str().unwrap());
    let token = world
        .api
        .post(&format!("/v1/tunnels/{id}/reveal_token"), json!({}))
        .await
        .ok();
    let edge = world.api.get("/v1/outwork/edge").await.ok();
    let (authority, key) = (authority_params(|_| {}), KeyPair::generate().unwrap());
    let authority_pem = authority.self_signed(&key).unwrap().pem();
    let server_key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![domain.to_owned(), format!("*.{domain}")])
        .unwrap()
        .signed_by(&server_key, &Issuer::new(authority, key))
        .unwrap();

    // On the gateway's machine, where no server is called.
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let token_file = file("pasted", token["tunnel_token"].as_str().unwrap());
    let (certificate, key) = (
        file("own.crt", &certificate.pem()),
        file("own.key", &server_key.serialize_pem()),
    );
    let path = folder.path().join("gateway");
    let path = path.to_str().unwrap();
    let route = format!("orders=http://{}", orders.address);
    let base = [
        "setup",
        "--offline",
        "--folder",
        path,
        "--tunnel",
        id,
        "--domain",
        domain,
        "--token-file",
        &token_file,
        "--edge",
        edge["listen"].as_str().unwrap(),
        "--edge-fingerprint",
        edge["fingerprint"].as_str().unwrap(),
        "--route",
        &route,
        "--allow",
        "127.0.0.1/32",
        "--health",
        "none",
    ];
    let own = [&base[..], &["--certificate", &certificate, "--key", &key]].concat();
    let nowhere = "http://127.0.0.1:1";
    for _ in 0..2 {
        let said = tunnel(nowhere, &own).await.ok();
        assert!(said.contains("certificates add"), "{said}");
    }
    assert!(!folder.path().join("gateway/ca.key").exists());
    tunnel(nowhere, &["check", "--folder", path]).await.ok();
    tunnel(nowhere, &["renew", "--folder", path])
        .await
        .refused(&["not made here"]);

    let gateway = Gateway::start(std::path::Path::new(path)).await;
    assert!(
        gateway.announced.contains("listens on nothing"),
        "{}",
        gateway.announced
    );
    connections(&world.api, id, 2).await;
    let url = format!("https://orders.{domain}/mcp");
    let call = async || outcome(&called(&world, &url, "late_orders", json!({ "customer": "Hartmann" })).await);
    // Without its authority registered the plane does not trust the gateway.
    let refused = call().await.unwrap_err();
    assert!(refused.contains("authority"), "{refused}");
    let body = json!({ "ca_certificate_pem": authority_pem });
    world
        .api
        .post(&format!("/v1/tunnels/{id}/certificates"), body)
        .await
        .ok();
    assert!(call().await.unwrap().contains(&orders.parcel));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let pasted = folder.path().join("pasted");
    std::fs::write(&pasted, "outwork_tnl_x\n").unwrap();
    let pasted = pasted.to_str().unwrap().to_owned();
    let nowhere = "http://127.0.0.1:1";
    let folder_of = |name: &str| format!("{path}/{name}");
    let print = "ab".repeat(32);
    let words = |name: &str, print: &str, edge: &str| {
        let words = [
            "setup",
            "--offline",
            "--tunnel",
            "tnl_1",
            "--domain",
            "a.tunnel.test",
            "--folder",
        ];
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let more = [
            &folder_of(name),
            "--token-file",
            &pasted,
            "--edge",
            edge,
            "--edge-fingerprint",
            print,
        ];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        tunnel(nowhere, &words).await
    };
    run(words("one", "abc", "edge.test:7844"))
        .await
        .refused(&["abc", "SHA-256"]);
    run(words("two", &print, "edge.test"))
        .await
        .refused(&["edge.addresses", "edge.test"]);
    run(words("three", &print, "edge.test:7844")).await.ok();
    let mut other = words("three", &print, "edge.test:7844");
    other[5] = "b.tunnel.test".into();
    run(other).await.refused(&["a.tunnel.test", "keeps its domain"]);
    // An authority was made and stands ready to be registered.
    let made = std::fs::read_to_string(format!("{path}/three/ca.crt")).unwrap();
    assert!(made.contains("BEGIN CERTIFICATE"));
    tunnel(nowhere, &["setup", "--offline"])
        .await
        .status
        .code()
        .filter(|code| *code == 64)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_hosted_proxy_runs_with_flags() {
    let (world, orders) = (plane().await, Orders::start().await);
    let office = super::Office::set_up(&world, &orders).await;
    let edge = world.api.get("/v1/outwork/edge").await.ok();
    let config = format!(
        "listen_addr: \"127.0.0.1:8080\"\ntunnel_domain: {}\ntls: {{cert_file: tls.crt, key_file: tls.key}}\n\
         upstream: {{allowed_ips: [127.0.0.1/32]}}\nlog_level: warn\nroutes: {{orders: \"http://{}\"}}\n",
        office.domain, orders.address
    );
    let path = office.file("hosted.yaml");
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap();
    let said = tunnel(world.server.base_url(), &["check", "--config", path]).await.ok();
    for noted in ["listen_addr", "--edge", "--tunnel", "--token-file"] {
        assert!(said.contains(noted), "{noted}: {said}");
    }
    let token = office.read("token");
    let words = [
        "--config",
        path,
        "--tunnel",
        &office.tunnel_id,
        "--edge",
        edge["listen"].as_str().unwrap(),
        "--edge-fingerprint",
        edge["fingerprint"].as_str().unwrap(),
    ];
    let gateway = Gateway::start_with(&words, &[("OUTWORK_TUNNEL_TOKEN", token.trim())]).await;
    connections(&world.api, &office.tunnel_id, 2).await;
    assert!(
        super::late_orders(&world, &office)
            .await
            .unwrap()
            .contains(&orders.parcel)
    );
    // The file's level holds: nothing that goes well is logged.
    let log = gateway.log();
    assert!(!log.contains("connected to the edge"), "{log}");
    assert!(!log.contains(token.trim()), "the token is in the log");
}
