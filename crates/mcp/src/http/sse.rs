//! Event streams within bounds, with every message looked at before the SDK sees it.
//!
//! The SDK skips an event that is not a message of the protocol and then waits for one that never comes. Here such an
//! event ends the request at once.

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rmcp::{
    model::{RequestId, ServerJsonRpcMessage},
    transport::streamable_http_client::SseError,
};
use sse_stream::{Sse, SseStream};
use tokio_util::sync::CancellationToken;

use super::{HttpError, Trace};

/// What a stream is for.
pub(super) struct Purpose {
    /// The request that it answers, if it answers one.
    pub(super) request: Option<RequestId>,
    pub(super) trace: Option<Trace>,
    /// Bytes of the whole stream, if it is to end.
    pub(super) total: Option<u64>,
    /// Bytes of one event.
    pub(super) event: usize,
}

/// The events of a body.
pub(super) fn events(
    body: Incoming,
    purpose: Purpose,
    closed: CancellationToken,
    note: impl Fn(&HttpError) + Send + Clone + 'static,
) -> BoxStream<'static, Result<Sse, SseError>> {
    let Purpose {
        request,
        trace,
        total,
        event,
    } = purpose;
    let fail = move |error: HttpError| {
        if let Some(trace) = &trace {
            trace.fail(&error);
        }
        note(&error);
        error
    };
    let limits = (EventLimit::new(event), total.unwrap_or(u64::MAX));
    let bytes = stream::unfold(Some((body, limits)), {
        let fail = fail.clone();
        move |state| {
            let (fail, closed) = (fail.clone(), closed.clone());
            async move {
                let (mut body, (mut events, mut left)) = state?;
                loop {
                    let frame = tokio::select! {
                        _ = closed.cancelled() => return None,
                        frame = body.frame() => frame?,
                    };
                    let Ok(frame) = frame else {
                        // The SDK may take the stream up again where it broke, so this is no failure of the request yet.
                        let error = HttpError::connection("the connection broke in the middle of the answer");
                        return Some((Err(error), None));
                    };
                    let Ok(data) = frame.into_data() else { continue };
                    left = match left.checked_sub(data.len() as u64) {
                        Some(left) => left,
                        None => {
                            let error = fail(HttpError::too_large("the answer", total.unwrap_or(u64::MAX)));
                            return Some((Err(error), None));
                        }
                    };
                    if !events.take(&data) {
                        let error = fail(HttpError::too_large("an event of the answer", event as u64));
                        return Some((Err(error), None));
                    }
                    return Some((Ok(data), Some((body, (events, left)))));
                }
            }
        }
    });
    let mut answered = false;
    SseStream::from_bytes_stream(bytes.boxed())
        .map(move |item| {
            let sse = item?;
            match &request {
                Some(request) if !answered => {
                    let (sse, is_answer) =
                        check(sse, request).map_err(|error| SseError::Body(Box::new(fail(error))))?;
                    answered = is_answer;
                    Ok(sse)
                }
                _ => Ok(sse),
            }
        })
        .boxed()
}

/// Checks an event of a stream that answers `request`; the flag says whether it is the answer.
fn check(mut sse: Sse, request: &RequestId) -> Result<(Sse, bool), HttpError> {
    let is_message = matches!(sse.event.as_deref(), None | Some("" | "message"));
    let Some(data) = sse.data.as_deref().filter(|data| is_message && !data.trim().is_empty()) else {
        return Ok((sse, false));
    };
    let message = parse(data.as_bytes())?;
    match message {
        ServerJsonRpcMessage::Error(ref error) if error.id.is_none() => {
            let message = answer_to(message, request)?;
            sse.data = serde_json::to_string(&message).ok();
            Ok((sse, true))
        }
        ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_) => {
            answer_to(message, request)?;
            Ok((sse, true))
        }
        ServerJsonRpcMessage::Request(_) | ServerJsonRpcMessage::Notification(_) => Ok((sse, false)),
    }
}

/// A message of the protocol.
pub(super) fn parse(bytes: &[u8]) -> Result<ServerJsonRpcMessage, HttpError> {
    // serde's own words would quote the answer.
    serde_json::from_slice(bytes).map_err(|error| {
        HttpError::protocol(match error.classify() {
            serde_json::error::Category::Data => "the answer is no message of the protocol",
            _ => "the answer is not valid JSON",
        })
    })
}

/// `message` if it answers `request`. An error without an id counts: a server that could not read the request has none.
pub(super) fn answer_to(message: ServerJsonRpcMessage, request: &RequestId) -> Result<ServerJsonRpcMessage, HttpError> {
    // Some servers return a number as a string; the SDK takes that.
    let same = |id: &RequestId| id == request || id.to_string() == request.to_string();
    match message {
        ServerJsonRpcMessage::Response(response) if same(&response.id) => Ok(ServerJsonRpcMessage::Response(response)),
        ServerJsonRpcMessage::Error(error) if error.id.as_ref().is_none_or(same) => {
            Ok(ServerJsonRpcMessage::error(error.error, Some(request.clone())))
        }
        ServerJsonRpcMessage::Response(_)
        | ServerJsonRpcMessage::Error(_)
        | ServerJsonRpcMessage::Request(_)
        | ServerJsonRpcMessage::Notification(_) => Err(HttpError::protocol("the answer belongs to another request")),
    }
}

/// Counts the bytes that a parser keeps for the event at hand. Comments are not kept.
struct EventLimit {
    limit: usize,
    kept: usize,
    line: usize,
    comment: bool,
    after_cr: bool,
}

impl EventLimit {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: 0,
            line: 0,
            comment: false,
            after_cr: false,
        }
    }

    /// False if the event is over the limit.
    fn take(&mut self, chunk: &[u8]) -> bool {
        for &byte in chunk {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    if self.line == 0 {
                        self.kept = 0;
                    } else if !self.comment {
                        self.kept += self.line + 1;
                    }
                    self.line = 0;
                }
                _ => {
                    if self.line == 0 {
                        self.comment = byte == b':';
                    }
                    self.line += 1;
                }
            }
            if self.kept + self.line > self.limit {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_counted_until_its_empty_line() {
        let mut limit = EventLimit::new(12);
        assert!(limit.take(b"data: 12345\n"));
        assert!(limit.take(b"\ndata: 12345\r\n\r\n"));
        assert!(limit.take(b": a comment\n: a comment\n: a comment\n"));
        assert!(limit.take(b"data: 12345\n"));
        assert!(!limit.take(b"d"));
        assert!(!EventLimit::new(12).take(b"data: 1234567"));
    }

    #[test]
    fn an_answer_has_to_belong_to_the_request() {
        let request = RequestId::Number(7);
        let of = |json: &str| answer_to(parse(json.as_bytes()).unwrap(), &request);
        assert!(of(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).is_ok());
        assert!(of(r#"{"jsonrpc":"2.0","id":"7","result":{}}"#).is_ok());
        assert!(of(r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#).is_ok());
        assert!(of(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#).is_err());
        assert!(of(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#).is_err());
    }

    #[test]
    fn a_bad_message_is_not_quoted() {
        for bad in ["{\"secret\":1}", "secret", "[]", ""] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
