//! The request to the upstream, and what it means when that fails.

use http::{Request, Response, StatusCode};
use http_body_util::Either;

use super::body::BodyError;
use super::call::{Context, killed};
use super::headers;
use super::trace::Trace;
use crate::mcp::refusal::{INVALID, Refusal};
use crate::record::Decision;
use crate::upstream::pool::{Reply, RequestBody, SendError};

/// Sends the request and waits for the head of the answer.
pub async fn send(
    context: &Context<'_>,
    mut parts: http::request::Parts,
    body: RequestBody,
    repeatable: bool,
    trace: &mut Trace,
) -> Result<Response<Reply>, Refusal> {
    let route = context.route;
    headers::upstream(
        &mut parts.headers,
        &route.route.rules,
        &route.authority,
        context.host,
        context.identity.clone(),
    );
    let again = match (&body, repeatable) {
        (Either::Left(whole), true) => {
            let (method, uri, headers, whole) = (
                parts.method.clone(),
                context.target.clone(),
                parts.headers.clone(),
                whole.clone(),
            );
            Some(move || {
                let mut request = Request::new(Either::Left(whole.clone()));
                *request.method_mut() = method.clone();
                *request.uri_mut() = uri.clone();
                *request.headers_mut() = headers.clone();
                request
            })
        }
        _ => None,
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = context.target.clone();
    *request.headers_mut() = parts.headers;

    let again = again
        .as_ref()
        .map(|again| again as &(dyn Fn() -> Request<RequestBody> + Send + Sync));
    let limit = context.live.config.timeouts.response;
    let sent = tokio::select! {
        sent = tokio::time::timeout(limit, route.pool.send(request, again)) => sent,
        () = context.cut.cancelled() => {
            trace.end(Decision::Cut, Some("kill"));
            return Err(killed());
        }
    };
    let name = &route.route.name;
    match sent {
        Ok(Ok(response)) if response.status().is_informational() => {
            let message = "The server behind this route answered with an upgrade that nobody asked for.";
            Err(Refusal::path("upstream.exchange", StatusCode::BAD_GATEWAY, message))
        }
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(SendError::Dial(error))) => {
            tracing::warn!(route = name, %error, "the upstream cannot be reached");
            Err(error.refusal())
        }
        Ok(Err(SendError::Exchange(error))) => {
            if let Some(refusal) = uploading(&error) {
                return Err(refusal);
            }
            tracing::warn!(route = name, %error, "the upstream broke the exchange");
            let message =
                "The server behind this route broke off the exchange. Whether it did what was asked is not known.";
            Err(Refusal::path("upstream.exchange", StatusCode::BAD_GATEWAY, message))
        }
        Err(_) => {
            let message =
                "The server behind this route did not answer in time. Whether it did what was asked is not known.";
            Err(Refusal::path("timeouts.response", StatusCode::GATEWAY_TIMEOUT, message))
        }
    }
}

/// The refusal of an upload that was at fault itself, when an exchange ended with it.
fn uploading(error: &hyper::Error) -> Option<Refusal> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let (rule, status) = match error.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge) => ("request_max", StatusCode::PAYLOAD_TOO_LARGE),
            Some(BodyError::TooSlow) => ("timeouts.body", StatusCode::REQUEST_TIMEOUT),
            Some(BodyError::Broken(_)) => ("http.body", StatusCode::BAD_REQUEST),
            Some(BodyError::Killed) | None => {
                cause = error.source();
                continue;
            }
        };
        return Some(Refusal::request(
            rule,
            status,
            INVALID,
            "The request's body is too long, too slow or broken.",
        ));
    }
    None
}
