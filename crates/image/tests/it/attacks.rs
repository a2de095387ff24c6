//! Layers that try to get out of their folder, to fill disk or memory, or to be something else than they claim.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use outwork_image::{Digest, Error};

use crate::make::{Arena, Layer, Made, Tar, gzip, zstd};

fn plain(tar: Tar) -> Vec<Layer> {
    vec![Layer::plain(tar.end())]
}

#[tokio::test]
async fn paths_with_dots_are_refused() {
    for name in [
        "../outside/secret",
        "a/../../outside/secret",
        "..",
        "a/..",
        "/../outside/secret",
        "./../x",
    ] {
        let arena = Arena::new();
        let error = arena.refuse(plain(Tar::default().file(name, b"x"))).await;
        assert!(matches!(error, Error::Entry { .. }), "{name}: {error}");
        let arena = Arena::new();
        arena
            .refuse(plain(Tar::default().pax(&[("path", name)]).file("harmless", b"x")))
            .await;
        let arena = Arena::new();
        arena
            .refuse(plain(Tar::default().long(name).file("harmless", b"x")))
            .await;
        let arena = Arena::new();
        arena.refuse(plain(Tar::default().dir(name))).await;
        let arena = Arena::new();
        arena.refuse(plain(Tar::default().link(name, "/x"))).await;
    }
}

#[tokio::test]
async fn absolute_paths_stay_inside() {
    let arena = Arena::new();
    let secret = format!("{}/secret", arena.outside());
    let image = arena
        .attack(plain(Tar::default().long(&secret).file("x", b"inside")))
        .await
        .unwrap();
    assert_eq!(
        std::fs::read(format!("{}{secret}", image.layers[0].display())).unwrap(),
        b"inside"
    );
}

#[tokio::test]
async fn links_do_not_lead_out() {
    // In one layer, and with the link in the layer below.
    for split in [false, true] {
        for relative in [false, true] {
            let arena = Arena::new();
            let target = if relative {
                format!("../../../../../../../..{}", arena.outside())
            } else {
                arena.outside()
            };
            let first = Tar::default().pax(&[("linkpath", &target)]).link("a", "x");
            let write = |tar: Tar| {
                tar.file("a/secret", b"overwritten")
                    .dir("a/new")
                    .file("a/inner/file", b"overwritten")
                    .hard("a/again", "a/secret")
            };
            let layers = if split {
                vec![Layer::plain(first.end()), Layer::gzip(write(Tar::default()).end())]
            } else {
                plain(write(first))
            };
            let image = arena.attack(layers).await.unwrap();
            let inside = format!("{}{}/secret", image.layers[0].display(), arena.outside());
            assert_eq!(
                std::fs::read(inside).unwrap(),
                b"overwritten",
                "the image itself has what it asked for"
            );
        }
    }
}

#[tokio::test]
async fn a_folder_turned_into_a_link_midway_does_not_lead_out() {
    let arena = Arena::new();
    let outside = arena.outside();
    let tar = Tar::default()
        .dir("a")
        .file("a/x", b"1")
        .pax(&[("linkpath", &outside)])
        .link("a", "x")
        .file("a/secret", b"overwritten");
    arena.attack(plain(tar)).await.unwrap();
    // And back again: the link goes, what it means stays.
    let arena = Arena::new();
    let outside = arena.outside();
    let tar = Tar::default()
        .pax(&[("linkpath", &outside)])
        .link("a", "x")
        .dir("a")
        .file("a/secret", b"mine")
        .file("a", b"now a file");
    let image = arena.attack(plain(tar)).await.unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("a")).unwrap(), b"now a file");
}

#[tokio::test]
async fn a_link_is_replaced_not_written_through() {
    let arena = Arena::new();
    let secret = format!("{}/secret", arena.outside());
    let tar = Tar::default()
        .pax(&[("linkpath", &secret)])
        .link("a", "x")
        .file("a", b"overwritten");
    let image = arena.attack(plain(tar)).await.unwrap();
    assert!(std::fs::symlink_metadata(image.layers[0].join("a")).unwrap().is_file());
}

