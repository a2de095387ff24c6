//! Wakes who waits for a change of what a session's boundary is built from: its environment, the session itself, its
//! vaults. Nothing of the change is said; who is woken looks again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use outwork_wire::id::{EnvironmentId, SessionId, VaultId};
use tokio::sync::Notify;

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Changed {
    /// Its config.
    Environment(EnvironmentId),
    /// Its resources, its agent, its status or its work item.
    Session(SessionId),
    /// Its credentials.
    Vault(VaultId),
}

/// Those who wait, by what they wait for.
#[derive(Default)]
pub(crate) struct Changes {
    bells: Mutex<HashMap<Changed, Arc<Notify>>>,
}

impl Changes {
    /// The bell of a thing. Listen first, then look at it.
    pub(crate) fn of(&self, thing: Changed) -> Arc<Notify> {
        self.lock().entry(thing).or_default().clone()
    }

    /// It has changed: everybody who waits looks.
    pub(crate) fn ring(&self, thing: Changed) {
        let bell = self.lock().get(&thing).cloned();
        if let Some(bell) = bell {
            bell.notify_waiters();
        }
    }

    /// Forgets the bells that nobody waits at.
    pub(crate) fn sweep(&self) {
        // Bells are given out under this lock only, so a count of one cannot grow meanwhile.
        self.lock().retain(|_, bell| Arc::strong_count(bell) > 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Changed, Arc<Notify>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_waits_for_the_thing_is_woken() {
        let changes = Changes::default();
        let (session, other) = (SessionId::fresh(), SessionId::fresh());
        let bells = [session.clone(), other.clone()].map(|id| changes.of(Changed::Session(id)));
        let (rung, mut silent) = (bells[0].notified(), Box::pin(bells[1].notified()));
        changes.ring(Changed::Session(session.clone()));
        rung.await;
        assert!(futures_util::poll!(silent.as_mut()).is_pending());
        changes.ring(Changed::Session(other));
        silent.await;
        assert_eq!(changes.lock().len(), 2);
        drop(bells);
        changes.sweep();
        assert!(changes.lock().is_empty());
    }
}
