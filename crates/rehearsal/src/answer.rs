//! Answers: the events of a step as a response, at its pace, and the faults that come instead.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::conversation::Conversation;
use crate::error::{ApiError, usual_type};
use crate::events::{self, Envelope, Event};
use crate::fault::{Fault, FaultKind, Hang, Nonsense, StatusFault};
use crate::play::{AnswerBlock, Performance};
use crate::scenario::{Pace, StopReason};
use crate::seal::random_id;
use crate::server::{Disconnect, failure, with_request_id};
use crate::usage::PromptUsage;
use crate::validate::Checked;

/// Conversations whose attempts are counted.
const COUNTED: usize = 100_000;
/// Between the pings of an answer that never ends.
const PING_EVERY: Duration = Duration::from_millis(100);
/// Lets the bytes before a break leave.
const BREAK_AFTER: Duration = Duration::from_millis(20);
/// Bytes of one piece of an oversized answer.
const FLOOD_PIECE: usize = 64 << 10;

/// A place in a conversation.
pub(crate) type PlaceKey = [u8; 32];

/// How often each place was asked for, so that faults run out.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<PlaceKey, u32>>);

/// The place of a request: its play, first user message, scene and step.
pub(crate) fn place(conversation: &Conversation, play: &str, performance: &Performance<'_>) -> PlaceKey {
    let mut digest = Sha256::new();
    for part in [
        play,
        conversation.first_user(),
        &conversation.humans[performance.scene].text,
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.update((performance.scene as u64).to_be_bytes());
    digest.update((performance.step as u64).to_be_bytes());
    digest.finalize().into()
}

impl Attempts {
    /// The fault that the next attempt at this place meets, if any is left.
    pub(crate) fn next_fault(&self, place: &PlaceKey, faults: &[Fault]) -> Option<FaultKind> {
        if faults.is_empty() {
            return None;
        }
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() >= COUNTED && !attempts.contains_key(place) {
            attempts.clear();
        }
        let count = attempts.entry(*place).or_default();
        let mut before = *count;
        *count = count.saturating_add(1);
        for fault in faults {
            match fault.times {
                Some(times) if before >= times => before -= times,
                _ => return Some(fault.kind.clone()),
            }
        }
        None
    }
}

/// A piece of a response body.
enum Piece {
    /// Bytes after a delay.
    Bytes(Duration, Bytes),
    /// So many bytes of text: as deltas, or bare.
    Flood { bytes: u64, bare: bool },
    /// Pings forever.
    Pings,
    /// Nothing, forever.
    Silence,
    /// The connection breaks.
    Break,
}

impl Piece {
    fn now(bytes: impl Into<Bytes>) -> Self {
        Piece::Bytes(Duration::ZERO, bytes.into())
    }
}

/// A body that sends its pieces one by one and ends when it is dropped.
fn body(pieces: VecDeque<Piece>) -> Body {
    Body::from_stream(futures_util::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.pop_front()?;
        let bytes = match piece {
            Piece::Bytes(delay, bytes) => {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                bytes
            }
            Piece::Flood { bytes: 0, .. } => Bytes::new(),
            Piece::Flood { bytes, bare } => {
                let size = usize::try_from(bytes).unwrap_or(usize::MAX).min(FLOOD_PIECE);
                pieces.push_front(Piece::Flood {
                    bytes: bytes - size as u64,
                    bare,
                });
                let text = "x".repeat(size);
                if bare {
                    Bytes::from(text)
                } else {
                    Bytes::from(text_delta(&text).to_bytes())
                }
            }
            Piece::Pings => {
                tokio::time::sleep(PING_EVERY).await;
                pieces.push_front(Piece::Pings);
                events::ping().to_bytes().into()
            }
            Piece::Silence => std::future::pending().await,
            Piece::Break => {
                // What was sent must reach the client before the connection breaks.
                tokio::time::sleep(BREAK_AFTER).await;
                return Some((Err(std::io::Error::other("the play cuts the answer")), pieces));
            }
        };
        Some((Ok(bytes), pieces))
    }))
}

fn text_delta(text: &str) -> Event {
    let delta = serde_json::json!({"type": "text_delta", "text": text});
    let data = serde_json::json!({"type": "content_block_delta", "index": 0, "delta": delta});
    Event {
        name: "content_block_delta",
        data,
        paced: false,
    }
}

fn respond(content_type: &str, body: Body, request_id: &str) -> Response {
    let mut response = Response::new(body);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    with_request_id(response, request_id)
}

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

fn paced(events: Vec<Event>, pace: Pace) -> VecDeque<Piece> {
    let first = Duration::from_millis(pace.first_token_ms);
    let each = Duration::from_millis(pace.per_chunk_ms);
    let pieces = events.into_iter().enumerate().map(|(number, event)| {
        let delay = match number {
            0 => first,
            _ if event.paced => each,
            _ => Duration::ZERO,
        };
        Piece::Bytes(delay, event.to_bytes().into())
    });
    // Without a pace there is no reason to send every delta for itself.
    if !each.is_zero() {
        return pieces.collect();
    }
    let mut joined: VecDeque<Piece> = VecDeque::new();
    let mut buffer = Vec::new();
    let mut wait = Duration::ZERO;
    for piece in pieces {
        let Piece::Bytes(delay, bytes) = piece else {
            continue;
        };
        wait += delay;
        buffer.extend_from_slice(&bytes);
        if buffer.len() >= 16 << 10 {
            joined.push_back(Piece::Bytes(
                std::mem::take(&mut wait),
                std::mem::take(&mut buffer).into(),
            ));
        }
    }
    joined.push_back(Piece::Bytes(wait, buffer.into()));
    joined
}

