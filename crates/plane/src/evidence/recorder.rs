//! What a session's log says, as records: calls that are let through, what came of them, approvals, stops, the end, and
//! the hash of the log itself.
//!
//! The owner of a session asks for the records of what it is about to commit, has them recorded, and commits. Who
//! caused an event is not in the log; the owner says so ([`Recorder::caused`]) before.

use std::collections::{HashMap, VecDeque};

use outwork_ledger::{Decision, Hash, Kind, Record, Scope, Stop};
use outwork_wire::agent::McpServer;
use outwork_wire::event::{Decision as Answer, EvaluatedPermission};
use outwork_wire::id::EventId;
use outwork_wire::log::LogEntry;
use outwork_wire::{Event, EventBody};
use sha2::{Digest, Sha256};
use url::Url;

use super::Subject;
use super::calls::{Calls, Known, output_hash, result};

/// The method of MCP that calls a tool.
const TOOLS_CALL: &str = "tools/call";
/// Who it was, where nobody knows any more: the server was restarted in between.
const UNKNOWN: &str = "unknown";

/// Why an event is there.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// Somebody sent it.
    Sent(String),
    /// It belongs to an order, which is recorded itself.
    Ordered,
}

/// Somebody ordered a stop.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) scope: Scope,
    pub(crate) forced: bool,
    pub(crate) ended: Vec<String>,
}

impl Order {
    /// What a ledger keeps of it.
    pub(crate) fn record(self, subject: &Subject) -> Record {
        subject
            .record(Kind::Stop)
            .actor(self.actor)
            .reason(self.reason)
            .stop(Stop {
                scope: self.scope,
                forced: self.forced,
                ended: self.ended,
                processes: None,
            })
    }
}

/// The records of one commit.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// What the commit lets through: to be on disk before it.
    pub(crate) cross: Vec<Record>,
    /// What came back with it: to be queued before it, unless it [`ends`](Self::ends) something.
    pub(crate) note: VecDeque<Record>,
    /// What it ends or denies, whether that can be recorded or not.
    pub(crate) tell: Vec<Record>,
    /// Whether the commit carries out a stop: the ledger then does not hold up its results either.
    pub(crate) ends: bool,
}

/// Makes the records of one session.
#[derive(Default)]
pub(crate) struct Recorder {
    calls: Calls,
    causes: HashMap<EventId, Cause>,
    orders: Vec<Order>,
    log: Option<LogHash>,
}

