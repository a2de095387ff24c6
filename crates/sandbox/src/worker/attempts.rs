//! Which calls this process has begun, across work items: a worker never runs a call twice.
//!
//! A call stays here from its start until it is known to have an answer. If its session comes back with the call
//! unanswered, because the lease was lost or the result could not be sent or was refused, the kept result is sent
//! again; without one the call is answered as of unknown outcome. It lives in memory only: a new process may run an unanswered
//! call again.
//!
//! A server that was away may hand a session out anew while this process still serves it. What the one runs, the other
//! leaves alone until it has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

type Key = (String, String);

/// The calls that were begun and have no answer yet.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<Key, State>>);

/// How far a call has come.
enum State {
    /// It runs.
    Running,
    /// It has ended, and this is its result.
    Kept(Arc<Value>),
    /// It has ended without a result.
    Lost,
}

/// Whether a call may be run.
pub(crate) enum Begin {
    /// It was not begun before.
    First(Attempt),
    /// It was; this is its result, if it came to one.
    Again(Option<Arc<Value>>),
    /// It runs at this moment, for another item of this session.
    Elsewhere,
}

/// A call that runs. Dropped without a kept result, the call is lost.
pub(crate) struct Attempt {
    attempts: Arc<Attempts>,
    key: Key,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.attempts.with(|map| {
            if let Some(state @ State::Running) = map.get_mut(&self.key) {
                *state = State::Lost;
            }
        });
    }
}

impl Attempts {
    /// Begins a call.
    pub fn begin(self: &Arc<Self>, session: &str, call: &str) -> Begin {
        let key = key(session, call);
        self.with(|map| match map.get(&key) {
            Some(State::Running) => Begin::Elsewhere,
            Some(State::Kept(result)) => Begin::Again(Some(result.clone())),
            Some(State::Lost) => Begin::Again(None),
            None => {
                map.insert(key.clone(), State::Running);
                Begin::First(Attempt {
                    attempts: self.clone(),
                    key,
                })
            }
        })
    }

    /// Keeps a result until it is known to be answered.
    pub fn keep(&self, session: &str, call: &str, result: Arc<Value>) {
        self.with(|map| map.insert(key(session, call), State::Kept(result)));
    }

    /// Forgets a call that has its answer.
    pub fn settle(&self, session: &str, call: &str) {
        self.with(|map| map.remove(&key(session, call)));
    }

    /// Forgets the calls of a session for which this is false.
    pub fn retain(&self, session: &str, open: impl Fn(&str) -> bool) {
        self.with(|map| map.retain(|(s, call), _| s != session || open(call)));
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Key, State>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key(session: &str, call: &str) -> Key {
    (session.to_owned(), call.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_left_alone_until_it_has_ended() {
        let attempts = Arc::new(Attempts::default());
        let begin = || attempts.begin("session", "call");
        let Begin::First(running) = begin() else { panic!() };
        assert!(matches!(begin(), Begin::Elsewhere));
        drop(running);
        assert!(matches!(begin(), Begin::Again(None)));
        attempts.settle("session", "call");

        let Begin::First(running) = begin() else { panic!() };
        attempts.keep("session", "call", Arc::new(Value::Null));
        drop(running);
        assert!(matches!(begin(), Begin::Again(Some(_))));
    }
}
