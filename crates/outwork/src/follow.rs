//! Following a session: the live stream and the history, joined into one sequence without gaps or repeats.
//!
//! The stream is a live tail without replay, so it is opened first and the history is listed after; what both
//! show is given out once, by its id. A stream that breaks is opened again the same way. An event that waits in the
//! queue is given out when it is taken up, which is when it has its place in the order.
//!
//! [`Follow::next`] may be dropped at any point and called again: nothing is lost.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use outwork_client::{Client, ClientError, EventStream, ObservedEvent, Query};
use rand::Rng;

/// Failures in a row before a server counts as gone; with the waits between them about a minute.
const PATIENCE: u32 = 10;
const PREVIEWS: [&str; 2] = ["agent.message", "agent.thinking"];

/// What happens in a session.
#[derive(Debug)]
pub(crate) enum Step {
    /// An event, or a piece of one that is being written.
    Event(ObservedEvent),
    /// The stream broke and is being opened again.
    Lost(String),
}

/// One followed session.
pub(crate) struct Follow {
    client: Client,
    session_id: String,
    previews: bool,
    stream: Option<EventStream>,
    ready: VecDeque<ObservedEvent>,
    given: HashSet<String>,
    failures: u32,
}

impl Follow {
    /// Opens the stream and reads the history; the first events given out are those of the history.
    pub(crate) async fn open(client: &Client, session_id: &str, previews: bool) -> Result<Self, ClientError> {
        let mut follow = Self {
            client: client.clone(),
            session_id: session_id.to_owned(),
            previews,
            stream: None,
            ready: VecDeque::new(),
            given: HashSet::new(),
            failures: 0,
        };
        follow.reopen().await?;
        Ok(follow)
    }

    /// Leaves out what the history has so far, and returns it.
    pub(crate) fn skip_history(&mut self) -> Vec<ObservedEvent> {
        let mut skipped = Vec::new();
        while let Some(event) = self.ready.pop_front() {
            if self.fresh(&event) {
                skipped.push(event);
            }
        }
        skipped
    }

