//! The play of the demonstration, with real tools on a real folder.

use std::path::Path;
use std::process::Command;

use outwork_rehearsal::{DEMO_CHECK, DEMO_TASK, Scenario, demo_project};
use regex::Regex;
use serde_json::{Value, json};

use crate::client::{Server, go_on, request, text_of, tool};

fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, contents) in demo_project() {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    folder
}

fn shell(folder: &Path, command: &str) -> (String, bool) {
    let output = Command::new("sh")
        .arg("-c")
        .arg(command)
        .current_dir(folder)
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), !output.status.success())
}

fn python_files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            python_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "py") {
            found.push(path.display().to_string());
        }
    }
}

/// The results have the form of the agent toolset: absolute paths, `path:line:text`, files without line numbers.
fn run(folder: &Path, call: &Value) -> (String, bool) {
    let text = |field: &str| call["input"][field].as_str().unwrap().to_owned();
    let mut files = Vec::new();
    python_files(folder, &mut files);
    match call["name"].as_str().unwrap() {
        "bash" => shell(folder, &text("command")),
        "glob" => (files.join("\n"), false),
        "grep" => {
            let pattern = Regex::new(&text("pattern")).unwrap();
            let mut hits = Vec::new();
            for file in files {
                let contents = std::fs::read_to_string(&file).unwrap();
                let lines = contents.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
                hits.extend(lines.map(|(number, line)| format!("{file}:{}:{line}", number + 1)));
            }
            (hits.join("\n"), false)
        }
        "read" => (std::fs::read_to_string(text("file_path")).unwrap(), false),
        "edit" => {
            let contents = std::fs::read_to_string(text("file_path")).unwrap();
            assert_eq!(contents.matches(&text("old_string")).count(), 1);
            std::fs::write(
                text("file_path"),
                contents.replace(&text("old_string"), &text("new_string")),
            )
            .unwrap();
            ("edited the file (1 replacement(s))".into(), false)
        }
        other => panic!("no tool {other}"),
    }
}

async fn play(folder: &Path, tools: impl Fn(&Value) -> (String, bool)) -> (Vec<String>, String) {
    let server = Server::with(Scenario::demo()).await;
    let mut conversation = request("rehearsal", json!([{"role": "user", "content": DEMO_TASK}]));
    conversation["tools"] = ["bash", "read", "write", "edit", "glob", "grep"]
        .map(tool)
        .to_vec()
        .into();
    conversation["thinking"] = json!({"type": "adaptive"});
    let mut used = Vec::new();
    for _ in 0..20 {
        let message = server.message(&conversation).await;
        let calls = message["content"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|block| block["name"].as_str());
        used.extend(calls.map(str::to_owned));
        if message["stop_reason"] != "tool_use" {
            return (used, text_of(&message));
        }
        conversation = go_on(&conversation, &message, &tools);
    }
    panic!("the play does not end in {}", folder.display());
}

#[tokio::test]
async fn the_demo_finds_and_mends_the_fault() {
    let folder = project();
    assert!(shell(folder.path(), DEMO_CHECK).1, "the check must fail before");
    let (used, text) = play(folder.path(), |call| run(folder.path(), call)).await;
    assert_eq!(used, ["bash", "glob", "grep", "read", "edit", "bash"]);
    assert!(
        text.contains("passes now: it ran 5 tests") && text.contains("FAILED (failures=1, errors=1)"),
        "{text}"
    );
    assert!(
        text.contains("parcels/quote.py") && text.contains("if grams <= limit:"),
        "{text}"
    );
    assert!(!shell(folder.path(), DEMO_CHECK).1, "the check must pass afterwards");
}

#[tokio::test]
async fn the_demo_does_not_pretend() {
    let folder = project();
    let (_, text) = play(folder.path(), |call| match call["name"].as_str() {
        Some("edit") => ("edited".into(), false),
        _ => run(folder.path(), call),
    })
    .await;
    assert!(
        text.starts_with("The check still fails") && text.contains("680 != 420"),
        "{text}"
    );
    let (used, text) = play(folder.path(), |_| ("nothing to see".into(), false)).await;
    assert_eq!(used, ["bash"]);
    assert!(text.contains("expected a tool result"), "{text}");
    let (_, text) = play(folder.path(), |call| match call["name"].as_str() {
        Some("edit") => ("permission denied".into(), true),
        _ => run(folder.path(), call),
    })
    .await;
    assert!(text.contains("permission denied"), "{text}");
}