fn envelope(checked: &Checked, usage: PromptUsage) -> Envelope {
    Envelope {
        message_id: random_id("msg_01"),
        model: checked.model.clone(),
        usage,
    }
}

/// The answer as the play wants it.
pub(crate) fn regular(
    mut performance: Performance<'_>,
    checked: &Checked,
    request_id: &str,
    usage: PromptUsage,
) -> Response {
    let pace = performance.pace;
    let answer = &mut performance.answer;
    events::limit(answer, checked.max_tokens, &checked.stop_sequences);
    let envelope = envelope(checked, usage);
    if checked.stream {
        let pieces = paced(events::stream(answer, &envelope, pace), pace);
        return respond(EVENT_STREAM, body(pieces), request_id);
    }
    let delay = Duration::from_millis(pace.first_token_ms);
    let message = events::message(answer, &envelope).to_string();
    respond(
        "application/json",
        body(VecDeque::from([Piece::Bytes(delay, message.into())])),
        request_id,
    )
}

/// The fault that comes instead of an answer.
pub(crate) fn faulty(
    fault: FaultKind,
    mut performance: Performance<'_>,
    checked: &Checked,
    request_id: &str,
    usage: impl FnOnce() -> PromptUsage,
) -> Response {
    let streamed = |performance: &mut Performance<'_>, after_events: usize| -> VecDeque<Piece> {
        if performance.answer.blocks.is_empty() {
            performance.answer.blocks.push(AnswerBlock::Text("So far".into()));
        }
        let mut events = events::stream(&performance.answer, &envelope(checked, usage()), performance.pace);
        events.truncate(after_events);
        events.into_iter().map(|event| Piece::now(event.to_bytes())).collect()
    };
    let mut pieces;
    match fault {
        FaultKind::Status(fault) => return status(fault, request_id),
        FaultKind::ContentType { content_type, body } => {
            return respond(&content_type, Body::from(body), request_id);
        }
        FaultKind::Disconnect => {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(Disconnect);
            return response;
        }
        FaultKind::Hang { how: Hang::Headers, .. } => {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(NeverSent);
            return response;
        }
        FaultKind::Cut { after_events } => {
            pieces = streamed(&mut performance, after_events);
            pieces.push_back(Piece::Break);
        }
        FaultKind::Hang { how, after_events } => {
            pieces = streamed(&mut performance, after_events);
            pieces.push_back(if how == Hang::Ping {
                Piece::Pings
            } else {
                Piece::Silence
            });
        }
        FaultKind::ErrorEvent {
            error_type,
            message,
            after_events,
        } => {
            pieces = streamed(&mut performance, after_events);
            let message = message.unwrap_or_else(|| "The play fails within the stream".into());
            let error = ApiError {
                status: StatusCode::OK,
                kind: error_type,
                message,
            };
            pieces.push_back(Piece::now(format!(
                "event: error\ndata: {}\n\n",
                error.body(request_id)
            )));
        }
        FaultKind::Oversized { bytes, one_line } => {
            performance.answer.blocks = vec![AnswerBlock::Text(String::new())];
            performance.answer.stop_reason = StopReason::EndTurn;
            let mut events = streamed(&mut performance, usize::MAX);
            // After `message_start`, `content_block_start` and `ping`.
            let rest = events.split_off(3);
            pieces = events;
            if one_line {
                pieces.push_back(Piece::now("event: content_block_delta\ndata: "));
            }
            pieces.push_back(Piece::Flood { bytes, bare: one_line });
            pieces.extend(rest);
        }
        FaultKind::Nonsense { how, after_events } => {
            pieces = streamed(&mut performance, after_events);
            pieces.push_back(Piece::now(nonsense(how)));
        }
    }
    respond(EVENT_STREAM, body(pieces), request_id)
}

/// Marks an answer whose head is never sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeverSent;

fn nonsense(how: Nonsense) -> Vec<u8> {
    let start = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
                 \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    match how {
        Nonsense::Json => b"event: content_block_delta\ndata: {\"type\": \"content_block_delta\", oops\n\n".to_vec(),
        Nonsense::Order => b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":77,\
            \"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n"
            .to_vec(),
        Nonsense::DuplicateStart => start.repeat(2).into_bytes(),
        Nonsense::Utf8 => b"event: content_block_delta\ndata: {\"type\":\"\xff\xfe\xfd\"}\n\n".to_vec(),
        Nonsense::Shape => {
            b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":\"none\"}\n\n".to_vec()
        }
        Nonsense::EarlyEnd => Vec::new(),
    }
}

fn status(fault: StatusFault, request_id: &str) -> Response {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match fault.body {
        Some(body) => {
            let content_type = fault.content_type.unwrap_or_else(|| "text/plain; charset=utf-8".into());
            respond(&content_type, Body::from(body), request_id)
        }
        None => failure(
            &ApiError {
                status,
                kind: fault.error_type.unwrap_or_else(|| usual_type(status).into()),
                message: fault
                    .message
                    .unwrap_or_else(|| format!("The play answers with status {}", fault.status)),
            },
            request_id,
        ),
    };
    *response.status_mut() = status;
    let headers = [
        ("retry-after", fault.retry_after),
        ("retry-after-ms", fault.retry_after_ms.map(|ms| ms.to_string())),
        ("x-should-retry", fault.should_retry.map(|retry| retry.to_string())),
    ];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response.into_response()
}
