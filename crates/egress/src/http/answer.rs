//! What the boundary itself answers: refusals and failures, in words that tell an agent what happened.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};

use super::body::Reply;

/// Says that an answer is the boundary's own, and which rule gave it.
const REFUSED_BY: HeaderName = HeaderName::from_static("outwork-refused-by");

/// The body of an answer.
pub(crate) enum Answer {
    /// The boundary's own.
    Own(Option<Bytes>),
    /// A server's.
    Reply(Box<Reply>),
}

/// Why a request gets no answer of its server.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) rule: String,
    pub(super) reason: String,
    /// Whether the connection ends with it.
    pub(super) close: bool,
    kind: &'static str,
}

impl Refusal {
    /// The policy refuses it.
    pub(super) fn policy(rule: &str, reason: &str) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, rule, reason)
    }

    /// A check refuses it.
    pub(super) fn new(status: StatusCode, rule: &str, reason: &str) -> Refusal {
        Refusal {
            status,
            rule: rule.to_owned(),
            reason: reason.to_owned(),
            close: false,
            kind: "refused by the network policy",
        }
    }

    /// The server could not be reached, or its answer not be passed on.
    pub(super) fn failed(status: StatusCode, reason: &str) -> Refusal {
        Refusal {
            kind: "the request failed",
            ..Refusal::new(status, "none", reason)
        }
    }

    /// Nothing crosses that is not recorded.
    pub(super) fn unrecorded() -> Refusal {
        let reason = "the record of the request could not be kept, so it was not sent";
        Refusal::failed(StatusCode::SERVICE_UNAVAILABLE, reason)
    }

    pub(super) fn closing(mut self) -> Refusal {
        self.close = true;
        self
    }

    pub(super) fn answer(&self) -> Response<Answer> {
        let text = format!("outwork: {}: {} (rule {})\n", self.kind, self.reason, self.rule);
        let mut answer = Response::new(Answer::Own(Some(Bytes::from(text))));
        *answer.status_mut() = self.status;
        *answer.version_mut() = Version::HTTP_11;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(rule) = HeaderValue::from_str(&self.rule) {
            headers.insert(REFUSED_BY, rule);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}
