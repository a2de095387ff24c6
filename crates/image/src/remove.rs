//! Removing a folder that programs nobody trusts have filled.
//!
//! It may be nested deeper than a stack or the table of descriptors is large, and hold folders that not even their owner
//! may open. So nothing is walked down: what lies two levels deep is moved up beside its folder before that is removed. Two
//! descriptors are open at a time, no link is followed, and every path that is used has one part.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Removes a folder with everything in it. Nobody may write to it any more; blocks while it works.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let folder = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmod(path, Mode::RWXU)?;
            rustix::fs::open(path, flags, Mode::empty())?
        }
        opened => opened?,
    };
    rustix::fs::fchmod(&folder, Mode::RWXU)?;
    empty(folder.as_fd())?;
    Ok(rustix::fs::rmdir(path)?)
}

fn empty(folder: BorrowedFd<'_>) -> io::Result<()> {
    // Names that what is moved up gets: nothing that is there already has one.
    let chance = std::hash::RandomState::new().build_hasher().finish();
    let prefix = format!(".gone-{chance:016x}-");
    let mut moved = 0_u64;
    loop {
        let mut found = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            let Some(inner) = opened(folder, name)? else {
                rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
                continue;
            };
            for entry in Dir::read_from(&inner)? {
                let entry = entry?;
                let child = entry.file_name();
                if child == c"." || child == c".." {
                    continue;
                }
                if opened(inner.as_fd(), child)?.is_none() {
                    rustix::fs::unlinkat(&inner, child, AtFlags::empty())?;
                    continue;
                }
                let up = format!("{prefix}{moved}");
                moved += 1;
                rustix::fs::renameat_with(&inner, child, folder, up.as_str(), RenameFlags::NOREPLACE)?;
            }
            rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
        }
        if !found {
            return Ok(());
        }
    }
}

/// Opens an entry if it is a folder, and lets its owner in.
fn opened(folder: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Option<OwnedFd>> {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Ok(None);
    }
    if found.st_mode & 0o700 != 0o700 {
        rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(Some(rustix::fs::openat(folder, name, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn whatever_is_in_it_goes_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (kept, folder) = (place.path().join("kept"), place.path().join("folder"));
        fs::create_dir_all(kept.join("inner")).unwrap();
        fs::write(kept.join("inner/file"), "stays").unwrap();
        fs::create_dir_all(folder.join("a/b/c/d")).unwrap();
        fs::create_dir_all(folder.join("a/locked/inside")).unwrap();
        fs::write(folder.join("a/b/file"), "goes").unwrap();
        symlink(&kept, folder.join("a/b/link")).unwrap();
        symlink(kept.join("inner"), folder.join("link")).unwrap();
        fs::set_permissions(folder.join("a/locked"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(kept.join("inner/file")).unwrap(), "stays");
        assert!(remove_tree(&folder).is_err());
    }

    #[test]
    fn depth_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep");
        fs::create_dir(&folder).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&folder, flags, Mode::empty()).unwrap();
        // Far more than the descriptors and the stack of a test's thread would bear.
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
    }
}
