//! What keeps callers from taking more than their share: memory for request bodies, and probes of the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use crate::error::{ApiError, ErrorKind};

/// How much memory all request bodies together may take while they are read, in KiB.
const BODIES_KIB: u32 = 256 << 10;
/// How long a request may wait for that memory.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// How many bodies of callers without a credential may be read at the same time. They are small, and have no part in
/// the memory above, so that strangers keep nobody else waiting.
const OPEN_BODIES: usize = 512;
/// How long an answer about the store's health holds. The endpoint that asks for it needs no key.
const HEALTH_HOLDS: Duration = Duration::from_secs(1);

/// Shared limits of a plane.
pub(crate) struct Guard {
    bodies: Arc<Semaphore>,
    open_bodies: Arc<Semaphore>,
    healthy_at: Mutex<Option<Instant>>,
    probing: tokio::sync::Mutex<()>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(BODIES_KIB as usize)),
            open_bodies: Arc::new(Semaphore::new(OPEN_BODIES)),
            healthy_at: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
        }
    }
}

impl App {
    /// Waits until a body of that many bytes may be read, and holds its room.
    pub(crate) async fn body_room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes == 0 {
            return Ok(None);
        }
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(BODIES_KIB);
        let room = self.guard.bodies.clone().acquire_many_owned(kib);
        match tokio::time::timeout(BODY_WAIT, room).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(ApiError::new(
                ErrorKind::Unavailable,
                "too many large requests are being read at the moment; try again",
            )),
        }
    }

    /// Room to read one more small body of a caller without a credential.
    pub(crate) fn open_body_room(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.guard.open_bodies.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                ErrorKind::Unavailable,
                "too many requests without a credential are being read at the moment; try again",
            )
        })
    }

    /// Whether the store can be read and written; asked of it once a second at most.
    pub(crate) async fn healthy(&self) -> Result<(), ApiError> {
        if let Some(error) = self.evidence.trouble() {
            return Err(error);
        }
        let fresh = || {
            let at = *self.guard.healthy_at.lock().unwrap_or_else(PoisonError::into_inner);
            at.is_some_and(|at| at.elapsed() < HEALTH_HOLDS)
        };
        if fresh() {
            return Ok(());
        }
        let _one = self.guard.probing.lock().await;
        if fresh() {
            return Ok(());
        }
        self.store.probe().await.map_err(|error| ApiError {
            kind: ErrorKind::Unavailable,
            message: "the store cannot be written at the moment; the server's log says why".into(),
            details: None,
            cause: Some(error.into()),
        })?;
        *self.guard.healthy_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }
}
