//! Packages on an image: it is changed as a whole, in a layer of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use outwork_image::Credentials;
use outwork_ledger::Kind;
use outwork_sandbox::worker::ImageSource;
use serde_json::json;

use super::{PYTHON, cached, listing, publish_source, python, said, with};
use crate::{World, of_kind};

/// A root filesystem with a shell and Python with its installer.
fn image(folder: &Path) {
    let modules = python(
        "import _ssl, _hashlib, _ctypes; print(_ssl.__file__, _hashlib.__file__, _ctypes.__file__)",
        &[],
    );
    let modules = String::from_utf8(modules).unwrap();
    let programs = [
        "/bin/bash",
        "/bin/cat",
        "/bin/ls",
        "/usr/bin/id",
        "/usr/bin/stat",
        PYTHON,
    ];
    for program in programs.into_iter().chain(modules.split_whitespace()) {
        let program = std::fs::canonicalize(program).unwrap();
        let needed = Command::new("ldd").arg(&program).output().unwrap();
        let needed = String::from_utf8(needed.stdout).unwrap();
        let libraries = needed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from);
        for file in libraries.chain([program]) {
            let to = folder.join(file.strip_prefix("/").unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
    }
    // Where the programs are links on this machine, they are files here.
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin")] {
        if !folder.join(link).exists() {
            std::os::unix::fs::symlink(to, folder.join(link)).unwrap();
        }
    }
    const COPY: &str = include_str!("copy.py");
    python(COPY, &[folder.to_str().unwrap()]);
    for (file, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\n"),
        ("etc/of-the-image", "unchanged"),
    ] {
        std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_changed_in_a_layer_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    image(folder.path());
    let before = listing(folder.path());
    let mut world = World::with(Some(with(json!({"pip": ["system"]}))), |boundary| {
        boundary.image = Some(ImageSource {
            reference: folder.path().to_str().unwrap().to_owned(),
            allow_unpinned: false,
            credentials: Credentials::default(),
        });
    })
    .await;
    // What packages of a system do: users, settings, files of others, programs that are replaced or removed.
    let code = include_str!("system.py");
    publish_source(&world.internet, "system", code);
    let found = said(&world, "system").await;
    assert_eq!(
        found,
        json!({"service": 0, "owner": if rustix::process::geteuid().is_root() { 77 } else { 0 }, "uid": 0, "run": ["lock", "outwork"], "device": 13})
    );
    let said = world
        .bash(
            "tool; stat -c '%a %U' /usr/bin/tool /var/service/own; ls -A /etc /run; cat /etc/passwd; id -u; ls -A /tmp",
        )
        .await;
    let expected = "a tool\n755 agent\n644 agent\n";
    assert!(said.starts_with(expected), "{said}");
    for line in [
        "service:x:77:77:service:/var/service:/bin/false",
        "agent:x:1000:1000:agent:/home/agent:/bin/bash",
        "1000",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}: {said}");
    }
    assert!(!said.contains("of-the-image"), "{said}");
    // The authority of whoever installed is not kept with the packages.
    let layer = cached(&world, "packages").remove(0).join("root");
    let kept: Vec<_> = listing(&layer)
        .into_iter()
        .map(|(path, ..)| path.strip_prefix(&layer).unwrap().to_owned())
        .collect();
    for path in &kept {
        let top = path.iter().next().unwrap().to_str().unwrap();
        assert!(["etc", "usr", "var"].contains(&top), "{}", path.display());
    }
    assert_eq!(
        kept.iter().filter(|path| path.starts_with("etc")).count(),
        3,
        "{kept:?}"
    );
    assert_eq!(listing(folder.path()), before);
    let records = world.records().await;
    let digest = of_kind(&records, Kind::Image)[0].image_digest.clone().unwrap();
    assert!(
        digest.starts_with("folder sha256:") && digest.contains(" with packages sha256:"),
        "{digest}"
    );
}
