//! `/v1/outwork/sessions/{session_id}/evidence`: the evidence of a session as a file, and what its worker adds to it. Own
//! endpoints of this server.

use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use http::{HeaderValue, header};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::call::Call;
use super::files::attachment;
use super::render::Reply;
use super::sessions::session_id;
use crate::app::evidence;
use crate::error::{ApiError, ErrorKind};
use crate::evidence::{Unfinished, WorkerPart};

/// The header with the id of the key that sealed the file.
const KEY_HEADER: &str = "outwork-ledger-key";

/// `GET /v1/outwork/sessions/{session_id}/evidence`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let session = session_id(&call)?;
    let made = evidence::of(&call.app, &call.access, &session).await?;
    let mut headers = attachment(&format!("{session}.evidence.jsonl"), "application/x-ndjson")?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(made.size));
    headers.insert(KEY_HEADER, HeaderValue::from_str(&made.key).map_err(ApiError::internal)?);
    let stream = ReaderStream::new(tokio::fs::File::from_std(made.file));
    Ok(Reply::Bytes(Body::from_stream(stream), headers))
}

/// `POST /v1/outwork/sessions/{session_id}/evidence`
pub(crate) async fn add(mut call: Call) -> Result<Reply, ApiError> {
    let part = match call.query.text("part")? {
        None => WorkerPart::Records,
        Some(name) => WorkerPart::of(&name)
            .ok_or_else(|| ApiError::invalid("part: must be records, policy or image; records if it is left out"))?,
    };
    call.finish_query()?;
    let session = session_id(&call)?;
    evidence::admit(&call.app, &call.access, &session).await?;
    let sent = receive(&call, part.limit()).await?;
    let kept = evidence::add(&call.app, &session, part, sent).await?;
    Reply::json(&json!({
        "type": "evidence_part", "part": part.name(), "name": kept.name, "records": kept.records, "sha256": kept.sha256,
    }))
}

/// Puts the body into a file, piece by piece.
async fn receive(call: &Call, limit: u64) -> Result<Unfinished, ApiError> {
    let fault = |error: std::io::Error| ApiError {
        kind: ErrorKind::Unavailable,
        message: "the server cannot keep evidence at the moment and has kept nothing of this request; try again".into(),
        ..ApiError::internal(error)
    };
    let patience = call.app.limits().body_timeout;
    let sent = call.app.evidence.unfinished().map_err(fault)?;
    let mut file = tokio::fs::File::from_std(sent.file.try_clone().map_err(fault)?);
    let mut body = call.take_body().into_data_stream();
    let mut received = 0u64;
    loop {
        let next = tokio::time::timeout(patience, body.next()).await;
        let Some(piece) = next.map_err(|_| too_slow(patience))? else {
            break;
        };
        let piece = piece.map_err(|_| ApiError::invalid("the request body ended before it was complete"))?;
        received += piece.len() as u64;
        if received > limit {
            return Err(ApiError::new(
                ErrorKind::TooLarge,
                format!("the request body is larger than {limit} bytes"),
            ));
        }
        file.write_all(&piece).await.map_err(fault)?;
    }
    if received == 0 {
        return Err(ApiError::invalid("the body is empty: it has to be what is to be kept"));
    }
    file.flush().await.map_err(fault)?;
    Ok(sent)
}

fn too_slow(patience: Duration) -> ApiError {
    ApiError::new(
        ErrorKind::RequestTimeout,
        format!("nothing of the request body came for {} s", patience.as_secs()),
    )
}
