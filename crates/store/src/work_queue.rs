//! The way of a work item: queued, polled, acknowledged, held by heartbeats, stopped.
//!
//! A session has at most one item that is not stopped. A poll offers the oldest item; a worker that does not
//! acknowledge in time loses the offer, one that does not beat in time loses the item, which is then queued
//! again. A stop is never refused; what is stopped stays so. Source of every rule: the recorded behaviour of
//! the hosted queue.
//!
//! Invariant: a session that needs a worker has an item that is not stopped. Whatever ends one makes the next in the
//! same transaction, so no crash comes between. What workers give up at once is offered again after a delay that
//! grows, so that a broken worker does not make the queue spin.

use outwork_wire::Time;
use outwork_wire::id::{EnvironmentId, SessionId, WorkId, WorkspaceId};
use outwork_wire::work::{
    DEFAULT_TTL_SECONDS, FIRST_TTL_SECONDS, Heartbeat, HeartbeatKind, NO_HEARTBEAT, Work, WorkState,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::columns::{micros, parsed, time};
use crate::work::{BeatOutcome, Poll, SELECT, StopOutcome, StoppedBy, WorkRow, find, live, read};
use crate::{Store, StoreError};

/// An item that was held for less, while nothing happened in its session, was given up at once.
const GIVEN_UP_SECONDS: f64 = 5.0;
/// The longest delay of the item after one that was given up.
const MAX_DELAY_SECONDS: i64 = 30;

/// What may be offered: queued, not held back, and not offered to somebody else of late.
const OFFERED: &str = "state = 'queued' AND (not_before IS NULL OR not_before <= ?1) \
    AND (polled_at IS NULL OR polled_at <= ?2)";

/// What a new item knows of those before it.
#[derive(Default)]
struct Past {
    given_up: u32,
    not_before: Option<Time>,
}

impl Store {
    /// Puts an item for a session into its environment's queue; `None` if it has one that is not stopped, or if
    /// its environment is gone.
    pub async fn enqueue_work(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        id: WorkId,
        now: Time,
    ) -> Result<Option<Work>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| enqueue(conn, &workspace, &session, &id, now))
            .await
    }

    /// Offers the oldest item of an environment's queue. The secret of what is returned is left to the caller.
    pub async fn poll_work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        poll: Poll,
    ) -> Result<Option<Work>, StoreError> {
        if let Some(worker) = &poll.worker_id {
            self.inner.pollers.note(environment, worker, poll.now);
        }
        let (workspace, environment) = (workspace.clone(), environment.clone());
        let offer = move |conn: &Connection| {
            let sql = format!(
                "{SELECT} WHERE environment_id = ?3 AND workspace_id = ?4 AND {OFFERED} ORDER BY created_at, id LIMIT 1"
            );
            let (now, before) = (poll.now.as_micros(), polled_before(&poll));
            let found = conn
                .prepare_cached(&sql)?
                .query_row((now, before, environment.as_str(), workspace.as_str()), read)
                .optional()?;
            Ok((found, poll.clone()))
        };
        Ok(self.offer(offer).await?.map(|row| row.work))
    }

    /// Offers the oldest item of all queues of cloud environments, for the server's own workers.
    pub async fn poll_cloud_work(&self, poll: Poll) -> Result<Option<(WorkspaceId, Work)>, StoreError> {
        let offer = move |conn: &Connection| {
            let sql =
                format!("{SELECT} WHERE environment_kind = 'cloud' AND {OFFERED} ORDER BY created_at, id LIMIT 1");
            let (now, before) = (poll.now.as_micros(), polled_before(&poll));
            let found = conn.prepare_cached(&sql)?.query_row((now, before), read).optional()?;
            Ok((found, poll.clone()))
        };
        Ok(self.offer(offer).await?.map(|row| (row.workspace_id, row.work)))
    }

    /// Looks with a reader first, so that polls of an empty queue cost no write.
    async fn offer<F>(&self, find: F) -> Result<Option<WorkRow>, StoreError>
    where
        F: Fn(&Connection) -> Result<(Option<WorkRow>, Poll), StoreError> + Clone + Send + 'static,
    {
        let look = find.clone();
        if self.read(move |conn| Ok(look(conn)?.0.is_none())).await? {
            return Ok(None);
        }
        self.write(move |conn| {
            let (found, poll) = find(conn)?;
            if let Some(row) = &found {
                conn.prepare_cached(
                    "UPDATE work SET polled_at = ?2, polled_by = ?3, polled_by_key = ?4, token_hash = ?5 WHERE id = ?1",
                )?
                .execute((
                    row.work.id.as_str(),
                    poll.now.as_micros(),
                    &poll.worker_id,
                    poll.key.as_ref().map(|key| key.as_str()),
                    poll.token_hash.bytes(),
                ))?;
            }
            Ok(found)
        })
        .await
    }

    /// Takes an item: queued becomes starting, with a short lease until the first heartbeat.
    ///
    /// The worker that polled it may repeat this until it beats. `Conflict` for another worker and in any other
    /// state.
    pub async fn acknowledge_work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &WorkId,
        worker_id: Option<&str>,
        now: Time,
    ) -> Result<Work, StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        let worker = worker_id.map(str::to_owned);
        self.write(move |conn| {
            let row = find(conn, &workspace, &environment, &id)?;
            let other = row.polled_by.is_some() && worker.is_some() && row.polled_by != worker;
            match row.work.state {
                WorkState::Queued if other => Err(StoreError::conflict(format!(
                    "work item `{id}` was offered to another worker since: poll again"
                ))),
                WorkState::Queued => {
                    conn.prepare_cached(
                        "UPDATE work SET state = 'starting', acknowledged_at = ?2, ttl_seconds = ?3, \
                         lease_updated_at = ?2, lease_expires_at = ?4, polled_by = coalesce(polled_by, ?5) \
                         WHERE id = ?1",
                    )?
                    .execute((
                        id.as_str(),
                        now.as_micros(),
                        FIRST_TTL_SECONDS,
                        now.plus_seconds(i64::from(FIRST_TTL_SECONDS)).as_micros(),
                        &worker,
                    ))?;
                    Ok(find(conn, &workspace, &environment, &id)?.work)
                }
                WorkState::Starting if worker.is_some() && row.polled_by == worker => Ok(row.work),
                state @ (WorkState::Starting | WorkState::Active | WorkState::Stopping | WorkState::Stopped) => {
                    Err(StoreError::conflict(format!(
                        "work item `{id}` is {state} and cannot be acknowledged: only a queued item can"
                    )))
                }
            }
        })
        .await
    }

    /// Takes an item of any cloud environment, for the server's own workers. See [`Store::acknowledge_work`].
    pub async fn acknowledge_cloud_work(
        &self,
        id: &WorkId,
        worker_id: Option<&str>,
        now: Time,
    ) -> Result<Work, StoreError> {
        let wanted = id.clone();
        let row = self
            .read(move |conn| {
                conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND environment_kind = 'cloud'"))?
                    .query_row([wanted.as_str()], read)
                    .optional()?
                    .ok_or_else(|| StoreError::not_found("work item", &wanted))
            })
            .await?;
        self.acknowledge_work(&row.workspace_id, &row.work.environment_id, id, worker_id, now)
            .await
    }

    /// Extends the lease of an item. `expected` is what the worker believes the last heartbeat to be; it is not
    /// compared if it is absent, or when the item is stopping or stopped.
    pub async fn heartbeat_work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &WorkId,
        expected: Option<&str>,
        desired_ttl_seconds: Option<u32>,
        now: Time,
    ) -> Result<BeatOutcome, StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        let expected = expected.map(str::to_owned);
        self.write(move |conn| {
            let row = find(conn, &workspace, &environment, &id)?;
            let actual = row.last_heartbeat();
            let matches = match (&expected, &actual) {
                (None, _) => true,
                (Some(text), None) => text == NO_HEARTBEAT,
                (Some(text), Some(last)) => text == last,
            };
            match row.work.state {
                WorkState::Stopping | WorkState::Stopped => Ok(BeatOutcome::Beat(Heartbeat {
                    kind: HeartbeatKind::WorkHeartbeat,
                    last_heartbeat: actual.unwrap_or_default(),
                    lease_extended: false,
                    state: row.work.state,
                    ttl_seconds: row.ttl_seconds,
                })),
                WorkState::Starting | WorkState::Active if matches => {
                    let ttl = desired_ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
                    Ok(BeatOutcome::Beat(beat(conn, &row, ttl, now)?))
                }
                // A queued item is nobody's: its lease lapsed, or it was never acknowledged.
                WorkState::Queued | WorkState::Starting | WorkState::Active => Ok(BeatOutcome::PreconditionFailed {
                    expected,
                    actual,
                    current: row.lease(),
                }),
            }
        })
        .await
    }

    /// Stops an item: at once with `force` or if no worker holds it, otherwise by telling the worker with its
    /// next heartbeat. Stopping what is stopped changes nothing. A session that still needs a worker gets its next
    /// item with the end of this one; after one that a worker gave up at once, it is held back for a while.
    pub async fn stop_work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &WorkId,
        force: bool,
        by: StoppedBy,
        now: Time,
    ) -> Result<StopOutcome, StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        self.write(move |conn| {
            let row = find(conn, &workspace, &environment, &id)?;
            stop(conn, row, force, by, now)
        })
        .await
    }

    /// Stops the item of a session that is not stopped, if there is one.
    pub async fn stop_work_of_session(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        force: bool,
        by: StoppedBy,
        now: Time,
    ) -> Result<Option<StopOutcome>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| match live(conn, &workspace, &session)? {
            Some(row) => Ok(Some(stop(conn, row, force, by, now)?)),
            None => Ok(None),
        })
        .await
    }
}

