//! Results that were too long for the conversation, brought into the workspace, where tools can read them.
//!
//! The folder belongs to what runs in the sandbox, so nothing in it is believed: every step is made from an open folder
//! and follows no link, and a file appears under its name only when it is whole and has the hash that the server gave.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use outwork_client::{Client, ClientError, Download, SessionText};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, renameat, statat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// How long bringing everything may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The names of folders and files that are taken from a server.
const MAX_NAME: usize = 128;
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Brings what is not there yet. What cannot be brought is said in the log: the conversation says that it may be missing.
pub(crate) async fn bring(client: &Client, session: &str, workspace: &Path) {
    match tokio::time::timeout(DEADLINE, bring_all(client, session, workspace)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(session, %error, "long results could not be put into the workspace"),
        Err(_) => tracing::warn!(
            session,
            "long results could not be put into the workspace within {DEADLINE:?}"
        ),
    }
}

#[derive(Debug, thiserror::Error)]
enum TextError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the server names the place `{0}`, which is not one below the working folder")]
    Place(String),
    #[error("{path}: {source}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} came with other bytes than the server said")]
    Changed(String),
}

async fn bring_all(client: &Client, session: &str, workspace: &Path) -> Result<(), TextError> {
    let files = client.session_files(session);
    let texts = match files.texts().await {
        // A server that does not know them has none.
        Err(error) if error.status() == Some(404) => return Ok(()),
        texts => texts?,
    };
    for text in texts {
        let (folder, name) = place(&text.path).ok_or_else(|| TextError::Place(text.path.clone()))?;
        let fault = |source: Errno| TextError::File {
            path: text.path.clone(),
            source: source.into(),
        };
        let folder = open_folder(workspace, &folder).map_err(fault)?;
        if is_there(&folder, name, text.size_bytes) {
            continue;
        }
        let part = format!(".{name}.part");
        let taken = take(files.text(&text.event_id).await?, &folder, &part, &text).await;
        let placed = match taken {
            Ok(()) => renameat(&folder, part.as_str(), &folder, name).map_err(fault),
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            // It is ours, and of no use.
            let _ = unlinkat(&folder, part.as_str(), AtFlags::empty());
            return Err(error);
        }
        tracing::info!(
            session,
            path = text.path,
            bytes = text.size_bytes,
            "a long result is in the workspace"
        );
    }
    Ok(())
}

/// The folders and the name of a place below the working folder; `None` if it may be anywhere else.
fn place(path: &str) -> Option<(Vec<&str>, &str)> {
    let mut parts: Vec<&str> = path.split('/').collect();
    let plain = |part: &&str| {
        (1..=MAX_NAME).contains(&part.len())
            && *part != ".."
            && *part != "."
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if !parts.iter().all(plain) {
        return None;
    }
    let name = parts.pop()?;
    Some((parts, name))
}

/// The folder below the workspace, made where it is missing. A link on the way is an error.
fn open_folder(workspace: &Path, parts: &[&str]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, workspace, flags, Mode::empty())?;
    for part in parts {
        match mkdirat(&folder, *part, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        folder = openat2(
            &folder,
            *part,
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
    }
    Ok(folder)
}

/// Whether there is a file of that size. What it holds is the business of those who may change it.
fn is_there(folder: &OwnedFd, name: &str, size: u64) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| found.st_size as u64 == size && found.st_mode & 0o170_000 == 0o100_000)
}

/// Writes a text under a name of its own, which nobody had before.
async fn take(mut from: Download, folder: &OwnedFd, part: &str, text: &SessionText) -> Result<(), TextError> {
    let fault = |source: std::io::Error| TextError::File {
        path: text.path.clone(),
        source,
    };
    match unlinkat(folder, part, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(fault(error.into())),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, part, flags, FILE_MODE).map_err(|error| fault(error.into()))?);
    let mut hash = Sha256::new();
    let mut written: u64 = 0;
    while let Some(piece) = from.piece().await? {
        written += piece.len() as u64;
        if written > text.size_bytes {
            return Err(TextError::Changed(text.path.clone()));
        }
        hash.update(&piece);
        file.write_all(&piece).map_err(fault)?;
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if written != text.size_bytes || found != text.sha256 {
        return Err(TextError::Changed(text.path.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_place_is_below_the_working_folder() {
        assert_eq!(
            place(".outwork/outputs/a-1.txt"),
            Some((vec![".outwork", "outputs"], "a-1.txt"))
        );
        assert_eq!(place("a"), Some((vec![], "a")));
        for bad in [
            "",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "a//b",
            "./a",
            "a\0b",
            "a b",
            &"a".repeat(200),
        ] {
            assert_eq!(place(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_link_on_the_way_leads_nowhere() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), inside.path().join(".outwork")).unwrap();
        assert!(open_folder(inside.path(), &[".outwork", "outputs"]).is_err());
        assert!(!outside.path().join("outputs").exists());
        std::fs::remove_file(inside.path().join(".outwork")).unwrap();
        open_folder(inside.path(), &[".outwork", "outputs"]).unwrap();
        assert!(inside.path().join(".outwork/outputs").is_dir());
    }

    #[test]
    fn a_file_is_there_if_it_is_one_and_has_the_size() {
        let inside = tempfile::tempdir().unwrap();
        let folder = open_folder(inside.path(), &[]).unwrap();
        std::fs::write(inside.path().join("a"), "four").unwrap();
        symlink("a", inside.path().join("b")).unwrap();
        assert!(is_there(&folder, "a", 4));
        assert!(!is_there(&folder, "a", 5) && !is_there(&folder, "b", 4) && !is_there(&folder, "c", 0));
    }
}
