//! The cache: damage is noticed, makers do not collide, pruning keeps what is in use.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use outwork_image::{Error, Images, Keep};
use tokio_util::sync::CancellationToken;

use crate::make::{Arena, Layer, Made, Tar, get};
use crate::serve::Server;

fn image() -> Made {
    let files = (0..50).fold(Tar::default().dir("d"), |tar, n| {
        tar.file(&format!("d/f{n}"), b"content")
    });
    Made::of(vec![
        Layer::gzip(files.link("l", "d").end()),
        Layer::gzip(Tar::default().file("d/.wh.f1", b"").end()),
    ])
}

#[tokio::test]
async fn damage_is_noticed_and_mended() {
    type Damage = fn(&Path);
    let quick: [(&str, Damage); 7] = [
        ("a file is gone", |layer| {
            std::fs::remove_file(layer.join("root/d/f2")).unwrap()
        }),
        ("a file is shorter", |layer| {
            std::fs::write(layer.join("root/d/f2"), "x").unwrap()
        }),
        ("a mode", |layer| {
            std::fs::set_permissions(layer.join("root/d/f2"), std::fs::Permissions::from_mode(0o4755)).unwrap()
        }),
        ("a link", |layer| {
            std::fs::remove_file(layer.join("root/l")).unwrap();
            std::os::unix::fs::symlink("/etc", layer.join("root/l")).unwrap();
        }),
        ("the index", |layer| std::fs::write(layer.join("index"), "").unwrap()),
        ("the record", |layer| {
            std::fs::write(layer.join("record.json"), "{}").unwrap()
        }),
        ("a folder is a link", |layer| {
            std::fs::rename(layer.join("root/d"), layer.join("root/e")).unwrap();
            std::os::unix::fs::symlink("e", layer.join("root/d")).unwrap();
        }),
    ];
    for (what, damage) in quick {
        let (arena, made) = (Arena::new(), image());
        let first = arena.unpack(arena.options(), &made).await.unwrap();
        let layer = first.layers[1].parent().unwrap().to_owned();
        let images = Images::open(arena.options()).unwrap();
        assert!(images.verify(&CancellationToken::new()).await.unwrap().is_empty());
        damage(&layer);
        assert_eq!(
            images.verify(&CancellationToken::new()).await.unwrap().len(),
            1,
            "{what}"
        );
        // In use: it is neither used again nor taken away from who has it.
        let error = arena.unpack(arena.options(), &made).await.unwrap_err();
        assert!(
            matches!(&error, Error::Cache { .. }) && error.to_string().contains("in use"),
            "{what}: {error}"
        );
        drop(first);
        let mended = arena.unpack(arena.options(), &made).await.unwrap();
        assert_eq!(
            std::fs::read(mended.layers[1].join("d/f2")).unwrap(),
            b"content",
            "{what}"
        );
        assert!(
            images.verify(&CancellationToken::new()).await.unwrap().is_empty(),
            "{what}"
        );
        arena.assert_untouched();
    }
}

#[tokio::test]
async fn a_full_check_finds_what_a_quick_one_cannot() {
    let (arena, made) = (Arena::new(), image());
    let image = arena.unpack(arena.options(), &made).await.unwrap();
    let images = Images::open(arena.options()).unwrap();
    std::fs::write(image.layers[1].join("d/f3"), "CONTENT").unwrap();
    std::fs::write(image.layers[0].join("extra"), "").unwrap();
    let damaged = images.verify(&CancellationToken::new()).await.unwrap();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(damaged.iter().any(|(_, problem)| problem.contains("d/f3")));
}

#[tokio::test]
async fn makers_do_not_collide() {
    let (arena, server, made) = (Arena::new(), Server::start().await, image());
    let reference = server.put(&made);
    let one = |options| {
        let reference = reference.clone();
        async move { get(&Images::open(options).unwrap(), &reference).await.unwrap() }
    };
    let many: Vec<_> = (0..8).map(|_| one(arena.options())).collect();
    let done = futures_util::future::join_all(many).await;
    assert!(done.iter().all(|image| image.layers == done[0].layers));
    for layer in 0..2 {
        let path = Server::blob(&made, layer);
        assert_eq!(
            server.asked().iter().filter(|asked| asked.path == path).count(),
            1,
            "a layer was fetched more than once"
        );
    }
    arena.assert_untouched();
}

#[tokio::test]
async fn pruning_keeps_what_is_in_use() {
    let (arena, made) = (Arena::new(), image());
    let held = arena.unpack(arena.options(), &made).await.unwrap();
    let other = Made::of(vec![Layer::gzip(Tar::default().file("other", &[1; 5000]).end())]);
    let other = arena.unpack(arena.options(), &other).await.unwrap();
    let images = Images::open(arena.options()).unwrap();
    let free = other.layers[0].clone();
    drop(other);
    let pruned = images
        .prune(Keep {
            bytes: Some(0),
            used_within: None,
        })
        .await
        .unwrap();
    assert_eq!(
        (pruned.removed, pruned.removed_bytes, pruned.kept, pruned.in_use),
        (1, 5000, 2, 2)
    );
    assert!(!free.exists() && held.layers.iter().all(|layer| layer.exists()));
    // A clone holds as well; age counts from the last use.
    let clone = held.clone();
    drop(held);
    let old = SystemTime::now() - Duration::from_secs(3600);
    for layer in &clone.layers {
        std::fs::File::open(layer.parent().unwrap())
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let hour = Keep {
        used_within: Some(Duration::from_secs(1800)),
        bytes: None,
    };
    assert_eq!(images.prune(hour.clone()).await.unwrap().in_use, 2);
    drop(clone);
    assert_eq!(images.prune(hour).await.unwrap().removed, 2);
    assert_eq!(images.prune(Keep::default()).await.unwrap(), Default::default());
    arena.assert_untouched();
}

#[tokio::test]
async fn what_a_killed_maker_left_is_swept() {
    let arena = Arena::new();
    Images::open(arena.options()).unwrap();
    let left = arena.path("cache/staging/left");
    std::fs::create_dir_all(left.join("root")).unwrap();
    Images::open(arena.options()).unwrap();
    assert!(left.exists(), "it may have been made just now");
    std::fs::File::open(&left)
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
    Images::open(arena.options()).unwrap();
    assert!(!left.exists());
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    let arena = Arena::new();
    std::fs::create_dir(arena.path("cache")).unwrap();
    std::fs::set_permissions(arena.path("cache"), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Images::open(arena.options()), Err(Error::Cache { .. })));
}
