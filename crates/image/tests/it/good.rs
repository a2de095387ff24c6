//! Images as they should be: layouts, archives, folders; what their layers look like afterwards.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use outwork_image::{Digest, Error, ImageDigest, Images, Platform};
use serde_json::json;

use crate::make::{Arena, Layer, Made, Tar, get, gzip, zstd};

fn is_whiteout(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

#[tokio::test]
async fn every_packing_gives_the_same() {
    for layer in [Layer::plain, Layer::gzip, Layer::zstd] {
        let arena = Arena::new();
        let long = format!("{}/file", "folder/".repeat(30));
        let tar = Tar::default()
            .dir("./")
            .dir("./etc/")
            .mode("./etc/run.sh", 0o755, b"#!/bin/sh\n")
            .long(&long)
            .file("short", b"long")
            .pax(&[("path", "etc/\u{e4}.txt"), ("mtime", "1600000000.5")])
            .file("short", b"pax")
            .link("bin", "usr/bin")
            .hard("again", "etc/run.sh")
            .sparse("holes", &[(4096, b"data"), (100_000, b"more")], 200_000)
            .file("double", b"first")
            .file("double", b"second");
        let made = Made::of(vec![layer(tar.end())]);
        let image = arena.unpack(arena.options(), &made).await.unwrap();
        let root = &image.layers[0];
        assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"long");
        assert_eq!(std::fs::read(root.join("etc/\u{e4}.txt")).unwrap(), b"pax");
        assert_eq!(
            std::fs::metadata(root.join("etc/\u{e4}.txt")).unwrap().mtime(),
            1_600_000_000
        );
        assert_eq!(std::fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(std::fs::read(root.join("double")).unwrap(), b"second");
        let (one, two) = (
            std::fs::metadata(root.join("again")).unwrap(),
            std::fs::metadata(root.join("etc/run.sh")).unwrap(),
        );
        assert_eq!(
            (one.ino(), one.mode() & 0o7777, one.mtime()),
            (two.ino(), 0o755, 1_700_000_000)
        );
        assert_eq!(std::fs::metadata(root.join("etc")).unwrap().mtime(), 1_700_000_000);
        let holes = std::fs::read(root.join("holes")).unwrap();
        assert_eq!(
            (holes.len(), &holes[4096..4100], &holes[100_000..100_004]),
            (200_000, &b"data"[..], &b"more"[..])
        );
        assert_eq!(holes.iter().filter(|byte| **byte != 0).count(), 8);
        assert_eq!(image.digest, ImageDigest::Manifest(made.manifest));
        assert_eq!(
            image.config.env,
            [("PATH".into(), "/bin".into()), ("GREETING".into(), "a=b".into())]
        );
        assert_eq!(
            (image.config.workdir.as_deref(), image.config.user.as_deref()),
            (Some("/work"), Some("1000:1000"))
        );
        arena.assert_untouched();
    }
}

#[tokio::test]
async fn whiteouts_say_what_a_layer_takes_away() {
    let arena = Arena::new();
    let below = Tar::default()
        .dir("d")
        .file("d/old", b"1")
        .dir("d/sub")
        .file("d/sub/x", b"1")
        .file("gone", b"1")
        .dir("keep")
        .file("keep/a", b"1");
    // The folder's own new file comes before the mark that hides the old ones: order does not matter.
    let above = Tar::default()
        .file("d/new", b"2")
        .file("d/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .file(".wh.never", b"")
        .file("keep/b", b"2");
    let again = Tar::default()
        .file(".wh.d", b"")
        .dir("d")
        .file("d/third", b"3")
        .file("gone", b"back");
    let made = Made::of(vec![
        Layer::gzip(below.end()),
        Layer::gzip(above.end()),
        Layer::zstd(again.end()),
    ]);
    let image = arena.unpack(arena.options(), &made).await.unwrap();
    let [third, second, first] = image.layers.as_slice() else {
        panic!("three layers, uppermost first")
    };
    assert!(first.join("d/old").is_file());
    assert!(
        is_whiteout(&second.join("d/old")) && is_whiteout(&second.join("d/sub")) && is_whiteout(&second.join("gone"))
    );
    assert!(!second.join("never").exists() && second.join("d/new").is_file() && !second.join("keep/a").exists());
    assert!(is_whiteout(&third.join("d/new")) && third.join("d/third").is_file());
    assert!(
        std::fs::symlink_metadata(third.join("d/old")).is_err(),
        "what is gone already is not taken away twice"
    );
    assert_eq!(std::fs::read(third.join("gone")).unwrap(), b"back");
}

#[tokio::test]
async fn layers_go_through_links_of_layers_below() {
    let arena = Arena::new();
    let below = Tar::default()
        .dir("usr")
        .entry(b'5', b"usr/lib", b"", 0o711, b"")
        .file("usr/lib/a", b"1")
        .link("lib", "usr/lib");
    let above = Tar::default()
        .file("lib/b", b"2")
        .hard("lib/c", "lib/a")
        .file("lib/.wh.missing", b"");
    let made = Made::of(vec![Layer::gzip(below.end()), Layer::gzip(above.end())]);
    let image = arena.unpack(arena.options(), &made).await.unwrap();
    let top = &image.layers[0];
    assert_eq!(std::fs::read(top.join("usr/lib/b")).unwrap(), b"2");
    assert!(
        std::fs::symlink_metadata(top.join("lib")).is_err(),
        "the link of the layer below is not hidden"
    );
    let (a, c) = (
        std::fs::metadata(top.join("usr/lib/a")).unwrap(),
        std::fs::metadata(top.join("usr/lib/c")).unwrap(),
    );
    assert_eq!(
        a.ino(),
        c.ino(),
        "a file of the layer below was brought up for its second name"
    );
    assert_eq!(
        std::fs::metadata(top.join("usr/lib")).unwrap().mode() & 0o7777,
        0o711,
        "a folder keeps its mode in each layer"
    );
}

#[tokio::test]
async fn an_archive_may_lack_its_end_marker() {
    let arena = Arena::new();
    let image = arena
        .unpack(
            arena.options(),
            &Made::of(vec![Layer::gzip(Tar::default().file("a", b"x").open())]),
        )
        .await
        .unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("a")).unwrap(), b"x");
}

