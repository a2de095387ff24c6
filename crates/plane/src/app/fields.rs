//! Fields of requests that many resources have: texts, lists, metadata.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::http::shortened;

const MAX_METADATA_KEYS: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// For `#[serde(default, deserialize_with = "given")]`: an absent field is `None`. With `Option<T>` a null is
/// refused, with `Option<Option<T>>` it is `Some(None)`.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Refuses a text that is shorter or longer than allowed, counted in characters.
pub(crate) fn check_length(path: &str, text: &str, allowed: RangeInclusive<usize>) -> Result<(), ApiError> {
    let length = text.chars().count();
    if allowed.contains(&length) {
        return Ok(());
    }
    Err(ApiError::invalid(if length == 0 {
        format!("{path}: must not be empty")
    } else {
        format!(
            "{path}: must have from {} to {} characters, not {length}",
            allowed.start(),
            allowed.end()
        )
    }))
}

/// Refuses a list that has entries, of things that this server does not do yet.
pub(crate) fn unsupported_list(path: &str, what: &str, entries: Option<&Vec<Value>>) -> Result<(), ApiError> {
    match entries {
        Some(list) if !list.is_empty() => Err(ApiError::invalid(format!(
            "{path}: {what} are not supported by this server; leave the field out or send an empty list"
        ))),
        _ => Ok(()),
    }
}

/// Checks metadata that is given as a whole: strings by name. The error is a message with the path of the fault.
pub(crate) fn checked_metadata(metadata: Map<String, Value>) -> Result<Map<String, Value>, String> {
    for (key, value) in &metadata {
        check_pair(key, value)?;
    }
    check_count(&metadata)?;
    Ok(metadata)
}

/// Changes metadata: a null takes the key away (an empty text too, if `empty_deletes`), a text is set.
pub(crate) fn merge_metadata(
    metadata: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    empty_deletes: bool,
) -> Result<(), String> {
    for (key, value) in patch {
        if value.is_null() || (empty_deletes && value == "") {
            metadata.shift_remove(key);
        } else {
            check_pair(key, value)?;
            metadata.insert(key.clone(), value.clone());
        }
    }
    check_count(metadata)
}

fn check_pair(key: &str, value: &Value) -> Result<(), String> {
    let shown = shortened(key);
    if key.is_empty() || key.chars().count() > MAX_METADATA_KEY {
        return Err(format!(
            "metadata: the key `{shown}` must have from 1 to {MAX_METADATA_KEY} characters"
        ));
    }
    match value.as_str() {
        None => Err(format!("metadata.{shown}: must be a string")),
        Some(text) if text.chars().count() > MAX_METADATA_VALUE => Err(format!(
            "metadata.{shown}: must have at most {MAX_METADATA_VALUE} characters"
        )),
        Some(_) => Ok(()),
    }
}

fn check_count(metadata: &Map<String, Value>) -> Result<(), String> {
    if metadata.len() > MAX_METADATA_KEYS {
        return Err(format!(
            "metadata: at most {MAX_METADATA_KEYS} keys are allowed, not {}",
            metadata.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_checked_and_merged() {
        let map = |value: Value| value.as_object().unwrap().clone();
        assert!(checked_metadata(map(json!({ "a": "b", "c": "" }))).is_ok());
        assert!(
            checked_metadata(map(json!({ "a": 1 })))
                .unwrap_err()
                .starts_with("metadata.a: ")
        );
        assert!(checked_metadata(map(json!({ "a": null }))).is_err());
        assert!(checked_metadata(map(json!({ "": "b" }))).is_err());
        assert!(checked_metadata(map(json!({ "k".repeat(65): "b" }))).is_err());
        assert!(checked_metadata(map(json!({ "k".repeat(64): "ä".repeat(512) }))).is_ok());
        assert!(checked_metadata(map(json!({ "a": "b".repeat(513) }))).is_err());

        let mut metadata = map(json!({ "a": "1", "b": "2" }));
        merge_metadata(&mut metadata, &map(json!({ "a": null, "c": "3", "b": "" })), false).unwrap();
        assert_eq!(Value::from(metadata.clone()), json!({ "b": "", "c": "3" }));
        merge_metadata(&mut metadata, &map(json!({ "c": "" })), true).unwrap();
        assert_eq!(Value::from(metadata.clone()), json!({ "b": "" }));
        let many: Map<String, Value> = (0..16).map(|n| (format!("k{n}"), json!("v"))).collect();
        assert!(merge_metadata(&mut metadata, &many, false).unwrap_err().contains("16"));
    }
}
