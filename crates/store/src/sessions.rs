//! Sessions: what lists and reads show of them. The log itself is in [`crate::log`], ownership in
//! [`crate::leases`].
//!
//! Status, usage, agent, title and metadata are a projection of the log: they change only together with an
//! append ([`Store::append`](crate::Store)), in the same transaction.

use std::fmt;
use std::str::FromStr;

use outwork_wire::Time;
use outwork_wire::agent::{AgentConfig, EnvironmentKind};
use outwork_wire::event::UsageSnapshot;
use outwork_wire::id::{AgentId, EnvironmentId, EventId, SessionId, ThreadId, VaultId, WorkId, WorkspaceId};
use outwork_wire::log::{Genesis, LogEntry};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::columns::{count, json, kind, kind_name, maybe_time, micros, parsed, time};
use crate::log::Prepared;
use crate::page::{Filter, Keyset};
use crate::session_resources::{NewSessionResource, OF_SESSION, SessionResourceRow};
use crate::{Order, Page, PageRequest, Store, StoreError};

/// Whether a session is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// It waits to try again.
    Rescheduling,
    /// It is at work.
    Running,
    /// It rests.
    Idle,
    /// It is over.
    Terminated,
}

impl SessionStatus {
    /// The status on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rescheduling => "rescheduling",
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no status of a session.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a session status: use rescheduling, running, idle or terminated")]
pub struct UnknownSessionStatus(String);

impl FromStr for SessionStatus {
    type Err = UnknownSessionStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Rescheduling, Self::Running, Self::Idle, Self::Terminated]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| UnknownSessionStatus(text.to_owned()))
    }
}

/// What an append says of its session as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionProjection {
    /// Whether it is at work.
    pub status: SessionStatus,
    /// What it has used so far.
    pub usage: UsageSnapshot,
    /// When it last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
    /// When a retry is due.
    pub wake_at: Option<Time>,
    /// True while the loop has something to do.
    pub needs_owner: bool,
    /// True while a worker has something to do, or soon will. As long as it is, the session has a work item that is
    /// not stopped: whatever ends one makes the next in the same transaction.
    pub needs_worker: bool,
    /// Agent, title and metadata, if this append changes any of them.
    pub profile: Option<SessionProfile>,
}

/// What can be changed of a session by its client.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionProfile {
    /// The agent's present configuration.
    pub agent: AgentConfig,
    /// The title.
    pub title: Option<String>,
    /// Strings by name.
    pub metadata: Map<String, Value>,
}

/// Who owns a session, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The owner.
    pub owner: String,
    /// The number that fences its appends.
    pub generation: u64,
    /// When it ends.
    pub expires_at: Time,
}

/// A session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Where its tools run.
    pub environment_id: EnvironmentId,
    /// Who runs the workers of its environment.
    pub environment_kind: EnvironmentKind,
    /// Its primary thread.
    pub thread_id: ThreadId,
    /// When it was made.
    pub created_at: Time,
    /// Agent, title and metadata.
    pub profile: SessionProfile,
    /// Whether it is at work.
    pub status: SessionStatus,
    /// What it has used so far.
    pub usage: UsageSnapshot,
    /// When it last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
    /// The number of the log's last entry; 0 for an empty log.
    pub last_seq: u64,
    /// When a retry is due.
    pub wake_at: Option<Time>,
    /// True while the loop has something to do.
    pub needs_owner: bool,
    /// Who owns it; may have ended.
    pub lease: Option<Lease>,
    /// Whose credentials it may use, in the order in which they are looked through. Some may be gone.
    pub vault_ids: Vec<VaultId>,
    /// What its sandbox gets, in the order in which it was added.
    pub resources: Vec<SessionResourceRow>,
}

