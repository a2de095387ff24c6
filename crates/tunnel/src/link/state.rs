//! What can be watched of a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use outwork_wire::Time;

use crate::frame::RefusedCode;
use crate::transport::Transport;

/// The state of one link, as `Links::status` shows it.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Which link.
    pub index: usize,
    /// The edge address that it uses or tries.
    pub edge: String,
    /// What it does.
    pub state: LinkState,
    /// Since when.
    pub since: Time,
    /// How often it was connected.
    pub connects: u64,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
}

impl LinkStatus {
    /// Whether streams can come in over this link.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, LinkState::Connected { .. })
    }
}

/// What a link does.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkState {
    /// It dials or says hello.
    Connecting,
    /// It carries streams.
    Connected {
        /// How.
        transport: Transport,
        /// The edge's name of the connection.
        connection_id: Arc<str>,
    },
    /// It waits before it dials again.
    Backoff,
    /// The edge refused it; it tries again at the slowest pace, or at once with another token.
    Refused {
        /// The reason.
        code: RefusedCode,
        /// The edge's words.
        message: String,
    },
    /// It takes no more streams and lets the open ones end.
    Draining,
    /// It has ended.
    Stopped,
}

/// Numbers of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that are open now.
    pub in_flight: usize,
    /// Streams that were admitted.
    pub admitted: u64,
    /// Streams that were not.
    pub rejected: u64,
    /// Probes among the admitted.
    pub probes: u64,
    /// The last round trip of a ping.
    pub round_trip: Option<Duration>,
    /// How long ago the last probe came in.
    pub last_probe: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) in_flight: AtomicUsize,
    pub(super) admitted: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) probes: AtomicU64,
    pub(super) round_trip_micros: AtomicU64,
    /// Microseconds since the epoch; 0 before the first.
    pub(super) last_probe: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> Counters {
        let some = |value: u64| Some(value).filter(|&value| value != 0);
        let now = u64::try_from(Time::now().as_micros()).unwrap_or(0);
        Counters {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            admitted: self.admitted.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            probes: self.probes.load(Ordering::Relaxed),
            round_trip: some(self.round_trip_micros.load(Ordering::Relaxed)).map(Duration::from_micros),
            last_probe: some(self.last_probe.load(Ordering::Relaxed))
                .map(|at| Duration::from_micros(now.saturating_sub(at))),
        }
    }

    pub(super) fn probed(&self) {
        self.probes.fetch_add(1, Ordering::Relaxed);
        self.last_probe.store(u64::try_from(Time::now().as_micros()).unwrap_or(0), Ordering::Relaxed);
    }
}
