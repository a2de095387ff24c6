//! `/v1/api_keys`, `/v1/workspaces` and `/v1/environments/{id}/keys`: only servers of this project have them.

use serde::Serialize;
use serde_json::Value;

use crate::{Client, Pages, Query, Result, path};

/// API keys.
pub struct ApiKeys<'a>(pub(crate) &'a Client);

impl ApiKeys<'_> {
    /// Makes a key. The answer is the only place that shows it.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/api_keys", &Query::new(), body).await
    }

    /// Every key, without the keys themselves.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/api_keys", query)
    }

    /// Revokes a key at once.
    pub async fn revoke(&self, id: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "api_keys", id, "revoke"])?).await
    }
}

/// Workspaces.
pub struct Workspaces<'a>(pub(crate) &'a Client);

impl Workspaces<'_> {
    /// Makes a workspace.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/workspaces", &Query::new(), body).await
    }

    /// Every workspace.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/workspaces", query)
    }
}

/// Keys of one environment.
pub struct EnvironmentKeys<'a> {
    client: &'a Client,
    environment_id: String,
}

impl<'a> EnvironmentKeys<'a> {
    pub(crate) fn new(client: &'a Client, environment_id: String) -> Self {
        Self { client, environment_id }
    }

    fn path(&self) -> Result<String> {
        path(&["v1", "environments", &self.environment_id, "keys"])
    }

    /// Makes a key. The answer is the only place that shows it.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.client.post(self.path()?, &Query::new(), body).await
    }

    /// Every key, without the keys themselves.
    pub fn list(&self, query: Query) -> Result<Pages<Value>> {
        Ok(self.client.pages(self.path()?, query))
    }

    /// Revokes a key at once.
    pub async fn revoke(&self, key_id: &str) -> Result<Value> {
        let path = path(&["v1", "environments", &self.environment_id, "keys", key_id])?;
        self.client.delete(path, &Query::new()).await
    }
}
