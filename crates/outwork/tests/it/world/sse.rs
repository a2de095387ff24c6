//! Reads an event stream as a client of the standard would, without the project's own decoder.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use super::SOON;

/// An open event stream.
pub struct Stream {
    response: Response,
    buffer: Vec<u8>,
    ended: bool,
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Seen {
    pub event: String,
    pub data: Value,
}

impl Stream {
    pub fn new(response: Response) -> Self {
        assert!(
            response.headers()["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/event-stream"),
            "{:?}",
            response.headers()
        );
        Self {
            response,
            buffer: Vec::new(),
            ended: false,
        }
    }

    /// The next event; `None` when the stream ends in order, an error when it is cut.
    pub async fn try_next(&mut self) -> Result<Option<Seen>, String> {
        loop {
            if let Some(seen) = self.take_event() {
                return Ok(Some(seen));
            }
            if self.ended {
                return Ok(None);
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => self.ended = true,
                Err(error) => return Err(format!("{error:?}")),
            }
        }
    }

    /// The next event that is no ping; fails if none comes soon or the stream ends.
    pub async fn next(&mut self) -> Seen {
        self.next_within(SOON).await
    }

    /// The same, with another patience.
    pub async fn next_within(&mut self, patience: Duration) -> Seen {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let seen = tokio::time::timeout_at(end, self.try_next())
                .await
                .unwrap_or_else(|_| panic!("no event within {patience:?}"))
                .unwrap()
                .expect("the stream ended");
            if seen.event != "ping" {
                return seen;
            }
        }
    }

    /// Every event up to the first that fits, that one included.
    pub async fn through(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let seen = self.next().await;
            all.push(seen.data);
            if fits(&all[all.len() - 1]) {
                return all;
            }
        }
    }

    fn take_event(&mut self) -> Option<Seen> {
        loop {
            let end = self.buffer.windows(2).position(|w| w == b"\n\n")?;
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("a stream is UTF-8");
            let (mut event, mut data) = (String::new(), String::new());
            for line in block.lines() {
                if let Some(name) = line.strip_prefix("event: ") {
                    event = name.to_owned();
                } else if let Some(text) = line.strip_prefix("data: ") {
                    data.push_str(text);
                } else {
                    assert!(
                        line.is_empty() || line.starts_with(':'),
                        "an odd line in a stream: {line:?}"
                    );
                }
            }
            if !data.is_empty() {
                let data: Value = serde_json::from_str(&data).expect("the data of an event is JSON");
                assert_eq!(data["type"], event.as_str(), "the names of an event differ");
                return Some(Seen { event, data });
            }
        }
    }
}
