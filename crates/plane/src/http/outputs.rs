//! `/v1/outwork/sessions/{session_id}/outputs`: what a session's sandbox hands over. An own endpoint of this server, for
//! its workers; what they hand over is listed by `/v1/files?scope_id=` as with the hosted service.

use outwork_store::{OutputRow, OutputState, RefusedOutput};
use outwork_wire::Time;
use outwork_wire::id::FileId;
use serde::{Deserialize, Serialize};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::form;
use super::render::Reply;
use super::sessions::session_id;
use crate::app::fields::check_length;
use crate::app::outputs;
use crate::app::resources::check_names;
use crate::error::ApiError;

/// The most outputs of one page.
const MAX_PAGE: usize = 1000;
/// The longest path, in bytes.
const MAX_PATH: usize = 1024;
/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// `POST /v1/outwork/sessions/{session_id}/outputs`
pub(crate) async fn add(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let session = session_id(&call)?;
    let form = form::read(&call, &["path", "sha256"]).await?;
    let required = |name: &str| {
        let missing = || ApiError::invalid(format!("{name}: the form has no part of this name"));
        form.text(name).map(str::to_owned).ok_or_else(missing)
    };
    let (path, sha256) = (required("path")?, required("sha256")?);
    check_path(&path)?;
    check_hash(&sha256)?;
    let came = &form.file.blob.sha256;
    if *came != sha256 {
        return Err(ApiError::invalid(format!(
            "sha256: the bytes that came have {came}: the output was changed on its way, or while it was sent"
        )));
    }
    let row = outputs::add(&call.app, &call.access, &session, &path, form.file.into()).await?;
    Reply::json(&OutputView::new(&row))
}

/// `GET /v1/outwork/sessions/{session_id}/outputs`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = outputs::list(&call.app, &call.access, &session_id(&call)?, page).await?;
    list_page(page, OutputView::new)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefuseParams {
    path: String,
    reason: String,
    #[serde(default)]
    size_bytes: Option<u64>,
    #[serde(default)]
    sha256: Option<String>,
}

/// `POST /v1/outwork/sessions/{session_id}/outputs/refused`
pub(crate) async fn refuse(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let params: RefuseParams = call.json()?;
    check_path(&params.path)?;
    check_length("reason", &params.reason, 1..=MAX_REASON)?;
    params.sha256.as_deref().map(check_hash).transpose()?;
    let refused = RefusedOutput {
        path: params.path,
        reason: params.reason,
        size_bytes: params.size_bytes,
        sha256: params.sha256,
    };
    let row = outputs::refuse(&call.app, &call.access, &session_id(&call)?, refused).await?;
    Reply::json(&OutputView::new(&row))
}

/// Refuses what is no path below the folder of outputs in plain form.
fn check_path(path: &str) -> Result<(), ApiError> {
    if path.len() > MAX_PATH {
        return Err(ApiError::invalid(format!("path: must have at most {MAX_PATH} bytes")));
    }
    if path.starts_with('/') {
        return Err(ApiError::invalid("path: must be relative to the folder of outputs"));
    }
    check_names(path).map_err(|fault| ApiError::invalid(format!("path: {fault}")))
}

fn check_hash(text: &str) -> Result<(), ApiError> {
    let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() == 64 && text.bytes().all(digits) {
        return Ok(());
    }
    Err(ApiError::invalid(
        "sha256: must be the SHA-256 of the bytes as 64 hexadecimal digits in lower case",
    ))
}

/// An output as responses show it.
#[derive(Serialize)]
struct OutputView {
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    state: &'static str,
    size_bytes: Option<u64>,
    sha256: Option<String>,
    file_id: Option<FileId>,
    reason: Option<String>,
    created_at: Time,
}

impl OutputView {
    fn new(row: &OutputRow) -> Self {
        let (state, file_id, reason) = match &row.state {
            OutputState::Stored {
                file_id,
                deleted: false,
            } => ("stored", Some(file_id.clone()), None),
            OutputState::Stored { file_id, deleted: true } => ("deleted", Some(file_id.clone()), None),
            OutputState::Refused { reason } => ("refused", None, Some(reason.clone())),
        };
        Self {
            kind: "output",
            path: row.path.clone(),
            state,
            size_bytes: row.size_bytes,
            sha256: row.sha256.clone(),
            file_id,
            reason,
            created_at: row.created_at,
        }
    }
}
