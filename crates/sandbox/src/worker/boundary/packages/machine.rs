//! A cheap name for the state of this machine's system: what was installed beside one state is not used with another.
//!
//! It is made from what package managers write when they change something, and from the folders that programs are put
//! into. It proves nothing about their contents; it says when to install again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use outwork_image::Digest;

/// Read as a whole.
const READ: &[&str] = &["etc/os-release", "var/lib/dpkg/status", "lib/apk/db/installed"];
/// Looked at: which file it is, how large, how old.
const LOOKED_AT: &[&str] = &[
    "usr",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "usr/local",
    "usr/lib/sysimage/rpm",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "var/lib/rpm",
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages",
    "var/lib/pacman/local",
];
/// Folders whose folders are looked at, too.
const BELOW: &[&str] = &["usr/local", "usr/local/lib"];
const LARGEST: u64 = 64 << 20;

/// The name. Blocks on the file system.
pub(super) fn identity(root: &Path) -> std::io::Result<Digest> {
    let mut lines = vec![format!("system 1 {}", std::env::consts::ARCH)];
    for name in READ {
        let path = root.join(name);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.len() <= LARGEST => {
                lines.push(format!("{name} {}", Digest::of(&fs::read(&path)?)));
            }
            _ => lines.push(look(&path, name)),
        }
    }
    lines.extend(LOOKED_AT.iter().map(|name| look(&root.join(name), name)));
    for folder in BELOW {
        let mut names: Vec<_> = match fs::read_dir(root.join(folder)) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
            Err(_) => continue,
        };
        names.sort();
        for name in names {
            let path = root.join(folder).join(&name);
            lines.push(look(&path, &format!("{folder}/{}", name.to_string_lossy())));
        }
    }
    Ok(Digest::of(lines.join("\n").as_bytes()))
}

fn look(path: &Path, name: &str) -> String {
    match fs::symlink_metadata(path) {
        Ok(found) => format!(
            "{name} {:o} {} {} {}.{}",
            found.mode(),
            found.ino(),
            found.len(),
            found.mtime(),
            found.mtime_nsec()
        ),
        Err(_) => format!("{name} -"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_state_has_another_name() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/local/lib")).unwrap();
        fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        let first = identity(root.path()).unwrap();
        assert_eq!(identity(root.path()).unwrap(), first);
        fs::write(root.path().join("var/lib/dpkg/status"), "Package: a\n").unwrap();
        let second = identity(root.path()).unwrap();
        assert_ne!(second, first);
        fs::create_dir(root.path().join("usr/local/lib/python3.99")).unwrap();
        assert_ne!(identity(root.path()).unwrap(), second);
    }
}
