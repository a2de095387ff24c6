//! A root filesystem from image layers, in place of the host's system folders.
//!
//! The layers come as detached read-only mounts that the cradle prepared. Here, inside the sandbox's own namespaces, an
//! overlay joins them; a small `tmpfs` on top holds the folders that the sandbox mounts on and the few files of `/etc`
//! that are the sandbox's own. What was mounted over the template (devices, `/proc` with its covers, `/tmp`, the
//! workspace) is cloned into it, it becomes the root, and the template with the host's system folders is taken away.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::place::{self, Places, SCAFFOLD};
use super::wire::{InStep, StepError};
use super::{build, network, template};

const STEP: &str = "image layers";
/// Where the parts stand while the root is built; the template has it, empty.
const SCRATCH: &str = "/run";
const LARGEST_LIST: u64 = 1 << 20;

const ACCOUNT: &str = "agent:x:1000:1000:agent:/home/agent:/bin/bash\n";
const GROUP: &str = "agent:x:1000:\n";

/// Puts this process, whose namespace has the template as its root, on a root of these layers, the topmost first. With a
/// `site`, what is written there goes to its upper folder, and the sandbox's own files lie below it instead.
pub(super) fn enter(
    layers: &[OwnedFd],
    site: Option<&OwnedFd>,
    hostname: &str,
    fenced: bool,
    places: &mut Places,
) -> Result<(), StepError> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let scratch = template::tmpfs(&[("size", "64m"), ("mode", "0755")], flags).step(STEP)?;
    // Taken before something stands there.
    let empty = clone(Path::new(SCAFFOLD), false)?;
    template::attach(&scratch, SCRATCH).step(STEP)?;
    let mut lower = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{SCRATCH}/{number}");
        rustix::fs::mkdir(name.as_str(), Mode::from_raw_mode(0o755)).step(STEP)?;
        template::attach(layer, name.as_str()).step(STEP)?;
        lower.push(name);
    }
    let upper = Path::new(SCRATCH).join("upper");
    let needed = ["", "dev", "etc", "proc", "run", "sys", "tmp", "workspace"];
    let usual = if site.is_none() {
        &["home", "mnt", "var"][..]
    } else {
        &[]
    };
    for folder in needed.iter().chain(usual) {
        rustix::fs::mkdir(upper.join(folder), Mode::from_raw_mode(0o755)).step(STEP)?;
    }
    let root = match site {
        None => {
            for (link, target) in [("home/agent", "/tmp/.home"), ("var/tmp", "/tmp")] {
                rustix::fs::symlink(target, upper.join(link)).step(STEP)?;
            }
            settings(&upper, hostname, fenced)?;
            accounts(layers, &upper)?;
            place::overlay(&lower, SCRATCH).step(STEP)?
        }
        Some(site) => {
            settings(&upper, hostname, fenced)?;
            lower.insert(0, format!("{SCRATCH}/upper"));
            let place = format!("{SCRATCH}/site");
            rustix::fs::mkdir(place.as_str(), Mode::from_raw_mode(0o755)).step(STEP)?;
            template::attach(site, place.as_str()).step(STEP)?;
            place::overlay(&lower, &place).step(STEP)?
        }
    };
    let mounted = ["dev", "proc", "tmp", "workspace"]
        .into_iter()
        .map(|name| Ok((name, clone(&Path::new("/").join(name), true)?)))
        .collect::<Result<Vec<_>, StepError>>()?;
    template::attach(&root, SCAFFOLD).step(STEP)?;
    for (name, tree) in mounted.iter().chain([&("sys", empty)]) {
        template::attach(tree, Path::new(SCAFFOLD).join(name)).step(STEP)?;
    }
    place::enter_scaffold().step("pivot_root")?;
    if site.is_some() {
        return build::fresh_run(places);
    }
    places.seal_later(root);
    Ok(())
}

fn clone(path: &Path, recursive: bool) -> Result<OwnedFd, StepError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags).step(STEP)
}

/// The files of `/etc` that say where one is.
fn settings(upper: &Path, hostname: &str, fenced: bool) -> Result<(), StepError> {
    let write = |name: &str, text: &[u8]| std::fs::write(upper.join("etc").join(name), text).step(STEP);
    let resolv = if fenced {
        network::RESOLV_CONF
    } else {
        super::etc::RESOLV_CLOSED
    };
    write("resolv.conf", resolv.as_bytes())?;
    write(
        "hosts",
        format!("127.0.0.1 localhost {hostname}\n::1 localhost\n").as_bytes(),
    )?;
    write("hostname", format!("{hostname}\n").as_bytes())
}

/// Those that say who one is.
fn accounts(layers: &[OwnedFd], upper: &Path) -> Result<(), StepError> {
    let write = |name: &str, text: &[u8]| std::fs::write(upper.join("etc").join(name), text).step(STEP);
    for (name, own) in [("passwd", ACCOUNT), ("group", GROUP)] {
        let listed = read(layers, &format!("etc/{name}"))?.unwrap_or_default();
        write(name, &with_account(own, &listed))?;
    }
    // The workspace may belong to a user that has no name inside.
    if read(layers, "etc/gitconfig")?.is_none() {
        write("gitconfig", b"[safe]\n\tdirectory = *\n")?;
    }
    Ok(())
}

/// An image's list with the inside user at its front, and without others of that name or number.
fn with_account(own: &str, listed: &[u8]) -> Vec<u8> {
    let mut list = own.as_bytes().to_vec();
    for line in listed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        if name != b"agent" && number != b"1000" {
            list.extend_from_slice(line);
            list.push(b'\n');
        }
    }
    list
}

/// A regular file of the image, from the topmost layer that has it.
fn read(layers: &[OwnedFd], path: &str) -> Result<Option<Vec<u8>>, StepError> {
    for layer in layers {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(layer.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(file) => {
                let found = rustix::fs::fstat(&file).step(STEP)?;
                let mut bytes = Vec::new();
                if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
                    File::from(file).take(LARGEST_LIST).read_to_end(&mut bytes).step(STEP)?;
                }
                return Ok(Some(bytes));
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A link, something not readable, or a mark that the file was removed: as if it were empty.
            Err(_) => return Ok(Some(Vec::new())),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_there_once() {
        let listed = b"root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/bash\n\nagent:x:5:5::/:/x\nwww:x:33:33::/:/x";
        let list = with_account(ACCOUNT, listed);
        let expected = format!("{ACCOUNT}root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/:/x\n");
        assert_eq!(String::from_utf8_lossy(&list), expected);
    }
}