/// A session to be made.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Where its tools run.
    pub environment_id: EnvironmentId,
    /// Whose credentials it may use.
    pub vault_ids: Vec<VaultId>,
    /// What its sandbox gets.
    pub resources: Vec<NewSessionResource>,
    /// What it begins with.
    pub genesis: Genesis,
    /// The first entries of its log.
    pub entries: Vec<LogEntry>,
    /// What these make of it; `profile` is taken from the genesis unless it is given.
    pub projection: SessionProjection,
    /// Puts a work item of that id into the environment's queue.
    pub enqueue_work: Option<WorkId>,
}

/// Limits of a time; all that are given hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeRange {
    /// Later than.
    pub gt: Option<Time>,
    /// Then or later.
    pub gte: Option<Time>,
    /// Earlier than.
    pub lt: Option<Time>,
    /// Then or earlier.
    pub lte: Option<Time>,
}

impl TimeRange {
    pub(crate) fn apply(&self, filter: Filter, column: &str) -> Filter {
        filter
            .and_if(&format!("{column} > ?"), micros(self.gt))
            .and_if(&format!("{column} >= ?"), micros(self.gte))
            .and_if(&format!("{column} < ?"), micros(self.lt))
            .and_if(&format!("{column} <= ?"), micros(self.lte))
    }
}

/// Which sessions a list shows.
#[derive(Clone, Debug)]
pub struct SessionFilter {
    /// Only of this agent.
    pub agent_id: Option<AgentId>,
    /// Only of this version of it.
    pub agent_version: Option<u64>,
    /// Only made in this time.
    pub created_at: TimeRange,
    /// Archived ones too.
    pub include_archived: bool,
    /// Only in one of these; empty for any.
    pub statuses: Vec<SessionStatus>,
    /// In which order.
    pub order: Order,
}

impl Default for SessionFilter {
    fn default() -> Self {
        Self {
            agent_id: None,
            agent_version: None,
            created_at: TimeRange::default(),
            include_archived: false,
            statuses: Vec::new(),
            order: Order::Desc,
        }
    }
}

const COLUMNS: &str = "s.id, s.workspace_id, s.environment_id, s.environment_kind, s.thread_id, s.created_at, \
    s.agent, s.title, s.metadata, t.status, t.usage, t.updated_at, t.archived_at, t.last_seq, t.wake_at, \
    t.needs_owner, t.owner, t.generation, t.lease_expires_at, s.vault_ids";

/// What reads sessions, up to the conditions.
fn select() -> String {
    format!("SELECT {COLUMNS}, {OF_SESSION} FROM sessions s JOIN session_state t ON t.number = s.number")
}

impl Store {
    /// Makes a session with its first log entries and, if asked for, its work item: all or nothing.
    ///
    /// `NotFound` if the environment, a vault or a file is not in the workspace, `Conflict` if one is archived,
    /// `Rejected` if two resources are in each other's way.
    pub async fn create_session(&self, workspace: &WorkspaceId, new: NewSession) -> Result<SessionRow, StoreError> {
        let workspace = workspace.clone();
        let entries = Prepared::all(&new.entries)?;
        self.write(move |conn| {
            let environment = crate::environments::find(conn, &workspace, &new.environment_id)?;
            if environment.archived_at.is_some() {
                return Err(StoreError::conflict(format!(
                    "environment `{}` is archived and takes no new sessions",
                    environment.id
                )));
            }
            for vault in &new.vault_ids {
                crate::vaults::find_in_force(conn, &workspace, vault)?;
            }
            let number = insert(conn, &workspace, &new)?;
            let (id, now) = (&new.genesis.session_id, new.genesis.created_at);
            crate::session_resources::insert_all(conn, &workspace, id, &new.resources, now)?;
            let last = crate::log::write_entries(conn, &new.genesis.session_id, number, 0, &entries)?;
            crate::log::set_last_seq(conn, number, last)?;
            if let Some(work) = &new.enqueue_work {
                let id = &new.genesis.session_id;
                crate::work_queue::enqueue(conn, &workspace, id, work, new.genesis.created_at)?;
            }
            find(conn, &workspace, &new.genesis.session_id)
        })
        .await
    }

