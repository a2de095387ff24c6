//! The sessions that can be resumed: tickets by host, each used once.
//!
//! The library's own store keeps eight tickets per host, so that a burst of more streams would pay full handshakes every
//! time. Tickets stay in memory, under the configuration of one set of authorities.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// Hosts whose tickets are kept.
const HOSTS: usize = 256;
/// Tickets per host.
const TICKETS: usize = 128;

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<ServerName<'static>, Host>>);

#[derive(Default)]
struct Host {
    group: Option<NamedGroup>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Host>> {
        // A map is whole whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Host)) {
        let mut hosts = self.lock();
        if !hosts.contains_key(&name)
            && hosts.len() >= HOSTS
            && let Some(any) = hosts.keys().next().cloned()
        {
            hosts.remove(&any);
        }
        change(hosts.entry(name).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(name, |host| host.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().get(&name.to_owned())?.group
    }

    // TLS 1.2 is never spoken here.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.change(name, |host| {
            if host.tickets.len() >= TICKETS {
                host.tickets.pop_front();
            }
            host.tickets.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest, which expires last.
        self.lock().get_mut(name)?.tickets.pop_back()
    }
}
