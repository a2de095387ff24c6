//! What the sources of a bundle say of each other: records against the event log, records against documents.
//!
//! The worker records the hash of a call's input and output where they cross; the plane keeps the call in its event
//! log. If somebody changed the log before it was sealed, the two do not agree, and that is a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::write::DocumentKind;
use crate::entry::Receipt;
use crate::hash::Hash;
use crate::kind::Kind;
use crate::record::Record;

/// Something that the sources of a bundle say against each other, or that is missing to compare them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The event log does not begin with what a record says that it had.
    LogDiffers {
        /// The ledger.
        ledger: String,
        /// The record.
        sequence: u64,
        /// How many events it is about.
        events: u64,
    },
    /// A record is about more events than there are.
    LogShort {
        /// The ledger.
        ledger: String,
        /// The record.
        sequence: u64,
        /// How many events it is about.
        events: u64,
    },
    /// The last events are covered by no record of the log's hash.
    LogUncovered {
        /// How many.
        events: u64,
    },
    /// The input of a call in the event log is not the one that was recorded.
    InputDiffers {
        /// The ledger.
        ledger: String,
        /// The record.
        sequence: u64,
        /// The call.
        call: String,
    },
    /// The output of a call in the event log is not the one that was recorded.
    OutputDiffers {
        /// The ledger.
        ledger: String,
        /// The record.
        sequence: u64,
        /// The call.
        call: String,
    },
    /// A record is about a call that the event log does not have.
    CallNotInLog {
        /// The ledger.
        ledger: String,
        /// The record.
        sequence: u64,
        /// The call.
        call: String,
    },
    /// The event log has a call with a result, and no ledger recorded it.
    CallNotRecorded {
        /// The call.
        call: String,
    },
    /// Records name a policy that is not in the bundle.
    PolicyMissing {
        /// Its hash.
        hash: Hash,
        /// How many records do.
        records: u64,
    },
    /// No record names this policy.
    PolicyUnused {
        /// The name of the document.
        document: String,
    },
    /// No record names this image.
    ImageUnused {
        /// The name of the document.
        document: String,
    },
    /// Records lack what their kind demands.
    Incomplete {
        /// The ledger.
        ledger: String,
        /// The first of them.
        sequence: u64,
        /// The kind.
        kind: Kind,
        /// What is missing.
        missing: String,
        /// How many records.
        records: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogDiffers {
                ledger,
                sequence,
                events,
            } => write!(
                f,
                "the first {events} events are not those whose hash the ledger {ledger} recorded in line {sequence}: the event log was changed"
            ),
            Self::LogShort {
                ledger,
                sequence,
                events,
            } => write!(
                f,
                "the ledger {ledger} recorded {events} events in line {sequence}, and the event log has fewer"
            ),
            Self::LogUncovered { events } => {
                write!(f, "the last {events} events are covered by no recorded hash of the log")
            }
            Self::InputDiffers { ledger, sequence, call } => write!(
                f,
                "the input of the call {call} in the event log is not the one that the ledger {ledger} recorded in line {sequence}"
            ),
            Self::OutputDiffers { ledger, sequence, call } => write!(
                f,
                "the output of the call {call} in the event log is not the one that the ledger {ledger} recorded in line {sequence}"
            ),
            Self::CallNotInLog { ledger, sequence, call } => write!(
                f,
                "the ledger {ledger} recorded the call {call} in line {sequence}, and the event log does not have it"
            ),
            Self::CallNotRecorded { call } => {
                write!(
                    f,
                    "the event log has the call {call} with a result, and no ledger recorded it"
                )
            }
            Self::PolicyMissing { hash, records } => {
                write!(
                    f,
                    "{records} records name the policy {hash}, which is not in the bundle"
                )
            }
            Self::PolicyUnused { document } => write!(f, "no record names the policy `{document}`"),
            Self::ImageUnused { document } => write!(f, "no record names the image `{document}` as what it ran"),
            Self::Incomplete {
                ledger,
                sequence,
                kind,
                missing,
                records,
            } => write!(
                f,
                "{records} records of the kind {} in the ledger {ledger}, from line {sequence} on, lack {missing}",
                kind.name()
            ),
        }
    }
}

