//! Events as a client observes them, and the live stream of them.
//!
//! A server may be newer than its client, so an event is kept as it came: unknown types and fields survive.
//! What a worker or a terminal needs is read through accessors that answer `None` where the field is missing or
//! has another shape.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use outwork_wire::sse::{SseDecoder, SseEvent};
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::time::{Instant, Sleep};

use crate::client::{Settings, root_cause};
use crate::{ApiError, ClientError, Result};

/// One event as the server sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedEvent {
    /// Its id; empty for previews, which have none of their own.
    pub id: String,
    /// Its type, for example `agent.message`.
    pub kind: String,
    /// The whole event, `id` and `type` included.
    pub raw: Map<String, Value>,
}

impl ObservedEvent {
    /// The event that this JSON object is; `None` if it names no type.
    pub fn from_object(raw: Map<String, Value>) -> Option<Self> {
        let kind = raw.get("type")?.as_str()?.to_owned();
        let id = raw.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self { id, kind, raw })
    }

    /// A field that is text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.raw.get(field)?.as_str()
    }

    /// A field that is an object.
    pub fn object(&self, field: &str) -> Option<&Map<String, Value>> {
        self.raw.get(field)?.as_object()
    }

    /// A value inside, by JSON pointer without the leading slash: `error/retry_status/type`.
    pub fn at(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('/');
        let first = self.raw.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Object(map) => map.get(part),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The text blocks of `content`, joined; empty if there are none.
    pub fn content_text(&self) -> String {
        let mut out = String::new();
        let blocks = self.raw.get("content").and_then(Value::as_array);
        for block in blocks.into_iter().flatten() {
            if let Some(text) = block.get("text").and_then(Value::as_str) {
                out.push_str(text);
            }
        }
        out
    }

    /// `name`: the tool of a tool use.
    pub fn name(&self) -> Option<&str> {
        self.text("name")
    }

    /// `input`: what a tool is called with.
    pub fn input(&self) -> Option<&Map<String, Value>> {
        self.object("input")
    }

    /// The call that a result or a confirmation is about: `tool_use_id`, `custom_tool_use_id` or `mcp_tool_use_id`.
    pub fn call_id(&self) -> Option<&str> {
        ["tool_use_id", "custom_tool_use_id", "mcp_tool_use_id"]
            .into_iter()
            .find_map(|field| self.text(field))
    }

    /// `is_error`; false if it is missing or null.
    pub fn is_error(&self) -> bool {
        self.raw.get("is_error").and_then(Value::as_bool).unwrap_or(false)
    }

    /// `session_thread_id`: the thread it belongs to, unless that is the primary one.
    pub fn thread_id(&self) -> Option<&str> {
        self.text("session_thread_id")
    }

    /// `evaluated_permission` of a tool use; `None` if it is missing or null.
    pub fn permission(&self) -> Option<&str> {
        self.text("evaluated_permission")
    }

    /// The type of `stop_reason`, for idle events.
    pub fn stop_reason(&self) -> Option<&str> {
        self.at("stop_reason/type")?.as_str()
    }

    /// The calls that a `requires_action` waits for.
    pub fn required_actions(&self) -> Vec<&str> {
        let ids = self.at("stop_reason/event_ids").and_then(Value::as_array);
        ids.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// For an `event_start`: id and type of the event that is being written.
    pub fn preview_start(&self) -> Option<(&str, &str)> {
        (self.kind == "event_start")
            .then(|| Some((self.at("event/id")?.as_str()?, self.at("event/type")?.as_str()?)))
            .flatten()
    }

    /// For an `event_delta` of text: the id of the event that is being written, and the next piece of it.
    pub fn preview_text(&self) -> Option<(&str, &str)> {
        (self.kind == "event_delta")
            .then(|| Some((self.text("event_id")?, self.at("delta/content/text")?.as_str()?)))
            .flatten()
    }

    /// True for an answer to a call: a result posted by a client or made by the server.
    pub fn is_result(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "user.tool_result" | "user.custom_tool_result" | "agent.tool_result" | "agent.mcp_tool_result"
        )
    }

    /// True for an idle that ends the turn: every stop reason but `requires_action`, also unknown ones.
    pub fn ends_turn(&self) -> bool {
        self.kind == "session.status_idle" && self.stop_reason() != Some("requires_action")
    }

    /// True if the session is over: nothing follows.
    pub fn ends_session(&self) -> bool {
        matches!(self.kind.as_str(), "session.status_terminated" | "session.deleted")
    }
}

