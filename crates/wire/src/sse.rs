//! A decoder of `text/event-stream`, without I/O.
//!
//! Follows the event stream interpretation of the WHATWG HTML standard: lines end with CR, LF or CRLF, a blank
//! line dispatches, a leading byte order mark is skipped, comments are dropped. Refuses events over the size
//! that was set and bytes that are not UTF-8, so that a peer cannot make the reader grow without bound.

use std::collections::VecDeque;

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// The `event` field; `None` if it was not set.
    pub event: Option<String>,
    /// The `data` lines joined by line feeds.
    pub data: String,
    /// The `id` field of this event, if it had one.
    pub id: Option<String>,
}

/// A stream that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event is larger than allowed.
    #[error("an event of the stream is larger than {0} bytes")]
    TooLarge(usize),
    /// A line is not UTF-8.
    #[error("a line of the event stream is not UTF-8")]
    NotUtf8,
}

/// Decodes a stream that arrives in pieces of any size.
#[derive(Debug)]
pub struct SseDecoder {
    line: Vec<u8>,
    after_cr: bool,
    at_start: bool,
    current: SseEvent,
    has_data: bool,
    size: usize,
    max_event_bytes: usize,
    ready: VecDeque<SseEvent>,
}

impl SseDecoder {
    /// A decoder that refuses events over `max_event_bytes`.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            current: SseEvent::default(),
            has_data: false,
            size: 0,
            max_event_bytes,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        while let Some(&first) = bytes.first() {
            if self.after_cr {
                self.after_cr = false;
                if first == b'\n' {
                    bytes = &bytes[1..];
                    continue;
                }
            }
            match bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
                None => {
                    self.grow(bytes)?;
                    return Ok(());
                }
                Some(end) => {
                    self.grow(&bytes[..end])?;
                    self.after_cr = bytes[end] == b'\r';
                    bytes = &bytes[end + 1..];
                    self.end_line()?;
                }
            }
        }
        Ok(())
    }

    /// The next complete event, in order.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        self.size += bytes.len();
        if self.size > self.max_event_bytes {
            return Err(SseError::TooLarge(self.max_event_bytes));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let mut raw = std::mem::take(&mut self.line);
        let mut start = 0;
        if std::mem::take(&mut self.at_start) && raw.starts_with(&[0xef, 0xbb, 0xbf]) {
            start = 3;
        }
        let line = std::str::from_utf8(&raw[start..]).map_err(|_| SseError::NotUtf8)?;
        if line.is_empty() {
            self.dispatch();
        } else if !line.starts_with(':') {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.current.event = Some(value.to_owned()).filter(|v| !v.is_empty()),
                "data" => {
                    if self.has_data {
                        self.current.data.push('\n');
                    }
                    self.has_data = true;
                    self.current.data.push_str(value);
                }
                "id" if !value.contains('\0') => self.current.id = Some(value.to_owned()),
                // `retry` and unknown fields have no meaning for a client that decides itself when to reconnect.
                _ => {}
            }
        } else {
            // A comment only keeps the connection alive: it must not count towards the next event's size.
            self.size -= raw.len();
        }
        raw.clear();
        self.line = raw;
        Ok(())
    }

    fn dispatch(&mut self) {
        self.size = 0;
        let event = std::mem::take(&mut self.current);
        if std::mem::take(&mut self.has_data) || event.event.is_some() {
            self.ready.push_back(event);
        }
    }
}

/// Writes one event as it goes over the wire. `data` may hold line feeds.
pub fn encode(event: &str, data: &str) -> String {
    let mut out = String::with_capacity(event.len() + data.len() + 24);
    out.push_str("event: ");
    out.push_str(event);
    for line in data.split('\n') {
        out.push_str("\ndata: ");
        out.push_str(line);
    }
    out.push_str("\n\n");
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut decoder = SseDecoder::new(1 << 20);
        for piece in pieces {
            decoder.push(piece).unwrap();
        }
        std::iter::from_fn(|| decoder.next_event()).collect()
    }

    #[test]
    fn reads_fields_comments_and_all_line_ends() {
        let events =
            decode(&[b"\xef\xbb\xbfevent: a\r\ndata: 1\r\ndata:2\r\n\r\n: hi\n\nevent: ping\n\ndata\rid: 7\r\r"]);
        assert_eq!(events.len(), 3);
        assert_eq!(events[0].event.as_deref(), Some("a"));
        assert_eq!(events[0].data, "1\n2");
        assert_eq!(events[1].event.as_deref(), Some("ping"));
        assert_eq!(events[2].data, "");
        assert_eq!(events[2].id.as_deref(), Some("7"));
    }

    #[test]
    fn refuses_what_is_too_large_or_not_text() {
        let mut decoder = SseDecoder::new(16);
        assert_eq!(decoder.push(b"data: 0123456789abcdef"), Err(SseError::TooLarge(16)));
        let mut decoder = SseDecoder::new(64);
        assert_eq!(decoder.push(b"data: \xff\n"), Err(SseError::NotUtf8));
        let mut decoder = SseDecoder::new(16);
        for _ in 0..100 {
            decoder.push(b": keep\n").unwrap();
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(event: [a-z]{0,3}(\r|\n|\r\n)|data:[ a-z]{0,5}(\r|\n|\r\n)|(\r\n|\n|\r)|:c\n){0,20}", cuts in proptest::collection::vec(0usize..200, 0..8)) {
            let bytes = text.as_bytes();
            let whole = decode(&[bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(whole, decode(&pieces));
        }

        #[test]
        fn what_is_encoded_is_decoded(event in "[a-z_.]{1,20}", data in "[^\r]{0,200}") {
            let events = decode(&[encode(&event, &data).as_bytes()]);
            prop_assert_eq!(events, vec![SseEvent { event: Some(event), data, id: None }]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = SseDecoder::new(128);
            let _ = decoder.push(&bytes);
            while decoder.next_event().is_some() {}
        }
    }
}
