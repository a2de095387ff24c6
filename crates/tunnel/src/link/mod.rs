//! The gateway's side: connections that dial out to the edge and carry streams in.
//!
//! Each of at least two links lives by itself: it dials, says hello, serves, is found dead by its own heartbeat, and
//! dials again. What a stream carries is decided by an [`Accept`]. A link refuses an edge that it does not trust, and
//! streams while it drains; it takes no stream that its handler did not admit.
//!
//! Invariants: the token is sent only inside TLS to a verified edge; a refused token is reported at once and tried again
//! at the slowest pace; every task ends with [`Links`].

mod dial;
mod inbound;
mod options;
mod run;
mod serve;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::inbound::{Inbound, echo};
pub use self::options::{EdgeAddress, Mode, Options};
pub use self::state::{Counters, LinkState, LinkStatus};
use crate::frame::{Open, Rejection};
use crate::tls::TlsError;

/// What keeps links from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address was given.
    #[error("no edge address is given: at least one `host:port` is needed")]
    NoAddress,
    /// An address has another form.
    #[error("`{0}` is not the address of an edge: `host:port` is expected")]
    Address(String),
    /// No connection was asked for.
    #[error("`connections` must be between 1 and 64")]
    Connections,
    /// A text of the hello is too long for its field.
    #[error("the tunnel's id, the token, the instance or the software version is empty or too long: {0}")]
    Hello(#[from] crate::frame::FrameError),
    /// The trust can not be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Decides about streams and serves them: the gateway proper.
pub trait Accept: Send + Sync + 'static {
    /// Whether a stream is taken; called on the connection's task, so it decides from memory. No payload byte passes
    /// before it said yes.
    fn admit(&self, open: &Open) -> Result<(), Rejection>;

    /// Serves a stream that was admitted, until it ends. The future runs in a task of its own and is dropped at the
    /// deadline of a drain. A probe must be answered by [`echo`], or by whatever tests more of the handler and sends
    /// back what it gets.
    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()>;
}

/// The connections of a gateway.
pub struct Links {
    shared: Arc<run::Shared>,
    tracker: TaskTracker,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("status", &*self.shared.status.borrow()).finish_non_exhaustive()
    }
}

impl Links {
    /// Starts dialling. Must be called in a Tokio runtime; everything ends when the value is dropped.
    pub fn start(options: Options, accept: Arc<dyn Accept>) -> Result<Self, Error> {
        let shared = run::Shared::new(options, accept)?;
        let tracker = TaskTracker::new();
        for index in 0..shared.options.connections {
            tracker.spawn(run::link(shared.clone(), index, tracker.clone()));
        }
        Ok(Self { shared, tracker })
    }

    /// The state of every link, for readiness and metrics; changes wake the receiver.
    pub fn status(&self) -> watch::Receiver<Vec<LinkStatus>> {
        self.shared.status.subscribe()
    }

    /// Numbers of every link, which wake nobody.
    pub fn counters(&self) -> Vec<Counters> {
        self.shared.counters()
    }

    /// Another token from now on: links that were refused try at once, live ones go on.
    pub fn set_token(&self, token: SecretString) -> Result<(), Error> {
        self.shared.set_token(token)
    }

    /// Stops accepting, tells the edge, lets streams end until `limit` has passed, then closes what is left. Returns
    /// how many streams were cut.
    pub async fn drain(self, limit: Duration) -> usize {
        self.shared.draining.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(limit, self.tracker.wait()).await;
        let cut = if ended.is_ok() { 0 } else { self.shared.in_flight() };
        self.shared.stopped.cancel();
        // Everything waits for that token, so this ends by itself; the bound is for a handler that blocks its thread.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        cut
    }

    /// A token that is cancelled when the links end.
    pub fn stopped(&self) -> CancellationToken {
        self.shared.stopped.child_token()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

/// Where a stream came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Which link carried it.
    pub link: usize,
    /// The edge's name of the connection.
    pub connection_id: Arc<str>,
    /// The edge's address.
    pub edge: SocketAddr,
}
