//! The database's schema: settings of connections, checks at open, migrations.
//!
//! Migrations only go forwards, each in its own transaction, counted by `PRAGMA user_version`. A database of a
//! newer schema, of another program, or with damage is refused.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::StoreError;

/// Marks the file as ours (`PRAGMA application_id`): "owrk".
const APPLICATION_ID: i64 = 0x6f77_726b;

/// What leads from each schema to the next; the position is the schema's number.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/001_first.sql"),
    include_str!("schema/002_tunnels.sql"),
    include_str!("schema/003_files.sql"),
];

/// Opens the database for writing: settings, checks, migrations.
pub(crate) fn open(path: &Path, check_up_to: u64, max_bytes: Option<u64>) -> Result<Connection, StoreError> {
    let corrupt = |error: rusqlite::Error| StoreError::from(error).at(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    recognize(&conn, path).map_err(|e| e.at(path))?;
    tune_writer(&conn).map_err(corrupt)?;
    check(&conn, path, check_up_to).map_err(|e| e.at(path))?;
    migrate(&conn).map_err(corrupt)?;
    if let Some(bytes) = max_bytes {
        limit(&conn, bytes)?;
    }
    Ok(conn)
}

fn recognize(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = pragma(conn, "user_version")?;
    let application: i64 = pragma(conn, "application_id")?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(StoreError::Folder {
            path: path.to_owned(),
            problem: "this is a database of another program: choose another folder".into(),
        });
    }
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::SchemaTooNew {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(())
}

fn tune_writer(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA cache_size = -2048;
         PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA wal_autocheckpoint = 4000;",
    )?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.set_prepared_statement_cache_capacity(96);
    Ok(())
}

pub(crate) fn tune_reader(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -512; PRAGMA temp_store = MEMORY;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Looks at every page of a database that is not larger than `up_to` bytes.
fn check(conn: &Connection, path: &Path, up_to: u64) -> Result<(), StoreError> {
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    if size > up_to {
        tracing::info!(
            bytes = size,
            "the database is large: its pages are checked as they are read"
        );
        return Ok(());
    }
    check_all(conn, path)
}

/// Looks at every page of the database.
pub(crate) fn check_all(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let mut statement = conn.prepare("PRAGMA quick_check(3)")?;
    let lines = statement
        .query_map([], |r| r.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if lines.len() == 1 && lines[0] == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.to_owned(),
        detail: lines.join("; "),
    })
}

fn migrate(conn: &Connection) -> rusqlite::Result<()> {
    let found: i64 = pragma(conn, "user_version")?;
    for (number, sql) in (1i64..).zip(MIGRATIONS).skip(found.max(0) as usize) {
        let transaction = conn.unchecked_transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

fn limit(conn: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page: i64 = pragma(conn, "page_size")?;
    let pages = (bytes as i64 / page.max(1)).max(1);
    conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

fn pragma(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, name, |r| r.get(0))
}
