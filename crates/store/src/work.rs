//! Work items: what reads and lists show of them, their figures, their metadata and their tokens.
//!
//! How an item moves through its states is in `work_queue`. An item is always reached through its workspace and
//! its environment. Its last heartbeat is shown as the text of a timestamp, and compared as that text.

use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId, WorkspaceId};
use outwork_wire::work::{Heartbeat, Work, WorkData, WorkKind, WorkState};
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::{Map, Value};

use crate::columns::{count, json, kind, maybe_time, parsed, time};
use crate::keys::{KeyHash, by_hash};
use crate::page::{Filter, Keyset, Order};
use crate::{Page, PageRequest, Store, StoreError};

/// How long the token of an item outlives it, so that its worker can end cleanly.
pub const TOKEN_GRACE_SECONDS: i64 = 60;

/// One look for work.
#[derive(Clone)]
pub struct Poll {
    /// The name that the worker gives itself.
    pub worker_id: Option<String>,
    /// The environment key that polls; when it is revoked, what it was given ends.
    pub key: Option<EnvironmentKeyId>,
    /// Items that were polled at least so long ago and not acknowledged are offered again.
    pub reclaim_older_than_ms: u32,
    /// The hash of the token that goes out with the item; earlier tokens of the item end.
    pub token_hash: KeyHash,
    /// Now.
    pub now: Time,
}

/// The state of an item's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// The item's state.
    pub state: WorkState,
    /// Its last heartbeat, as it was given to the worker.
    pub last_heartbeat: Option<String>,
    /// When its lease was last given, extended or taken away.
    pub lease_updated_at: Option<Time>,
    /// How long the lease lasts.
    pub ttl_seconds: u32,
}

/// What came of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeatOutcome {
    /// The answer for the worker.
    Beat(Heartbeat),
    /// The worker does not hold the item.
    PreconditionFailed {
        /// What the worker said that the last heartbeat was.
        expected: Option<String>,
        /// What it is.
        actual: Option<String>,
        /// What holds now.
        current: LeaseState,
    },
}

/// Who stops an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// The worker that it was given to, or another one of its environment.
    Worker,
    /// Somebody with an API key.
    Operator,
    /// An order to stop that the session's log could not take in: nobody is to go on with what it says.
    LostOrder,
}

/// What came of a stop.
#[derive(Clone)]
pub struct StopOutcome {
    /// The item as it is now.
    pub work: Work,
    /// Its session.
    pub session_id: SessionId,
    /// True if this stop ended it.
    pub ended_now: bool,
    /// The session's next item, if this stop ended one and the session still needs a worker.
    pub next: Option<Work>,
}

/// An item whose lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapsed {
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its environment.
    pub environment_id: EnvironmentId,
    /// Who runs the environment's workers.
    pub environment_kind: EnvironmentKind,
    /// The item.
    pub work_id: WorkId,
    /// Its session.
    pub session_id: SessionId,
    /// What it is now: `queued` again, or `stopped` if it was to stop.
    pub state: WorkState,
}

/// The figures of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkStats {
    /// Items that were not given out.
    pub depth: u64,
    /// Items that were given out and not acknowledged.
    pub pending: u64,
    /// Since when the oldest of both waits.
    pub oldest_queued_at: Option<Time>,
    /// Workers that polled in the last 30 seconds.
    pub workers_polling: u64,
}

/// What the token of a work item opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Who runs the environment's workers.
    pub environment_kind: EnvironmentKind,
    /// The item.
    pub work_id: WorkId,
    /// The session.
    pub session_id: SessionId,
    /// The item's state.
    pub state: WorkState,
}

/// An item with what only the queue knows of it.
pub(crate) struct WorkRow {
    pub(crate) work: Work,
    pub(crate) workspace_id: WorkspaceId,
    pub(crate) session_id: SessionId,
    pub(crate) polled_at: Option<Time>,
    pub(crate) polled_by: Option<String>,
    pub(crate) ttl_seconds: u32,
    pub(crate) lease_updated_at: Option<Time>,
    /// How many items of the session workers gave up in a row before this one.
    pub(crate) given_up: u32,
}

impl WorkRow {
    pub(crate) fn last_heartbeat(&self) -> Option<String> {
        self.work.latest_heartbeat_at.map(|at| at.to_string())
    }

    pub(crate) fn lease(&self) -> LeaseState {
        LeaseState {
            state: self.work.state,
            last_heartbeat: self.last_heartbeat(),
            lease_updated_at: self.lease_updated_at,
            ttl_seconds: self.ttl_seconds,
        }
    }
}

pub(crate) const SELECT: &str = "SELECT id, environment_id, session_id, state, created_at, acknowledged_at, \
    started_at, latest_heartbeat_at, stop_requested_at, stopped_at, metadata, workspace_id, polled_by, ttl_seconds, \
    lease_updated_at, polled_at, given_up FROM work";