#[tokio::test]
async fn link_loops_end() {
    let arena = Arena::new();
    let error = arena
        .refuse(plain(Tar::default().link("a", "b").link("b", "a").file("a/x", b"")))
        .await;
    assert!(error.to_string().contains("links"), "{error}");
    let arena = Arena::new();
    let mut tar = Tar::default();
    for step in 0..60 {
        tar = tar.link(&format!("l{step}"), &format!("l{}/l{}", step + 1, step + 1));
    }
    arena.refuse(plain(tar.file("l0/x", b""))).await;
}

#[tokio::test]
async fn hard_links_to_outside_are_refused() {
    let arena = Arena::new();
    let secret = format!("{}/secret", arena.outside());
    for target in [
        secret.as_str(),
        "../outside/secret",
        "../../outside/secret",
        "missing",
        ".",
    ] {
        let arena_of_one = Arena::new();
        arena_of_one
            .refuse(plain(
                Tar::default()
                    .pax(&[("linkpath", target)])
                    .hard("a", "x")
                    .file("a", b"overwritten"),
            ))
            .await;
    }
    // Through a link: it means a place inside, where nothing is.
    let through = Tar::default()
        .pax(&[("linkpath", &arena.outside())])
        .link("d", "x")
        .hard("a", "d/secret");
    arena.refuse(plain(through)).await;
    // To a link that leads out: the link itself gets a second name, not what it means.
    let arena = Arena::new();
    let secret = format!("{}/secret", arena.outside());
    let tar = Tar::default()
        .pax(&[("linkpath", &secret)])
        .link("l", "x")
        .hard("a", "l")
        .file("a", b"overwritten");
    arena.attack(plain(tar)).await.unwrap();
    let arena = Arena::new();
    arena.refuse(plain(Tar::default().dir("d").hard("a", "d"))).await;
    let arena = Arena::new();
    arena.refuse(plain(Tar::default().file("a", b"x").hard("a", "a"))).await;
}

#[tokio::test]
async fn whiteouts_do_not_reach_the_parent() {
    for name in [
        ".wh...",
        "a/.wh...",
        ".wh..",
        ".wh.",
        "../.wh.outside",
        "../outside/.wh.secret",
    ] {
        let arena = Arena::new();
        arena.refuse(plain(Tar::default().file(name, b""))).await;
    }
    // Through a link that leads out, of files and of the whole folder.
    let arena = Arena::new();
    let outside = arena.outside();
    let tar = Tar::default()
        .pax(&[("linkpath", &outside)])
        .link("a", "x")
        .file("a/.wh.secret", b"")
        .file("a/.wh..wh..opq", b"");
    arena.attack(plain(tar)).await.unwrap();
}

#[tokio::test]
async fn devices_are_left_out_and_privileges_dropped() {
    let arena = Arena::new();
    let tar = Tar::default()
        .entry(b'3', b"sda", b"", 0o666, b"")
        .entry(b'4', b"mem", b"", 0o666, b"")
        .entry(b'6', b"pipe", b"", 0o666, b"")
        .entry(b'0', b"su", b"", 0o6755, b"x")
        .entry(b'5', b"shared/", b"", 0o3777, b"")
        .pax(&[
            ("SCHILY.xattr.security.capability", "x"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/"),
        ])
        .entry(b'5', b"marked/", b"", 0o000, b"");
    let image = arena.attack(plain(tar)).await.unwrap();
    let root = &image.layers[0];
    let mut names: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["marked", "shared", "su"]);
    let mode = |name: &str| std::fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("su"), mode("shared"), mode("marked")), (0o755, 0o1777, 0o700));
    assert_eq!(
        std::fs::metadata(root.join("su")).unwrap().uid(),
        rustix::process::geteuid().as_raw()
    );
    let mut buffer = [0; 256];
    let attributes = rustix::fs::listxattr(root.join("marked"), &mut buffer).unwrap();
    assert!(!String::from_utf8_lossy(&buffer[..attributes]).contains("overlay"));
    assert!(!std::fs::metadata(root.join("su")).unwrap().file_type().is_char_device());
}

