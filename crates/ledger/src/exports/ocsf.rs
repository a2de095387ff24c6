//! Records as OCSF 1.5.0 events (Open Cybersecurity Schema Framework), with the `security_control` profile.
//!
//! | kinds | class |
//! |---|---|
//! | `tool_call`, `mcp_call`, `tunnel_call`, `approval` | 6003 API Activity |
//! | `connection` | 4001 Network Activity |
//! | `request` | 4002 HTTP Activity |
//! | `dns_query` | 4003 DNS Activity |
//! | `tunnel_connection` | 4014 Tunnel Activity |
//! | `file_in`, `file_out` | 1001 File System Activity |
//! | `credential_use`, `authentication_failure` | 3002 Authentication |
//! | `credential_change`, `policy_applied`, `policy_change` | 3004 Entity Management |
//! | `session_start`, `session_end`, `sandbox_*`, `image`, `stop` | 6002 Application Lifecycle |
//! | `session_log`, `export`, what the ledger says of itself | 0 Base Event |
//!
//! All fields of a record stand in `unmapped` as well, so that nothing gets lost on the way. Payloads stay behind.
//! `metadata.uid` is the same however often a line is delivered; `metadata.sequence` has no gap but for checkpoints.

use outwork_wire::Time;
use serde_json::{Map, Value, json};

use super::ocsf_objects::{
    actor, api, app, auth_protocol, connection, destination, device, entity, file, host, http_request, object, source,
    traffic, user,
};
use super::otlp::fields;
use super::{Content, Origin};
use crate::entry::Entry;
use crate::kind::{Decision, Kind};
use crate::record::Record;

/// The version of the schema.
pub const VERSION: &str = "1.5.0";

struct Class {
    uid: u32,
    name: &'static str,
    category: (u32, &'static str),
}

const fn class(uid: u32, name: &'static str, category: (u32, &'static str)) -> Class {
    Class { uid, name, category }
}

const SYSTEM: (u32, &str) = (1, "System Activity");
const IDENTITY: (u32, &str) = (3, "Identity & Access Management");
const NETWORK: (u32, &str) = (4, "Network Activity");
const APPLICATION: (u32, &str) = (6, "Application Activity");
const BASE: Class = class(0, "Base Event", (0, "Uncategorized"));
const FILE: Class = class(1001, "File System Activity", SYSTEM);
const AUTHENTICATION: Class = class(3002, "Authentication", IDENTITY);
const ENTITY: Class = class(3004, "Entity Management", IDENTITY);
const CONNECTION: Class = class(4001, "Network Activity", NETWORK);
const HTTP: Class = class(4002, "HTTP Activity", NETWORK);
const DNS: Class = class(4003, "DNS Activity", NETWORK);
const TUNNEL: Class = class(4014, "Tunnel Activity", NETWORK);
const LIFECYCLE: Class = class(6002, "Application Lifecycle", APPLICATION);
const API: Class = class(6003, "API Activity", APPLICATION);

