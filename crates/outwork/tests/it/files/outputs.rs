//! Outputs of sessions: handed over by the session's worker, listed for everybody who may see the session.

use super::*;

/// What `sha256sum` says of these bytes.
fn sha256(bytes: &[u8]) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

async fn hand_over(worker: &Api, session: &str, path: &str, hash: &str, bytes: &[u8]) -> Answer {
    let form = Form::new()
        .text("path", path.to_owned())
        .text("sha256", hash.to_owned())
        .part("file", Part::bytes(bytes.to_vec()).file_name("output"));
    worker
        .send_form(&format!("/v1/outwork/sessions/{session}/outputs"), form)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_become_files_of_their_session() {
    let settings = "[files]\nsession_outputs = 4\nsession_output_bytes = \"1MB\"\nmax_size = \"2MB\"\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    let api = &world.api;
    let (session, worker) = api.claimed(json!({})).await;
    let (other, stranger) = api.claimed(json!({})).await;
    let (first, second) = (b"# Report\n".as_slice(), b"# Report, again\n".as_slice());

    let made = hand_over(&worker, &session, "docs/report?.md", &sha256(first), first)
        .await
        .ok();
    assert_eq!(made["state"], "stored");
    assert_eq!(made["path"], "docs/report?.md");
    let file = made["file_id"].as_str().unwrap().to_owned();
    let again = hand_over(&worker, &session, "docs/report?.md", &sha256(first), first)
        .await
        .ok();
    assert_eq!(again, made);
    let changed = hand_over(&worker, &session, "docs/report?.md", &sha256(second), second)
        .await
        .ok();
    assert_ne!(changed["file_id"], made["file_id"]);
    let listed = api.get(&format!("/v1/files?scope_id={session}")).await.ok();
    let listed = listed["data"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["id"], file.as_str());
    assert_eq!(listed[1]["filename"], "report_.md");
    assert_eq!(listed[1]["mime_type"], "text/markdown");
    assert_eq!(listed[1]["downloadable"], true);
    assert_eq!(listed[1]["scope"], json!({ "id": session, "type": "session" }));
    assert_eq!(api.download(&file).await.text, "# Report\n");
    assert_eq!(
        api.get(&format!("/v1/files?scope_id={other}")).await.ok()["data"],
        json!([])
    );
    assert_eq!(blobs(world.server.data_dir()).len(), 2);

    // Kept back, with the reason; noted once however often it is said.
    let refused = json!({ "path": "keys.txt", "reason": "it holds a key", "size_bytes": 9, "sha256": sha256(b"k") });
    let path = format!("/v1/outwork/sessions/{session}/outputs");
    let noted = worker.post(&format!("{path}/refused"), refused.clone()).await.ok();
    assert_eq!(noted["state"], "refused");
    assert_eq!(worker.post(&format!("{path}/refused"), refused).await.ok(), noted);
    for who in [api, &worker] {
        let all = who.get(&path).await.ok();
        let states: Vec<&str> = all["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["state"].as_str().unwrap())
            .collect();
        assert_eq!(states, ["refused", "stored", "stored"]);
    }
    let page = api.get(&format!("{path}?limit=2")).await.ok();
    let rest = api
        .get(&format!("{path}?limit=2&page={}", page["next_page"].as_str().unwrap()))
        .await
        .ok();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);

    // What its owner deleted does not come back.
    api.delete(&format!("/v1/files/{file}")).await.ok();
    let deleted = hand_over(&worker, &session, "docs/report?.md", &sha256(first), first)
        .await
        .ok();
    assert_eq!(deleted["state"], "deleted");
    api.get(&format!("/v1/files/{file}")).await.refused(404, &[]);

    // Wrong ones, and those of others.
    hand_over(&worker, &session, "a", &sha256(b"other"), first)
        .await
        .refused(400, &["sha256"]);
    hand_over(&worker, &session, "a", "ABC", first)
        .await
        .refused(400, &["sha256"]);
    for bad in ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", ".", "a\nb"] {
        hand_over(&worker, &session, bad, &sha256(first), first)
            .await
            .refused(400, &["path"]);
    }
    hand_over(&stranger, &session, "a", &sha256(first), first)
        .await
        .refused(403, &[]);
    hand_over(&worker, &other, "a", &sha256(first), first)
        .await
        .refused(403, &[]);
    hand_over(api, &session, "a", &sha256(first), first)
        .await
        .refused(403, &[]);
    for bad in [
        json!({ "path": "../x", "reason": "x" }),
        json!({ "path": "x", "reason": "" }),
        json!({ "path": "x" }),
    ] {
        worker.post(&format!("{path}/refused"), bad).await.refused(400, &[]);
    }

    // Limits.
    let large = vec![b'x'; 1_100_000];
    hand_over(&worker, &session, "large", &sha256(&large), &large)
        .await
        .refused(400, &["session_output_bytes"]);
    hand_over(&worker, &session, "last", &sha256(first), first).await.ok();
    hand_over(&worker, &session, "more", &sha256(first), first)
        .await
        .refused(400, &["session_outputs"]);
    until_blobs(world.server.data_dir(), 2).await;

    // The session goes, its files stay.
    api.post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .ok();
    api.delete(&format!("/v1/sessions/{session}")).await.ok();
    api.get(&path).await.refused(404, &["session"]);
    let left = api.get(&format!("/v1/files?scope_id={session}")).await.ok();
    assert_eq!(left["data"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_output_at_the_same_time_is_one() {
    let world = World::start().await;
    let (session, worker) = world.api.claimed(json!({})).await;
    let bytes = vec![b'y'; 1_500_000];
    let hash = sha256(&bytes);
    let all =
        futures_util::future::join_all((0..6).map(|_| hand_over(&worker, &session, "a.bin", &hash, &bytes))).await;
    let ids: std::collections::BTreeSet<String> = all
        .into_iter()
        .map(|answer| answer.ok()["file_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1);
    until_blobs(world.server.data_dir(), 1).await;
    let file = ids.first().unwrap();
    assert!(world.api.download(file).await.text.as_bytes() == bytes);
}
