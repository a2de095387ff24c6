//! The upstream's answer on its way to the caller: streamed as it is where no rule reads it, else read by the rules.

use bytes::Bytes;
use http::header;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::answered::Answered;
use super::body::{Live, Wait};
use super::call::{Context, killed};
use super::trace::Trace;
use super::{headers, judge};
use crate::mcp::edit::ResultEditor;
use crate::mcp::refusal::Refusal;
use crate::record::Decision;
use crate::redact::sse::{self, Edited};
use crate::upstream::pool::Reply;

/// An answer that the caller gets.
pub enum Answer {
    /// It streams.
    Live(http::response::Parts, Box<Live>),
    /// It is there.
    Whole(http::response::Parts, Bytes),
}

/// Whether an answer is a stream of events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let essence = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    essence.is_some_and(|value| {
        value
            .split(';')
            .next()
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// Makes the upstream's answer the caller's; `id` is that of the request as it was written, if it has one.
pub async fn read(
    context: &Context<'_>,
    id: Option<&str>,
    response: Response<Reply>,
    is_head: bool,
    trace: &mut Trace,
) -> Result<Answer, Refusal> {
    let route = context.route;
    let rules = &route.route.rules;
    let timeouts = context.live.config.timeouts;
    let (mut head, mut body) = response.into_parts();
    headers::strip_hop(&mut head.headers);
    if is_head || body.is_end_stream() {
        route.pool.keep(body);
        trace.end(Decision::Allowed, None);
        return Ok(Answer::Whole(head, Bytes::new()));
    }
    let is_events = is_event_stream(&head.headers);
    let answered = id.filter(|_| is_events).and_then(Answered::new);
    let editor = rules
        .reads_results()
        .then(|| ResultEditor::new(rules.clone(), route.hints.clone()));
    let too_large = || {
        let message = format!(
            "The answer is longer than the {} bytes that this route passes on.",
            rules.response_max
        );
        let mut refusal = Refusal::path("response_max", StatusCode::BAD_GATEWAY, message);
        refusal.whole = false;
        refusal
    };
    if !is_events && body.size_hint().lower() > rules.response_max as u64 {
        return Err(too_large());
    }
    let Some(mut editor) = editor else {
        let live = Live {
            body: Some(body),
            pool: route.pool.clone(),
            cut: context.cut.clone(),
            idle: if is_events { timeouts.stream_idle } else { timeouts.idle },
            limit: (!is_events).then_some(rules.response_max),
            events: None,
            answered,
            wait: Wait::default(),
        };
        return Ok(Answer::Live(head, Box::new(live)));
    };

    let mut encodings = head.headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let message =
            "The server behind this route encoded its answer though it was asked not to, so it cannot be checked.";
        return Err(Refusal::path("upstream.encoding", StatusCode::BAD_GATEWAY, message));
    }
    headers::body_may_change(&mut head.headers);
    if is_events {
        let live = Live {
            body: Some(body),
            pool: route.pool.clone(),
            cut: context.cut.clone(),
            idle: timeouts.stream_idle,
            limit: None,
            events: Some((sse::Stream::new(rules.response_max), editor)),
            answered,
            wait: Wait::default(),
        };
        return Ok(Answer::Live(head, Box::new(live)));
    }

    let mut whole = Vec::new();
    let collect = async {
        loop {
            let frame = tokio::time::timeout(timeouts.idle, body.frame()).await.map_err(|_| {
                let message = "The answer of the server behind this route stopped in the middle.";
                Refusal::path("timeouts.idle", StatusCode::GATEWAY_TIMEOUT, message)
            })?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|_| {
                let message = "The answer of the server behind this route broke off.";
                Refusal::path("upstream.body", StatusCode::BAD_GATEWAY, message)
            })?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > rules.response_max {
                    return Err(too_large());
                }
                whole.extend_from_slice(&data);
            }
        }
    };
    tokio::select! {
        collected = collect => collected?,
        () = context.cut.cancelled() => return Err(killed()),
    }
    route.pool.keep(body);
    let text = String::from_utf8_lossy(&whole);
    let edited = if judge::is_json(&head.headers) {
        editor.message(&text)
    } else {
        editor.text(&text)
    };
    trace.end(
        if editor.blocked.is_some() {
            Decision::Refused
        } else {
            Decision::Allowed
        },
        editor.blocked.as_deref(),
    );
    let bytes = match edited {
        Edited::Same => Bytes::from(whole),
        Edited::Changed(text) => Bytes::from(text),
        Edited::Dropped => {
            let rule = editor.blocked.unwrap_or_else(|| "redact".to_owned());
            return Err(Refusal::rule(
                rule,
                "The answer held something that must not leave this network.",
            ));
        }
    };
    Ok(Answer::Whole(head, bytes))
}
