//! Restoring: unpacked beside its place, checked against the manifest, and only then moved there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use sha2::{Digest, Sha256};

use super::hashing::{Hasher, Piece};
use super::{
    At, Checkpoint, Content, Entry, FILES, MANIFEST, Manifest, PIECE, Result, VERSION, beneath, fail, hex, read_bytes,
    read_path,
};

const LARGEST_MANIFEST: u64 = 256 << 20;

/// Restores a checkpoint into a folder, which must be empty and is made if it does not exist. Blocks.
///
/// `digest` is what [`save`] returned. If anything is not as it was saved, the folder is left empty.
pub fn restore(checkpoint: &Path, digest: &str, folder: &Path) -> Result<Checkpoint> {
    let path = checkpoint.join(MANIFEST);
    let mut text = Vec::new();
    let file = File::open(&path).at(&path)?;
    file.take(LARGEST_MANIFEST).read_to_end(&mut text).at(&path)?;
    if hex(&Sha256::digest(&text)) != digest.to_ascii_lowercase() {
        return fail(
            &path,
            "is not what was saved (its digest differs); nothing was restored",
        );
    }
    let manifest: Manifest = serde_json::from_slice(&text).at(&path)?;
    if manifest.version != VERSION {
        return fail(&path, format!("has version {}, known is {VERSION}", manifest.version));
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return fail(folder, error),
        _ => {}
    }
    make_empty(folder)?;
    let staging = folder.join(format!("{STAGING}{:016x}", rand::random::<u64>()));
    fs::create_dir(&staging).at(&staging)?;
    let restored = unpack(checkpoint, &manifest, &staging)
        .and_then(|()| own_like(folder, &manifest, &staging))
        .and_then(|()| move_up(&staging, folder))
        // In its place, as a folder that cannot be written cannot be moved either.
        .and_then(|()| settle(&manifest, folder));
    if restored.is_err() {
        // It was empty, so all of it is of this checkpoint.
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .for_each(|entry| remove_all(&entry.path()));
    }
    restored?;
    Ok(Checkpoint {
        digest: digest.to_ascii_lowercase(),
        entries: manifest.entries.len(),
        bytes: manifest.entries.iter().map(Entry::size).sum(),
    })
}

/// What is being restored stands in a folder of this name until all of it was checked.
pub(super) const STAGING: &str = ".outwork-restoring-";

/// Refuses a folder that holds something, and removes what an interrupted restoring left.
fn make_empty(folder: &Path) -> Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir(folder).at(folder)? {
        let entry = entry.at(folder)?;
        if !entry.file_name().as_bytes().starts_with(STAGING.as_bytes()) {
            return fail(folder, "is not empty; restore into an empty folder");
        }
        left.push(entry.path());
    }
    left.iter().for_each(|path| remove_all(path));
    Ok(())
}

/// Removes a file, or a folder whatever the rights of the folders in it are.
pub(super) fn remove_all(folder: &Path) {
    if fs::remove_dir_all(folder).is_ok() || fs::remove_file(folder).is_ok() {
        return;
    }
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    let _ = fs::remove_dir_all(folder);
}

/// Unpacks the archive, and checks every entry of it against the manifest.
fn unpack(checkpoint: &Path, manifest: &Manifest, staging: &Path) -> Result<()> {
    let archive = checkpoint.join(FILES);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(staging, flags, Mode::empty()).at(staging)?;
    let file = io::BufReader::with_capacity(64 << 10, File::open(&archive).at(&archive)?);
    let digests = std::thread::scope(|scope| -> Result<Vec<(usize, String)>> {
        let hasher = Hasher::start(scope);
        let mut tar = tar::Archive::new(file);
        let mut found = tar.entries().at(&archive)?;
        let mut parent: (PathBuf, Option<OwnedFd>) = (PathBuf::new(), None);
        for (number, wanted) in manifest.entries.iter().enumerate() {
            let path = read_path(&wanted.path).at(&archive)?;
            let Some(entry) = found.next() else {
                return fail(&archive, format!("ends before {}; nothing was restored", wanted.path));
            };
            let mut entry = entry.at(&archive)?;
            if let Err(what) = same(&entry, wanted, &path) {
                return fail(
                    &archive,
                    format!(
                        "{}: its {what} is not what was saved; nothing was restored",
                        wanted.path
                    ),
                );
            }
            let above = path.parent().unwrap_or(Path::new("")).to_path_buf();
            if parent.1.is_none() || parent.0 != above {
                let opened = beneath(&root, &above, OFlags::PATH | OFlags::DIRECTORY).at(&staging.join(&above))?;
                parent = (above, Some(opened));
            }
            let (Some(name), Some(folder)) = (path.file_name(), &parent.1) else {
                return fail(&archive, format!("{:?} is not a name", wanted.path));
            };
            match &wanted.content {
                Content::Folder => {
                    rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)).at(&staging.join(&path))?;
                }
                Content::Link { target } => {
                    let target = read_bytes(target).at(&archive)?;
                    rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(&target), folder, name)
                        .at(&staging.join(&path))?;
                }
                Content::File { size, .. } => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file =
                        rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)).at(&staging.join(&path))?;
                    copy(&mut entry, &File::from(file), *size, (&hasher, number)).at(&archive)?;
                }
            }
        }
        if found.next().is_some() {
            return fail(&archive, "has more entries than were saved; nothing was restored");
        }
        Ok(hasher.finish())
    })?;
    let mut digests = digests.into_iter();
    for (number, entry) in manifest.entries.iter().enumerate() {
        if let Content::File { sha256, .. } = &entry.content
            && digests.next().as_ref() != Some(&(number, sha256.clone()))
        {
            return fail(
                &archive,
                format!(
                    "{}: its content is not what was saved; nothing was restored",
                    entry.path
                ),
            );
        }
    }
    Ok(())
}

