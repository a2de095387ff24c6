//! The master key: what data keys are sealed under, outside the database.
//!
//! [`MasterKey`] is the room for a key service. [`LocalMasterKeys`] is what there is: keys from `OUTWORK_MASTER_KEY`, or
//! from the file `master.key` in the data folder, which is made at the first start with mode 0600. Several keys may be
//! given: the first seals, all of them open. That is what makes a rotation possible, and safe to be interrupted.
//!
//! The id of a key is made from its bytes, so that a key that is missing can be named.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use outwork_store::Store;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::VaultError;
use super::aead::{KEY_LEN, Key, KeyBytes, fresh_key};

/// The file in the data folder.
pub(crate) const FILE: &str = "master.key";
/// The environment variable.
pub(crate) const VARIABLE: &str = "OUTWORK_MASTER_KEY";

/// Why a master key did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// No key of that id is here.
    #[error(
        "the secrets in the database are sealed under the master key {key_id}, which is not the one given. Restore the \
         file master.key of the data folder, or set OUTWORK_MASTER_KEY to that key. Without it the stored credentials \
         cannot be read by anybody"
    )]
    Unknown {
        /// The id of the key that is wanted.
        key_id: String,
    },
    /// The right key does not open it.
    #[error(
        "a data key in the database is damaged or belongs to another workspace: restore the database from a backup"
    )]
    Damaged,
    /// The file cannot be used.
    #[error("cannot use the master key in {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// What was given is no key.
    #[error("{0} does not hold a master key: give 32 random bytes in base64, as `openssl rand -base64 32` makes them")]
    NoKey(String),
    /// A key service did not answer.
    #[error("the master key cannot be used at the moment: {0}")]
    Unavailable(String),
}

/// Seals and opens data keys.
pub trait MasterKey: Send + Sync {
    /// The id of the key that seals at present.
    fn key_id(&self) -> &str;

    /// Seals a data key for a place, under the present key.
    fn seal<'a>(&'a self, place: &'a [&'a str], key: &'a [u8; 32]) -> BoxFuture<'a, Result<Vec<u8>, MasterKeyError>>;

    /// Opens a data key that was sealed for a place under the key of that id.
    fn open<'a>(
        &'a self,
        key_id: &'a str,
        place: &'a [&'a str],
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<[u8; 32]>, MasterKeyError>>;
}

/// Master keys in this process's memory. The first seals, all of them open.
pub struct LocalMasterKeys {
    keys: Vec<(String, Key)>,
}

impl LocalMasterKeys {
    /// The keys of a plane: those that were given, else those of the data folder, else a fresh one, which is kept there.
    pub(crate) async fn of_plane(
        data_dir: &Path,
        given: Option<&SecretString>,
        store: &Store,
    ) -> Result<Self, VaultError> {
        if let Some(given) = given {
            return Ok(Self::new(&texts_given(given)?));
        }
        let path = data_dir.join(FILE);
        if let Some(keys) = read_file(&path)? {
            return Ok(Self::new(&keys));
        }
        if let Some(row) = store.data_keys().await?.first() {
            return Err(MasterKeyError::Unknown {
                key_id: row.master_key_id.clone(),
            }
            .into());
        }
        let key = fresh_key();
        write_file(&path, std::slice::from_ref(&key))?;
        Ok(Self::new(&[key]))
    }

    pub(crate) fn new(keys: &[KeyBytes]) -> Self {
        Self {
            keys: keys.iter().map(|bytes| (key_id(bytes), Key::new(bytes))).collect(),
        }
    }
}

impl MasterKey for LocalMasterKeys {
    fn key_id(&self) -> &str {
        self.keys.first().map_or("", |(id, _)| id)
    }

    fn seal<'a>(&'a self, place: &'a [&'a str], key: &'a [u8; 32]) -> BoxFuture<'a, Result<Vec<u8>, MasterKeyError>> {
        Box::pin(async move {
            match self.keys.first() {
                Some((_, master)) => Ok(master.seal(place, key)),
                None => Err(MasterKeyError::Unavailable("there is none".into())),
            }
        })
    }

    fn open<'a>(
        &'a self,
        key_id: &'a str,
        place: &'a [&'a str],
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<[u8; 32]>, MasterKeyError>> {
        Box::pin(async move {
            let (_, master) = self
                .keys
                .iter()
                .find(|(id, _)| id == key_id)
                .ok_or_else(|| MasterKeyError::Unknown {
                    key_id: key_id.to_owned(),
                })?;
            let opened = master.open(place, sealed).ok_or(MasterKeyError::Damaged)?;
            key_bytes(&opened).ok_or(MasterKeyError::Damaged)
        })
    }
}

