//! Results of tools that were too long for the conversation.

use outwork_ledger::{Decision, Hash, Kind};
use outwork_store::SessionTextRow;
use outwork_wire::id::{EventId, SessionId};

use super::App;
use super::boundary::still_held;
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;
use crate::evidence::Subject;
use crate::run::long_texts::place;

/// What is known of the texts of a session.
pub(crate) async fn list(app: &App, access: &Access, session: &SessionId) -> Result<Vec<SessionTextRow>, ApiError> {
    let row = find(app, access, session).await?;
    still_held(app, access, &row).await?;
    Ok(app.store.session_texts(access.workspace()?, session).await?)
}

/// The whole text of a call's result.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    session: &SessionId,
    event: &EventId,
) -> Result<String, ApiError> {
    let row = find(app, access, session).await?;
    still_held(app, access, &row).await?;
    let text = app.store.session_text(access.workspace()?, session, event).await?;
    if access.is_worker() {
        let record = Subject::from(&row)
            .record(Kind::FileIn)
            .path(place(event))
            .call(event.as_str())
            .input_hash(Hash::of(text.as_bytes()))
            .bytes_in(text.len() as u64)
            .decided(Decision::Allowed, "long results")
            .actor(access.principal().to_string());
        app.evidence.cross(vec![record]).await?;
    }
    Ok(text)
}