    /// The session of that id.
    pub async fn session(&self, workspace: &WorkspaceId, id: &SessionId) -> Result<SessionRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| find(conn, &workspace, &id)).await
    }

    /// Sessions, with cursors both ways.
    pub async fn list_sessions(
        &self,
        workspace: &WorkspaceId,
        filter: SessionFilter,
        page: PageRequest,
    ) -> Result<Page<SessionRow>, StoreError> {
        let statuses: Vec<String> = filter.statuses.iter().map(ToString::to_string).collect();
        let mut conditions = Filter::default()
            .and("s.workspace_id = ?", [workspace.to_string()])
            .and_if("s.agent_id = ?", filter.agent_id.map(|id| id.to_string()))
            .and_if(
                "s.agent_version = ?",
                filter.agent_version.map(|v| i64::try_from(v).unwrap_or(i64::MAX)),
            )
            .and_in("t.status", &statuses);
        conditions = filter.created_at.apply(conditions, "s.created_at");
        if !filter.include_archived {
            conditions = conditions.and_plain("t.archived_at IS NULL");
        }
        self.read(move |conn| {
            Keyset {
                list: "sessions",
                select: &select(),
                key: ("s.created_at", "s.id"),
                order: filter.order,
                filter: conditions,
            }
            .page(conn, &page, read, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// The sessions of a workspace, or of one of its environments, that are not over; without `all` only those that are at
    /// work or have work for a worker.
    pub async fn sessions_to_stop(
        &self,
        workspace: &WorkspaceId,
        environment: Option<&EnvironmentId>,
        all: bool,
    ) -> Result<Vec<SessionId>, StoreError> {
        let (workspace, environment) = (workspace.clone(), environment.cloned());
        self.read(move |conn| {
            let state = if all {
                "t.status <> 'terminated'"
            } else {
                "(t.status IN ('running', 'rescheduling') OR t.needs_worker) AND t.status <> 'terminated'"
            };
            let sql = format!(
                "SELECT s.id FROM sessions s JOIN session_state t ON t.number = s.number \
                 WHERE s.workspace_id = ?1 AND (?2 IS NULL OR s.environment_id = ?2) AND {state} ORDER BY s.number"
            );
            let sessions = conn
                .prepare_cached(&sql)?
                .query_map((workspace.as_str(), environment.as_ref().map(EnvironmentId::as_str)), |row| parsed(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(sessions)
        })
        .await
    }

    /// The session that has an event.
    pub async fn session_of_event(&self, workspace: &WorkspaceId, event: &EventId) -> Result<SessionId, StoreError> {
        let (workspace, event) = (workspace.clone(), event.clone());
        self.read(move |conn| {
            conn.prepare_cached(
                "SELECT s.id FROM events e JOIN sessions s ON s.number = e.session \
                 WHERE e.event_id = ?1 AND s.workspace_id = ?2",
            )?
            .query_row((event.as_str(), workspace.as_str()), |row| parsed(row, 0))
            .optional()?
            .ok_or_else(|| StoreError::not_found("event", &event))
        })
        .await
    }

    /// Deletes a session, its log, its work, and what is known of its resources and outputs; files stay. Refused with `Conflict` while it is running.
    pub async fn delete_session(&self, workspace: &WorkspaceId, id: &SessionId) -> Result<(), StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let row = find(conn, &workspace, &id)?;
            if row.status == SessionStatus::Running {
                return Err(StoreError::conflict(format!(
                    "session `{id}` is running: interrupt it and wait until it is idle before deleting it"
                )));
            }
            let number: i64 = conn
                .prepare_cached("SELECT number FROM sessions WHERE id = ?1 AND workspace_id = ?2")?
                .query_row((id.as_str(), workspace.as_str()), |r| r.get(0))?;
            // One statement per index: each row is in exactly one of the two.
            for sql in [
                "DELETE FROM events WHERE session = ?1 AND processed_at IS NOT NULL",
                "DELETE FROM events WHERE session = ?1 AND processed_at IS NULL",
                "DELETE FROM session_state WHERE number = ?1",
                "DELETE FROM sessions WHERE number = ?1",
            ] {
                conn.prepare_cached(sql)?.execute([number])?;
            }
            conn.prepare_cached("DELETE FROM work WHERE session_id = ?1")?
                .execute([id.as_str()])?;
            crate::session_resources::delete_all(conn, &id)?;
            crate::session_outputs::delete_all(conn, &id)?;
            crate::session_texts::delete_all(conn, &id)
        })
        .await
    }
}

/// The session of that id in the workspace.
pub(crate) fn find(conn: &Connection, workspace: &WorkspaceId, id: &SessionId) -> Result<SessionRow, StoreError> {
    conn.prepare_cached(&format!("{} WHERE s.id = ?1 AND s.workspace_id = ?2", select()))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .ok_or_else(|| StoreError::not_found("session", id))
}

/// Writes what seldom changes of a session.
pub(crate) fn set_profile(conn: &Connection, number: i64, profile: &SessionProfile) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE sessions SET agent = ?2, title = ?3, metadata = ?4, agent_id = ?5, agent_version = ?6 WHERE number = ?1",
    )?
    .execute((
        number,
        serde_json::to_string(&profile.agent)?,
        &profile.title,
        serde_json::to_string(&profile.metadata)?,
        profile.agent.id.as_str(),
        profile.agent.version as i64,
    ))?;
    Ok(())
}

