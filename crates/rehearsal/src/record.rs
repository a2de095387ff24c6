//! The requests that the server received, for tests: a ring that forgets its oldest entries.
//!
//! Keys and tokens are not recorded.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most entries.
const ENTRIES: usize = 10_000;
/// Most bytes of bodies.
const BODY_BYTES: usize = 16 << 20;

/// One request as it was received.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// Counts from 1 since the server started.
    pub number: u64,
    /// When it was received.
    pub received_at: jiff::Timestamp,
    /// The `request-id` header of the answer.
    pub request_id: String,
    /// Address of the client; one connection has one.
    pub peer: SocketAddr,
    /// The path.
    pub path: String,
    /// The headers, without those that carry keys.
    pub headers: BTreeMap<String, String>,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// Status of the answer.
    pub status: u16,
    /// The play, if one was found.
    pub play: Option<String>,
    /// The scene, from 1.
    pub scene: Option<usize>,
    /// The step of the scene, from 1.
    pub step: Option<usize>,
    /// What happened: `answer`, `astray` (the play did not go as written), `refused`, or `fault`.
    pub outcome: String,
    /// The message of a refusal.
    pub refusal: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Ring {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<(usize, RecordedRequest)>,
    bytes: usize,
    last: u64,
}

impl Ring {
    pub(crate) fn push(&self, size: usize, mut request: RecordedRequest) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last += 1;
        request.number = inner.last;
        inner.bytes += size;
        inner.entries.push_back((size, request));
        while inner.entries.len() > ENTRIES || (inner.bytes > BODY_BYTES && inner.entries.len() > 1) {
            let Some((size, _)) = inner.entries.pop_front() else {
                break;
            };
            inner.bytes -= size;
        }
    }

    pub(crate) fn after(&self, number: u64) -> Vec<RecordedRequest> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .entries
            .iter()
            .filter(|(_, request)| request.number > number)
            .map(|(_, request)| request.clone())
            .collect()
    }
}

/// The headers that may be recorded.
pub(crate) fn public_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let secret = ["x-api-key", "authorization", "cookie", "proxy-authorization"];
    headers
        .iter()
        .filter(|(name, _)| !secret.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
