//! Whether a stream of events has carried the answer that it was opened for.
//!
//! A caller may leave a stream once it has its answer, and a server may keep the stream open after it. Such a call is
//! complete, and its record says so. Events are looked at as they pass, in a bounded number of bytes however long they
//! are; nothing is held back or changed. What is found here decides about no rule, only about the record.

use serde_json::Value;

/// The longest key that matters is `result`; a longer one is another.
const KEY_MAX: usize = 8;
/// The longest id that is compared, in bytes of JSON.
const ID_MAX: usize = 4096;

/// Looks for the response with one id in a stream of events.
pub struct Answered {
    id: Value,
    line: Line,
    after_cr: bool,
    message: Message,
    found: bool,
}

/// Where in a line of the stream.
#[derive(Clone, Copy)]
enum Line {
    /// In the name, of which this many bytes are those of `data`.
    Name(usize),
    /// Right behind the colon of `data`, where one space does not count.
    Colon,
    /// In the value of `data`.
    Value,
    /// In a line that does not matter.
    Other,
}

impl Answered {
    /// Looks for the response to a request whose id is written like this in JSON.
    pub fn new(id: &str) -> Option<Answered> {
        Some(Answered {
            id: serde_json::from_str(id).ok()?,
            line: Line::Name(0),
            after_cr: false,
            message: Message::default(),
            found: false,
        })
    }

    /// Bytes pass. Says whether the response has passed, with these or before.
    pub fn pass(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.found {
                break;
            }
            let second_half = std::mem::take(&mut self.after_cr) && byte == b'\n';
            if second_half {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                self.after_cr = byte == b'\r';
                self.end_of_line();
            } else {
                self.within_line(byte);
            }
        }
        self.found
    }

    fn within_line(&mut self, byte: u8) {
        self.line = match self.line {
            // The byte order mark that a stream may begin with.
            Line::Name(0) if matches!(byte, 0xef | 0xbb | 0xbf) => Line::Name(0),
            Line::Name(4) if byte == b':' => Line::Colon,
            Line::Name(at) if b"data".get(at) == Some(&byte) => Line::Name(at + 1),
            Line::Name(_) | Line::Other => Line::Other,
            Line::Colon if byte == b' ' => Line::Value,
            Line::Colon | Line::Value => {
                self.message.push(byte);
                Line::Value
            }
        };
    }

    fn end_of_line(&mut self) {
        match self.line {
            Line::Name(0) => {
                let message = std::mem::take(&mut self.message);
                self.found = message.answers(&self.id);
            }
            // The lines of a value are joined by a line feed.
            Line::Colon | Line::Value => self.message.push(b'\n'),
            Line::Name(_) | Line::Other => {}
        }
        self.line = Line::Name(0);
    }
}

/// The top level of a JSON object, read byte by byte.
#[derive(Default)]
struct Message {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// In an object's top level: before the colon.
    before_colon: bool,
    key: Vec<u8>,
    id: Vec<u8>,
    in_id: bool,
    has_outcome: bool,
    has_method: bool,
    closed: bool,
}

impl Message {
    fn push(&mut self, byte: u8) {
        let top = self.depth == 1;
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            if top {
                self.keep(byte);
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if top {
                    if self.before_colon {
                        self.key.clear();
                    }
                    self.keep(byte);
                }
            }
            b'{' | b'[' => {
                self.before_colon |= self.depth == 0;
                self.depth = self.depth.saturating_add(1);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.closed |= self.depth == 0;
            }
            b',' if top => (self.before_colon, self.in_id) = (true, false),
            b':' if top => {
                self.before_colon = false;
                match &*self.key {
                    b"\"id\"" => self.in_id = true,
                    b"\"result\"" | b"\"error\"" => self.has_outcome = true,
                    b"\"method\"" => self.has_method = true,
                    _ => {}
                }
            }
            _ if top => self.keep(byte),
            _ => {}
        }
    }

    /// A byte of the key or of the id, of which no more is kept than can be compared.
    fn keep(&mut self, byte: u8) {
        if self.before_colon {
            if self.key.len() <= KEY_MAX && !byte.is_ascii_whitespace() {
                self.key.push(byte);
            }
        } else if self.in_id && self.id.len() < ID_MAX {
            self.id.push(byte);
        }
    }

    fn answers(&self, id: &Value) -> bool {
        self.closed
            && self.has_outcome
            && !self.has_method
            && serde_json::from_slice::<Value>(&self.id).is_ok_and(|own| own == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(id: &str, text: &str) -> bool {
        let whole = Answered::new(id).unwrap().pass(text.as_bytes());
        let mut bytes = Answered::new(id).unwrap();
        let by_byte = text.as_bytes().chunks(1).map(|byte| bytes.pass(byte)).last();
        assert_eq!(by_byte, Some(whole), "{text}");
        whole
    }

    #[test]
    fn the_response_is_found_however_it_is_written() {
        for (id, text) in [
            ("7", "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n"),
            (
                "7",
                "event: message\r\nid: 1\r\ndata:{\"result\":{\"id\":8},\"id\": 7 }\r\n\r\n",
            ),
            ("7", "data: {\"id\":7,\rdata: \"error\":{\"code\":1}}\r\r"),
            ("7", "\u{feff}data: {\"id\":7,\"result\":[\"}\\\"]}\"]}\n\n"),
            ("\"a/b\"", "data: {\"id\":\"a\\/b\",\"result\":null}\n\n"),
            (
                "\"x\"",
                ": ping\n\ndata: {\"method\":\"notifications/progress\"}\n\ndata: {\"result\":{},\"id\":\"x\"}\n\n",
            ),
        ] {
            assert!(pass(id, text), "{text}");
        }
        let long = format!("data: {{\"id\":7,\"result\":\"{}\"}}\n\n", "x\\\"".repeat(100_000));
        assert!(Answered::new("7").unwrap().pass(long.as_bytes()));
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for (id, text) in [
            // Not complete yet.
            ("7", "data: {\"id\":7,\"result\":{}}\n"),
            ("7", "data: {\"id\":7,\"result\":{}\n\n"),
            // Of another request, or none.
            ("7", "data: {\"id\":8,\"result\":{}}\n\n"),
            ("7", "data: {\"id\":\"7\",\"result\":{}}\n\n"),
            ("7", "data: {\"result\":{\"id\":7}}\n\n"),
            ("7", "data: {\"params\":{\"id\":7,\"result\":{}}}\n\n"),
            // A request of the server, with the same id.
            (
                "7",
                "data: {\"id\":7,\"method\":\"sampling/createMessage\",\"params\":{\"result\":1}}\n\n",
            ),
            // In another field, or in none.
            ("7", ": {\"id\":7,\"result\":{}}\n\n"),
            ("7", "datas: {\"id\":7,\"result\":{}}\n\n"),
            ("7", "data\n\n"),
            ("7", "{\"id\":7,\"result\":{}}\n\n"),
            ("7", "data: {\"id\":7,\n\ndata: \"result\":{}}\n\n"),
        ] {
            assert!(!pass(id, text), "{text}");
        }
    }
}
