//! The events of a session without a gap: open the stream, read the whole history, then follow the stream.
//!
//! The stream is opened before the history is read, so that nothing falls between them; what comes twice is for
//! the reader to recognise. After a cut it starts over. A history that was not read to its end is not given out,
//! since a call whose answer was on a missing page would be run again. Where a page is larger than an answer may be,
//! shorter pages are asked for; a single event that is larger ends the feed.

use std::time::Duration;

use futures_util::{Stream, stream};
use outwork_client::{Client, ClientError, EventStream, ObservedEvent, Query};
use serde_json::Value;

use super::backoff;
use super::calls::History;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How many events a page of the history holds, unless that is too large.
pub(crate) const PAGE_LIMIT: u32 = 1000;

/// What a feed gives.
pub(crate) enum Feed {
    /// The history, to its end. Live events that follow may repeat parts of it.
    History(History),
    /// A live event.
    Event(ObservedEvent),
    /// The session takes no results any more.
    Over,
    /// The server refuses to show the session, now and later.
    Refused(ClientError),
}

struct State {
    client: Client,
    session_id: String,
    stage: Stage,
    failures: u32,
    known: bool,
    page_limit: u32,
}

enum Stage {
    Closed,
    Opened(EventStream),
    Live(EventStream),
    Done,
}

/// The events of a session. Ends only after [`Feed::Over`] and [`Feed::Refused`].
pub(crate) fn feed(client: Client, session_id: String) -> impl Stream<Item = Feed> + Send {
    let state = State {
        client,
        session_id,
        stage: Stage::Closed,
        failures: 0,
        known: false,
        page_limit: PAGE_LIMIT,
    };
    stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    })
}

impl State {
    async fn next(&mut self) -> Option<Feed> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Done => return None,
                Stage::Closed => match self.open().await {
                    Ok(Some(stream)) => self.stage = Stage::Opened(stream),
                    Ok(None) => return Some(Feed::Over),
                    Err(error) => {
                        if let Some(end) = self.failed(error).await {
                            return Some(end);
                        }
                    }
                },
                Stage::Opened(stream) => match history(&self.client, &self.session_id, &mut self.page_limit).await {
                    Ok(history) => {
                        self.stage = Stage::Live(stream);
                        return Some(Feed::History(history));
                    }
                    Err(error) => {
                        if let Some(end) = self.failed(error).await {
                            return Some(end);
                        }
                    }
                },
                Stage::Live(mut stream) => match stream.next_event().await {
                    Some(Ok(event)) => {
                        self.failures = 0;
                        self.stage = Stage::Live(stream);
                        return Some(Feed::Event(event));
                    }
                    Some(Err(error)) => {
                        if let Some(end) = self.failed(error).await {
                            return Some(end);
                        }
                    }
                    None => {
                        tracing::info!(session = self.session_id, "event stream ended; opening it again");
                        self.again().await;
                    }
                },
            }
        }
    }

    /// Opens the stream; `None` if the session is over. The session itself is read once, at the same time.
    async fn open(&mut self) -> Result<Option<EventStream>, ClientError> {
        let opening = self.client.stream_events(&self.session_id, &[]);
        if self.known {
            return opening.await.map(Some);
        }
        let sessions = self.client.sessions();
        let (session, stream) = tokio::join!(sessions.get(&self.session_id), opening);
        let session = session?;
        self.known = true;
        if session.get("status").and_then(Value::as_str) == Some("terminated") {
            tracing::info!(session = self.session_id, "the session is terminated; nothing to run");
            return Ok(None);
        }
        warn_of_what_is_missing(&self.session_id, &session);
        stream.map(Some)
    }

    async fn failed(&mut self, error: ClientError) -> Option<Feed> {
        // What is too large now is so the next time too.
        if error.is_permanent() || matches!(error, ClientError::TooLarge { .. }) {
            return Some(Feed::Refused(error));
        }
        tracing::warn!(session = self.session_id, %error, "events of the session cannot be followed; trying again");
        self.again().await;
        None
    }

    async fn again(&mut self) {
        self.failures += 1;
        let wait = backoff::doubling(FIRST_WAIT, self.failures, LONGEST_WAIT);
        tokio::time::sleep(backoff::half_to_full(wait)).await;
        self.stage = Stage::Closed;
    }
}

/// The history to its end. Where a page of `page_limit` events is too large it is halved, down to one event, and
/// stays so for the next time.
pub(crate) async fn history(client: &Client, session_id: &str, page_limit: &mut u32) -> Result<History, ClientError> {
    loop {
        match read_history(client, session_id, *page_limit).await {
            Err(error @ ClientError::TooLarge { .. }) if *page_limit > 1 => {
                *page_limit /= 2;
                tracing::warn!(session = session_id, page_limit, %error, "reading the history in shorter pages");
            }
            read => return read,
        }
    }
}

async fn read_history(client: &Client, session_id: &str, page_limit: u32) -> Result<History, ClientError> {
    let events = client.sessions().events(session_id);
    let mut pages = events.list(Query::new().with("limit", page_limit))?;
    let mut history = History::default();
    while let Some(page) = pages.next_page().await? {
        for event in &page {
            history.add(event);
        }
    }
    Ok(history)
}

/// What a session asks for and this worker does not set up is said, not passed over.
fn warn_of_what_is_missing(session_id: &str, session: &Value) {
    let skills = session
        .pointer("/agent/skills")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    if skills > 0 {
        tracing::warn!(
            session = session_id,
            skills,
            "the agent has skills; this worker does not fetch them"
        );
    }
}
