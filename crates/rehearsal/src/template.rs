//! Templates: `{{name}}` in a text or in the strings of a tool's input.
//!
//! Only a name between the braces makes a template; other braces stay as they are, and `{{open}}` writes two of
//! them. A string that is nothing but `{{name|int}}` becomes a number. A name that is not known is an error,
//! never an empty text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// Names that are always there.
pub(crate) const BUILT_IN: [&str; 13] = [
    "user",
    "first_user",
    "system",
    "result",
    "count",
    "scene",
    "step",
    "round",
    "index",
    "model",
    "session",
    "tools",
    "open",
];

static TEMPLATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:\|\s*(int)\s*)?\}\}").expect("the expression is constant")
});

/// The values of the names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Fills the templates of a text.
    pub(crate) fn render(&self, text: &str) -> Result<String, String> {
        let mut missing = None;
        let rendered = TEMPLATE.replace_all(text, |captures: &Captures<'_>| match self.0.get(&captures[1]) {
            Some(value) => value.clone(),
            None => {
                missing.get_or_insert_with(|| captures[1].to_owned());
                String::new()
            }
        });
        match missing {
            Some(name) => Err(format!(
                "a value for `{name}`, which no step of this conversation has captured"
            )),
            None => Ok(rendered.into_owned()),
        }
    }

    /// Fills the templates in all strings of a JSON value, keys excepted.
    pub(crate) fn render_value(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => match whole_integer(text) {
                Some(_) => {
                    let digits = self.render(text)?;
                    let number: i64 = digits
                        .trim()
                        .parse()
                        .map_err(|_| format!("a whole number for `{text}`, not `{digits}`"))?;
                    Value::from(number)
                }
                None => Value::String(self.render(text)?),
            },
            Value::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| self.render_value(item))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, field)| Ok((key.clone(), self.render_value(field)?)))
                    .collect::<Result<_, String>>()?,
            ),
            other => other.clone(),
        })
    }
}

fn whole_integer(text: &str) -> Option<&str> {
    let captures = TEMPLATE.captures(text)?;
    let whole = captures.get(0)?;
    captures.get(2).filter(|_| whole.len() == text.len())?;
    captures.get(1).map(|name| name.as_str())
}

/// Checks that a text names only what is known.
pub(crate) fn check(text: &str, known: &BTreeSet<String>) -> Result<(), String> {
    for captures in TEMPLATE.captures_iter(text) {
        let name = &captures[1];
        if !BUILT_IN.contains(&name) && !known.contains(name) {
            return Err(format!(
                "`{{{{{name}}}}}` names nothing: no step captures it, and it is none of {}",
                BUILT_IN.join(", ")
            ));
        }
    }
    Ok(())
}

/// Checks all strings of a JSON value.
pub(crate) fn check_value(value: &Value, known: &BTreeSet<String>) -> Result<(), String> {
    match value {
        Value::String(text) => check(text, known),
        Value::Array(items) => items.iter().try_for_each(|item| check_value(item, known)),
        Value::Object(fields) => fields.values().try_for_each(|field| check_value(field, known)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fills_names_and_leaves_other_braces() {
        let mut names = Names::default();
        names.set("file", "a.py");
        names.set("line", "12");
        assert_eq!(
            names.render("see {{file}} and {{ line }}: {x} {{}}").unwrap(),
            "see a.py and 12: {x} {{}}"
        );
        assert_eq!(
            names.render_value(&json!({"r": ["{{line|int}}", "{{line}}"]})).unwrap(),
            json!({"r": [12, "12"]})
        );
        assert!(names.render("{{other}}").unwrap_err().contains("`other`"));
        assert!(names.render_value(&json!("{{file|int}}")).unwrap_err().contains("a.py"));
    }

    #[test]
    fn a_value_is_not_a_template() {
        let mut names = Names::default();
        names.set("a", "{{b}}");
        names.set("b", "no");
        assert_eq!(names.render("{{a}}").unwrap(), "{{b}}");
    }
}
