//! What a server answers, before the caller sees it: hints are learnt, tools that may not be called are taken out of
//! lists, and what must not leave is redacted.
//!
//! The same editor serves a body of JSON and each event of a stream, because a server may answer either way.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::hints::Hints;
use super::message::Key;
use super::refusal::Refusal;
use crate::redact::json::{self, quoted};
use crate::redact::sse::{Edited, Editor};
use crate::rules::{Rules, ToolRules};

/// Edits the messages of one answer.
pub struct ResultEditor {
    rules: Arc<Rules>,
    hints: Arc<Hints>,
    /// The rule that blocked a message, for the record.
    pub blocked: Option<String>,
    /// The tools of the lists that passed, for one who asked for them.
    pub cursor: Option<String>,
}

impl ResultEditor {
    /// An editor for an answer on a route with these rules.
    pub fn new(rules: Arc<Rules>, hints: Arc<Hints>) -> ResultEditor {
        ResultEditor { rules, hints, blocked: None, cursor: None }
    }

    /// A message of the server.
    pub fn message(&mut self, text: &str) -> Edited {
        let rules = self.rules.clone();
        let mut current: Cow<'_, str> = Cow::Borrowed(text);
        let mut id = None;
        if let Ok(object) = serde_json::from_str::<RawObject<'_>>(text) {
            id = object.get("id").filter(|_| object.get("method").is_none()).map(|id| id.get().to_owned());
            if object.get("method").is_some_and(|method| method.get() == "\"notifications/tools/list_changed\"") {
                self.hints.forget();
            }
            if let Some(tools) = &rules.tools
                && let Some(filtered) = self.filter(&object, tools)
            {
                current = Cow::Owned(filtered);
            }
        } else if rules.tools.is_some() && text.trim_start().starts_with('[') {
            self.blocked = Some("mcp.batch".to_owned());
            return Edited::Dropped;
        }
        if let Some(redactor) = &rules.results {
            let redacted = json::redact(redactor, &current).and_then(|changed| {
                // What is no JSON after all is looked at as it is.
                if serde_json::from_str::<&RawValue>(&current).is_ok() {
                    return Ok(changed);
                }
                let now = changed.as_deref().unwrap_or(&current);
                Ok(redactor.text(now)?.or(changed))
            });
            match redacted {
                Ok(None) => {}
                Ok(Some(changed)) => current = Cow::Owned(changed),
                Err(blocked) => {
                    let rule = format!("redact.{}", blocked.rule);
                    self.blocked = Some(rule.clone());
                    let refusal = Refusal::rule(rule, "The answer held something that must not leave this network.");
                    return match id {
                        Some(id) => Edited::Changed(String::from_utf8_lossy(&refusal.body(Some(&id))).into_owned()),
                        None => Edited::Dropped,
                    };
                }
            }
        }
        match current {
            Cow::Borrowed(_) => Edited::Same,
            Cow::Owned(changed) => Edited::Changed(changed),
        }
    }

    /// Learns from a list of tools and takes out those that may not be called.
    fn filter(&mut self, message: &RawObject<'_>, rules: &ToolRules) -> Option<String> {
        let mut changed = false;
        let now = Instant::now();
        let entries = message.0.iter().map(|(key, value)| {
            if key != "result" {
                return (key.as_ref(), Cow::Borrowed(value.get()));
            }
            let Ok(result) = serde_json::from_str::<RawObject<'_>>(value.get()) else {
                return (key.as_ref(), Cow::Borrowed(value.get()));
            };
            self.cursor = result.get("nextCursor").and_then(|cursor| serde_json::from_str(cursor.get()).ok());
            let inner: Vec<(&str, Cow<'_, str>)> = result
                .0
                .iter()
                .map(|(key, value)| {
                    if key != "tools" {
                        return (key.as_ref(), Cow::Borrowed(value.get()));
                    }
                    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
                        return (key.as_ref(), Cow::Borrowed(value.get()));
                    };
                    let kept: Vec<&str> = items
                        .iter()
                        .filter(|item| {
                            serde_json::from_str::<Tool<'_>>(item.get()).is_ok_and(|tool| {
                                let read_only = tool.annotations.is_some_and(|hints| hints.read_only == Some(true));
                                self.hints.learn(&tool.name, read_only, now);
                                rules.refusing(&tool.name).is_none() && (read_only || !rules.read_only)
                            })
                        })
                        .map(|item| item.get())
                        .collect();
                    changed |= kept.len() != items.len();
                    (key.as_ref(), Cow::Owned(format!("[{}]", kept.join(","))))
                })
                .collect();
            (key.as_ref(), Cow::Owned(object(inner.iter().map(|(key, value)| (*key, value.as_ref())))))
        });
        let entries: Vec<(&str, Cow<'_, str>)> = entries.collect();
        changed.then(|| object(entries.iter().map(|(key, value)| (*key, value.as_ref()))))
    }

    /// A text that is no message: a page, an error of the server.
    pub fn text(&mut self, text: &str) -> Edited {
        match self.rules.results.as_ref().map(|redactor| redactor.text(text)) {
            None | Some(Ok(None)) => Edited::Same,
            Some(Ok(Some(changed))) => Edited::Changed(changed),
            Some(Err(blocked)) => {
                self.blocked = Some(format!("redact.{}", blocked.rule));
                Edited::Dropped
            }
        }
    }
}

