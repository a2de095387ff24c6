//! How much an installer has written, looked at while it writes: by descriptors, never through a link, and bounded.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

const DEEPEST: usize = 128;
const MOST: u64 = 1_000_000;
/// What must stay free on the file system.
const RESERVE: u64 = 1 << 30;

/// The bytes that a folder takes. An error says why the installation must end.
pub(super) async fn once(folder: &Path) -> Result<u64, String> {
    let folder = folder.to_owned();
    let measured = tokio::task::spawn_blocking(move || of(&folder)).await;
    measured.map_err(|error| error.to_string())?
}

fn of(path: &Path) -> Result<u64, String> {
    let failed = |errno: Errno| format!("{}: {errno}", path.display());
    let free = rustix::fs::statvfs(path).map_err(failed)?;
    let (free, whole) = (
        free.f_bavail.saturating_mul(free.f_frsize),
        free.f_blocks.saturating_mul(free.f_frsize),
    );
    if free < RESERVE.min(whole / 20) {
        return Err("the disk of the worker is nearly full".to_owned());
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    // The overlay keeps its own things in `work`; they are few.
    let upper = match rustix::fs::openat(&folder, "upper", flags, Mode::empty()) {
        Ok(upper) => upper,
        Err(Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(failed(errno)),
    };
    let mut seen = 0;
    below(&upper, 0, &mut seen)
}

fn below(folder: &OwnedFd, depth: usize, seen: &mut u64) -> Result<u64, String> {
    if depth >= DEEPEST {
        return Err(format!("they make folders deeper than {DEEPEST}"));
    }
    let mut bytes = 0;
    // What vanishes meanwhile is not counted.
    let Ok(entries) = Dir::read_from(folder) else {
        return Ok(0);
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *seen += 1;
        if *seen > MOST {
            return Err(format!("they make more than {MOST} files"));
        }
        let Ok(found) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(inner) => bytes += below(&inner, depth + 1, seen)?,
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err("they make a folder that not even its owner may open".to_owned());
            }
            Err(_) => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_counted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(once(folder.path()).await.unwrap(), 0);
        let upper = folder.path().join("upper/a/b");
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::write(upper.join("file"), vec![1; 3 << 20]).unwrap();
        std::os::unix::fs::symlink("/usr", upper.join("link")).unwrap();
        let bytes = once(folder.path()).await.unwrap();
        assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
        let mut deep = upper;
        for _ in 0..DEEPEST {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert!(once(folder.path()).await.unwrap_err().contains("deeper"));
    }
}
