//! `/v1/outwork/sessions/{session_id}/boundary`: what a session's worker builds its boundary from. An own endpoint of this
//! server. With `after` it answers when the document is another than that, and 204 if it stays the same for `wait`
//! seconds.

use std::time::Duration;

use outwork_ledger::Hash;

use super::call::Call;
use super::render::Reply;
use super::sessions::session_id;
use crate::app::boundary;
use crate::error::ApiError;

/// The longest wait, in seconds: below what proxies on the way allow.
const MAX_WAIT: u64 = 50;

/// `GET /v1/outwork/sessions/{session_id}/boundary`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    let after: Option<Hash> = call.query.parsed("after", "the hash of a boundary: 64 hexadecimal digits")?;
    let wait = call.query.parsed::<u64>("wait", "a whole number of seconds")?;
    call.finish_query()?;
    if wait.is_some_and(|wait| wait > MAX_WAIT) {
        return Err(ApiError::invalid(format!("wait: must be at most {MAX_WAIT} seconds")));
    }
    if wait.is_some() && after.is_none() {
        return Err(ApiError::invalid(
            "wait: goes with `after`, the hash of the document that is known",
        ));
    }
    let wait = Duration::from_secs(wait.unwrap_or(0));
    let found = boundary::of(&call.app, &call.access, &session_id(&call)?, after, wait).await?;
    match found {
        Some(document) => Reply::uncached(&document),
        None => Ok(Reply::Nothing),
    }
}
