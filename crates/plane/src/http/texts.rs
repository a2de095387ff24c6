//! `/v1/outwork/sessions/{session_id}/texts`: results of tools that were too long for the conversation. An own
//! endpoint of this server: its worker puts them into the sandbox.

use axum::body::Body;
use outwork_wire::id::EventId;
use serde_json::{Value, json};

use super::call::Call;
use super::files::attachment;
use super::render::Reply;
use super::sessions::session_id;
use crate::app::texts;
use crate::error::ApiError;
use crate::run::long_texts::{file_name, place};

/// `GET /v1/outwork/sessions/{session_id}/texts`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let rows = texts::list(&call.app, &call.access, &session_id(&call)?).await?;
    let data: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "type": "text", "event_id": row.event_id, "characters": row.characters, "size_bytes": row.size_bytes,
                "sha256": row.sha256, "path": place(&row.event_id), "created_at": row.created_at,
            })
        })
        .collect();
    Reply::json(&json!({ "data": data, "next_page": null }))
}

/// `GET /v1/outwork/sessions/{session_id}/texts/{event_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let event: EventId = call.id("event_id", "text")?;
    let text = texts::retrieve(&call.app, &call.access, &session_id(&call)?, &event).await?;
    let headers = attachment(&file_name(&event), "text/plain; charset=utf-8")?;
    Ok(Reply::Bytes(Body::from(text), headers))
}
