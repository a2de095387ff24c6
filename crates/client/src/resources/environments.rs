//! `/v1/environments`.

use serde::Serialize;
use serde_json::Value;

use crate::{Client, Pages, Query, Result, path};

/// Environments.
pub struct Environments<'a>(pub(crate) &'a Client);

impl Environments<'_> {
    /// Makes an environment.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/environments", &Query::new(), body).await
    }

    /// An environment.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "environments", id])?, &Query::new()).await
    }

    /// Every environment.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/environments", query)
    }

    /// Changes an environment.
    pub async fn update(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0
            .post(path(&["v1", "environments", id])?, &Query::new(), body)
            .await
    }

    /// Archives an environment.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "environments", id, "archive"])?).await
    }

    /// Deletes an environment; `force` also with work in its queue.
    pub async fn delete(&self, id: &str, force: bool) -> Result<Value> {
        let query = Query::new().maybe("force", force.then_some(true));
        self.0.delete(path(&["v1", "environments", id])?, &query).await
    }
}
