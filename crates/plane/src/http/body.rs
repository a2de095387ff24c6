//! Request bodies: bounded in size, depth and time, parsed strictly, with the place of a fault in the message.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::lists;
use crate::error::{ApiError, ErrorKind};

/// Reads a whole body.
pub(crate) async fn read(body: Body, max_bytes: usize, within: Duration) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            ErrorKind::TooLarge,
            format!("the request body is larger than {max_bytes} bytes"),
        )
    };
    // A body that says so itself is not waited for.
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(within, Limited::new(body, max_bytes).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::invalid("the request body ended before it was complete")),
        Err(_) => Err(ApiError::new(
            ErrorKind::RequestTimeout,
            format!("the request body did not arrive within {} s", within.as_secs()),
        )),
    }
}

/// Parses a JSON body. An absent body is taken as `{}`, as the SDKs send none where every field is optional.
pub(crate) fn json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &Bytes, max_depth: usize) -> Result<T, ApiError> {
    if !bytes.is_empty() && !is_json(headers) {
        return Err(ApiError::invalid(
            "content-type: the body of this request must be application/json",
        ));
    }
    check_depth(bytes, max_depth)?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    lists::check(text)?;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let message = readable(&inner.to_string());
        if inner.is_data() && path != "." {
            ApiError::invalid(format!("{path}: {message}"))
        } else if inner.is_data() {
            ApiError::invalid(message)
        } else {
            ApiError::invalid(format!("the body is not valid JSON: {message}"))
        }
    })?;
    reader
        .end()
        .map_err(|error| ApiError::invalid(format!("the body is not valid JSON: {error}")))?;
    Ok(value)
}

/// Parses a part of a body, with its path in the message.
pub(crate) fn parse_value<T: DeserializeOwned>(path: &str, value: serde_json::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().to_string();
        let message = readable(&error.into_inner().to_string());
        if inner == "." {
            ApiError::invalid(format!("{path}: {message}"))
        } else {
            ApiError::invalid(format!("{path}.{inner}: {message}"))
        }
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .is_some_and(|v| v.trim().eq_ignore_ascii_case("application/json"))
}

/// Refuses JSON that is nested deeper than `max_depth`, before anything recursive reads it.
fn check_depth(bytes: &[u8], max_depth: usize) -> Result<(), ApiError> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > max_depth {
                    return Err(ApiError::invalid(format!(
                        "the body is nested deeper than {max_depth} levels"
                    )));
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The parser's message without its position, which the path already says better.
fn readable(message: &str) -> String {
    let message = match message.rfind(" at line ") {
        Some(at) => &message[..at],
        None => message,
    };
    // The names of our types say nothing to a client.
    match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected an object"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(default)]
        #[allow(dead_code)]
        events: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        name: String,
    }

    fn parse(text: &'static str) -> Result<Sample, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        json(&headers, &Bytes::from_static(text.as_bytes()), 8)
    }

    #[test]
    fn faults_are_named_with_their_place() {
        assert!(parse("").is_ok());
        let message = |text| parse(text).unwrap_err().message;
        assert!(message(r#"{"events":[{"name":1}]}"#).starts_with("events[0].name: "));
        assert!(message(r#"{"events":[{"nam":1}]}"#).contains("`nam`"));
        assert!(message(r#"{"lost":1}"#).contains("`lost`"));
        assert!(message(r#"{"events":"#).contains("not valid JSON"));
        assert!(message(r#"{} {}"#).contains("not valid JSON"));
        assert!(message("[[[[[[[[[[]]]]]]]]]]").contains("deeper"));
        assert!(message("[[]]").contains("must be a JSON object"));
        assert!(message(r#"{"list":[]}"#).starts_with("list: "));
        assert!(message(r#"{"tools":[{"configs":[["x"]]}]}"#).starts_with("tools[0].configs[0]: "));
        assert_eq!(message("7"), "invalid type: integer `7`, expected an object");
    }
}
