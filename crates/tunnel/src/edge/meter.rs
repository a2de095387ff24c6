//! How much passed, by tunnel and host.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What passed to one host of one tunnel since the edge started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The tunnel.
    pub tunnel_id: String,
    /// The host, or `*` for all hosts above the limit.
    pub host: String,
    /// Streams that a gateway accepted.
    pub streams: u64,
    /// Streams that are open now.
    pub open: usize,
    /// Bytes that were taken for the gateway.
    pub sent: u64,
    /// Bytes that came from the gateway and were read.
    pub received: u64,
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) streams: AtomicU64,
    pub(super) open: AtomicUsize,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

const OTHERS: &str = "*";

/// The meters of a tunnel, bounded in number.
#[derive(Debug, Default)]
pub(super) struct Meters(RwLock<HashMap<Box<str>, Arc<Meter>>>);

impl Meters {
    pub(super) fn of(&self, host: &str, limit: usize) -> Arc<Meter> {
        // A map is whole whatever panicked beside it.
        if let Some(meter) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(host) {
            return meter.clone();
        }
        let mut meters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = if meters.len() < limit || meters.contains_key(host) { host } else { OTHERS };
        meters.entry(key.into()).or_default().clone()
    }

    pub(super) fn read(&self, tunnel_id: &str) -> Vec<Usage> {
        let meters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Usage> = meters
            .iter()
            .map(|(host, meter)| Usage {
                tunnel_id: tunnel_id.to_owned(),
                host: host.to_string(),
                streams: meter.streams.load(Ordering::Relaxed),
                open: meter.open.load(Ordering::Relaxed),
                sent: meter.sent.load(Ordering::Relaxed),
                received: meter.received.load(Ordering::Relaxed),
            })
            .collect();
        all.sort_by(|a, b| a.host.cmp(&b.host));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_above_the_limit_share_a_meter() {
        let meters = Meters::default();
        for at in 0..10 {
            meters.of(&format!("h{at}"), 3).streams.fetch_add(1, Ordering::Relaxed);
        }
        meters.of("h0", 3).streams.fetch_add(1, Ordering::Relaxed);
        let usage = meters.read("tnl_1");
        let streams: Vec<_> = usage.iter().map(|u| (u.host.as_str(), u.streams)).collect();
        assert_eq!(streams, [("*", 7), ("h0", 2), ("h1", 1), ("h2", 1)]);
    }
}
