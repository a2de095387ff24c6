//! Resources of sessions: given, shown, changed; what a session's worker is told of them, and nobody else.

use super::*;

const TOKEN: &str = "ghp_a-t0ken-of-the-tests";

fn repository(more: Value) -> Value {
    let mut body = json!({ "type": "github_repository", "url": "https://github.com/owner/name.git" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

struct Made {
    agent: String,
    environment: String,
}

impl Made {
    async fn new(api: &Api) -> Self {
        Self {
            agent: api.agent(SCRIPT, json!([])).await,
            environment: api.environment("self_hosted").await,
        }
    }

    fn with(&self, resources: Value) -> Value {
        json!({ "agent": self.agent, "environment_id": self.environment, "resources": resources })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_its_resources_and_no_token() {
    let world = World::start().await;
    let api = &world.api;
    let made = Made::new(api).await;
    let file = id(&api.upload("a.csv", "a,b").await.ok());
    let checkout = json!({ "type": "branch", "name": "main" });
    let resources = json!([
        { "type": "file", "file_id": file },
        { "type": "file", "file_id": file, "mount_path": "/workspace/in/a.csv" },
        repository(json!({ "authorization_token": TOKEN, "checkout": checkout })),
        repository(json!({ "mount_path": "/srv/other", "checkout": null })),
    ]);
    let answer = api.post("/v1/sessions", made.with(resources)).await;
    assert!(!answer.text.contains(TOKEN));
    let session = answer.ok();
    let shown = session["resources"].as_array().unwrap().clone();
    let fields = |n: usize, name: &str| shown[n][name].clone();
    assert_eq!(fields(0, "mount_path"), format!("/mnt/session/uploads/{file}"));
    assert_eq!(fields(1, "mount_path"), "/workspace/in/a.csv");
    assert_eq!(fields(2, "mount_path"), "/workspace/name");
    assert_eq!(fields(2, "checkout"), checkout);
    assert_eq!(fields(2, "url"), "https://github.com/owner/name.git");
    assert!(fields(3, "checkout").is_null());
    let path = format!("/v1/sessions/{}", id(&session));
    assert_eq!(api.get(&path).await.ok()["resources"], session["resources"]);
    let listed = api.get("/v1/sessions").await.ok();
    assert_eq!(listed["data"][0]["resources"], session["resources"]);
    let list = api.get(&format!("{path}/resources")).await.ok();
    assert_eq!(list, json!({ "data": shown, "next_page": null }));
    let first = api.get(&format!("{path}/resources?limit=3")).await.ok();
    assert_eq!(first["data"], json!(shown[..3]));
    let next = first["next_page"].as_str().unwrap();
    let rest = api.get(&format!("{path}/resources?limit=3&page={next}")).await.ok();
    assert_eq!(rest["data"], json!(shown[3..]));

    // Added, replaced, taken away.
    let added = json!({ "type": "file", "file_id": file, "mount_path": "/workspace/b.csv" });
    let added = api.post(&format!("{path}/resources"), added).await.ok();
    let one = format!("{path}/resources/{}", id(&added));
    assert_eq!(api.get(&one).await.ok(), added);
    let again = json!({ "type": "file", "file_id": file, "mount_path": "/workspace/b.csv/c" });
    api.post(&format!("{path}/resources"), again)
        .await
        .refused(400, &["mount_path", "/workspace/b.csv"]);
    for kind in ["github_repository", "memory_store"] {
        let body = json!({ "type": kind, "url": "https://github.com/a/b" });
        api.post(&format!("{path}/resources"), body)
            .await
            .refused(400, &["type", "only a file"]);
    }
    api.post(&one, json!({ "authorization_token": "x" }))
        .await
        .refused(400, &["file", "token"]);
    let repository = format!("{path}/resources/{}", shown[3]["id"].as_str().unwrap());
    let updated = api.post(&repository, json!({ "authorization_token": TOKEN })).await;
    assert!(!updated.text.contains(TOKEN));
    assert!(updated.ok()["updated_at"].as_str().unwrap() > shown[3]["updated_at"].as_str().unwrap());
    for body in [
        json!({}),
        json!({ "authorization_token": "" }),
        json!({ "authorization_token": "a b" }),
        json!({ "mount_path": "/x" }),
    ] {
        api.post(&repository, body).await.refused(400, &[]);
    }
    let deleted = api.delete(&one).await.ok();
    assert_eq!(
        deleted,
        json!({ "id": added["id"], "type": "session_resource_deleted" })
    );
    api.get(&one).await.refused(404, &["session resource"]);
    api.delete(&one).await.refused(404, &["session resource"]);

    // One that is over keeps what it has. So does one whose file is gone.
    api.delete(&format!("/v1/files/{file}")).await.ok();
    api.post(&format!("{path}/archive"), json!({})).await.ok();
    api.delete(&repository).await.refused(400, &["over"]);
    assert_eq!(api.get(&path).await.ok()["resources"].as_array().unwrap().len(), 4);
    api.delete(&path).await.ok();
    api.get(&repository).await.refused(404, &["session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_that_are_wrong_are_refused_with_their_place() {
    let world = World::start().await;
    let api = &world.api;
    let made = Made::new(api).await;
    let file = id(&api.upload("a.csv", "a,b").await.ok());
    let mounted = |path: &str| json!({ "type": "file", "file_id": file, "mount_path": path });
    let good = mounted("/workspace/a");
    let many: Vec<Value> = (0..501).map(|n| mounted(&format!("/in/{n}"))).collect();
    for (resources, named) in [
        (json!([good, mounted("relative")]), "resources.1.mount_path"),
        (json!([mounted("/a/../b")]), "resources.0.mount_path"),
        (json!([mounted("/proc/self/x")]), "/proc"),
        (json!([mounted("/mnt/session/outputs/x")]), "/mnt/session/outputs"),
        (json!([good, good]), "resources.1.mount_path"),
        (json!([good, mounted("/workspace/a/b")]), "mount_path"),
        (
            json!([repository(json!({})), repository(json!({}))]),
            "resources.1.mount_path",
        ),
        (
            json!([repository(json!({ "url": "github.com/a/b" }))]),
            "resources.0.url",
        ),
        (
            json!([repository(json!({ "url": "https://me:word@github.com/a/b" }))]),
            "resources.0.url",
        ),
        (
            json!([repository(json!({ "url": "https://github.com" }))]),
            "resources.0.url",
        ),
        (
            json!([repository(json!({ "url": "ssh://git@github.com/a/b" }))]),
            "resources.0.url",
        ),
        (
            json!([repository(
                json!({ "url": "http://github.com/a/b", "authorization_token": "x" })
            )]),
            "https",
        ),
        (
            json!([repository(json!({ "checkout": { "type": "branch", "name": "--x" } }))]),
            "checkout.name",
        ),
        (
            json!([repository(json!({ "checkout": { "type": "commit", "sha": "abc" } }))]),
            "checkout.sha",
        ),
        (
            json!([repository(json!({ "checkout": { "type": "tag", "name": "v1" } }))]),
            "checkout",
        ),
        (
            json!([{ "type": "memory_store", "memory_store_id": "memstore_1" }]),
            "memory stores are not supported",
        ),
        (json!([{ "type": "volume" }]), "resources.0"),
        (json!([{ "type": "file", "file_id": file, "path": "/x" }]), "path"),
        (json!([{ "type": "file" }]), "file_id"),
        (json!(many), "500"),
    ] {
        api.post("/v1/sessions", made.with(resources))
            .await
            .refused(400, &[named]);
    }
    let spy = "s3cret token with spaces";
    let body = made.with(json!([repository(json!({ "authorization_token": spy }))]));
    let answer = api
        .post("/v1/sessions", body)
        .await
        .refused(400, &["authorization_token"]);
    assert!(!answer.text.contains("s3cret"));
    assert_eq!(api.get("/v1/sessions").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_refuse_them_for_self_hosted_environments_as_the_hosted_service_does() {
    let settings = "[files]\nself_hosted_resources = false\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    let api = &world.api;
    let made = Made::new(api).await;
    let file = id(&api.upload("a.csv", "a,b").await.ok());
    let resource = json!({ "type": "file", "file_id": file });
    let body = made.with(json!([resource]));
    api.post("/v1/sessions", body.clone())
        .await
        .refused(400, &["resources", "self_hosted"]);
    let session = api.session(&made.agent, &made.environment).await;
    let added = api.post(&format!("/v1/sessions/{session}/resources"), resource).await;
    added.refused(400, &["resources", "self_hosted"]);
    let mut cloud = body;
    cloud["environment_id"] = json!(api.environment("cloud").await);
    api.post("/v1/sessions", cloud).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_what_its_own_session_has_and_nothing_else() {
    let world = World::start().await;
    let api = &world.api;
    let mine = id(&api.upload("mine.csv", "a,b,c").await.ok());
    let other = id(&api.upload("other.csv", "d,e,f").await.ok());
    let vault = api.make("/v1/vaults", json!({ "display_name": "Alice" })).await;
    let second = api.make("/v1/vaults", json!({ "display_name": "Bob" })).await;
    let variable = |name: &str, value: &str| {
        json!({ "auth": {
            "type": "environment_variable", "secret_name": name, "secret_value": value,
            "networking": { "type": "limited", "allowed_hosts": ["api.example.com"] },
        } })
    };
    for (vault, name, value) in [
        (&vault, "API_KEY", "first-value"),
        (&second, "API_KEY", "never"),
        (&second, "OTHER", "second-value"),
    ] {
        api.make(&format!("/v1/vaults/{vault}/credentials"), variable(name, value))
            .await;
    }
    let token = json!({ "type": "static_bearer", "token": "mcp-token", "mcp_server_url": "https://a.example/mcp" });
    api.make(&format!("/v1/vaults/{vault}/credentials"), json!({ "auth": token }))
        .await;
    let resources = json!([
        { "type": "file", "file_id": mine, "mount_path": "/workspace/mine.csv" },
        repository(json!({ "authorization_token": TOKEN })),
        repository(json!({ "url": "https://git.example/open", "mount_path": "/workspace/open" })),
    ]);
    let more = json!({ "resources": resources, "vault_ids": [vault, second] });
    let (session, worker) = api.claimed(more).await;
    let (elsewhere, stranger) = api
        .claimed(json!({ "resources": [{ "type": "file", "file_id": other }] }))
        .await;
    let own = format!("/v1/outwork/sessions/{session}");

    let mounts = worker.get(&format!("{own}/mounts")).await.ok();
    let mounts = mounts["data"].as_array().unwrap();
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[0]["file_id"], mine.as_str());
    assert_eq!(mounts[0]["size_bytes"], 5);
    assert_eq!(mounts[0]["available"], true);
    assert_eq!(
        mounts[0]["sha256"],
        "205830ca5b23bbe39ab510cfddc1dff2d9842e38b5fa7b7c48cd4ca7e44f92a1"
    );
    assert_eq!(mounts[1]["authorized"], true);
    assert_eq!(mounts[2]["authorized"], false);
    assert!(!json!(mounts).to_string().contains(TOKEN));
    assert_eq!(worker.download(&mine).await.text, "a,b,c");
    assert_eq!(
        worker.get(&format!("/v1/sessions/{session}/resources")).await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let secrets = worker.get(&format!("{own}/secrets")).await;
    assert_eq!(secrets.headers["cache-control"], "no-store");
    let secrets = secrets.ok();
    assert_eq!(
        secrets["repositories"],
        json!([{ "resource_id": mounts[1]["id"], "url": mounts[1]["url"], "token": TOKEN }])
    );
    let variables: Vec<(&str, &str)> = secrets["variables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v["name"].as_str().unwrap(), v["value"].as_str().unwrap()))
        .collect();
    assert_eq!(variables, [("API_KEY", "first-value"), ("OTHER", "second-value")]);
    assert_eq!(
        secrets["variables"][0]["networking"]["allowed_hosts"],
        json!(["api.example.com"])
    );
    assert!(!secrets.to_string().contains("mcp-token"));

    // Other files, other sessions, other operations.
    worker.download(&other).await.refused(404, &[&other]);
    stranger.download(&mine).await.refused(404, &[&mine]);
    for path in ["mounts", "secrets", "outputs", "texts"] {
        stranger.get(&format!("{own}/{path}")).await.refused(403, &[]);
        worker
            .get(&format!("/v1/outwork/sessions/{elsewhere}/{path}"))
            .await
            .refused(403, &[]);
    }
    for path in ["/v1/files".to_owned(), format!("/v1/files/{mine}")] {
        worker.get(&path).await.refused(403, &[]);
    }
    worker.upload("x", "x").await.refused(403, &[]);
    worker.delete(&format!("/v1/files/{mine}")).await.refused(403, &[]);
    for path in ["mounts", "secrets"] {
        api.get(&format!("{own}/{path}")).await.refused(403, &["workers"]);
    }

    // What is taken away is gone at once; what was deleted says so.
    api.delete(&format!("/v1/files/{mine}")).await.ok();
    let gone = worker.get(&format!("{own}/mounts")).await.ok();
    assert_eq!(gone["data"][0]["available"], false);
    assert!(gone["data"][0]["sha256"].is_null());
    worker.download(&mine).await.refused(404, &[&mine]);
    let resource = mounts[1]["id"].as_str().unwrap();
    api.delete(&format!("/v1/sessions/{session}/resources/{resource}"))
        .await
        .ok();
    assert_eq!(
        worker.get(&format!("{own}/secrets")).await.ok()["repositories"],
        json!([])
    );
    let log = world.server.log();
    assert!(log.contains("session.secrets_given"), "{log}");
    for secret in [TOKEN, "first-value", "second-value"] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
