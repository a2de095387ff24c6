//! The log of a session: appending to it, folding it, listing it.
//!
//! Entries are numbered from 1 without reuse. An entry without `processed_at` waits in the queue; writing its
//! event again moves it to the end of the log with a new number. What was processed never changes. The order of
//! the log is: processed entries by number, then queued ones by number.
//!
//! An append may be fenced by the generation of a lease and by the number that the log ended at. Entries,
//! projection and work item of one append are written together or not at all. An append that ends the session stops
//! its work item.

use outwork_wire::id::{EventId, SessionId, WorkId, WorkspaceId};
use outwork_wire::log::{Genesis, LogEntry, Private};
use outwork_wire::{Event, Time};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde_json::value::RawValue;

use crate::columns::{count, json, micros, time};
use crate::cursor::{Cursor, Direction};
use crate::page::Filter;
use crate::sessions::{SessionProjection, SessionStatus, TimeRange};
use crate::{Order, Page, PageRequest, Store, StoreError};

/// How much text a page of events holds at most, in bytes; one event always fits.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// An addition to a session's log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The session.
    pub session_id: SessionId,
    /// Now: when a work item that this makes was made.
    pub at: Time,
    /// The lease's generation; another present one refuses the append. None: no fence.
    pub generation: Option<u64>,
    /// Where the caller believes the log to end; another end refuses the append. None: not checked.
    pub expected_last_seq: Option<u64>,
    /// The entries, in order.
    pub entries: Vec<LogEntry>,
    /// Queued events to be forgotten.
    pub drop_queued: Vec<EventId>,
    /// What becomes of the session as a whole.
    pub projection: ProjectionChange,
    /// Puts a work item of that id into the environment's queue, unless the session has a live one.
    pub enqueue_work: Option<WorkId>,
}

impl Append {
    fn ends_session(&self) -> bool {
        matches!(&self.projection, ProjectionChange::Set(p) if p.status == SessionStatus::Terminated)
    }
}

/// What an append makes of its session as a whole.
#[derive(Clone, Debug)]
pub enum ProjectionChange {
    /// Nothing.
    Keep,
    /// The loop has something to do; all else stays. For who queues an event without owning the session.
    NeedsOwner,
    /// All of it. For the session's owner, who should give `expected_last_seq` too: otherwise it could overwrite
    /// a `NeedsOwner` that it has not seen.
    Set(Box<SessionProjection>),
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The number of the first entry written; one more than `last_seq` if there was none.
    pub first_seq: u64,
    /// The number of the log's last entry.
    pub last_seq: u64,
    /// True if a work item was put into the queue.
    pub work_enqueued: bool,
}

/// A whole log, in order.
#[derive(Clone, Debug)]
pub struct LoadedLog {
    /// What the session begins with.
    pub genesis: Genesis,
    /// The entries with their numbers: processed ones, then queued ones.
    pub entries: Vec<(u64, LogEntry)>,
    /// The highest number given out so far.
    pub last_seq: u64,
}

/// Which events a list shows.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Only of these types; empty for any.
    pub types: Vec<String>,
    /// Only processed in this time.
    pub created_at: TimeRange,
    /// In which order; queued events come last when ascending, first when descending.
    pub order: Order,
    /// Only what the primary thread's own log shows.
    pub thread_only: bool,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            created_at: TimeRange::default(),
            order: Order::Asc,
            thread_only: false,
        }
    }
}

/// An entry as it is written.
pub(crate) struct Prepared {
    id: EventId,
    kind: &'static str,
    in_thread: bool,
    created_at: Time,
    processed_at: Option<Time>,
    body: String,
    private: Option<String>,
}

impl Prepared {
    /// Writes entries as text, on the caller's thread.
    pub(crate) fn all(entries: &[LogEntry]) -> Result<Vec<Self>, StoreError> {
        entries
            .iter()
            .map(|entry| {
                Ok(Self {
                    id: entry.event.id.clone(),
                    kind: entry.event.body.kind(),
                    in_thread: entry.event.body.belongs_to_thread(),
                    created_at: entry.created_at,
                    processed_at: entry.event.processed_at,
                    body: serde_json::to_string(&entry.event)?,
                    private: entry.private.as_ref().map(serde_json::to_string).transpose()?,
                })
            })
            .collect()
    }
}

