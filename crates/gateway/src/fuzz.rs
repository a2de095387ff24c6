//! Entries for fuzzing the parsers of what callers and upstreams send. Each panics where an invariant is broken.

use crate::mcp::{agreement, approval::Arguments, message::Message};
use crate::redact::sse::{Edited, Editor, Stream};
use crate::redact::{Action, Direction, Redactor, json};
use crate::route::{self, Table};

/// Host names and routes: a route is found only by its own name.
pub fn routing(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(host) = route::host(text) else { return };
    assert_eq!(route::host(&host).as_deref(), Some(&*host), "a normal host is normal");
    let names = ["wiki", "db", "full.example", "wiki.t.example"];
    let table = Table::new(names.map(|name| (name.to_owned(), name)), Some("t.example".to_owned()));
    if let Some(found) = table.find(&host) {
        assert!(*host == **found || *host == format!("{found}.t.example"));
    }
}

/// Messages: what is read is what a plain JSON parser reads, and its headers and arguments can be judged.
pub fn message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let plain: serde_json::Value = match serde_json::from_slice(data) {
        Ok(plain) => plain,
        // Deeper than that parser goes; the upstream gets it as it is.
        Err(_) => return,
    };
    assert_eq!(
        plain
            .get("method")
            .and_then(|method| method.as_str())
            .unwrap_or_default(),
        message.method
    );
    if let Some(tool) = message.tool() {
        assert_eq!(plain["params"]["name"], tool);
    }
    let _ = agreement::check(&http::HeaderMap::new(), &message);
    let _ = Arguments::parse(message.params.arguments);
}

struct Digits(Redactor);

impl Editor for Digits {
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

fn digits() -> Option<Redactor> {
    let file = crate::config::RedactFile {
        name: None,
        pattern: Some("[0-9]{4}".to_owned()),
        detector: None,
        action: Action::Redact,
        direction: Direction::Results,
    };
    Redactor::compile(&[file], Direction::Results).ok().flatten()
}

/// Event streams: however the bytes are cut (the first byte says how), the result is the same, and no run of four
/// digits is left in what a reader takes from it.
pub fn events(data: &[u8]) {
    let (Some((first, rest)), Some(whole), Some(parts)) = (data.split_first(), digits(), digits()) else {
        return;
    };
    let run = |redactor: Redactor, size: usize| {
        let mut editor = Digits(redactor);
        let mut stream = Stream::new(1 << 20);
        let mut out = Vec::new();
        for chunk in rest.chunks(size) {
            assert!(
                stream.push(chunk, &mut editor, &mut out).is_ok(),
                "the input is shorter than the limit"
            );
        }
        stream.finish(&mut editor, &mut out);
        out
    };
    let whole = run(whole, rest.len().max(1));
    assert_eq!(run(parts, usize::from(*first).max(1)), whole);
    let text = String::from_utf8_lossy(&whole)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    for line in text.lines() {
        let digits = line.as_bytes().windows(4).any(|run| run.iter().all(u8::is_ascii_digit));
        assert!(!digits, "{line:?}");
    }
}

/// JSON: the walk ends, changes what it should and leaves JSON as JSON.
pub fn rewrite(data: &[u8]) {
    let (Ok(text), Some(redactor)) = (std::str::from_utf8(data), digits()) else {
        return;
    };
    let Ok(changed) = json::redact(&redactor, text) else {
        return;
    };
    if serde_json::from_str::<serde_json::Value>(text).is_ok() {
        let left = changed.as_deref().unwrap_or(text);
        assert!(serde_json::from_str::<serde_json::Value>(left).is_ok(), "{left}");
    }
}

/// Configuration files: errors, never panics.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = crate::config::Config::parse(text, std::path::Path::new("gateway.yaml"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_hold(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::routing(&data);
            super::message(&data);
            super::events(&data);
            super::rewrite(&data);
        }

        #[test]
        fn entries_hold_near_the_formats(text in "[0-9{}\\[\\]\":,\\\\u dataitmehods.:\r\n]{0,80}") {
            super::routing(text.as_bytes());
            super::message(text.as_bytes());
            super::events(text.as_bytes());
            super::rewrite(text.as_bytes());
            super::config(text.as_bytes());
        }
    }
}
