//! The edge of the tunnels, as the plane needs it: who is connected, what passed, and to whom it must be told at once
//! that a tunnel is paused, archived or has another token.
//!
//! What holds is what the store says; an edge is told after it is committed. [`NoEdge`] is there while the server does
//! not listen for gateways. [`TunnelGate`] is what an edge asks when a gateway shows its token.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use outwork_store::{KeyHash, Store, StoreError, TunnelAdmission, TunnelRefusal, UsageDelta};
use outwork_wire::Time;
use outwork_wire::id::TunnelId;
use serde::Serialize;

use crate::auth::SecretText;

/// A gateway that is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TunnelConnection {
    /// The connection's name, unique while the server runs.
    pub id: String,
    /// The gateway's address and port, as the edge sees them.
    pub remote_address: String,
    /// `quic` or `h2`.
    pub transport: String,
    /// The version that the gateway says it has.
    pub gateway_version: String,
    /// Since when.
    pub connected_at: Time,
    /// Which of the tunnel's tokens it came with.
    pub token_generation: u64,
}

/// The edge of the tunnels.
pub trait TunnelEdge: Send + Sync {
    /// Why there is none, if there is none: for a person, with what to do.
    fn off(&self) -> Option<&'static str> {
        None
    }

    /// The gateways that are connected for a tunnel.
    fn connections(&self, tunnel: &TunnelId) -> Vec<TunnelConnection>;

    /// What passed since this was last asked. It is told once; whoever asks keeps it.
    fn take_usage(&self) -> Vec<UsageDelta>;

    /// Nothing passes through the tunnel from the moment when this returns, not the next byte.
    fn pause(&self, tunnel: &TunnelId);

    /// The tunnel is open again.
    fn resume(&self, tunnel: &TunnelId);

    /// The tunnel is archived: its connections are closed.
    fn close(&self, tunnel: &TunnelId);

    /// The tunnel has another token, of this generation. Connections that are there stay.
    fn token_rotated(&self, tunnel: &TunnelId, generation: u64);

    /// The tunnel's authorities are others than before: the next call is checked against those of the store.
    fn authorities_changed(&self, tunnel: &TunnelId);
}

/// No edge: the server does not listen for gateways.
pub struct NoEdge;

impl TunnelEdge for NoEdge {
    fn off(&self) -> Option<&'static str> {
        Some("this server does not listen for gateways: start it with --tunnel-listen")
    }

    fn connections(&self, _: &TunnelId) -> Vec<TunnelConnection> {
        Vec::new()
    }

    fn take_usage(&self) -> Vec<UsageDelta> {
        Vec::new()
    }

    fn pause(&self, _: &TunnelId) {}

    fn resume(&self, _: &TunnelId) {}

    fn close(&self, _: &TunnelId) {}

    fn token_rotated(&self, _: &TunnelId, _: u64) {}

    fn authorities_changed(&self, _: &TunnelId) {}
}

/// Who may serve a tunnel. Cheap to clone; every question goes to the store, so a rotated token is known at once.
#[derive(Clone)]
pub struct TunnelGate {
    store: Store,
}

impl TunnelGate {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Whether a gateway with this token may serve this tunnel. What a stranger is told must be the same for every
    /// refusal; which it was is for the log.
    pub async fn admit(
        &self,
        tunnel: &TunnelId,
        token: &SecretText,
    ) -> Result<Result<TunnelAdmission, TunnelRefusal>, StoreError> {
        self.store.admit_to_tunnel(tunnel, KeyHash::of(token.expose())).await
    }

    /// The DER of every authority that a tunnel trusts now. None means that nothing may pass.
    pub async fn authorities(&self, tunnel: &TunnelId) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.tunnel_authorities(tunnel, Time::now()).await
    }
}

/// What passed and is not written yet.
#[derive(Default)]
pub(crate) struct Meter {
    pending: Mutex<BTreeMap<(TunnelId, String), UsageDelta>>,
}

impl Meter {
    /// Writes what passed. If that fails it is kept, and written with what comes after.
    pub(crate) async fn flush(&self, edge: &dyn TunnelEdge, store: &Store) -> Result<(), StoreError> {
        self.add(edge.take_usage());
        let pending: Vec<UsageDelta> = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *pending).into_values().collect()
        };
        let written = store.add_tunnel_usage(pending.clone(), Time::now()).await;
        if written.is_err() {
            self.add(pending);
        }
        written
    }

    fn add(&self, deltas: Vec<UsageDelta>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for delta in deltas {
            let entry = pending
                .entry((delta.tunnel_id.clone(), delta.route.clone()))
                .or_insert_with(|| UsageDelta {
                    calls: 0,
                    bytes_in: 0,
                    bytes_out: 0,
                    ..delta.clone()
                });
            entry.calls = entry.calls.saturating_add(delta.calls);
            entry.bytes_in = entry.bytes_in.saturating_add(delta.bytes_in);
            entry.bytes_out = entry.bytes_out.saturating_add(delta.bytes_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use outwork_store::{NewTunnel, NewTunnelToken, Options};
    use outwork_wire::id::TunnelTokenId;

    use super::*;

    /// Tells what passed, once.
    struct Passed(Mutex<Vec<UsageDelta>>);

    impl TunnelEdge for Passed {
        fn connections(&self, _: &TunnelId) -> Vec<TunnelConnection> {
            Vec::new()
        }
        fn take_usage(&self) -> Vec<UsageDelta> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
        fn pause(&self, _: &TunnelId) {}
        fn resume(&self, _: &TunnelId) {}
        fn close(&self, _: &TunnelId) {}
        fn token_rotated(&self, _: &TunnelId, _: u64) {}
        fn authorities_changed(&self, _: &TunnelId) {}
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(Options::new(folder.path())).unwrap();
        let store = open();
        let (workspace, id) = (store.default_workspace().clone(), TunnelId::fresh());
        let tunnel = NewTunnel {
            id: id.clone(),
            display_name: None,
            domain: "a.example".into(),
            token: NewTunnelToken {
                id: TunnelTokenId::fresh(),
                sealed: Vec::new(),
                hash: KeyHash::of("token"),
            },
        };
        store.create_tunnel(&workspace, tunnel, 10, Time::now()).await.unwrap();
        let delta = UsageDelta {
            tunnel_id: id.clone(),
            route: "wiki".into(),
            calls: 1,
            bytes_in: 10,
            bytes_out: 20,
        };
        let edge = Passed(Mutex::new(vec![delta.clone(), delta.clone()]));
        let meter = Meter::default();
        store.close().await;
        assert!(meter.flush(&edge, &store).await.is_err());
        drop(store);

        let store = open();
        edge.0.lock().unwrap().push(delta);
        meter.flush(&edge, &store).await.unwrap();
        meter.flush(&edge, &store).await.unwrap();
        let usage = store.tunnel_usage(&workspace, &id).await.unwrap();
        let seen: Vec<_> = usage.iter().map(|u| (u.calls, u.bytes_in, u.bytes_out)).collect();
        assert_eq!(seen, [(3, 30, 60)]);
    }
}
