//! Scripts: the steps of a scene as JSON within a user message.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::scenario::{Scene, Step, check_steps, collect_captures};

/// Reads the steps that stand as JSON, fenced or alone, in a human message.
pub(super) fn parse(text: &str) -> Result<Scene, String> {
    let json = match text.split_once("```json") {
        Some((_, rest)) => rest.split_once("```").map_or(rest, |(script, _)| script),
        None => text,
    };
    let value: Value = serde_json::from_str(json.trim()).map_err(|error| {
        format!("expected a list of steps as JSON in the user message, within ```json and ```, but: {error}")
    })?;
    let steps = match value {
        Value::Array(_) => value,
        Value::Object(mut fields) if fields.len() == 1 && fields.contains_key("steps") => fields["steps"].take(),
        Value::Object(_) => Value::Array(vec![value]),
        _ => return Err("expected a list of steps as JSON in the user message.".to_owned()),
    };
    let steps: Vec<Step> =
        serde_json::from_value(steps).map_err(|error| format!("the script is not a list of steps: {error}"))?;
    let mut known = BTreeSet::new();
    collect_captures(&steps, &mut known);
    check_steps(&steps, &known).map_err(|message| format!("the script is wrong: {message}"))?;
    Ok(Scene { steps })
}
