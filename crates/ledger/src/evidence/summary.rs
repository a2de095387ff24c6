//! What the records of a session amount to, for the report.

use std::collections::BTreeMap;

use outwork_wire::Time;

use crate::entry::Receipt;
use crate::kind::{Decision, Kind};
use crate::record::Record;

/// So many rows of a table are kept; the rest is counted.
const MAX_ROWS: usize = 1000;

/// Rows, and how many more there were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The first of them.
    pub rows: Vec<T>,
    /// How many follow.
    pub more: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            more: 0,
        }
    }
}

impl<T> Listed<T> {
    fn push(&mut self, row: T) {
        if self.rows.len() < MAX_ROWS {
            self.rows.push(row);
        } else {
            self.more += 1;
        }
    }
}

/// A record that is worth a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The ledger.
    pub ledger: String,
    /// Its place.
    pub receipt: Receipt,
    /// What it says.
    pub record: Record,
}

/// How often something was let through, refused, and not successful.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that say allowed, or nothing.
    pub allowed: u64,
    /// Records that say denied.
    pub denied: u64,
    /// Records that say failed.
    pub failed: u64,
}

impl Tally {
    fn add(&mut self, decision: Option<Decision>) {
        match decision {
            Some(Decision::Denied) => self.denied += 1,
            Some(Decision::Failed) => self.failed += 1,
            Some(Decision::Allowed) | None => self.allowed += 1,
        }
    }
}

/// What went to one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Destination {
    /// How often.
    pub tally: Tally,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
}

/// The records of a session in figures and tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The first time that a record names, and the last.
    pub span: Option<(Time, Time)>,
    /// By kind.
    pub kinds: BTreeMap<Kind, Tally>,
    /// By destination: connections, requests, names, calls of MCP servers.
    pub destinations: BTreeMap<String, Destination>,
    /// How many destinations are not listed.
    pub more_destinations: u64,
    /// Credentials: name and method, and how often used.
    pub credentials: BTreeMap<(String, String), Tally>,
    /// Agents, with their versions.
    pub agents: BTreeMap<String, u64>,
    /// Workers.
    pub workers: BTreeMap<String, u64>,
    /// Images, by digest.
    pub images: BTreeMap<String, u64>,
    /// Policies, by hash.
    pub policies: BTreeMap<String, u64>,
    /// What was refused.
    pub denied: Listed<Row>,
    /// Files that came in or went out.
    pub files: Listed<Row>,
    /// Approvals.
    pub approvals: Listed<Row>,
    /// Stops.
    pub stops: Listed<Row>,
    /// All records, in the order of each ledger.
    pub records: Listed<Row>,
}

fn count<K: Ord>(map: &mut BTreeMap<K, u64>, key: K) {
    if map.len() < MAX_ROWS || map.contains_key(&key) {
        *map.entry(key).or_default() += 1;
    }
}

impl Summary {
    pub(crate) fn add(&mut self, ledger: &str, receipt: Receipt, record: &Record) {
        let (first, last) = self.span.unwrap_or((record.at, record.at));
        self.span = Some((first.min(record.at), last.max(record.at)));
        self.kinds.entry(record.kind).or_default().add(record.decision);
        if let Some(place) = record.destination.as_ref().or(record.hostname.as_ref()) {
            if self.destinations.len() < MAX_ROWS || self.destinations.contains_key(place) {
                let to = self.destinations.entry(place.clone()).or_default();
                to.tally.add(record.decision);
                to.bytes_in += record.bytes_in.unwrap_or(0);
                to.bytes_out += record.bytes_out.unwrap_or(0);
            } else {
                self.more_destinations += 1;
            }
        }
        if let Some(credential) = &record.credential {
            let name = credential.name.as_ref().or(credential.id.as_ref()).cloned();
            let key = (name.unwrap_or_default(), credential.method.clone().unwrap_or_default());
            if self.credentials.len() < MAX_ROWS || self.credentials.contains_key(&key) {
                self.credentials.entry(key).or_default().add(record.decision);
            }
        }
        if let Some(agent) = &record.agent {
            let version = agent
                .version
                .map_or_else(String::new, |version| format!(" version {version}"));
            count(&mut self.agents, format!("{}{version}", agent.id));
        }
        if let Some(worker) = &record.worker {
            count(&mut self.workers, worker.clone());
        }
        if let Some(image) = &record.image_digest {
            count(&mut self.images, image.clone());
        }
        if let Some(policy) = record.policy_hash {
            count(&mut self.policies, policy.to_string());
        }
        // Payloads have no place in a report.
        let mut record = record.clone();
        record.input = None;
        record.output = None;
        let row = Row {
            ledger: ledger.to_owned(),
            receipt,
            record,
        };
        if row.record.decision == Some(Decision::Denied) {
            self.denied.push(row.clone());
        }
        match row.record.kind {
            Kind::FileIn | Kind::FileOut => self.files.push(row.clone()),
            Kind::Approval => self.approvals.push(row.clone()),
            Kind::Stop => self.stops.push(row.clone()),
            _ => {}
        }
        self.records.push(row);
    }
}
