//! `/v1/environments/{id}/work`: the queue that workers of self-hosted environments claim sessions from, and
//! `/v1/outwork/work` for the server's own workers.
//!
//! The answers are those that were recorded of the hosted queue: an empty poll is `null`, a stop is never refused,
//! a heartbeat that does not hold the lease is a 412 with the lease's state.

use std::time::Duration;

use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::WorkId;
use outwork_wire::work::Work;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::environments::environment_id;
use super::query::Query;
use super::render::Reply;
use crate::app::fields::given;
use crate::app::work::{self, PollParams};
use crate::error::ApiError;

const MAX_PAGE: usize = 1000;
const MAX_BLOCK_MS: u32 = 999;
const RECLAIM_OLDER_THAN_MS: u32 = 5000;
/// A lease that is asked for longer than this is given for this long.
const MAX_TTL_SECONDS: u32 = 3600;
const MAX_WORKER_ID: usize = 255;

/// `GET …/work/poll`
pub(crate) async fn poll(mut call: Call) -> Result<Reply, ApiError> {
    let params = poll_params(&mut call)?;
    let environment = environment_id(&call)?;
    Reply::json(&work::poll(&call.app, &call.access, &environment, params).await?)
}

/// `GET /v1/outwork/work/poll`
pub(crate) async fn poll_own(mut call: Call) -> Result<Reply, ApiError> {
    let params = poll_params(&mut call)?;
    Reply::json(&work::poll_own(&call.app, &call.access, params).await?)
}

/// `POST …/work/{work_id}/ack`
pub(crate) async fn ack(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let (environment, id, worker) = (environment_id(&call)?, work_id(&call)?, worker_id(&call)?);
    Reply::json(&work::acknowledge(&call.app, &call.access, &environment, &id, worker.as_deref()).await?)
}

/// `POST /v1/outwork/work/{work_id}/ack`
pub(crate) async fn ack_own(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let (id, worker) = (work_id(&call)?, worker_id(&call)?);
    Reply::json(&work::acknowledge_own(&call.app, &call.access, &id, worker.as_deref()).await?)
}

/// `POST …/work/{work_id}/heartbeat`
pub(crate) async fn heartbeat(mut call: Call) -> Result<Reply, ApiError> {
    let expected = call.query.text("expected_last_heartbeat")?;
    let ttl = desired_ttl(&mut call.query)?;
    call.finish_query()?;
    call.no_body()?;
    let (environment, id) = (environment_id(&call)?, work_id(&call)?);
    Reply::json(&work::heartbeat(&call.app, &call.access, &environment, &id, expected.as_deref(), ttl).await?)
}

/// `POST …/work/{work_id}/stop`
pub(crate) async fn stop(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (environment, id) = (environment_id(&call)?, work_id(&call)?);
    let force = call.json::<StopParams>()?.force.unwrap_or(false);
    Reply::json(&work::stop(&call.app, &call.access, &environment, &id, force).await?)
}

/// `GET …/work/{work_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (environment, id) = (environment_id(&call)?, work_id(&call)?);
    Reply::json(&work::retrieve(&call.app, &call.access, &environment, &id).await?)
}

/// `POST …/work/{work_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (environment, id) = (environment_id(&call)?, work_id(&call)?);
    let patch = call.json::<UpdateParams>()?.metadata;
    Reply::json(&work::update(&call.app, &call.access, &environment, &id, patch).await?)
}

/// `GET …/work`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let environment = environment_id(&call)?;
    let page = work::list(&call.app, &call.access, &environment, page).await?;
    list_page(page, Work::clone)
}

