//! Files: kept, shown, given out, ended.
//!
//! What a client uploads it cannot download unless the settings say so, as with the hosted service; what a session
//! brought forth it can. A session's worker reads the files that are resources of its session and no others.

use mime_guess::mime;
use outwork_ledger::{Decision, Kind};
use outwork_store::{
    BlobError, BlobReader, BlobWriter, FileRow, NewFile, Page, PageRequest, ResourceSpec, SessionResourceRow,
    SessionRow, StoreError, WrittenBlob,
};
use outwork_wire::Time;
use outwork_wire::id::FileId;
use serde_json::json;

use super::App;
use super::boundary::still_held;
use crate::auth::{Access, Principal};
use crate::error::{ApiError, ErrorKind};
use crate::evidence::Subject;

/// The longest name of a file, in characters.
const MAX_NAME: usize = 255;
/// Characters that no name has. Source: the hosted service's rules for names of files.
const NOT_IN_NAMES: &[char] = &['<', '>', ':', '"', '|', '?', '*', '\\', '/'];
/// How many files, or blobs, one step of the upkeep looks at.
const STEP: usize = 1000;

/// What of bytes that were received makes a file.
pub(crate) struct Received {
    pub(crate) id: FileId,
    pub(crate) filename: Option<String>,
    pub(crate) media_type: Option<String>,
    pub(crate) blob: WrittenBlob,
}

/// Begins to keep the bytes of a file that will have this id.
pub(crate) async fn begin(app: &App, id: &FileId) -> Result<BlobWriter, ApiError> {
    let text = id.as_str();
    // The last characters are chance, so the folders are filled evenly.
    let writer = app
        .blobs
        .writer(&format!("{}/{text}", &text[text.len().saturating_sub(2)..]));
    app.store.note_loose_blob(writer.key(), Time::now()).await?;
    Ok(writer)
}

/// Makes a file of what a client sent.
pub(crate) async fn upload(
    app: &App,
    access: &Access,
    received: Received,
    expires_in_seconds: Option<i64>,
) -> Result<FileRow, ApiError> {
    let media_type = media_type(received.media_type, received.filename.as_deref());
    let filename = client_name(received.filename.as_deref(), &media_type)?;
    let now = Time::now();
    let new = NewFile {
        id: received.id,
        filename,
        mime_type: media_type,
        size_bytes: received.blob.size,
        sha256: received.blob.sha256.clone(),
        downloadable: app.files.downloadable_uploads,
        scope: None,
        blob: received.blob.key().to_owned(),
        expires_at: expires_in_seconds.map(|seconds| now.plus_seconds(seconds)),
    };
    // `received.blob` holds its key until the row is there.
    Ok(app.store.create_file(access.workspace()?, new, now).await?)
}

/// The file of that id.
pub(crate) async fn retrieve(app: &App, access: &Access, id: &FileId) -> Result<FileRow, ApiError> {
    Ok(app.store.file(access.workspace()?, id).await?)
}

/// Files, newest first.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    scope: Option<&str>,
    page: PageRequest,
) -> Result<Page<FileRow>, ApiError> {
    Ok(app.store.list_files(access.workspace()?, scope, page).await?)
}

/// Those of the files that there are.
pub(crate) async fn list_ids(
    app: &App,
    access: &Access,
    scope: Option<&str>,
    ids: &[FileId],
) -> Result<Vec<FileRow>, ApiError> {
    Ok(app.store.files_of_ids(access.workspace()?, scope, ids).await?)
}

/// Deletes a file. Sessions that have it as a resource keep the resource and find no bytes.
pub(crate) async fn delete(app: &App, access: &Access, id: &FileId) -> Result<(), ApiError> {
    let row = app.store.delete_file(access.workspace()?, id, Time::now()).await?;
    if let Some(blob) = row.blob {
        discard(app, blob).await;
    }
    Ok(())
}

