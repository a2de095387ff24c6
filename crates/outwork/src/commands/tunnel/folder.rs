//! The folder of a gateway: its files, and which tunnel it belongs to.
//!
//! Every file is written aside and put in place whole; keys and the token have mode 0600 from their first byte. One
//! command works on a folder at a time. A folder of another tunnel is refused.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// Which tunnel the folder is of.
const STATE: &str = "tunnel.json";
const LOCK: &str = ".setup.lock";
/// The tunnel's token.
pub(super) const TOKEN: &str = "token";
/// The certificate that the gateway shows.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub(super) const KEY: &str = "tls.key";
/// The authority that signed it.
pub(super) const AUTHORITY: &str = "ca.crt";
/// The authority's key.
pub(super) const AUTHORITY_KEY: &str = "ca.key";
/// The authority that is about to follow.
pub(super) const NEXT_AUTHORITY: &str = "ca-next.crt";
/// Its key.
pub(super) const NEXT_AUTHORITY_KEY: &str = "ca-next.key";
/// The authority before, until it is archived.
pub(super) const OLD_AUTHORITY: &str = "ca-old.crt";

/// What a file may show, to whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Everybody.
    Public,
    /// Its owner.
    Secret,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Made,
    Replaced,
    Kept,
}

impl Change {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Change::Made => "made",
            Change::Replaced => "replaced",
            Change::Kept => "kept",
        }
    }
}

/// Which tunnel a folder is of, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The name that a tunnel was, or is about to be, made with: finds it again after a crash between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tunnel_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<String>,
    /// The server that keeps the tunnel; absent where it was set up by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
}

/// A folder, held.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens a folder; makes it if there is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("could not make the folder {}", path.display()))?;
        Self::hold(path)
    }

    /// Opens a folder that a setup made.
    pub(super) fn existing(path: &Path) -> Result<Self> {
        if !path.join(STATE).try_exists().unwrap_or(true) {
            bail!(
                "{} is no folder of `outwork tunnel setup`: there is no {STATE} in it",
                path.display()
            );
        }
        Self::hold(path)
    }

    fn hold(path: &Path) -> Result<Self> {
        let lock = path.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("could not open {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: file,
            }),
            Err(TryLockError::WouldBlock) => {
                bail!("another setup or renewal works on {}: let it end first", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("could not lock {}", lock.display())),
        }
    }

    /// The path of a file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where it is.
    pub(super) fn at(&self) -> &Path {
        &self.path
    }

    /// The text of a file, if it is there.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
        }
    }

    /// A secret file, if it is there.
    pub(super) fn read_secret(&self, name: &str) -> Result<Option<SecretString>> {
        Ok(self.read(name)?.map(SecretString::from))
    }

    /// Writes a file, if it is not there with this text and mode.
    pub(super) fn write(&self, name: &str, text: &str, mode: Mode) -> Result<Change> {
        let path = self.path(name);
        let bits = match mode {
            Mode::Public => 0o644,
            Mode::Secret => 0o600,
        };
        let failed = || format!("could not write {}", path.display());
        let before = self.read(name)?;
        if before.as_deref() == Some(text) {
            let now = fs::metadata(&path).with_context(failed)?.permissions().mode() & 0o777;
            if mode == Mode::Secret && now & 0o077 != 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(bits)).with_context(failed)?;
            }
            return Ok(Change::Kept);
        }
        let aside = self.path(&format!(".{name}.new"));
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(failed),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(bits)
            .open(&aside)
            .with_context(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&aside, &path))
            .and_then(|()| File::open(&self.path)?.sync_all())
            .with_context(failed)?;
        Ok(if before.is_some() {
            Change::Replaced
        } else {
            Change::Made
        })
    }

    /// Writes a secret file.
    pub(super) fn write_secret(&self, name: &str, text: &SecretString) -> Result<Change> {
        self.write(name, text.expose_secret(), Mode::Secret)
    }

    /// Takes a file away, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("could not remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Which tunnel it is of. Nothing yet in a folder that is empty or holds only what a person put there.
    pub(super) fn state(&self) -> Result<State> {
        let Some(text) = self.read(STATE)? else {
            for name in [AUTHORITY_KEY, KEY, TOKEN] {
                if self.path(name).exists() {
                    bail!(
                        "{} holds a {name} and no {STATE}: it is of something else; give another --folder",
                        self.path.display()
                    );
                }
            }
            return Ok(State::default());
        };
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged: restore it, or give another --folder",
                self.path(STATE).display()
            )
        })
    }

    /// Keeps which tunnel it is of.
    pub(super) fn keep(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state)? + "\n";
        self.write(STATE, &text, Mode::Public)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_written_once_and_secrets_are_for_their_owner() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("gateway");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(folder.write(TOKEN, "one", Mode::Secret).unwrap(), Change::Made);
        assert_eq!(folder.write(TOKEN, "one", Mode::Secret).unwrap(), Change::Kept);
        assert_eq!(folder.write(TOKEN, "two", Mode::Secret).unwrap(), Change::Replaced);
        assert_eq!(
            (mode(&folder.path(TOKEN)), folder.read(TOKEN).unwrap().unwrap()),
            (0o600, "two".into())
        );
        fs::set_permissions(folder.path(TOKEN), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(folder.write(TOKEN, "two", Mode::Secret).unwrap(), Change::Kept);
        assert_eq!(mode(&folder.path(TOKEN)), 0o600);
        assert!(Folder::open(&path).is_err(), "two at a time");
        drop(folder);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap();
        assert_eq!(folder.state().unwrap(), State::default());
        fs::write(folder.path(KEY), "a key").unwrap();
        assert!(folder.state().unwrap_err().to_string().contains(KEY));
        let state = State {
            tunnel_id: Some("tnl_1".into()),
            ..State::default()
        };
        folder.keep(&state).unwrap();
        assert_eq!(folder.state().unwrap(), state);
        fs::write(folder.path(STATE), "{").unwrap();
        assert!(folder.state().is_err());
    }
}
