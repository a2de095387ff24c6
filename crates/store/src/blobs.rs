//! Blobs: the bytes of files, in a folder or in an S3-compatible store.
//!
//! A blob is written in pieces and appears under its key at once, whole, and on disk; until then nobody sees it. It is
//! written once and never changed. Removing one that is not there is no error. A writer that is dropped leaves nothing
//! to be seen; what is left of it otherwise goes when its key is removed.
//!
//! While a blob is written and until its holder lets go of it, its key is busy: whoever removes loose blobs
//! ([`crate::files`]) leaves busy ones alone.
//!
//! Refused: addresses other than `s3://bucket/prefix` and `file:///folder`. Credentials of S3 come from the environment
//! (`AWS_…`), never from an address.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use crate::session_texts::hex;

/// How much of a blob is held in memory while it goes to a folder.
const FOLDER_PART: usize = 1 << 20;
/// The same for a store behind a network, which wants at least 5 MiB.
const REMOTE_PART: usize = 8 << 20;
/// How much of a blob is read at once from a folder.
const READ: usize = 256 << 10;

/// Where blobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPlace {
    /// In a folder, which is made if it is missing.
    Folder(PathBuf),
    /// At an address: `s3://bucket/prefix`, or `file:///folder`.
    Url(String),
}

/// Why a blob could not be kept, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The place cannot be used.
    #[error("blobs cannot be kept at `{place}`: {reason}")]
    Place {
        /// The place.
        place: String,
        /// Why.
        reason: String,
    },
    /// It could not be written; nothing of it is to be seen.
    #[error("the blob `{key}` could not be written: {source}")]
    Write {
        /// Its key.
        key: String,
        /// Why.
        source: object_store::Error,
    },
    /// It could not be read.
    #[error("the blob `{key}` could not be read: {source}")]
    Read {
        /// Its key.
        key: String,
        /// Why.
        source: object_store::Error,
    },
    /// It is not there.
    #[error("the blob `{key}` is not there")]
    Missing {
        /// Its key.
        key: String,
    },
    /// It could not be removed.
    #[error("the blob `{key}` could not be removed: {source}")]
    Remove {
        /// Its key.
        key: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Blobs. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    folder: Option<PathBuf>,
    part: usize,
    busy: Mutex<HashSet<String>>,
    aborting: TaskTracker,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({})", self.inner.store)
    }
}