#[tokio::test]
async fn bombs_are_refused() {
    let zeros = |bytes: usize| Tar::default().file("zeros", &vec![0; bytes]).end();
    let too_large = |error: Error| assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    // One file, many files, many entries; each packed small.
    too_large(Arena::new().refuse(vec![Layer::gzip(zeros((1 << 20) + 1))]).await);
    too_large(Arena::new().refuse(vec![Layer::zstd(zeros(8 << 20))]).await);
    let many = (0..4).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), &vec![0; 900 << 10]));
    too_large(Arena::new().refuse(vec![Layer::gzip(many.end())]).await);
    let entries = (0..501).fold(Tar::default(), |tar, n| tar.dir(&format!("d{n}")));
    too_large(Arena::new().refuse(vec![Layer::gzip(entries.end())]).await);
    // The same name again and again counts as often as it comes.
    let again = (0..501).fold(Tar::default(), |tar, _| tar.file("f", b""));
    too_large(Arena::new().refuse(vec![Layer::gzip(again.end())]).await);
    // Behind the end marker.
    let mut behind = Tar::default().file("f", b"x").end();
    behind.resize(8 << 20, 0);
    too_large(Arena::new().refuse(vec![Layer::gzip(behind)]).await);
    // Holes.
    too_large(
        Arena::new()
            .refuse(plain(Tar::default().sparse("s", &[(0, b"x")], 1 << 30)))
            .await,
    );
    let holes = (0..4).fold(Tar::default(), |tar, n| tar.sparse(&format!("s{n}"), &[], 1 << 20));
    too_large(Arena::new().refuse(plain(holes)).await);
    // Descriptions of entries.
    let error = Arena::new()
        .refuse(plain(Tar::default().entry(
            b'x',
            b"p",
            b"",
            0o644,
            &vec![b'1'; (1 << 20) + 1],
        )))
        .await;
    assert!(matches!(error, Error::Layer { .. }), "{error}");
    Arena::new()
        .refuse(plain(Tar::default().entry(
            b'L',
            b"p",
            b"",
            0o644,
            &vec![b'a'; (1 << 20) + 1],
        )))
        .await;
}

#[tokio::test]
async fn deep_and_long_paths_are_refused() {
    let deep = "d/".repeat(200);
    Arena::new().refuse(plain(Tar::default().long(&deep).dir("x"))).await;
    let long = "n".repeat(256);
    Arena::new()
        .refuse(plain(Tar::default().long(&long).file("x", b"")))
        .await;
    let path = format!("{}x", format!("{}/", "n".repeat(200)).repeat(25));
    Arena::new()
        .refuse(plain(Tar::default().long(&path).file("x", b"")))
        .await;
    // Short on paper, deep by links.
    let mut tar = Tar::default().dir("d0");
    for step in 1..30 {
        tar = tar
            .link(&format!("l{step}"), &"d/".repeat(40))
            .long(&format!("l{step}/{}x", "d/".repeat(100)))
            .file("x", b"");
    }
    Arena::new().refuse(plain(tar)).await;
}

#[tokio::test]
async fn a_file_is_no_folder() {
    let error = Arena::new()
        .refuse(plain(Tar::default().file("a", b"").file("a/b", b"")))
        .await;
    assert!(error.to_string().contains("is a file"), "{error}");
    Arena::new()
        .refuse(vec![
            Layer::plain(Tar::default().file("a", b"").end()),
            Layer::plain(Tar::default().file("a/b", b"").end()),
        ])
        .await;
    Arena::new()
        .refuse(plain(Tar::default().file("./", b"x").file(".", b"y")))
        .await;
}

