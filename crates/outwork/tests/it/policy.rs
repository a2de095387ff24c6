//! `outwork policy`: what would happen, by the rules that the worker enforces, and rules for what was refused.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::files::command_line::outwork;
use crate::world::api::{of_type, text};
use crate::world::{
    Isolation, MODEL_KEY, SCRIPT, SOON, Server, ServerOptions, Worker, WorkerOptions, World, rehearsal, script_message,
    until,
};

const POLICY: &str = r#"
[[allow]]
name = "reads"
host = "api.example.com"
methods = ["GET"]
paths = ["/v1/**"]

[[allow]]
host = ["both.example.com", "*.wide.example.com"]
ports = [443, 8443]

[[deny]]
name = "never"
host = "bad.wide.example.com"
"#;

/// Runs `outwork policy …` and gives its exit code and all that it said.
async fn policy(folder: &Path, base_url: &str, line: &str) -> (i32, String) {
    let words: Vec<&str> = ["policy"].into_iter().chain(line.split(' ')).collect();
    let Output { status, stdout, stderr } = outwork(folder, base_url, &words, "").await;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    (status.code().unwrap(), said)
}

/// A folder with the policy, and a server that is not there.
const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_file_is_asked_without_a_server() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("p.toml"), POLICY).unwrap();
    for (line, code, says) in [
        ("api.example.com GET /v1/x", 0, "allowed by worker/reads"),
        ("api.example.com get /v1/x?q=1", 0, "allowed by worker/reads"),
        ("api.example.com DELETE /v1/x", 1, "does not allow this method"),
        ("api.example.com GET /v2/x", 1, "does not allow this path"),
        ("api.example.com", 0, "TLS is opened"),
        ("both.example.com:8443", 0, "allowed by worker/allow[1]"),
        ("both.example.com:22", 1, "does not allow this port"),
        ("a.wide.example.com", 0, "allowed by"),
        ("bad.wide.example.com", 1, "refused by worker/never"),
        ("other.example.com", 1, "refused by worker/default"),
        ("10.0.0.1", 1, "no rule allows the plain address"),
        ("169.254.169.254:80 GET /latest/meta-data", 1, "cloud metadata"),
        ("[2001:db8::1]:443", 1, "refused by worker/default"),
        // It cannot be said.
        ("both.example.com:0", 2, "HOST:PORT"),
        ("not/a/host", 2, "not a host name"),
        ("api.example.com GET v1", 2, "not a path"),
        ("api.example.com GET", 64, "PATH"),
    ] {
        let (found, said) = policy(folder.path(), NOBODY, &format!("check {line} --policy p.toml")).await;
        assert_eq!(found, code, "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
    }
    let (code, said) = policy(
        folder.path(),
        NOBODY,
        "check api.example.com DELETE /v1/x --policy p.toml --json",
    )
    .await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &said["allowed"], &said["rule"]),
        (1, &json!(false), &json!("worker/reads"))
    );
    let steps: Vec<&str> = said["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["name", "connection", "request"]);

    let (code, said) = policy(folder.path(), NOBODY, "check api.example.com").await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--policy") && said.contains("--environment"), "{said}");
    std::fs::write(
        folder.path().join("wrong.toml"),
        "\n[[allow]]\nhost = \"a.example\"\nport = 1\n",
    )
    .unwrap();
    let (code, said) = policy(folder.path(), NOBODY, "check a.example --policy wrong.toml").await;
    assert_eq!(code, 2, "{said}");
    for part in ["wrong.toml:4", "allow[0]", "port"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = policy(folder.path(), NOBODY, "check a.example --policy missing.toml").await;
    assert!(code == 2 && said.contains("missing.toml"), "{code} {said}");
    let (code, said) = policy(folder.path(), NOBODY, "check a.example --environment env_1").await;
    assert_eq!(code, 2, "a server that is away is no refusal: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_and_sessions_are_asked_of_the_server_and_the_narrower_wins() {
    let world = World::start().await;
    let (api, folder) = (&world.api, TempDir::new().unwrap());
    std::fs::write(folder.path().join("p.toml"), POLICY).unwrap();
    let networking = json!({
        "type": "limited", "allowed_hosts": ["both.example.com", "cloud.example.com"], "allow_mcp_servers": true,
    });
    let config = json!({ "type": "cloud", "networking": networking });
    let environment = api
        .make("/v1/environments", json!({ "name": "e", "config": config }))
        .await;
    let hosted = api.environment("self_hosted").await;
    let tools = json!([{ "type": "mcp_toolset", "mcp_server_name": "wiki" }]);
    let servers = json!([{ "type": "url", "name": "wiki", "url": "https://wiki.example:9443/mcp" }]);
    let agent = json!({ "name": "a", "model": SCRIPT, "tools": tools, "mcp_servers": servers });
    let agent = api.make("/v1/agents", agent).await;
    let resources = json!([{
        "type": "github_repository", "url": "https://git.example.com/team/name", "authorization_token": "t0ken-0123456789",
    }]);
    let session = json!({ "agent": agent, "environment_id": environment, "resources": resources });
    let session = api.make("/v1/sessions", session).await;
    let of_hosted = api.session(&agent, &hosted).await;
    for (line, code, says) in [
        (
            format!("both.example.com --environment {environment}"),
            0,
            "environment/allowed_hosts[0]",
        ),
        (
            format!("cloud.example.com --environment {environment}"),
            0,
            "environment/allowed_hosts[1]",
        ),
        (
            format!("api.example.com --environment {environment}"),
            1,
            "environment/default",
        ),
        (
            format!("both.example.com --environment {environment} --policy p.toml"),
            0,
            "environment/allowed_hosts[0] + worker/allow[1]",
        ),
        (
            format!("cloud.example.com --environment {environment} --policy p.toml"),
            1,
            "worker/default",
        ),
        (
            format!("api.example.com --environment {environment} --policy p.toml"),
            1,
            "environment/default",
        ),
        // MCP servers and repositories belong to a session.
        (
            format!("wiki.example:9443 --environment {environment}"),
            1,
            "environment/default",
        ),
        (
            format!("wiki.example:9443 --session {session}"),
            0,
            "environment/mcp:wiki.example",
        ),
        (
            format!("git.example.com GET /team/name/info/refs --session {session}"),
            0,
            "environment/repository",
        ),
        (
            format!("git.example.com GET /team/other/info/refs --session {session}"),
            1,
            "does not allow this path",
        ),
        (
            format!("git.example.com GET /team/name/info/refs --session {session} --policy p.toml"),
            1,
            "worker/default",
        ),
        // A self-hosted environment leaves it to the worker.
        (format!("both.example.com --environment {hosted}"), 1, "default"),
        (
            format!("both.example.com --environment {hosted} --policy p.toml"),
            0,
            "worker/allow[1]",
        ),
        (
            format!("both.example.com --session {of_hosted} --policy p.toml"),
            0,
            "worker/allow[1]",
        ),
        (
            "both.example.com --environment env_01missing".to_owned(),
            2,
            "env_01missing",
        ),
        (
            format!("both.example.com --session {session} --environment {environment}"),
            64,
            "--environment",
        ),
    ] {
        let (found, said) = policy(folder.path(), api.base_url(), &format!("check {line}")).await;
        assert_eq!(found, code, "{line}: {said}");
        assert!(said.contains(says), "{line}: {said}");
    }
}

/// What a worker's sandbox was refused comes back as rules, which then allow it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_proposed_and_the_proposal_is_enough() {
    let world = World::start().await;
    let (api, folder) = (&world.api, TempDir::new().unwrap());
    let state = folder.path().join("state");
    std::fs::write(folder.path().join("p.toml"), POLICY).unwrap();
    let environment = api.environment("self_hosted").await;
    let mut worker = Worker::start(WorkerOptions {
        base_url: api.base_url().to_owned(),
        environment: environment.clone(),
        key: api.environment_key(&environment).await,
        isolation: Isolation::Full,
        concurrency: 1,
        flags: vec![
            "--policy".to_owned(),
            folder.path().join("p.toml").display().to_string(),
            "--state-dir".to_owned(),
            state.display().to_string(),
        ],
    });
    let agent = api.agent(SCRIPT, json!([{ "type": "agent_toolset_20260401" }])).await;
    let session = api.session(&agent, &environment).await;
    let command = "for to in wanted.example.com bad.wide.example.com; do getent hosts $to || echo refused; done; \
                   curl -q -sS -m 5 http://192.0.2.1:8080/a/b; curl -q -sS -m 5 http://169.254.169.254/x; echo";
    let steps = json!([
        { "say": [{ "tool_use": { "name": "bash", "input": { "command": command } } }] },
        { "say": [{ "text": "Done." }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    let events = api.wait_idle(&session).await;
    let said = text(of_type(&events, "user.tool_result")[0]);
    assert_eq!(said.matches("refused\n").count(), 2, "{said}");

    // From the ledger of the worker that still runs, then from what it handed over at its end.
    let base_url = api.base_url();
    let asked = async |line: String| {
        let (code, said) = policy(folder.path(), base_url, &line).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Value>(&said).unwrap_or_else(|_| panic!("{said}"))
    };
    let state = state.display();
    let local = until("the worker's records", SOON, async || {
        let said = asked(format!("suggest {session} --state-dir {state} --json")).await;
        (said["refused"].as_array().unwrap().len() >= 2).then_some(said)
    })
    .await;
    let by_folder = asked(format!("suggest {session} --ledger {state}/ledger --json")).await;
    assert_eq!(by_folder, local);
    assert!(worker.drain().await.success(), "{}", worker.log());
    let from_server = asked(format!("suggest {session} --json")).await;
    assert_eq!(from_server["policy"], local["policy"]);
    assert_eq!(
        from_server["networking"],
        Value::Null,
        "its environment leaves it to the worker"
    );

    let rules = local["policy"]["allow"].as_array().unwrap();
    assert!(
        rules.iter().any(|rule| rule["host"] == json!(["wanted.example.com"])),
        "{local}"
    );
    assert!(
        rules
            .iter()
            .any(|rule| rule["cidr"] == json!(["192.0.2.1/32"]) && rule["ports"] == json!(["8080"])),
        "{local}"
    );
    let left_out = local["left_out"].as_array().unwrap();
    let left_out: Vec<&str> = left_out.iter().map(|one| one["rule"].as_str().unwrap()).collect();
    assert_eq!(left_out.len(), 2, "{local}");
    assert!(
        left_out.contains(&"worker/never") && left_out.contains(&"address-class"),
        "{local}"
    );

    std::fs::write(folder.path().join("more.toml"), local["policy_toml"].as_str().unwrap()).unwrap();
    for (line, code) in [
        ("wanted.example.com", 0),
        ("192.0.2.1:8080 GET /a/b", 0),
        ("192.0.2.1:8080 GET /a/c", 1),
        ("bad.wide.example.com", 1),
    ] {
        let (found, said) = policy(folder.path(), NOBODY, &format!("check {line} --policy more.toml")).await;
        assert_eq!(found, code, "{line}: {said}");
    }
    // The page for people is a policy as it stands.
    let (_, page) = policy(folder.path(), NOBODY, &format!("suggest {session} --state-dir {state}")).await;
    assert!(
        page.contains("may be an attack") && page.contains("no rule can allow"),
        "{page}"
    );
    std::fs::write(folder.path().join("page.toml"), &page).unwrap();
    let (code, said) = policy(folder.path(), NOBODY, "check wanted.example.com --policy page.toml").await;
    assert_eq!(code, 0, "{said}\n{page}");

    let (code, said) = policy(
        folder.path(),
        NOBODY,
        &format!("suggest {session} --state-dir {}", folder.path().display()),
    )
    .await;
    assert!(code == 1 && said.contains("no worker's ledger"), "{code} {said}");
}

/// The network of an environment that refused something, as the server takes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_environment_gets_the_network_to_set() {
    let model = rehearsal().await;
    let options = ServerOptions::default().up().flags(&["--max-idle", "1s"]);
    let server = Server::start(options.model(&model.base_url(), MODEL_KEY)).await;
    let (api, folder) = (server.api(), TempDir::new().unwrap());
    let networking =
        json!({ "type": "limited", "allowed_hosts": ["kept.example.com"], "allow_package_managers": false });
    let config = json!({ "type": "cloud", "networking": networking });
    let environment = api
        .make("/v1/environments", json!({ "name": "e", "config": config }))
        .await;
    let agent = api.agent(SCRIPT, json!([{ "type": "agent_toolset_20260401" }])).await;
    let session = api.session(&agent, &environment).await;
    let command = "getent hosts wanted.example.com || echo refused";
    let steps = json!([
        { "say": [{ "tool_use": { "name": "bash", "input": { "command": command } } }] },
        { "say": [{ "text": "Done." }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    let events = api.wait_idle(&session).await;
    let said = text(of_type(&events, "agent.tool_result")[0]);
    assert!(
        said.starts_with("refused\n") && said.contains("no rule allows wanted.example.com"),
        "{said}"
    );
    let base_url = api.base_url();
    let suggested = until("what the worker handed over", SOON, async || {
        let (code, said) = policy(folder.path(), base_url, &format!("suggest {session} --json")).await;
        assert_eq!(code, 0, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        (said["networking"] != Value::Null).then_some(said)
    })
    .await;
    let hosts = &suggested["networking"]["allowed_hosts"];
    assert_eq!(*hosts, json!(["kept.example.com", "wanted.example.com"]));
    let asked = format!("check wanted.example.com --environment {environment}");
    assert_eq!(policy(folder.path(), base_url, &asked).await.0, 1);
    let update = json!({ "config": { "type": "cloud", "networking": suggested["networking"] } });
    api.post(&format!("/v1/environments/{environment}"), update).await.ok();
    let (code, said) = policy(folder.path(), base_url, &asked).await;
    assert_eq!(code, 0, "{said}");
}