#[derive(Deserialize)]
struct EventLine<'a> {
    #[serde(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    tool_use_id: Option<String>,
    mcp_tool_use_id: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// The hashes by which something may have been recorded: of its one form, and of its bytes as they are.
#[derive(Debug, Clone, Copy)]
struct Either(Hash, Hash);

impl Either {
    fn of(raw: &RawValue) -> Self {
        let value = serde_json::from_str(raw.get()).unwrap_or_default();
        Self(Hash::of_json(&value), Hash::of(raw.get().as_bytes()))
    }

    fn is(self, hash: Hash) -> bool {
        hash == self.0 || hash == self.1
    }
}

struct Recorded {
    ledger: String,
    sequence: u64,
    call: String,
    input: Option<Hash>,
    output: Option<Hash>,
    is_tool: bool,
}

struct LogRecord {
    ledger: String,
    sequence: u64,
    events: u64,
    hash: Hash,
}

/// Collects while a bundle is read: ledgers come first, then documents, then events.
#[derive(Default)]
pub(crate) struct Cross {
    calls: Vec<Recorded>,
    logs: Vec<LogRecord>,
    policies: BTreeMap<Hash, u64>,
    incomplete: BTreeMap<(String, Kind, String), (u64, u64)>,
    documents: Vec<(String, Hash)>,
    images: BTreeSet<String>,
    image_documents: Vec<(String, Hash)>,
    used: HashMap<String, Either>,
    results: HashMap<String, Either>,
    digest: Sha256,
    events: u64,
    matched: u64,
    prefix: BTreeMap<u64, Hash>,
    findings: Vec<Finding>,
}

impl Cross {
    pub(crate) fn record(&mut self, ledger: &str, receipt: Receipt, record: &Record) {
        let sequence = receipt.sequence;
        if let Some(hash) = record.policy_hash {
            *self.policies.entry(hash).or_default() += 1;
        }
        if let Some(digest) = &record.image_digest {
            self.images.insert(digest.clone());
        }
        let missing = record.missing();
        if !missing.is_empty() {
            let key = (ledger.to_owned(), record.kind, missing.join(", "));
            self.incomplete.entry(key).or_insert((sequence, 0)).1 += 1;
        }
        if let (Kind::SessionLog, Some(events), Some(hash)) = (record.kind, record.events, record.output_hash) {
            self.logs.push(LogRecord {
                ledger: ledger.to_owned(),
                sequence,
                events,
                hash,
            });
        }
        let is_tool = record.kind == Kind::ToolCall;
        if let (true, Some(call)) = (is_tool || record.kind == Kind::McpCall, &record.call) {
            self.calls.push(Recorded {
                ledger: ledger.to_owned(),
                sequence,
                call: call.clone(),
                input: record.input_hash,
                output: record.output_hash,
                is_tool,
            });
        }
    }

    pub(crate) fn document(&mut self, name: &str, kind: DocumentKind, hash: Hash) {
        match kind {
            DocumentKind::Policy => self.documents.push((name.to_owned(), hash)),
            DocumentKind::Image => self.image_documents.push((name.to_owned(), hash)),
            DocumentKind::Other => {}
        }
    }

