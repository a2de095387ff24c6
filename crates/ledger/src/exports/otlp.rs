//! OpenTelemetry logs: the body of an OTLP/HTTP request in its JSON encoding, and what the answer to it says.
//!
//! Times are strings of nanoseconds, 64-bit numbers are strings, names are in lowerCamelCase, as the OTLP
//! specification has it for JSON. `service.name` is `outwork`; `event.id` is the same however often a line is sent.

use serde_json::{Map, Value, json};

use super::{Content, Origin};
use crate::entry::Entry;
use crate::kind::Decision;
use crate::record::Record;

/// The body of a request.
pub fn request(logs: Vec<Value>, ledger: &str) -> Value {
    json!({"resourceLogs": [{
        "resource": {"attributes": [
            text("service.name", "outwork"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("outwork.ledger", ledger),
        ]},
        "scopeLogs": [{
            "scope": {"name": "outwork.ledger", "version": env!("CARGO_PKG_VERSION")},
            "logRecords": logs,
        }],
    }]})
}

/// One log record. `observed` is when it is sent, in microseconds since the Unix epoch.
pub fn log(origin: &Origin<'_>, content: &Content<'_>, observed: i64) -> Value {
    let (at, severity, label) = match content {
        Content::Record(record) => {
            let (severity, label) = match record.decision {
                Some(Decision::Denied) => (13, "WARN"),
                Some(Decision::Failed) => (10, "INFO2"),
                Some(Decision::Allowed) | None => (9, "INFO"),
            };
            (record.at.as_micros(), severity, label)
        }
        Content::Own(Entry::Interrupted(entry)) => (entry.at.as_micros(), 17, "ERROR"),
        Content::Own(_) | Content::Withheld => (observed, 9, "INFO"),
    };
    let mut attributes = vec![
        text("event.name", &format!("outwork.{}", content.name())),
        text("event.id", &origin.id()),
        integer("outwork.sequence", origin.receipt.sequence),
        text("outwork.hash", &origin.receipt.hash.to_string()),
    ];
    let own = match content {
        Content::Record(record) => fields(record),
        Content::Withheld => Map::new(),
        Content::Own(entry) => super::ocsf::own_fields(entry),
    };
    flatten("outwork", &own, &mut attributes);
    json!({
        "timeUnixNano": nanoseconds(at),
        "observedTimeUnixNano": nanoseconds(observed),
        "severityNumber": severity,
        "severityText": label,
        "body": {"stringValue": content.sentence()},
        "attributes": attributes,
    })
}

/// What a record holds, as JSON. Payloads stay behind: an export is not the place for them.
pub(crate) fn fields(record: &Record) -> Map<String, Value> {
    match serde_json::to_value(record) {
        Ok(Value::Object(mut fields)) => {
            fields.shift_remove("input");
            fields.shift_remove("output");
            fields
        }
        _ => Map::new(),
    }
}

fn flatten(prefix: &str, fields: &Map<String, Value>, out: &mut Vec<Value>) {
    for (name, value) in fields {
        let name = format!("{prefix}.{name}");
        match value {
            Value::Object(inner) => flatten(&name, inner, out),
            Value::Null => {}
            other => out.push(json!({"key": name, "value": any_value(other)})),
        }
    }
}

fn any_value(value: &Value) -> Value {
    match value {
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        // Beyond what a signed number holds it would be refused.
        Value::Number(number) if number.as_i64().is_none() => json!({"stringValue": number.to_string()}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(value) => json!({"stringValue": value}),
        Value::Array(values) => json!({"arrayValue": {"values": values.iter().map(any_value).collect::<Vec<_>>()}}),
        Value::Object(_) | Value::Null => json!({"stringValue": value.to_string()}),
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn integer(key: &str, value: u64) -> Value {
    json!({"key": key, "value": any_value(&json!(value))})
}

fn nanoseconds(micros: i64) -> String {
    (i128::from(micros.max(0)) * 1000).to_string()
}

/// How many log records the receiver says that it did not take, and why. `Err` if the answer cannot be read.
pub fn rejected(answer: &[u8]) -> Result<Option<(u64, String)>, String> {
    if answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let answer: Value = serde_json::from_slice(answer).map_err(|_| "the answer is not JSON".to_owned())?;
    let Some(partial) = answer.get("partialSuccess") else {
        return Ok(None);
    };
    let count = match partial.get("rejectedLogRecords") {
        Some(Value::Number(count)) => count.as_u64(),
        Some(Value::String(count)) => count.parse().ok(),
        None | Some(Value::Null) => Some(0),
        Some(_) => None,
    };
    let count = count.ok_or("the answer does not say how many were rejected")?;
    let why = partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    Ok((count > 0).then(|| (count, why.chars().take(300).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_was_not_taken() {
        assert_eq!(rejected(b""), Ok(None));
        assert_eq!(rejected(b"{}"), Ok(None));
        assert_eq!(rejected(br#"{"partialSuccess":{}}"#), Ok(None));
        let some = Ok(Some((3, "too old".to_owned())));
        assert_eq!(
            rejected(br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#),
            some
        );
        assert!(rejected(b"<html>").is_err());
        assert!(rejected(br#"{"partialSuccess":{"rejectedLogRecords":[]}}"#).is_err());
    }
}