/// A file's bytes, for a caller who may have them.
pub(crate) async fn content(app: &App, access: &Access, id: &FileId) -> Result<(FileRow, BlobReader), ApiError> {
    let workspace = access.workspace()?;
    let mut into_sandbox = None;
    let of_session = match access.principal() {
        Principal::Session { session, .. } => {
            let row = app.store.session(workspace, session).await?;
            still_held(app, access, &row).await?;
            let Some(path) = place_of(&row, id) else {
                return Err(ApiError::not_found("file", id.as_str()));
            };
            into_sandbox = Some((Subject::from(&row), path));
            true
        }
        Principal::Anybody
        | Principal::ApiKey { .. }
        | Principal::EnvironmentKey { .. }
        | Principal::Workload { .. }
        | Principal::Worker => false,
    };
    let row = app.store.file(workspace, id).await?;
    if !row.downloadable && !of_session {
        return Err(ApiError::invalid(format!(
            "file `{id}` was uploaded and cannot be downloaded; files that sessions brought forth can (its owner may set \
             files.downloadable_uploads)"
        ))
        .with_details(json!({ "error_code": "file_not_downloadable" })));
    }
    let blob = row.blob.as_deref().filter(|_| row.has_bytes(Time::now()));
    let Some(blob) = blob else {
        return Err(ApiError::new(
            ErrorKind::NotFound,
            format!("file `{id}` has expired and its bytes are gone"),
        )
        .with_details(json!({ "error_code": "file_expired" })));
    };
    let reader = match app.blobs.read(blob).await {
        // It was deleted or has expired since.
        Err(BlobError::Missing { .. })
            if app.store.file(workspace, id).await.map(|now| now.blob).ok() != Some(row.blob.clone()) =>
        {
            return Err(ApiError::not_found("file", id.as_str()));
        }
        other => other?,
    };
    if let Some((subject, path)) = into_sandbox {
        let mut record = subject
            .record(Kind::FileIn)
            .path(path)
            .decided(Decision::Allowed, "session resources")
            .bytes_in(row.size_bytes)
            .actor(access.principal().to_string());
        record.input_hash = row.sha256.parse().ok();
        app.evidence.cross(vec![record]).await?;
    }
    Ok((row, reader))
}

/// Where a session has a file as a resource.
fn place_of(session: &SessionRow, id: &FileId) -> Option<String> {
    let has =
        |resource: &&SessionResourceRow| matches!(&resource.spec, ResourceSpec::File { file_id } if file_id == id);
    let resource = session.resources.iter().find(has)?;
    Some(resource.mount_path.clone())
}

/// Removes bytes that no file has. If that fails, the upkeep does it.
pub(crate) async fn discard(app: &App, blob: String) {
    if let Err(error) = app.blobs.remove(&blob).await {
        tracing::warn!(%error, "the bytes of a file that is gone could not be removed; it is tried again");
        return;
    }
    if let Err(error) = app.store.forget_loose_blobs(vec![blob]).await {
        tracing::debug!(%error, "a blob that was removed is still noted");
    }
}

/// Takes the bytes of files whose time is over.
pub(crate) async fn expire(app: &App) -> Result<(), StoreError> {
    while app.store.expire_files(Time::now(), STEP).await? == STEP {}
    Ok(())
}

