//! Every kind of record, in every decision, is an event that the OCSF schema allows.
//!
//! `ocsf-1.5.0.json` holds what the published schema says of the classes and objects that are used: which attributes
//! there are and of which type, which are required, which values an enumeration has.

use std::sync::LazyLock;

use outwork_ledger::exports::{Content, Origin, ocsf};
use outwork_ledger::{Credential, Decision, Entry, Hash, Kind, Ledger, Payload, Receipt, Record, Scope, Stop};
use outwork_wire::Time;
use serde_json::Value;

use crate::support::{START, unsigned};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("ocsf-1.5.0.json")).unwrap());

fn names(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect()
}

/// What is wrong with an object.
fn check(what: &str, rules: &Value, value: &Value, problems: &mut Vec<String>) {
    let Some(fields) = value.as_object() else {
        problems.push(format!("{what} is not an object"));
        return;
    };
    for name in names(&rules["required"]) {
        if fields.get(name).is_none_or(Value::is_null) {
            problems.push(format!("{what} lacks {name}"));
        }
    }
    let one_of = names(&rules["one_of"]);
    if !one_of.is_empty() && !one_of.iter().any(|name| fields.contains_key(*name)) {
        problems.push(format!("{what} has none of {one_of:?}"));
    }
    for (name, value) in fields {
        let Some(form) = rules["attributes"][name].as_str() else {
            problems.push(format!("{what} has no attribute {name}"));
            continue;
        };
        let place = format!("{what}.{name}");
        match (form.strip_prefix("array of "), value) {
            (Some(form), Value::Array(values)) => {
                for value in values {
                    check_value(&place, form, value, problems);
                }
            }
            (Some(_), _) => problems.push(format!("{place} is not an array")),
            (None, value) => check_value(&place, form, value, problems),
        }
    }
}

fn check_value(place: &str, form: &str, value: &Value, problems: &mut Vec<String>) {
    let is_right = match form {
        "string" => value.as_str().is_some_and(|text| !text.is_empty()),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "any" | "object" | "object object" => true,
        object => {
            let name = object.strip_prefix("object ").unwrap_or(object);
            let rules = &SCHEMA["objects"][name];
            if rules.is_null() {
                problems.push(format!("{place}: the object {name} is not in the table"));
            } else {
                check(place, rules, value, problems);
            }
            true
        }
    };
    if !is_right {
        problems.push(format!("{place} is not a {form}: {value}"));
    }
}

fn problems(event: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let (class, activity) = (
        event["class_uid"].as_u64().unwrap(),
        event["activity_id"].as_u64().unwrap(),
    );
    let rules = &SCHEMA["classes"][class.to_string()];
    assert!(!rules.is_null(), "the class {class} is not in the table");
    check("event", rules, event, &mut problems);
    for (name, values) in rules["enums"].as_object().unwrap() {
        let value = &event[name];
        if !value.is_null() && !values.as_array().unwrap().contains(value) {
            problems.push(format!("{name} cannot be {value}"));
        }
    }
    if event["type_uid"] != class * 100 + activity || event["category_uid"] != rules["category"] {
        problems.push("type and category do not follow from the class".into());
    }
    if event["metadata"]["version"] != SCHEMA["version"] {
        problems.push("the version is another".into());
    }
    problems
}

fn bare(kind: Kind) -> Record {
    Record::new(kind, Time::from_micros(START))
}

fn full(kind: Kind, decision: Decision) -> Record {
    bare(kind)
        .workspace("wrkspc_1")
        .environment("env_1")
        .session("sesn_1")
        .agent("agent_1", Some(3))
        .worker("worker-1")
        .image_digest("sha256:abc")
        .policy_hash(Hash::of(b"policy"))
        .tool("bash")
        .call("toolu_1")
        .connection("conn_1")
        .input_hash(Hash::of(b"in"))
        .output_hash(Hash::of(b"out"))
        .destination("api.example.com:443")
        .address("192.0.2.1")
        .protocol("h2")
        .query_type("A")
        .answers(["192.0.2.1"])
        .http_method("PROPFIND")
        .http_path("/v1")
        .path("/mnt/session/outputs/result.txt")
        .tunnel("tunl_1")
        .hostname("wiki.example")
        .mcp_method("tools/call")
        .decided(decision, "rules[2]")
        .credential(Credential {
            id: Some("vcrd_1".into()),
            name: Some("GITHUB_TOKEN".into()),
            method: Some("basic".into()),
        })
        .credential_location("header authorization")
        .output_location("file_1")
        .approval("write to the wiki")
        .approver("user_1")
        .actor("key_1")
        .stop(Stop {
            scope: Scope::Session,
            forced: true,
            ended: vec!["sesn_1".into()],
            processes: Some(4),
        })
        .events(7)
        .status(403)
        .bytes_in(10)
        .bytes_out(20)
        .duration_micros(1500)
        .reason("because")
        .input(Payload::of(b"SECRET-PAYLOAD"))
        .output(Payload::of(b"SECRET-PAYLOAD"))
}

