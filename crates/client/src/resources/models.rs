//! `/v1/models`.

use serde_json::Value;

use crate::{Client, Pages, Query, Result, path};

/// Models.
pub struct Models<'a>(pub(crate) &'a Client);

impl Models<'_> {
    /// A model.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "models", id])?, &Query::new()).await
    }

    /// Every model.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/models", query)
    }
}
