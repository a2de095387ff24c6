//! Secrets, sealed: each under its workspace's data key, bound to its workspace, its credential and its field.
//!
//! A data key is made when a workspace keeps its first secret. In memory it stays open; on disk it is sealed under the
//! master key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use outwork_store::{DataKeyRow, SealedSecret, Store};
use outwork_wire::Time;
use outwork_wire::id::{DataKeyId, ResourceId, VaultCredentialId, WorkspaceId};
use secrecy::{ExposeSecret, SecretString};

use super::VaultError;
use super::aead::{Key, fresh_key};
use super::master::{MasterKey, MasterKeyError};

const SECRET: &str = "outwork secret 1";
const ELSEWHERE: &str = "outwork other secret 1";
const DATA_KEY: &str = "outwork data key 1";

/// Seals and opens secrets.
pub(crate) struct Sealer {
    store: Store,
    master: Arc<dyn MasterKey>,
    open: Mutex<HashMap<WorkspaceId, Arc<DataKey>>>,
}

struct DataKey {
    id: DataKeyId,
    key: Key,
}

/// What the secret of something else than a credential is bound to: the kind, the thing, and its part.
fn elsewhere<'a>(workspace: &'a WorkspaceId, [kind, thing, part]: [&'a str; 3]) -> [&'a str; 5] {
    [ELSEWHERE, workspace.as_str(), kind, thing, part]
}

/// What a data key is bound to.
pub(crate) fn place<'a>(id: &'a DataKeyId, workspace: &'a WorkspaceId, master_key_id: &'a str) -> [&'a str; 4] {
    [DATA_KEY, id.as_str(), workspace.as_str(), master_key_id]
}

impl Sealer {
    pub(crate) fn new(store: Store, master: Arc<dyn MasterKey>) -> Self {
        Self {
            store,
            master,
            open: Mutex::default(),
        }
    }

    /// Opens every data key that there is, so that a wrong master key is found at the start and not at the first use.
    pub(crate) async fn check(&self) -> Result<(), VaultError> {
        for row in self.store.data_keys().await? {
            self.opened(&row).await?;
        }
        Ok(())
    }

    /// Seals one secret of a credential.
    pub(crate) async fn seal(
        &self,
        workspace: &WorkspaceId,
        credential: &VaultCredentialId,
        field: &str,
        secret: &SecretString,
    ) -> Result<SealedSecret, VaultError> {
        self.seal_for(workspace, credential.as_str(), field, secret).await
    }

    /// Opens one secret of a credential.
    pub(crate) async fn open(
        &self,
        workspace: &WorkspaceId,
        credential: &VaultCredentialId,
        secret: &SealedSecret,
    ) -> Result<SecretString, VaultError> {
        let opened = self.open_of(workspace, credential.as_str(), secret).await?;
        opened.ok_or_else(|| VaultError::Unopened {
            credential: credential.clone(),
            field: secret.field.clone(),
        })
    }

    /// Seals one secret of a session's resource.
    pub(crate) async fn seal_resource(
        &self,
        workspace: &WorkspaceId,
        resource: &ResourceId,
        field: &str,
        secret: &SecretString,
    ) -> Result<SealedSecret, VaultError> {
        self.seal_for(workspace, resource.as_str(), field, secret).await
    }

    /// Opens one secret of a session's resource.
    pub(crate) async fn open_resource(
        &self,
        workspace: &WorkspaceId,
        resource: &ResourceId,
        secret: &SealedSecret,
    ) -> Result<SecretString, VaultError> {
        let opened = self.open_of(workspace, resource.as_str(), secret).await?;
        opened.ok_or_else(|| VaultError::ResourceUnopened {
            resource: resource.clone(),
            field: secret.field.clone(),
        })
    }

