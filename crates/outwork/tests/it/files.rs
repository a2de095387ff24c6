//! Files over HTTP: what is taken, what is refused and leaves nothing, who gets what, and what a crash or a full disk
//! leaves of an upload.

pub mod command_line;
mod faults;
mod outputs;
mod resources;

use std::path::Path;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::world::api::id;
use crate::world::{Answer, Api, SCRIPT, SOON, ServerOptions, World, until};

const BOUNDARY: &str = "a-boundary-of-the-tests";

impl Api {
    /// Uploads these bytes under this name.
    pub async fn upload(&self, name: &str, bytes: impl Into<Vec<u8>>) -> Answer {
        let part = Part::bytes(bytes.into()).file_name(name.to_owned());
        self.send_form("/v1/files", Form::new().part("file", part)).await
    }

    pub async fn send_form(&self, path: &str, form: Form) -> Answer {
        Self::send(self.request(Method::POST, path).multipart(form)).await
    }

    /// Sends a form that was written by hand.
    async fn send_raw(&self, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self
            .request(Method::POST, "/v1/files")
            .header(CONTENT_TYPE, content_type);
        Self::send(request.body(body)).await
    }

    pub async fn download(&self, file: &str) -> Answer {
        self.get(&format!("/v1/files/{file}/content")).await
    }

    /// A worker's token for a session of a fresh environment, made with this body besides.
    pub async fn claimed(&self, more: Value) -> (String, Api) {
        let agent = self.agent(SCRIPT, json!([])).await;
        let environment = self.environment("self_hosted").await;
        let mut body = json!({ "agent": agent, "environment_id": environment });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let session = self.make("/v1/sessions", body).await;
        let worker = self.with_bearer(&self.environment_key(&environment).await);
        let (_, token) = crate::authorization::claim_and_hold(&worker, &environment).await;
        (session, self.with_bearer(&token))
    }
}

