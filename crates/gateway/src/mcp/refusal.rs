//! A refused call: what the caller gets, and the reason for log and record.
//!
//! A refused request of MCP is answered with a JSON-RPC error. What concerns one call (a rule) comes with status 200,
//! as any error of a tool does, so that the agent sees it; what concerns the path (no route, killed, upstream down)
//! comes with the status of HTTP that says so, and the same body.
//! No message holds anything of a payload.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};

use crate::redact::json::quoted;

/// The JSON-RPC code of a call that a rule refused.
pub const REFUSED: i64 = -32010;
/// The JSON-RPC code of a call that found no way to its server.
pub const UNAVAILABLE: i64 = -32011;
/// The code for headers that do not agree with the body (MCP 2026-07-28).
pub const HEADER_MISMATCH: i64 = -32020;
/// JSON-RPC: the body is not JSON.
pub const PARSE: i64 = -32700;
/// JSON-RPC: the body is no message.
pub const INVALID: i64 = -32600;

/// Why a call does not go on.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule or step: `tools.deny`, `kill`, `upstream.connect`. Recorded and logged.
    pub rule: String,
    /// The status, when what is refused is not a request of MCP.
    pub status: StatusCode,
    /// Whether the status also holds for a request of MCP.
    pub whole: bool,
    /// The JSON-RPC code.
    pub code: i64,
    /// For the caller, who may be a model: what was refused and what to do.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A rule refused the call.
    pub fn rule(rule: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal {
            rule: rule.into(),
            status: StatusCode::FORBIDDEN,
            whole: false,
            code: REFUSED,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The way to the server is closed or broken.
    pub fn path(rule: impl Into<String>, status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal {
            rule: rule.into(),
            status,
            whole: true,
            code: UNAVAILABLE,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The request is malformed.
    pub fn request(rule: impl Into<String>, status: StatusCode, code: i64, message: impl Into<String>) -> Refusal {
        Refusal { rule: rule.into(), status, whole: true, code, message: message.into(), retry_after: None }
    }

    /// The body that a caller gets; `id` is the request's, as it was written.
    pub fn body(&self, id: Option<&str>) -> Bytes {
        let id = id.unwrap_or("null");
        let retry = match self.retry_after {
            Some(wait) => format!(",\"retry_after_ms\":{}", wait.as_millis()),
            None => String::new(),
        };
        Bytes::from(format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{},\"message\":{},\"data\":{{\"by\":\"gateway\",\"rule\":{}{retry}}}}}}}",
            self.code,
            quoted(&self.message),
            quoted(&self.rule),
        ))
    }

    /// The status for a request with (`true`) or without an id.
    pub fn status_for(&self, is_request: bool) -> StatusCode {
        if is_request && !self.whole { StatusCode::OK } else { self.status }
    }

    /// The head of the answer.
    pub(crate) fn headers(&self, headers: &mut http::HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_json_whatever_the_message() {
        let refusal = Refusal { retry_after: Some(Duration::from_millis(1500)), ..Refusal::rule("a\"b", "say \"no\"\n") };
        let value: serde_json::Value = serde_json::from_slice(&refusal.body(Some("\"x\""))).unwrap();
        assert_eq!(value["id"], "x");
        assert_eq!(value["error"]["message"], "say \"no\"\n");
        assert_eq!(value["error"]["data"]["retry_after_ms"], 1500);
        let value: serde_json::Value = serde_json::from_slice(&refusal.body(None)).unwrap();
        assert!(value["id"].is_null());
    }

    #[test]
    fn a_rule_is_no_failure_of_http_for_a_request() {
        assert_eq!(Refusal::rule("r", "m").status_for(true), StatusCode::OK);
        assert_eq!(Refusal::rule("r", "m").status_for(false), StatusCode::FORBIDDEN);
        let killed = Refusal::path("kill", StatusCode::SERVICE_UNAVAILABLE, "m");
        assert_eq!(killed.status_for(true), StatusCode::SERVICE_UNAVAILABLE);
    }
}
