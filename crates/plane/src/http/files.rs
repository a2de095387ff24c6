//! `/v1/files`: what clients send of files and what they are shown.

use axum::body::Body;
use form_urlencoded::byte_serialize;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue, header};
use outwork_store::FileRow;
use outwork_wire::Time;
use outwork_wire::id::{FileId, SessionId};
use serde::Serialize;
use serde_json::json;

use super::agents::{list_page, page_request};
use super::call::Call;
use super::form::{self, ReceivedFile};
use super::render::Reply;
use crate::app::files::{self, Received};
use crate::error::ApiError;

/// The most files of one page.
const MAX_PAGE: usize = 1000;
/// The most ids that a list is asked for.
const MAX_IDS: usize = 100;
/// How long a file may live that does not live for ever, in seconds: an hour to ninety days.
const LIFETIME: std::ops::RangeInclusive<i64> = 3600..=7_776_000;
const EXPIRES: &str = "expires_in_seconds";

/// `POST /v1/files`
pub(crate) async fn upload(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let form = form::read(&call, &[EXPIRES]).await?;
    let expires = form.text(EXPIRES).map(lifetime).transpose()?;
    let row = files::upload(&call.app, &call.access, form.file.into(), expires).await?;
    Reply::json(&FileView::new(&row))
}

/// `GET /v1/files`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let scope = call.query.text("scope_id")?;
    let ids = call.query.texts("ids")?;
    if ids.is_empty() {
        let page = page_request(&mut call, MAX_PAGE)?;
        call.finish_query()?;
        let page = files::list(&call.app, &call.access, scope.as_deref(), page).await?;
        return list_page(page, FileView::new);
    }
    if call.query.text("limit")?.is_some() || call.query.text("page")?.is_some() {
        return Err(ApiError::invalid("ids: cannot be given together with limit or page"));
    }
    call.finish_query()?;
    let rows = files::list_ids(&call.app, &call.access, scope.as_deref(), &known_ids(ids)?).await?;
    let data: Vec<FileView> = rows.iter().map(FileView::new).collect();
    Reply::json(&json!({ "data": data, "next_page": null }))
}

/// `GET /v1/files/{file_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let row = files::retrieve(&call.app, &call.access, &file_id(&call)?).await?;
    Reply::json(&FileView::new(&row))
}

/// `DELETE /v1/files/{file_id}`
pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = file_id(&call)?;
    files::delete(&call.app, &call.access, &id).await?;
    Reply::json(&json!({ "id": id, "type": "file_deleted" }))
}

/// `GET /v1/files/{file_id}/content`
pub(crate) async fn content(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (row, reader) = files::content(&call.app, &call.access, &file_id(&call)?).await?;
    let id = row.id.clone();
    let stream = reader
        .stream
        .inspect_err(move |error| tracing::warn!(file = %id, %error, "a download broke off"));
    let mut headers = attachment(&row.filename, &row.mime_type)?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reader.size));
    Ok(Reply::Bytes(Body::from_stream(stream), headers))
}

/// The headers of bytes that somebody else made: a browser saves them under their name and does not run them.
pub(super) fn attachment(filename: &str, media_type: &str) -> Result<HeaderMap, ApiError> {
    let plain: String = filename
        .chars()
        .map(|c| {
            if c.is_ascii() && !c.is_ascii_control() && !matches!(c, '"' | '\\') {
                c
            } else {
                '_'
            }
        })
        .collect();
    // RFC 6266; spaces are not `+` there.
    let encoded: String = byte_serialize(filename.as_bytes())
        .collect::<String>()
        .replace('+', "%20");
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    let mut headers = HeaderMap::new();
    let value = |text: &str| HeaderValue::from_str(text).map_err(ApiError::internal);
    headers.insert(header::CONTENT_TYPE, value(media_type)?);
    headers.insert(header::CONTENT_DISPOSITION, value(&disposition)?);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(headers)
}

fn file_id(call: &Call) -> Result<FileId, ApiError> {
    call.id("file_id", "file")
}

/// The ids without repetitions. One that cannot be an id is one of no file.
fn known_ids(texts: Vec<String>) -> Result<Vec<FileId>, ApiError> {
    let mut texts = texts;
    texts.sort();
    texts.dedup();
    if texts.len() > MAX_IDS {
        return Err(ApiError::invalid(format!(
            "ids: at most {MAX_IDS} ids, not {}",
            texts.len()
        )));
    }
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

fn lifetime(text: &str) -> Result<i64, ApiError> {
    text.trim()
        .parse::<i64>()
        .ok()
        .filter(|seconds| LIFETIME.contains(seconds))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "{EXPIRES}: must be a whole number from {} to {}, not `{}`",
                LIFETIME.start(),
                LIFETIME.end(),
                super::shortened(text)
            ))
        })
}

impl From<ReceivedFile> for Received {
    fn from(file: ReceivedFile) -> Self {
        Self {
            id: file.id,
            filename: file.filename,
            media_type: file.media_type,
            blob: file.blob,
        }
    }
}

/// A file as responses show it.
#[derive(Serialize)]
pub(super) struct FileView {
    id: FileId,
    #[serde(rename = "type")]
    kind: &'static str,
    filename: String,
    mime_type: String,
    size_bytes: u64,
    downloadable: bool,
    created_at: Time,
    expires_at: Option<Time>,
    scope: Option<ScopeView>,
}

#[derive(Serialize)]
struct ScopeView {
    id: SessionId,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl FileView {
    pub(super) fn new(row: &FileRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "file",
            filename: row.filename.clone(),
            mime_type: row.mime_type.clone(),
            size_bytes: row.size_bytes,
            downloadable: row.downloadable,
            created_at: row.created_at,
            expires_at: row.expires_at,
            scope: row.scope.clone().map(|id| ScopeView { id, kind: "session" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        let headers = attachment("a\"; x=\u{e4}\r\nb c.txt", "text/plain").unwrap();
        assert_eq!(
            headers[header::CONTENT_DISPOSITION],
            "attachment; filename=\"a_; x=___b c.txt\"; filename*=UTF-8''a%22%3B%20x%3D%C3%A4%0D%0Ab%20c.txt"
        );
        assert!(attachment("a", "text/\nplain").is_err());
    }
}
