//! `/v1/sessions/{session_id}/threads`: the primary thread and its events. A session has no other thread.

use outwork_store::SessionRow;
use outwork_wire::Time;
use outwork_wire::id::{SessionId, ThreadId};
use serde::Serialize;
use serde_json::{Value, json};

use super::call::Call;
use super::render::Reply;
use super::sessions::{StatsBody, UsageBody, no_further_page, page, session_id, stats};
use super::{events, sse};
use crate::app::sessions;
use crate::error::ApiError;

pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let statuses = call
        .query
        .list("statuses", &["rescheduling", "running", "idle", "terminated"])?;
    no_further_page(page(&mut call.query, 20, 100)?)?;
    call.finish_query()?;
    let row = sessions::find(&call.app, &call.access, &session_id(&call)?).await?;
    let shown = statuses.is_empty() || statuses.iter().any(|s| s == row.status.as_str());
    let data: Vec<ThreadBody> = shown.then(|| ThreadBody::of(row)).transpose()?.into_iter().collect();
    Reply::json(&json!({ "data": data, "next_page": null }))
}

pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    Reply::json(&ThreadBody::of(primary(&call).await?)?)
}

pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let row = primary(&call).await?;
    Err(ApiError::invalid(format!(
        "thread `{}` is the session's primary thread and cannot be archived alone; archive the session",
        row.thread_id
    )))
}

pub(crate) async fn events(call: Call) -> Result<Reply, ApiError> {
    primary(&call).await?;
    events::list_with(call, events::of_thread()).await
}

pub(crate) async fn stream(mut call: Call) -> Result<Reply, ApiError> {
    let previews = events::previews(&mut call.query)?;
    call.finish_query()?;
    let row = primary(&call).await?;
    let frames = crate::app::events::watch(&call.app, &call.access, &row.id).await?;
    Ok(sse::reply(&call.app, frames, previews, true))
}

/// The session, if the thread in the path is its primary one.
async fn primary(call: &Call) -> Result<SessionRow, ApiError> {
    let row = sessions::find(&call.app, &call.access, &session_id(call)?).await?;
    let thread: ThreadId = call.id("thread_id", "thread")?;
    if thread == row.thread_id {
        Ok(row)
    } else {
        Err(ApiError::not_found("thread", thread.as_str()))
    }
}

#[derive(Serialize)]
struct ThreadBody {
    id: ThreadId,
    #[serde(rename = "type")]
    kind: &'static str,
    session_id: SessionId,
    parent_thread_id: Option<()>,
    workflow_run_id: Option<()>,
    agent: Value,
    status: &'static str,
    stats: StatsBody,
    usage: UsageBody,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

impl ThreadBody {
    fn of(row: SessionRow) -> Result<Self, ApiError> {
        let mut agent = serde_json::to_value(&row.profile.agent).map_err(ApiError::internal)?;
        if let Some(fields) = agent.as_object_mut() {
            fields.remove("multiagent");
        }
        Ok(Self {
            stats: stats(&row),
            usage: UsageBody::from(&row.usage),
            id: row.thread_id,
            kind: "session_thread",
            session_id: row.id,
            parent_thread_id: None,
            workflow_run_id: None,
            agent,
            status: row.status.as_str(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        })
    }
}
