//! Registries that others wrote: one in this process, and the reference implementation where it is installed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use axum_of_registry::extract::DefaultBodyLimit;
use container_registry::ContainerRegistry;
use outwork_image::{Digest, ImageDigest, Images};
use sec::Secret;
use secrecy::SecretString;

use crate::make::{Arena, INDEX, Layer, MANIFEST, Made, Tar, get};

fn image() -> Made {
    let files = (0..200).fold(Tar::default().dir("d"), |tar, n| {
        tar.file(&format!("d/f{n}"), &[n as u8; 3000])
    });
    Made::of(vec![
        Layer::gzip(files.end()),
        Layer::gzip(Tar::default().file("d/.wh.f7", b"").file("top", b"top").end()),
    ])
}

/// Pushes by the distribution specification: blobs first, then the manifest.
async fn push(address: &str, password: Option<&str>, made: &Made) {
    let http = reqwest::Client::new();
    let auth = |request: reqwest::RequestBuilder| match password {
        Some(password) => request.basic_auth("user", Some(password)),
        None => request,
    };
    let base = format!("http://{address}/v2/team/app");
    for (digest, bytes) in made.blobs.iter().filter(|(digest, _)| **digest != made.manifest) {
        let begun = auth(http.post(format!("{base}/blobs/uploads/"))).send().await.unwrap();
        assert_eq!(begun.status(), 202);
        let at = begun.headers()["location"].to_str().unwrap();
        let at = reqwest::Url::parse(&base).unwrap().join(at).unwrap();
        let sent = auth(http.patch(at))
            .header("content-type", "application/octet-stream")
            .body(bytes.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 202);
        let mut at = reqwest::Url::parse(&base)
            .unwrap()
            .join(sent.headers()["location"].to_str().unwrap())
            .unwrap();
        at.query_pairs_mut().append_pair("digest", &digest.to_string());
        assert_eq!(auth(http.put(at)).send().await.unwrap().status(), 201);
    }
    put(
        &auth,
        &format!("{base}/manifests/1"),
        MANIFEST,
        made.manifest_bytes().to_vec(),
    )
    .await;
}

async fn put(auth: &impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder, at: &str, kind: &str, body: Vec<u8>) {
    let request = reqwest::Client::new().put(at).header("content-type", kind).body(body);
    assert_eq!(auth(request).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_registry_in_this_process() {
    let (arena, storage, made) = (Arena::new(), tempfile::tempdir().unwrap(), image());
    let door = HashMap::from([("user".to_owned(), Secret::new("pass".to_owned()))]);
    let registry = ContainerRegistry::builder()
        .storage(storage.path())
        .auth_provider(Arc::new(door))
        .build()
        .unwrap();
    let app = registry.make_router().layer(DefaultBodyLimit::max(1 << 24));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move { axum_of_registry::serve(listener, app).await });
    push(&host, Some("pass"), &made).await;
    let reference = format!("{host}/team/app:1@{}", made.manifest);
    get(&Images::open(arena.options()).unwrap(), &reference)
        .await
        .unwrap_err();
    let mut options = arena.options();
    options.credentials.add(&host, "user", SecretString::from("pass"));
    let image = get(&Images::open(options.clone()).unwrap(), &reference).await.unwrap();
    assert_eq!(std::fs::read(image.layers[1].join("d/f9")).unwrap(), [9; 3000]);
    // By tag it means the same.
    options.allow_unpinned = true;
    let tagged = get(&Images::open(options).unwrap(), &format!("{host}/team/app:1"))
        .await
        .unwrap();
    assert_eq!(
        (tagged.digest, tagged.layers),
        (ImageDigest::Manifest(made.manifest), image.layers.clone())
    );
    server.abort();
    arena.assert_untouched();
}

/// Ends its process when the test ends, however it ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "needs the reference implementation: the program `docker-registry`, or its path in OUTWORK_TEST_REGISTRY"]
async fn the_reference_implementation() {
    let (arena, storage, made) = (Arena::new(), tempfile::tempdir().unwrap(), image());
    // A port that was free a moment ago; the program cannot say which one it took.
    let address: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let configuration = storage.path().join("config.yml");
    let root = storage.path().join("data");
    std::fs::write(
        &configuration,
        format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            root.display()
        ),
    )
    .unwrap();
    let program = std::env::var("OUTWORK_TEST_REGISTRY").unwrap_or_else(|_| "docker-registry".into());
    let child = std::process::Command::new(program)
        .arg("serve")
        .arg(&configuration)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(running.0.try_wait().unwrap().is_none(), "the registry ended");
        tokio::task::yield_now().await;
    }
    push(&address.to_string(), None, &made).await;
    let index = Made::index(&[(&made, Some(("linux", &outwork_image::Platform::here().architecture)))]);
    let digest = Digest::of(&index);
    put(
        &|request| request,
        &format!("http://{address}/v2/team/app/manifests/all"),
        INDEX,
        index,
    )
    .await;
    let images = Images::open(arena.options()).unwrap();
    for digest in [made.manifest, digest] {
        let image = get(&images, &format!("{address}/team/app@{digest}")).await.unwrap();
        assert_eq!(image.digest, ImageDigest::Manifest(made.manifest));
        assert_eq!(std::fs::read(image.layers[1].join("d/f9")).unwrap(), [9; 3000]);
    }
    arena.assert_untouched();
}
