//! Vaults over HTTP and the command line: secrets go in and never come out, tokens are refreshed, the master key is
//! the one that it must be.

mod command_line;
mod master_key;
mod sessions;
mod upstream;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::process::BINARY;
use crate::world::{Answer, Api, SCRIPT, SOON, Server, ServerOptions, until};
use upstream::Upstream;

/// Every secret of these tests has this in it; so have those that the authorization server gives out.
const MARK: &str = "s3cr3t";
const LOOPBACK: &str = "[mcp]\nallowed_networks = [\"127.0.0.0/8\"]\nplain_http = true\n";

fn bearer(url: &str, token: &str) -> Value {
    json!({ "auth": { "type": "static_bearer", "token": token, "mcp_server_url": url } })
}

fn variable(name: &str) -> Value {
    json!({ "auth": {
        "type": "environment_variable", "secret_name": name, "secret_value": "the-value-s3cr3t",
        "networking": { "type": "unrestricted" },
    } })
}

async fn vault(api: &Api) -> String {
    api.make("/v1/vaults", json!({ "display_name": "Alice" })).await
}

/// The binary with these words, this standard input and this environment.
async fn outwork(words: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
    let mut child = Command::new(BINARY)
        .args(words)
        .env_remove("OUTWORK_MASTER_KEY")
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that ended already does not read.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    timeout(SOON, child.wait_with_output()).await.unwrap().unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

async fn stopped(mut server: Server) -> (Option<tempfile::TempDir>, std::path::PathBuf) {
    server.terminate();
    assert!(server.ended().await.success(), "{}", server.log());
    server.into_folder()
}

/// No file of the folder but the master key's holds a text.
fn check_files(folder: &Path, text: &str) {
    let mut looked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!found, "{} holds a secret", path.display());
        looked += 1;
    }
    assert!(looked >= 3, "{folder:?} holds {looked} files");
}

/// Keeps every answer's text.
struct Ear {
    api: Api,
    heard: String,
}

impl Ear {
    async fn call(&mut self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.api.request(method.clone(), path);
        let request = if method == Method::POST {
            request.json(&body)
        } else {
            request
        };
        let answer = Api::send(request).await;
        self.heard.push_str(&answer.text);
        self.heard.push_str(&format!("{:?}", answer.headers));
        answer
    }

