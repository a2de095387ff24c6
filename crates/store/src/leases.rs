//! Leases: who runs a session's loop.
//!
//! A lease has an owner, an end and a generation. The generation grows with every acquisition and fences the
//! appends of earlier owners. Since a data folder has one server, leases of an earlier process are void at start.

use outwork_wire::Time;
use outwork_wire::id::{SessionId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::columns::{maybe_time, parsed};
use crate::{Store, StoreError};

/// What came of asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It is the caller's now.
    Acquired {
        /// The number that fences its appends.
        generation: u64,
    },
    /// Another owner holds it.
    Held {
        /// Who.
        by: String,
        /// Until when, unless it is renewed.
        until: Time,
    },
}

/// A lease that an owner holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The session's workspace.
    pub workspace_id: WorkspaceId,
    /// The session.
    pub session_id: SessionId,
    /// The number that fences the owner's appends.
    pub generation: u64,
    number: i64,
}

/// A session whose loop has something to do, and nobody does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSession {
    /// Its place among all sessions, for the next part of the list.
    pub place: i64,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The session.
    pub session_id: SessionId,
    /// When a retry was due, if that is why.
    pub wake_at: Option<Time>,
}

const NUMBER: &str = "(SELECT number FROM sessions WHERE id = ?1 AND workspace_id = ?2)";

impl Store {
    /// Takes the lease of a session until `now + ttl_seconds`.
    ///
    /// One that has ended, or that the same owner holds, is given again with the next generation, so an earlier
    /// task of the same owner is fenced off.
    pub async fn acquire_lease(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        owner: &str,
        ttl_seconds: u32,
        now: Time,
    ) -> Result<LeaseOutcome, StoreError> {
        let (workspace, session, owner) = (workspace.clone(), session.clone(), owner.to_owned());
        self.write(move |conn| {
            let (holder, generation, until) = state(conn, &workspace, &session)?;
            if let (Some(by), Some(until)) = (holder, until)
                && by != owner
                && until > now
            {
                return Ok(LeaseOutcome::Held { by, until });
            }
            let generation = generation + 1;
            let sql = format!(
                "UPDATE session_state SET owner = ?3, generation = ?4, lease_expires_at = ?5 WHERE number = {NUMBER}"
            );
            conn.prepare_cached(&sql)?.execute((
                session.as_str(),
                workspace.as_str(),
                &owner,
                generation as i64,
                now.plus_seconds(i64::from(ttl_seconds)).as_micros(),
            ))?;
            Ok(LeaseOutcome::Acquired { generation })
        })
        .await
    }

