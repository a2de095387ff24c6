//! What can go wrong on purpose: one fault is one way in which an answer is not what the client hoped for.
//!
//! A fault names exactly one kind; a file that names none or two is refused.

use serde::{Deserialize, Deserializer, de};

/// One fault of a step.
#[derive(Debug, Clone)]
pub struct Fault {
    /// How often it happens to one conversation at this step before the step succeeds; without it, always.
    pub times: Option<u32>,
    /// What happens.
    pub kind: FaultKind,
}

/// The kinds of fault.
#[derive(Debug, Clone)]
pub enum FaultKind {
    /// An error answer.
    Status(StatusFault),
    /// The connection closes after this many events.
    Cut {
        /// Events sent before the cut.
        after_events: usize,
    },
    /// The connection closes without an answer.
    Disconnect,
    /// The answer breaks the protocol.
    Nonsense {
        /// In which way.
        how: Nonsense,
        /// Events sent before it.
        after_events: usize,
    },
    /// The answer never ends.
    Hang {
        /// In which way.
        how: Hang,
        /// Events sent before it.
        after_events: usize,
    },
    /// An `error` event within the stream.
    ErrorEvent {
        /// The `error.type` of the event.
        error_type: String,
        /// The message of the event.
        message: Option<String>,
        /// Events sent before it.
        after_events: usize,
    },
    /// An answer of at least this many bytes.
    Oversized {
        /// Bytes of text.
        bytes: u64,
        /// All of it in one line of the event stream, which never ends within the limit of any sane reader.
        one_line: bool,
    },
    /// A successful answer with another content type and this body.
    ContentType {
        /// The `content-type` header.
        content_type: String,
        /// The body.
        body: String,
    },
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct StatusFault {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// `error.type`; without it, the usual one of the status.
    pub error_type: Option<String>,
    /// `error.message`.
    pub message: Option<String>,
    /// The `retry-after` header, seconds or an HTTP date.
    pub retry_after: Option<String>,
    /// The `retry-after-ms` header.
    pub retry_after_ms: Option<u64>,
    /// The `x-should-retry` header.
    pub should_retry: Option<bool>,
    /// A body instead of the usual JSON.
    pub body: Option<String>,
    /// The `content-type` header of `body`.
    pub content_type: Option<String>,
}

/// Ways to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonsense {
    /// `data` that is not JSON.
    Json,
    /// A delta for a block that was never started.
    Order,
    /// A block that starts twice.
    DuplicateStart,
    /// Bytes that are not UTF-8.
    Utf8,
    /// An event whose `data` is JSON of the wrong shape.
    Shape,
    /// The stream ends properly, but before `message_stop`.
    EarlyEnd,
}

/// Ways never to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hang {
    /// Not even the head of the answer comes.
    Headers,
    /// The head and some events come, then nothing.
    Silence,
    /// Some events come, then `ping` events forever.
    Ping,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultTable {
    times: Option<u32>,
    status: Option<u16>,
    error_type: Option<String>,
    message: Option<String>,
    retry_after: Option<toml::Value>,
    retry_after_ms: Option<u64>,
    should_retry: Option<bool>,
    body: Option<String>,
    content_type: Option<String>,
    cut_after_events: Option<usize>,
    #[serde(default)]
    disconnect: bool,
    nonsense: Option<Nonsense>,
    hang: Option<Hang>,
    error_event: Option<String>,
    #[serde(default)]
    after_events: usize,
    oversized: Option<u64>,
    #[serde(default)]
    one_line: bool,
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FaultTable::deserialize(deserializer)?
            .into_fault()
            .map_err(de::Error::custom)
    }
}

impl FaultTable {
    fn into_fault(self) -> Result<Fault, String> {
        if self.times == Some(0) {
            return Err("`times` of a fault must be at least 1; leave it out for a fault that always happens".into());
        }
        let after_events = self.after_events;
        let retry_after = match self.retry_after {
            None => None,
            Some(toml::Value::Integer(seconds)) => Some(seconds.to_string()),
            Some(toml::Value::Float(seconds)) => Some(seconds.to_string()),
            Some(toml::Value::String(text)) => Some(text),
            Some(other) => {
                return Err(format!("`retry_after` must be seconds or an HTTP date, not {other}"));
            }
        };
        let with_status = retry_after.is_some() || self.retry_after_ms.is_some() || self.should_retry.is_some();
        let mut kinds = Vec::new();
        if let Some(status) = self.status {
            if !(400..600).contains(&status) {
                return Err(format!("`status` of a fault must be 400 to 599, not {status}"));
            }
            kinds.push(FaultKind::Status(StatusFault {
                status,
                error_type: self.error_type.clone(),
                message: self.message.clone(),
                retry_after,
                retry_after_ms: self.retry_after_ms,
                should_retry: self.should_retry,
                body: self.body.clone(),
                content_type: self.content_type.clone(),
            }));
        } else if with_status || self.error_type.is_some() {
            return Err("`retry_after`, `retry_after_ms`, `should_retry` and `error_type` need `status`".into());
        } else if let Some(content_type) = self.content_type {
            kinds.push(FaultKind::ContentType {
                content_type,
                body: self.body.unwrap_or_default(),
            });
        } else if self.body.is_some() {
            return Err("`body` needs `status` or `content_type`".into());
        }
        kinds.extend(
            self.cut_after_events
                .map(|after_events| FaultKind::Cut { after_events }),
        );
        kinds.extend(self.disconnect.then_some(FaultKind::Disconnect));
        kinds.extend(self.nonsense.map(|how| FaultKind::Nonsense { how, after_events }));
        kinds.extend(self.hang.map(|how| FaultKind::Hang { how, after_events }));
        let message = self.message;
        kinds.extend(self.error_event.map(|error_type| FaultKind::ErrorEvent {
            error_type,
            message,
            after_events,
        }));
        kinds.extend(self.oversized.map(|bytes| FaultKind::Oversized {
            bytes,
            one_line: self.one_line,
        }));
        match (kinds.pop(), kinds.is_empty()) {
            (Some(kind), true) => Ok(Fault {
                times: self.times,
                kind,
            }),
            (None, _) => Err(format!("a fault needs one of {FAULT_KINDS}")),
            (Some(_), false) => Err(format!("a fault takes only one of {FAULT_KINDS}")),
        }
    }
}

const FAULT_KINDS: &str = "`status`, `content_type`, `cut_after_events`, `disconnect`, `nonsense`, `hang`, \
                           `error_event`, `oversized`";
