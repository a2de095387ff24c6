//! Outputs of sessions: handed over by the session's worker, and files from then on; or kept back, with the reason.

use outwork_store::{NewFile, OutputLimits, OutputRow, Page, PageRequest, RefusedOutput};
use outwork_wire::Time;
use outwork_wire::id::SessionId;

use super::App;
use super::files::{Received, discard, media_type, name_of_path};
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;

/// Makes a file of an output. The same bytes at the same path are one output.
pub(crate) async fn add(
    app: &App,
    access: &Access,
    session: &SessionId,
    path: &str,
    received: Received,
) -> Result<OutputRow, ApiError> {
    find(app, access, session).await?;
    let filename = name_of_path(path);
    let blob = received.blob.key().to_owned();
    let file = NewFile {
        id: received.id,
        mime_type: media_type(received.media_type, Some(&filename)),
        filename,
        size_bytes: received.blob.size,
        sha256: received.blob.sha256.clone(),
        downloadable: true,
        scope: Some(session.clone()),
        blob: blob.clone(),
        expires_at: None,
    };
    let made = app
        .store
        .create_output(access.workspace()?, session, path, file, limits(app), Time::now())
        .await;
    drop(received.blob);
    match made {
        Ok((output, Some(_))) => Ok(output),
        Ok((output, None)) => {
            discard(app, blob).await;
            Ok(output)
        }
        Err(error) => {
            discard(app, blob).await;
            Err(error.into())
        }
    }
}

/// Notes an output that was kept back.
pub(crate) async fn refuse(
    app: &App,
    access: &Access,
    session: &SessionId,
    refused: RefusedOutput,
) -> Result<OutputRow, ApiError> {
    find(app, access, session).await?;
    tracing::warn!(event = "session.output_refused", %session, "an output of a session was kept back");
    Ok(app
        .store
        .note_refused_output(access.workspace()?, session, refused, limits(app), Time::now())
        .await?)
}

/// Outputs of a session, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    session: &SessionId,
    page: PageRequest,
) -> Result<Page<OutputRow>, ApiError> {
    find(app, access, session).await?;
    Ok(app.store.list_outputs(access.workspace()?, session, page).await?)
}

fn limits(app: &App) -> OutputLimits {
    OutputLimits {
        outputs: app.files.session_outputs,
        bytes: app.files.session_output_bytes,
    }
}
