//! Checkpoints of a folder: everything that a session's files are, in one archive that can be checked.
//!
//! A checkpoint is a folder with `files.tar`, which any `tar` reads, and `manifest.json`, which says of each entry what it is
//! and, for files, the SHA-256 of its content. [`save`] returns the manifest's own SHA-256; [`restore`] wants it back, so
//! whoever keeps that one value notices any change. What does not verify is not used: it is unpacked beside its
//! place, and moved there only when everything was right.
//!
//! Kept are folders, regular files and links (as links), with their rights for reading, writing and running, and their
//! times. Owners are not: what is restored belongs to the owner of the folder. Pipes and sockets are left out, and set-uid
//! bits; a device is refused. The folder is the workload's, so it is read beneath an open descriptor and through no link.
//! A workload that writes meanwhile can make [`save`] fail; [`crate::Sandbox::pause`] holds it still.

mod hashing;
mod restore;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::SandboxError;
use hashing::{Hashed, Hasher, Piece};
pub use restore::restore;

const FILES: &str = "files.tar";
const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;
/// Read, hashed and written at a time.
const PIECE: usize = 96 << 10;
/// The archive is written in steps of this.
const STEP: usize = 512 << 10;

/// A checkpoint that was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// SHA-256 of the manifest, in hex. Needed to restore.
    pub digest: String,
    /// Folders, files and links.
    pub entries: usize,
    /// Content of all files, bytes.
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    /// In the order of the archive.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Relative, `/` between names. Names are bytes: those that are not UTF-8, and `%`, are written `%XX`.
    path: String,
    mode: u32,
    /// Seconds since 1970.
    modified: i64,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    Folder,
    File { size: u64, sha256: String },
    Link { target: String },
}

type Result<T> = std::result::Result<T, SandboxError>;

fn fail<T>(path: &Path, reason: impl std::fmt::Display) -> Result<T> {
    Err(SandboxError::Checkpoint {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    })
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T, E: std::fmt::Display> At<T> for std::result::Result<T, E> {
    fn at(self, path: &Path) -> Result<T> {
        self.or_else(|error| fail(path, error))
    }
}

/// Saves everything in `folder` to a new folder `to`. Blocks. A checkpoint that could not be finished is removed.
pub fn save(folder: &Path, to: &Path) -> Result<Checkpoint> {
    fs::create_dir(to).at(to)?;
    let saved = save_to(folder, to);
    if saved.is_err() {
        let _ = fs::remove_dir_all(to);
    }
    saved
}

fn save_to(folder: &Path, to: &Path) -> Result<Checkpoint> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty()).at(folder)?;
    let archive = to.join(FILES);
    let file = File::create_new(&archive).at(&archive)?;
    let mut entries = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let hasher = Hasher::start(scope);
        let mut tar = tar::Builder::new(BufWriter::with_capacity(STEP, file));
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            for name in names(&root, &path).at(&folder.join(&path))? {
                let path = path.join(name);
                if let Some(entry) = add(&root, &path, &mut tar, (&hasher, entries.len())).at(&folder.join(&path))? {
                    if entry.content == Content::Folder {
                        folders.push(path);
                    }
                    entries.push(entry);
                }
            }
        }
        let mut file = tar
            .into_inner()
            .and_then(|writer| writer.into_inner().map_err(Into::into))
            .at(&archive)?;
        file.flush().at(&archive)?;
        for (at, digest) in hasher.finish() {
            if let Some(Entry {
                content: Content::File { sha256, .. },
                ..
            }) = entries.get_mut(at)
            {
                *sha256 = digest;
            }
        }
        Ok(())
    })?;
    let bytes = entries.iter().map(|entry| entry.size()).sum();
    let count = entries.len();
    let manifest = Manifest {
        version: VERSION,
        entries,
    };
    let path = to.join(MANIFEST);
    let text = serde_json::to_vec(&manifest).at(&path)?;
    fs::write(&path, &text).at(&path)?;
    Ok(Checkpoint {
        digest: hex(&Sha256::digest(&text)),
        entries: count,
        bytes,
    })
}

impl Entry {
    fn size(&self) -> u64 {
        match self.content {
            Content::File { size, .. } => size,
            Content::Folder | Content::Link { .. } => 0,
        }
    }
}

/// Names in a folder, sorted.
fn names(root: &OwnedFd, path: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStringExt;
    let folder = beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(std::ffi::OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    names.sort();
    Ok(names)
}

fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mut tries = 0;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if tries < 64 => tries += 1,
            result => return result,
        }
    }
}

/// Adds one entry to the archive; `None` for what is left out.
fn add(
    root: &OwnedFd,
    path: &Path,
    tar: &mut tar::Builder<BufWriter<File>>,
    (hasher, number): (&Hasher, usize),
) -> io::Result<Option<Entry>> {
    // First what it is, without opening what waits or does something when it is opened.
    let found = beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&found)?;
    let mut header = tar::Header::new_gnu();
    let mode = stat.st_mode & 0o777;
    let modified = stat.st_mtime.max(0);
    header.set_mode(mode);
    header.set_mtime(modified.unsigned_abs());
    header.set_size(0);
    let content = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, io::empty())?;
            Content::Folder
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = File::from(beneath(root, path, flags)?);
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::Error::other(
                    "it changed while it was saved; pause the sandbox first",
                ));
            }
            let size = found.len();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            hasher.tell(Piece::Begin(number));
            let mut content = Hashed::new(file, size, hasher);
            tar.append_data(&mut header, path, &mut content)?;
            Content::File {
                size,
                sha256: String::new(),
            }
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes())).to_path_buf();
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, &target)?;
            Content::Link {
                target: written(&target),
            }
        }
        FileType::Fifo | FileType::Socket => return Ok(None),
        _ => {
            return Err(io::Error::other(
                "is a device; only files, folders and links can be saved",
            ));
        }
    };
    Ok(Some(Entry {
        path: written(path),
        mode,
        modified,
        content,
    }))
}

/// A path as text, from which its bytes can be read back.
fn written(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '%' || character.is_control() {
                character
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| text.push_str(&format!("%{byte:02X}")));
            } else {
                text.push(character);
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

fn read_bytes(text: &str) -> std::result::Result<Vec<u8>, String> {
    let bad = || format!("{text:?} is not a written path");
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (code, rest) = part.split_at_checked(2).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(code, 16).map_err(|_| bad())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

/// A relative path of plain names.
fn read_path(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&read_bytes(text)?));
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0) {
        Ok(path)
    } else {
        Err(format!("{text:?} is not a relative path of plain names"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