impl Serialize for ObservedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ObservedEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let raw = Map::deserialize(deserializer)?;
        Self::from_object(raw).ok_or_else(|| serde::de::Error::missing_field("type"))
    }
}

type Pieces = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// The live events of a session. Ends when the server ends it; dropping it closes the connection.
pub struct EventStream {
    pieces: Option<Pieces>,
    decoder: SseDecoder,
    call: String,
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl EventStream {
    pub(crate) fn new(response: Response, call: String, settings: &Settings) -> Self {
        let silence = settings.timeouts.stream_silence;
        Self {
            pieces: Some(Box::pin(response.bytes_stream())),
            decoder: SseDecoder::new(settings.max_event_bytes),
            call,
            silence: silence.map(|limit| (limit, Box::pin(tokio::time::sleep(limit)))),
        }
    }

    /// The next event; `None` when the server has ended the stream. Safe to drop and call again.
    pub async fn next_event(&mut self) -> Option<Result<ObservedEvent>> {
        self.next().await
    }

    fn read(&self, event: SseEvent) -> Option<Result<ObservedEvent>> {
        let name = event.event.as_deref().unwrap_or("message");
        if name == "ping" {
            return None;
        }
        if name == "error" {
            let error = ApiError::read(self.call.clone(), 0, &HeaderMap::new(), event.data.as_bytes());
            return Some(Err(ClientError::Api(Box::new(error))));
        }
        let decode_error = |cause: String| ClientError::Decode {
            call: self.call.clone(),
            cause,
        };
        let read = match serde_json::from_str::<Map<String, Value>>(&event.data) {
            Err(error) => Err(decode_error(format!("an event is not a JSON object: {error}"))),
            Ok(mut raw) => {
                if !raw.contains_key("type") {
                    raw.insert("type".into(), Value::from(name));
                }
                ObservedEvent::from_object(raw).ok_or_else(|| decode_error("an event's type is not text".into()))
            }
        };
        Some(read)
    }

    fn transport_error(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Transport {
            call: self.call.clone(),
            cause: root_cause(error),
        }
    }
}

impl Stream for EventStream {
    type Item = Result<ObservedEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Some(event) = self.decoder.next_event() {
                if let Some(item) = self.read(event) {
                    return Poll::Ready(Some(item));
                }
            }
            let Some(pieces) = self.pieces.as_mut() else {
                return Poll::Ready(None);
            };
            let piece = match pieces.as_mut().poll_next(cx) {
                Poll::Ready(piece) => piece,
                Poll::Pending => {
                    let Some((limit, sleep)) = self.silence.as_mut() else {
                        return Poll::Pending;
                    };
                    ready!(sleep.as_mut().poll(cx));
                    let after = *limit;
                    self.pieces = None;
                    let call = self.call.clone();
                    return Poll::Ready(Some(Err(ClientError::Timeout { call, after })));
                }
            };
            if let Some((limit, sleep)) = self.silence.as_mut() {
                sleep.as_mut().reset(Instant::now() + *limit);
            }
            let failed = match piece {
                None => {
                    self.pieces = None;
                    continue;
                }
                Some(Ok(bytes)) => match self.decoder.push(&bytes) {
                    Ok(()) => continue,
                    Err(error) => ClientError::Stream(error),
                },
                Some(Err(error)) => self.transport_error(&error),
            };
            // What was complete before the failure is still given out; nothing after it is read.
            self.pieces = None;
            return Poll::Ready(Some(Err(failed)));
        }
    }
}
