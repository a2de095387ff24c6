use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::restore::{STAGING, remove_all};
use super::*;

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("src/deep/er")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("src/main.rs"), "fn main() {}\n").unwrap();
    fs::write(root.join("large"), vec![7; 3 * PIECE + 11]).unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(root.join("a%b\nc"), "odd").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-\xff-text")), "bytes").unwrap();
    let long = root.join("l".repeat(200)).join("o".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("ng"), "long").unwrap();
    symlink("/etc/passwd", root.join("out")).unwrap();
    symlink("x".repeat(300), root.join("far")).unwrap();
    fs::write(root.join("locked-file"), "locked").unwrap();
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/in"), "in").unwrap();
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    folder
}

/// Everything below a folder, as text.
fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let stat = path.symlink_metadata().unwrap();
            let content = if kind.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if kind.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else if kind.is_file() {
                hex(&Sha256::digest(fs::read(&path).unwrap()))
            } else {
                continue;
            };
            let name = written(path.strip_prefix(root).unwrap());
            // A link's own mode says nothing, and set-uid bits are not kept.
            let mode = if kind.is_symlink() { 0 } else { stat.mode() & 0o777 };
            found.push(format!("{name} {mode:o} {} {content}", stat.mtime()));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_restored_is_what_was_saved() {
    let folder = tree();
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("one");
    let saved = save(folder.path(), &at).unwrap();
    let to = place.path().join("restored");
    assert_eq!(restore(&at, &saved.digest, &to).unwrap(), saved);
    assert_eq!(listing(&to), listing(folder.path()));
    assert!(saved.entries > 10 && saved.bytes > 3 * PIECE as u64);
    // The same files give the same manifest.
    let again = save(&to, &place.path().join("two")).unwrap();
    assert_eq!(again.digest, saved.digest);
    // Another tool reads the archive.
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(at.join(FILES))
        .output()
        .unwrap();
    assert!(listed.status.success());
    assert_eq!(
        listed.stdout.iter().filter(|byte| **byte == b'\n').count(),
        saved.entries
    );
    remove_all(&to);
    remove_all(folder.path());
}

#[test]
fn whatever_was_changed_is_refused_and_nothing_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name.repeat(700)).unwrap();
    }
    fs::create_dir(folder.path().join("d")).unwrap();
    symlink("a", folder.path().join("e")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("saved");
    let saved = save(folder.path(), &at).unwrap();
    let to = place.path().join("to");
    let archive = fs::read(at.join(FILES)).unwrap();
    let manifest = fs::read(at.join(MANIFEST)).unwrap();
    let refused = |why: &str| {
        let error = restore(&at, &saved.digest, &to).unwrap_err();
        assert!(matches!(error, SandboxError::Checkpoint { .. }), "{why}: {error}");
        let left = fs::read_dir(&to).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "{why}");
    };
    // One bit of every 97th byte up to the end mark, whatever it means.
    let end = archive.len().saturating_sub(1024);
    let mut changed = 0;
    for at_byte in (0..end).step_by(97) {
        let mut bytes = archive.clone();
        bytes[at_byte] ^= 1;
        fs::write(at.join(FILES), &bytes).unwrap();
        match restore(&at, &saved.digest, &to) {
            // Padding and fields without meaning here (owners, their names): then what came out is the same.
            Ok(_) => {
                assert_eq!(listing(&to), listing(folder.path()), "byte {at_byte}");
                fs::remove_dir_all(&to).unwrap();
            }
            Err(_) => {
                changed += 1;
                assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "byte {at_byte}");
            }
        }
    }
    assert!(changed > 20, "{changed}");
    fs::write(at.join(FILES), &archive[..archive.len() / 2]).unwrap();
    refused("cut");
    fs::write(at.join(FILES), &archive).unwrap();
    let mut bytes = manifest.clone();
    bytes[30] ^= 1;
    fs::write(at.join(MANIFEST), &bytes).unwrap();
    refused("another manifest");
    fs::write(at.join(MANIFEST), &manifest).unwrap();
    fs::remove_file(at.join(FILES)).unwrap();
    refused("no archive");
    fs::write(at.join(FILES), &archive).unwrap();
    let wrong = restore(&at, &"0".repeat(64), &to).unwrap_err();
    assert!(wrong.to_string().contains("digest"), "{wrong}");
    // A folder that holds something is not written to.
    fs::create_dir_all(&to).unwrap();
    fs::write(to.join("mine"), "x").unwrap();
    assert!(
        restore(&at, &saved.digest, &to)
            .unwrap_err()
            .to_string()
            .contains("not empty")
    );
    fs::remove_file(to.join("mine")).unwrap();
    // What an interrupted restoring left is cleared away.
    fs::create_dir_all(to.join(format!("{STAGING}0/x"))).unwrap();
    restore(&at, &saved.digest, &to).unwrap();
    assert_eq!(listing(&to), listing(folder.path()));
}

#[test]
fn a_manifest_cannot_name_what_lies_outside() {
    for path in [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./..",
        "%2e%2e/x",
        "%2Fx",
        "%0",
        "%zz",
        "a%00b",
    ] {
        assert!(read_path(path).is_err(), "{path}");
    }
    // Through a link that the same archive makes: the kernel opens what is beneath, through no link.
    let place = tempfile::tempdir().unwrap();
    let (outside, at, to) = (
        place.path().join("outside"),
        place.path().join("at"),
        place.path().join("to"),
    );
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&at).unwrap();
    let mut tar = tar::Builder::new(File::create(at.join(FILES)).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o777);
    header.set_mtime(0);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut header, "link", &outside).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(1);
    tar.append_data(&mut header, "link/file", &b"x"[..]).unwrap();
    tar.into_inner().unwrap();
    let entry = |path: &str, content| Entry {
        path: path.to_owned(),
        mode: 0o777,
        modified: 0,
        content,
    };
    let link = Content::Link {
        target: written(&outside),
    };
    let file = Content::File {
        size: 1,
        sha256: hex(&Sha256::digest(b"x")),
    };
    let manifest = Manifest {
        version: VERSION,
        entries: vec![entry("link", link), entry("link/file", file)],
    };
    let text = serde_json::to_vec(&manifest).unwrap();
    fs::write(at.join(MANIFEST), &text).unwrap();
    assert!(restore(&at, &hex(&Sha256::digest(&text)), &to).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn any_name_is_read_back(bytes in proptest::collection::vec(1..=255_u8, 1..40)) {
        let path = Path::new(std::ffi::OsStr::from_bytes(&bytes));
        prop_assert_eq!(read_bytes(&written(path)), Ok(bytes.clone()));
    }
}
