//! What keeps the work queue in order by itself: lapsed leases, revoked keys, items that are missing, held back or
//! long over.
//!
//! Every call here looks at the whole store, is idempotent and bounded, and asks a reader first where it is made
//! often, so that a store in order costs no write.

use outwork_wire::Time;
use outwork_wire::id::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId, WorkspaceId};
use outwork_wire::work::{FIRST_TTL_SECONDS, WorkState};
use rusqlite::{Connection, Row};

use crate::columns::{kind, maybe_time, parsed};
use crate::work::{Lapsed, StoppedBy, find};
use crate::work_queue::{end, enqueue, succeed};
use crate::{Store, StoreError};

const LAPSED: &str = "state IN ('starting', 'active', 'stopping') AND lease_expires_at <= ?1";

/// Sessions that need a worker and have no item, though their environment is there.
const WITHOUT_ITEM: &str = "SELECT s.workspace_id, s.id, s.environment_id FROM session_state t \
    JOIN sessions s ON s.number = t.number JOIN environments e ON e.id = s.environment_id \
    WHERE t.needs_worker = 1 \
    AND NOT EXISTS (SELECT 1 FROM work w WHERE w.session_id = s.id AND w.state <> 'stopped') LIMIT ?1";

impl Store {
    /// Takes back every item whose lease has ended: it is queued again with no heartbeat and no token, or stopped if
    /// it was stopping. A session that still needs a worker then gets its next item.
    pub async fn requeue_lapsed_work(&self, now: Time) -> Result<Vec<Lapsed>, StoreError> {
        let any = format!("SELECT 1 FROM work WHERE {LAPSED} LIMIT 1");
        let none = self
            .read(move |conn| Ok(!conn.prepare_cached(&any)?.exists([now.as_micros()])?))
            .await?;
        if none {
            return Ok(Vec::new());
        }
        self.write(move |conn| take_back(conn, now)).await
    }

    /// Takes back the item of one session if its worker gave no sign since `silent_since`, though its lease goes on.
    pub async fn requeue_silent_work(
        &self,
        session: &SessionId,
        silent_since: Time,
        now: Time,
    ) -> Result<Vec<Lapsed>, StoreError> {
        const SILENT: &str = "session_id = ?1 AND state IN ('starting', 'active', 'stopping') \
            AND coalesce(latest_heartbeat_at, acknowledged_at, created_at) <= ?2";
        let session = session.clone();
        let none = {
            let session = session.clone();
            self.read(move |conn| {
                let sql = format!("SELECT 1 FROM work WHERE {SILENT} LIMIT 1");
                Ok(!conn
                    .prepare_cached(&sql)?
                    .exists((session.as_str(), silent_since.as_micros()))?)
            })
            .await?
        };
        if none {
            return Ok(Vec::new());
        }
        self.write(move |conn| {
            let sql = format!("UPDATE work SET lease_expires_at = ?3 WHERE {SILENT}");
            conn.prepare_cached(&sql)?
                .execute((session.as_str(), silent_since.as_micros(), now.as_micros()))?;
            take_back(conn, now)
        })
        .await
    }

    /// Ends every lease and every offer of cloud environments' items: their workers are gone. What was held is then
    /// taken back by [`Store::requeue_lapsed_work`].
    pub async fn lapse_cloud_work(&self, now: Time) -> Result<(), StoreError> {
        self.write(move |conn| {
            conn.prepare_cached(
                "UPDATE work SET lease_expires_at = ?1 WHERE environment_kind = 'cloud' \
                 AND state IN ('starting', 'active', 'stopping')",
            )?
            .execute([now.as_micros()])?;
            conn.prepare_cached(
                "UPDATE work SET polled_at = NULL, polled_by = NULL, token_hash = NULL \
                 WHERE environment_kind = 'cloud' AND state = 'queued'",
            )?
            .execute([])?;
            Ok(())
        })
        .await
    }

    /// When the next lease ends, past or to come.
    pub async fn next_work_lapse(&self) -> Result<Option<Time>, StoreError> {
        self.read(|conn| {
            let next = conn
                .prepare_cached(
                    "SELECT min(lease_expires_at) FROM work WHERE state IN ('starting', 'active', 'stopping')",
                )?
                .query_row([], |row| maybe_time(row, 0))?;
            Ok(next)
        })
        .await
    }

    /// Queues an item for every session that needs a worker and has none, for `limit` of them at most; gives the
    /// environments. In the course of things there is none: whatever ends an item makes the next.
    pub async fn enqueue_missing_work(&self, now: Time, limit: usize) -> Result<Vec<EnvironmentId>, StoreError> {
        let limit = limit as i64;
        if !self
            .read(|conn| Ok(conn.prepare_cached(WITHOUT_ITEM)?.exists([1])?))
            .await?
        {
            return Ok(Vec::new());
        }
        self.write(move |conn| {
            let missing = conn
                .prepare_cached(WITHOUT_ITEM)?
                .query_map([limit], |row| Ok((parsed(row, 0)?, parsed(row, 1)?, parsed(row, 2)?)))?
                .collect::<rusqlite::Result<Vec<(WorkspaceId, SessionId, EnvironmentId)>>>()?;
            let mut environments = Vec::new();
            for (workspace, session, environment) in missing {
                if enqueue(conn, &workspace, &session, &WorkId::fresh(), now)?.is_some() {
                    environments.push(environment);
                }
            }
            Ok(environments)
        })
        .await
    }

