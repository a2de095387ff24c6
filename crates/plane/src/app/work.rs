//! Work items: polling a queue, and what a worker and its owner do with an item.
//!
//! Every delivery of an item carries a fresh token; the one before ends with it. A stop of the last item of a session
//! that still needs a worker makes the next one, in the store and in the same transaction.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use outwork_store::{BeatOutcome, KeyHash, Page, PageRequest, Poll, StoppedBy, StoreError, WorkStats};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, EnvironmentKeyId, WorkId};
use outwork_wire::work::{Heartbeat, Work, WorkSecret};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::environments::{find, invalid_metadata};
use super::fields::merge_metadata;
use super::{App, environments};
use crate::auth::{Access, Principal, SESSIONS_TOKEN_PREFIX, SecretText};
use crate::error::{ApiError, ErrorKind};
use crate::http::shortened;
use crate::run::changes::Changed;

/// How a worker asks for work.
pub(crate) struct PollParams {
    /// The name that the worker gives itself.
    pub(crate) worker_id: Option<String>,
    /// How long to wait for something to come; absent for an answer at once.
    pub(crate) block: Option<Duration>,
    /// Items that were polled at least so long ago and not acknowledged are offered again.
    pub(crate) reclaim_older_than_ms: u32,
}

/// The next item of an environment's queue, with its secret.
pub(crate) async fn poll(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    params: PollParams,
) -> Result<Option<Work>, ApiError> {
    let workspace = access.workspace()?;
    if find(app, workspace, environment).await?.kind == EnvironmentKind::Cloud {
        return Err(ApiError::invalid(format!(
            "environment `{environment}` is a cloud environment, which the server's own workers serve; only \
             self_hosted environments are polled"
        )));
    }
    let bell = app.bells.of(environment);
    let key = match access.principal() {
        Principal::EnvironmentKey { id, .. } => Some(id),
        Principal::Anybody
        | Principal::ApiKey { .. }
        | Principal::Session { .. }
        | Principal::Workload { .. }
        | Principal::Worker => None,
    };
    wait(app, &bell, params, key, move |poll| {
        app.store.poll_work(workspace, environment, poll)
    })
    .await
}

/// The next item of all cloud environments, of all workspaces, with its secret.
pub(crate) async fn poll_own(app: &App, _access: &Access, params: PollParams) -> Result<Option<Work>, ApiError> {
    let bell = app.bells.of_cloud();
    wait(app, &bell, params, None, move |poll| async move {
        Ok(app.store.poll_cloud_work(poll).await?.map(|(_, work)| work))
    })
    .await
}

/// Looks for work until there is some, the time is over or the server stops.
async fn wait<F, R>(
    app: &App,
    bell: &Arc<Notify>,
    params: PollParams,
    key: Option<&EnvironmentKeyId>,
    look: F,
) -> Result<Option<Work>, ApiError>
where
    F: Fn(Poll) -> R,
    R: Future<Output = Result<Option<Work>, StoreError>>,
{
    let token = SecretText::fresh(SESSIONS_TOKEN_PREFIX);
    let until = params.block.map(|block| tokio::time::Instant::now() + block);
    loop {
        // Listening begins before the look, so that what comes in between is not missed.
        let rung = bell.notified();
        let found = look(Poll {
            worker_id: params.worker_id.clone(),
            key: key.cloned(),
            reclaim_older_than_ms: params.reclaim_older_than_ms,
            token_hash: KeyHash::of(token.expose()),
            now: Time::now(),
        })
        .await?;
        if let Some(mut work) = found {
            let secret = WorkSecret {
                sessions_token: token.expose().to_owned(),
            };
            work.secret = Some(secret.pack());
            return Ok(Some(work));
        }
        let Some(until) = until else {
            return Ok(None);
        };
        tokio::select! {
            () = rung => {}
            () = tokio::time::sleep_until(until) => return Ok(None),
            () = app.closing.cancelled() => return Ok(None),
        }
    }
}