impl Editor for ResultEditor {
    fn data(&mut self, data: &str) -> Edited {
        if data.is_empty() { Edited::Same } else { self.message(data) }
    }

    fn line(&mut self, line: &str) -> bool {
        self.rules.results.as_ref().is_none_or(|redactor| matches!(redactor.text(line), Ok(None)))
    }
}

fn object<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("{");
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&quoted(key));
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "readOnlyHint")]
    read_only: Option<bool>,
}

/// An object whose values are as they were written.
struct RawObject<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> RawObject<'a> {
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RawObject<'de>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawObject<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(RawObject(entries))
            }
        }
        from.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hints::Hint;
    use super::*;
    use crate::config::RouteKeys;

    fn editor(yaml: &str) -> ResultEditor {
        let keys: RouteKeys = serde_saphyr::from_str(&format!("url: http://a:1\n{yaml}")).unwrap();
        ResultEditor::new(Arc::new(Rules::compile(&keys).unwrap()), Arc::new(Hints::default()))
    }

    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","annotations":{"readOnlyHint":true},"x":1.50},{"name":"write"},{"name":"drop","annotations":{"readOnlyHint":true}},{"nameless":1}],"nextCursor":"c"}}"#;

    #[test]
    fn lists_are_filtered_and_learnt() {
        let mut edit = editor("tools: {deny: [drop], read_only: true}\n");
        let Edited::Changed(text) = edit.message(LIST) else { panic!() };
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","annotations":{"readOnlyHint":true},"x":1.50}],"nextCursor":"c"}}"#
        );
        assert_eq!(edit.cursor.as_deref(), Some("c"));
        assert_eq!(edit.hints.of("write", Instant::now()), Hint::Writes);
        assert_eq!(edit.hints.of("read", Instant::now()), Hint::ReadOnly);
        edit.message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
        assert_eq!(edit.hints.of("read", Instant::now()), Hint::Unknown);

        let mut edit = editor("tools: {allow: ['*']}\n");
        let one = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read"}]}}"#;
        assert_eq!(edit.message(one), Edited::Same);
    }

    #[test]
    fn a_blocked_answer_becomes_an_error_of_the_same_request() {
        let mut edit = editor("redact: [{detector: card_number, action: block}]\n");
        let Edited::Changed(text) = edit.message(r#"{"jsonrpc":"2.0","id":"q","result":{"t":"4111111111111111"}}"#) else {
            panic!()
        };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["id"], &value["error"]["data"]["rule"]), (&"q".into(), &"redact.card_number".into()));
        let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"t":"4111111111111111"}}"#;
        assert_eq!(edit.message(note), Edited::Dropped);
        assert_eq!(edit.message("not json 4111111111111111"), Edited::Dropped);
    }

    #[test]
    fn a_batch_of_answers_does_not_pass_where_tools_are_ruled() {
        assert_eq!(editor("tools: {read_only: true}\n").message(&format!("[{LIST}]")), Edited::Dropped);
    }
}