/// `GET …/work/stats`
pub(crate) async fn stats(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (stats, kind) = work::stats(&call.app, &call.access, &environment_id(&call)?).await?;
    Reply::json(&StatsView {
        kind: "work_queue_stats",
        depth: stats.depth,
        pending: stats.pending,
        oldest_queued_at: stats.oldest_queued_at,
        workers_polling: match kind {
            EnvironmentKind::SelfHosted => Some(stats.workers_polling),
            EnvironmentKind::Cloud => None,
        },
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopParams {
    #[serde(default, deserialize_with = "given")]
    force: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    metadata: Map<String, Value>,
}

#[derive(Serialize)]
struct StatsView {
    #[serde(rename = "type")]
    kind: &'static str,
    depth: u64,
    pending: u64,
    oldest_queued_at: Option<outwork_wire::Time>,
    workers_polling: Option<u64>,
}

fn poll_params(call: &mut Call) -> Result<PollParams, ApiError> {
    let (block, reclaim_older_than_ms) = poll_times(&mut call.query)?;
    call.finish_query()?;
    Ok(PollParams {
        worker_id: worker_id(call)?,
        block,
        reclaim_older_than_ms,
    })
}

fn poll_times(query: &mut Query) -> Result<(Option<Duration>, u32), ApiError> {
    let block = match query.parsed::<u32>("block_ms", "a whole number")? {
        None => None,
        Some(ms) if (1..=MAX_BLOCK_MS).contains(&ms) => Some(Duration::from_millis(ms.into())),
        Some(ms) => {
            return Err(ApiError::invalid(format!(
                "block_ms: must be from 1 to {MAX_BLOCK_MS}, not {ms}; leave it out for an answer at once"
            )));
        }
    };
    let reclaim = query.parsed::<u32>("reclaim_older_than_ms", "a whole number of milliseconds")?;
    Ok((block, reclaim.unwrap_or(RECLAIM_OLDER_THAN_MS)))
}

/// The lease that a worker asks for. The answer says what it got.
fn desired_ttl(query: &mut Query) -> Result<Option<u32>, ApiError> {
    match query.parsed::<u32>("desired_ttl_seconds", "a whole number of seconds")? {
        Some(0) => Err(ApiError::invalid("desired_ttl_seconds: must be at least 1")),
        other => Ok(other.map(|ttl| ttl.min(MAX_TTL_SECONDS))),
    }
}

fn worker_id(call: &Call) -> Result<Option<String>, ApiError> {
    let Some(value) = call.headers.get("anthropic-worker-id") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= MAX_WORKER_ID => Ok(Some(text.to_owned())),
        _ => Err(ApiError::invalid(format!(
            "anthropic-worker-id: must have at most {MAX_WORKER_ID} printable ASCII characters"
        ))),
    }
}

fn work_id(call: &Call) -> Result<WorkId, ApiError> {
    call.id("work_id", "work item")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_waits_from_1_to_999_milliseconds() {
        let times = |text: &str| poll_times(&mut Query::parse(Some(text)));
        assert_eq!(times("").unwrap(), (None, 5000));
        assert_eq!(times("block_ms=1").unwrap().0, Some(Duration::from_millis(1)));
        assert_eq!(
            times("block_ms=999&reclaim_older_than_ms=0").unwrap(),
            (Some(Duration::from_millis(999)), 0)
        );
        for wrong in ["block_ms=0", "block_ms=1000", "block_ms=-1", "block_ms=x"] {
            let message = times(wrong).unwrap_err().message;
            assert!(message.starts_with("block_ms: "), "{message}");
        }
        assert!(times("reclaim_older_than_ms=-1").is_err());
    }

    #[test]
    fn a_lease_has_bounds() {
        let ttl = |text: &str| desired_ttl(&mut Query::parse(Some(text)));
        assert_eq!(ttl("").unwrap(), None);
        assert_eq!(ttl("desired_ttl_seconds=1").unwrap(), Some(1));
        assert_eq!(ttl("desired_ttl_seconds=999999").unwrap(), Some(MAX_TTL_SECONDS));
        assert!(ttl("desired_ttl_seconds=0").is_err());
        assert!(ttl("desired_ttl_seconds=1.5").is_err());
    }

    #[test]
    fn bodies_are_strict() {
        assert!(serde_json::from_str::<StopParams>("{}").unwrap().force.is_none());
        assert_eq!(
            serde_json::from_str::<StopParams>(r#"{"force":true}"#).unwrap().force,
            Some(true)
        );
        assert!(serde_json::from_str::<StopParams>(r#"{"force":null}"#).is_err());
        assert!(serde_json::from_str::<StopParams>(r#"{"gentle":true}"#).is_err());
        assert!(serde_json::from_str::<UpdateParams>("{}").is_err());
        assert!(serde_json::from_str::<UpdateParams>(r#"{"metadata":null}"#).is_err());
    }
}