impl Blobs {
    /// Opens a place. A folder is made if it is missing; a store behind a network is not asked yet.
    pub fn open(place: &BlobPlace) -> Result<Self, BlobError> {
        match place {
            BlobPlace::Folder(folder) => Self::folder(folder.clone()),
            BlobPlace::Url(url) => {
                if let Some(folder) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
                    return Self::folder(PathBuf::from(folder));
                }
                Self::s3(url)
            }
        }
    }

    fn folder(folder: PathBuf) -> Result<Self, BlobError> {
        let fault = |reason: String| BlobError::Place {
            place: folder.display().to_string(),
            reason,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| fault(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| fault(error.to_string()))?;
        let store = Arc::new(store.with_fsync(true));
        Ok(Self::new(store, Path::default(), Some(folder), FOLDER_PART))
    }

    fn s3(url: &str) -> Result<Self, BlobError> {
        let fault = |reason: String| BlobError::Place {
            place: url.to_owned(),
            reason,
        };
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(fault("use s3://bucket/prefix or file:///folder".into()));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || rest.contains(['@', '?', '#']) {
            return Err(fault(
                "use s3://bucket/prefix; credentials, region and endpoint come from the environment (AWS_…)".into(),
            ));
        }
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .build()
            .map_err(|error| fault(error.to_string()))?;
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| fault(error.to_string()))?;
        Ok(Self::new(Arc::new(store), prefix, None, REMOTE_PART))
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: Path, folder: Option<PathBuf>, part: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                prefix,
                folder,
                part,
                busy: Mutex::default(),
                aborting: TaskTracker::new(),
            }),
        }
    }

    /// How much memory one writer takes.
    pub fn writer_bytes(&self) -> usize {
        2 * self.inner.part
    }

    /// Begins to write a blob under a key that no other blob has or had. The key is busy from now on.
    pub fn writer(&self, key: &str) -> BlobWriter {
        self.busy().insert(key.to_owned());
        BlobWriter {
            path: self.path(key),
            hold: Arc::new(Hold {
                blobs: self.clone(),
                key: key.to_owned(),
            }),
            buffer: BytesMut::new(),
            upload: None,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// Reads a blob from its beginning.
    pub async fn read(&self, key: &str) -> Result<BlobReader, BlobError> {
        let fault = |source| match source {
            object_store::Error::NotFound { .. } => BlobError::Missing { key: key.to_owned() },
            source => BlobError::Read {
                key: key.to_owned(),
                source,
            },
        };
        let found = self.inner.store.get(&self.path(key)).await.map_err(fault)?;
        let size = found.meta.size;
        let key = key.to_owned();
        let stream = match found.payload {
            GetResultPayload::File(file, _) => from_file(file),
            GetResultPayload::Stream(stream) => stream,
        };
        Ok(BlobReader {
            size,
            stream: stream
                .map_err(move |source| BlobError::Read {
                    key: key.clone(),
                    source,
                })
                .boxed(),
        })
    }

    /// Removes a blob, and what is left of a writer under its key.
    pub async fn remove(&self, key: &str) -> Result<(), BlobError> {
        if let Some(folder) = &self.inner.folder {
            // Where `object_store` keeps the bytes of a blob that is being written; keys are never used twice.
            let unfinished = folder.join(format!("{key}#1"));
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(unfinished)).await;
            if let Ok(Err(error)) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(BlobError::Remove {
                    key: key.to_owned(),
                    source: object_store::Error::Generic {
                        store: "folder",
                        source: error.into(),
                    },
                });
            }
        }
        match self.inner.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(BlobError::Remove {
                key: key.to_owned(),
                source,
            }),
        }
    }

    /// Whether somebody writes the blob, or holds it.
    pub fn is_busy(&self, key: &str) -> bool {
        self.busy().contains(key)
    }

    /// Waits for what writers that were dropped have left to do.
    pub async fn close(&self) {
        self.inner.aborting.close();
        self.inner.aborting.wait().await;
    }

    fn path(&self, key: &str) -> Path {
        key.split('/')
            .fold(self.inner.prefix.clone(), |path, part| path.join(part))
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a blob.
pub struct BlobReader {
    /// How many there are.
    pub size: u64,
    /// The bytes in order.
    pub stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

/// Keeps a key busy for as long as anybody has it.
struct Hold {
    blobs: Blobs,
    key: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.blobs.busy().remove(&self.key);
    }
}

/// A blob that was written. Its key is busy until this is dropped: hold it until a file has the blob.
pub struct WrittenBlob {
    /// How many bytes it has.
    pub size: u64,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    hold: Arc<Hold>,
}

impl WrittenBlob {
    /// Its key.
    pub fn key(&self) -> &str {
        &self.hold.key
    }
}

/// A blob that is being written.
pub struct BlobWriter {
    path: Path,
    // Before the hold: an abandoned upload is aborted while the key is still busy.
    upload: Option<Box<dyn MultipartUpload>>,
    hold: Arc<Hold>,
    buffer: BytesMut,
    hash: Sha256,
    size: u64,
}

impl BlobWriter {
    /// Its key.
    pub fn key(&self) -> &str {
        &self.hold.key
    }

    /// Adds bytes.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        let part = self.hold.blobs.inner.part;
        while self.buffer.len() >= part {
            let full = self.buffer.split_to(part).freeze();
            self.put_part(full).await?;
        }
        Ok(())
    }

    /// Makes the blob visible. It is on disk when this returns.
    pub async fn finish(mut self) -> Result<WrittenBlob, BlobError> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        if self.upload.is_none() {
            let store = self.hold.blobs.inner.store.clone();
            let written = store.put(&self.path, PutPayload::from_bytes(rest)).await;
            written.map_err(|source| self.fault(source))?;
        } else {
            if !rest.is_empty() {
                self.put_part(rest).await?;
            }
            if let Some(upload) = &mut self.upload {
                let completed = upload.complete().await;
                completed.map_err(|source| self.fault(source))?;
                self.upload = None;
            }
        }
        let hash = std::mem::take(&mut self.hash).finalize();
        Ok(WrittenBlob {
            size: self.size,
            sha256: hex(&hash),
            hold: self.hold.clone(),
        })
    }

    async fn put_part(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.upload.is_none() {
            let store = self.hold.blobs.inner.store.clone();
            let begun = store.put_multipart(&self.path).await;
            self.upload = Some(begun.map_err(|source| self.fault(source))?);
        }
        let upload = self.upload.as_mut().expect("it was just begun");
        let put = upload.put_part(PutPayload::from_bytes(bytes)).await;
        put.map_err(|source| self.fault(source))
    }

    fn fault(&self, source: object_store::Error) -> BlobError {
        BlobError::Write {
            key: self.hold.key.clone(),
            source,
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        // Outside a runtime there is nobody to do it; removing the key does, for a folder.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let key = self.hold.key.clone();
        let abort = async move {
            if let Err(error) = upload.abort().await {
                tracing::debug!(key, %error, "the pieces of a blob that was not finished could not be removed");
            }
        };
        self.hold.blobs.inner.aborting.spawn_on(abort, &runtime);
    }
}

fn from_file(file: std::fs::File) -> BoxStream<'static, object_store::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = Vec::with_capacity(READ);
            let read = (&mut file).take(READ as u64).read_to_end(&mut buffer);
            read.map(|_| (buffer, file))
        })
        .await?;
        let (buffer, file) = read.map_err(|error| object_store::Error::Generic {
            store: "folder",
            source: error.into(),
        })?;
        Ok((!buffer.is_empty()).then(|| (Bytes::from(buffer), file)))
    })
    .boxed()
}
