//! Named approvals: calls that somebody has agreed to by name, until a date.
//!
//! The owner writes them into a file; the gateway only reads it. An approval holds for one tool and either for exactly
//! these arguments (their SHA-256) or for arguments that all match patterns: an argument that no pattern names is not
//! approved. Arguments with a key that is there twice are refused, because two readers may see two different calls.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use globset::GlobMatcher;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::config::yaml_error;
use crate::error::ConfigError;
use crate::rules::{ApprovalRule, pattern};

/// The approvals of a file.
#[derive(Default)]
pub struct Approvals(Vec<Approval>);

/// One approval.
pub struct Approval {
    /// What it is called: a ticket, say.
    pub name: String,
    /// Who approved.
    pub approver: String,
    route: Option<String>,
    tool: String,
    grounds: Grounds,
    expires: Timestamp,
}

enum Grounds {
    Exactly(String),
    Matching(BTreeMap<String, GlobMatcher>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalsFile {
    approvals: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    approver: String,
    route: Option<String>,
    tool: String,
    arguments_sha256: Option<String>,
    arguments: Option<BTreeMap<String, String>>,
    expires: String,
}

impl Approvals {
    /// Reads the text of the file at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Approvals, ConfigError> {
        let file = path.display().to_string();
        let parsed: ApprovalsFile = serde_saphyr::from_str(text).map_err(|error| yaml_error(&file, &error))?;
        let entries = parsed.approvals.into_iter().map(|entry| {
            let name = entry.name.clone();
            entry.check().map_err(|why| ConfigError::new(&file, format!("approval `{name}`: {why}")))
        });
        Ok(Approvals(entries.collect::<Result<_, _>>()?))
    }

    /// The approval that covers a call, if one does at this time.
    pub fn covering(&self, route: &str, tool: &str, arguments: &Arguments, now: Timestamp) -> Option<&Approval> {
        self.0.iter().find(|approval| {
            approval.tool == tool
                && approval.route.as_deref().is_none_or(|named| named == route)
                && now < approval.expires
                && approval.grounds.cover(arguments)
        })
    }
}

impl Entry {
    fn check(self) -> Result<Approval, String> {
        if self.name.is_empty() || self.approver.is_empty() || self.tool.is_empty() {
            return Err("name, approver and tool must not be empty".to_owned());
        }
        let grounds = match (self.arguments_sha256, self.arguments) {
            (Some(hash), None) => {
                let hash = hash.to_ascii_lowercase();
                if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err("arguments_sha256 is not 64 hex digits".to_owned());
                }
                Grounds::Exactly(hash)
            }
            (None, Some(patterns)) => Grounds::Matching(
                patterns
                    .into_iter()
                    .map(|(name, text)| Ok((name, pattern("arguments", &text)?)))
                    .collect::<Result<_, String>>()?,
            ),
            _ => return Err("give either arguments_sha256 or arguments".to_owned()),
        };
        let expires = self.expires.parse().map_err(|_| "expires is not a time like 2027-01-31T12:00:00Z".to_owned())?;
        Ok(Approval { name: self.name, approver: self.approver, route: self.route, tool: self.tool, grounds, expires })
    }
}

impl Grounds {
    fn cover(&self, arguments: &Arguments) -> bool {
        match self {
            Grounds::Exactly(hash) => *hash == arguments.hash,
            Grounds::Matching(patterns) => arguments
                .values
                .iter()
                .all(|(name, value)| patterns.get(name).is_some_and(|pattern| pattern.is_match(shown(value)))),
        }
    }
}

impl ApprovalRule {
    /// Whether a call of `tool` with these arguments needs an approval. An argument that is not there counts as one that
    /// looks so: what the server takes in its place is not known here.
    pub(crate) fn applies(&self, tool: &str, arguments: &Arguments) -> bool {
        self.tool.is_match(tool)
            && self.arguments.iter().all(|(name, pattern)| {
                let mut found = arguments.values.iter().filter(|(key, _)| key.to_lowercase() == *name).peekable();
                found.peek().is_none() || found.any(|(_, value)| pattern.is_match(shown(value)))
            })
    }
}

/// The arguments of a call, read strictly.
pub struct Arguments {
    values: Map<String, Value>,
    /// The SHA-256 of their canonical form, lower-case hex.
    pub hash: String,
}

