//! Files of a session on their way into its sandbox: fetched once, compared with the hash that the server gave, and
//! mounted read-only.
//!
//! They lie in the worker's own folder. Those at the usual place are links in one folder that is mounted as a whole, so
//! a file that is added while the sandbox stands is there at once.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use outwork_client::{Client, Mount, MountKind};
use outwork_ledger::Hash;
use sha2::{Digest, Sha256};

use super::error::BoundaryError;
use super::journal::Journal;
use crate::ReadOnlyMount;
use crate::worker::item::make_folder;

/// Where files are unless a resource says otherwise.
const UPLOADS: &str = "/mnt/session/uploads";
/// Files that are fetched at the same time.
const AT_ONCE: usize = 4;

/// One file, and where it belongs.
struct Wanted<'a> {
    id: &'a str,
    sha256: &'a str,
    size: u64,
    place: &'a str,
}

/// Brings every file that is not there yet, and gives what is to be mounted.
pub(crate) async fn bring(
    client: &Client,
    journal: &Journal,
    folder: &Path,
    mounts: &[Mount],
) -> Result<Vec<ReadOnlyMount>, BoundaryError> {
    let mut wanted = Vec::new();
    for mount in mounts {
        let MountKind::File {
            file_id,
            size_bytes,
            sha256,
        } = &mount.kind
        else {
            if mount.kind == MountKind::Other {
                return Err(BoundaryError::File {
                    place: mount.mount_path.clone(),
                    reason: "this worker does not know resources of its kind".to_owned(),
                });
            }
            continue;
        };
        match (size_bytes, sha256, mount.available) {
            (Some(size), Some(sha256), true) => wanted.push(Wanted {
                id: file_id,
                sha256,
                size: *size,
                place: &mount.mount_path,
            }),
            _ => {
                tracing::warn!(
                    file = file_id,
                    place = mount.mount_path,
                    "a file of the session is gone; not mounted"
                );
                journal
                    .file_not_in(&mount.mount_path, "the file was deleted or has expired")
                    .await;
            }
        }
    }
    let (files, uploads) = (folder.join("files"), folder.join("uploads"));
    if wanted.is_empty() && !uploads.exists() {
        return Ok(Vec::new());
    }
    for path in [&files, &uploads] {
        make_folder(path).map_err(BoundaryError::folder(path))?;
    }
    let mut fetched: Vec<BoxFuture<'_, _>> = Vec::with_capacity(wanted.len());
    for file in &wanted {
        fetched.push(Box::pin(fetch(client, journal, &files, file)));
    }
    let () = futures_util::stream::iter(fetched)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut targets = Vec::new();
    let mut links = HashSet::new();
    for file in &wanted {
        let source = files.join(file.sha256);
        match Path::new(file.place).strip_prefix(UPLOADS).ok().and_then(Path::to_str) {
            Some(name) if is_plain(name) => {
                link(&source, &uploads.join(name)).map_err(BoundaryError::folder(&uploads))?;
                links.insert(name.to_owned());
            }
            _ => targets.push(ReadOnlyMount {
                source,
                target: PathBuf::from(file.place),
            }),
        }
    }
    forget(&uploads, &links).map_err(BoundaryError::folder(&uploads))?;
    if !links.is_empty() {
        targets.push(ReadOnlyMount {
            source: uploads,
            target: PathBuf::from(UPLOADS),
        });
    }
    Ok(targets)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// A second name for a file, in place of whatever had it.
fn link(source: &Path, name: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    match name.symlink_metadata() {
        Ok(found) if found.ino() == source.metadata()?.ino() => return Ok(()),
        Ok(_) => std::fs::remove_file(name)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::hard_link(source, name)
}

/// Takes away the names of files that are no resources any more.
fn forget(uploads: &Path, links: &HashSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(uploads)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| links.contains(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn fetch(client: &Client, journal: &Journal, files: &Path, file: &Wanted<'_>) -> Result<(), BoundaryError> {
    let fail = |reason: String| BoundaryError::File {
        place: file.place.to_owned(),
        reason,
    };
    let hash: Hash = match file.sha256.parse() {
        Ok(hash) => hash,
        Err(_) => return Err(fail("the server gave a hash that is none".to_owned())),
    };
    let path = files.join(file.sha256);
    // What is there was compared when it came, and nobody else can write here.
    if path.metadata().is_ok_and(|found| found.len() == file.size) {
        return Ok(());
    }
    journal.file_in(file.place, Some(hash)).await?;
    let away = |source| BoundaryError::Server {
        what: format!("the file for {}", file.place),
        source,
    };
    let mut from = client.files().download(file.id).await.map_err(away)?;
    let mut part = tempfile::Builder::new()
        .prefix("part-")
        .tempfile_in(files)
        .map_err(|error| fail(error.to_string()))?;
    let (mut digest, mut written) = (Sha256::new(), 0_u64);
    while let Some(piece) = from.piece().await.map_err(away)? {
        written += piece.len() as u64;
        if written > file.size {
            break;
        }
        digest.update(&piece);
        part.write_all(&piece).map_err(|error| fail(error.to_string()))?;
    }
    if written != file.size || Hash::from_bytes(digest.finalize().into()) != hash {
        return Err(fail("it came with other bytes than the server said".to_owned()));
    }
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let placed = part
        .as_file()
        .set_permissions(readable)
        .and_then(|()| part.persist(&path).map_err(|error| error.error));
    placed.map_err(|error| fail(error.to_string()))?;
    tracing::info!(
        file = file.id,
        place = file.place,
        bytes = file.size,
        "a file of the session is here"
    );
    Ok(())
}
