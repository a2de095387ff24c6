//! `outwork vaults`: secrets from standard input and files only.

use serde_json::{Value, json};

use super::{MARK, outwork, said};
use crate::world::{ADMIN_KEY, SCRIPT, Server, ServerOptions};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_secrets_from_standard_input_and_files_only() {
    let server = Server::start(ServerOptions::default()).await;
    let api = server.api();
    let variables = [("OUTWORK_BASE_URL", server.base_url()), ("OUTWORK_API_KEY", ADMIN_KEY)];
    let run = async |words: &[&str], input: &str| {
        let output = outwork(words, input, &variables).await;
        let said = said(&output);
        assert!(!said.contains(MARK), "{words:?}: {said}");
        (output.status.success(), said)
    };
    let json_of = async |words: &[&str], input: &str| {
        let (worked, said) = run(&[words, &["--json"]].concat(), input).await;
        assert!(worked, "{words:?}: {said}");
        serde_json::from_str::<Value>(said.lines().next().unwrap()).unwrap()
    };
    let vault = json_of(&["vaults", "create", "--name", "Alice"], "").await;
    let vault = vault["id"].as_str().unwrap();
    let create = ["vaults", "credentials", "create", vault];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    let server_url = "https://mcp.example.com/mcp";
    let bearer = json_of(&with(&["--mcp-server", server_url, "--name", "mine"]), "token-s3cr3t\n").await;
    assert_eq!(bearer["auth"]["mcp_server_url"], server_url);
    assert_eq!(bearer["display_name"], "mine");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "value-s3cr3t\n").unwrap();
    let from_file = [
        "--variable",
        "KEY",
        "--host",
        "api.example.com",
        "--secret-file",
        file.path().to_str().unwrap(),
    ];
    let value = json_of(&[&create[..], &from_file].concat(), "").await;
    assert_eq!(
        value["auth"]["networking"],
        json!({ "type": "limited", "allowed_hosts": ["api.example.com"] })
    );
    let auth = json!({ "type": "mcp_oauth", "access_token": "at-s3cr3t", "mcp_server_url": "https://o.example/mcp" });
    let oauth = json_of(&with(&["--auth-file", "-"]), &auth.to_string()).await;
    assert_eq!(oauth["auth"]["type"], "mcp_oauth");

    let (worked, said) = run(&["vaults", "credentials", "list", vault], "").await;
    assert!(worked && said.contains("KEY") && said.contains(server_url), "{said}");
    let id = bearer["id"].as_str().unwrap();
    let (worked, said) = run(&["vaults", "credentials", "replace-secret", vault, id], "new-s3cr3t").await;
    assert!(worked, "{said}");
    let (worked, said) = run(&["vaults", "credentials", "show", vault, id], "").await;
    assert!(worked && said.contains("static_bearer"), "{said}");
    for (words, input, named) in [
        (with(&["--mcp-server", server_url]), "", "empty"),
        (with(&["--mcp-server", server_url]), "t-s3cr3t", "mcp_server_url"),
        (with(&["--auth-file", "-"]), "{ s3cr3t", "line 1"),
        (with(&[]), "", "--mcp-server"),
        (with(&["--host", "x"]), "", "--variable"),
    ] {
        let (worked, said) = run(&words, input).await;
        assert!(!worked && said.contains(named), "{words:?}: {said}");
    }
    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let session = json_of(
        &[
            "sessions",
            "create",
            "--agent",
            &agent,
            "--environment",
            &environment,
            "--vault",
            vault,
        ],
        "",
    )
    .await;
    assert_eq!(session["vault_ids"], json!([vault]));
    for words in [
        &["vaults", "credentials", "archive", vault, id][..],
        &["vaults", "credentials", "delete", vault, id],
        &["vaults", "archive", vault],
        &["vaults", "show", vault],
        &["vaults", "ls", "--include-archived"],
        &["vaults", "delete", vault],
    ] {
        let (worked, said) = run(words, "").await;
        assert!(
            worked && said.contains(if words.contains(&id) { id } else { vault }),
            "{words:?}: {said}"
        );
    }
}