type Activity = (u32, &'static str);

/// The event of a line.
pub fn event(origin: &Origin<'_>, content: &Content<'_>) -> Value {
    match content {
        Content::Record(record) => of_record(origin, content, record),
        Content::Own(entry) => {
            let severity = match entry {
                Entry::Interrupted(_) => (4, "High"),
                Entry::Pruned(pruned) if !pruned.unsent.is_empty() => (4, "High"),
                _ => (1, "Informational"),
            };
            let mut event = head(origin, content, &BASE, (99, content.name()), severity, time_of(entry));
            event.insert("unmapped".into(), Value::Object(own_fields(entry)));
            Value::Object(event)
        }
        Content::Withheld => Value::Object(head(
            origin,
            content,
            &BASE,
            (99, content.name()),
            (1, "Informational"),
            None,
        )),
    }
}

fn of_record(origin: &Origin<'_>, content: &Content<'_>, record: &Record) -> Value {
    let (class, activity) = class_of(record);
    let mut event = head(origin, content, &class, activity, severity(record), Some(record.at));
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            event.insert(name.to_owned(), value);
        }
    };
    match record.decision {
        Some(Decision::Failed) => {
            put("status_id", json!(2));
            put("status", json!("Failure"));
        }
        Some(Decision::Denied) => {
            put("status_id", json!(2));
            put("status", json!("Failure"));
            put("action_id", json!(2));
            put("action", json!("Denied"));
            put("disposition_id", json!(2));
            put("disposition", json!("Blocked"));
        }
        Some(Decision::Allowed) => {
            put("status_id", json!(1));
            put("status", json!("Success"));
            put("action_id", json!(1));
            put("action", json!("Allowed"));
            put("disposition_id", json!(1));
            put("disposition", json!("Allowed"));
        }
        None => {}
    }
    put(
        "status_code",
        record.status.map_or(Value::Null, |status| json!(status.to_string())),
    );
    put("status_detail", json!(record.reason));
    put(
        "duration",
        record
            .duration_micros
            .map_or(Value::Null, |micros| json!(micros / 1000)),
    );
    if record.policy_hash.is_some() || record.rule.is_some() {
        put(
            "policy",
            object([
                ("uid", json!(record.policy_hash)),
                ("name", json!(record.rule.as_deref().unwrap_or("policy"))),
                ("is_applied", json!(true)),
            ]),
        );
    }
    put("unmapped", Value::Object(fields(record)));
    match class.uid {
        6003 => {
            put("actor", actor(record));
            put("api", api(record));
            put("src_endpoint", source(record));
            put("dst_endpoint", destination(record));
        }
        4001 | 4002 | 4003 | 4014 => {
            put("src_endpoint", source(record));
            put("dst_endpoint", destination(record));
            put("connection_info", connection(record, class.uid));
            put("traffic", traffic(record));
            if class.uid == 4002 {
                put("http_request", http_request(record));
                put(
                    "http_response",
                    record.status.map_or(Value::Null, |code| json!({"code": code})),
                );
            }
            if class.uid == 4003 {
                put(
                    "query",
                    object([
                        ("hostname", json!(host(record).0.unwrap_or("unknown"))),
                        ("type", json!(record.query_type)),
                    ]),
                );
                let answers = record
                    .answers
                    .iter()
                    .map(|data| json!({"rdata": data}))
                    .collect::<Vec<_>>();
                put(
                    "answers",
                    if answers.is_empty() {
                        Value::Null
                    } else {
                        json!(answers)
                    },
                );
                if record.decision == Some(Decision::Denied) {
                    put("rcode_id", json!(5));
                    put("rcode", json!("Refused"));
                }
            }
            if class.uid == 4014 {
                put("session", json!({"uid": record.tunnel.as_deref().unwrap_or("unknown")}));
                put("tunnel_type_id", json!(99));
                put("tunnel_type", json!("Outbound relay"));
            }
        }
        1001 => {
            put("actor", actor(record));
            put("device", device(record));
            put("file", file(record));
        }
        3002 => {
            put("user", user(record));
            put("actor", actor(record));
            put("src_endpoint", source(record));
            put("dst_endpoint", destination(record));
            put("service", json!({"name": host(record).0.unwrap_or("outwork")}));
            let protocol = record
                .credential
                .as_ref()
                .and_then(|credential| credential.method.as_deref());
            if let Some(protocol) = protocol {
                put("auth_protocol_id", json!(auth_protocol(protocol)));
                put("auth_protocol", json!(protocol));
            }
            put("is_remote", json!(true));
        }
        3004 => {
            put("actor", actor(record));
            put("entity", entity(record));
        }
        6002 => put("app", app(record)),
        _ => {}
    }
    Value::Object(event)
}

fn class_of(record: &Record) -> (Class, Activity) {
    let denied = record.decision == Some(Decision::Denied);
    let failed = record.decision == Some(Decision::Failed);
    match record.kind {
        Kind::ToolCall | Kind::McpCall | Kind::TunnelCall => (API, (99, "Invoke")),
        Kind::Approval => (API, (99, "Approve")),
        Kind::Connection if denied => (CONNECTION, (5, "Refuse")),
        Kind::Connection if failed => (CONNECTION, (4, "Fail")),
        Kind::Connection => (CONNECTION, (1, "Open")),
        Kind::Request => (HTTP, http_activity(record.http_method.as_deref().unwrap_or_default())),
        Kind::DnsQuery if record.answers.is_empty() => (DNS, (1, "Query")),
        Kind::DnsQuery => (DNS, (2, "Response")),
        Kind::TunnelConnection if denied || failed => (TUNNEL, (99, "Refuse")),
        Kind::TunnelConnection => (TUNNEL, (1, "Open")),
        Kind::FileIn => (FILE, (1, "Create")),
        Kind::FileOut => (FILE, (2, "Read")),
        Kind::CredentialUse => (AUTHENTICATION, (99, "Credential Substitution")),
        Kind::AuthenticationFailure => (AUTHENTICATION, (1, "Logon")),
        Kind::CredentialChange | Kind::PolicyChange => (ENTITY, (3, "Update")),
        Kind::PolicyApplied => (ENTITY, (10, "Activate")),
        Kind::SessionStart | Kind::SandboxStart => (LIFECYCLE, (3, "Start")),
        Kind::SessionEnd | Kind::SandboxEnd | Kind::Stop => (LIFECYCLE, (4, "Stop")),
        Kind::SandboxRestore => (LIFECYCLE, (5, "Restart")),
        Kind::SandboxResume => (LIFECYCLE, (6, "Enable")),
        Kind::SandboxPause => (LIFECYCLE, (7, "Disable")),
        Kind::SandboxCheckpoint => (LIFECYCLE, (99, "Checkpoint")),
        Kind::Image => (LIFECYCLE, (1, "Install")),
        Kind::SessionLog => (BASE, (99, "Event Log Hash")),
        Kind::Export => (BASE, (99, "Export")),
    }
}

