//! Live streams: what was committed, and previews of what is being written, to everybody who listens.
//!
//! Each listener has a queue of shared frames, bounded in number and in bytes. One that does not keep up is cut off; it reconnects and
//! reads the history. A listener costs next to nothing while nothing happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use outwork_wire::event::EventBody;
use outwork_wire::id::{EventId, SessionId};
use outwork_wire::{Event, sse};
use serde_json::json;
use tokio::sync::mpsc;

/// One thing that streams show, encoded once for all listeners.
pub(crate) struct Frame {
    /// The event as it goes over the wire.
    pub bytes: Bytes,
    /// For previews: the type of the event that is previewed.
    pub preview_of: Option<&'static str>,
    /// Whether a thread's own stream shows it.
    pub in_thread: bool,
    /// Whether the stream ends with it.
    pub last: bool,
}

impl Frame {
    /// A committed event.
    pub(crate) fn event(event: &Event) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(event)?;
        Ok(Self {
            bytes: Bytes::from(sse::encode(event.body.kind(), &text)),
            preview_of: None,
            in_thread: event.body.belongs_to_thread(),
            last: matches!(
                event.body,
                EventBody::SessionDeleted {} | EventBody::StatusTerminated {}
            ),
        })
    }

    /// The beginning of an event that is being written.
    pub(crate) fn start(id: &EventId, kind: &'static str) -> Self {
        let text = json!({ "type": "event_start", "event": { "id": id, "type": kind } }).to_string();
        Self::preview("event_start", &text, kind)
    }

    /// A piece of a message that is being written.
    pub(crate) fn delta(id: &EventId, index: usize, text: &str) -> Self {
        let text = json!({
            "type": "event_delta",
            "event_id": id,
            "delta": { "type": "content_delta", "index": index, "content": { "type": "text", "text": text } },
        })
        .to_string();
        Self::preview("event_delta", &text, "agent.message")
    }

    fn preview(event: &str, text: &str, preview_of: &'static str) -> Self {
        Self {
            bytes: Bytes::from(sse::encode(event, text)),
            preview_of: Some(preview_of),
            in_thread: true,
            last: false,
        }
    }
}

/// How many bytes of frames may wait for one listener, whatever its backlog in frames is.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// An open stream's end.
pub(crate) struct Listener {
    frames: mpsc::Receiver<Arc<Frame>>,
    waiting: Arc<AtomicUsize>,
}

impl Listener {
    /// A stream that is over.
    pub(crate) fn ended() -> Self {
        Self {
            frames: mpsc::channel(1).1,
            waiting: Arc::default(),
        }
    }

    /// The next frame; none when the stream is over.
    pub(crate) async fn recv(&mut self) -> Option<Arc<Frame>> {
        let frame = self.frames.recv().await?;
        Some(self.taken(frame))
    }

    /// The next frame, if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Arc<Frame>> {
        let frame = self.frames.try_recv().ok()?;
        Some(self.taken(frame))
    }

    /// Takes no more.
    pub(crate) fn close(&mut self) {
        self.frames.close();
    }

    fn taken(&self, frame: Arc<Frame>) -> Arc<Frame> {
        self.waiting.fetch_sub(frame.bytes.len(), Ordering::Relaxed);
        frame
    }
}

/// The hub's side of a listener.
struct Speaker {
    frames: mpsc::Sender<Arc<Frame>>,
    waiting: Arc<AtomicUsize>,
}

impl Speaker {
    /// Hands a frame on; false if the listener is gone or too slow.
    fn say(&self, frame: &Arc<Frame>) -> bool {
        let size = frame.bytes.len();
        // One frame always fits, however large.
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        (before == 0 || before + size <= MAX_WAITING_BYTES) && self.frames.try_send(frame.clone()).is_ok()
    }
}

type Speakers = HashMap<SessionId, Vec<Speaker>>;

/// All open streams.
#[derive(Default)]
pub(crate) struct Hub {
    listeners: Mutex<Speakers>,
}

impl Hub {
    /// Opens a stream of a session. `backlog` is how far it may lag behind.
    pub(crate) fn listen(&self, session: &SessionId, backlog: usize) -> Listener {
        let (sender, receiver) = mpsc::channel(backlog);
        let waiting = Arc::new(AtomicUsize::new(0));
        let speaker = Speaker {
            frames: sender,
            waiting: waiting.clone(),
        };
        self.lock().entry(session.clone()).or_default().push(speaker);
        Listener {
            frames: receiver,
            waiting,
        }
    }

    /// Whether anybody listens.
    pub(crate) fn heard(&self, session: &SessionId) -> bool {
        self.lock().contains_key(session)
    }

    /// Shows a frame to everybody who listens. Who lags too far behind is cut off.
    pub(crate) fn publish(&self, session: &SessionId, frame: Frame) {
        let mut listeners = self.lock();
        let Some(list) = listeners.get_mut(session) else {
            return;
        };
        let frame = Arc::new(frame);
        list.retain(|speaker| speaker.say(&frame));
        if list.is_empty() || frame.last {
            listeners.remove(session);
        }
    }

    /// Shows committed events, in order.
    pub(crate) fn publish_events<'e>(&self, session: &SessionId, events: impl IntoIterator<Item = &'e Event>) {
        if !self.heard(session) {
            return;
        }
        for event in events {
            match Frame::event(event) {
                Ok(frame) => self.publish(session, frame),
                Err(error) => tracing::error!(%session, %error, "an event could not be encoded for streams"),
            }
        }
    }

    /// Forgets streams that were closed by their clients.
    pub(crate) fn sweep(&self) {
        self.lock().retain(|_, list| {
            list.retain(|speaker| !speaker.frames.is_closed());
            !list.is_empty()
        });
    }

    /// The number of open streams.
    pub(crate) fn open(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Ends every stream.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Speakers> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_lags_is_cut_off_and_the_others_are_not() {
        let hub = Hub::default();
        let session = SessionId::fresh();
        let mut slow = hub.listen(&session, 2);
        let mut fast = hub.listen(&session, 8);
        let id = EventId::fresh();
        for _ in 0..4 {
            hub.publish(&session, Frame::delta(&id, 0, "x"));
        }
        for _ in 0..4 {
            assert!(fast.recv().await.is_some());
        }
        assert!(slow.recv().await.is_some());
        assert!(slow.recv().await.is_some());
        assert!(slow.recv().await.is_none());
        assert_eq!(hub.open(), 1);
        drop(fast);
        hub.sweep();
        assert!(!hub.heard(&session));
    }
}
