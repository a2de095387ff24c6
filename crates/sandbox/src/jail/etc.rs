//! The `/etc` inside: a copy of what programs need, and nothing that is the host's own.
//!
//! What is taken is a list; everything else of the host's `/etc` does not exist inside. So no accounts, password
//! hashes, host keys, tokens in package managers' settings, machine id or host name. From the listed folders only
//! files that every user of the host may read are taken. The copy is made when the launcher starts.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// What one without network sees as its `resolv.conf`.
pub(super) const RESOLV_CLOSED: &str = "# This sandbox has no network.\n";
/// What a sandbox with a fence sees as its `resolv.conf`.
pub(super) const RESOLV_FENCED: &str = ".resolv.conf";

const LARGEST_FILE: u64 = 4 << 20;
const DEEPEST: usize = 6;

/// Files and folders of the host's `/etc` that say how programs work, not whose machine it is.
const TAKEN: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "rpc",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// Folders whose names carry a version.
const TAKEN_BY_PREFIX: &[&str] = &["python3", "java-"];

/// The inside's own files.
const WRITTEN: &[(&str, &str)] = &[
    (
        "passwd",
        "agent:x:1000:1000:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "agent:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("hostname", "sandbox\n"),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    ("resolv.conf", RESOLV_CLOSED),
    // Laid over the one above where there is a fence.
    (RESOLV_FENCED, super::network::RESOLV_CONF),
    ("shells", "/bin/sh\n/bin/bash\n"),
    // The workspace may belong to a user that has no name inside.
    ("gitconfig", "[safe]\n\tdirectory = *\n"),
];

/// Fills `to` from the host's `from`.
pub(crate) fn compose(from: &Path, to: &Path) -> io::Result<()> {
    for name in TAKEN {
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        take(&from.join(name), &target, DEEPEST)?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if TAKEN_BY_PREFIX
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            take(&entry.path(), &to.join(&name), DEEPEST)?;
        }
    }
    for (name, text) in WRITTEN {
        fs::write(to.join(name), text)?;
    }
    symlink("/proc/self/mounts", to.join("mtab"))
}

/// Copies a file, a link as a link, or a folder. What does not exist, is secret, special or too large is left out.
fn take(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    let Ok(found) = from.symlink_metadata() else {
        return Ok(());
    };
    let kind = found.file_type();
    if kind.is_symlink() {
        let Ok(target) = fs::read_link(from) else { return Ok(()) };
        return symlink(target, to);
    }
    let for_everyone = if kind.is_dir() { 0o005 } else { 0o004 };
    if found.mode() & for_everyone != for_everyone {
        return Ok(());
    }
    if kind.is_file() && found.len() <= LARGEST_FILE {
        let Ok(bytes) = fs::read(from) else { return Ok(()) };
        fs::write(to, bytes)?;
        return fs::set_permissions(to, fs::Permissions::from_mode(0o444 | (found.mode() & 0o111)));
    }
    if kind.is_dir() && depth > 0 {
        fs::create_dir_all(to)?;
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        for entry in entries.flatten() {
            take(&entry.path(), &to.join(entry.file_name()), depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_list_and_nothing_secret() {
        let host = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let etc = host.path();
        for folder in ["ssl/certs", "ssl/private", "ssh", "python3.11"] {
            fs::create_dir_all(etc.join(folder)).unwrap();
        }
        for (name, mode) in [
            ("shadow", 0o600),
            ("passwd", 0o644),
            ("machine-id", 0o444),
            ("ssl/certs/ca.pem", 0o644),
            ("ssl/certs/held-back.pem", 0o600),
            ("ssl/private/key.pem", 0o644),
            ("ssh/host_key", 0o644),
            ("npmrc", 0o644),
            ("python3.11/sitecustomize.py", 0o644),
            ("os-release", 0o644),
        ] {
            fs::write(etc.join(name), format!("host {name}")).unwrap();
            fs::set_permissions(etc.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("/usr/share/zoneinfo/UTC", etc.join("localtime")).unwrap();
        compose(etc, inside.path()).unwrap();
        let there = |name: &str| inside.path().join(name).symlink_metadata().is_ok();
        for name in [
            "ssl/certs/ca.pem",
            "python3.11/sitecustomize.py",
            "os-release",
            "localtime",
            "passwd",
        ] {
            assert!(there(name), "{name}");
        }
        for name in [
            "shadow",
            "machine-id",
            "ssl/certs/held-back.pem",
            "ssl/private",
            "ssh",
            "npmrc",
        ] {
            assert!(!there(name), "{name}");
        }
        assert!(
            !fs::read_to_string(inside.path().join("passwd"))
                .unwrap()
                .contains("host")
        );
    }
}
