//! What the plane counts, as Prometheus text (exposition format 0.0.4).
//!
//! One slot per operation, allocated once; counting is a few relaxed additions. Gauges and the store's own counts
//! are read when somebody asks. Labels come from fixed sets, never from what a client sends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::app::App;
use crate::http::{Row, TABLE};

/// Upper bounds of durations, in microseconds and as they are shown in seconds.
const BOUNDS: [(u64, &str); 8] = [
    (1_000, "0.001"),
    (5_000, "0.005"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

/// The classes of statuses that are told apart.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What the plane counts. Cheap to clone; all clones count together.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counts>);

struct Counts {
    /// In the order of the table.
    operations: Box<[OperationCounts]>,
    model: Mutex<BTreeMap<&'static str, Histogram>>,
    events: AtomicU64,
}

#[derive(Default)]
struct OperationCounts {
    by_class: [AtomicU64; CLASSES.len()],
    durations: Histogram,
}

/// Durations by their upper bounds; each counts in its own bucket only until it is shown.
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Counts {
            operations: TABLE.iter().map(|_| OperationCounts::default()).collect(),
            model: Mutex::default(),
            events: AtomicU64::new(0),
        }))
    }

    /// A request was answered. For streams the time is that until the answer began.
    pub(crate) fn request(&self, row: &Row, status: StatusCode, elapsed: Duration) {
        // The table has one row per operation, in the order of the operations.
        let Some(counts) = self.0.operations.get(row.operation as usize) else {
            return;
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        counts.by_class[class].fetch_add(1, Relaxed);
        counts.durations.add(elapsed);
    }

    /// A model request came to its end.
    pub(crate) fn model_request(&self, outcome: &'static str, elapsed: Duration) {
        let mut model = self.0.model.lock().unwrap_or_else(PoisonError::into_inner);
        model.entry(outcome).or_default().add(elapsed);
    }

    /// Events were committed.
    pub(crate) fn events_appended(&self, count: u64) {
        self.0.events.fetch_add(count, Relaxed);
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self, app: &App) -> String {
        let store = app.store.counters();
        let mut out = self.render_counts();
        for (name, kind, help, value) in [
            (
                "event_streams_open",
                "gauge",
                "Event streams that are open.",
                app.hub.open() as u64,
            ),
            (
                "sessions_owned",
                "gauge",
                "Sessions that have an owner in this process.",
                app.sessions.owned() as u64,
            ),
            (
                "store_commits_total",
                "counter",
                "Transactions committed.",
                store.commits,
            ),
            (
                "store_writes_total",
                "counter",
                "Writes asked for; many share a transaction.",
                store.writes,
            ),
            (
                "store_failed_commits_total",
                "counter",
                "Transactions that the database refused.",
                store.failed_commits,
            ),
        ] {
            single(&mut out, name, kind, help, value);
        }
        out
    }

    fn render_counts(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        let operations = || {
            TABLE.iter().zip(&self.0.operations).filter_map(|(row, counts)| {
                let name = format!("{:?}", row.operation);
                counts
                    .by_class
                    .iter()
                    .any(|c| c.load(Relaxed) > 0)
                    .then_some((name, counts))
            })
        };
        header(
            &mut out,
            "http_requests_total",
            "counter",
            "Requests answered, by operation and class of status.",
        );
        for (name, counts) in operations() {
            for (class, count) in CLASSES.iter().zip(&counts.by_class) {
                let count = count.load(Relaxed);
                if count > 0 {
                    line(
                        &mut out,
                        "http_requests_total",
                        &format!("operation=\"{name}\",status=\"{class}\""),
                        count,
                    );
                }
            }
        }
        header(
            &mut out,
            "http_request_duration_seconds",
            "histogram",
            "Time until the answer was ready, or began in case of a stream.",
        );
        for (name, counts) in operations() {
            counts.durations.render(
                &mut out,
                "http_request_duration_seconds",
                &format!("operation=\"{name}\""),
            );
        }
        header(
            &mut out,
            "model_request_duration_seconds",
            "histogram",
            "Model requests by their outcome, with the time that they took.",
        );
        let model = self.0.model.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, durations) in model.iter() {
            durations.render(
                &mut out,
                "model_request_duration_seconds",
                &format!("outcome=\"{outcome}\""),
            );
        }
        drop(model);
        single(
            &mut out,
            "events_appended_total",
            "counter",
            "Events committed to the logs of sessions.",
            self.0.events.load(Relaxed),
        );
        out
    }
}

impl Histogram {
    fn add(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS
            .iter()
            .position(|(bound, _)| micros <= *bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let bounds = BOUNDS.iter().map(|(_, shown)| *shown).chain(["+Inf"]);
        let mut total = 0;
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            total += bucket.load(Relaxed);
            line(
                out,
                &format!("{name}_bucket"),
                &format!("{labels},le=\"{bound}\""),
                total,
            );
        }
        let seconds = self.micros.load(Relaxed) as f64 / 1e6;
        line(out, &format!("{name}_sum"), labels, seconds);
        line(out, &format!("{name}_count"), labels, total);
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP outwork_{name} {help}\n# TYPE outwork_{name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "outwork_{name}{{{labels}}} {value}");
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    header(out, name, kind, help);
    let _ = writeln!(out, "outwork_{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Operation;

    #[test]
    fn every_operation_has_its_own_slot() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.operation as usize, index, "{:?}", row.operation);
        }
    }

    #[test]
    fn what_is_counted_is_shown_and_nothing_else() {
        let metrics = Metrics::new();
        let row = TABLE.iter().find(|r| r.operation == Operation::AgentsCreate).unwrap();
        let other = metrics.clone();
        other.request(row, StatusCode::OK, Duration::from_millis(3));
        other.request(row, StatusCode::OK, Duration::from_secs(90));
        other.request(row, StatusCode::NOT_FOUND, Duration::from_micros(1));
        other.model_request("answered", Duration::from_secs(2));
        other.events_appended(7);
        let text = metrics.render_counts();
        for expected in [
            "outwork_http_requests_total{operation=\"AgentsCreate\",status=\"2xx\"} 2\n",
            "outwork_http_requests_total{operation=\"AgentsCreate\",status=\"4xx\"} 1\n",
            "outwork_http_request_duration_seconds_bucket{operation=\"AgentsCreate\",le=\"0.001\"} 1\n",
            "outwork_http_request_duration_seconds_bucket{operation=\"AgentsCreate\",le=\"60\"} 2\n",
            "outwork_http_request_duration_seconds_bucket{operation=\"AgentsCreate\",le=\"+Inf\"} 3\n",
            "outwork_http_request_duration_seconds_sum{operation=\"AgentsCreate\"} 90.003001\n",
            "outwork_http_request_duration_seconds_count{operation=\"AgentsCreate\"} 3\n",
            "outwork_model_request_duration_seconds_bucket{outcome=\"answered\",le=\"2.5\"} 1\n",
            "outwork_events_appended_total 7\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(!text.contains("AgentsList"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("outwork_") && line.split_whitespace().count() == 2,
                "{line}"
            );
        }
    }
}
