//! `outwork files`

use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::world::ADMIN_KEY;
use crate::world::process::BINARY;

pub async fn outwork(folder: &Path, base_url: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(words)
        .current_dir(folder)
        .env("ANTHROPIC_BASE_URL", base_url)
        .env("OUTWORK_BASE_URL", base_url)
        .env("ANTHROPIC_API_KEY", ADMIN_KEY)
        .env("OUTWORK_API_KEY", ADMIN_KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    timeout(SOON, child.wait_with_output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_up_and_come_down() {
    let settings = "[files]\ndownloadable_uploads = true\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    let folder = TempDir::new().unwrap();
    let run = async |words: &[&str], input: &str| outwork(folder.path(), world.api.base_url(), words, input).await;
    let json_of = |output: &Output| -> Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    std::fs::write(folder.path().join("a.csv"), "a,b\n".repeat(500_000)).unwrap();
    let made = json_of(&run(&["files", "upload", "a.csv", "--expires-in", "2h", "--json"], "").await);
    assert_eq!(made["filename"], "a.csv");
    assert_eq!(made["size_bytes"], 2_000_000);
    assert!(made["expires_at"].is_string());
    let piped = &[
        "file",
        "upload",
        "-",
        "--name",
        "piped",
        "--type",
        "text/markdown",
        "--json",
    ];
    let piped = json_of(&run(piped, "# piped").await);
    assert_eq!(piped["mime_type"], "text/markdown");
    let listed = run(&["files", "list"], "").await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("a.csv") && listed.contains("piped"), "{listed}");
    let (file, piped) = (id(&made), id(&piped));
    assert_eq!(json_of(&run(&["files", "get", &file, "--json"], "").await), made);

    let there = run(&["files", "download", &file], "").await;
    assert!(!there.status.success());
    assert!(String::from_utf8_lossy(&there.stderr).contains("--force"));
    assert!(
        run(&["files", "download", &file, "--output", "b.csv"], "")
            .await
            .status
            .success()
    );
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("b.csv") == read("a.csv"));
    assert!(run(&["files", "download", &piped], "").await.status.success());
    assert_eq!(read("piped"), b"# piped");
    assert_eq!(
        run(&["files", "download", &piped, "-o", "-"], "").await.stdout,
        b"# piped"
    );

    assert!(run(&["files", "delete", &file], "").await.status.success());
    let gone = run(&["files", "download", &file, "--output", "c.csv"], "").await;
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains(&file));
    assert!(!folder.path().join("c.csv").exists() && !folder.path().join("c.csv.part").exists());
}