#[tokio::test]
async fn a_base_is_shared() {
    let arena = Arena::new();
    let base = Layer::gzip(Tar::default().file("base", b"1").end());
    let one = Made::of(vec![base.clone(), Layer::gzip(Tar::default().file("one", b"1").end())]);
    let two = Made::of(vec![base, Layer::gzip(Tar::default().file("two", b"2").end())]);
    let first = arena.unpack(arena.options(), &one).await.unwrap();
    let second = arena.unpack(arena.options(), &two).await.unwrap();
    assert_eq!(first.layers[1], second.layers[1]);
    assert_ne!(first.layers[0], second.layers[0]);
    assert_eq!(arena.kept_layers(), 3);
}

#[tokio::test]
async fn archives_of_layouts() {
    let made = Made::of(vec![Layer::gzip(Tar::default().file("a", b"x").end())]);
    for pack in [|bytes: &[u8]| bytes.to_vec(), gzip, zstd] {
        let arena = Arena::new();
        let mut tar = Tar::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("./index.json", &Made::index(&[(&made, None)]));
        for (digest, bytes) in &made.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        }
        std::fs::write(arena.path("archive.tar"), pack(&tar.end())).unwrap();
        let images = Images::open(arena.options()).unwrap();
        let image = get(&images, arena.path("archive.tar").to_str().unwrap()).await.unwrap();
        assert_eq!(image.digest, ImageDigest::Manifest(made.manifest));
        assert_eq!(std::fs::read(image.layers[0].join("a")).unwrap(), b"x");
        let pinned = |digest| format!("{}@{digest}", arena.path("archive.tar").display());
        get(&images, &pinned(made.manifest)).await.unwrap();
        get(&images, &pinned(Digest::of(b"other"))).await.unwrap_err();
        arena.assert_untouched();
    }
}