    /// Extends a lease; `StaleGeneration` if it is no longer the caller's.
    pub async fn renew_lease(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        generation: u64,
        ttl_seconds: u32,
        now: Time,
    ) -> Result<(), StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| {
            hold(conn, &workspace, &session, generation)?;
            let sql = format!("UPDATE session_state SET lease_expires_at = ?3 WHERE number = {NUMBER}");
            conn.prepare_cached(&sql)?.execute((
                session.as_str(),
                workspace.as_str(),
                now.plus_seconds(i64::from(ttl_seconds)).as_micros(),
            ))?;
            Ok(())
        })
        .await
    }

    /// Every lease of an owner.
    pub async fn leases_of(&self, owner: &str) -> Result<Vec<HeldLease>, StoreError> {
        let owner = owner.to_owned();
        self.read(move |conn| {
            let held = conn
                .prepare_cached(
                    "SELECT s.workspace_id, s.id, t.generation, t.number FROM session_state t \
                     JOIN sessions s ON s.number = t.number WHERE t.owner = ?1",
                )?
                .query_map([&owner], |row| {
                    Ok(HeldLease {
                        workspace_id: parsed(row, 0)?,
                        session_id: parsed(row, 1)?,
                        generation: crate::columns::count(row, 2)?,
                        number: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(held)
        })
        .await
    }

    /// Extends leases, in writes of bounded size; one that changed hands since it was read stays as it is. Gives the
    /// number of those that were extended.
    pub async fn renew_leases(
        &self,
        mut leases: Vec<HeldLease>,
        ttl_seconds: u32,
        now: Time,
    ) -> Result<u64, StoreError> {
        const AT_ONCE: usize = 1000;
        let until = now.plus_seconds(i64::from(ttl_seconds)).as_micros();
        let mut renewed = 0;
        while !leases.is_empty() {
            let part = leases.split_off(leases.len().saturating_sub(AT_ONCE));
            renewed += self
                .write(move |conn| {
                    let mut renew = conn.prepare_cached(
                        "UPDATE session_state SET lease_expires_at = ?3 \
                         WHERE number = ?1 AND generation = ?2 AND owner IS NOT NULL",
                    )?;
                    let mut changed = 0;
                    for lease in &part {
                        changed += renew.execute((lease.number, lease.generation as i64, until))? as u64;
                    }
                    Ok(changed)
                })
                .await?;
        }
        Ok(renewed)
    }

    /// Gives a lease back; `StaleGeneration` if it is no longer the caller's.
    pub async fn release_lease(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        generation: u64,
    ) -> Result<(), StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| {
            hold(conn, &workspace, &session, generation)?;
            let sql = format!("UPDATE session_state SET owner = NULL, lease_expires_at = NULL WHERE number = {NUMBER}");
            conn.prepare_cached(&sql)?
                .execute((session.as_str(), workspace.as_str()))?;
            Ok(())
        })
        .await
    }

    /// Gives back every lease of an owner; gives their number.
    pub async fn release_all_leases(&self, owner: &str) -> Result<u64, StoreError> {
        let owner = owner.to_owned();
        self.write(move |conn| {
            let changed = conn
                .prepare_cached("UPDATE session_state SET owner = NULL, lease_expires_at = NULL WHERE owner = ?1")?
                .execute([&owner])?;
            Ok(changed as u64)
        })
        .await
    }

    /// At start: voids the leases of every other owner, since their process is gone; gives their number.
    pub async fn take_over_all_leases(&self, owner: &str) -> Result<u64, StoreError> {
        let owner = owner.to_owned();
        self.write(move |conn| {
            let changed = conn
                .prepare_cached(
                    "UPDATE session_state SET owner = NULL, lease_expires_at = NULL \
                     WHERE owner IS NOT NULL AND owner <> ?1",
                )?
                .execute([&owner])?;
            Ok(changed as u64)
        })
        .await
    }

    /// Sessions that need an owner now and have none: the loop has something to do and no retry is waited for,
    /// or a retry is due. In the order of their places, beginning behind `after`; 0 is before all.
    pub async fn list_unowned_needing_work(
        &self,
        now: Time,
        after: i64,
        limit: usize,
    ) -> Result<Vec<DueSession>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(
                "SELECT s.workspace_id, s.id, t.wake_at, t.number FROM session_state t JOIN sessions s ON s.number = t.number \
                 WHERE t.number IN (SELECT number FROM session_state WHERE needs_owner = 1 AND wake_at IS NULL \
                 UNION ALL SELECT number FROM session_state WHERE wake_at <= ?1) \
                 AND (t.owner IS NULL OR t.lease_expires_at <= ?1) AND t.number > ?3 ORDER BY t.number LIMIT ?2",
            )?;
            let due = statement
                .query_map((now.as_micros(), limit as i64, after), due)?
                .collect::<rusqlite::Result<_>>()?;
            Ok(due)
        })
        .await
    }

    /// When the next session comes to need an owner by itself: its retry is due, or its lease ends.
    pub async fn next_due_session(&self, now: Time) -> Result<Option<Time>, StoreError> {
        self.read(move |conn| {
            let next = conn
                .prepare_cached(
                    "SELECT min(due) FROM ( \
                     SELECT min(max(wake_at, coalesce(lease_expires_at, wake_at))) AS due FROM session_state \
                     WHERE wake_at IS NOT NULL AND max(wake_at, coalesce(lease_expires_at, wake_at)) > ?1 \
                     UNION ALL SELECT min(lease_expires_at) FROM session_state \
                     WHERE owner IS NOT NULL AND needs_owner = 1 AND wake_at IS NULL AND lease_expires_at > ?1)",
                )?
                .query_row([now.as_micros()], |row| maybe_time(row, 0))?;
            Ok(next)
        })
        .await
    }
}

fn due(row: &Row<'_>) -> rusqlite::Result<DueSession> {
    Ok(DueSession {
        workspace_id: parsed(row, 0)?,
        session_id: parsed(row, 1)?,
        wake_at: maybe_time(row, 2)?,
        place: row.get(3)?,
    })
}

type LeaseColumns = (Option<String>, u64, Option<Time>);

fn state(conn: &Connection, workspace: &WorkspaceId, session: &SessionId) -> Result<LeaseColumns, StoreError> {
    conn.prepare_cached(&format!(
        "SELECT owner, generation, lease_expires_at FROM session_state WHERE number = {NUMBER}"
    ))?
    .query_row((session.as_str(), workspace.as_str()), |row| {
        Ok((row.get(0)?, crate::columns::count(row, 1)?, maybe_time(row, 2)?))
    })
    .optional()?
    .ok_or_else(|| StoreError::not_found("session", session))
}

fn hold(conn: &Connection, workspace: &WorkspaceId, session: &SessionId, given: u64) -> Result<(), StoreError> {
    let (owner, current, _) = state(conn, workspace, session)?;
    if owner.is_some() && current == given {
        return Ok(());
    }
    Err(StoreError::StaleGeneration {
        session: session.clone(),
        given,
        current,
    })
}