/// Whether an entry of the archive is what the manifest says; else what differs.
fn same<R: Read>(entry: &tar::Entry<'_, R>, wanted: &Entry, path: &Path) -> std::result::Result<(), &'static str> {
    let header = entry.header();
    let name = entry.path_bytes();
    if name.strip_suffix(b"/").unwrap_or(&name) != path.as_os_str().as_bytes() {
        return Err("name");
    }
    if header.mode().ok() != Some(wanted.mode) || header.mtime().ok() != u64::try_from(wanted.modified).ok() {
        return Err("description");
    }
    let (kind, size) = match &wanted.content {
        Content::Folder => (tar::EntryType::Directory, 0),
        Content::File { size, .. } => (tar::EntryType::Regular, *size),
        Content::Link { target } => {
            let target = read_bytes(target).map_err(|_| "target")?;
            if entry.link_name_bytes().as_deref() != Some(&target[..]) {
                return Err("target");
            }
            (tar::EntryType::Symlink, 0)
        }
    };
    if header.entry_type() != kind {
        return Err("type");
    }
    if entry.size() != size {
        return Err("size");
    }
    Ok(())
}

/// Copies a file's content, which the hashing thread sees on its way.
fn copy(from: &mut impl Read, to: &File, size: u64, (hasher, number): (&Hasher, usize)) -> io::Result<()> {
    hasher.tell(Piece::Begin(number));
    let mut at = 0;
    while at < size {
        let length = (size - at).min(PIECE as u64);
        let mut piece = Vec::with_capacity(length as usize);
        from.by_ref().take(length).read_to_end(&mut piece)?;
        if piece.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let piece = Arc::new(piece);
        hasher.tell(Piece::Bytes(Arc::clone(&piece)));
        to.write_all_at(&piece, at)?;
        at += length;
    }
    Ok(())
}

/// Gives what was unpacked to the folder's owner, where that is another user.
fn own_like(folder: &Path, manifest: &Manifest, staging: &Path) -> Result<()> {
    let owner = fs::metadata(folder).at(folder)?;
    let made = fs::metadata(staging).at(staging)?;
    if (owner.uid(), owner.gid()) == (made.uid(), made.gid()) {
        return Ok(());
    }
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner.uid()),
        rustix::fs::Gid::from_raw(owner.gid()),
    );
    for entry in &manifest.entries {
        let path = staging.join(read_path(&entry.path).at(staging)?);
        rustix::fs::chownat(rustix::fs::CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(&path)?;
    }
    Ok(())
}

/// Rights and times, from the innermost out: a folder may be one that cannot be written.
fn settle(manifest: &Manifest, folder: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty()).at(folder)?;
    for entry in manifest.entries.iter().rev() {
        let path = read_path(&entry.path).at(folder)?;
        if !matches!(entry.content, Content::Link { .. }) {
            rustix::fs::chmodat(&root, &path, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .at(&folder.join(&path))?;
        }
        let time = Timespec {
            tv_sec: entry.modified,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(&root, &path, &times, AtFlags::SYMLINK_NOFOLLOW).at(&folder.join(&path))?;
    }
    Ok(())
}

fn move_up(staging: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(staging).at(staging)? {
        let entry = entry.at(staging)?;
        fs::rename(entry.path(), folder.join(entry.file_name())).at(&entry.path())?;
    }
    fs::remove_dir(staging).at(staging)
}