/// Takes a polled item off the queue.
pub(crate) async fn acknowledge(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &WorkId,
    worker_id: Option<&str>,
) -> Result<Work, ApiError> {
    let workspace = access.workspace()?;
    Ok(app
        .store
        .acknowledge_work(workspace, environment, id, worker_id, Time::now())
        .await?)
}

/// Takes a polled item of any cloud environment off its queue.
pub(crate) async fn acknowledge_own(
    app: &App,
    _access: &Access,
    id: &WorkId,
    worker_id: Option<&str>,
) -> Result<Work, ApiError> {
    Ok(app.store.acknowledge_cloud_work(id, worker_id, Time::now()).await?)
}

/// Extends the lease of an item.
pub(crate) async fn heartbeat(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &WorkId,
    expected: Option<&str>,
    desired_ttl_seconds: Option<u32>,
) -> Result<Heartbeat, ApiError> {
    let outcome = app
        .store
        .heartbeat_work(
            access.workspace()?,
            environment,
            id,
            expected,
            desired_ttl_seconds,
            Time::now(),
        )
        .await?;
    match outcome {
        BeatOutcome::Beat(heartbeat) => Ok(heartbeat),
        BeatOutcome::PreconditionFailed {
            expected,
            actual,
            current,
        } => {
            let message = format!(
                "expected_last_heartbeat: expected `{}`, the last heartbeat is `{}`: another worker may hold this item, \
                 stop working on it",
                shortened(expected.as_deref().unwrap_or("NULL")),
                actual.as_deref().unwrap_or("NULL"),
            );
            Err(
                ApiError::new(ErrorKind::PreconditionFailed, message).with_details(json!({
                    "error_code": "heartbeat_precondition_failed",
                    "error_visibility": "user_facing",
                    "current_state": {
                        "state": current.state,
                        "last_heartbeat": current.last_heartbeat,
                        "lease_updated_at": current.lease_updated_at,
                        "lease_extended": false,
                        "ttl_seconds": current.ttl_seconds,
                    },
                })),
            )
        }
    }
}

/// Stops an item: by telling its worker, or at once.
pub(crate) async fn stop(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &WorkId,
    force: bool,
) -> Result<Work, ApiError> {
    let workspace = access.workspace()?;
    let by = if access.is_worker() {
        StoppedBy::Worker
    } else {
        StoppedBy::Operator
    };
    let outcome = app
        .store
        .stop_work(workspace, environment, id, force, by, Time::now())
        .await?;
    if outcome.next.is_some() {
        app.bells.ring(environment);
    }
    app.changes.ring(Changed::Session(outcome.session_id));
    Ok(outcome.work)
}

/// The item of that id.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &WorkId,
) -> Result<Work, ApiError> {
    Ok(app.store.work(access.workspace()?, environment, id).await?)
}

/// Changes an item's metadata; a null takes a key away.
pub(crate) async fn update(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    id: &WorkId,
    patch: Map<String, Value>,
) -> Result<Work, ApiError> {
    let workspace = access.workspace()?;
    let mut metadata = app.store.work(workspace, environment, id).await?.metadata;
    merge_metadata(&mut metadata, &patch, false).map_err(invalid_metadata)?;
    Ok(app.store.merge_work_metadata(workspace, environment, id, patch).await?)
}

/// The items of an environment, newest first. A cloud environment has no queue that anybody outside sees.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
    page: PageRequest,
) -> Result<Page<Work>, ApiError> {
    let row = environments::retrieve(app, access, environment).await?;
    match row.kind {
        EnvironmentKind::SelfHosted => Ok(app.store.list_work(&row.workspace_id, environment, page).await?),
        EnvironmentKind::Cloud => Err(ApiError::new(
            ErrorKind::NotFound,
            format!("environment `{environment}` is a cloud environment: it has no work items to list"),
        )),
    }
}

/// The figures of a queue, and whose workers poll it.
pub(crate) async fn stats(
    app: &App,
    access: &Access,
    environment: &EnvironmentId,
) -> Result<(WorkStats, EnvironmentKind), ApiError> {
    let row = environments::retrieve(app, access, environment).await?;
    let stats = app
        .store
        .work_stats(&row.workspace_id, environment, Time::now())
        .await?;
    Ok((stats, row.kind))
}
