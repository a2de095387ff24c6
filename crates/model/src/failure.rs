//! From everything that can go wrong to a [`ModelFailure`]: one table for statuses, one for error types.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use outwork_wire::model::{FailureKind, ModelFailure};
use serde_json::Value;

/// What a provider says is cut to this many characters.
const WORDS: usize = 2_000;

/// A failure without a time to wait.
pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> ModelFailure {
    ModelFailure {
        kind,
        message: message.into(),
        retry_after: None,
    }
}

/// An answer that breaks the protocol.
pub(crate) fn nonsense(message: impl std::fmt::Display) -> ModelFailure {
    failure(
        FailureKind::Nonsense,
        format!("the model provider's answer breaks the protocol: {message}"),
    )
}

/// An answer with another status than success.
pub(crate) fn from_status(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> ModelFailure {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let error = parsed.as_ref().map(|body| &body["error"]);
    let error_type = error.and_then(|error| error["type"].as_str());
    let words = match error.and_then(|error| error["message"].as_str()) {
        Some(words) => words.to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let kind = kind_of_status(status, error_type, &words);
    let mut message = format!("the model provider answered {}", status.as_u16());
    if let Some(error_type) = error_type {
        message += &format!(" ({error_type})");
    }
    if !words.is_empty() {
        message += &format!(": {}", cut(&words));
    }
    if status.is_redirection() {
        message += "; redirects are not followed, so set the base URL to where it leads";
    }
    if let Some(id) = headers.get("request-id").and_then(|id| id.to_str().ok()) {
        message += &format!(" [request {id}]");
    }
    ModelFailure {
        kind,
        message,
        retry_after: retry_after(headers, now),
    }
}

/// An `error` event within a stream.
pub(crate) fn from_error_event(data: &Value) -> ModelFailure {
    let error_type = data["error"]["type"].as_str().unwrap_or_default();
    let words = data["error"]["message"].as_str().unwrap_or("it gave no message");
    let kind = kind_of_type(error_type, words).unwrap_or(FailureKind::Server);
    failure(
        kind,
        format!(
            "the model provider failed while it answered ({error_type}): {}",
            cut(words)
        ),
    )
}

fn kind_of_status(status: StatusCode, error_type: Option<&str>, words: &str) -> FailureKind {
    match status.as_u16() {
        400 | 404 | 413 | 422 => error_type
            .and_then(|error_type| kind_of_type(error_type, words))
            .unwrap_or(if is_too_long(words) {
                FailureKind::TooLong
            } else {
                FailureKind::Rejected
            }),
        401 | 403 if error_type == Some("billing_error") => FailureKind::Billing,
        401 | 403 => FailureKind::Authentication,
        402 => FailureKind::Billing,
        408 => FailureKind::Timeout,
        429 => FailureKind::RateLimited,
        529 => FailureKind::Overloaded,
        // A conflict passes; everything above 500 is the provider's own trouble.
        409 | 500.. => match error_type {
            Some("overloaded_error") => FailureKind::Overloaded,
            _ => FailureKind::Server,
        },
        _ => FailureKind::Rejected,
    }
}

/// The kind of an `error.type`, if it is known.
fn kind_of_type(error_type: &str, words: &str) -> Option<FailureKind> {
    Some(match error_type {
        "rate_limit_error" => FailureKind::RateLimited,
        "overloaded_error" => FailureKind::Overloaded,
        "api_error" => FailureKind::Server,
        "timeout_error" => FailureKind::Timeout,
        "authentication_error" | "permission_error" => FailureKind::Authentication,
        "billing_error" => FailureKind::Billing,
        "invalid_request_error" | "not_found_error" | "request_too_large" if is_too_long(words) => FailureKind::TooLong,
        // The service refuses an empty account as an invalid request.
        "invalid_request_error" if words.to_ascii_lowercase().contains("credit balance is too low") => {
            FailureKind::Billing
        }
        "invalid_request_error" | "not_found_error" | "request_too_large" => FailureKind::Rejected,
        _ => return None,
    })
}

/// Whether the provider's words say that the conversation does not fit the model.
fn is_too_long(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    [
        "prompt is too long",
        "exceed context limit",
        "exceeds the context window",
        "maximum context length",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

/// How long the provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let milliseconds = text("retry-after-ms")
        .and_then(|ms| ms.parse::<f64>().ok())
        .map(|ms| ms / 1000.0);
    let seconds = || text("retry-after").and_then(|seconds| seconds.parse::<f64>().ok());
    if let Some(seconds) = milliseconds.or_else(seconds) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text("retry-after")?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A request that could not be sent, or whose head did not come.
pub(crate) fn from_send(error: reqwest::Error) -> ModelFailure {
    let connecting = error.is_connect();
    let timeout = error.is_timeout();
    let chain = chain(error);
    match (connecting, timeout) {
        (true, _) => failure(
            FailureKind::Connection,
            format!("no connection to the model provider: {chain}"),
        ),
        (false, true) => failure(
            FailureKind::Timeout,
            format!("the model provider did not answer in time: {chain}"),
        ),
        (false, false) => failure(
            FailureKind::Connection,
            format!("the connection to the model provider broke before it answered: {chain}"),
        ),
    }
}

/// A stream that broke.
pub(crate) fn from_body(error: reqwest::Error) -> ModelFailure {
    let kind = if error.is_timeout() {
        FailureKind::Timeout
    } else {
        FailureKind::Cut
    };
    failure(kind, format!("the model provider's answer broke off: {}", chain(error)))
}

/// An error with its causes, without the URL.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

/// The first characters of a text.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{} [...]", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, body: &str) -> FailureKind {
        let status = StatusCode::from_u16(status).unwrap();
        from_status(status, &HeaderMap::new(), body.as_bytes(), SystemTime::now()).kind
    }

    #[test]
    fn every_status_has_its_kind() {
        let typed = |name: &str, words: &str| format!(r#"{{"error":{{"type":"{name}","message":"{words}"}}}}"#);
        for (status, body, expected) in [
            (400, typed("invalid_request_error", "no"), FailureKind::Rejected),
            (
                400,
                typed("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
                FailureKind::TooLong,
            ),
            (
                400,
                typed("invalid_request_error", "Your credit balance is too low"),
                FailureKind::Billing,
            ),
            (400, typed("rate_limit_error", "no"), FailureKind::RateLimited),
            (400, "plain".into(), FailureKind::Rejected),
            (401, String::new(), FailureKind::Authentication),
            (402, String::new(), FailureKind::Billing),
            (403, typed("permission_error", "no"), FailureKind::Authentication),
            (404, typed("not_found_error", "model: x"), FailureKind::Rejected),
            (408, String::new(), FailureKind::Timeout),
            (409, String::new(), FailureKind::Server),
            (413, typed("request_too_large", "no"), FailureKind::Rejected),
            (422, String::new(), FailureKind::Rejected),
            (429, String::new(), FailureKind::RateLimited),
            (500, String::new(), FailureKind::Server),
            (503, typed("overloaded_error", "no"), FailureKind::Overloaded),
            (529, String::new(), FailureKind::Overloaded),
            (307, String::new(), FailureKind::Rejected),
            (418, String::new(), FailureKind::Rejected),
        ] {
            assert_eq!(kind(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn error_events_have_their_kind() {
        for (name, expected) in [
            ("overloaded_error", FailureKind::Overloaded),
            ("rate_limit_error", FailureKind::RateLimited),
            ("api_error", FailureKind::Server),
            ("timeout_error", FailureKind::Timeout),
            ("authentication_error", FailureKind::Authentication),
            ("billing_error", FailureKind::Billing),
            ("invalid_request_error", FailureKind::Rejected),
            ("something_new", FailureKind::Server),
        ] {
            let failure = from_error_event(&serde_json::json!({"error": {"type": name, "message": "words"}}));
            assert_eq!(failure.kind, expected);
            assert!(failure.message.contains("words"));
        }
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            retry_after(&map, now)
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(read(&[("retry-after", " 1.5 ")]), Some(Duration::from_millis(1500)));
        assert_eq!(
            read(&[("retry-after", "7"), ("retry-after-ms", "250")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            read(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")]),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            read(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            Some(Duration::ZERO)
        );
        assert_eq!(read(&[("retry-after", "-3")]), None);
        assert_eq!(read(&[("retry-after", "soon")]), None);
        assert_eq!(read(&[("retry-after-ms", "NaN")]), None);
    }
}