/// What an append must know of its session.
struct Head {
    number: i64,
    last_seq: u64,
    generation: u64,
    owned: bool,
    archived: bool,
}

const COLUMNS: &str = "seq, body, created_at, private";
/// The two parts of a log; each is read through its own index.
const PROCESSED: &str = "processed_at IS NOT NULL";
const QUEUED: &str = "processed_at IS NULL";

impl Store {
    /// Adds to a session's log. When this returns, it is on disk.
    pub async fn append(&self, workspace: &WorkspaceId, append: Append) -> Result<Appended, StoreError> {
        let workspace = workspace.clone();
        let entries = Prepared::all(&append.entries)?;
        let usage = match &append.projection {
            ProjectionChange::Set(projection) => serde_json::to_string(&projection.usage)?,
            ProjectionChange::Keep | ProjectionChange::NeedsOwner => String::new(),
        };
        self.write(move |conn| {
            let head = head(conn, &workspace, &append.session_id)?;
            head.admit(&append)?;
            for event in &append.drop_queued {
                drop_queued(conn, head.number, event)?;
            }
            let last_seq = write_entries(conn, &append.session_id, head.number, head.last_seq, &entries)?;
            project(conn, head.number, last_seq, &append, &usage)?;
            let work_enqueued = match &append.enqueue_work {
                _ if append.ends_session() => {
                    crate::work_queue::end_of_session(conn, &workspace, &append.session_id, append.at)?;
                    false
                }
                Some(work) => {
                    crate::work_queue::enqueue(conn, &workspace, &append.session_id, work, append.at)?.is_some()
                }
                None => false,
            };
            Ok(Appended {
                first_seq: head.last_seq + 1,
                last_seq,
                work_enqueued,
            })
        })
        .await
    }

    /// The whole log of a session.
    pub async fn load(&self, workspace: &WorkspaceId, session: &SessionId) -> Result<LoadedLog, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            let head = head(conn, &workspace, &session)?;
            let genesis = conn
                .prepare_cached("SELECT genesis FROM sessions WHERE number = ?1")?
                .query_row([head.number], |row| json(row, 0))?;
            let mut entries = Vec::new();
            for part in [PROCESSED, QUEUED] {
                let sql = format!("SELECT {COLUMNS} FROM events WHERE session = ?1 AND {part} ORDER BY seq");
                let mut statement = conn.prepare_cached(&sql)?;
                for entry in statement.query_map([head.number], entry)? {
                    entries.push(entry?);
                }
            }
            Ok(LoadedLog {
                genesis,
                entries,
                last_seq: head.last_seq,
            })
        })
        .await
    }

    /// The entries with a number above `after`, by number.
    pub async fn entries_after(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        after: u64,
    ) -> Result<Vec<(u64, LogEntry)>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            let head = head(conn, &workspace, &session)?;
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let mut entries = Vec::new();
            for part in [PROCESSED, QUEUED] {
                let sql = format!("SELECT {COLUMNS} FROM events WHERE session = ?1 AND seq > ?2 AND {part}");
                let mut statement = conn.prepare_cached(&sql)?;
                for entry in statement.query_map([head.number, after], entry)? {
                    entries.push(entry?);
                }
            }
            entries.sort_by_key(|(seq, _)| *seq);
            Ok(entries)
        })
        .await
    }

    /// One entry of a session's log.
    pub async fn entry(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        event: &EventId,
    ) -> Result<(u64, LogEntry), StoreError> {
        let (workspace, session, event) = (workspace.clone(), session.clone(), event.clone());
        self.read(move |conn| {
            let head = head(conn, &workspace, &session)?;
            let sql = format!("SELECT {COLUMNS} FROM events WHERE event_id = ?1 AND session = ?2");
            conn.prepare_cached(&sql)?
                .query_row((event.as_str(), head.number), entry)
                .optional()?
                .ok_or_else(|| StoreError::not_found("event", &event))
        })
        .await
    }

    /// Events of a session, as the JSON that was written. Pages go forwards only: `prev` is always absent.
    pub async fn list_events(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        query: EventQuery,
        page: PageRequest,
    ) -> Result<Page<Box<RawValue>>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            let head = head(conn, &workspace, &session)?;
            list(conn, head.number, &query, &page)
        })
        .await
    }
}