    async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, Value::Null).await
    }

    async fn delete(&mut self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Value::Null).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_comes_out_of_the_database_the_log_or_an_answer() {
    let upstream = Upstream::start().await;
    let options = ServerOptions::default()
        .settings(LOOPBACK)
        .flags(&["--log-level", "trace"]);
    let server = Server::start(options).await;
    let mut ear = Ear {
        api: server.api(),
        heard: String::new(),
    };
    let vault = vault(&ear.api).await;
    let path = format!("/v1/vaults/{vault}/credentials");
    upstream.set(|known| {
        known.refresh_token = "refresh-0-s3cr3t".into();
        known.client.1 = "client_id=client-of-the-test&client_secret=client-s3cr3t".into();
    });
    let client = json!({ "type": "client_secret_post", "client_secret": "client-s3cr3t" });
    let oauth = ear
        .post(&path, upstream.oauth("access-0-s3cr3t", "refresh-0-s3cr3t", client))
        .await
        .ok();
    let fixed = ear
        .post(&path, bearer("https://b.example/mcp", "bearer-s3cr3t"))
        .await
        .ok();
    let value = ear.post(&path, variable("KEY")).await.ok();
    let one = |made: &Value| format!("{path}/{}", made["id"].as_str().unwrap());

    // A refresh brings further secrets, and both servers say things that they should not.
    let validated = ear
        .post(&format!("{}/mcp_oauth_validate", one(&oauth)), json!({}))
        .await
        .ok();
    assert_eq!(validated["status"], "valid", "{validated}");
    assert_eq!(validated["refresh"]["status"], "succeeded");
    upstream.set(|known| {
        known.access_token = "moved on".into();
        let body = json!({
            "error": "invalid_grant",
            "error_description": "granted-refresh-1-s3cr3t client-s3cr3t",
            "access_token": "another-s3cr3t",
        });
        known.token_says = Some((400, body.to_string()));
    });
    let validated = ear
        .post(&format!("{}/mcp_oauth_validate", one(&oauth)), json!({}))
        .await
        .ok();
    assert_eq!(validated["status"], "invalid", "{validated}");

    // Mistakes with secrets in them.
    for body in [
        json!({ "auth": "auth-s3cr3t" }),
        json!({ "auth": { "type": "type-s3cr3t" } }),
        json!({ "auth": { "type": "static_bearer", "token": { "s3cr3t": "s3cr3t" }, "mcp_server_url": "https://c.example" } }),
        json!({ "auth": { "type": "static_bearer", "token": "t", "mcp_server_url": "https://user:s3cr3t@c.example" } }),
        json!({ "auth": { "type": "static_bearer", "the token is s3cr3t": "t" } }),
        json!({ "auth": { "type": "mcp_oauth", "access_token": "a s3cr3t", "mcp_server_url": "https://c.example" } }),
        json!({ "auth": { "type": "mcp_oauth", "access_token": "t", "mcp_server_url": "https://c.example", "expires_at": "s3cr3t" } }),
        json!({ "display_name": { "s3cr3t": 1 }, "auth": {} }),
        bearer("https://b.example/mcp", "again-s3cr3t"),
    ] {
        let answer = ear.post(&path, body).await;
        assert!(matches!(answer.status, 400 | 409), "{}", answer.text);
    }
    for change in [
        json!({ "auth": { "type": "static_bearer", "token": "newer-s3cr3t" } }),
        json!({ "display_name": "named", "metadata": { "a": "b" } }),
    ] {
        ear.post(&one(&fixed), change).await.ok();
    }
    let change = json!({ "auth": { "type": "environment_variable", "secret_value": "newer-s3cr3t" } });
    ear.post(&one(&value), change).await.ok();
    let change = json!({ "auth": { "type": "mcp_oauth", "access_token": "newer-s3cr3t", "refresh": {
        "refresh_token": "newer-r-s3cr3t",
        "token_endpoint_auth": { "type": "client_secret_post", "client_secret": "newer-c-s3cr3t" },
    } } });
    ear.post(&one(&oauth), change).await.ok();
    for made in [&oauth, &fixed, &value] {
        ear.get(&one(made)).await.ok();
    }
    ear.get(&path).await.ok();
    ear.post(&format!("{}/archive", one(&fixed)), json!({})).await.ok();
    ear.get(&format!("{path}?include_archived=true")).await.ok();
    ear.delete(&one(&value)).await.ok();
    ear.get("/metrics").await;

    assert!(!ear.heard.contains(MARK), "an answer holds a secret: {}", ear.heard);
    until("the log tells of the last request", SOON, || async {
        server.log().contains("operation=Metrics").then_some(())
    })
    .await;
    let log = server.log();
    assert!(
        log.contains("operation=VaultCredentialsValidate"),
        "the log is not a whole one"
    );
    assert!(!log.contains(MARK), "the log holds a secret");
    // With what the write-ahead log holds, and after it was written back.
    check_files(server.data_dir(), MARK);
    let (_folder, data_dir) = stopped(server).await;
    check_files(&data_dir, MARK);
    let mode = std::fs::metadata(data_dir.join("master.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn vaults_and_credentials_have_their_limits_and_their_ends() {
    let server = Server::start(ServerOptions::default()).await;
    let api = server.api();
    let vault = vault(&api).await;
    let path = format!("/v1/vaults/{vault}/credentials");
    let first = api.post(&path, bearer("https://mcp.example.com/mcp", "t")).await.ok();
    let id = first["id"].as_str().unwrap();
    assert!(id.starts_with("vcrd_") && vault.starts_with("vlt_"));
    assert_eq!(
        first["auth"],
        json!({ "type": "static_bearer", "mcp_server_url": "https://mcp.example.com/mcp" })
    );
    // The same address, written in another way, is taken.
    api.post(&path, bearer("https://MCP.example.com:443/mcp/", "t"))
        .await
        .refused(409, &[id, "mcp_server_url"]);
    api.post(&path, variable("KEY")).await.ok();
    api.post(&path, variable("KEY")).await.refused(409, &["secret_name"]);
    for number in 2..20 {
        api.post(&path, bearer(&format!("https://mcp.example.com/{number}"), "t"))
            .await
            .ok();
    }
    api.post(&path, bearer("https://mcp.example.com/more", "t"))
        .await
        .refused(400, &[&vault, "20"]);
    // What is archived makes room, and its address is free.
    let archived = api.post(&format!("{path}/{id}/archive"), json!({})).await.ok();
    assert!(archived["archived_at"].is_string());
    let again = api.post(&format!("{path}/{id}/archive"), json!({})).await.ok();
    assert_eq!(again, archived);
    api.post(&format!("{path}/{id}"), json!({ "display_name": "x" }))
        .await
        .refused(400, &[id, "archived"]);
    api.post(&format!("{path}/{id}/mcp_oauth_validate"), json!({}))
        .await
        .refused(400, &["archived"]);
    api.post(&path, bearer("https://mcp.example.com/mcp", "t")).await.ok();
    let count = async |query: &str| {
        let list = api.get(&format!("{path}?limit=100{query}")).await.ok();
        list["data"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("&include_archived=true").await), (20, 21));
    api.get(&format!("{path}?limit=101")).await.refused(400, &["limit"]);
    let page = api.get(&format!("{path}?limit=15")).await.ok();
    let next = page["next_page"].as_str().unwrap();
    let rest = api.get(&format!("{path}?limit=15&page={next}")).await.ok();
    assert_eq!(rest["data"].as_array().unwrap().len(), 5);

    let gone = api.delete(&format!("{path}/{id}")).await.ok();
    assert_eq!(gone, json!({ "id": id, "type": "vault_credential_deleted" }));
    api.get(&format!("{path}/{id}")).await.refused(404, &[id]);
    let other = self::vault(&api).await;
    let second = api.get(&path).await.ok()["data"][0]["id"].as_str().unwrap().to_owned();
    api.get(&format!("/v1/vaults/{other}/credentials/{second}"))
        .await
        .refused(404, &[&second]);

    // A vault takes its credentials with it.
    let session = session_with(&api, &[&vault]).await.ok();
    let archived = api.post(&format!("/v1/vaults/{vault}/archive"), json!({})).await.ok();
    assert!(archived["archived_at"].is_string());
    assert_eq!(count("").await, 0);
    let kept = api.get(&format!("{path}/{second}")).await.ok();
    assert_eq!(kept["archived_at"], archived["archived_at"]);
    api.post(&path, variable("OTHER"))
        .await
        .refused(400, &[&vault, "archived"]);
    api.post(&format!("/v1/vaults/{vault}"), json!({ "display_name": "x" }))
        .await
        .refused(400, &["archived"]);
    session_with(&api, &[&vault])
        .await
        .refused(400, &["vault_ids", &vault, "archived"]);
    let gone = api.delete(&format!("/v1/vaults/{vault}")).await.ok();
    assert_eq!(gone, json!({ "id": vault, "type": "vault_deleted" }));
    api.get(&format!("/v1/vaults/{vault}")).await.refused(404, &[&vault]);
    api.get(&path).await.refused(404, &[&vault]);
    let session = api
        .get(&format!("/v1/sessions/{}", session["id"].as_str().unwrap()))
        .await
        .ok();
    assert_eq!(session["vault_ids"], json!([vault]));
}

async fn session_with(api: &Api, vaults: &[&str]) -> Answer {
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let body = json!({ "agent": agent, "environment_id": environment, "vault_ids": vaults });
    api.post("/v1/sessions", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_names_its_vaults_when_it_is_made() {
    let server = Server::start(ServerOptions::default()).await;
    let api = server.api();
    let (one, two) = (vault(&api).await, vault(&api).await);
    let made = session_with(&api, &[&two, &one]).await.ok();
    assert_eq!(made["vault_ids"], json!([two, one]));
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/sessions/{id}");
    assert_eq!(api.get(&path).await.ok()["vault_ids"], made["vault_ids"]);
    let listed = api.get("/v1/sessions").await.ok();
    assert_eq!(listed["data"][0]["vault_ids"], made["vault_ids"]);
    assert_eq!(session_with(&api, &[]).await.ok()["vault_ids"], json!([]));

    session_with(&api, &[&one, &one])
        .await
        .refused(400, &["vault_ids.1", &one]);
    session_with(&api, &["vlt_none"])
        .await
        .refused(404, &["vault", "vlt_none"]);
    session_with(&api, &[id]).await.refused(400, &["vault_ids", "vlt_"]);
    let many = vec!["vlt_1"; 21];
    session_with(&api, &many).await.refused(400, &["vault_ids", "20"]);
    api.post(&path, json!({ "vault_ids": [one] }))
        .await
        .refused(400, &["vault_ids", "cannot be changed"]);
}

/// A server that may call this machine, an upstream, and a vault.
async fn validating() -> (Server, Upstream, String) {
    let server = Server::start(ServerOptions::default().settings(LOOPBACK)).await;
    let upstream = Upstream::start().await;
    let vault = vault(&server.api()).await;
    (server, upstream, vault)
}

async fn validate(api: &Api, vault: &str, credential: Value) -> Value {
    let path = format!("/v1/vaults/{vault}/credentials");
    let made = api.post(&path, credential).await.ok();
    let path = format!("{path}/{}", made["id"].as_str().unwrap());
    let answer = api.post(&format!("{path}/mcp_oauth_validate"), json!({})).await.ok();
    api.delete(&path).await.ok();
    for (name, value) in [
        ("type", &json!("vault_credential_validation")),
        ("credential_id", &made["id"]),
        ("vault_id", &made["vault_id"]),
        ("has_refresh_token", &json!(!made["auth"]["refresh"].is_null())),
    ] {
        assert_eq!(&answer[name], value, "{answer}");
    }
    assert!(answer["validated_at"].is_string());
    answer
}

fn without_refresh(upstream: &Upstream, token: &str) -> Value {
    json!({ "auth": { "type": "mcp_oauth", "access_token": token, "mcp_server_url": upstream.mcp_url() } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_tried_out_against_its_server() {
    let (server, upstream, vault) = validating().await;
    let api = server.api();
    upstream.set(|known| known.access_token = "good".into());
    for streams in [false, true] {
        upstream.set(|known| {
            known.streams = streams;
            known.methods.clear();
        });
        let answer = validate(&api, &vault, without_refresh(&upstream, "good")).await;
        assert_eq!(answer["status"], "valid", "{answer}");
        assert!(answer["mcp_probe"].is_null() && answer["refresh"].is_null());
        let methods = upstream.knowledge.lock().unwrap().methods.clone();
        assert_eq!(
            methods,
            ["initialize", "notifications/initialized", "tools/list", "DELETE"]
        );
    }

    let answer = validate(&api, &vault, without_refresh(&upstream, "bad-token")).await;
    assert_eq!(answer["status"], "invalid", "{answer}");
    assert_eq!(
        answer["refresh"],
        json!({ "status": "no_refresh_token", "http_response": null })
    );
    let probe = &answer["mcp_probe"];
    assert_eq!(probe["method"], "initialize");
    assert_eq!(probe["http_response"]["status_code"], 401);
    assert_eq!(probe["http_response"]["content_type"], "application/json");
    assert_eq!(probe["http_response"]["body_truncated"], false);
    let body = probe["http_response"]["body"].as_str().unwrap();
    assert!(
        body.contains("Bearer [redacted]") && !body.contains("bad-token"),
        "{body}"
    );

    // What says nothing of the token is not held against it.
    for (status, body, truncated) in [(503, "x".repeat(5000), true), (404, "not here".to_owned(), false)] {
        upstream.set(|known| known.mcp_says = Some((status, body.clone())));
        let answer = validate(&api, &vault, without_refresh(&upstream, "good")).await;
        assert_eq!(answer["status"], "unknown", "{answer}");
        let response = &answer["mcp_probe"]["http_response"];
        assert_eq!(
            (&response["status_code"], &response["body_truncated"]),
            (&json!(status), &json!(truncated))
        );
        assert!(response["body"].as_str().unwrap().len() <= 2000);
    }
    upstream.set(|known| known.mcp_says = Some((403, "not for you".into())));
    let client = json!({ "type": "none" });
    let answer = validate(&api, &vault, upstream.oauth("good", "refresh-0", client)).await;
    assert_eq!(
        (&answer["status"], &answer["refresh"]),
        (&json!("invalid"), &Value::Null)
    );
    assert!(
        upstream.knowledge.lock().unwrap().forms.is_empty(),
        "a refresh would not help"
    );
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let unreachable = json!({ "auth": {
        "type": "mcp_oauth", "access_token": "t", "mcp_server_url": format!("http://{address}/mcp"),
    } });
    let answer = validate(&api, &vault, unreachable).await;
    assert_eq!(answer["status"], "unknown");
    assert_eq!(
        answer["mcp_probe"],
        json!({ "method": "initialize", "http_response": null })
    );

    let made = api
        .post(
            &format!("/v1/vaults/{vault}/credentials"),
            bearer("https://b.example", "t"),
        )
        .await
        .ok();
    let path = format!(
        "/v1/vaults/{vault}/credentials/{}/mcp_oauth_validate",
        made["id"].as_str().unwrap()
    );
    api.post(&path, json!({}))
        .await
        .refused(400, &["static_bearer", "mcp_oauth"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_is_refreshed_by_each_kind_of_client() {
    let (server, upstream, vault) = validating().await;
    let api = server.api();
    // `client-of-the-test:cl&nt` with both parts form-encoded.
    let basic = "Basic Y2xpZW50LW9mLXRoZS10ZXN0OmNsJTI2bnQ=";
    for (client, authorization, form) in [
        (json!({ "type": "none" }), None, "client_id=client-of-the-test"),
        (
            json!({ "type": "client_secret_post", "client_secret": "cl&nt" }),
            None,
            "client_secret=cl%26nt",
        ),
        (
            json!({ "type": "client_secret_basic", "client_secret": "cl&nt" }),
            Some(basic),
            "",
        ),
    ] {
        upstream.set(|known| {
            known.access_token = "good".into();
            known.refresh_token = "refresh-0".into();
            known.client = (authorization.map(str::to_owned), form.to_owned());
            known.forms.clear();
        });
        let answer = validate(&api, &vault, upstream.oauth("bad", "refresh-0", client.clone())).await;
        assert_eq!(answer["status"], "valid", "{client}: {answer}");
        assert_eq!(
            answer["refresh"],
            json!({ "status": "succeeded", "http_response": null })
        );
        assert!(answer["mcp_probe"].is_null());
        assert_eq!(upstream.knowledge.lock().unwrap().forms.len(), 1);
    }

    let client = json!({ "type": "none" });
    upstream.set(|known| known.client = (None, String::new()));
    let answer = validate(&api, &vault, upstream.oauth("bad", "used-up", client.clone())).await;
    assert_eq!(answer["status"], "invalid", "{answer}");
    assert_eq!(answer["refresh"]["status"], "failed");
    let response = &answer["refresh"]["http_response"];
    assert_eq!(response["status_code"], 400);
    assert!(response["body"].as_str().unwrap().contains("invalid_grant"));
    assert_eq!(answer["mcp_probe"]["http_response"]["status_code"], 401);

    upstream.set(|known| known.token_says = Some((503, "busy".into())));
    let answer = validate(&api, &vault, upstream.oauth("bad", "refresh-0", client.clone())).await;
    assert_eq!(
        (&answer["status"], &answer["refresh"]["status"]),
        (&json!("unknown"), &json!("failed"))
    );
    assert_eq!(
        upstream.knowledge.lock().unwrap().forms.len(),
        1 + 1 + 3,
        "it is tried again"
    );
    let mut credential = upstream.oauth("bad", "refresh-0", client);
    credential["auth"]["refresh"]["token_endpoint"] = json!("http://127.0.0.1:9/token");
    let answer = validate(&api, &vault, credential).await;
    assert_eq!(
        (&answer["status"], &answer["refresh"]["status"]),
        (&json!("unknown"), &json!("connect_error"))
    );
    until("the log tells of it", SOON, || async {
        server.log().contains("vault_credential.refresh_failed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_addresses_inside_unless_they_are_allowed() {
    let strict = Server::start(ServerOptions::default()).await;
    let server = Server::start(ServerOptions::default().settings("[mcp]\nplain_http = true\n")).await;
    let upstream = Upstream::start().await;
    // Clear text needs leave, and is refused before there is anything to send.
    let path = format!("/v1/vaults/{}/credentials", vault(&strict.api()).await);
    let plain = without_refresh(&upstream, "good");
    strict
        .api()
        .post(&path, plain)
        .await
        .refused(400, &["auth.mcp_server_url", "https"]);
    let mut plain = upstream.oauth("good", "refresh-0", json!({ "type": "none" }));
    plain["auth"]["mcp_server_url"] = json!("https://mcp.example.com/mcp");
    strict
        .api()
        .post(&path, plain)
        .await
        .refused(400, &["auth.refresh.token_endpoint", "https"]);
    let api = server.api();
    let vault = vault(&api).await;
    upstream.set(|known| known.access_token = "good".into());
    let mut by_name = without_refresh(&upstream, "good");
    by_name["auth"]["mcp_server_url"] = json!(upstream.mcp_url().replace("127.0.0.1", "localhost"));
    for credential in [without_refresh(&upstream, "good"), by_name] {
        let answer = validate(&api, &vault, credential).await;
        assert_eq!(answer["status"], "unknown", "{answer}");
        assert_eq!(
            answer["mcp_probe"],
            json!({ "method": "initialize", "http_response": null })
        );
    }
    assert!(upstream.knowledge.lock().unwrap().methods.is_empty());
}
