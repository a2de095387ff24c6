//! The tunnels that the edge knows: their connections, their open streams, whether they are paused or closed.
//!
//! Paused and closed are remembered for tunnels without connections too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::OpenError;
use super::connection::{Carried, Place};
use super::meter::Meters;
use super::stream::{Cut, Gate};
use crate::frame::RefusedCode;

const OPEN: u8 = 0;
const PAUSED: u8 = 1;
const CLOSED: u8 = 2;

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) id: Box<str>,
    state: AtomicU8,
    connections: RwLock<Vec<Arc<Carried>>>,
    streams: Mutex<Streams>,
    pub(super) meters: Meters,
    /// Where the search for a connection begins, so that equals take turns.
    turn: AtomicUsize,
    /// When the last connection that ended did so.
    parted: Mutex<Option<Instant>>,
    /// Told when a connection can be used, and when the tunnel is paused or closed.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: HashMap<u64, Weak<Gate>>,
}

impl Tunnel {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            state: AtomicU8::new(OPEN),
            connections: RwLock::default(),
            streams: Mutex::default(),
            meters: Meters::default(),
            turn: AtomicUsize::new(0),
            parted: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        match self.state.load(Ordering::SeqCst) {
            OPEN => Ok(()),
            PAUSED => Err(OpenError::Paused),
            _ => Err(OpenError::Closed),
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.load(Ordering::SeqCst) == PAUSED
    }

    /// Counts a stream in, unless the tunnel is paused or closed: the state is looked at under the lock that a cut
    /// takes after it has changed the state.
    pub(super) fn enter(&self, gate: &Arc<Gate>) -> Result<u64, OpenError> {
        let mut streams = self.streams();
        self.check()?;
        streams.next += 1;
        let key = streams.next;
        streams.open.insert(key, Arc::downgrade(gate));
        Ok(key)
    }

    pub(super) fn leave(&self, key: u64) {
        self.streams().open.remove(&key);
    }

    fn cut(&self, why: Cut) {
        let open: Vec<_> = self.streams().open.values().cloned().collect();
        for gate in open.iter().filter_map(Weak::upgrade) {
            gate.cut(why);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn pause(&self) {
        // A closed tunnel stays closed.
        if self
            .state
            .compare_exchange(OPEN, PAUSED, Ordering::SeqCst, Ordering::SeqCst)
            != Err(CLOSED)
        {
            self.cut(Cut::Paused);
        }
    }

    pub(super) fn resume(&self) {
        // The other states stay what they are.
        let _ = self
            .state
            .compare_exchange(PAUSED, OPEN, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::SeqCst);
        self.cut(Cut::Closed);
        for connection in self.connections() {
            connection.kill(super::LostReason::Archived, "the tunnel was archived");
        }
    }

    /// Takes a connection in, unless the tunnel is closed or has `limit` of them.
    pub(super) fn join(&self, connection: Arc<Carried>, limit: usize) -> Result<(), RefusedCode> {
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: `close` kills what it finds after it changed the state.
        if self.state.load(Ordering::SeqCst) == CLOSED {
            return Err(RefusedCode::Archived);
        }
        if connections.len() >= limit {
            return Err(RefusedCode::TooManyConnections);
        }
        connections.push(connection);
        Ok(())
    }

    pub(super) fn part(&self, id: &str) {
        *self.parted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.connections
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|connection| &*connection.id != id);
    }

    pub(super) fn parted(&self) -> Option<Instant> {
        *self.parted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connections(&self) -> Vec<Arc<Carried>> {
        self.connections.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A place on the connection with the fewest streams that is not among `tried`.
    pub(super) fn pick(&self, tried: &[Arc<str>], limit: usize) -> Result<Place, OpenError> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let count = connections.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let best = (0..count)
            .map(|at| &connections[start.wrapping_add(at) % count])
            .filter(|connection| connection.is_open() && !tried.contains(&connection.id))
            .min_by_key(|connection| connection.in_flight());
        match best {
            None => Err(OpenError::NotConnected),
            Some(best) if best.in_flight() >= limit => Err(OpenError::Busy),
            Some(best) => Ok(Place::take(best)),
        }
    }

    /// Whether there is a place on a connection that is not among `tried`.
    pub(super) fn offers(&self, tried: &[Arc<str>], limit: usize) -> bool {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        connections
            .iter()
            .any(|connection| connection.is_open() && connection.in_flight() < limit && !tried.contains(&connection.id))
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // The map is whole whatever panicked beside it.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All tunnels.
#[derive(Debug, Default)]
pub(super) struct Tunnels(RwLock<HashMap<Box<str>, Arc<Tunnel>>>);

impl Tunnels {
    pub(super) fn get(&self, id: &str) -> Option<Arc<Tunnel>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn get_or_add(&self, id: &str) -> Arc<Tunnel> {
        if let Some(tunnel) = self.get(id) {
            return tunnel;
        }
        let mut tunnels = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tunnels
            .entry(id.into())
            .or_insert_with(|| Arc::new(Tunnel::new(id)))
            .clone()
    }

    pub(super) fn all(&self) -> Vec<Arc<Tunnel>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}
