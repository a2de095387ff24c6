//! Events: sent, listed, watched.

use outwork_engine::Submitter;
use outwork_store::{EventQuery, Page, PageRequest, SessionStatus};
use outwork_wire::id::SessionId;
use outwork_wire::{Event, EventParams};
use serde_json::value::RawValue;

use super::{App, sessions};
use crate::auth::Access;
use crate::error::ApiError;
use crate::run::hub::Listener;
use crate::run::registry::Command;

/// Sends events to a session. When this returns they are in its log.
pub(crate) async fn send(
    app: &App,
    access: &Access,
    id: &SessionId,
    events: Vec<EventParams>,
) -> Result<Vec<Event>, ApiError> {
    sessions::find(app, access, id).await?;
    let by = if access.is_worker() {
        Submitter::Worker
    } else {
        Submitter::Client
    };
    app.sessions
        .ask(access.workspace()?, id, |reply| Command::Submit {
            events,
            by,
            who: access.principal().to_string(),
            reply,
        })
        .await
}

/// A page of a session's log.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    id: &SessionId,
    query: EventQuery,
    page: PageRequest,
) -> Result<Page<Box<RawValue>>, ApiError> {
    sessions::find(app, access, id).await?;
    Ok(app.store.list_events(access.workspace()?, id, query, page).await?)
}

/// Everything that happens in a session from now on. A session that is over has an empty stream.
pub(crate) async fn watch(app: &App, access: &Access, id: &SessionId) -> Result<Listener, ApiError> {
    let row = sessions::find(app, access, id).await?;
    if row.status == SessionStatus::Terminated {
        return Ok(Listener::ended());
    }
    let frames = app.hub.listen(id, app.limits().stream_backlog);
    // What ended between the look and the listening would never be heard of.
    match sessions::find(app, access, id).await {
        Ok(row) if row.status != SessionStatus::Terminated => Ok(frames),
        Ok(_) => Ok(Listener::ended()),
        Err(error) => Err(error),
    }
}