    /// The environments with an item that was held back until some time after `after` and up to `until`.
    pub async fn work_due_between(&self, after: Time, until: Time) -> Result<Vec<EnvironmentId>, StoreError> {
        self.read(move |conn| {
            let due = conn
                .prepare_cached(
                    "SELECT DISTINCT environment_id FROM work \
                     WHERE state = 'queued' AND not_before > ?1 AND not_before <= ?2",
                )?
                .query_map([after.as_micros(), until.as_micros()], |row| parsed(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(due)
        })
        .await
    }

    /// Forgets items that were stopped before a time, `limit` of them at most, but never the last one of a session;
    /// gives their number.
    pub async fn prune_stopped_work(&self, before: Time, limit: usize) -> Result<u64, StoreError> {
        let old = self
            .read(move |conn| {
                Ok(conn
                    .prepare_cached(
                        "SELECT w.id FROM work w WHERE w.state = 'stopped' AND w.stopped_at < ?1 \
                         AND EXISTS (SELECT 1 FROM work n WHERE n.session_id = w.session_id \
                         AND (n.created_at, n.id) > (w.created_at, w.id)) LIMIT ?2",
                    )?
                    .query_map((before.as_micros(), limit as i64), |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<String>>>()?)
            })
            .await?;
        if old.is_empty() {
            return Ok(0);
        }
        self.write(move |conn| {
            // What is stopped stays so, and what is newer stays newer: what was read still holds.
            let mut delete = conn.prepare_cached("DELETE FROM work WHERE id = ?1 AND state = 'stopped'")?;
            let mut pruned = 0;
            for id in &old {
                pruned += delete.execute([id])? as u64;
            }
            Ok(pruned)
        })
        .await
    }
}

/// Ends what was given to an environment key: its tokens, its offers and the leases of its items.
pub(crate) fn end_deliveries(conn: &Connection, key: &EnvironmentKeyId, now: Time) -> Result<Vec<Lapsed>, StoreError> {
    for (sql, timed) in [
        (
            "UPDATE work SET lease_expires_at = min(lease_expires_at, ?2) WHERE polled_by_key = ?1 \
             AND state IN ('starting', 'active', 'stopping')",
            true,
        ),
        (
            "UPDATE work SET polled_at = NULL, polled_by = NULL WHERE polled_by_key = ?1 AND state = 'queued'",
            false,
        ),
        (
            "UPDATE work SET token_hash = NULL, polled_by_key = NULL WHERE polled_by_key = ?1",
            false,
        ),
    ] {
        let mut statement = conn.prepare_cached(sql)?;
        if timed {
            statement.execute((key.as_str(), now.as_micros()))?;
        } else {
            statement.execute([key.as_str()])?;
        }
    }
    take_back(conn, now)
}

fn take_back(conn: &Connection, now: Time) -> Result<Vec<Lapsed>, StoreError> {
    let sql = format!(
        "SELECT workspace_id, environment_id, environment_kind, id, session_id, state FROM work WHERE {LAPSED}"
    );
    let mut items = conn
        .prepare_cached(&sql)?
        .query_map([now.as_micros()], lapsed)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut requeue = conn.prepare_cached(
        "UPDATE work SET state = 'queued', queued_at = ?2, polled_at = NULL, polled_by = NULL, polled_by_key = NULL, \
         acknowledged_at = NULL, started_at = NULL, latest_heartbeat_at = NULL, ttl_seconds = ?3, \
         lease_updated_at = ?2, lease_expires_at = NULL, token_hash = NULL WHERE id = ?1",
    )?;
    let mut let_go = conn.prepare_cached("UPDATE work SET lease_updated_at = ?2, token_hash = NULL WHERE id = ?1")?;
    for item in &mut items {
        if item.state == WorkState::Stopping {
            let row = find(conn, &item.workspace_id, &item.environment_id, &item.work_id)?;
            end(conn, &item.work_id, now)?;
            let_go.execute((item.work_id.as_str(), now.as_micros()))?;
            succeed(conn, &row, StoppedBy::Worker, now)?;
            item.state = WorkState::Stopped;
        } else {
            requeue.execute((item.work_id.as_str(), now.as_micros(), FIRST_TTL_SECONDS))?;
            item.state = WorkState::Queued;
        }
    }
    Ok(items)
}

fn lapsed(row: &Row<'_>) -> rusqlite::Result<Lapsed> {
    Ok(Lapsed {
        workspace_id: parsed(row, 0)?,
        environment_id: parsed(row, 1)?,
        environment_kind: kind(row, 2)?,
        work_id: parsed(row, 3)?,
        session_id: parsed(row, 4)?,
        state: parsed(row, 5)?,
    })
}
