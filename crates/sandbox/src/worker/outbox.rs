//! The results of one session on their way to the server: in the order of their calls, one at a time.
//!
//! A call takes its place when it begins, and its result is sent as soon as every earlier call of its thread has its
//! answer or never gets one; the next call runs meanwhile. Threads do not wait for each other's running calls.
//!
//! Invariant: at most one result is on its way, and a result is begun only after the one before it has ended.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use outwork_client::Client;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::post::{Post, Posted};

/// The results of one session.
pub(crate) struct Outbox {
    client: Client,
    session_id: String,
    places: VecDeque<Place>,
    sending: Option<Sending>,
    /// Wakes a result that waits to be tried again.
    again: Arc<Notify>,
}

struct Place {
    call_id: String,
    thread: Option<String>,
    /// `None` while the call runs.
    event: Option<Arc<Value>>,
}

struct Sending {
    call_id: String,
    answered: CancellationToken,
    future: Pin<Box<dyn Future<Output = Posted> + Send>>,
}

impl Outbox {
    /// An empty one.
    pub fn new(client: Client, session_id: String) -> Self {
        Self {
            client,
            session_id,
            places: VecDeque::new(),
            sending: None,
            again: Arc::default(),
        }
    }

    /// True if no result waits or is on its way. Calls that only have their place do not count.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|p| p.event.is_none())
    }

    /// A call begins: later ones of its thread wait for it.
    pub fn take_place(&mut self, call_id: &str, thread: Option<&str>) {
        self.places.push_back(Place {
            call_id: call_id.to_owned(),
            thread: thread.map(str::to_owned),
            event: None,
        });
    }

    /// Nothing is to be waited for at this call's place; a result that still comes goes to the end.
    pub fn leave_place(&mut self, call_id: &str) {
        self.places.retain(|p| p.call_id != call_id || p.event.is_some());
        self.send_next();
    }

    /// A result, for the place of its call or else for the end.
    pub fn put(&mut self, call_id: &str, thread: Option<&str>, event: Arc<Value>) {
        match self.places.iter_mut().find(|p| p.call_id == call_id) {
            Some(place) if place.event.is_none() => place.event = Some(event),
            // It is on its way already; one answer is enough.
            Some(_) => return,
            None => self.places.push_back(Place {
                call_id: call_id.to_owned(),
                thread: thread.map(str::to_owned),
                event: Some(event),
            }),
        }
        self.send_next();
    }

    /// The call is seen to have an answer: its result is not begun any more. True if it is on its way, so that its
    /// end is still to be waited for.
    pub fn note_answer(&mut self, call_id: &str) -> bool {
        if let Some(sending) = &self.sending
            && sending.call_id == call_id
        {
            sending.answered.cancel();
            return true;
        }
        self.places.retain(|p| p.call_id != call_id || p.event.is_none());
        self.send_next();
        false
    }

    /// The same for every call for which this is true.
    pub fn note_answers(&mut self, answered: impl Fn(&str) -> bool) {
        let ids: Vec<String> = self.places.iter().map(|p| p.call_id.clone()).collect();
        for call_id in ids.iter().filter(|id| answered(id)) {
            self.note_answer(call_id);
        }
    }

    /// The server was reached: what waits to be tried again is tried at once.
    pub fn try_now(&self) {
        self.again.notify_waiters();
    }

    /// The end of the result that is on its way; pending without one. Safe to drop and call again.
    pub async fn ended(&mut self) -> (String, Posted) {
        let Some(sending) = &mut self.sending else {
            return pending().await;
        };
        let posted = sending.future.as_mut().await;
        let call_id = std::mem::take(&mut sending.call_id);
        self.sending = None;
        self.places.retain(|p| p.call_id != call_id);
        self.send_next();
        (call_id, posted)
    }

    fn send_next(&mut self) {
        if self.sending.is_some() {
            return;
        }
        let mut running: Vec<&Option<String>> = Vec::new();
        let next = self.places.iter().find_map(|place| match &place.event {
            Some(event) if !running.contains(&&place.thread) => Some((place, event)),
            Some(_) => None,
            None => {
                running.push(&place.thread);
                None
            }
        });
        let Some((place, event)) = next else { return };
        let answered = CancellationToken::new();
        let post = Post {
            client: self.client.clone(),
            session_id: self.session_id.clone(),
            call_id: place.call_id.clone(),
            event: Arc::clone(event),
            answered: answered.clone(),
            again: Arc::clone(&self.again),
        };
        self.sending = Some(Sending {
            call_id: place.call_id.clone(),
            answered,
            future: Box::pin(post.send()),
        });
    }
}
