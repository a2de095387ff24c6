//! The objects of an OCSF event, made of the fields of a record. None is put in that would say nothing.

use serde_json::{Value, json};

use crate::hash::Hash;
use crate::kind::Kind;
use crate::record::Record;

/// An object without what is null.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(kept.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The host and the port of where it went.
pub(super) fn host(record: &Record) -> (Option<&str>, Option<u16>) {
    let place = record.destination.as_deref().or(record.hostname.as_deref());
    match place.and_then(|place| place.rsplit_once(':').map(|(host, port)| (place, host, port))) {
        Some((place, host, port)) => match port.parse() {
            Ok(port) => (Some(host), Some(port)),
            Err(_) => (Some(place), None),
        },
        None => (place, None),
    }
}

pub(super) fn actor(record: &Record) -> Value {
    let person = record.approver.as_ref().or(record.actor.as_ref());
    object([
        ("app_name", json!("agent")),
        ("app_uid", json!(record.agent.as_ref().map(|agent| &agent.id))),
        ("user", person.map_or(Value::Null, |name| json!({"name": name}))),
        (
            "session",
            record.session.as_ref().map_or(Value::Null, |id| json!({"uid": id})),
        ),
    ])
}

pub(super) fn api(record: &Record) -> Value {
    let operation = match (&record.mcp_method, &record.tool) {
        (Some(method), Some(tool)) => format!("{method} {tool}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => record.kind.name().to_owned(),
    };
    let service = record
        .hostname
        .as_deref()
        .or(record.worker.as_deref())
        .unwrap_or("sandbox");
    object([
        ("operation", json!(operation)),
        ("service", json!({"name": service})),
        (
            "request",
            record.call.as_ref().map_or(Value::Null, |id| json!({"uid": id})),
        ),
        (
            "response",
            record.status.map_or(Value::Null, |code| json!({"code": code})),
        ),
    ])
}

pub(super) fn source(record: &Record) -> Value {
    object([
        ("name", json!(record.worker.as_deref().unwrap_or("outwork"))),
        ("uid", json!(record.session)),
        ("svc_name", json!("sandbox")),
    ])
}

pub(super) fn destination(record: &Record) -> Value {
    let (host, port) = host(record);
    if host.is_none() && record.address.is_none() {
        return Value::Null;
    }
    object([
        ("hostname", json!(host)),
        ("port", json!(port)),
        ("ip", json!(record.address)),
    ])
}

pub(super) fn connection(record: &Record, class: u32) -> Value {
    let transport = if class == 4003 { "udp" } else { "tcp" };
    object([
        ("uid", json!(record.connection)),
        ("direction_id", json!(2)),
        ("direction", json!("Outbound")),
        ("protocol_name", json!(transport)),
    ])
}

pub(super) fn traffic(record: &Record) -> Value {
    if record.bytes_in.is_none() && record.bytes_out.is_none() {
        return Value::Null;
    }
    object([
        ("bytes_in", json!(record.bytes_in)),
        ("bytes_out", json!(record.bytes_out)),
    ])
}

pub(super) fn http_request(record: &Record) -> Value {
    let (host, port) = host(record);
    object([
        ("http_method", json!(record.http_method)),
        ("uid", json!(record.call)),
        ("version", json!(record.protocol)),
        (
            "url",
            object([
                ("hostname", json!(host)),
                ("port", json!(port)),
                ("path", json!(record.http_path.as_deref().unwrap_or("/"))),
            ]),
        ),
    ])
}

pub(super) fn device(record: &Record) -> Value {
    object([
        ("type_id", json!(99)),
        ("type", json!("Sandbox")),
        ("name", json!(record.worker.as_deref().unwrap_or("sandbox"))),
        ("uid", json!(record.session)),
    ])
}

pub(super) fn file(record: &Record) -> Value {
    let path = record
        .path
        .as_deref()
        .or(record.output_location.as_deref())
        .unwrap_or("unknown");
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path);
    let (hash, size) = match record.kind {
        Kind::FileIn => (record.input_hash.or(record.output_hash), record.bytes_in),
        _ => (record.output_hash.or(record.input_hash), record.bytes_out),
    };
    object([
        ("name", json!(name)),
        ("type_id", json!(1)),
        ("type", json!("Regular File")),
        ("path", json!(path)),
        ("size", json!(size)),
        ("hashes", hash.map_or(Value::Null, |hash| json!([fingerprint(hash)]))),
        ("uid", json!(record.output_location)),
    ])
}

fn fingerprint(hash: Hash) -> Value {
    json!({"algorithm_id": 3, "algorithm": "SHA-256", "value": hash})
}

pub(super) fn user(record: &Record) -> Value {
    let credential = record.credential.as_ref();
    let name = credential
        .and_then(|credential| credential.name.as_deref())
        .or(record.actor.as_deref())
        .unwrap_or("unknown");
    object([
        ("name", json!(name)),
        (
            "credential_uid",
            json!(credential.and_then(|credential| credential.id.as_deref())),
        ),
    ])
}

pub(super) fn auth_protocol(method: &str) -> u32 {
    match method {
        "basic" => 11,
        "oauth" => 6,
        "digest" => 3,
        "kerberos" => 2,
        _ => 99,
    }
}

pub(super) fn entity(record: &Record) -> Value {
    match (record.kind, &record.credential) {
        (Kind::CredentialChange, Some(credential)) => object([
            ("name", json!(credential.name.as_deref().unwrap_or("credential"))),
            ("uid", json!(credential.id)),
            ("type", json!("Credential")),
        ]),
        _ => object([
            ("name", json!(record.rule.as_deref().unwrap_or("policy"))),
            ("uid", json!(record.policy_hash)),
            ("type", json!("Policy")),
        ]),
    }
}

pub(super) fn app(record: &Record) -> Value {
    let name = match record.kind {
        Kind::SessionStart | Kind::SessionEnd => "session",
        Kind::Image => "image",
        Kind::Stop => record.stop.as_ref().map_or("session", |stop| stop.scope.name()),
        _ => "sandbox",
    };
    let uid = if record.kind == Kind::Image {
        None
    } else {
        record.session.as_deref()
    };
    object([
        ("name", json!(name)),
        ("vendor_name", json!("Outwork")),
        ("uid", json!(uid.or(record.image_digest.as_deref()))),
    ])
}
