//! What became of one request, seen from below the SDK.
//!
//! A trace travels inside the request through the SDK to the HTTP client, which writes into it; the caller reads it.
//! That is how a failure keeps its kind, and how the caller learns whether a byte of the request may have left.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::HttpError;

/// The record of one request.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<State>);

#[derive(Debug)]
struct State {
    call_id: Option<String>,
    sent: AtomicBool,
    failure: Mutex<Option<HttpError>>,
    failed: CancellationToken,
}

impl Trace {
    pub(crate) fn new(call_id: Option<String>) -> Self {
        Self(Arc::new(State {
            call_id,
            sent: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: CancellationToken::new(),
        }))
    }

    pub(crate) fn call_id(&self) -> Option<&str> {
        self.0.call_id.as_deref()
    }

    /// Whether the server may have taken the request up.
    pub(crate) fn sent(&self) -> bool {
        self.0.sent.load(Ordering::SeqCst)
    }

    /// The request is about to be written.
    pub(crate) fn sending(&self) {
        self.0.sent.store(true, Ordering::SeqCst);
    }

    /// The server said that it did not take the request.
    pub(crate) fn declined(&self) {
        self.0.sent.store(false, Ordering::SeqCst);
    }

    /// The request has failed; the first failure stays.
    pub(crate) fn fail(&self, error: &HttpError) {
        self.0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| error.clone());
        self.0.failed.cancel();
    }

    /// Waits for a failure.
    pub(crate) async fn failed(&self) -> HttpError {
        self.0.failed.cancelled().await;
        let failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.unwrap_or_else(|| HttpError::connection("the request failed"))
    }

    /// The failure, if there is one already.
    pub(crate) fn failure(&self) -> Option<HttpError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