    pub(crate) fn event(&mut self, line: &[u8]) {
        if self.events == 0 {
            let wanted = self.logs.iter().map(|log| (log.events, Hash::ZERO));
            self.prefix = wanted.collect();
        }
        self.digest.update(line);
        self.digest.update(b"\n");
        self.events += 1;
        if let Some(hash) = self.prefix.get_mut(&self.events) {
            *hash = Hash::from_bytes(self.digest.clone().finalize().into());
        }
        let Ok(event) = serde_json::from_slice::<EventLine<'_>>(line) else {
            return;
        };
        match (event.event_type.as_deref(), event.id) {
            (Some("agent.tool_use" | "agent.mcp_tool_use"), Some(id)) => {
                if let Some(input) = event.input {
                    self.used.insert(id, Either::of(input));
                }
            }
            (Some("agent.tool_result" | "user.tool_result" | "agent.mcp_tool_result"), _) => {
                if let (Some(id), Some(content)) = (event.tool_use_id.or(event.mcp_tool_use_id), event.content) {
                    self.results.insert(id, Either::of(content));
                }
            }
            _ => {}
        }
    }

    /// How many calls are the same in the event log and in a ledger, and what is not as it should be.
    pub(crate) fn finish(mut self) -> (u64, Vec<Finding>) {
        self.against_log();
        if self.events > 0 {
            self.against_calls();
        }
        let held: BTreeSet<Hash> = self.documents.iter().map(|(_, hash)| *hash).collect();
        for (hash, records) in &self.policies {
            if !held.contains(hash) {
                self.findings.push(Finding::PolicyMissing {
                    hash: *hash,
                    records: *records,
                });
            }
        }
        for (document, hash) in self.documents {
            if !self.policies.contains_key(&hash) {
                self.findings.push(Finding::PolicyUnused { document });
            }
        }
        for (document, hash) in self.image_documents {
            if !self.images.contains(&format!("sha256:{hash}")) {
                self.findings.push(Finding::ImageUnused { document });
            }
        }
        for ((ledger, kind, missing), (sequence, records)) in self.incomplete {
            self.findings.push(Finding::Incomplete {
                ledger,
                sequence,
                kind,
                missing,
                records,
            });
        }
        (self.matched, self.findings)
    }

    fn against_log(&mut self) {
        let mut covered = 0;
        for log in &self.logs {
            covered = covered.max(log.events);
            let (ledger, sequence, events) = (log.ledger.clone(), log.sequence, log.events);
            if self.events == 0 && events > 0 || events > self.events {
                self.findings.push(Finding::LogShort {
                    ledger,
                    sequence,
                    events,
                });
            } else if events > 0 && self.prefix.get(&events) != Some(&log.hash) {
                self.findings.push(Finding::LogDiffers {
                    ledger,
                    sequence,
                    events,
                });
            }
        }
        if self.events > covered {
            self.findings.push(Finding::LogUncovered {
                events: self.events - covered,
            });
        }
    }

    fn against_calls(&mut self) {
        let mut seen = BTreeSet::new();
        for recorded in &self.calls {
            seen.insert(recorded.call.clone());
            let place = (recorded.ledger.clone(), recorded.sequence, recorded.call.clone());
            let Some(input) = self.used.get(&recorded.call) else {
                // Calls of MCP servers are also recorded under the ids of requests, which the log does not have.
                if recorded.is_tool {
                    let (ledger, sequence, call) = place;
                    self.findings.push(Finding::CallNotInLog { ledger, sequence, call });
                }
                continue;
            };
            let is_input = recorded.input.is_none_or(|hash| input.is(hash));
            let output = self.results.get(&recorded.call);
            let is_output = match (recorded.output, output) {
                (Some(hash), Some(output)) => output.is(hash),
                _ => true,
            };
            if !is_input {
                let (ledger, sequence, call) = place.clone();
                self.findings.push(Finding::InputDiffers { ledger, sequence, call });
            }
            if !is_output {
                let (ledger, sequence, call) = place;
                self.findings.push(Finding::OutputDiffers { ledger, sequence, call });
            }
            if is_input && is_output && recorded.input.is_some() {
                self.matched += 1;
            }
        }
        let mut silent: Vec<&String> = self.results.keys().filter(|call| !seen.contains(*call)).collect();
        silent.retain(|call| self.used.contains_key(*call));
        silent.sort();
        let silent = silent
            .into_iter()
            .map(|call| Finding::CallNotRecorded { call: call.clone() });
        self.findings.extend(silent);
    }
}