    /// Ids of different kinds have different prefixes: no owner is taken for another.
    async fn seal_for(
        &self,
        workspace: &WorkspaceId,
        owner: &str,
        field: &str,
        secret: &SecretString,
    ) -> Result<SealedSecret, VaultError> {
        let data = self.data_key(workspace).await?;
        let place = [SECRET, workspace.as_str(), owner, field, data.id.as_str()];
        Ok(SealedSecret {
            field: field.to_owned(),
            sealed: data.key.seal(&place, secret.expose_secret().as_bytes()),
            data_key_id: data.id.clone(),
        })
    }

    async fn open_of(
        &self,
        workspace: &WorkspaceId,
        owner: &str,
        secret: &SealedSecret,
    ) -> Result<Option<SecretString>, VaultError> {
        let data = self.data_key(workspace).await?;
        if data.id != secret.data_key_id {
            return Ok(None);
        }
        let place = [SECRET, workspace.as_str(), owner, &secret.field, data.id.as_str()];
        let Some(text) = data.key.open(&place, &secret.sealed) else {
            return Ok(None);
        };
        Ok(std::str::from_utf8(&text).ok().map(SecretString::from))
    }

    /// Seals a secret of something else than a credential. `place` says of what, and is needed to open it.
    pub(crate) async fn seal_at(
        &self,
        workspace: &WorkspaceId,
        place: [&str; 3],
        secret: &str,
    ) -> Result<Vec<u8>, VaultError> {
        let data = self.data_key(workspace).await?;
        Ok(data.key.seal(&elsewhere(workspace, place), secret.as_bytes()))
    }

    /// Opens what was sealed for this place.
    pub(crate) async fn open_at(
        &self,
        workspace: &WorkspaceId,
        place: [&str; 3],
        sealed: &[u8],
    ) -> Result<SecretString, VaultError> {
        let unopened = || VaultError::UnopenedAt(place[1].to_owned());
        let data = self.data_key(workspace).await?;
        let text = data
            .key
            .open(&elsewhere(workspace, place), sealed)
            .ok_or_else(unopened)?;
        let text = std::str::from_utf8(&text).map_err(|_| unopened())?;
        Ok(SecretString::from(text))
    }