fn http_activity(method: &str) -> Activity {
    match method {
        "CONNECT" => (1, "Connect"),
        "DELETE" => (2, "Delete"),
        "GET" => (3, "Get"),
        "HEAD" => (4, "Head"),
        "OPTIONS" => (5, "Options"),
        "POST" => (6, "Post"),
        "PUT" => (7, "Put"),
        "TRACE" => (8, "Trace"),
        _ => (99, "Other"),
    }
}

fn severity(record: &Record) -> (u32, &'static str) {
    match (record.kind, record.decision) {
        (Kind::AuthenticationFailure, _) => (3, "Medium"),
        (Kind::Stop, _) => (2, "Low"),
        (_, Some(Decision::Denied)) => (3, "Medium"),
        (_, Some(Decision::Failed)) => (2, "Low"),
        (_, Some(Decision::Allowed) | None) => (1, "Informational"),
    }
}

/// What every event has.
fn head(
    origin: &Origin<'_>,
    content: &Content<'_>,
    class: &Class,
    activity: Activity,
    severity: (u32, &str),
    at: Option<Time>,
) -> Map<String, Value> {
    let type_uid = u64::from(class.uid) * 100 + u64::from(activity.0);
    // The time is demanded; of a line whose content is gone nobody knows it.
    let time = at.map_or(0, |at| at.as_micros().div_euclid(1000));
    let (tenant, session) = match content {
        Content::Record(record) => (record.workspace.as_deref(), record.session.as_deref()),
        Content::Withheld | Content::Own(_) => (None, None),
    };
    let fields = object([
        ("class_uid", json!(class.uid)),
        ("class_name", json!(class.name)),
        ("category_uid", json!(class.category.0)),
        ("category_name", json!(class.category.1)),
        ("activity_id", json!(activity.0)),
        ("activity_name", json!(activity.1)),
        ("type_uid", json!(type_uid)),
        ("type_name", json!(format!("{}: {}", class.name, activity.1))),
        ("time", json!(time)),
        ("severity_id", json!(severity.0)),
        ("severity", json!(severity.1)),
        ("message", json!(content.sentence())),
        (
            "metadata",
            object([
                ("version", json!(VERSION)),
                ("profiles", json!(["security_control"])),
                ("uid", json!(origin.id())),
                ("sequence", json!(origin.receipt.sequence)),
                ("event_code", json!(content.name())),
                ("correlation_uid", json!(session)),
                ("tenant_uid", json!(tenant)),
                ("log_name", json!(origin.ledger)),
                ("log_provider", json!("outwork-ledger")),
                ("log_version", json!(crate::FORMAT.to_string())),
                (
                    "product",
                    json!({
                        "name": "Outwork",
                        "vendor_name": "Outwork",
                        "version": env!("CARGO_PKG_VERSION"),
                    }),
                ),
                ("labels", json!([format!("line_hash:{}", origin.receipt.hash)])),
            ]),
        ),
    ]);
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn time_of(entry: &Entry) -> Option<Time> {
    Some(match entry {
        Entry::Record(record) => record.at,
        Entry::Checkpoint(entry) => entry.at,
        Entry::Key(entry) => entry.at,
        Entry::Recovered(entry) => entry.at,
        Entry::Interrupted(entry) => entry.at,
        Entry::Redacted(entry) => entry.at,
        Entry::Pruned(entry) => entry.at,
        Entry::Format(entry) => entry.at,
    })
}

/// What the ledger says of itself, as JSON.
pub(crate) fn own_fields(entry: &Entry) -> Map<String, Value> {
    let value = match entry {
        Entry::Record(record) => return fields(record),
        Entry::Checkpoint(entry) => serde_json::to_value(entry),
        Entry::Key(entry) => serde_json::to_value(entry),
        Entry::Recovered(entry) => serde_json::to_value(entry),
        Entry::Interrupted(entry) => serde_json::to_value(entry),
        // Which lines were redacted can be thousands of pairs; how many is what an event is about.
        Entry::Redacted(entry) => {
            Ok(json!({"at": entry.at, "actor": entry.actor, "reason": entry.reason, "records": entry.records}))
        }
        Entry::Pruned(entry) => serde_json::to_value(entry),
        Entry::Format(entry) => serde_json::to_value(entry),
    };
    match value {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}
