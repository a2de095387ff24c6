//! Whether files changed: looked at by their metadata, and by their content where that changed.
//!
//! Polling, because the files that matter come and go by renames and links (mounted secrets, editors, other containers),
//! where notifications of a directory are easily lost.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// Files under watch.
pub struct Watched {
    files: Vec<(PathBuf, Seen)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Seen {
    meta: Option<(SystemTime, u64, u64)>,
    content: Option<[u8; 32]>,
}

impl Watched {
    /// Watches files, as they are now.
    pub fn new(files: Vec<PathBuf>) -> Watched {
        Watched {
            files: files.into_iter().map(|path| (path.clone(), see(&path))).collect(),
        }
    }

    /// Watches these files from now on, those that were watched as they were last seen.
    pub fn watch(&mut self, files: Vec<PathBuf>) {
        let old = std::mem::take(&mut self.files);
        self.files = files
            .into_iter()
            .map(|path| {
                let known = old.iter().find(|(old, _)| *old == path).map(|(_, seen)| seen.clone());
                (path.clone(), known.unwrap_or_else(|| see(&path)))
            })
            .collect();
    }

    /// Whether the content of one changed since it was last seen; a file that came or went counts.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.files {
            if meta(path) == seen.meta {
                continue;
            }
            let now = see(path);
            changed |= now.content != seen.content;
            *seen = now;
        }
        changed
    }
}

fn meta(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

fn see(path: &Path) -> Seen {
    // The metadata first: a change between the two is seen again the next time.
    let meta = meta(path);
    let content = std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into());
    Seen { meta, content }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(vec![path.clone(), folder.path().join("absent")]);
        assert!(!watched.changed());
        std::fs::write(&path, "two!").unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::write(folder.path().join("b"), "two!").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert!(!watched.changed(), "another file with the same content");
        std::fs::remove_file(&path).unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::write(folder.path().join("absent"), "").unwrap();
        assert!(watched.changed());
    }
}
