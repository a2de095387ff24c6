//! The kernel's own overlay, in a user namespace, shows what the layers were meant to show.

use std::process::Command;

use crate::make::{Arena, Layer, Made, Tar};

#[tokio::test]
async fn overlayfs_shows_the_image() {
    let arena = Arena::new();
    let first = Tar::default()
        .dir("d")
        .file("d/old", b"1")
        .file("gone", b"1")
        .file("stays", b"1")
        .dir("usr/lib")
        .file("usr/lib/a", b"1")
        .link("lib", "usr/lib")
        .dir("was");
    let second = Tar::default()
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"2")
        .file(".wh.gone", b"")
        .file("lib/b", b"2")
        .file("was", b"a file");
    let third = Tar::default()
        .file(".wh.d", b"")
        .dir("d")
        .file("d/third", b"3")
        .file(".wh.was", b"")
        .dir("was")
        .file("was/again", b"");
    let made = Made::of(vec![
        Layer::gzip(first.end()),
        Layer::gzip(second.end()),
        Layer::gzip(third.end()),
    ]);
    let image = arena.unpack(arena.options(), &made).await.unwrap();
    let lower: Vec<String> = image.layers.iter().map(|layer| layer.display().to_string()).collect();
    // All namespaces end with the command; the mount is seen by nobody else.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={} /mnt && cd /mnt && find . -printf '%p %y\\n' | sort",
        lower.join(":")
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let expected = ". d\n./d d\n./d/third f\n./lib l\n./stays f\n./usr d\n./usr/lib d\n./usr/lib/a f\n./usr/lib/b f\n./was d\n./was/again f\n";
    assert_eq!(shown, expected);
}
