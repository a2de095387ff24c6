//! Outputs of sessions: handed over by the session's worker, and files from then on; or kept back, with the reason.

use outwork_ledger::{Decision, Hash, Kind, Record};
use outwork_store::{NewFile, OutputLimits, OutputRow, Page, PageRequest, RefusedOutput};
use outwork_wire::Time;
use outwork_wire::id::SessionId;

use super::App;
use super::files::{Received, discard, media_type, name_of_path};
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;
use crate::evidence::Subject;

/// The folder that outputs are taken from.
const OUTPUTS: &str = "/mnt/session/outputs";

/// Makes a file of an output. The same bytes at the same path are one output.
pub(crate) async fn add(
    app: &App,
    access: &Access,
    session: &SessionId,
    path: &str,
    received: Received,
) -> Result<OutputRow, ApiError> {
    let subject = Subject::from(&find(app, access, session).await?);
    let filename = name_of_path(path);
    let blob = received.blob.key().to_owned();
    let out = of_output(&subject, path, Some(received.blob.size), received.blob.sha256.parse().ok())
        .decided(Decision::Allowed, "outputs")
        .output_location(received.id.as_str())
        .actor(access.principal().to_string());
    if let Err(error) = app.evidence.cross(vec![out]).await {
        drop(received.blob);
        discard(app, blob).await;
        return Err(error);
    }
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
    let subject = Subject::from(&find(app, access, session).await?);
    let hash = refused.sha256.as_deref().and_then(|text| text.parse().ok());
    let kept_back = of_output(&subject, &refused.path, refused.size_bytes, hash)
        .decided(Decision::Denied, "outputs")
        .reason(refused.reason.as_str())
        .actor(access.principal().to_string());
    app.evidence.tell(kept_back).await;
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

/// The beginning of a record of a file that is taken out of a sandbox, or kept from being.
fn of_output(subject: &Subject, path: &str, bytes: Option<u64>, hash: Option<Hash>) -> Record {
    let mut record = subject.record(Kind::FileOut).path(format!("{OUTPUTS}/{path}"));
    record.bytes_out = bytes;
    record.output_hash = hash;
    record
}

fn limits(app: &App) -> OutputLimits {
    OutputLimits {
        outputs: app.files.session_outputs,
        bytes: app.files.session_output_bytes,
    }
}
