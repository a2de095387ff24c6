//! `/v1/models`: the provider's models in the shape of the contract.
//!
//! Fields of the contract that the provider does not tell, or tells in another shape, become null or the value
//! that means unknown; fields that the contract does not have are left out.

use std::str::FromStr;

use outwork_model::ModelInfo;
use outwork_wire::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::call::Call;
use super::query::Query;
use super::render::Reply;
use super::shortened;
use crate::app::models;
use crate::error::ApiError;

const MAX_PAGE: usize = 1000;
const LINES: [&str; 5] = ["haiku", "sonnet", "opus", "fable", "mythos"];

/// `GET /v1/models`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let wish = ListWish::take(&mut call.query)?;
    call.finish_query()?;
    let models = models::list(&call.app, &call.access).await?;
    Reply::json(&wish.page(models.into_iter().map(ModelView::new).collect())?)
}

/// `GET /v1/models/{model_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let model = models::retrieve(&call.app, &call.access, call.text("model_id")).await?;
    Reply::json(&ModelView::new(model))
}

/// Which part of the list is asked for.
struct ListWish {
    after: Option<String>,
    before: Option<String>,
    lifecycles: Vec<Lifecycle>,
    limit: usize,
}

#[derive(Serialize)]
struct ModelPage {
    data: Vec<ModelView>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

impl ListWish {
    fn take(query: &mut Query) -> Result<Self, ApiError> {
        let wish = Self {
            after: query.text("after_id")?,
            before: query.text("before_id")?,
            lifecycles: query
                .list("lifecycle", &["active", "deprecated", "retired"])?
                .iter()
                .filter_map(|word| word.parse().ok())
                .collect(),
            limit: query.limit(20, MAX_PAGE)?,
        };
        if wish.after.is_some() && wish.before.is_some() {
            return Err(ApiError::invalid(
                "before_id: only one of before_id and after_id can be given, not both",
            ));
        }
        Ok(wish)
    }

