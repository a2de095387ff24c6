//! Readers: a few read-only connections, used on the runtime's blocking threads.
//!
//! Connections are opened when they are first needed. Every read sees one snapshot. What was answered by the
//! writer is seen by every read that begins afterwards.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::StoreError;

/// The pool.
pub(crate) struct Readers {
    path: PathBuf,
    slots: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    /// A pool of at most `count` connections.
    pub(crate) fn new(path: &Path, count: usize) -> Self {
        Self {
            path: path.to_owned(),
            slots: Arc::new(Semaphore::new(count.max(1))),
            idle: Arc::default(),
        }
    }

    /// Runs `work` on a free connection, in one read transaction.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let slot = self
            .slots
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let idle = self.idle.clone();
        let path = self.path.clone();
        let joined = tokio::task::spawn_blocking(move || {
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = match kept {
                Some(conn) => conn,
                None => connect(&path)?,
            };
            let result = snapshot(&conn, work);
            // A connection that met a failure of the database is not used again.
            if !result.as_ref().is_err_and(StoreError::is_of_the_database) {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            }
            drop(slot);
            result
        })
        .await;
        joined.map_err(|e| StoreError::Internal(Box::new(e)))?
    }

    /// Refuses new reads, waits for those that run, closes the connections.
    pub(crate) async fn close(&self, count: usize) {
        let all = self.slots.acquire_many(count.max(1) as u32).await;
        self.slots.close();
        drop(all);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn snapshot<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let transaction = conn.unchecked_transaction()?;
    let value = work(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    crate::schema::tune_reader(&conn)?;
    Ok(conn)
}