#[tokio::test]
async fn damaged_archives_are_refused() {
    let good = Tar::default().file("a", &[7; 2000]).end();
    let mut layers = vec![
        good[..700].to_vec(),
        good[..100].to_vec(),
        [&good[..], b"x"].concat()[512..].to_vec(),
        b"not a tar archive".to_vec(),
        Tar::default().entry(b'Z', b"a", b"", 0o644, b"").end(),
        Tar::default()
            .entry(b'g', b"g", b"", 0o644, b"16 path=../evil\n")
            .file("a", b"")
            .end(),
        Tar::default()
            .entry(b'x', b"x", b"", 0o644, b"99 path=a\n")
            .file("a", b"")
            .end(),
        Tar::default()
            .entry(b'x', b"x", b"", 0o644, b"5 a\n\n")
            .file("a", b"")
            .end(),
        Tar::default().pax(&[("GNU.sparse.major", "1")]).file("a", b"").end(),
        Tar::default().pax(&[("path", "a\0b")]).file("a", b"").end(),
        Tar::default()
            .pax(&[("size", "18446744073709551615")])
            .file("a", b"")
            .end(),
        Tar::default().sparse("a", &[(100, b"xx"), (101, b"yy")], 500).end(),
        Tar::default().sparse("a", &[(500, b"xx")], 500).end(),
        Tar::default().link("a", "").end(),
    ];
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    layers.push(checksum);
    let mut size = good.clone();
    size[124..136].fill(0xff);
    layers.push(size);
    for (case, tar) in layers.into_iter().enumerate() {
        let arena = Arena::new();
        let error = arena
            .attack(vec![Layer::plain(tar)])
            .await
            .err()
            .unwrap_or_else(|| panic!("case {case} was accepted"));
        assert!(
            matches!(
                error,
                Error::Layer { .. } | Error::Entry { .. } | Error::TooLarge { .. }
            ),
            "{case}: {error}"
        );
    }
    for packed in [gzip(&good), zstd(&good)] {
        for cut in [packed.len() / 2, packed.len() - 1] {
            let layer = Layer {
                blob: packed[..cut].to_vec(),
                ..Layer::gzip(good.clone())
            };
            Arena::new().refuse(vec![layer]).await;
        }
    }
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    // The unpacked digest lies: nothing of it stays.
    let tar = Tar::default().file("a", b"x").end();
    let lying = Layer {
        diff: Digest::of(b"other"),
        ..Layer::gzip(tar.clone())
    };
    let error = Arena::new().refuse(vec![lying]).await;
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    // What follows the end of the archive counts.
    let longer = Layer {
        diff: Digest::of(&tar),
        ..Layer::gzip([&tar[..], &[0; 512]].concat())
    };
    Arena::new().refuse(vec![longer]).await;
    // A blob on disk that was changed, made shorter, or made longer.
    for change in [
        |blob: &mut Vec<u8>| blob[20] ^= 1,
        |blob: &mut Vec<u8>| blob.truncate(blob.len() - 1),
        |blob: &mut Vec<u8>| blob.push(0),
    ] {
        for which in 0..3 {
            let arena = Arena::new();
            let mut made = Made::of(vec![Layer::gzip(tar.clone())]);
            let layer = Digest::of(&made.layers[0].blob);
            let digest = [layer, made.manifest, made.config][which];
            change(made.blobs.get_mut(&digest).unwrap());
            let manifest = made.manifest;
            made.layout(&arena.path("layout"));
            // The index still names what it named, with the size that it had.
            let index = String::from_utf8(std::fs::read(arena.path("layout/index.json")).unwrap()).unwrap();
            assert!(index.contains(&manifest.to_string()));
            let images = outwork_image::Images::open(arena.options()).unwrap();
            let error = crate::make::get(&images, arena.path("layout").to_str().unwrap())
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::Mismatch { .. } | Error::Size { .. }),
                "{which}: {error}"
            );
            assert_eq!(arena.kept_layers(), 0);
            arena.assert_untouched();
        }
    }
}

#[tokio::test]
async fn a_layout_cannot_name_files_outside() {
    let arena = Arena::new();
    let made = Made::of(vec![Layer::gzip(Tar::default().file("a", b"x").end())]);
    made.layout(&arena.path("layout"));
    let blob = arena.path("layout/blobs/sha256").join(made.manifest.hex());
    std::fs::rename(&blob, arena.path("layout/elsewhere")).unwrap();
    std::os::unix::fs::symlink(arena.path("layout/elsewhere"), &blob).unwrap();
    let images = outwork_image::Images::open(arena.options()).unwrap();
    let error = crate::make::get(&images, arena.path("layout").to_str().unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("links are refused"), "{error}");
}