impl Recorder {
    /// For a session with this log.
    pub(crate) fn of_log<'e>(entries: impl Iterator<Item = &'e LogEntry> + Clone) -> Self {
        Self {
            calls: Calls::of_log(entries),
            ..Self::default()
        }
    }

    /// Says who caused events that were taken in: for a confirmation its call is named, for an interrupt the event.
    pub(crate) fn caused(&mut self, events: &[Event], cause: &Cause) {
        for event in events {
            let id = match &event.body {
                EventBody::UserToolConfirmation { tool_use_id, .. } => tool_use_id,
                EventBody::UserInterrupt { .. } => &event.id,
                _ => continue,
            };
            self.causes.insert(id.clone(), cause.clone());
        }
    }

    /// Notes an order for the next commit.
    pub(crate) fn ordered(&mut self, order: Order) {
        self.orders.push(order);
    }

    /// Whether there is something to record besides the log.
    pub(crate) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// What let a call through.
    pub(crate) fn rule(&self, call: &EventId) -> String {
        self.calls
            .get(call)
            .map_or_else(|| UNKNOWN.to_owned(), |known| known.rule.clone())
    }

    /// The records of what is about to be committed.
    pub(crate) fn records(&mut self, subject: &Subject, servers: &[McpServer], entries: &[LogEntry]) -> Records {
        let ends = |entry: &LogEntry| {
            entry.event.processed_at.is_some()
                && matches!(
                    entry.event.body,
                    EventBody::UserInterrupt { .. } | EventBody::StatusTerminated {}
                )
        };
        let mut records = Records {
            ends: self.has_orders() || entries.iter().any(ends),
            ..Records::default()
        };
        for order in std::mem::take(&mut self.orders) {
            records.tell.push(order.record(subject));
        }
        let mut ended = Vec::new();
        for entry in entries.iter().filter(|entry| entry.event.processed_at.is_some()) {
            let event = &entry.event;
            if let Some((known, permission)) = self.calls.begun(&event.id, &event.body) {
                match permission {
                    // The call of an MCP server is recorded when it is made.
                    EvaluatedPermission::Allow if known.server.is_none() => {
                        let record = of_call(subject, servers, &event.id, known);
                        let rule = known.rule.clone();
                        records.cross.push(record.decided(Decision::Allowed, rule));
                    }
                    EvaluatedPermission::Deny => {
                        let record = of_call(subject, servers, &event.id, known);
                        records.tell.push(record.decided(Decision::Denied, "permission policy"));
                    }
                    EvaluatedPermission::Allow | EvaluatedPermission::Ask => {}
                }
                continue;
            }
            if let Some((id, content, is_error)) = result(&event.body) {
                if let Some(known) = self.calls.ended(id) {
                    let decision = if is_error { Decision::Failed } else { Decision::Allowed };
                    let record = of_call(subject, servers, id, &known).output_hash(output_hash(content));
                    records.note.push_back(record.decided(decision, known.rule));
                }
                if is_error && entry.event.processed_at == Some(entry.created_at) {
                    ended.push(id.to_string());
                }
                continue;
            }
            match &event.body {
                EventBody::UserToolConfirmation {
                    tool_use_id,
                    result,
                    deny_message,
                    ..
                } => self.answered(
                    subject,
                    servers,
                    tool_use_id,
                    *result,
                    deny_message.as_deref(),
                    &mut records,
                ),
                EventBody::UserInterrupt { .. } => {
                    let actor = match self.causes.remove(&event.id) {
                        Some(Cause::Ordered) => continue,
                        Some(Cause::Sent(who)) => who,
                        None => UNKNOWN.to_owned(),
                    };
                    let order = Order {
                        actor,
                        reason: "user.interrupt".into(),
                        scope: Scope::Session,
                        forced: false,
                        ended: std::mem::take(&mut ended),
                    };
                    records.tell.push(order.record(subject));
                }
                EventBody::StatusTerminated {} => records.tell.push(subject.record(Kind::SessionEnd)),
                _ => {}
            }
        }
        records
    }

    /// A person answered a call that asked.
    fn answered(
        &mut self,
        subject: &Subject,
        servers: &[McpServer],
        call: &EventId,
        answer: Answer,
        why: Option<&str>,
        records: &mut Records,
    ) {
        let who = match self.causes.remove(call) {
            Some(Cause::Sent(who)) => who,
            Some(Cause::Ordered) | None => UNKNOWN.to_owned(),
        };
        let Some(known) = self.calls.get_mut(call) else {
            return;
        };
        known.rule = format!("approval by {who}");
        let (word, decision) = match answer {
            Answer::Allow => ("allowed", Decision::Allowed),
            Answer::Deny => ("denied", Decision::Denied),
        };
        let approval = subject
            .record(Kind::Approval)
            .call(call.as_str())
            .tool(known.tool.as_str())
            .input_hash(known.input)
            .approval(format!("{}: {word}", known.tool))
            .approver(who.as_str())
            .decision(decision);
        let called = of_call(subject, servers, call, known).decided(decision, known.rule.clone());
        match answer {
            Answer::Allow => {
                records.cross.push(approval);
                if known.server.is_none() {
                    records.cross.push(called);
                }
            }
            Answer::Deny => {
                // What the person wrote to the model is not repeated here; that there was something is.
                let approval = match why {
                    Some(_) => approval.reason("with a message to the agent"),
                    None => approval,
                };
                records.tell.extend([approval, called]);
            }
        }
    }

    /// Takes in what was committed, and gives the record of the log's hash if the session came to rest. `whole` reads
    /// the log where this does not know it yet.
    pub(crate) async fn committed<E>(
        &mut self,
        subject: &Subject,
        entries: &[LogEntry],
        whole: impl AsyncFnOnce() -> Result<LogHash, E>,
    ) -> Result<Option<Record>, E> {
        let rests = entries.iter().any(|entry| {
            matches!(
                entry.event.body,
                EventBody::StatusIdle { .. } | EventBody::StatusTerminated {}
            )
        });
        match &mut self.log {
            Some(log) => {
                for entry in entries.iter().filter(|entry| entry.event.processed_at.is_some()) {
                    // As the store writes it.
                    log.add(&serde_json::to_vec(&entry.event).unwrap_or_default());
                }
            }
            None if rests => self.log = Some(whole().await?),
            None => {}
        }
        Ok(self.log.as_ref().filter(|_| rests).map(|log| log.record(subject)))
    }
}

/// The hash of a session's log: of the processed events' lines, each with its end.
#[derive(Clone, Default)]
pub(crate) struct LogHash {
    events: u64,
    hasher: Sha256,
}

impl LogHash {
    /// The next event as JSON.
    pub(crate) fn add(&mut self, event: &[u8]) {
        self.events += 1;
        self.hasher.update(event);
        self.hasher.update(b"\n");
    }

    /// What a ledger keeps of it.
    pub(crate) fn record(&self, subject: &Subject) -> Record {
        subject
            .record(Kind::SessionLog)
            .events(self.events)
            .output_hash(Hash::from_bytes(self.hasher.clone().finalize().into()))
    }
}

/// The beginning of a record of a call.
fn of_call(subject: &Subject, servers: &[McpServer], id: &EventId, known: &Known) -> Record {
    let kind = match known.server {
        None => Kind::ToolCall,
        Some(_) => Kind::McpCall,
    };
    let mut record = subject
        .record(kind)
        .call(id.as_str())
        .tool(known.tool.as_str())
        .input_hash(known.input);
    if let Some(name) = &known.server {
        record = record.mcp_method(TOOLS_CALL);
        let url = servers
            .iter()
            .find(|server| server.name() == name)
            .and_then(|server| Url::parse(server.url()).ok());
        record = at_server(record, name, url.as_ref());
    }
    record
}

/// Says where the server of a call is; its name stands in for a host that is not known.
pub(crate) fn at_server(record: Record, name: &str, url: Option<&Url>) -> Record {
    let host = url.and_then(|url| url.host_str()).unwrap_or(name);
    let record = record.hostname(host);
    match url.and_then(Url::port_or_known_default) {
        Some(port) => record.destination(format!("{host}:{port}")),
        None => record,
    }
}

#[cfg(test)]
mod tests;