impl Head {
    fn admit(&self, append: &Append) -> Result<(), StoreError> {
        match append.generation {
            Some(given) if given != self.generation || !self.owned => {
                return Err(StoreError::StaleGeneration {
                    session: append.session_id.clone(),
                    given,
                    current: self.generation,
                });
            }
            None if self.archived => {
                return Err(StoreError::conflict(format!(
                    "session `{}` is archived and takes no more events",
                    append.session_id
                )));
            }
            Some(_) | None => {}
        }
        match append.expected_last_seq {
            Some(expected) if expected != self.last_seq => Err(StoreError::LogMoved {
                session: append.session_id.clone(),
                expected,
                current: self.last_seq,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

fn head(conn: &Connection, workspace: &WorkspaceId, session: &SessionId) -> Result<Head, StoreError> {
    conn.prepare_cached(
        "SELECT t.number, t.last_seq, t.generation, t.owner IS NOT NULL, t.archived_at IS NOT NULL \
         FROM sessions s JOIN session_state t ON t.number = s.number WHERE s.id = ?1 AND s.workspace_id = ?2",
    )?
    .query_row((session.as_str(), workspace.as_str()), |row| {
        Ok(Head {
            number: row.get(0)?,
            last_seq: count(row, 1)?,
            generation: count(row, 2)?,
            owned: row.get(3)?,
            archived: row.get(4)?,
        })
    })
    .optional()?
    .ok_or_else(|| StoreError::not_found("session", session))
}

/// Writes entries behind number `last` and gives the new last number.
pub(crate) fn write_entries(
    conn: &Connection,
    session: &SessionId,
    number: i64,
    mut last: u64,
    entries: &[Prepared],
) -> Result<u64, StoreError> {
    // A queued row of the same session is taken over; any other row of that id leaves nothing changed.
    let mut statement = conn.prepare_cached(
        "INSERT INTO events (session, seq, event_id, type, in_thread, created_at, processed_at, body, private) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (event_id) DO UPDATE SET seq = excluded.seq, type = excluded.type, \
         in_thread = excluded.in_thread, created_at = excluded.created_at, processed_at = excluded.processed_at, \
         body = excluded.body, private = excluded.private \
         WHERE events.session = excluded.session AND events.processed_at IS NULL",
    )?;
    for entry in entries {
        last += 1;
        let written = statement.execute((
            number,
            last as i64,
            entry.id.as_str(),
            entry.kind,
            entry.in_thread,
            entry.created_at.as_micros(),
            micros(entry.processed_at),
            &entry.body,
            &entry.private,
        ))?;
        if written != 1 {
            return Err(StoreError::DuplicateEvent {
                session: session.clone(),
                event: entry.id.clone(),
            });
        }
    }
    Ok(last)
}

pub(crate) fn set_last_seq(conn: &Connection, number: i64, last: u64) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE session_state SET last_seq = ?2 WHERE number = ?1")?
        .execute((number, last as i64))?;
    Ok(())
}

fn project(conn: &Connection, number: i64, last: u64, append: &Append, usage: &str) -> Result<(), StoreError> {
    match &append.projection {
        ProjectionChange::Keep => set_last_seq(conn, number, last),
        ProjectionChange::NeedsOwner => {
            conn.prepare_cached(
                "UPDATE session_state SET last_seq = ?2, needs_owner = 1, updated_at = max(updated_at, ?3) \
                 WHERE number = ?1",
            )?
            .execute((number, last as i64, append.at.as_micros()))?;
            Ok(())
        }
        ProjectionChange::Set(projection) => {
            conn.prepare_cached(
                "UPDATE session_state SET last_seq = ?2, status = ?3, usage = ?4, updated_at = ?5, archived_at = ?6, \
                 wake_at = ?7, needs_owner = ?8, needs_worker = ?9 WHERE number = ?1",
            )?
            .execute((
                number,
                last as i64,
                projection.status.as_str(),
                usage,
                projection.updated_at.as_micros(),
                micros(projection.archived_at),
                micros(projection.wake_at),
                projection.needs_owner,
                projection.needs_worker && !append.ends_session(),
            ))?;
            match &projection.profile {
                Some(profile) => crate::sessions::set_profile(conn, number, profile),
                None => Ok(()),
            }
        }
    }
}

fn drop_queued(conn: &Connection, number: i64, event: &EventId) -> Result<(), StoreError> {
    let dropped = conn
        .prepare_cached("DELETE FROM events WHERE event_id = ?1 AND session = ?2 AND processed_at IS NULL")?
        .execute((event.as_str(), number))?;
    if dropped == 1 {
        Ok(())
    } else {
        Err(StoreError::not_found("queued event", event))
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(u64, LogEntry)> {
    let private = match row.get_ref(3)?.as_str_or_null()? {
        Some(_) => Some(json::<Private>(row, 3)?),
        None => None,
    };
    let event = json::<Event>(row, 1)?;
    let created_at = time(row, 2)?;
    Ok((
        count(row, 0)?,
        LogEntry {
            event,
            created_at,
            private,
        },
    ))
}

/// One page: the two parts of the log, one after the other, from where the cursor stands.
/// The parts of a list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// What the loop has taken up.
    Processed,
    /// What waits for it.
    Queued,
}

/// How much of the queue was shown. A row keeps its place when it is taken up and gets a new number then, behind all
/// others, so this tells what was taken up since, and whether it was shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// What has a greater number was taken up since.
    log: i64,
    /// The row of the queue that was shown last.
    place: i64,
}

/// Where a list of events stands: at this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    part: Part,
    seq: i64,
    queue: Option<Shown>,
}

impl Stand {
    fn cursor(&self, fingerprint: [u8; 8]) -> Cursor {
        let part = match self.part {
            Part::Processed => 'p',
            Part::Queued => 'q',
        };
        let queue = self.queue.map(|Shown { log, place }| format!("{log}.{place}"));
        Cursor {
            direction: Direction::Next,
            fingerprint,
            number: self.seq,
            name: format!("{part}{}", queue.unwrap_or_default()),
        }
    }

    fn read(cursor: &Cursor) -> Result<Self, StoreError> {
        let bad = || StoreError::InvalidCursor;
        let mut rest = cursor.name.chars();
        let part = match rest.next() {
            Some('p') => Part::Processed,
            Some('q') => Part::Queued,
            _ => return Err(bad()),
        };
        let queue = match rest.as_str() {
            "" if part == Part::Queued => return Err(bad()),
            "" => None,
            text => {
                let (log, place) = text.split_once('.').ok_or_else(bad)?;
                Some(Shown {
                    log: log.parse().map_err(|_| bad())?,
                    place: place.parse().map_err(|_| bad())?,
                })
            }
        };
        Ok(Self {
            part,
            seq: cursor.number,
            queue,
        })
    }
}

/// What of the log goes on a page, in this order: a part, a further condition and its values.
fn steps(order: Order, from: Option<Stand>) -> Vec<(Part, String, Vec<i64>)> {
    let step = |part, condition: &str, values: &[i64]| (part, condition.to_owned(), values.to_vec());
    match (order, from) {
        (Order::Asc, None) => vec![step(Part::Processed, "", &[]), step(Part::Queued, "", &[])],
        (Order::Desc, None) => vec![step(Part::Queued, "", &[]), step(Part::Processed, "", &[])],
        (Order::Asc, Some(Stand { queue: Some(shown), .. })) => vec![
            // Taken up since the queue was shown, before its turn to be shown came.
            step(Part::Processed, " AND seq > ? AND place > ?", &[shown.log, shown.place]),
            step(Part::Queued, " AND place > ?", &[shown.place]),
        ],
        (Order::Asc, Some(stand)) => vec![
            step(Part::Processed, " AND seq > ?", &[stand.seq]),
            step(Part::Queued, "", &[]),
        ],
        (Order::Desc, Some(stand)) => {
            let mut steps = Vec::new();
            let (mut condition, mut values) = (String::new(), Vec::new());
            if let Some(shown) = stand.queue {
                condition.push_str(" AND NOT (seq > ? AND place >= ?)");
                values.extend([shown.log, shown.place]);
            }
            match stand.part {
                Part::Queued => steps.push(step(Part::Queued, " AND seq < ?", &[stand.seq])),
                Part::Processed => {
                    condition.push_str(" AND seq < ?");
                    values.push(stand.seq);
                }
            }
            steps.push((Part::Processed, condition, values));
            steps
        }
    }
}

fn list(
    conn: &Connection,
    number: i64,
    query: &EventQuery,
    page: &PageRequest,
) -> Result<Page<Box<RawValue>>, StoreError> {
    let mut filter = Filter::default()
        .and("session = ?", [number])
        .and_in("type", &query.types);
    // The contract compares with `processed_at`; what waits in the queue has none and fits no limit.
    filter = query.created_at.apply(filter, "processed_at");
    if query.thread_only {
        filter = filter.and_plain("in_thread = 1");
    }
    let fingerprint = filter.fingerprint("events", query.order);
    let cursor = match &page.cursor {
        Some(text) => Some(Cursor::of_list(text, fingerprint)?),
        None => None,
    };
    let from = cursor.as_ref().map(Stand::read).transpose()?;
    let last_seq: i64 = conn
        .prepare_cached("SELECT last_seq FROM session_state WHERE number = ?1")?
        .query_row([number], |row| row.get(0))?;
    let limit = page.limit.max(1);
    let mut found: Vec<(Stand, String)> = Vec::new();
    let mut queue = from.and_then(|from| from.queue);
    let (mut bytes, mut full) = (0, false);
    for (part, condition, numbers) in steps(query.order, from) {
        if full || found.len() > limit {
            break;
        }
        let place_of = match part {
            Part::Processed => PROCESSED,
            Part::Queued => QUEUED,
        };
        let sql = format!(
            "SELECT seq, body, place FROM events WHERE {} AND {place_of}{condition} ORDER BY seq {} LIMIT ?",
            filter.sql(),
            query.order.sql()
        );
        let mut values = filter.values().to_vec();
        values.extend(numbers.into_iter().map(Value::Integer));
        values.push(Value::Integer((limit + 1 - found.len()) as i64));
        let mut statement = conn.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        for row in rows {
            let (seq, body, place): (i64, String, i64) = row?;
            bytes += body.len();
            if bytes > MAX_PAGE_BYTES && !found.is_empty() {
                full = true;
                break;
            }
            queue = match (part, query.order, queue) {
                (Part::Queued, Order::Asc, _) => Some(Shown { log: last_seq, place }),
                (Part::Queued, Order::Desc, shown) => {
                    let log = shown.map_or(last_seq, |shown| shown.log);
                    Some(Shown { log, place })
                }
                (Part::Processed, Order::Asc, Some(shown)) => Some(Shown { log: seq, ..shown }),
                (Part::Processed, _, shown) => shown,
            };
            found.push((Stand { part, seq, queue }, body));
        }
    }
    let further = full || found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| further)
        .map(|(stand, _)| stand.cursor(fingerprint).encode());
    let rows = found
        .into_iter()
        .map(|(_, body)| Ok(RawValue::from_string(body)?))
        .collect::<Result<_, StoreError>>()?;
    Ok(Page { rows, next, prev: None })
}