impl Store {
    /// The item of that id. Never with a secret.
    pub async fn work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &WorkId,
    ) -> Result<Work, StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        self.read(move |conn| Ok(find(conn, &workspace, &environment, &id)?.work))
            .await
    }

    /// The items of an environment, newest first.
    pub async fn list_work(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        page: PageRequest,
    ) -> Result<Page<Work>, StoreError> {
        let filter = Filter::default()
            .and("environment_id = ?", [environment.to_string()])
            .and("workspace_id = ?", [workspace.to_string()]);
        self.read(move |conn| {
            Keyset {
                list: "work",
                select: SELECT,
                key: ("created_at", "id"),
                order: Order::Desc,
                filter,
            }
            .page(
                conn,
                &page,
                |row| Ok(read(row)?.work),
                |work| (work.created_at.as_micros(), work.id.to_string()),
            )
        })
        .await
    }

    /// The item of a session that is not stopped.
    pub async fn live_work_of_session(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
    ) -> Result<Option<Work>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| Ok(live(conn, &workspace, &session)?.map(|row| row.work)))
            .await
    }

    /// Changes an item's metadata: a null takes the key away, anything else is set.
    pub async fn merge_work_metadata(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &WorkId,
        patch: Map<String, Value>,
    ) -> Result<Work, StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        self.write(move |conn| {
            let mut row = find(conn, &workspace, &environment, &id)?;
            for (key, value) in patch {
                if value.is_null() {
                    row.work.metadata.shift_remove(&key);
                } else {
                    row.work.metadata.insert(key, value);
                }
            }
            conn.prepare_cached("UPDATE work SET metadata = ?2 WHERE id = ?1")?
                .execute((id.as_str(), serde_json::to_string(&row.work.metadata)?))?;
            Ok(row.work)
        })
        .await
    }

    /// The figures of a queue.
    pub async fn work_stats(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        now: Time,
    ) -> Result<WorkStats, StoreError> {
        let workers_polling = self.inner.pollers.count(environment, now);
        let (workspace, environment) = (workspace.clone(), environment.clone());
        self.read(move |conn| {
            let stats = conn
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE polled_at IS NULL), count(*) FILTER (WHERE polled_at IS NOT NULL), \
                     min(queued_at) FROM work WHERE environment_id = ?1 AND workspace_id = ?2 AND state = 'queued'",
                )?
                .query_row((environment.as_str(), workspace.as_str()), |row| {
                    Ok(WorkStats {
                        depth: count(row, 0)?,
                        pending: count(row, 1)?,
                        oldest_queued_at: maybe_time(row, 2)?,
                        workers_polling,
                    })
                })?;
            Ok(stats)
        })
        .await
    }

    /// What the token of a work item opens; none once the item is over for more than a minute.
    pub async fn token_grant(&self, hash: KeyHash, now: Time) -> Result<Option<TokenGrant>, StoreError> {
        self.read(move |conn| grant(conn, &hash, now)).await
    }
}

/// What the token of that hash opens.
pub(crate) fn grant(conn: &Connection, hash: &KeyHash, now: Time) -> Result<Option<TokenGrant>, StoreError> {
    let sql = "SELECT workspace_id, environment_id, environment_kind, id, session_id, state, stopped_at, token_hash \
        FROM work WHERE token_hash = ?1";
    let found = by_hash(conn, sql, hash, 7, |row| {
        let grant = TokenGrant {
            workspace_id: parsed(row, 0)?,
            environment_id: parsed(row, 1)?,
            environment_kind: kind(row, 2)?,
            work_id: parsed(row, 3)?,
            session_id: parsed(row, 4)?,
            state: parsed(row, 5)?,
        };
        Ok((grant, maybe_time(row, 6)?))
    })?;
    Ok(found.and_then(|(grant, stopped_at)| {
        let open = stopped_at.is_none_or(|at| now < at.plus_seconds(TOKEN_GRACE_SECONDS));
        open.then_some(grant)
    }))
}

/// The item of that id in the environment of the workspace.
pub(crate) fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    id: &WorkId,
) -> Result<WorkRow, StoreError> {
    conn.prepare_cached(&format!(
        "{SELECT} WHERE id = ?1 AND environment_id = ?2 AND workspace_id = ?3"
    ))?
    .query_row((id.as_str(), environment.as_str(), workspace.as_str()), read)
    .optional()?
    .ok_or_else(|| StoreError::not_found("work item", id))
}

/// The item of a session that is not stopped.
pub(crate) fn live(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
) -> Result<Option<WorkRow>, StoreError> {
    let sql = format!("{SELECT} WHERE session_id = ?1 AND workspace_id = ?2 AND state <> 'stopped'");
    Ok(conn
        .prepare_cached(&sql)?
        .query_row((session.as_str(), workspace.as_str()), read)
        .optional()?)
}

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<WorkRow> {
    let session_id: SessionId = parsed(row, 2)?;
    Ok(WorkRow {
        work: Work {
            id: parsed(row, 0)?,
            kind: WorkKind::Work,
            environment_id: parsed(row, 1)?,
            data: WorkData::Session { id: session_id.clone() },
            state: parsed(row, 3)?,
            created_at: time(row, 4)?,
            acknowledged_at: maybe_time(row, 5)?,
            started_at: maybe_time(row, 6)?,
            latest_heartbeat_at: maybe_time(row, 7)?,
            stop_requested_at: maybe_time(row, 8)?,
            stopped_at: maybe_time(row, 9)?,
            metadata: json(row, 10)?,
            secret: None,
        },
        workspace_id: parsed(row, 11)?,
        session_id,
        polled_by: row.get(12)?,
        ttl_seconds: row.get(13)?,
        lease_updated_at: maybe_time(row, 14)?,
        polled_at: maybe_time(row, 15)?,
        given_up: row.get(16)?,
    })
}
