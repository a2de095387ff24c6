//! Rotation of the master key, with the server stopped.
//!
//! Three steps, each whole or not at all: the key file gets the new key before the old ones; every data key is sealed
//! anew, in one transaction; the key file loses the old keys. After a crash between any two of them the plane starts and
//! opens everything, and the rotation can simply be done again. Secrets themselves are not touched.
//!
//! With `OUTWORK_MASTER_KEY` set, its first key is the new one; its further keys and those of the file open.

use std::path::{Path, PathBuf};

use outwork_store::{DataKeyRow, Options, Store};
use secrecy::SecretString;

use super::VaultError;
use super::aead::{KeyBytes, fresh_key};
use super::master::{FILE, LocalMasterKeys, MasterKey, key_id, read_file, texts_given, write_file};
use super::seal::place;

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The id of the master key that holds now.
    pub key_id: String,
    /// How many data keys were sealed anew.
    pub data_keys: usize,
    /// The key file: written with the new key, or not needed any more if the key was given from outside.
    pub file: KeyFile,
}

/// What became of the key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// It holds the new key.
    Written(PathBuf),
    /// Its keys open nothing any more.
    NotNeeded(PathBuf),
    /// There is none.
    Absent,
}

/// Seals the data keys of a folder under a new master key. Refused while a server uses the folder.
pub async fn rotate_master_key(data_dir: &Path, given: Option<&SecretString>) -> Result<Rotated, VaultError> {
    let dir = data_dir.to_owned();
    let store = tokio::task::spawn_blocking(move || Store::open(Options::new(dir)))
        .await
        .expect("opening the store does not panic")?;
    let rotated = rotate(&store, data_dir, given).await;
    store.close().await;
    rotated
}

async fn rotate(store: &Store, data_dir: &Path, given: Option<&SecretString>) -> Result<Rotated, VaultError> {
    let path = data_dir.join(FILE);
    let kept = read_file(&path)?;
    let had_file = kept.is_some();
    let mut keys: Vec<KeyBytes> = match given {
        Some(given) => texts_given(given)?,
        None => vec![fresh_key()],
    };
    keys.extend(kept.into_iter().flatten());
    // What cannot be opened is found before anything is changed.
    let master = LocalMasterKeys::new(&keys);
    let rows = resealed(store, &master).await?;
    if given.is_none() {
        write_file(&path, &keys)?;
    }
    let data_keys = rows.len();
    store.reseal_data_keys(rows).await?;
    let file = if given.is_none() {
        write_file(&path, &keys[..1])?;
        KeyFile::Written(path)
    } else if had_file {
        KeyFile::NotNeeded(path)
    } else {
        KeyFile::Absent
    };
    Ok(Rotated {
        key_id: key_id(&keys[0]),
        data_keys,
        file,
    })
}

