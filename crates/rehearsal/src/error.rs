//! Errors of this crate, and the errors that the server answers with.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::StatusCode;
use serde_json::{Value, json};

/// Why a rehearsal server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario file cannot be read.
    #[error("cannot read the scenario file {path}: {source}")]
    ReadScenario {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The scenario is not one that can be played.
    #[error("{origin} cannot be played: {message}")]
    Scenario {
        /// Where it comes from.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// An error answer of the API.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub kind: String,
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: usual_type(status).to_owned(),
            message: message.into(),
        }
    }

    /// 400 `invalid_request_error`.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The body of the answer.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        json!({"type": "error", "error": {"type": self.kind, "message": self.message}, "request_id": request_id})
    }
}

/// The `error.type` that belongs to a status.
pub(crate) fn usual_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500..=599 => "api_error",
        _ => "invalid_request_error",
    }
}
