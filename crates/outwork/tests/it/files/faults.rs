//! What a crash, a full disk or a client that goes away leaves of an upload: no file, and soon no bytes.

use std::path::Path;

use futures_util::StreamExt;
use outwork_store::{BlobPlace, Blobs, NewFile, Options, Store};
use outwork_wire::Time;
use outwork_wire::id::FileId;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::world::{MODEL_KEY, Server, rehearsal};

/// An upload that goes on for as long as it is fed.
struct Feed {
    pieces: mpsc::Sender<Vec<u8>>,
    answer: tokio::task::JoinHandle<Result<Answer, reqwest::Error>>,
}

impl Feed {
    async fn start(api: &Api) -> Self {
        let (pieces, receiver) = mpsc::channel::<Vec<u8>>(4);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let piece = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(piece), receiver))
        });
        let request = api
            .request(Method::POST, "/v1/files")
            .header(CONTENT_TYPE, multipart())
            .body(reqwest::Body::wrap_stream(stream.boxed()));
        let answer = tokio::spawn(Api::try_send(request));
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n");
        pieces.send(head.into_bytes()).await.unwrap();
        Self { pieces, answer }
    }

    /// Feeds it until there is something on disk.
    async fn until_on_disk(&self, data_dir: &Path) {
        for _ in 0..8 {
            self.pieces.send(vec![b'x'; 512 << 10]).await.unwrap();
        }
        until("a piece of the upload is on disk", SOON, || async {
            (!blobs(data_dir).is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_an_upload_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let model = rehearsal().await;
    let options = ServerOptions {
        data_dir: Some(data_dir.clone()),
        ..ServerOptions::default()
    };
    let options = options.model(&model.base_url(), MODEL_KEY);
    let mut server = Server::start(options.clone()).await;
    let api = server.api();
    let kept = id(&api.upload("kept.txt", "these are kept").await.ok());
    let feed = Feed::start(&api).await;
    for _ in 0..8 {
        feed.pieces.send(vec![b'x'; 512 << 10]).await.unwrap();
    }
    until("a piece of the upload is on disk", SOON, || async {
        (blobs(&data_dir).len() == 2).then_some(())
    })
    .await;
    server.kill().await;
    assert!(feed.answer.await.unwrap().is_err());
    assert_eq!(blobs(&data_dir).len(), 2, "the crash was too late to show anything");

    let server = Server::start(options).await;
    until_blobs(&data_dir, 1).await;
    let listed = server.api().get("/v1/files").await.ok();
    assert_eq!(
        listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(),
        std::slice::from_ref(&kept)
    );
    assert_eq!(blobs(&data_dir), [kept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing() {
    let world = World::start().await;
    let data_dir = world.server.data_dir().to_owned();
    let feed = Feed::start(&world.api).await;
    feed.until_on_disk(&data_dir).await;
    feed.answer.abort();
    until_blobs(&data_dir, 0).await;
    assert_eq!(world.api.get("/v1/files").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_is_given_up() {
    let settings = "[limits]\nbody_timeout = \"1s\"\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    let data_dir = world.server.data_dir().to_owned();
    let feed = Feed::start(&world.api).await;
    feed.until_on_disk(&data_dir).await;
    feed.answer.await.unwrap().unwrap().refused(408, &["1 s"]);
    until_blobs(&data_dir, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_uploads_and_recovers() {
    let model = rehearsal().await;
    let folder = TempDir::new().unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=8m,mode=0700 tmpfs {folder} && mkdir -m 700 {folder}/data && exec \"$@\"",
        folder = folder.path().display()
    );
    let mut wrapper: Vec<String> = vec!["unshare".into(), "--mount".into()];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--map-root-user".to_owned(), "--user".to_owned()]);
    }
    wrapper.extend(["sh".into(), "-c".into(), mount, "sh".into()]);
    let options = ServerOptions {
        wrapper,
        data_dir: Some(folder.path().join("data")),
        ..ServerOptions::default()
    };
    let server = Server::start(options.model(&model.base_url(), MODEL_KEY)).await;
    let api = server.api();
    let small = api.upload("small", vec![b'x'; 1 << 20]).await.ok();
    for _ in 0..2 {
        let answer = api.upload("large", vec![b'x'; 12 << 20]).await;
        assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
        answer.refused(503, &["try again"]);
    }
    let inside = format!(
        "/proc/{}/root{}",
        server.pid().as_raw_nonzero(),
        folder.path().join("data").display()
    );
    until_blobs(Path::new(&inside), 1).await;
    let listed = api.get("/v1/files").await.ok();
    assert_eq!(listed["data"], json!([small]));
    api.upload("small again", vec![b'x'; 1 << 20]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_whose_time_is_over_lose_their_bytes() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let (over, loose) = (FileId::fresh(), FileId::fresh());
    {
        let dir = data_dir.clone();
        let store = tokio::task::spawn_blocking(|| Store::open(Options::new(dir)).unwrap())
            .await
            .unwrap();
        let blobs = Blobs::open(&BlobPlace::Folder(data_dir.join("blobs"))).unwrap();
        let workspace = store.default_workspace().clone();
        let now = Time::now();
        let keep = async |file: &FileId| {
            let mut writer = blobs.writer(&format!("xx/{file}"));
            store.note_loose_blob(writer.key(), now).await.unwrap();
            writer.push(b"bytes").await.unwrap();
            writer.finish().await.unwrap()
        };
        let written = keep(&over).await;
        let new = NewFile {
            id: over.clone(),
            filename: "a.txt".into(),
            mime_type: "text/plain".into(),
            size_bytes: written.size,
            sha256: written.sha256.clone(),
            downloadable: true,
            scope: None,
            blob: written.key().to_owned(),
            expires_at: Some(now),
        };
        store
            .create_file(&workspace, new, now.plus_seconds(-3600))
            .await
            .unwrap();
        // A crash between the bytes and the row.
        drop(keep(&loose).await);
        store.close().await;
    }
    assert_eq!(blobs(&data_dir).len(), 2);
    let options = ServerOptions {
        data_dir: Some(data_dir.clone()),
        ..ServerOptions::default()
    };
    let server = Server::start(options).await;
    let api = server.api();
    let refused = api
        .download(over.as_str())
        .await
        .refused(404, &[over.as_str(), "expired"]);
    assert_eq!(refused.body["error"]["details"]["error_code"], "file_expired");
    until_blobs(&data_dir, 0).await;
    let shown = api.get(&format!("/v1/files/{over}")).await.ok();
    assert_eq!(shown["size_bytes"], 5);
    api.download(loose.as_str()).await.refused(404, &[loose.as_str()]);

    let agent = api.agent(SCRIPT, json!([])).await;
    let environment = api.environment("self_hosted").await;
    let resources = json!([{ "type": "file", "file_id": over }]);
    let body = json!({ "agent": agent, "environment_id": environment, "resources": resources });
    api.post("/v1/sessions", body)
        .await
        .refused(400, &["resources.0", "expired"]);
}