    /// The part that is asked for. A cursor may name a model that the filter leaves out.
    fn page(&self, mut models: Vec<ModelView>) -> Result<ModelPage, ApiError> {
        let place = |name: &str, id: &str| {
            models
                .iter()
                .position(|m| m.id == id)
                .ok_or_else(|| ApiError::invalid(format!("{name}: there is no model `{}` in this list", shortened(id))))
        };
        let after = self.after.as_deref().map(|id| place("after_id", id)).transpose()?;
        let before = self.before.as_deref().map(|id| place("before_id", id)).transpose()?;
        if let Some(end) = before {
            models.truncate(end);
        }
        models.drain(..after.map_or(0, |start| start + 1));
        models.retain(|model| {
            if self.lifecycles.is_empty() {
                model.lifecycle != Lifecycle::Retired
            } else {
                self.lifecycles.contains(&model.lifecycle)
            }
        });
        let has_more = models.len() > self.limit;
        if before.is_some() {
            models.drain(..models.len().saturating_sub(self.limit));
        } else {
            models.truncate(self.limit);
        }
        Ok(ModelPage {
            has_more,
            first_id: models.first().map(|m| m.id.clone()),
            last_id: models.last().map(|m| m.id.clone()),
            data: models,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lifecycle {
    Active,
    Deprecated,
    Retired,
}

impl FromStr for Lifecycle {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "active" => Ok(Self::Active),
            "deprecated" => Ok(Self::Deprecated),
            "retired" => Ok(Self::Retired),
            _ => Err(()),
        }
    }
}

/// A model as responses show it.
#[derive(Debug, Serialize)]
struct ModelView {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    display_name: String,
    created_at: Time,
    lifecycle: Lifecycle,
    deprecated_at: Option<Time>,
    retires_at: Option<Time>,
    line: Option<String>,
    max_input_tokens: Option<u64>,
    max_tokens: Option<u64>,
    allowed_fallback_models: Option<Vec<String>>,
    capabilities: Option<Capabilities>,
}

impl ModelView {
    fn new(info: ModelInfo) -> Self {
        let mut extra = info.extra;
        Self {
            kind: "model",
            display_name: info.display_name.unwrap_or_else(|| info.id.clone()),
            // The beginning of the epoch is how the contract says that the date is not known.
            created_at: info
                .created_at
                .and_then(|text| text.parse().ok())
                .unwrap_or(Time::from_micros(0)),
            lifecycle: told(&mut extra, "lifecycle").unwrap_or(Lifecycle::Active),
            deprecated_at: told(&mut extra, "deprecated_at"),
            retires_at: told(&mut extra, "retires_at"),
            line: told::<String>(&mut extra, "line").filter(|line| LINES.contains(&line.as_str())),
            max_input_tokens: info.max_input_tokens,
            max_tokens: info.max_tokens,
            allowed_fallback_models: told(&mut extra, "allowed_fallback_models"),
            capabilities: told(&mut extra, "capabilities"),
            id: info.id,
        }
    }
}

/// A field as the provider told it, if it has the shape of the contract.
fn told<T: for<'de> Deserialize<'de>>(extra: &mut Map<String, Value>, field: &str) -> Option<T> {
    serde_json::from_value(extra.remove(field)?).ok()
}

#[derive(Debug, Serialize, Deserialize)]
struct Capabilities {
    batch: Support,
    citations: Support,
    code_execution: Support,
    compaction: Option<Compaction>,
    context_management: ContextManagement,
    effort: EffortLevels,
    image_input: Support,
    pdf_input: Support,
    server_tools: ServerTools,
    structured_outputs: Support,
    thinking: Thinking,
}

#[derive(Debug, Serialize, Deserialize)]
struct Support {
    supported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Compaction {
    summarize: Support,
    supported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ContextManagement {
    clear_thinking_20251015: Option<Support>,
    clear_tool_uses_20250919: Option<Support>,
    compact_20260112: Option<Support>,
    supported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct EffortLevels {
    low: Support,
    medium: Support,
    high: Support,
    xhigh: Option<Support>,
    max: Support,
    supported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ServerTools {
    code_execution: Support,
    web_search: Support,
    supported: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Thinking {
    supported: bool,
    types: ThinkingTypes,
}

#[derive(Debug, Serialize, Deserialize)]
struct ThinkingTypes {
    adaptive: Support,
    between_tools: Support,
    disabled: Support,
    enabled: Support,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(value: Value) -> ModelView {
        ModelView::new(serde_json::from_value(value).unwrap())
    }

    fn page(query: &str) -> Result<Value, String> {
        let models = ["a", "b", "c", "d"].map(|id| {
            let lifecycle = if id == "b" { "retired" } else { "active" };
            view(json!({ "id": id, "lifecycle": lifecycle }))
        });
        let mut query = Query::parse(Some(query));
        let wish = ListWish::take(&mut query).map_err(|e| e.message)?;
        let page = wish.page(models.into()).map_err(|e| e.message)?;
        let ids: Vec<&str> = page.data.iter().map(|m| m.id.as_str()).collect();
        Ok(json!([ids.join(""), page.has_more, page.first_id, page.last_id]))
    }

    #[test]
    fn a_model_that_tells_nothing_has_every_field() {
        assert_eq!(
            serde_json::to_value(view(
                json!({ "id": "m", "capabilities": { "batch": true }, "line": "own" })
            ))
            .unwrap(),
            json!({
                "id": "m", "type": "model", "display_name": "m", "created_at": "1970-01-01T00:00:00.000000Z",
                "lifecycle": "active", "deprecated_at": null, "retires_at": null, "line": null,
                "max_input_tokens": null, "max_tokens": null, "allowed_fallback_models": null, "capabilities": null,
            })
        );
    }

    #[test]
    fn what_a_provider_tells_is_shown() {
        let yes = json!({ "supported": true });
        let capabilities = json!({
            "batch": yes, "citations": yes, "code_execution": yes, "compaction": null,
            "context_management": { "supported": true, "clear_thinking_20251015": null, "clear_tool_uses_20250919": yes,
                "compact_20260112": yes },
            "effort": { "supported": true, "low": yes, "medium": yes, "high": yes, "xhigh": null, "max": yes },
            "image_input": yes, "pdf_input": yes,
            "server_tools": { "supported": true, "code_execution": yes, "web_search": yes },
            "structured_outputs": yes,
            "thinking": { "supported": true,
                "types": { "adaptive": yes, "between_tools": yes, "disabled": yes, "enabled": yes } },
        });
        let shown = serde_json::to_value(view(json!({
            "id": "m", "type": "model", "display_name": "M", "created_at": "2026-01-02T03:04:05Z",
            "lifecycle": "deprecated", "deprecated_at": "2026-05-01T00:00:00Z", "line": "opus",
            "max_tokens": 5, "capabilities": capabilities, "colour": "red",
        })))
        .unwrap();
        assert_eq!(shown["capabilities"], capabilities);
        assert_eq!(shown["lifecycle"], "deprecated");
        assert_eq!(shown["deprecated_at"], "2026-05-01T00:00:00.000000Z");
        assert_eq!((&shown["line"], &shown["max_tokens"]), (&json!("opus"), &json!(5)));
        assert!(shown.get("colour").is_none());
    }

    #[test]
    fn pages_run_both_ways() {
        assert_eq!(page("").unwrap(), json!(["acd", false, "a", "d"]));
        assert_eq!(page("limit=2").unwrap(), json!(["ac", true, "a", "c"]));
        assert_eq!(page("limit=2&after_id=c").unwrap(), json!(["d", false, "d", "d"]));
        assert_eq!(page("limit=1&before_id=d").unwrap(), json!(["c", true, "c", "c"]));
        assert_eq!(page("before_id=a").unwrap(), json!(["", false, null, null]));
        assert_eq!(page("lifecycle[]=retired").unwrap(), json!(["b", false, "b", "b"]));
        assert!(page("after_id=z").unwrap_err().starts_with("after_id: "));
        assert!(page("after_id=a&before_id=d").unwrap_err().starts_with("before_id: "));
        assert!(page("lifecycle[]=new").is_err());
        assert!(page("limit=1001").is_err());
    }
}
