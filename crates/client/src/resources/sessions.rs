//! `/v1/sessions` and the events of a session.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Client, EventStream, ObservedEvent, Pages, Query, Request, Result, path};

/// Sessions.
pub struct Sessions<'a>(pub(crate) &'a Client);

impl<'a> Sessions<'a> {
    /// Makes a session.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/sessions", &Query::new(), body).await
    }

    /// A session.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "sessions", id])?, &Query::new()).await
    }

    /// Every session, by the filters of the query.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/sessions", query)
    }

    /// Changes a session.
    pub async fn update(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post(path(&["v1", "sessions", id])?, &Query::new(), body).await
    }

    /// Archives a session.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "sessions", id, "archive"])?).await
    }

    /// Deletes a session.
    pub async fn delete(&self, id: &str) -> Result<Value> {
        self.0.delete(path(&["v1", "sessions", id])?, &Query::new()).await
    }

    /// The threads of a session.
    pub fn threads(&self, id: &str, query: Query) -> Result<Pages<Value>> {
        Ok(self.0.pages(path(&["v1", "sessions", id, "threads"])?, query))
    }

    /// The events of a session.
    pub fn events(&self, id: impl Into<String>) -> Events<'a> {
        Events {
            client: self.0,
            session_id: id.into(),
        }
    }
}

/// The events of one session.
pub struct Events<'a> {
    client: &'a Client,
    session_id: String,
}

impl Events<'_> {
    fn path(&self) -> Result<String> {
        path(&["v1", "sessions", &self.session_id, "events"])
    }

    /// The whole log from its beginning, or by the filters of the query.
    pub fn list(&self, query: Query) -> Result<Pages<ObservedEvent>> {
        Ok(self.client.pages(self.path()?, query))
    }

    /// Sends events, all or none. The answer holds them with their ids.
    pub async fn send(&self, events: &[Value]) -> Result<Value> {
        self.send_request(events)?.send().await
    }

    /// The call that sends events, to be given its own deadline and retries.
    pub fn send_request(&self, events: &[Value]) -> Result<Request<'_>> {
        let request = self.client.request(reqwest::Method::POST, self.path()?);
        request.json(&json!({ "events": events }))
    }

    /// Opens the live stream; see [`Client::stream_events`].
    pub async fn stream(&self, event_deltas: &[&str]) -> Result<EventStream> {
        self.client.stream_events(&self.session_id, event_deltas).await
    }
}
