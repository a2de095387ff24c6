//! Event streams as response bodies.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::time::Instant;

use super::render::Reply;
use crate::app::App;
use crate::run::hub::{Frame, Listener};

/// Sent when nothing else is, so that both sides notice a dead connection.
const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// How many bytes of waiting frames go into one chunk.
const CHUNK: usize = 64 << 10;

struct Watch {
    app: Arc<App>,
    frames: Listener,
    previews: Vec<String>,
    thread_only: bool,
    ping_at: Instant,
    begun: bool,
}

/// Streams frames until the session is deleted, the listener lags too far behind, or the plane stops.
pub(super) fn reply(app: &Arc<App>, frames: Listener, previews: Vec<String>, thread_only: bool) -> Reply {
    let watch = Watch {
        ping_at: Instant::now() + app.limits().stream_ping,
        app: app.clone(),
        frames,
        previews,
        thread_only,
        begun: false,
    };
    Reply::Stream(Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), watch))
    })))
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) {
            // Something at once, so that proxies and clients see that the stream is open.
            return Some(Bytes::from_static(b": open\n\n"));
        }
        loop {
            let frame = tokio::select! {
                frame = self.frames.recv() => frame?,
                () = tokio::time::sleep_until(self.ping_at) => {
                    self.rest(self.app.limits().stream_ping);
                    return Some(Bytes::from_static(PING));
                }
                () = self.app.closing.cancelled() => return None,
            };
            let mut chunk = if self.shows(&frame) {
                frame.bytes.clone()
            } else {
                Bytes::new()
            };
            let mut last = frame.last;
            if !last && let Some(second) = self.frames.try_recv() {
                let mut joined = BytesMut::from(&chunk[..]);
                let mut next = Some(second);
                while let Some(frame) = next {
                    if self.shows(&frame) {
                        joined.extend_from_slice(&frame.bytes);
                    }
                    last = frame.last;
                    next = if last || joined.len() >= CHUNK {
                        None
                    } else {
                        self.frames.try_recv()
                    };
                }
                chunk = joined.freeze();
            }
            if last {
                self.frames.close();
            }
            if !chunk.is_empty() {
                self.rest(self.app.limits().stream_ping);
                return Some(chunk);
            }
        }
    }

    fn rest(&mut self, ping: Duration) {
        self.ping_at = Instant::now() + ping;
    }

    fn shows(&self, frame: &Frame) -> bool {
        let wanted = frame
            .preview_of
            .is_none_or(|kind| self.previews.iter().any(|p| p == kind));
        wanted && (frame.in_thread || !self.thread_only)
    }
}
