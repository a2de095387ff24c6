//! `/healthz`, `/readyz` and `/metrics`: for those who run the server. They need no key and tell nothing of sessions.

use serde_json::json;

use super::call::Call;
use super::render::Reply;
use crate::error::{ApiError, ErrorKind};

/// The process answers.
pub(crate) async fn healthz(_call: Call) -> Result<Reply, ApiError> {
    Reply::json(&json!({ "status": "ok" }))
}

/// The server takes requests: it can read and write, and it is not stopping.
pub(crate) async fn readyz(call: Call) -> Result<Reply, ApiError> {
    if call.app.closing.is_cancelled() {
        return Err(ApiError::new(ErrorKind::Unavailable, "the server is stopping"));
    }
    call.app.healthy().await?;
    Reply::json(&json!({ "status": "ready" }))
}

/// Prometheus text.
pub(crate) async fn metrics(call: Call) -> Result<Reply, ApiError> {
    Ok(Reply::Text(call.app.metrics().render(&call.app)))
}
