//! The edge of the tunnels, as the plane needs it: who is connected, what passed, and to whom it must be told at once
//! that a tunnel is paused, archived or has another token.
//!
//! What holds is what the store says; an edge is told after it is committed. [`NoEdge`] is there while the server does
//! not listen for gateways. [`TunnelGate`] is what an edge asks when a gateway shows its token.

pub(crate) mod live;

use std::collections::BTreeMap;
use std::net::SocketAddr;
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
    /// `quic` or `tcp`.
    pub transport: String,
    /// The gateway's software and version, as it says.
    pub gateway: String,
    /// The gateway's process, as it says.
    pub instance: String,
    /// Which of the process's connections this is.
    pub index: u16,
    /// Which of the tunnel's tokens it came with.
    pub token_generation: u64,
    /// Since when.
    pub connected_at: Time,
    /// When the gateway was last heard.
    pub last_seen_at: Time,
    /// Calls that are under way.
    pub in_flight: u64,
    /// Whether it takes no new calls.
    pub draining: bool,
}

/// Where gateways find an edge, and how they know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeInfo {
    /// The address of UDP and TCP that it listens on.
    pub listen: SocketAddr,
    /// `host:port` under which gateways reach it from elsewhere, if it was configured.
    pub public_address: Option<String>,
    /// SHA-256 of its certificate, in hexadecimal.
    pub fingerprint: Option<String>,
}

/// The edge of the tunnels.
pub trait TunnelEdge: Send + Sync {
    /// Why there is none, if there is none: for a person, with what to do.
    fn off(&self) -> Option<&'static str> {
        self.info()
            .is_none()
            .then_some("this server does not listen for gateways: start it with --tunnel-listen")
    }

    /// Where gateways find it; absent if there is none.
    fn info(&self) -> Option<&EdgeInfo>;

    /// The gateways that are connected for a tunnel.
    fn connections(&self, tunnel: &TunnelId) -> Vec<TunnelConnection>;

    /// What passed since the edge started, by tunnel and route. Counts only grow.
    fn usage(&self) -> Vec<UsageDelta>;

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
    fn info(&self) -> Option<&EdgeInfo> {
        None
    }

    fn connections(&self, _: &TunnelId) -> Vec<TunnelConnection> {
        Vec::new()
    }

    fn usage(&self) -> Vec<UsageDelta> {
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

/// Which part of what passed is written already.
#[derive(Default)]
pub(crate) struct Meter {
    written: Mutex<BTreeMap<(TunnelId, String), Counts>>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    calls: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Meter {
    /// Writes what passed since the last time. What could not be written is written the next time.
    pub(crate) async fn flush(&self, edge: &dyn TunnelEdge, store: &Store) -> Result<(), StoreError> {
        let deltas = self.claim(edge.usage());
        if deltas.is_empty() {
            return Ok(());
        }
        let written = store.add_tunnel_usage(deltas.clone(), Time::now()).await;
        if written.is_err() {
            self.give_back(&deltas);
        }
        written
    }

    /// What is not written, now taken as written, so that two who write at once do not write the same.
    fn claim(&self, usage: Vec<UsageDelta>) -> Vec<UsageDelta> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut deltas = Vec::new();
        for total in usage {
            let before = written
                .entry((total.tunnel_id.clone(), total.route.clone()))
                .or_default();
            let delta = UsageDelta {
                calls: total.calls.saturating_sub(before.calls),
                bytes_in: total.bytes_in.saturating_sub(before.bytes_in),
                bytes_out: total.bytes_out.saturating_sub(before.bytes_out),
                ..total
            };
            if (delta.calls, delta.bytes_in, delta.bytes_out) != (0, 0, 0) {
                before.calls += delta.calls;
                before.bytes_in += delta.bytes_in;
                before.bytes_out += delta.bytes_out;
                deltas.push(delta);
            }
        }
        deltas
    }

    fn give_back(&self, deltas: &[UsageDelta]) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for delta in deltas {
            if let Some(before) = written.get_mut(&(delta.tunnel_id.clone(), delta.route.clone())) {
                before.calls -= delta.calls;
                before.bytes_in -= delta.bytes_in;
                before.bytes_out -= delta.bytes_out;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outwork_store::{NewTunnel, NewTunnelToken, Options};
    use outwork_wire::id::TunnelTokenId;

    use super::*;

    /// Tells what passed.
    struct Passed(Mutex<UsageDelta>);

    impl TunnelEdge for Passed {
        fn info(&self) -> Option<&EdgeInfo> {
            None
        }
        fn connections(&self, _: &TunnelId) -> Vec<TunnelConnection> {
            Vec::new()
        }
        fn usage(&self) -> Vec<UsageDelta> {
            vec![self.0.lock().unwrap().clone()]
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
        let passed = |calls| UsageDelta {
            tunnel_id: id.clone(),
            route: "wiki".into(),
            calls,
            bytes_in: 10 * calls,
            bytes_out: 20 * calls,
        };
        let edge = Passed(Mutex::new(passed(2)));
        let meter = Meter::default();
        meter.flush(&edge, &store).await.unwrap();
        *edge.0.lock().unwrap() = passed(3);
        store.close().await;
        assert!(meter.flush(&edge, &store).await.is_err());
        drop(store);

        let store = open();
        let (one, two) = tokio::join!(meter.flush(&edge, &store), meter.flush(&edge, &store));
        assert!(one.is_ok() && two.is_ok());
        meter.flush(&edge, &store).await.unwrap();
        // Another process counts from nothing, and the store goes on.
        *edge.0.lock().unwrap() = passed(1);
        Meter::default().flush(&edge, &store).await.unwrap();
        let usage = store.tunnel_usage(&workspace, &id).await.unwrap();
        let seen: Vec<_> = usage.iter().map(|u| (u.calls, u.bytes_in, u.bytes_out)).collect();
        assert_eq!(seen, [(4, 40, 80)]);
    }
}
