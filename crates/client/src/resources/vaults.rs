//! `/v1/vaults` and the credentials below a vault. Secrets go in and never come out.

use serde::Serialize;
use serde_json::Value;

use crate::{Client, Pages, Query, Result, path};

/// Vaults.
pub struct Vaults<'a>(pub(crate) &'a Client);

impl Vaults<'_> {
    /// Makes a vault.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/vaults", &Query::new(), body).await
    }

    /// A vault.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "vaults", id])?, &Query::new()).await
    }

    /// Every vault.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/vaults", query)
    }

    /// Archives a vault with its credentials, whose secrets are deleted.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "vaults", id, "archive"])?).await
    }

    /// Deletes a vault with its credentials.
    pub async fn delete(&self, id: &str) -> Result<Value> {
        self.0.delete(path(&["v1", "vaults", id])?, &Query::new()).await
    }
}

/// Credentials of one vault.
pub struct VaultCredentials<'a> {
    client: &'a Client,
    vault_id: String,
}

impl<'a> VaultCredentials<'a> {
    pub(crate) fn new(client: &'a Client, vault_id: String) -> Self {
        Self { client, vault_id }
    }

    fn path(&self, rest: &[&str]) -> Result<String> {
        let mut parts = vec!["v1", "vaults", self.vault_id.as_str(), "credentials"];
        parts.extend(rest);
        path(&parts)
    }

    /// Makes a credential.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.client.post(self.path(&[])?, &Query::new(), body).await
    }

    /// A credential, without its secrets.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.client.get(self.path(&[id])?, &Query::new()).await
    }

    /// Every credential, without their secrets.
    pub fn list(&self, query: Query) -> Result<Pages<Value>> {
        Ok(self.client.pages(self.path(&[])?, query))
    }

    /// Changes a credential.
    pub async fn update(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.client.post(self.path(&[id])?, &Query::new(), body).await
    }

    /// Archives a credential; its secrets are deleted.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.client.post_empty(self.path(&[id, "archive"])?).await
    }

    /// Deletes a credential.
    pub async fn delete(&self, id: &str) -> Result<Value> {
        self.client.delete(self.path(&[id])?, &Query::new()).await
    }

    /// Tries an OAuth credential out against its server.
    pub async fn validate(&self, id: &str) -> Result<Value> {
        self.client.post_empty(self.path(&[id, "mcp_oauth_validate"])?).await
    }
}