fn origin() -> Origin<'static> {
    Origin {
        ledger: "0123456789abcdef",
        receipt: Receipt {
            sequence: 42,
            hash: Hash::of(b"line"),
        },
    }
}

#[test]
fn every_record_is_a_valid_event() {
    let mut classes = std::collections::BTreeSet::new();
    for kind in Kind::ALL {
        for decision in [Decision::Allowed, Decision::Denied, Decision::Failed] {
            for record in [bare(kind), bare(kind).decision(decision), full(kind, decision)] {
                let event = ocsf::event(&origin(), &Content::Record(&record));
                assert_eq!(problems(&event), Vec::<String>::new(), "{event:#}");
                assert!(!event.to_string().contains("SECRET-PAYLOAD"));
                assert_eq!(event["metadata"]["uid"], "0123456789abcdef:42");
                classes.insert(event["class_uid"].as_u64().unwrap());
                if record.rule.is_some() {
                    assert_eq!(event["unmapped"]["credential"]["name"], "GITHUB_TOKEN");
                    assert_eq!(
                        event["action_id"],
                        match decision {
                            Decision::Allowed => Value::from(1),
                            Decision::Denied => Value::from(2),
                            Decision::Failed => Value::Null,
                        }
                    );
                }
            }
        }
    }
    assert_eq!(
        classes.into_iter().collect::<Vec<_>>(),
        [0, 1001, 3002, 3004, 4001, 4002, 4003, 4014, 6002, 6003]
    );
    let event = ocsf::event(&origin(), &Content::Record(&full(Kind::Connection, Decision::Denied)));
    assert_eq!((&event["class_uid"], &event["activity_id"]), (&4001.into(), &5.into()));
    assert_eq!(
        event["dst_endpoint"],
        serde_json::json!({"hostname": "api.example.com", "port": 443, "ip": "192.0.2.1"})
    );
}

#[test]
fn the_checker_sees_what_is_wrong() {
    let good = ocsf::event(&origin(), &Content::Record(&full(Kind::ToolCall, Decision::Allowed)));
    for (pointer, value) in [
        ("/activity_id", Value::from(55)),
        ("/api", Value::Null),
        ("/api/operation", Value::from(3)),
        ("/metadata/product", Value::from("x")),
        ("/time", Value::from("now")),
        ("/type_uid", Value::from(1)),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert_ne!(problems(&bad), Vec::<String>::new(), "{pointer}");
    }
    let mut bad = good;
    bad["colour"] = "red".into();
    assert_eq!(problems(&bad), ["event has no attribute colour"]);
}

#[test]
fn what_the_ledger_says_of_itself_is_a_valid_event() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.append(bare(Kind::Stop)).wait().unwrap();
    ledger
        .redact(&outwork_ledger::Filter::everything(), "owner", "asked")
        .unwrap();
    ledger.close().unwrap();
    let mut seen = Vec::new();
    for file in crate::support::segment_files(dir.path()) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let line = outwork_ledger::line::Line::parse(line.as_bytes()).unwrap();
            let entry = line.entry().unwrap();
            let content = match &entry {
                Some(Entry::Checkpoint(_)) => continue,
                Some(entry) => Content::Own(entry),
                None => Content::Withheld,
            };
            let event = ocsf::event(&origin(), &content);
            assert_eq!(problems(&event), Vec::<String>::new(), "{event:#}");
            seen.push(content.name());
        }
    }
    assert_eq!(seen, ["key", "format", "redacted_record", "redacted"]);
}
