//! Answers: JSON, event streams, errors. The one place where an error kind becomes a status.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use outwork_wire::id::RequestId;
use serde::Serialize;
use serde_json::json;

use crate::error::{ApiError, ErrorKind};

/// What an operation answers.
pub(crate) enum Reply {
    /// 200 with JSON text.
    Json(Vec<u8>),
    /// 200 with JSON text, and what caches may do with it.
    Cached(Vec<u8>, &'static str),
    /// 200 with a body that is made as it goes.
    Stream(Body),
    /// 200 with bytes of any kind, and headers that say what they are.
    Bytes(Body, HeaderMap),
    /// 200 with plain text.
    Text(String),
    /// 204.
    Nothing,
}

impl Reply {
    /// 200 with this value as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Result<Self, ApiError> {
        serde_json::to_vec(value).map(Self::Json).map_err(ApiError::internal)
    }

    /// 200 with a secret in JSON, which no cache may keep.
    pub(crate) fn uncached(value: &impl Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Self::Cached(body, "no-store"))
    }

    /// 200 with JSON for everybody, which caches may keep for a while.
    pub(crate) fn public(value: &impl Serialize) -> Result<Self, ApiError> {
        const _: () = assert!(crate::identity::CACHED.as_secs() == 300, "the header below says 300 s");
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Self::Cached(body, "public, max-age=300"))
    }
}

/// The status of an error kind, its `error.type`, and whether a client may try again by itself.
pub(crate) fn status(kind: ErrorKind) -> (StatusCode, &'static str, bool) {
    match kind {
        ErrorKind::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request_error", false),
        ErrorKind::Authentication => (StatusCode::UNAUTHORIZED, "authentication_error", false),
        ErrorKind::Permission => (StatusCode::FORBIDDEN, "permission_error", false),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found_error", false),
        ErrorKind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", false),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "invalid_request_error", false),
        ErrorKind::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "invalid_request_error", false),
        ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", false),
        ErrorKind::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "timeout_error", true),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "api_error", true),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "api_error", true),
    }
}

/// How long a client waits before it tries again after a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The response to a request.
pub(crate) fn response(result: Result<Reply, ApiError>, request_id: &RequestId) -> Response {
    let mut response = match result {
        Ok(Reply::Json(bytes)) => typed(Body::from(bytes), "application/json"),
        Ok(Reply::Cached(bytes, caches)) => {
            let mut response = typed(Body::from(bytes), "application/json");
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static(caches));
            response
        }
        Ok(Reply::Nothing) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(Reply::Bytes(body, headers)) => {
            let mut response = Response::new(body);
            *response.headers_mut() = headers;
            response
        }
        Ok(Reply::Text(text)) => typed(Body::from(text), "text/plain; version=0.0.4; charset=utf-8"),
        Ok(Reply::Stream(body)) => {
            let mut response = typed(body, "text/event-stream; charset=utf-8");
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        Err(error) => error_response(error, request_id),
    };
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        response.headers_mut().insert("request-id", value);
    }
    response
}

fn typed(body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn error_response(error: ApiError, request_id: &RequestId) -> Response {
    let (status, kind, again) = status(error.kind);
    if let Some(cause) = &error.cause {
        tracing::error!(%request_id, status = status.as_u16(), cause = format!("{cause:#}"), "request failed");
    }
    let mut inner = json!({ "type": kind, "message": error.message });
    if let Some(details) = error.details {
        inner["details"] = details;
    }
    let body = json!({ "type": "error", "error": inner, "request_id": request_id });
    let mut response = typed(Body::from(body.to_string()), "application/json");
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        "x-should-retry",
        HeaderValue::from_static(if again { "true" } else { "false" }),
    );
    if error.kind == ErrorKind::Unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
    }
    response
}