fn insert(conn: &Connection, workspace: &WorkspaceId, new: &NewSession) -> Result<i64, StoreError> {
    let genesis = &new.genesis;
    conn.prepare_cached(
        "INSERT INTO sessions (id, workspace_id, environment_id, environment_kind, agent_id, agent_version, \
         thread_id, created_at, title, metadata, agent, genesis, vault_ids) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute((
        genesis.session_id.as_str(),
        workspace.as_str(),
        new.environment_id.as_str(),
        kind_name(genesis.environment),
        genesis.agent.id.as_str(),
        genesis.agent.version as i64,
        genesis.thread_id.as_str(),
        genesis.created_at.as_micros(),
        &genesis.title,
        serde_json::to_string(&genesis.metadata)?,
        serde_json::to_string(&genesis.agent)?,
        serde_json::to_string(genesis)?,
        serde_json::to_string(&new.vault_ids)?,
    ))?;
    let number = conn.last_insert_rowid();
    let projection = &new.projection;
    conn.prepare_cached(
        "INSERT INTO session_state (number, last_seq, status, usage, updated_at, archived_at, wake_at, needs_owner, \
         needs_worker) VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute((
        number,
        projection.status.as_str(),
        serde_json::to_string(&projection.usage)?,
        projection.updated_at.as_micros(),
        micros(projection.archived_at),
        micros(projection.wake_at),
        projection.needs_owner,
        projection.needs_worker,
    ))?;
    if let Some(profile) = &projection.profile {
        set_profile(conn, number, profile)?;
    }
    Ok(number)
}

fn read(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let generation = count(row, 17)?;
    let lease = match (row.get::<_, Option<String>>(16)?, maybe_time(row, 18)?) {
        (Some(owner), Some(expires_at)) => Some(Lease {
            owner,
            generation,
            expires_at,
        }),
        _ => None,
    };
    Ok(SessionRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        environment_id: parsed(row, 2)?,
        environment_kind: kind(row, 3)?,
        thread_id: parsed(row, 4)?,
        created_at: time(row, 5)?,
        profile: SessionProfile {
            agent: json(row, 6)?,
            title: row.get(7)?,
            metadata: json(row, 8)?,
        },
        status: parsed(row, 9)?,
        usage: json(row, 10)?,
        updated_at: time(row, 11)?,
        archived_at: maybe_time(row, 12)?,
        last_seq: count(row, 13)?,
        wake_at: maybe_time(row, 14)?,
        needs_owner: row.get(15)?,
        lease,
        vault_ids: json(row, 19)?,
        resources: json(row, 20)?,
    })
}
