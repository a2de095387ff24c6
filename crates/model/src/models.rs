//! The models that a provider offers.

use outwork_wire::model::ModelFailure;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::ModelClient;
use crate::failure::nonsense;

/// Pages of the list that are read at most.
const PAGES: usize = 50;

/// A model as its provider describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its id.
    pub id: String,
    /// A name for people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// When it was released, RFC 3339.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Context window in tokens.
    #[serde(default)]
    pub max_input_tokens: Option<u64>,
    /// Most tokens of an answer.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<ModelInfo>,
    #[serde(default)]
    has_more: bool,
    #[serde(default)]
    last_id: Option<String>,
}

impl ModelClient {
    /// All models of the provider, in its order.
    pub async fn list_models(&self) -> Result<Vec<ModelInfo>, ModelFailure> {
        let mut models = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let mut url = self.url("v1/models");
            url.query_pairs_mut().append_pair("limit", "1000");
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after_id", after);
            }
            let page: Page = self.get(url).await?;
            models.extend(page.data);
            after = page.last_id;
            if !page.has_more || after.is_none() {
                return Ok(models);
            }
        }
        Err(nonsense(format!("the list of models does not end after {PAGES} pages")))
    }

    /// One model; [`outwork_wire::model::FailureKind::Rejected`] if the provider does not have it.
    pub async fn retrieve_model(&self, id: &str) -> Result<ModelInfo, ModelFailure> {
        self.get(self.model_url(id)).await
    }

    fn model_url(&self, id: &str) -> Url {
        let mut url = self.url("v1/models");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(id);
        }
        url
    }
}