/// Puts an item for a session into its environment's queue, unless it has a live one or no environment.
pub(crate) fn enqueue(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    id: &WorkId,
    now: Time,
) -> Result<Option<Work>, StoreError> {
    insert(conn, workspace, session, id, now, &Past::default())
}

/// Makes the item that follows one that has just ended, if its session still needs a worker. After a lost order it needs
/// none until its log says so again.
pub(crate) fn succeed(
    conn: &Connection,
    ended: &WorkRow,
    by: StoppedBy,
    now: Time,
) -> Result<Option<Work>, StoreError> {
    let session = conn
        .prepare_cached(
            "SELECT t.needs_worker, t.updated_at FROM sessions s JOIN session_state t ON t.number = s.number \
             WHERE s.id = ?1 AND s.workspace_id = ?2",
        )?
        .query_row((ended.session_id.as_str(), ended.workspace_id.as_str()), |row| {
            Ok((row.get(0)?, time(row, 1)?))
        })
        .optional()?;
    let Some((true, changed_at)) = session else {
        return Ok(None);
    };
    let past = match by {
        StoppedBy::LostOrder => {
            conn.prepare_cached(
                "UPDATE session_state SET needs_worker = 0 \
                 WHERE number = (SELECT number FROM sessions WHERE id = ?1 AND workspace_id = ?2)",
            )?
            .execute((ended.session_id.as_str(), ended.workspace_id.as_str()))?;
            return Ok(None);
        }
        StoppedBy::Worker if gave_up(ended, changed_at, now) => {
            let delay = 1i64.checked_shl(ended.given_up).unwrap_or(MAX_DELAY_SECONDS);
            Past {
                given_up: ended.given_up.saturating_add(1).min(16),
                not_before: Some(now.plus_seconds(delay.min(MAX_DELAY_SECONDS))),
            }
        }
        StoppedBy::Worker | StoppedBy::Operator => Past::default(),
    };
    insert(
        conn,
        &ended.workspace_id,
        &ended.session_id,
        &WorkId::fresh(),
        now,
        &past,
    )
}