#[tokio::test]
async fn saved_archives() {
    let arena = Arena::new();
    let layer = Tar::default().file("a", b"x").end();
    let made = Made::of(vec![Layer::plain(layer.clone()), Layer::plain(layer.clone())]);
    let config = made.blobs[&made.config].clone();
    let save = |config_name: &str| {
        let manifest =
            json!([{ "Config": config_name, "RepoTags": ["x:1"], "Layers": ["one/layer.tar", "two/layer.tar"] }]);
        Tar::default()
            .file("one/layer.tar", &layer)
            .link("two/layer.tar", "../one/layer.tar")
            .file(config_name, &config)
            .file("manifest.json", &serde_json::to_vec(&manifest).unwrap())
            .end()
    };
    std::fs::write(arena.path("archive.tar"), save(&format!("{}.json", made.config.hex()))).unwrap();
    let images = Images::open(arena.options()).unwrap();
    let archive = arena.path("archive.tar").display().to_string();
    let image = get(&images, &archive).await.unwrap();
    assert_eq!(
        (image.digest, image.layers.len()),
        (ImageDigest::Config(made.config), 2)
    );
    assert!(image.digest.to_string().starts_with("config sha256:"));
    // A configuration that is not what its name says.
    std::fs::write(
        arena.path("archive.tar"),
        save(&format!("{}.json", Digest::of(b"other").hex())),
    )
    .unwrap();
    assert!(matches!(get(&images, &archive).await, Err(Error::Mismatch { .. })));
    // Several images: which one is meant is not guessed.
    let manifest = json!([{ "Config": "c", "Layers": ["l"] }, { "Config": "c", "Layers": ["l"] }]);
    std::fs::write(
        arena.path("archive.tar"),
        Tar::default()
            .file("manifest.json", &serde_json::to_vec(&manifest).unwrap())
            .end(),
    )
    .unwrap();
    assert!(matches!(get(&images, &archive).await, Err(Error::Reference { .. })));
    // No image at all.
    std::fs::write(arena.path("archive.tar"), Tar::default().file("readme", b"").end()).unwrap();
    assert!(
        get(&images, &archive)
            .await
            .unwrap_err()
            .to_string()
            .contains("is no image")
    );
    arena.assert_untouched();
}

#[tokio::test]
async fn folders_are_used_as_they_are() {
    let arena = Arena::new();
    std::fs::create_dir_all(arena.path("root/bin")).unwrap();
    std::fs::write(arena.path("root/bin/sh"), "1").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", arena.path("root/link")).unwrap();
    let images = Images::open(arena.options()).unwrap();
    let root = arena.path("root").display().to_string();
    let first = get(&images, &root).await.unwrap();
    assert_eq!(first.layers, [arena.path("root").canonicalize().unwrap()]);
    assert!(first.digest.to_string().starts_with("folder sha256:"));
    assert_eq!(get(&images, &root).await.unwrap().digest, first.digest);
    std::fs::write(arena.path("root/bin/sh"), "2").unwrap();
    assert_ne!(get(&images, &root).await.unwrap().digest, first.digest);
    // A folder can change, so it cannot be pinned.
    assert!(matches!(
        get(&images, &format!("{root}@{}", Digest::of(b""))).await,
        Err(Error::Reference { .. })
    ));
    let quick = Images::open({
        let mut options = arena.options();
        options.digest_folders = false;
        options
    })
    .unwrap();
    assert_eq!(get(&quick, &root).await.unwrap().digest.to_string(), "unpinned folder");
    assert!(matches!(get(&quick, "/no/such/folder").await, Err(Error::Io { .. })));
}

