//! The evidence of a session: made for an admin, and added to by the session's worker.

use outwork_wire::id::SessionId;

use super::App;
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;
use crate::evidence::{EvidenceFile, Received, Subject, Unfinished, WorkerPart, events_file};

/// The evidence of a session, as a file.
pub(crate) async fn of(app: &App, access: &Access, session: &SessionId) -> Result<EvidenceFile, ApiError> {
    let row = find(app, access, session).await?;
    let events = events_file(&app.evidence, &app.store, access.workspace()?, session).await?;
    let file = app.evidence.of_session(&Subject::from(&row), events).await?;
    tracing::info!(event = "session.evidence_given", %session, to = %access.principal(), "the evidence of a session was made");
    Ok(file)
}

/// Refuses a session that the caller's token does not open, before anything of the body is read.
pub(crate) async fn admit(app: &App, access: &Access, session: &SessionId) -> Result<(), ApiError> {
    find(app, access, session).await.map(drop)
}

/// Keeps what the worker of a session sent.
pub(crate) async fn add(
    app: &App,
    session: &SessionId,
    part: WorkerPart,
    sent: Unfinished,
) -> Result<Received, ApiError> {
    let (evidence, session) = (app.evidence.clone(), session.clone());
    tokio::task::spawn_blocking(move || evidence.keep(&session, part, sent))
        .await
        .map_err(ApiError::internal)?
}
