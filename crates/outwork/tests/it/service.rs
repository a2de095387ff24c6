//! The service around the API: the data folder, settings, TLS, keys, health, a full disk, an orderly end.

pub mod disk;
mod drain;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::world::process::BINARY;
use crate::world::{ADMIN_KEY, Api, SCRIPT, Server, ServerOptions, World, script_message};

/// An agent, an environment and a finished session; the session's id.
async fn some_content(api: &Api) -> String {
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    api.send_events(&session, &[script_message(json!([{ "say": [{ "text": "kept" }] }]))])
        .await;
    api.wait_idle(&session).await;
    session
}

async fn ended_in_order(mut server: Server) -> (Option<tempfile::TempDir>, std::path::PathBuf) {
    server.terminate();
    assert!(server.ended().await.success(), "{}", server.log());
    server.into_folder()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_folder_is_refused() {
    let world = World::start().await;
    let session = some_content(&world.api).await;
    let (status, said) = ServerOptions::default().refused(world.server.data_dir()).await;
    assert_eq!(status.code(), Some(1));
    let pid = world.server.pid().as_raw_nonzero().to_string();
    for named in [
        world.server.data_dir().to_str().unwrap(),
        "in use by another server",
        &pid,
        "stop that one first",
    ] {
        assert!(said.contains(named), "`{named}` is missing: {said}");
    }
    // The first one does not notice.
    assert!(!world.api.events(&session).await.is_empty());
    some_content(&world.api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused_and_left_alone() {
    let world = World::start().await;
    let session = some_content(&world.api).await;
    let (_folder, data_dir) = ended_in_order(world.server).await;
    let database = data_dir.join("outwork.db");
    // `user_version` stands at offset 60 of the header, big-endian.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&database)
        .unwrap();
    let mut version = [0; 4];
    file.read_exact_at(&mut version, 60).unwrap();
    file.write_all_at(&99u32.to_be_bytes(), 60).unwrap();
    let bytes = std::fs::read(&database).unwrap();
    let options = ServerOptions {
        data_dir: Some(data_dir.clone()),
        ..ServerOptions::default()
    };
    let (status, said) = options.refused(&data_dir).await;
    assert_eq!(status.code(), Some(1));
    for named in ["outwork.db", "schema 99", "newer version", "backup"] {
        assert!(said.contains(named), "`{named}` is missing: {said}");
    }
    assert!(
        bytes == std::fs::read(&database).unwrap(),
        "a refused database was written to"
    );
    // With the version that it belongs to, everything is there.
    file.write_all_at(&version, 60).unwrap();
    let server = Server::start(options).await;
    assert!(!server.api().events(&session).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_with_the_way_to_restore_it() {
    let world = World::start().await;
    for _ in 0..3 {
        some_content(&world.api).await;
    }
    let (_folder, data_dir) = ended_in_order(world.server).await;
    let database = data_dir.join("outwork.db");
    let whole = std::fs::read(&database).unwrap();
    let options = ServerOptions {
        data_dir: Some(data_dir.clone()),
        ..ServerOptions::default()
    };
    let mut middle = whole.clone();
    for page in middle.chunks_mut(4096).skip(2).step_by(2) {
        page[..64].fill(0xa5);
    }
    let mut head = whole.clone();
    head[..32].copy_from_slice(b"this is not a database of SQLite");
    for (name, damaged) in [
        ("damaged pages", middle),
        ("another header", head),
        ("cut in half", whole[..whole.len() / 2].to_vec()),
    ] {
        std::fs::write(&database, &damaged).unwrap();
        let (status, said) = options.refused(&data_dir).await;
        assert_eq!(status.code(), Some(1), "{name}");
        for named in ["outwork.db", "damaged", "backup", "operations.md"] {
            assert!(said.contains(named), "{name}: `{named}` is missing: {said}");
        }
        assert!(
            damaged == std::fs::read(&database).unwrap(),
            "{name}: the evidence was changed"
        );
    }
    std::fs::write(&database, &whole).unwrap();
    let server = Server::start(options).await;
    assert_eq!(
        server.api().get("/v1/sessions").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_a_certificate_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(ServerOptions::default().flags(&flags)).await;
    assert!(server.base_url().starts_with("https://"), "{}", server.base_url());
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = |builder: reqwest::ClientBuilder| builder.no_proxy().tls_certs_only([root.clone()]).build().unwrap();
    for http in [
        client(reqwest::Client::builder()),
        client(reqwest::Client::builder().http1_only()),
    ] {
        let api = Api::over(http, server.base_url(), ADMIN_KEY);
        let agent = api.agent(SCRIPT, json!([])).await;
        api.get(&format!("/v1/agents/{agent}")).await.ok();
    }
    // Without trust in the certificate, and without TLS, there is no answer.
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(
        stranger
            .get(format!("{}/healthz", server.base_url()))
            .send()
            .await
            .is_err()
    );
    let plain = server.base_url().replace("https://", "http://");
    assert!(stranger.get(format!("{plain}/healthz")).send().await.is_err());

    // What cannot be used is refused with the file's name.
    let other = folder.path().join("other.key");
    let other_key = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .unwrap()
        .signing_key;
    std::fs::write(&other, other_key.serialize_pem()).unwrap();
    let data = folder.path().join("data");
    for (flags, named) in [
        (
            vec!["--tls-cert", "/nowhere/tls.crt", "--tls-key", key.to_str().unwrap()],
            "/nowhere/tls.crt",
        ),
        (
            vec!["--tls-cert", cert.to_str().unwrap(), "--tls-key", "/nowhere/tls.key"],
            "/nowhere/tls.key",
        ),
        (
            vec!["--tls-cert", key.to_str().unwrap(), "--tls-key", key.to_str().unwrap()],
            "no certificate",
        ),
        (
            vec![
                "--tls-cert",
                cert.to_str().unwrap(),
                "--tls-key",
                other.to_str().unwrap(),
            ],
            "tls.crt",
        ),
        (vec!["--tls-cert", cert.to_str().unwrap()], "--tls-key"),
    ] {
        let (status, said) = ServerOptions::default().flags(&flags).refused(&data).await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(named), "`{named}` is missing: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_without_tls_must_be_asked_for_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |flags: &[&str]| {
        let mut command = tokio::process::Command::new(BINARY);
        command
            .args(["serve", "--data-dir", folder.path().join("data").to_str().unwrap()])
            .args(flags);
        command
            .env("OUTWORK_API_KEY", ADMIN_KEY)
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        let output = tokio::time::timeout(crate::world::SOON, command.output())
            .await
            .expect("it went on running");
        let output = output.unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (code, said) = run(&["--listen", address]).await;
        assert_eq!(code, Some(1));
        assert!(
            said.contains("--tls-cert") && said.contains("--insecure-http"),
            "{said}"
        );
    }
    assert!(!folder.path().join("data").exists(), "a refused start left a folder");
    // With the word for it the same address would be taken: it only fails over one that is in use.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&["--listen", &address, "--insecure-http"]).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}")) && said.contains("--listen"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("outwork.toml");
    for (text, named) in [
        ("[plane]\nlisten_on = \"127.0.0.1:0\"\n", "listen_on"),
        ("[planet]\nlisten = \"127.0.0.1:0\"\n", "planet"),
        ("[plane]\ndrain_timeout = \"soon\"\n", "soon"),
        ("[model]\napi_key = \"secret\"\n", "api_key"),
        ("[plane\n", "line 1"),
    ] {
        std::fs::write(&config, text).unwrap();
        let options = ServerOptions::default().flags(&["--config", config.to_str().unwrap()]);
        let (status, said) = options.refused(&data).await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains(named) && said.contains("outwork.toml"),
            "`{named}` is missing: {said}"
        );
        assert!(!said.contains("\"secret\""), "{said}");
    }
    let weak = ServerOptions {
        admin_key: Some("short".into()),
        ..ServerOptions::default()
    };
    let (status, said) = weak.refused(&data).await;
    assert!(
        status.code() == Some(1) && said.contains("OUTWORK_API_KEY") && said.contains("16"),
        "{said}"
    );
    let (status, said) = ServerOptions::default().flags(&["--lisen", "x"]).refused(&data).await;
    assert!(status.code() == Some(64) && said.contains("--lisen"), "{said}");

    // The defaults that it prints are settings that it takes.
    let output = tokio::process::Command::new(BINARY)
        .args(["serve", "--print-config"])
        .output()
        .await
        .unwrap();
    std::fs::write(&config, &output.stdout).unwrap();
    let server = Server::start(ServerOptions::default().flags(&["--config", config.to_str().unwrap()])).await;
    server.api().get("/v1/agents").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_made_once_and_shown_once() {
    let mut server = Server::start(ServerOptions {
        admin_key: None,
        ..ServerOptions::default()
    })
    .await;
    let path = server.data_dir().join("admin.key");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(server.data_dir()), 0o700);
    assert_eq!(mode(&server.data_dir().join("outwork.db")), 0o600);
    let key = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(server.printed.len(), 2, "{:?}", server.printed);
    assert!(server.printed[0].contains(&key) && server.printed[0].contains(path.to_str().unwrap()));
    assert!(!server.log().contains(&key), "the key is in the log");
    let api = Api::new(server.base_url(), &key);
    let agent = api.agent(SCRIPT, json!([])).await;
    let kept = api.get("/v1/api_keys").await.ok();
    assert!(!kept.to_string().contains(&key));
    let database = std::fs::read(server.data_dir().join("outwork.db")).unwrap();
    assert!(
        !database.windows(key.len()).any(|w| w == key.as_bytes()),
        "the key is in the database"
    );

    server.kill().await;
    server.restart().await;
    assert_eq!(server.printed.len(), 1, "the key was shown again: {:?}", server.printed);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), key);
    api.get(&format!("/v1/agents/{agent}")).await.ok();

    // A key that is revoked stays so, though its file is still there.
    let id = kept["data"][0]["id"].as_str().unwrap();
    let second = api
        .post("/v1/api_keys", json!({ "name": "second", "role": "admin" }))
        .await
        .ok();
    api.post(&format!("/v1/api_keys/{id}/revoke"), json!({})).await.ok();
    api.get("/v1/agents").await.refused(401, &["revoked"]);
    server.kill().await;
    server.restart().await;
    api.get("/v1/agents").await.refused(401, &["revoked"]);
    api.with_key(second["key"].as_str().unwrap())
        .get("/v1/agents")
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_figures_need_no_key() {
    let world = World::start().await;
    let nobody = world.api.without_credential();
    let plain = async |path: &str| Api::send(nobody.bare(reqwest::Method::GET, path)).await;
    assert_eq!(plain("/healthz").await.ok()["status"], "ok");
    assert_eq!(plain("/readyz").await.ok()["status"], "ready");
    some_content(&world.api).await;
    let figures = plain("/metrics").await;
    assert_eq!(figures.status, 200);
    assert!(
        figures.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    for line in figures.text.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(name.starts_with("outwork_") && value.parse::<f64>().is_ok(), "{line}");
    }
    for named in [
        "outwork_http_requests_total{operation=\"SessionsCreate\",status=\"2xx\"} 1",
        "outwork_model_request_duration_seconds_count",
        "outwork_events_appended_total",
    ] {
        assert!(figures.text.contains(named), "`{named}` is missing:\n{}", figures.text);
    }
    assert!(!figures.text.contains("sesn_") && !figures.text.contains(ADMIN_KEY));
    // A key that is not valid does not make the service unhealthy.
    let garbage = world.api.with_key("outwork_api_none");
    assert_eq!(
        Api::send(garbage.bare(reqwest::Method::GET, "/healthz")).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let mut world = World::start().await;
    let session = some_content(&world.api).await;
    let paths = [
        "/v1/agents".to_owned(),
        "/v1/environments".to_owned(),
        format!("/v1/sessions/{session}/events"),
        "/v1/api_keys".to_owned(),
    ];
    let api = world.api.clone();
    let look = async || {
        let mut seen: Vec<Value> = Vec::new();
        for path in &paths {
            let mut answer = api.get(path).await.ok();
            for row in answer["data"].as_array_mut().unwrap() {
                row.as_object_mut().unwrap().remove("last_used_at");
            }
            seen.push(answer);
        }
        seen
    };
    let before = look().await;
    for kill in [true, false] {
        if kill {
            world.server.kill().await;
        } else {
            world.server.terminate();
            assert!(world.server.ended().await.success());
        }
        world.server.restart().await;
        assert_eq!(look().await, before);
    }
}
