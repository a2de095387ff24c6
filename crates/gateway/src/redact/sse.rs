//! Events of a `text/event-stream`, edited one by one as they pass.
//!
//! An event is held until its blank line has come, so that nothing spread over chunks escapes the editor; comments
//! between events (keep-alives) pass at once. Lines may end in LF, CR LF or CR, as the HTML standard has it. An event
//! that the editor leaves alone keeps its bytes. An event longer than the limit ends the stream.

use std::ops::Range;

/// What becomes of an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edited {
    /// It passes as it is.
    Same,
    /// It passes as this.
    Changed(String),
    /// It does not pass.
    Dropped,
}

/// Looks at events.
pub trait Editor {
    /// The data of an event, its lines joined by LF.
    fn data(&mut self, data: &str) -> Edited;
    /// Any other line: comments, ids, names. `false` keeps it back.
    fn line(&mut self, line: &str) -> bool;
}

/// An event was longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// A stream under way.
pub struct Stream {
    /// Bytes of the event under way.
    held: Vec<u8>,
    /// The complete lines in `held`, without their ends.
    lines: Vec<Range<usize>>,
    /// Where the incomplete line begins, and how far it was searched for its end.
    line: usize,
    searched: usize,
    after_cr: bool,
    first: bool,
    limit: usize,
}

impl Stream {
    /// A stream whose events have at most `limit` bytes.
    pub fn new(limit: usize) -> Stream {
        Stream { held: Vec::new(), lines: Vec::new(), line: 0, searched: 0, after_cr: false, first: true, limit }
    }

    /// Takes a chunk and appends to `out` what may pass.
    pub fn push(&mut self, chunk: &[u8], editor: &mut dyn Editor, out: &mut Vec<u8>) -> Result<(), TooLong> {
        self.held.extend_from_slice(chunk);
        // Everything before `start` has been dealt with.
        let mut start = 0;
        while self.searched < self.held.len() {
            let at = self.searched;
            let byte = self.held[at];
            self.searched += 1;
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                // The second half of a line end that was seen already.
                self.line = at + 1;
                if self.lines.is_empty() {
                    out.push(byte);
                    start = at + 1;
                }
                continue;
            }
            if byte != b'\n' && byte != b'\r' {
                continue;
            }
            self.after_cr = byte == b'\r';
            let line = self.trim_mark(self.line..at);
            self.line = at + 1;
            let comment = self.held.get(line.start) == Some(&b':');
            if line.is_empty() || (comment && self.lines.is_empty()) {
                if comment {
                    self.lines.push(line);
                }
                self.pass(start..at + 1, editor, out);
                start = at + 1;
            } else {
                self.lines.push(line);
            }
        }
        self.held.drain(..start);
        self.line -= start;
        self.searched -= start;
        for line in &mut self.lines {
            *line = line.start - start..line.end - start;
        }
        if self.held.len() > self.limit { Err(TooLong) } else { Ok(()) }
    }

    /// The stream has ended: an event without its blank line passes too, looked at like the others.
    pub fn finish(mut self, editor: &mut dyn Editor, out: &mut Vec<u8>) {
        if self.line < self.held.len() {
            let line = self.trim_mark(self.line..self.held.len());
            self.lines.push(line);
        }
        self.pass(0..self.held.len(), editor, out);
    }

    /// The line without the byte order mark that a stream may begin with.
    fn trim_mark(&mut self, line: Range<usize>) -> Range<usize> {
        let marked = std::mem::take(&mut self.first) && self.held[line.clone()].starts_with(b"\xef\xbb\xbf");
        line.start + if marked { 3 } else { 0 }..line.end
    }

    fn pass(&mut self, raw: Range<usize>, editor: &mut dyn Editor, out: &mut Vec<u8>) {
        let mut data: Option<String> = None;
        let mut others = String::new();
        let mut same = true;
        for line in self.lines.drain(..) {
            let text = String::from_utf8_lossy(&self.held[line]);
            same &= matches!(text, std::borrow::Cow::Borrowed(_));
            if let Some(value) = field(&text, "data") {
                match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                }
            } else if editor.line(&text) {
                others.push_str(&text);
                others.push('\n');
            } else {
                same = false;
            }
        }
        let edited = data.as_deref().map_or(Edited::Same, |data| editor.data(data));
        let data = match edited {
            Edited::Same if same => return out.extend_from_slice(&self.held[raw]),
            Edited::Same => data,
            Edited::Changed(text) => Some(text),
            Edited::Dropped => None,
        };
        out.extend_from_slice(others.as_bytes());
        for line in data.iter().flat_map(|data| data.split(['\n', '\r'])) {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
    }
}

