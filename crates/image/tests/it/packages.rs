//! Installed packages: an overlay's upper folder becomes a layer, once.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use outwork_image::{Image, Images, Packaged, Packages};
use rustix::fs::{FileType, Mode, XattrFlags};
use tokio_util::sync::CancellationToken;

use crate::make::{Arena, Layer, Made, Tar, get};

fn upper(folder: &Path) {
    std::fs::create_dir_all(folder.join("usr/bin")).unwrap();
    std::fs::create_dir_all(folder.join("fresh")).unwrap();
    std::fs::write(folder.join("usr/bin/tool"), "tool").unwrap();
    std::fs::set_permissions(folder.join("usr/bin/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::hard_link(folder.join("usr/bin/tool"), folder.join("usr/bin/alias")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", folder.join("usr/bin/link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("gone"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    rustix::fs::setxattr(folder.join("fresh"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    std::fs::write(folder.join("fresh/new"), "new").unwrap();
}

fn packages() -> outwork_image::Checked {
    Packages {
        pip: vec!["tool".into()],
        ..Packages::default()
    }
    .check()
    .unwrap()
}

async fn install(images: &Images, base: &Image, from: &Path) -> outwork_image::Result<Image> {
    let cancel = CancellationToken::new();
    match images.packages(base, &packages(), &cancel).await? {
        Packaged::Ready(_) => panic!("it is there before it was installed"),
        Packaged::Missing(installing) => images.adopt(installing, from, &cancel).await,
    }
}

fn check(image: &Image) {
    let top = &image.layers[0];
    let mode = std::fs::metadata(top.join("usr/bin/tool"))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode, 0o755, "privileges are dropped");
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(top.join(name)).unwrap());
    assert_eq!(inode("usr/bin/tool"), inode("usr/bin/alias"));
    for whiteout in ["gone", "fresh/old"] {
        let metadata = std::fs::symlink_metadata(top.join(whiteout)).unwrap();
        assert!(metadata.file_type().is_char_device(), "{whiteout} is not hidden");
    }
    assert!(std::fs::symlink_metadata(top.join("pipe")).is_err());
    assert_eq!(std::fs::read(top.join("fresh/new")).unwrap(), b"new");
}

#[tokio::test]
async fn what_was_installed_is_kept_once() {
    let arena = Arena::new();
    let base = Made::of(vec![Layer::gzip(
        Tar::default().file("gone", b"").file("fresh/old", b"").dir("usr").end(),
    )]);
    let base = arena.unpack(arena.options(), &base).await.unwrap();
    let images = Images::open(arena.options()).unwrap();
    upper(&arena.path("upper"));
    let image = install(&images, &base, &arena.path("upper")).await.unwrap();
    check(&image);
    assert_eq!((image.layers.len(), image.digest), (2, base.digest));
    let found = images
        .packages(&base, &packages(), &CancellationToken::new())
        .await
        .unwrap();
    let Packaged::Ready(again) = found else {
        panic!("it was not kept")
    };
    assert_eq!(again.layers, image.layers);
    let other = Packages {
        pip: vec!["other".into()],
        ..Packages::default()
    }
    .check()
    .unwrap();
    assert!(matches!(
        images.packages(&base, &other, &CancellationToken::new()).await.unwrap(),
        Packaged::Missing(_)
    ));
    assert!(images.verify(&CancellationToken::new()).await.unwrap().is_empty());
    arena.assert_untouched();
}

#[tokio::test]
async fn on_a_folder_too_as_long_as_it_stays_the_same() {
    let arena = Arena::new();
    std::fs::create_dir_all(arena.path("root/fresh")).unwrap();
    std::fs::write(arena.path("root/fresh/old"), "").unwrap();
    std::fs::write(arena.path("root/gone"), "").unwrap();
    upper(&arena.path("upper"));
    let images = Images::open(arena.options()).unwrap();
    let base = get(&images, arena.path("root").to_str().unwrap()).await.unwrap();
    check(&install(&images, &base, &arena.path("upper")).await.unwrap());
    std::fs::write(arena.path("root/changed"), "").unwrap();
    let changed = get(&images, arena.path("root").to_str().unwrap()).await.unwrap();
    std::fs::write(arena.path("root/changed"), "again").unwrap();
    let error = install(&images, &changed, &arena.path("upper")).await.unwrap_err();
    assert!(error.to_string().contains("was changed"), "{error}");
    arena.assert_untouched();
}

#[tokio::test]
async fn one_installs_and_the_others_wait() {
    let arena = Arena::new();
    let base = arena
        .unpack(
            arena.options(),
            &Made::of(vec![Layer::plain(Tar::default().file("a", b"").end())]),
        )
        .await
        .unwrap();
    let images = Images::open(arena.options()).unwrap();
    std::fs::create_dir(arena.path("upper")).unwrap();
    let cancel = CancellationToken::new();
    let Packaged::Missing(installing) = images.packages(&base, &packages(), &cancel).await.unwrap() else {
        panic!("nothing was installed")
    };
    let checked = packages();
    let waiting = images.packages(&base, &checked, &cancel);
    let upper = arena.path("upper");
    let (made, waited) = tokio::join!(images.adopt(installing, &upper, &cancel), waiting);
    let Packaged::Ready(waited) = waited.unwrap() else {
        panic!("it was installed twice")
    };
    assert_eq!(waited.layers, made.unwrap().layers);
    // One that gives up lets the next one try.
    let other = Packages {
        npm: vec!["x".into()],
        ..Packages::default()
    }
    .check()
    .unwrap();
    drop(images.packages(&base, &other, &cancel).await.unwrap());
    assert!(matches!(
        images.packages(&base, &other, &cancel).await.unwrap(),
        Packaged::Missing(_)
    ));
}
