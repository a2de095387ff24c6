//! What can go wrong with a call.

use std::fmt;
use std::time::Duration;

use outwork_wire::sse::SseError;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be made, or the call cannot be expressed.
    #[error("{0}")]
    Invalid(String),
    /// The server answered with an error.
    #[error(transparent)]
    Api(Box<ApiError>),
    /// The server was not reached.
    #[error("cannot connect to {base_url}: {cause}; check that the server runs and that the address is right")]
    Connect {
        /// Where to.
        base_url: String,
        /// Why not.
        cause: String,
    },
    /// The deadline passed.
    #[error("{call} got no answer within {after:?}")]
    Timeout {
        /// Method and path.
        call: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke on the way.
    #[error("{call} was cut off: {cause}")]
    Transport {
        /// Method and path.
        call: String,
        /// Why.
        cause: String,
    },
    /// The answer is larger than allowed.
    #[error("{call} was answered with more than {limit} bytes")]
    TooLarge {
        /// Method and path.
        call: String,
        /// The limit.
        limit: usize,
    },
    /// The answer is not what the contract says.
    #[error("the answer to {call} does not follow the contract: {cause}")]
    Decode {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The event stream cannot be read.
    #[error("the event stream cannot be read: {0}")]
    Stream(#[from] SseError),
}

impl ClientError {
    /// The HTTP status, if the server answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(e) => Some(e.status),
            _ => None,
        }
    }

    /// The server's error, if it answered with one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(e) => Some(e),
            _ => None,
        }
    }

    /// True for a 4xx that the same call will meet again: everything but 408, 409 and 429.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Api(e) => e.is_permanent(),
            Self::Invalid(_) => true,
            _ => false,
        }
    }

    /// True if the server was not reached, so nothing can have happened there.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// An error that the server answered with.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// Method and path of the call.
    pub call: String,
    /// The HTTP status; 0 for an error that came inside an event stream.
    pub status: u16,
    /// `error.type`, for example `not_found_error`; empty if the body was not an API error.
    pub kind: String,
    /// `error.message`, or the beginning of the body.
    pub message: String,
    /// `error.details`, if there were any.
    pub details: Option<Value>,
    /// The request's id, for the server's operator.
    pub request_id: Option<String>,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// `x-should-retry`, if the server said so or so.
    pub should_retry: Option<bool>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        f.write_str(" (")?;
        if self.status != 0 {
            write!(f, "{} ", self.status)?;
        }
        if !self.kind.is_empty() {
            write!(f, "{} ", self.kind)?;
        }
        write!(f, "from {}", self.call)?;
        if let Some(id) = &self.request_id {
            write!(f, ", request {id}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// True for a 4xx that the same call will meet again: everything but 408, 409 and 429.
    pub fn is_permanent(&self) -> bool {
        (400..500).contains(&self.status) && !matches!(self.status, 408 | 409 | 429)
    }

    /// True if the server did nothing and the same call may succeed later.
    pub(crate) fn says_try_again(&self) -> bool {
        self.should_retry
            .unwrap_or(matches!(self.status, 408 | 409 | 429 | 500..))
    }

    /// Reads an error answer.
    pub(crate) fn read(call: String, status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let text = |pointer: &str| {
            json.as_ref()
                .and_then(|j| j.pointer(pointer))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let message = text("/error/message").unwrap_or_else(|| {
            let body = String::from_utf8_lossy(&body[..body.len().min(2000)]);
            let body = body.trim();
            if body.is_empty() {
                format!("the server answered {status} without a body")
            } else {
                body.chars().take(500).collect()
            }
        });
        Self {
            call,
            status,
            kind: text("/error/type").unwrap_or_default(),
            message,
            details: json.as_ref().and_then(|j| j.pointer("/error/details")).cloned(),
            request_id: text("/request_id").or_else(|| header("request-id").map(str::to_owned)),
            retry_after: retry_after(headers),
            should_retry: match header("x-should-retry") {
                Some("true") => Some(true),
                Some("false") => Some(false),
                _ => None,
            },
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}
