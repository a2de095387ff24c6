//! What is known about a call while it runs, and its one record when it ends, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::metrics::RouteMetrics;
use crate::record::{Call, Decision, Place};

/// The most of an answer that a record keeps.
const RESULT_MAX: usize = 64 * 1024;

/// A call under way. Dropped, it gives its record: `cut` unless something else was said.
pub struct Trace {
    call: Option<Box<Call>>,
    place: Option<Place>,
    metrics: Arc<RouteMetrics>,
    started: Instant,
    payloads: bool,
}

impl Trace {
    /// A call begins.
    pub fn begin(call: Call, place: Place, metrics: Arc<RouteMetrics>, payloads: bool) -> Trace {
        metrics.under_way.fetch_add(1, Relaxed);
        Trace {
            call: Some(Box::new(call)),
            place: Some(place),
            metrics,
            started: Instant::now(),
            payloads,
        }
    }

    /// What the record will say.
    pub fn call(&mut self) -> &mut Call {
        self.call
            .as_mut()
            .expect("the call is taken out only when the trace is dropped")
    }

    /// How the call ended. Said twice, the last counts.
    pub fn end(&mut self, decision: Decision, rule: Option<&str>) {
        let call = self.call();
        call.decision = decision;
        call.rule = rule.map(str::to_owned);
    }

    /// Whether payloads are recorded.
    pub fn payloads(&self) -> bool {
        self.payloads
    }

    /// Bytes of the answer left.
    pub fn out(&mut self, bytes: &[u8]) {
        let payloads = self.payloads;
        let call = self.call();
        call.bytes_out += bytes.len() as u64;
        if payloads {
            let result = call.result.get_or_insert_default();
            let room = RESULT_MAX.saturating_sub(result.len()).min(bytes.len());
            result.extend_from_slice(&bytes[..room]);
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let (Some(mut call), Some(place)) = (self.call.take(), self.place.take()) else {
            return;
        };
        call.duration = self.started.elapsed();
        self.metrics.under_way.fetch_sub(1, Relaxed);
        self.metrics.bytes_in.fetch_add(call.bytes_in, Relaxed);
        self.metrics.bytes_out.fetch_add(call.bytes_out, Relaxed);
        self.metrics.ended(
            call.decision,
            u64::try_from(call.duration.as_micros()).unwrap_or(u64::MAX),
        );
        tracing::debug!(
            route = call.route,
            method = call.mcp_method,
            tool = call.tool,
            decision = call.decision.as_str(),
            rule = call.rule,
            status = call.status,
            bytes_in = call.bytes_in,
            bytes_out = call.bytes_out,
            micros = call.duration.as_micros(),
            "call"
        );
        place.fill(*call);
    }
}
