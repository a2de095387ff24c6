//! Which calls this process has begun, across work items: a worker never runs a call twice.
//!
//! A call stays here from its start until it is known to have an answer. If its session comes back with the call
//! unanswered, because the lease was lost or the result could not be sent or was refused, the kept result is sent
//! again; without one the call is answered as of unknown outcome. It lives in memory only: a new process may run an unanswered
//! call again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

type Key = (String, String);

/// The calls that were begun and have no answer yet.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<Key, Option<Arc<Value>>>>);

/// Whether a call may be run.
pub(crate) enum Begin {
    /// It was not begun before.
    First,
    /// It was; this is its result, if it came to one.
    Again(Option<Arc<Value>>),
}

impl Attempts {
    /// Begins a call.
    pub fn begin(&self, session: &str, call: &str) -> Begin {
        self.with(|map| match map.get(&key(session, call)) {
            Some(result) => Begin::Again(result.clone()),
            None => {
                map.insert(key(session, call), None);
                Begin::First
            }
        })
    }

    /// Keeps a result until it is known to be answered.
    pub fn keep(&self, session: &str, call: &str, result: Arc<Value>) {
        self.with(|map| map.insert(key(session, call), Some(result)));
    }

    /// Forgets a call that has its answer.
    pub fn settle(&self, session: &str, call: &str) {
        self.with(|map| map.remove(&key(session, call)));
    }

    /// Forgets the calls of a session for which this is false.
    pub fn retain(&self, session: &str, open: impl Fn(&str) -> bool) {
        self.with(|map| map.retain(|(s, call), _| s != session || open(call)));
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Key, Option<Arc<Value>>>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key(session: &str, call: &str) -> Key {
    (session.to_owned(), call.to_owned())
}
