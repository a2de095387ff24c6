//! Records in the hash-chained ledger.

use futures_util::future::BoxFuture;
use outwork_ledger::{Kind, Ledger, Options, Payload, Record};
use outwork_wire::Time;

use crate::config::LedgerPlace;
use crate::error::Error;
use crate::record::{Call, Decision, Recorder};

/// A ledger that takes the gateway's records.
pub struct Evidence(Ledger);

impl Evidence {
    /// Opens the ledger of a configuration.
    pub fn open(place: &LedgerPlace) -> Result<Evidence, Error> {
        let options = Options {
            payloads: place.record_payloads,
            ..Options::default()
        };
        Ledger::open(&place.dir, options)
            .map(Evidence)
            .map_err(|error| Error::Ledger(error.to_string()))
    }

    /// The ledger itself.
    pub fn ledger(&self) -> &Ledger {
        &self.0
    }
}

impl Recorder for Evidence {
    fn record(&self, call: Call) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.0
                .append_later(record(call))
                .await
                .map_err(|error| error.to_string())
        })
    }

    fn healthy(&self) -> bool {
        self.0.status().stalled.is_none()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.0.flush().await.map_err(|error| error.to_string()) })
    }

    fn wants_payloads(&self) -> bool {
        self.0.keeps_payloads()
    }
}

/// A call as the ledger keeps it.
fn record(call: Call) -> Record {
    let at = Time::from_micros(call.at.as_microsecond());
    let decision = match call.decision {
        Decision::Allowed => outwork_ledger::Decision::Allowed,
        Decision::Refused => outwork_ledger::Decision::Denied,
        Decision::Failed | Decision::Cut => outwork_ledger::Decision::Failed,
    };
    let rule = call.rule.unwrap_or_else(|| "route".to_owned());
    let mut record = Record::new(Kind::McpCall, at)
        .hostname(call.hostname)
        .route(call.route)
        .decided(decision, rule)
        .bytes_in(call.bytes_in)
        .bytes_out(call.bytes_out)
        .duration_micros(u64::try_from(call.duration.as_micros()).unwrap_or(u64::MAX));
    record.tunnel = call.tunnel;
    record.workspace = call.workspace;
    record.session = call.session;
    record.http_method = call.http_method;
    record.mcp_method = call.mcp_method;
    record.tool = call.tool;
    record.approval = call.approval;
    record.approver = call.approver;
    record.status = call.status.map(i64::from);
    record.input = call.arguments.as_deref().map(Payload::of);
    record.output = call.result.as_deref().map(Payload::of);
    if let Some(agent) = call.agent {
        record = record.agent(agent, call.agent_version.and_then(|version| version.parse().ok()));
    }
    record
}
