//! Results of tools that were too long for the conversation.

use outwork_store::SessionTextRow;
use outwork_wire::id::{EventId, SessionId};

use super::App;
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;

/// What is known of the texts of a session.
pub(crate) async fn list(app: &App, access: &Access, session: &SessionId) -> Result<Vec<SessionTextRow>, ApiError> {
    find(app, access, session).await?;
    Ok(app.store.session_texts(access.workspace()?, session).await?)
}

/// The whole text of a call's result.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    session: &SessionId,
    event: &EventId,
) -> Result<String, ApiError> {
    find(app, access, session).await?;
    Ok(app.store.session_text(access.workspace()?, session, event).await?)
}