/// A part of a form that is written by hand.
fn part(head: &str, content: &str) -> String {
    format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

fn form(parts: &[String]) -> String {
    format!("{}--{BOUNDARY}--\r\n", parts.concat())
}

fn multipart() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// Every file below the folder of blobs, those that are not finished included.
fn blobs(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(data_dir.join("blobs"))
        .into_iter()
        .flatten()
        .flatten()
    {
        for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            found.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

async fn until_blobs(data_dir: &Path, wanted: usize) {
    until("the bytes that no file has are gone", 4 * SOON, || async {
        (blobs(data_dir).len() == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_its_upload_to_its_end() {
    let world = World::start().await;
    let api = &world.api;
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let made = api.upload("data.csv", bytes.clone()).await.ok();
    assert_eq!(made["type"], "file");
    assert_eq!(made["filename"], "data.csv");
    assert_eq!(made["mime_type"], "text/csv");
    assert_eq!(made["size_bytes"], 3_000_000);
    assert_eq!(made["downloadable"], false);
    assert!(made["scope"].is_null() && made["expires_at"].is_null());
    let file = id(&made);
    let path = format!("/v1/files/{file}");
    assert_eq!(api.get(&path).await.ok(), made);
    assert_eq!(blobs(world.server.data_dir()), [file.as_str()]);
    // As with the hosted service, what was uploaded is not to be had again.
    let refused = api.download(&file).await.refused(400, &[&file, "downloadable_uploads"]);
    assert_eq!(refused.body["error"]["details"]["error_code"], "file_not_downloadable");

    let deleted = api.delete(&path).await.ok();
    assert_eq!(deleted, json!({ "id": file, "type": "file_deleted" }));
    assert!(blobs(world.server.data_dir()).is_empty());
    api.get(&path).await.refused(404, &[&file]);
    api.delete(&path).await.refused(404, &[&file]);
    api.download(&file).await.refused(404, &[&file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_uploads_may_be_downloaded_they_come_back_byte_by_byte() {
    let settings = "[files]\ndownloadable_uploads = true\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    for size in [0usize, 1, 65_536, 1 << 20, (1 << 20) + 1, 5_000_001] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let made = world.api.upload("a \u{e4}\".bin", bytes.clone()).await;
        if made.status == 400 {
            // The name is refused and not changed.
            made.refused(400, &["name"]);
        } else {
            made.ok();
        }
        let made = world.api.upload("a \u{e4}.bin", bytes.clone()).await.ok();
        assert_eq!(made["size_bytes"], size);
        let request = world
            .api
            .request(Method::GET, &format!("/v1/files/{}/content", id(&made)));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/octet-stream");
        assert_eq!(header("content-length"), size.to_string());
        assert_eq!(header("x-content-type-options"), "nosniff");
        let disposition = header("content-disposition");
        assert!(
            disposition.starts_with("attachment;") && disposition.ends_with("filename*=UTF-8''a%20%C3%A4.bin"),
            "{disposition}"
        );
        assert!(
            response.bytes().await.unwrap() == bytes,
            "{size} bytes came back changed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_by_ids() {
    let world = World::start().await;
    let api = &world.api;
    let mut files = Vec::new();
    for number in 0..5 {
        files.push(id(&api.upload(&format!("{number}.txt"), "x").await.ok()));
    }
    let ids = |answer: &Value| -> Vec<String> { answer["data"].as_array().unwrap().iter().map(id).collect() };
    let first = api.get("/v1/files?limit=3").await.ok();
    assert_eq!(ids(&first), [files[4].clone(), files[3].clone(), files[2].clone()]);
    let next = first["next_page"].as_str().unwrap();
    let second = api.get(&format!("/v1/files?limit=3&page={next}")).await.ok();
    assert_eq!(ids(&second), [files[1].clone(), files[0].clone()]);
    assert!(second["next_page"].is_null());

    let some = format!(
        "/v1/files?ids[]={}&ids[]={}&ids[]=file_none&ids[]={}",
        files[1], files[3], files[1]
    );
    assert_eq!(ids(&api.get(&some).await.ok()), [files[3].clone(), files[1].clone()]);
    api.get(&format!("{some}&limit=2"))
        .await
        .refused(400, &["ids", "limit"]);
    let many: Vec<String> = (0..101).map(|n| format!("ids[]=file_{n:03}")).collect();
    api.get(&format!("/v1/files?{}", many.join("&")))
        .await
        .refused(400, &["ids", "100"]);
    for query in [
        "limit=0",
        "limit=1001",
        "page=x",
        "ids[]=",
        "after_id=file_1",
        "scope=x",
    ] {
        api.get(&format!("/v1/files?{query}")).await.refused(400, &[]);
    }
    assert_eq!(
        ids(&api.get("/v1/files?scope_id=sesn_none").await.ok()),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_keep_their_last_part() {
    let world = World::start().await;
    for (head, wanted) in [
        ("name=\"file\"; filename=\"../../etc/passwd\"", Ok("passwd")),
        ("name=\"file\"; filename=\"C:\\\\Users\\\\a.txt\"", Ok("a.txt")),
        ("name=\"file\"; filename=\"/a/b/c.md\"", Ok("c.md")),
        ("name=\"file\"; filename=\"\"", Ok("unnamed.json")),
        ("name=\"file\"", Ok("unnamed.json")),
        ("name=\"file\"; filename=\"a/..\"", Err("..")),
        ("name=\"file\"; filename=\"a:b\"", Err("':'")),
        ("name=\"file\"; filename=\"a\tb\"", Err("\\t")),
    ] {
        let body = form(&[part(&format!("{head}\r\nContent-Type: application/json"), "{}")]);
        let answer = world.api.send_raw(&multipart(), body).await;
        match wanted {
            Ok(name) => assert_eq!(answer.ok()["filename"], name, "{head}"),
            Err(named) => drop(answer.refused(400, &["name", named])),
        }
    }
    let long = "x".repeat(256);
    world.api.upload(&long, "x").await.refused(400, &["255"]);
    world.api.upload(&"\u{e4}".repeat(255), "x").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_wrong_are_refused_and_leave_nothing() {
    let settings = "[files]\nmax_size = \"1MiB\"\n[limits]\nbody = \"64KiB\"\n";
    let world = World::start_with(ServerOptions::default().settings(settings)).await;
    let api = &world.api;
    let file = part("name=\"file\"; filename=\"a.txt\"", "content");
    let expires = |text: &str| part("name=\"expires_in_seconds\"", text);
    let good = form(std::slice::from_ref(&file));
    let wrong_boundary = "multipart/form-data; boundary=another";
    let mut cut = good.clone();
    cut.truncate(cut.len() - 30);
    for (content_type, body, named) in [
        ("application/json".to_owned(), "{}".to_owned(), "multipart/form-data"),
        ("multipart/form-data".to_owned(), good.clone(), "boundary"),
        (wrong_boundary.to_owned(), good.clone(), "boundary"),
        (multipart(), cut, "cut off"),
        (multipart(), String::new(), "cut off"),
        (multipart(), form(&[]), "file"),
        (multipart(), form(&[file.clone(), file.clone()]), "more than once"),
        (
            multipart(),
            form(&[file.clone(), part("name=\"purpose\"", "agent")]),
            "purpose",
        ),
        (
            multipart(),
            form(&[file.clone(), part("filename=\"x\"", "agent")]),
            "unknown part",
        ),
        (multipart(), form(&[expires("3599"), file.clone()]), "3600"),
        (multipart(), form(&[file.clone(), expires("7776001")]), "7776000"),
        (multipart(), form(&[file.clone(), expires("soon")]), "soon"),
        (
            multipart(),
            form(&[expires("3600"), expires("3600"), file.clone()]),
            "more than once",
        ),
        (multipart(), form(&[expires(&"9".repeat(5000)), file.clone()]), "4096"),
        (multipart(), "x".repeat(3 << 20), "form"),
    ] {
        let answer = api.send_raw(&content_type, body).await;
        let status = answer.status;
        if status == 413 {
            // A body that is nothing but preamble is above the limit, too.
            answer.refused(413, &["bytes"]);
        } else {
            answer.refused(400, &[named]);
        }
    }
    let bytes = vec![b'x'; (1 << 20) + 1];
    api.upload("large", bytes.clone()).await.refused(413, &["1048576"]);
    // The same where the length is not said beforehand.
    let pieces = bytes
        .chunks(10_000)
        .map(|p| Ok::<_, std::io::Error>(p.to_vec()))
        .collect::<Vec<_>>();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let unsaid = Form::new().part("file", Part::stream(stream).file_name("large"));
    api.send_form("/v1/files", unsaid).await.refused(413, &["1048576"]);
    api.post("/v1/files?purpose=x", json!({}))
        .await
        .refused(400, &["purpose"]);

    assert_eq!(api.get("/v1/files").await.ok()["data"], json!([]));
    until_blobs(world.server.data_dir(), 0).await;
    // The limit of JSON bodies is another one, and so the largest file goes through.
    let largest = api.upload("largest", vec![b'x'; 1 << 20]).await.ok();
    assert_eq!(largest["size_bytes"], 1 << 20);
    let timed = form(&[file, expires("3600")]);
    let timed = api.send_raw(&multipart(), timed).await.ok();
    assert!(timed["expires_at"].as_str().unwrap() > timed["created_at"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_no_file_of_another_workspace() {
    let world = World::start().await;
    let file = id(&world.api.upload("a.txt", "mine").await.ok());
    let workspace = world.api.make("/v1/workspaces", json!({ "name": "another" })).await;
    let wish = json!({ "name": "stranger", "role": "admin", "workspace_id": workspace });
    let made = world.api.post("/v1/api_keys", wish).await.ok();
    let stranger = world.api.with_key(made["key"].as_str().unwrap());
    let none = "file_0123456789";
    for path in ["/v1/files/{}", "/v1/files/{}/content"] {
        let there = stranger.get(&path.replace("{}", &file)).await.refused(404, &[&file]);
        let nowhere = stranger.get(&path.replace("{}", none)).await.refused(404, &[none]);
        assert_eq!(there.message().replace(&file, none), nowhere.message());
    }
    stranger
        .delete(&format!("/v1/files/{file}"))
        .await
        .refused(404, &[&file]);
    assert_eq!(stranger.get("/v1/files").await.ok()["data"], json!([]));
    assert_eq!(
        stranger.get(&format!("/v1/files?ids[]={file}")).await.ok()["data"],
        json!([])
    );

    // Nor does it get into a session of theirs.
    let agent = stranger.agent(SCRIPT, json!([])).await;
    let environment = stranger.environment("self_hosted").await;
    let body = |file: &str| {
        let resources = json!([{ "type": "file", "file_id": file }]);
        json!({ "agent": agent, "environment_id": environment, "resources": resources })
    };
    stranger.post("/v1/sessions", body(&file)).await.refused(404, &[&file]);
    stranger.post("/v1/sessions", body(none)).await.refused(404, &[none]);
    world.api.get(&format!("/v1/files/{file}")).await.ok();
}
