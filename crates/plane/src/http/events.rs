//! `/v1/sessions/{session_id}/events`: sending, listing, streaming.

use outwork_store::{EventQuery, Order};
use outwork_wire::EventParams;
use outwork_wire::event::ALL_EVENT_TYPES;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::Call;
use super::query::{Query, shortened};
use super::render::Reply;
use super::sessions::{order, page, session_id, time_range};
use super::sse;
use crate::app::events;
use crate::error::ApiError;

/// The most events of one request.
const MAX_EVENTS: usize = 1000;

/// Events whose pieces can be streamed.
const PREVIEWED: [&str; 2] = ["agent.message", "agent.thinking"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendParams {
    events: Vec<Value>,
}

pub(crate) async fn send(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = session_id(&call)?;
    let params: SendParams = call.json()?;
    if params.events.len() > MAX_EVENTS {
        return Err(ApiError::invalid(format!(
            "events: at most {MAX_EVENTS} events in one request, not {}",
            params.events.len()
        )));
    }
    let events = event_params("events", params.events)?;
    let data = events::send(&call.app, &call.access, &id, events).await?;
    Reply::json(&json!({ "data": data }))
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let query = &mut call.query;
    let filter = EventQuery {
        types: query.list("types", ALL_EVENT_TYPES)?,
        created_at: time_range(query)?,
        order: order(query, true)?,
        thread_only: false,
    };
    list_with(call, filter).await
}

/// Answers a list of events with this filter; `limit` and `page` are still to be taken.
pub(super) async fn list_with(mut call: Call, filter: EventQuery) -> Result<Reply, ApiError> {
    let page = page(&mut call.query, 100, 1000)?;
    call.finish_query()?;
    let found = events::list(&call.app, &call.access, &session_id(&call)?, filter, page).await?;
    Reply::json(&json!({ "data": found.rows, "next_page": found.next }))
}

/// All events of a thread, oldest first.
pub(super) fn of_thread() -> EventQuery {
    EventQuery {
        order: Order::Asc,
        thread_only: true,
        ..EventQuery::default()
    }
}

pub(crate) async fn stream(mut call: Call) -> Result<Reply, ApiError> {
    let previews = previews(&mut call.query)?;
    call.finish_query()?;
    let frames = events::watch(&call.app, &call.access, &session_id(&call)?).await?;
    Ok(sse::reply(&call.app, frames, previews, false))
}

/// Takes `event_deltas`.
pub(super) fn previews(query: &mut Query) -> Result<Vec<String>, ApiError> {
    query.list("event_deltas", &PREVIEWED)
}

/// Parses events that a client sends, with the place of a fault in the message.
pub(super) fn event_params(field: &str, events: Vec<Value>) -> Result<Vec<EventParams>, ApiError> {
    events
        .into_iter()
        .enumerate()
        .map(|(index, event)| {
            let path = format!("{field}.{index}");
            match event.get("type").and_then(Value::as_str) {
                None => Err(ApiError::invalid(format!("{path}.type: is required"))),
                Some("user.define_outcome") => Err(ApiError::invalid(format!(
                    "{path}.type: `user.define_outcome` is not supported by this server"
                ))),
                Some(kind) if !sendable(kind) => Err(ApiError::invalid(format!(
                    "{path}.type: `{}` is not an event that can be sent; use one of {}",
                    shortened(kind),
                    SENDABLE.join(", ")
                ))),
                Some(_) => EventParams::from_value(event).map_err(|fault| {
                    let dot = if fault.path.is_empty() { "" } else { "." };
                    ApiError::invalid(format!("{path}{dot}{}: {}", fault.path, fault.message))
                }),
            }
        })
        .collect()
}

const SENDABLE: [&str; 6] = [
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "system.message",
];

fn sendable(kind: &str) -> bool {
    SENDABLE.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_events_are_named_with_their_place() {
        let message = |event: Value| event_params("events", vec![event]).unwrap_err().message;
        assert!(message(json!({})).starts_with("events.0.type: "));
        assert!(message(json!({ "type": "agent.message" })).contains("`agent.message`"));
        assert!(message(json!({ "type": "user.define_outcome" })).contains("not supported"));
        let text = message(json!({ "type": "user.message", "content": [{ "type": "text", "txt": "" }] }));
        assert!(text.starts_with("events.0") && text.contains("txt"), "{text}");
    }
}