/// Ends the item of a session that is over.
pub(crate) fn end_of_session(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    now: Time,
) -> Result<(), StoreError> {
    match live(conn, workspace, session)? {
        Some(row) => end(conn, &row.work.id, now),
        None => Ok(()),
    }
}

/// Writes that an item is over. Its token lasts a little longer.
pub(crate) fn end(conn: &Connection, id: &WorkId, now: Time) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE work SET state = 'stopped', stop_requested_at = coalesce(stop_requested_at, ?2), stopped_at = ?2, \
         lease_expires_at = NULL WHERE id = ?1",
    )?
    .execute((id.as_str(), now.as_micros()))?;
    Ok(())
}

/// Whether a worker let go of an item before it did anything for its session.
fn gave_up(item: &WorkRow, session_changed_at: Time, now: Time) -> bool {
    item.work
        .acknowledged_at
        .or(item.polled_at)
        .is_none_or(|taken| now.seconds_since(taken) < GIVEN_UP_SECONDS && session_changed_at <= taken)
}

fn insert(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    id: &WorkId,
    now: Time,
    past: &Past,
) -> Result<Option<Work>, StoreError> {
    let environment: Option<EnvironmentId> = conn
        .prepare_cached("SELECT environment_id FROM sessions WHERE id = ?1 AND workspace_id = ?2")?
        .query_row((session.as_str(), workspace.as_str()), |row| parsed(row, 0))
        .optional()?;
    let environment = environment.ok_or_else(|| StoreError::not_found("session", session))?;
    if live(conn, workspace, session)?.is_some() {
        return Ok(None);
    }
    let inserted = conn
        .prepare_cached(
            "INSERT INTO work (id, workspace_id, environment_id, environment_kind, session_id, state, metadata, \
             created_at, queued_at, ttl_seconds, given_up, not_before) \
             SELECT ?1, workspace_id, id, kind, ?2, 'queued', '{}', ?3, ?3, ?4, ?7, ?8 FROM environments \
             WHERE id = ?5 AND workspace_id = ?6",
        )?
        .execute(params![
            id.as_str(),
            session.as_str(),
            now.as_micros(),
            FIRST_TTL_SECONDS,
            environment.as_str(),
            workspace.as_str(),
            past.given_up,
            micros(past.not_before),
        ])?;
    if inserted == 0 {
        return Ok(None);
    }
    Ok(Some(find(conn, workspace, &environment, id)?.work))
}

