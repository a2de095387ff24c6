//! `/v1/files`

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::Value;

use crate::{Client, Download, Pages, Query, Result, Upload, path};

/// How long sending one file may take.
pub(crate) const SENDING: Duration = Duration::from_secs(3600);

/// Files.
pub struct Files<'a>(pub(crate) &'a Client);

impl Files<'_> {
    /// Sends a file. Not repeated: what was sent cannot be sent again.
    pub async fn upload(&self, upload: Upload, expires_in_seconds: Option<u64>) -> Result<Value> {
        let mut form = Form::new();
        if let Some(seconds) = expires_in_seconds {
            form = form.text("expires_in_seconds", seconds.to_string());
        }
        let form = form.part("file", upload.part()?);
        let request = self.0.request(Method::POST, "/v1/files");
        request.timeout(SENDING).send_form(form).await
    }

    /// What is known of a file.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "files", id])?, &Query::new()).await
    }

    /// Every file, by the filters of the query.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/files", query)
    }

    /// The bytes of a file.
    pub async fn download(&self, id: &str) -> Result<Download> {
        let request = self.0.request(Method::GET, path(&["v1", "files", id, "content"])?);
        request.download().await
    }

    /// Deletes a file.
    pub async fn delete(&self, id: &str) -> Result<Value> {
        self.0.delete(path(&["v1", "files", id])?, &Query::new()).await
    }
}
