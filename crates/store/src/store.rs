//! The handle: opening, closing, and the two ways to the database.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use outwork_wire::Time;
use outwork_wire::id::WorkspaceId;
use rusqlite::Connection;

use crate::StoreError;
use crate::folder::Folder;
use crate::keys::KeyUses;
use crate::pollers::Pollers;
use crate::readers::Readers;
use crate::writer::Writer;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made if it is missing.
    pub dir: PathBuf,
    /// The most connections that read at the same time.
    pub readers: usize,
    /// A database of at most so many bytes is checked page by page at open.
    pub check_up_to: u64,
    /// The most bytes that the database may grow to; none for as much as the disk holds.
    pub max_bytes: Option<u64>,
}

impl Options {
    /// The usual settings for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            readers: 4,
            check_up_to: 64 << 20,
            max_bytes: None,
        }
    }
}

/// What is kept. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    path: PathBuf,
    readers_max: usize,
    // Before the writer: its connections must be gone when the writer leaves the folder.
    readers: Readers,
    writer: Writer,
    default_workspace: WorkspaceId,
    pub(crate) pollers: Pollers,
    pub(crate) key_uses: Mutex<KeyUses>,
}

/// What the store has done since it was opened, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Transactions that were committed.
    pub commits: u64,
    /// Writes that were asked for.
    pub writes: u64,
    /// Transactions that the database refused.
    pub failed_commits: u64,
}

impl Store {
    /// Opens the store of a folder, and makes it if there is none.
    ///
    /// Blocks for some milliseconds: checks and migrations.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let folder = Folder::open(&options.dir)?;
        let path = folder.database().to_owned();
        let conn = crate::schema::open(&path, options.check_up_to, options.max_bytes)?;
        let default_workspace = crate::workspaces::ensure_default(&conn, Time::now())?;
        let readers = Readers::new(&path, options.readers);
        let writer = Writer::start(conn, folder)?;
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                readers_max: options.readers,
                readers,
                writer,
                default_workspace,
                pollers: Pollers::default(),
                key_uses: Mutex::default(),
            }),
        })
    }

    /// The workspace that was made with the store.
    pub fn default_workspace(&self) -> &WorkspaceId {
        &self.inner.default_workspace
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What was done so far.
    pub fn counters(&self) -> StoreCounters {
        let counters = &self.inner.writer.counters;
        StoreCounters {
            commits: counters.commits.load(Ordering::Relaxed),
            writes: counters.jobs.load(Ordering::Relaxed),
            failed_commits: counters.failed_commits.load(Ordering::Relaxed),
        }
    }

    /// Whether reading and writing work: one read, and one transaction that changes a row.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.read(|conn| Ok(conn.query_row("SELECT count(*) FROM workspaces", [], |_| Ok(()))?))
            .await?;
        self.write(|conn| {
            conn.execute("UPDATE workspaces SET name = name WHERE is_default = 1", [])?;
            Ok(())
        })
        .await
    }

    /// Looks at every page of the database for damage; takes long on a large one.
    pub async fn check(&self) -> Result<(), StoreError> {
        let path = self.inner.path.clone();
        self.read(move |conn| crate::schema::check_all(conn, &path)).await
    }

    /// Finishes what waits, closes the files and gives the folder free. Later calls get `Closed`.
    pub async fn close(&self) {
        if let Err(e) = self.flush_key_uses().await {
            tracing::debug!(error = %e, "the last uses of keys were not kept");
        }
        self.inner.readers.close(self.inner.readers_max).await;
        self.inner.writer.close().await;
    }

    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.writer.run(work).await.map_err(|e| e.at(&self.inner.path))
    }

    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.readers.run(work).await.map_err(|e| e.at(&self.inner.path))
    }
}