fn polled_before(poll: &Poll) -> i64 {
    poll.now
        .plus_micros(-i64::from(poll.reclaim_older_than_ms) * 1000)
        .as_micros()
}

/// Writes a heartbeat; each one differs from the one before, even within a microsecond.
fn beat(conn: &Connection, row: &WorkRow, ttl_seconds: u32, now: Time) -> Result<Heartbeat, StoreError> {
    let at = match row.work.latest_heartbeat_at {
        Some(last) if now <= last => last.plus_micros(1),
        Some(_) | None => now,
    };
    conn.prepare_cached(
        "UPDATE work SET state = 'active', started_at = coalesce(started_at, ?2), latest_heartbeat_at = ?2, \
         ttl_seconds = ?3, lease_updated_at = ?2, lease_expires_at = ?4 WHERE id = ?1",
    )?
    .execute((
        row.work.id.as_str(),
        at.as_micros(),
        ttl_seconds,
        at.plus_seconds(i64::from(ttl_seconds)).as_micros(),
    ))?;
    Ok(Heartbeat {
        kind: HeartbeatKind::WorkHeartbeat,
        last_heartbeat: at.to_string(),
        lease_extended: true,
        state: WorkState::Active,
        ttl_seconds,
    })
}

fn stop(conn: &Connection, row: WorkRow, force: bool, by: StoppedBy, now: Time) -> Result<StopOutcome, StoreError> {
    let ended_now = match row.work.state {
        WorkState::Stopped => false,
        // Nobody holds it, so nobody would confirm a gentle stop.
        WorkState::Queued => true,
        WorkState::Starting | WorkState::Active | WorkState::Stopping => force,
    };
    let id = row.work.id.clone();
    let mut next = None;
    if ended_now {
        end(conn, &id, now)?;
        next = succeed(conn, &row, by, now)?;
    } else if matches!(row.work.state, WorkState::Starting | WorkState::Active) {
        conn.prepare_cached("UPDATE work SET state = 'stopping', stop_requested_at = ?2 WHERE id = ?1")?
            .execute((id.as_str(), now.as_micros()))?;
    }
    let after = find(conn, &row.workspace_id, &row.work.environment_id, &id)?;
    Ok(StopOutcome {
        work: after.work,
        session_id: after.session_id,
        ended_now,
        next,
    })
}
