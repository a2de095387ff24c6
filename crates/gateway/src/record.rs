//! One record for each call, and the way of records to where they are kept.
//!
//! A call takes its place in the queue before anything is sent upstream and gives its record when it ends, so a record
//! cannot be lost for want of room. When records cannot be kept, new calls are refused: what leaves no evidence does not
//! happen. Arguments and results are in a record only where the owner asked for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Calls that can be under way at once. Each holds its place for its record.
const UNDER_WAY: usize = 65_536;
/// How long a call waits for a place.
const WAIT: Duration = Duration::from_secs(1);
/// How long records of one burst are gathered behind the first of them, so that the recorder is not woken, and the disk
/// not flushed, for each.
const GATHER: Duration = Duration::from_millis(5);
/// What is taken out of the queue at once.
const BATCH: usize = 1024;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It went to its server, and the answer to the caller.
    Allowed,
    /// A rule refused it.
    Refused,
    /// The server could not be reached, or its answer could not be passed on.
    Failed,
    /// It ended before its answer did: the caller left, the route was killed, the gateway stopped.
    Cut,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Decision; 4] = [Decision::Allowed, Decision::Refused, Decision::Failed, Decision::Cut];

    /// The name in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Allowed => "allowed",
            Decision::Refused => "refused",
            Decision::Failed => "failed",
            Decision::Cut => "cut",
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it began.
    pub at: jiff::Timestamp,
    /// The tunnel.
    pub tunnel: Option<String>,
    /// The host that was called.
    pub hostname: String,
    /// The route's name.
    pub route: String,
    /// The method of HTTP; `None` on a raw route.
    pub http_method: Option<String>,
    /// The method of MCP.
    pub mcp_method: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// The workspace of the verified identity.
    pub workspace: Option<String>,
    /// The agent of the verified identity.
    pub agent: Option<String>,
    /// Its version.
    pub agent_version: Option<String>,
    /// The session of the verified identity, or a digest of the MCP session's id.
    pub session: Option<String>,
    /// How it ended.
    pub decision: Decision,
    /// The rule or step that decided; `allowed` calls name an approval that they needed.
    pub rule: Option<String>,
    /// The name of the approval that let it pass.
    pub approval: Option<String>,
    /// Who gave it.
    pub approver: Option<String>,
    /// The status of HTTP.
    pub status: Option<u16>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// How long it took.
    pub duration: Duration,
    /// Arguments, where the owner asked for them.
    pub arguments: Option<Vec<u8>>,
    /// The answer, where the owner asked for it: its beginning.
    pub result: Option<Vec<u8>>,
}

/// Keeps records.
pub trait Recorder: Send + Sync + 'static {
    /// Takes a record for good, waiting for room if need be; or says why not.
    fn record(&self, call: Call) -> BoxFuture<'_, Result<(), String>>;
    /// Whether records can be kept now.
    fn healthy(&self) -> bool;
    /// Waits until everything that was taken is kept.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Whether arguments and results are wanted.
    fn wants_payloads(&self) -> bool;
}

/// Keeps nothing: the owner set no ledger.
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn record(&self, _: Call) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn healthy(&self) -> bool {
        true
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn wants_payloads(&self) -> bool {
        false
    }
}

/// The queue to a recorder.
pub struct Journal {
    recorder: Arc<dyn Recorder>,
    queue: mpsc::Sender<Call>,
    /// The last record was not taken.
    failing: Arc<AtomicBool>,
}

/// A place in the queue: one record.
pub struct Place(mpsc::OwnedPermit<Call>);

impl Place {
    /// Gives the record.
    pub fn fill(self, call: Call) {
        self.0.send(call);
    }
}

impl Journal {
    /// A queue to `recorder`, and the task that empties it until every place is filled or given back.
    pub fn new(recorder: Arc<dyn Recorder>, metrics: Arc<Metrics>) -> (Journal, impl Future<Output = ()> + Send) {
        let (queue, mut calls) = mpsc::channel(UNDER_WAY);
        let failing = Arc::new(AtomicBool::new(false));
        let journal = Journal {
            recorder: recorder.clone(),
            queue,
            failing: failing.clone(),
        };
        let work = async move {
            let mut some = Vec::new();
            loop {
                let taken = calls.recv_many(&mut some, BATCH).await;
                if taken == 0 {
                    break;
                }
                for call in some.drain(..) {
                    let taken = recorder.record(call).await;
                    if let Err(reason) = &taken {
                        metrics.records_failed.fetch_add(1, Relaxed);
                        if !failing.load(Relaxed) {
                            tracing::error!(%reason, "the ledger takes no records: calls are refused until it does");
                        }
                    }
                    failing.store(taken.is_err(), Relaxed);
                }
                if taken < BATCH && !calls.is_closed() {
                    tokio::time::sleep(GATHER).await;
                }
            }
            if let Err(reason) = recorder.flush().await {
                tracing::error!(%reason, "the last records may not be in the ledger");
            }
        };
        (journal, work)
    }

    /// A place for a call, or `None` when its record could not be kept.
    pub async fn place(&self) -> Option<Place> {
        if !self.recorder.healthy() {
            return None;
        }
        let queue = self.queue.clone();
        match self.queue.clone().try_reserve_owned() {
            Ok(permit) => Some(Place(permit)),
            Err(_) => tokio::time::timeout(WAIT, queue.reserve_owned())
                .await
                .ok()?
                .ok()
                .map(Place),
        }
    }

    /// Whether arguments and results are wanted.
    pub fn wants_payloads(&self) -> bool {
        self.recorder.wants_payloads()
    }

    /// Whether records are being kept.
    pub fn healthy(&self) -> bool {
        self.recorder.healthy() && !self.failing.load(Relaxed)
    }
}