#[tokio::test]
async fn the_platform_is_chosen() {
    let arena = Arena::new();
    let here = Platform::here();
    let other = Platform {
        os: "linux".into(),
        architecture: "s390x".into(),
    };
    let layer = |content: &[u8]| vec![Layer::gzip(Tar::default().file("a", content).end())];
    let (ours, theirs) = (Made::on(layer(b"ours"), &here), Made::on(layer(b"theirs"), &other));
    ours.layout(&arena.path("layout"));
    theirs.layout(&arena.path("layout"));
    let write = |index: Vec<u8>| std::fs::write(arena.path("layout/index.json"), index).unwrap();
    let images = Images::open(arena.options()).unwrap();
    let layout = arena.path("layout").display().to_string();
    let attestation = json!({ "mediaType": crate::make::MANIFEST, "digest": theirs.manifest, "size": 5, "platform": { "os": "unknown", "architecture": "unknown" } });
    let mut index: serde_json::Value = serde_json::from_slice(&Made::index(&[
        (&theirs, Some(("linux", "s390x"))),
        (&ours, Some((&here.os, &here.architecture))),
    ]))
    .unwrap();
    index["manifests"].as_array_mut().unwrap().insert(0, attestation);
    write(serde_json::to_vec(&index).unwrap());
    assert_eq!(
        get(&images, &layout).await.unwrap().digest,
        ImageDigest::Manifest(ours.manifest)
    );
    // Only for another machine: by the index, and by the configuration alone.
    for platform in [Some(("linux", "s390x")), None] {
        write(Made::index(&[(&theirs, platform)]));
        let error = get(&images, &layout).await.unwrap_err();
        assert!(
            matches!(&error, Error::Platform { .. }) && error.to_string().contains("s390x"),
            "{error}"
        );
    }
    // Two that could be meant.
    write(Made::index(&[(&theirs, None), (&ours, None)]));
    assert!(
        get(&images, &layout)
            .await
            .unwrap_err()
            .to_string()
            .contains("pick one")
    );
    get(&images, &format!("{layout}@{}", ours.manifest)).await.unwrap();
}

#[tokio::test]
async fn documents_that_are_refused() {
    let config = json!({ "digest": Digest::of(b"c"), "size": 1 });
    let layer = json!({ "mediaType": crate::make::GZIP, "digest": Digest::of(b"l"), "size": 1 });
    let good = json!({ "schemaVersion": 2, "mediaType": crate::make::MANIFEST, "config": config, "layers": [layer] });
    let change = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut doc = good.clone();
        edit(&mut doc);
        serde_json::to_vec(&doc).unwrap()
    };
    for (case, (bytes, says)) in [
        (change(&|doc| doc["schemaVersion"] = json!(1)), "schema version 1"),
        (change(&|doc| doc["manifests"] = json!([])), "claims to be both"),
        (
            change(&|doc| doc["mediaType"] = json!(crate::make::INDEX)),
            "claims to be both",
        ),
        (change(&|doc| doc["mediaType"] = json!("text/plain")), "is no image"),
        (change(&|doc| doc["layers"] = json!([])), "no layers"),
        (
            change(&|doc| doc["layers"] = json!(vec![layer.clone(); 128])),
            "limit of 127 layers",
        ),
        (
            change(&|doc| {
                doc["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            }),
            "not supported",
        ),
        (change(&|doc| doc["layers"][0]["size"] = json!(1u64 << 40)), "limit"),
        (change(&|doc| doc["config"]["size"] = json!(1u64 << 30)), "limit"),
        (
            change(&|doc| doc["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")),
            "cannot be read",
        ),
        (
            change(&|doc| doc["layers"][0]["digest"] = json!("sha512:00")),
            "cannot be read",
        ),
        (change(&|doc| doc["layers"][0]["size"] = json!(-1)), "cannot be read"),
        (b"[".to_vec(), "cannot be read"),
        ("[".repeat(100_000).into_bytes(), "limit"),
        ("[".repeat(10_000).into_bytes(), "cannot be read"),
    ]
    .into_iter()
    .enumerate()
    {
        let arena = Arena::new();
        Made::of(vec![Layer::plain(Tar::default().end())]).layout(&arena.path("layout"));
        std::fs::write(arena.path("layout/index.json"), bytes).unwrap();
        let images = Images::open(arena.small()).unwrap();
        let error = get(&images, arena.path("layout").to_str().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(says), "{case}: {error}");
        arena.assert_untouched();
    }
}