/// Removes the blobs that no file has and that nobody writes.
pub(crate) async fn remove_loose(app: &App) -> Result<(), anyhow::Error> {
    let idle: Vec<String> = app
        .store
        .loose_blobs(STEP)
        .await?
        .into_iter()
        .filter(|blob| !app.blobs.is_busy(blob))
        .collect();
    if idle.is_empty() {
        return Ok(());
    }
    // One that nobody holds any more and that is still loose was given up; one that became a file is not loose now.
    let mut removed = Vec::new();
    let mut failure = None;
    for blob in app.store.still_loose(idle).await? {
        match app.blobs.remove(&blob).await {
            Ok(()) => removed.push(blob),
            Err(error) => failure = Some(error),
        }
    }
    app.store.forget_loose_blobs(removed).await?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// The media type of a file: what was said of it, or what its name says if nothing was.
pub(crate) fn media_type(said: Option<String>, filename: Option<&str>) -> String {
    let octets = mime::APPLICATION_OCTET_STREAM.essence_str();
    match said.filter(|text| !text.is_empty() && text != octets) {
        Some(said) => said,
        None => filename
            .and_then(|name| mime_guess::from_path(name).first_raw())
            .unwrap_or(octets)
            .to_owned(),
    }
}

/// The last part of the name that a client gave; a name made up by the media type if it gave none.
pub(crate) fn client_name(given: Option<&str>, media_type: &str) -> Result<String, ApiError> {
    let name = given.unwrap_or_default().rsplit(['/', '\\']).next().unwrap_or_default();
    if name.is_empty() {
        let extension = extension(media_type).map(|e| format!(".{e}")).unwrap_or_default();
        return Ok(format!("unnamed{extension}"));
    }
    if name == "." || name == ".." {
        return Err(ApiError::invalid(format!("file: `{name}` is no name of a file")));
    }
    if name.chars().count() > MAX_NAME {
        return Err(ApiError::invalid(format!(
            "file: its name must have at most {MAX_NAME} characters, not {}",
            name.chars().count()
        )));
    }
    if let Some(bad) = name.chars().find(|c| NOT_IN_NAMES.contains(c) || c.is_control()) {
        return Err(ApiError::invalid(format!(
            "file: its name must not have the character {bad:?}"
        )));
    }
    Ok(name.to_owned())
}

/// A name for a file that was found at a path; characters that no name has are replaced.
pub(crate) fn name_of_path(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.chars()
        .map(|c| {
            if NOT_IN_NAMES.contains(&c) || c.is_control() {
                '_'
            } else {
                c
            }
        })
        .take(MAX_NAME)
        .collect()
}

/// The usual extension of a media type. The library gives all there are in no order that says anything.
fn extension(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "text/plain" => "txt",
        "text/html" => "html",
        "text/markdown" => "md",
        "image/jpeg" => "jpg",
        "audio/mpeg" => "mp3",
        "application/octet-stream" => return None,
        other => mime_guess::get_mime_extensions_str(other)?.first()?,
    })
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            error @ (BlobError::Write { .. } | BlobError::Read { .. } | BlobError::Remove { .. }) => ApiError {
                kind: ErrorKind::Unavailable,
                message:
                    "the server cannot keep or read the bytes of files at the moment and has kept nothing of this \
                          request; try again"
                        .into(),
                ..ApiError::internal(error)
            },
            error @ (BlobError::Missing { .. } | BlobError::Place { .. }) => ApiError::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_last_part_only() {
        for (given, wanted) in [
            (Some("report.csv"), "report.csv"),
            (Some("../../etc/passwd"), "passwd"),
            (Some("C:\\Users\\me\\a.txt"), "a.txt"),
            (Some("/a/b/ä ö.txt"), "ä ö.txt"),
            (Some(""), "unnamed.csv"),
            (Some("folder/"), "unnamed.csv"),
            (None, "unnamed.csv"),
        ] {
            assert_eq!(client_name(given, "text/csv").unwrap(), wanted);
        }
        assert_eq!(client_name(None, "application/octet-stream").unwrap(), "unnamed");
        let long = "x".repeat(256);
        for bad in ["..", "a/..", ".", "a\nb", "a\0b", "a:b", "a?b", "x\u{7f}", &long] {
            assert!(client_name(Some(bad), "text/plain").is_err(), "{bad}");
        }
    }

    #[test]
    fn media_types_are_what_was_said_or_what_the_name_says() {
        let of = |said: Option<&str>, name| media_type(said.map(str::to_owned), name);
        assert_eq!(of(Some("text/x-special"), Some("a.csv")), "text/x-special");
        assert_eq!(of(Some("application/octet-stream"), Some("a.csv")), "text/csv");
        assert_eq!(of(None, Some("a.pdf")), "application/pdf");
        assert_eq!(of(None, None), "application/octet-stream");
    }

    #[test]
    fn names_of_outputs_have_nothing_that_no_name_has() {
        assert_eq!(name_of_path("a/b/c.txt"), "c.txt");
        assert_eq!(name_of_path("what?\u{1}\\x:*.txt"), "what___x__.txt");
    }
}
