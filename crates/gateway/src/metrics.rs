//! Counters, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use crate::record::Decision;

/// What one route counts.
#[derive(Default)]
pub struct RouteMetrics {
    decisions: [AtomicU64; Decision::ALL.len()],
    /// Request bodies from callers.
    pub bytes_in: AtomicU64,
    /// Answers to callers.
    pub bytes_out: AtomicU64,
    /// Calls under way.
    pub under_way: AtomicI64,
    microseconds: AtomicU64,
}

impl RouteMetrics {
    /// A call ended.
    pub fn ended(&self, decision: Decision, microseconds: u64) {
        self.decisions[decision as usize].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(microseconds, Relaxed);
    }

    /// The calls that ended in this way.
    pub fn calls(&self, decision: Decision) -> u64 {
        self.decisions[decision as usize].load(Relaxed)
    }
}

/// What the gateway counts.
#[derive(Default)]
pub struct Metrics {
    routes: RwLock<BTreeMap<String, Arc<RouteMetrics>>>,
    /// Links to the edge that are up.
    pub links: AtomicI64,
    /// Streams of callers that are open.
    pub streams: AtomicI64,
    /// Streams refused before any call: no such route, failed inner TLS, wrong name.
    pub streams_refused: AtomicU64,
    /// Probes answered.
    pub probes: AtomicU64,
    /// Configurations taken over while running.
    pub reloads: AtomicU64,
    /// Configurations or certificates refused while running.
    pub reloads_failed: AtomicU64,
    /// 1 while what is on disk was refused and something older runs.
    pub stale: AtomicU64,
    /// Records that the ledger did not take.
    pub records_failed: AtomicU64,
}

impl Metrics {
    /// The counters of a route. They stay when the route is taken out of the configuration.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        if let Some(route) = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return route.clone();
        }
        self.routes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// All of it.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut plain = |name: &str, kind: &str, help: &str, value: i64| {
            let _ = writeln!(
                out,
                "# HELP outwork_gateway_{name} {help}\n# TYPE outwork_gateway_{name} {kind}"
            );
            let _ = writeln!(out, "outwork_gateway_{name} {value}");
        };
        let count = |counter: &AtomicU64| counter.load(Relaxed).cast_signed();
        plain(
            "links_up",
            "gauge",
            "Links to the edge that are up.",
            self.links.load(Relaxed),
        );
        plain(
            "streams",
            "gauge",
            "Streams of callers that are open.",
            self.streams.load(Relaxed),
        );
        plain(
            "streams_refused_total",
            "counter",
            "Streams refused before any call.",
            count(&self.streams_refused),
        );
        plain("probes_total", "counter", "Probes answered.", count(&self.probes));
        plain(
            "reloads_total",
            "counter",
            "Configurations taken over while running.",
            count(&self.reloads),
        );
        plain(
            "reloads_failed_total",
            "counter",
            "Configurations refused while running.",
            count(&self.reloads_failed),
        );
        plain(
            "config_stale",
            "gauge",
            "1 while what is on disk was refused and something older runs.",
            count(&self.stale),
        );
        plain(
            "records_failed_total",
            "counter",
            "Records that the ledger did not take.",
            count(&self.records_failed),
        );

        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let mut by_route = |name: &str, kind: &str, help: &str, value: &dyn Fn(&RouteMetrics) -> String| {
            let _ = writeln!(
                out,
                "# HELP outwork_gateway_{name} {help}\n# TYPE outwork_gateway_{name} {kind}"
            );
            for (route, metrics) in routes.iter() {
                let _ = writeln!(out, "outwork_gateway_{name}{{route=\"{route}\"}} {}", value(metrics));
            }
        };
        by_route("bytes_in_total", "counter", "Bytes of requests.", &|route| {
            route.bytes_in.load(Relaxed).to_string()
        });
        by_route("bytes_out_total", "counter", "Bytes of answers.", &|route| {
            route.bytes_out.load(Relaxed).to_string()
        });
        by_route("calls_under_way", "gauge", "Calls under way.", &|route| {
            route.under_way.load(Relaxed).to_string()
        });
        by_route("call_seconds_total", "counter", "Time that calls took.", &|route| {
            let micros = route.microseconds.load(Relaxed);
            format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
        });
        let _ = writeln!(
            out,
            "# HELP outwork_gateway_calls_total Calls by decision.\n# TYPE outwork_gateway_calls_total counter"
        );
        for (route, metrics) in routes.iter() {
            for decision in Decision::ALL {
                let _ = writeln!(
                    out,
                    "outwork_gateway_calls_total{{route=\"{route}\",decision=\"{}\"}} {}",
                    decision.as_str(),
                    metrics.calls(decision)
                );
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_prometheus_does() {
        let metrics = Metrics::default();
        metrics.links.store(2, Relaxed);
        metrics.route("wiki").ended(Decision::Refused, 1_500_000);
        let text = metrics.render();
        assert!(text.contains("outwork_gateway_links_up 2\n"));
        assert!(text.contains("outwork_gateway_calls_total{route=\"wiki\",decision=\"refused\"} 1\n"));
        assert!(text.contains("outwork_gateway_call_seconds_total{route=\"wiki\"} 1.500000\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.rsplit_once(' ')
                    .is_some_and(|(_, value)| value.parse::<f64>().is_ok()),
                "{line}"
            );
        }
    }
}