    async fn data_key(&self, workspace: &WorkspaceId) -> Result<Arc<DataKey>, VaultError> {
        let known = || {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.get(workspace).cloned()
        };
        if let Some(data) = known() {
            return Ok(data);
        }
        let row = match self.store.data_key(workspace).await? {
            Some(row) => row,
            None => self.make(workspace).await?,
        };
        let data = Arc::new(self.opened(&row).await?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(open.entry(workspace.clone()).or_insert(data).clone())
    }

    async fn make(&self, workspace: &WorkspaceId) -> Result<DataKeyRow, VaultError> {
        let id = DataKeyId::fresh();
        let master_key_id = self.master.key_id().to_owned();
        let sealed = self
            .master
            .seal(&place(&id, workspace, &master_key_id), &fresh_key())
            .await?;
        let row = DataKeyRow {
            id,
            workspace_id: workspace.clone(),
            master_key_id,
            sealed,
            created_at: Time::now(),
        };
        // If another task was first, its key is the one.
        Ok(self.store.keep_data_key(row).await?)
    }

    async fn opened(&self, row: &DataKeyRow) -> Result<DataKey, MasterKeyError> {
        let place = place(&row.id, &row.workspace_id, &row.master_key_id);
        let bytes = self.master.open(&row.master_key_id, &place, &row.sealed).await?;
        Ok(DataKey {
            id: row.id.clone(),
            key: Key::new(&bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use outwork_store::Options;

    use super::*;
    use crate::vault::LocalMasterKeys;

    struct Bed {
        store: Store,
        sealer: Sealer,
        _dir: tempfile::TempDir,
    }

    fn bed() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path())).unwrap();
        let sealer = Sealer::new(store.clone(), Arc::new(LocalMasterKeys::new(&[fresh_key()])));
        Bed {
            store,
            sealer,
            _dir: dir,
        }
    }

    #[tokio::test]
    async fn a_secret_opens_in_its_own_place_only() {
        let bed = bed();
        let own = bed.store.default_workspace().clone();
        let other = bed.store.create_workspace("other", Time::now()).await.unwrap().id;
        let (first, second) = (VaultCredentialId::fresh(), VaultCredentialId::fresh());
        let secret = SecretString::from("hunter2");
        let sealed = bed.sealer.seal(&own, &first, "token", &secret).await.unwrap();
        let opened = bed.sealer.open(&own, &first, &sealed).await.unwrap();
        assert_eq!(opened.expose_secret(), "hunter2");

        // Rows that were swapped: to another credential, another field, another workspace, another data key.
        assert!(bed.sealer.open(&own, &second, &sealed).await.is_err());
        let mut moved = sealed.clone();
        moved.field = "access_token".into();
        let error = bed.sealer.open(&own, &first, &moved).await.err().unwrap().to_string();
        assert!(
            error.contains(first.as_str()) && error.contains("access_token") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(bed.sealer.open(&other, &first, &sealed).await.is_err());
        let theirs = bed.sealer.seal(&other, &first, "token", &secret).await.unwrap();
        assert_ne!(theirs.data_key_id, sealed.data_key_id);
        let mut relabelled = sealed.clone();
        relabelled.data_key_id = theirs.data_key_id.clone();
        assert!(bed.sealer.open(&other, &first, &relabelled).await.is_err());
    }

    #[tokio::test]
    async fn a_secret_of_a_resource_opens_for_that_resource_only() {
        let bed = bed();
        let own = bed.store.default_workspace().clone();
        let (one, other) = (ResourceId::fresh(), ResourceId::fresh());
        let secret = SecretString::from("hunter2");
        let sealed = bed
            .sealer
            .seal_resource(&own, &one, "authorization_token", &secret)
            .await;
        let sealed = sealed.unwrap();
        let opened = bed.sealer.open_resource(&own, &one, &sealed).await.unwrap();
        assert_eq!(opened.expose_secret(), "hunter2");
        let error = bed.sealer.open_resource(&own, &other, &sealed).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains(other.as_str()) && !text.contains("hunter2"), "{text}");
        // Nor for a credential whose id ends alike.
        let suffix = one.as_str().strip_prefix(ResourceId::PREFIX).unwrap();
        let alike: VaultCredentialId = format!("{}{suffix}", VaultCredentialId::PREFIX).parse().unwrap();
        assert!(bed.sealer.open(&own, &alike, &sealed).await.is_err());
    }

    #[tokio::test]
    async fn one_data_key_per_workspace_however_many_begin_at_once() {
        let bed = Arc::new(bed());
        let workspace = bed.store.default_workspace().clone();
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let (bed, workspace) = (bed.clone(), workspace.clone());
                tokio::spawn(async move {
                    let id = VaultCredentialId::fresh();
                    let secret = SecretString::from(number.to_string());
                    let sealed = bed.sealer.seal(&workspace, &id, "token", &secret).await.unwrap();
                    (id, sealed, number.to_string())
                })
            })
            .collect();
        for task in tasks {
            let (id, sealed, text) = task.await.unwrap();
            let opened = bed.sealer.open(&workspace, &id, &sealed).await.unwrap();
            assert_eq!(opened.expose_secret(), text);
        }
        assert_eq!(bed.store.data_keys().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn data_keys_of_two_workspaces_do_not_change_places() {
        let bed = bed();
        let own = bed.store.default_workspace().clone();
        let other = bed.store.create_workspace("other", Time::now()).await.unwrap().id;
        for workspace in [&own, &other] {
            let id = VaultCredentialId::fresh();
            let secret = SecretString::from("x");
            bed.sealer.seal(workspace, &id, "token", &secret).await.unwrap();
        }
        bed.sealer.check().await.unwrap();
        let mut rows = bed.store.data_keys().await.unwrap();
        let (first, second) = (rows[0].sealed.clone(), rows[1].sealed.clone());
        rows[0].sealed = second;
        rows[1].sealed = first;
        bed.store.reseal_data_keys(rows).await.unwrap();
        assert!(matches!(
            bed.sealer.check().await,
            Err(VaultError::MasterKey(MasterKeyError::Damaged))
        ));
    }
}