/// Every data key, sealed under the first of the master keys.
async fn resealed(store: &Store, master: &LocalMasterKeys) -> Result<Vec<DataKeyRow>, VaultError> {
    let mut rows = Vec::new();
    for row in store.data_keys().await? {
        let before = place(&row.id, &row.workspace_id, &row.master_key_id);
        let bytes = master.open(&row.master_key_id, &before, &row.sealed).await?;
        let after = place(&row.id, &row.workspace_id, master.key_id());
        let sealed = master.seal(&after, &bytes).await?;
        rows.push(DataKeyRow {
            master_key_id: master.key_id().to_owned(),
            sealed,
            ..row
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use outwork_store::SealedSecret;
    use outwork_wire::id::VaultCredentialId;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::vault::MasterKeyError;
    use crate::vault::seal::Sealer;

    struct Kept {
        dir: tempfile::TempDir,
        credential: VaultCredentialId,
        sealed: SealedSecret,
    }

    fn open(dir: &Path) -> Store {
        Store::open(Options::new(dir)).unwrap()
    }

    /// A folder with one secret, as a plane leaves it.
    async fn kept(given: Option<&SecretString>) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let master = LocalMasterKeys::of_plane(dir.path(), given, &store).await.unwrap();
        let sealer = Sealer::new(store.clone(), Arc::new(master));
        let credential = VaultCredentialId::fresh();
        let secret = SecretString::from("hunter2");
        let sealed = sealer
            .seal(store.default_workspace(), &credential, "token", &secret)
            .await
            .unwrap();
        store.close().await;
        Kept {
            dir,
            credential,
            sealed,
        }
    }

    /// Whether a plane that starts on the folder opens the secret.
    async fn opens(kept: &Kept, given: Option<&SecretString>) -> Result<(), VaultError> {
        let store = open(kept.dir.path());
        let result = async {
            let master = LocalMasterKeys::of_plane(kept.dir.path(), given, &store).await?;
            let sealer = Sealer::new(store.clone(), Arc::new(master));
            sealer.check().await?;
            let opened = sealer
                .open(store.default_workspace(), &kept.credential, &kept.sealed)
                .await?;
            assert_eq!(opened.expose_secret(), "hunter2");
            Ok(())
        }
        .await;
        store.close().await;
        result
    }

    #[tokio::test]
    async fn a_rotation_leaves_every_secret_and_only_the_new_key() {
        let kept = kept(None).await;
        let path = kept.dir.path().join(FILE);
        let before = std::fs::read_to_string(&path).unwrap();
        let rotated = rotate_master_key(kept.dir.path(), None).await.unwrap();
        assert_eq!(rotated.data_keys, 1);
        assert_eq!(rotated.file, KeyFile::Written(path.clone()));
        let after = std::fs::read_to_string(&path).unwrap();
        assert_eq!(after.lines().count(), 1);
        assert_ne!(before, after);
        opens(&kept, None).await.unwrap();
        // The key from before opens nothing.
        std::fs::write(&path, before).unwrap();
        let error = opens(&kept, None).await.err().unwrap().to_string();
        assert!(
            error.contains(&rotated.key_id) && error.contains("master.key") && error.contains("OUTWORK_MASTER_KEY"),
            "{error}"
        );
        // Nor does a rotation that cannot open them touch anything.
        assert!(rotate_master_key(kept.dir.path(), None).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        std::fs::write(&path, after).unwrap();
        opens(&kept, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_rotation_may_be_interrupted_between_any_two_steps() {
        for steps in 1..=2 {
            let kept = kept(None).await;
            let path = kept.dir.path().join(FILE);
            let mut keys = vec![fresh_key()];
            keys.extend(read_file(&path).unwrap().unwrap());
            write_file(&path, &keys).unwrap();
            if steps > 1 {
                let store = open(kept.dir.path());
                let rows = resealed(&store, &LocalMasterKeys::new(&keys)).await.unwrap();
                store.reseal_data_keys(rows).await.unwrap();
                store.close().await;
            }
            opens(&kept, None).await.unwrap();
            rotate_master_key(kept.dir.path(), None).await.unwrap();
            assert_eq!(read_file(&path).unwrap().unwrap().len(), 1);
            opens(&kept, None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn keys_from_outside_follow_each_other_and_the_file() {
        let text = |byte: u8| STANDARD.encode([byte; 32]);
        let given = |text: String| SecretString::from(text);
        let kept = kept(None).await;
        let rotated = rotate_master_key(kept.dir.path(), Some(&given(text(1)))).await.unwrap();
        assert_eq!(rotated.file, KeyFile::NotNeeded(kept.dir.path().join(FILE)));
        opens(&kept, Some(&given(text(1)))).await.unwrap();
        assert!(opens(&kept, None).await.is_err());
        std::fs::remove_file(kept.dir.path().join(FILE)).unwrap();
        // Without a file and without a variable nothing is made over what is sealed.
        assert!(matches!(
            opens(&kept, None).await,
            Err(VaultError::MasterKey(MasterKeyError::Unknown { .. }))
        ));
        assert!(!kept.dir.path().join(FILE).exists());
        assert!(opens(&kept, Some(&given(text(2)))).await.is_err());
        let both = given(format!("{},{}", text(2), text(1)));
        opens(&kept, Some(&both)).await.unwrap();
        let rotated = rotate_master_key(kept.dir.path(), Some(&both)).await.unwrap();
        assert_eq!(rotated.file, KeyFile::Absent);
        opens(&kept, Some(&given(text(2)))).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_in_use_is_refused() {
        let kept = kept(None).await;
        let store = open(kept.dir.path());
        let error = rotate_master_key(kept.dir.path(), None)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("in use by another server"), "{error}");
        store.close().await;
    }
}