    /// What happens next. Fails when the server refuses, or could not be reached many times in a row.
    pub(crate) async fn next(&mut self) -> Result<Step, ClientError> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if self.fresh(&event) {
                    return Ok(Step::Event(event));
                }
            }
            let Some(stream) = self.stream.as_mut() else {
                self.wait().await;
                if let Err(error) = self.reopen().await {
                    self.failed(error)?;
                }
                continue;
            };
            match stream.next_event().await {
                Some(Ok(event)) => {
                    self.failures = 0;
                    if self.fresh(&event) {
                        return Ok(Step::Event(event));
                    }
                }
                Some(Err(error)) => {
                    self.stream = None;
                    let cause = error.to_string();
                    self.failed(error)?;
                    return Ok(Step::Lost(cause));
                }
                None => {
                    self.stream = None;
                    self.failures += 1;
                    if self.failures > PATIENCE {
                        return Err(ClientError::Transport {
                            call: format!("the event stream of {}", self.session_id),
                            cause: "the server ends it again and again".into(),
                        });
                    }
                    return Ok(Step::Lost("the server ended the stream".into()));
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), ClientError> {
        let sessions = self.client.sessions();
        let events = sessions.events(&self.session_id);
        let stream = events.stream(if self.previews { &PREVIEWS } else { &[] }).await?;
        let mut history = events.list(Query::new().with("limit", 100))?;
        let mut ready = VecDeque::new();
        while let Some(page) = history.next_page().await? {
            ready.extend(page);
        }
        // Only now, so that a call that is dropped half-way leaves nothing half done.
        self.ready = ready;
        self.stream = Some(stream);
        Ok(())
    }

    async fn wait(&self) {
        if self.failures > 1 {
            let most = 250 * (1 << (self.failures - 1).min(5));
            let wait = rand::rng().random_range(most / 2..=most);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.failures += 1;
        if error.is_permanent() || self.failures > PATIENCE {
            Err(error)
        } else {
            Ok(())
        }
    }

    /// Whether an event is to be given out now. Remembers that it was.
    fn fresh(&mut self, event: &ObservedEvent) -> bool {
        if event.id.is_empty() {
            return true;
        }
        let queued = event.raw.get("processed_at").is_some_and(serde_json::Value::is_null);
        !queued && self.given.insert(event.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::State;
    use axum::http::header::CONTENT_TYPE;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use outwork_client::{Credential, Options};
    use outwork_wire::sse;
    use serde_json::{Value, json};

    use super::*;

    /// What each opening of the stream and each listing shows; the last stream stays open.
    type Script = Arc<Mutex<VecDeque<(Vec<Value>, Vec<Value>)>>>;

    fn event(id: &str) -> Value {
        json!({ "type": "agent.message", "id": id, "processed_at": "2026-01-01T00:00:00Z", "content": [] })
    }

    async fn server(script: Script) -> Client {
        let stream = |State(script): State<Script>| async move {
            let rounds = script.lock().unwrap();
            let last = rounds.len() == 1;
            let events = rounds.front().map(|(events, _)| events.clone()).unwrap_or_default();
            let text: String = events.iter().map(|e| sse::encode("message", &e.to_string())).collect();
            let pieces = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(text) });
            let body = if last {
                axum::body::Body::from_stream(futures_util::StreamExt::chain(pieces, futures_util::stream::pending()))
            } else {
                axum::body::Body::from_stream(pieces)
            };
            ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
        };
        let list = |State(script): State<Script>| async move {
            let mut rounds = script.lock().unwrap();
            let history = rounds.front().map(|(_, history)| history.clone()).unwrap_or_default();
            if rounds.len() > 1 {
                rounds.pop_front();
            }
            axum::Json(json!({ "data": history, "next_page": null }))
        };
        let router = Router::new()
            .route("/v1/sessions/{id}/events/stream", get(stream))
            .route("/v1/sessions/{id}/events", get(list))
            .with_state(script);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::new(Options::new(format!("http://{address}"), Credential::api_key("k"))).unwrap()
    }

    async fn ids(follow: &mut Follow, count: usize) -> Vec<String> {
        let mut out = Vec::new();
        while out.len() < count {
            let step = tokio::time::timeout(Duration::from_secs(30), follow.next())
                .await
                .unwrap()
                .unwrap();
            match step {
                Step::Event(event) => out.push(event.id),
                Step::Lost(_) => out.push("lost".into()),
            }
        }
        out
    }

    #[tokio::test]
    async fn a_stream_that_breaks_leaves_no_gap_and_no_repeat() {
        let script = Script::default();
        script.lock().unwrap().extend([
            (vec![event("b"), event("c")], vec![event("a"), event("b")]),
            (vec![event("d")], vec![event("a"), event("b"), event("c"), event("d")]),
            (
                vec![event("d"), event("f")],
                vec![event("a"), event("b"), event("c"), event("d"), event("e")],
            ),
        ]);
        let client = server(script).await;
        let mut follow = Follow::open(&client, "sesn_1", true).await.unwrap();
        assert_eq!(
            ids(&mut follow, 8).await,
            ["a", "b", "c", "lost", "d", "lost", "e", "f"]
        );
    }

    #[tokio::test]
    async fn what_waits_in_the_queue_is_given_out_when_it_is_taken_up() {
        let mut queued = event("m");
        queued["processed_at"] = Value::Null;
        let script = Script::default();
        script
            .lock()
            .unwrap()
            .push_back((vec![event("x"), event("m")], vec![event("a"), queued]));
        let client = server(script).await;
        let mut follow = Follow::open(&client, "sesn_1", false).await.unwrap();
        assert_eq!(follow.skip_history().len(), 1);
        assert_eq!(ids(&mut follow, 2).await, ["x", "m"]);
    }
}