impl Arguments {
    /// Reads arguments as they were written; none is as good as `{}`.
    pub fn parse(raw: Option<&RawValue>) -> Result<Arguments, &'static str> {
        let text = raw.map_or("{}", RawValue::get);
        let mut from = serde_json::Deserializer::from_str(text);
        let value = Strict
            .deserialize(&mut from)
            .map_err(|_| "the arguments are nested too deeply or hold a key twice")?;
        let Value::Object(values) = value else {
            return Err("the arguments are not an object");
        };
        let mut canonical = String::new();
        write_object(&values, &mut canonical);
        let hash = Sha256::digest(canonical.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Arguments { values, hash })
    }
}

/// A value as patterns see it: a string's text, or compact JSON.
fn shown(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// Compact JSON with sorted keys.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => write_object(map, out),
        plain => out.push_str(&plain.to_string()),
    }
}

fn write_object(map: &Map<String, Value>, out: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    out.push('{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&crate::redact::json::quoted(key));
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

/// Reads a value in which no object has a key twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.insert(key, map.next_value_seed(Strict)?).is_some() {
                return Err(de::Error::custom("a key is there twice"));
            }
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Result<Arguments, &'static str> {
        Arguments::parse(Some(&RawValue::from_string(text.to_owned()).unwrap()))
    }

    fn approvals(body: &str) -> Result<Approvals, ConfigError> {
        Approvals::parse(&format!("approvals:\n- name: CHG-1\n  approver: alice\n  tool: deploy\n{body}"), Path::new("a.yaml"))
    }

    #[test]
    fn the_hash_is_of_what_is_said_not_how() {
        let hash = |text| arguments(text).unwrap().hash;
        assert_eq!(hash(r#"{"b":[1,{"d":null,"c":"x"}],"a":true}"#), hash(r#"{ "a": true, "b": [1, {"c":"\u0078","d":null}] }"#));
        assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":"1"}"#));
        assert_eq!(Arguments::parse(None).unwrap().hash, hash("{}"));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":1}}"#, r#"{"a":[{"b":1,"\u0062":1}]}"#, "[]", "7"] {
            assert!(arguments(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_approval_covers_what_it_says_until_it_expires() {
        let before: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let after: Timestamp = "2028-01-01T00:00:00Z".parse().unwrap();
        let call = arguments(r#"{"env":"staging-1","force":true}"#).unwrap();
        let exact = approvals(&format!("  arguments_sha256: {}\n  expires: 2027-01-01T00:00:00Z\n", call.hash)).unwrap();
        let found = exact.covering("any", "deploy", &call, before).unwrap();
        assert_eq!((&*found.name, &*found.approver), ("CHG-1", "alice"));
        assert!(exact.covering("any", "deploy", &call, after).is_none());
        assert!(exact.covering("any", "destroy", &call, before).is_none());
        assert!(exact.covering("any", "deploy", &arguments("{}").unwrap(), before).is_none());

        let loose = approvals(
            "  route: wiki\n  arguments: {env: 'staging*', force: '*'}\n  expires: 2027-01-01T00:00:00Z\n",
        )
        .unwrap();
        assert!(loose.covering("wiki", "deploy", &call, before).is_some());
        assert!(loose.covering("other", "deploy", &call, before).is_none());
        for text in [r#"{"env":"prod"}"#, r#"{"env":"staging","more":1}"#] {
            assert!(loose.covering("wiki", "deploy", &arguments(text).unwrap(), before).is_none(), "{text}");
        }
    }

    #[test]
    fn a_rule_applies_where_its_arguments_look_so_or_are_missing() {
        let rule = ApprovalRule {
            tool: pattern("", "deploy*").unwrap(),
            arguments: [("env".to_owned(), pattern("", "prod*").unwrap())].into(),
        };
        for (tool, text, applies) in [
            ("deploy", r#"{"env":"prod-eu"}"#, true),
            ("deploy", r#"{"ENV":"prod-eu"}"#, true),
            ("deploy", r#"{"env":"test","Env":"prod"}"#, true),
            ("deploy", "{}", true),
            ("deploy", r#"{"env":"test"}"#, false),
            ("read", r#"{"env":"prod"}"#, false),
        ] {
            assert_eq!(rule.applies(tool, &arguments(text).unwrap()), applies, "{tool} {text}");
        }
    }

    #[test]
    fn files_that_say_too_little_are_refused() {
        for body in [
            "  expires: 2027-01-01T00:00:00Z\n",
            "  arguments: {}\n",
            "  arguments: {}\n  expires: tomorrow\n",
            "  arguments_sha256: 12\n  expires: 2027-01-01T00:00:00Z\n",
            "  arguments: {}\n  expires: 2027-01-01T00:00:00Z\n  forever: true\n",
        ] {
            assert!(approvals(body).is_err(), "{body}");
        }
    }
}
