//! `/v1/outwork/…/halt`: stops of calls, sessions, environments and workspaces. Only this project's server has these.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{Client, Result, path};

impl Client {
    /// Stops what is under way. `kind` is `calls`, `sessions`, `environments` or `workspaces`; with `force`, sessions end
    /// for good and sandboxes at once.
    pub async fn halt(&self, kind: &str, id: &str, force: bool, reason: Option<&str>) -> Result<Value> {
        let body = json!({ "force": force, "reason": reason });
        let request = self.request(Method::POST, path(&["v1", "outwork", kind, id, "halt"])?);
        // What is stopped already is stopped by the second attempt, too.
        request.json(&body)?.idempotent().send().await
    }
}