/// The value of a line of the field `name`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(name)?;
    match rest.strip_prefix(':') {
        Some(value) => Some(value.strip_prefix(' ').unwrap_or(value)),
        None => rest.is_empty().then_some(""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Action, Redactor, tests::redactor};
    use super::*;

    pub(crate) struct Cards(pub Redactor);

    impl Editor for Cards {
        fn data(&mut self, data: &str) -> Edited {
            match self.0.text(data) {
                Ok(None) => Edited::Same,
                Ok(Some(text)) => Edited::Changed(text),
                Err(_) => Edited::Dropped,
            }
        }
        fn line(&mut self, line: &str) -> bool {
            matches!(self.0.text(line), Ok(None))
        }
    }

    fn run(chunks: &[&[u8]]) -> String {
        let mut cards = Cards(redactor("card_number", Action::Redact));
        let mut stream = Stream::new(1 << 16);
        let mut out = Vec::new();
        for chunk in chunks {
            stream.push(chunk, &mut cards, &mut out).unwrap();
        }
        stream.finish(&mut cards, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_holds_nothing_keeps_its_bytes() {
        for text in [
            ": ping\n\nevent: message\nid: 7\ndata: {\"a\":1}\n\n",
            "data: a\r\ndata:b\r\n\r\n",
            "data: a\r\rdata: b\r\r",
            "data\n\n",
            "data: cut off",
            "\u{feff}data: a\n\n",
            "\n\n\n",
        ] {
            assert_eq!(run(&[text.as_bytes()]), text);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(run(&bytes), text, "byte by byte");
        }
    }

    #[test]
    fn a_secret_is_found_wherever_it_is() {
        for text in [
            "data: 4111111111111111\n\n",
            "data: 4111111111111111",
            "\u{feff}data: 4111111111111111\n\n",
            "id: 4111111111111111\ndata: x\n\n",
            ": 4111111111111111\n\n",
            "event: 4111111111111111\n\n",
            "junk 4111111111111111\ndata: x\r\n\r\n",
        ] {
            let whole = run(&[text.as_bytes()]);
            assert!(!whole.contains("4111"), "{whole}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert!(!run(&bytes).contains("4111"), "{text}");
        }
    }

    #[test]
    fn a_keep_alive_passes_at_once_and_an_event_waits_for_its_end() {
        let mut cards = Cards(redactor("card_number", Action::Redact));
        let mut stream = Stream::new(1 << 16);
        let mut out = Vec::new();
        stream.push(b": ping\n", &mut cards, &mut out).unwrap();
        assert_eq!(out, b": ping\n");
        stream.push(b"data: 4111", &mut cards, &mut out).unwrap();
        assert_eq!(out, b": ping\n");
    }

    #[test]
    fn an_event_without_end_is_cut() {
        let mut cards = Cards(redactor("card_number", Action::Redact));
        let mut stream = Stream::new(16);
        assert_eq!(stream.push(b"data: 0123456789abcdef", &mut cards, &mut Vec::new()), Err(TooLong));
    }

    proptest! {
        #[test]
        fn borders_of_chunks_change_nothing(
            text in "(data: ?|id: |: |x|4111111111111111|\r|\n|\r\n|\n\n|\u{feff}){0,24}",
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            let whole = run(&[text.as_bytes()]);
            prop_assert_eq!(run(&chunks), whole);
        }
    }
}
