//! What is posted and what comes back, as far as HTTP has to know.

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorData, GetExtensions, RequestId, ServerJsonRpcMessage,
};

use super::{HttpError, Trace, sse};
use crate::RequestInfo;

pub(super) const JSON: &str = "application/json";
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// What a message is, for HTTP.
pub(super) struct Posted<'a> {
    pub(super) info: RequestInfo<'a>,
    pub(super) request: Option<&'a RequestId>,
    pub(super) trace: Option<&'a Trace>,
    /// It is the first question of revision 2026-07-28.
    pub(super) discovers: bool,
    /// Its answer is a stream that does not end.
    pub(super) subscribes: bool,
}

impl<'a> Posted<'a> {
    pub(super) fn of(message: &'a ClientJsonRpcMessage) -> Self {
        let none = RequestInfo {
            method: "",
            tool: None,
            call_id: None,
        };
        match message {
            ClientJsonRpcMessage::Request(request) => {
                let trace = request.request.extensions().get::<Trace>();
                let tool = match &request.request {
                    ClientRequest::CallToolRequest(call) => Some(call.params.name.as_ref()),
                    _ => None,
                };
                Self {
                    info: RequestInfo {
                        method: request.request.method(),
                        tool,
                        call_id: trace.and_then(Trace::call_id),
                    },
                    request: Some(&request.id),
                    trace,
                    discovers: matches!(request.request, ClientRequest::DiscoverRequest(_)),
                    subscribes: matches!(request.request, ClientRequest::SubscriptionsListenRequest(_)),
                }
            }
            ClientJsonRpcMessage::Notification(notification) => {
                let method = match &notification.notification {
                    ClientNotification::InitializedNotification(_) => "notifications/initialized",
                    ClientNotification::CancelledNotification(_) => "notifications/cancelled",
                    // No other is ever sent from here.
                    _ => "notifications",
                };
                let info = RequestInfo { method, ..none };
                Self {
                    info,
                    request: None,
                    trace: None,
                    discovers: false,
                    subscribes: false,
                }
            }
            ClientJsonRpcMessage::Response(_) | ClientJsonRpcMessage::Error(_) => Self {
                info: none,
                request: None,
                trace: None,
                discovers: false,
                subscribes: false,
            },
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    EventStream,
    Other,
}

impl Content {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let value = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(JSON) {
            Self::Json
        } else if essence.eq_ignore_ascii_case(EVENT_STREAM) {
            Self::EventStream
        } else {
            Self::Other
        }
    }
}

/// The error of the protocol in a body, as the answer to `request`.
pub(super) fn told(body: &[u8], request: &RequestId) -> Option<ServerJsonRpcMessage> {
    match sse::parse(body).ok()? {
        // Whatever its id: what refuses a request before reading it cannot know that.
        ServerJsonRpcMessage::Error(error) => Some(ServerJsonRpcMessage::error(error.error, Some(request.clone()))),
        _ => None,
    }
}

/// What the SDK takes as the sign of a server of before 2026-07-28.
pub(super) fn not_discoverable(request: &RequestId) -> ServerJsonRpcMessage {
    let error = ErrorData::invalid_request("the server does not know server/discover", None);
    ServerJsonRpcMessage::error(error, Some(request.clone()))
}

pub(super) fn of_status(status: StatusCode) -> HttpError {
    HttpError::connection(match status.as_u16() {
        404 => "nothing answers at this URL (HTTP 404)".into(),
        code if status.is_redirection() => {
            format!(
                "the server redirects with HTTP {code}, which is not followed; only 307 and 308 within its origin are"
            )
        }
        code => format!("the server answered HTTP {code}"),
    })
}
