//! `/v1/agents`.

use serde::Serialize;
use serde_json::Value;

use crate::{Client, Pages, Query, Result, path};

/// Agents and their versions.
pub struct Agents<'a>(pub(crate) &'a Client);

impl Agents<'_> {
    /// Makes an agent.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/agents", &Query::new(), body).await
    }

    /// An agent, in its newest or in a given version.
    pub async fn get(&self, id: &str, version: Option<u64>) -> Result<Value> {
        let query = Query::new().maybe("version", version);
        self.0.get(path(&["v1", "agents", id])?, &query).await
    }

    /// Every agent.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/agents", query)
    }

    /// Changes an agent, which makes a new version of it.
    pub async fn update(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post(path(&["v1", "agents", id])?, &Query::new(), body).await
    }

    /// Archives an agent.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "agents", id, "archive"])?).await
    }

    /// The versions of an agent.
    pub fn versions(&self, id: &str, query: Query) -> Result<Pages<Value>> {
        Ok(self.0.pages(path(&["v1", "agents", id, "versions"])?, query))
    }
}