/// The id of a key. It says nothing of the key.
pub(crate) fn key_id(bytes: &KeyBytes) -> String {
    let mut hash = Sha256::new();
    hash.update(b"outwork master key id");
    hash.update(bytes.as_slice());
    let digest = hash.finalize();
    let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("mkey_{short}")
}

/// The keys in the text of `OUTWORK_MASTER_KEY`: the present one, then earlier ones, separated by commas.
pub(crate) fn texts_given(given: &SecretString) -> Result<Vec<KeyBytes>, MasterKeyError> {
    given
        .expose_secret()
        .split(',')
        .map(|text| decode(text).ok_or_else(|| MasterKeyError::NoKey(VARIABLE.into())))
        .collect()
}

/// The keys in the file, the present one first; none if there is no file. A file that others can read is refused.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<KeyBytes>>, MasterKeyError> {
    let fail = |problem: String| MasterKeyError::File {
        path: path.to_owned(),
        problem,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let mode = std::fs::metadata(path)
        .map_err(|error| fail(error.to_string()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(fail(format!(
            "others can read it (mode {:o}): if nobody has, `chmod 600` it; else also rotate it",
            mode & 0o777
        )));
    }
    let keys: Option<Vec<KeyBytes>> = text.lines().map(decode).collect();
    match keys {
        Some(keys) if !keys.is_empty() => Ok(Some(keys)),
        _ => Err(fail("it holds no key: restore it from where it was kept".into())),
    }
}

/// Puts the file in place, whole or not at all, and flushes it to the disk.
pub(crate) fn write_file(path: &Path, keys: &[KeyBytes]) -> Result<(), MasterKeyError> {
    let fail = |error: std::io::Error| MasterKeyError::File {
        path: path.to_owned(),
        problem: format!("it cannot be written: {error}"),
    };
    let mut text = Zeroizing::new(String::new());
    for key in keys {
        text.push_str(&Zeroizing::new(STANDARD.encode(key.as_slice())));
        text.push('\n');
    }
    let beside = path.with_extension("key.new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    std::fs::rename(&beside, path).map_err(fail)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}

fn decode(text: &str) -> Option<KeyBytes> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
    key_bytes(&bytes)
}

pub(crate) fn key_bytes(bytes: &[u8]) -> Option<KeyBytes> {
    let bytes: [u8; KEY_LEN] = bytes.try_into().ok()?;
    Some(KeyBytes::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(read_file(&path).unwrap().is_none());
        let keys = [fresh_key(), fresh_key()];
        write_file(&path, &keys).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_file(&path).unwrap().unwrap() == keys);
        write_file(&path, &keys[..1]).unwrap();
        assert_eq!(read_file(&path).unwrap().unwrap().len(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_file(&path).err().unwrap().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for broken in ["", "short", "AAAA\n"] {
            std::fs::write(&path, broken).unwrap();
            let error = read_file(&path).err().unwrap().to_string();
            assert!(error.contains("holds no key"), "{error}");
        }
    }

    #[test]
    fn a_key_that_was_given_is_checked_and_never_shown() {
        let good = STANDARD.encode([7u8; 32]);
        let keys = texts_given(&SecretString::from(format!("{good}, {good}"))).unwrap();
        assert_eq!(keys.len(), 2);
        for bad in ["hunter2", "", &format!("{good},"), &STANDARD.encode([7u8; 16])] {
            let error = texts_given(&SecretString::from(bad)).err().unwrap().to_string();
            assert!(error.contains(VARIABLE) && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_first_key_seals_and_all_open() {
        let (old, new) = (fresh_key(), fresh_key());
        let before = LocalMasterKeys::new(std::slice::from_ref(&old));
        let both = LocalMasterKeys::new(&[new.clone(), old.clone()]);
        let data = fresh_key();
        let sealed = before.seal(&["here"], &data).await.unwrap();
        let opened = both.open(before.key_id(), &["here"], &sealed).await.unwrap();
        assert!(opened == data);
        assert_eq!(both.key_id(), key_id(&new));
        let only_new = LocalMasterKeys::new(&[new]);
        let missing = only_new.open(before.key_id(), &["here"], &sealed).await.err().unwrap();
        assert!(missing.to_string().contains(&key_id(&old)), "{missing}");
        let moved = before.open(before.key_id(), &["there"], &sealed).await;
        assert!(matches!(moved, Err(MasterKeyError::Damaged)));
    }
}
