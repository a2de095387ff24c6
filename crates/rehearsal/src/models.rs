//! The models of a scenario, as the Models API lists them.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::play;
use crate::scenario::Scenario;
use crate::seal::random_id;
use crate::server::{Shared, admit, failure, with_request_id};
use crate::validate::MAX_OUTPUT_TOKENS;

/// The ids of all models.
fn model_ids(scenario: &Scenario) -> Vec<String> {
    let mut ids = vec!["rehearsal".to_owned()];
    ids.extend(scenario.models.iter().cloned());
    ids.extend(scenario.plays.iter().map(|play| format!("rehearsal/{}", play.name)));
    ids.extend(play::BUILT_IN.iter().map(|name| format!("rehearsal/{name}")));
    ids
}

fn model_info(scenario: &Scenario, id: &str) -> Value {
    let name = id.strip_prefix("rehearsal/");
    let window = name
        .and_then(|name| scenario.play(name))
        .and_then(|play| play.context_tokens);
    json!({
        "type": "model",
        "id": id,
        "display_name": name.map_or_else(|| "Rehearsal".to_owned(), |name| format!("Rehearsal: {name}")),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "line": null,
        "deprecated_at": null,
        "retires_at": null,
        "capabilities": null,
        "max_input_tokens": window.unwrap_or(crate::scenario::DEFAULT_CONTEXT_TOKENS),
        "max_tokens": MAX_OUTPUT_TOKENS,
    })
}

/// Which part of the list is asked for.
#[derive(Deserialize)]
pub(crate) struct Page {
    limit: Option<usize>,
    after_id: Option<String>,
    before_id: Option<String>,
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>, headers: HeaderMap, Query(page): Query<Page>) -> Response {
    let request_id = random_id("req_");
    if let Err(error) = admit(&shared, &headers) {
        return failure(&error, &request_id);
    }
    let ids = model_ids(&shared.scenario);
    let place = |id: &Option<String>| id.as_ref().and_then(|id| ids.iter().position(|known| known == id));
    let limit = page.limit.unwrap_or(20).clamp(1, 1000);
    let end = place(&page.before_id).unwrap_or(ids.len());
    let mut start = place(&page.after_id).map_or(0, |place| place + 1).min(end);
    let mut stop = end.min(start + limit);
    if page.before_id.is_some() && page.after_id.is_none() {
        (start, stop) = (end.saturating_sub(limit), end);
    }
    let has_more = if page.before_id.is_some() {
        start > 0
    } else {
        stop < end
    };
    let data: Vec<Value> = ids[start..stop]
        .iter()
        .map(|id| model_info(&shared.scenario, id))
        .collect();
    let page = json!({
        "data": data,
        "has_more": has_more,
        "first_id": ids[start..stop].first(),
        "last_id": ids[start..stop].last(),
    });
    with_request_id(axum::Json(page).into_response(), &request_id)
}

pub(crate) async fn retrieve(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    let request_id = random_id("req_");
    if let Err(error) = admit(&shared, &headers) {
        return failure(&error, &request_id);
    }
    match model_ids(&shared.scenario).contains(&id) {
        true => with_request_id(
            axum::Json(model_info(&shared.scenario, &id)).into_response(),
            &request_id,
        ),
        false => failure(
            &ApiError::new(StatusCode::NOT_FOUND, format!("model: {id}")),
            &request_id,
        ),
    }
}
