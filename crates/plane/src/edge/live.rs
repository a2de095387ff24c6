//! The edge that listens: what `outwork_tunnel` carries, judged by the store.
//!
//! A gateway that names an unknown tunnel is told the same as one with a wrong token; the log knows which it was.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_store::{TunnelRefusal, UsageDelta};
use outwork_tunnel::edge::{Admission, Authenticator, Credentials, Edge, Event, Handle, Options, Service};
use outwork_tunnel::frame::RefusedCode;
use outwork_tunnel::tls::Identity;
use outwork_wire::id::TunnelId;
use secrecy::ExposeSecret;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{EdgeInfo, TunnelConnection, TunnelEdge, TunnelGate};
use crate::auth::SecretText;
use crate::error::PlaneError;
use crate::options::EdgeOptions;

/// The folder of the identity that was made at first start.
const FOLDER: &str = "edge";
/// How long streams may go on when the server stops. Sessions were handed over before.
const DRAIN: Duration = Duration::from_secs(5);

/// An edge that takes the connections of gateways.
pub(crate) struct LiveEdge {
    handle: Handle,
    info: EdgeInfo,
    calls: Arc<Calls>,
}

/// Calls that were begun, by tunnel and host. The edge sees streams and bytes; what is a call only the caller knows.
#[derive(Default)]
pub(crate) struct Calls(Mutex<HashMap<(TunnelId, String), u64>>);

impl Calls {
    pub(crate) fn begun(&self, tunnel: &TunnelId, host: &str) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry((tunnel.clone(), host.to_owned())).or_default() += 1;
    }

    fn all(&self) -> HashMap<(TunnelId, String), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LiveEdge {
    /// Opens the port. Gateways are taken once the service runs.
    pub(crate) async fn bind(
        options: &EdgeOptions,
        data_dir: &Path,
        gate: TunnelGate,
    ) -> Result<(Self, Service), PlaneError> {
        let identity = identity(options, data_dir).map_err(|error| PlaneError::Edge(error.to_string()))?;
        let fingerprint = identity.fingerprint().map(str::to_owned);
        let authenticator = Arc::new(Judge { gate });
        let mut edge = Options::new(options.listen, identity);
        edge.drain = DRAIN;
        edge.tap = options.tap.clone();
        let (service, handle) = Edge::bind(edge, authenticator)
            .await
            .map_err(|error| PlaneError::Edge(error.to_string()))?;
        let info = EdgeInfo {
            listen: handle.address(),
            public_address: options.public_address.clone(),
            fingerprint,
        };
        let calls = Arc::default();
        Ok((Self { handle, info, calls }, service))
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }
}

fn identity(options: &EdgeOptions, data_dir: &Path) -> Result<Identity, outwork_tunnel::tls::TlsError> {
    match &options.tls {
        Some(paths) => Identity::from_files(&paths.cert, &paths.key),
        None => {
            let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            hosts.extend(options.public_address.as_deref().and_then(host_of).map(str::to_owned));
            Identity::self_signed(&data_dir.join(FOLDER), &hosts)
        }
    }
}

/// The host of `host:port` or `[v6]:port`.
fn host_of(address: &str) -> Option<&str> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Runs an edge until `stop` is cancelled, and writes into the log who came and went.
pub(crate) async fn serve(service: Service, events: broadcast::Receiver<Event>, stop: CancellationToken) {
    tokio::select! {
        () = service.run(stop) => {}
        () = log(events) => unreachable!("the service that runs holds the sender of these events"),
    }
}

async fn log(mut events: broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(Event::Connected { tunnel_id, connection }) => tracing::info!(
                tunnel = tunnel_id, connection = connection.id, remote = %connection.remote,
                transport = connection.transport.as_str(), gateway = connection.software, "a gateway connected"
            ),
            Ok(Event::Lost {
                tunnel_id,
                connection_id,
                reason,
                detail,
            }) => tracing::info!(
                tunnel = tunnel_id,
                connection = connection_id,
                reason = reason.as_str(),
                detail,
                "a gateway's connection ended"
            ),
            Ok(Event::Refused {
                tunnel_id,
                remote,
                transport,
                code,
            }) => tracing::warn!(
                tunnel = tunnel_id, %remote, transport = transport.as_str(), reason = code.as_str(), "a gateway was refused"
            ),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "connections of gateways came and went too fast for the log");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Asks the store who a gateway is.
struct Judge {
    gate: TunnelGate,
}

impl Authenticator for Judge {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        Box::pin(async move {
            let Ok(tunnel) = credentials.tunnel_id.parse::<TunnelId>() else {
                return Err(RefusedCode::BadToken);
            };
            let token = SecretText::new(credentials.token.expose_secret().to_owned());
            match self.gate.admit(&tunnel, &token).await {
                Ok(Ok(admission)) => Ok(Admission {
                    tunnel_id: admission.tunnel_id.as_str().to_owned(),
                    generation: admission.generation,
                }),
                Ok(Err(refusal)) => {
                    tracing::info!(%tunnel, remote = %credentials.remote, ?refusal, "a gateway's token was refused");
                    Err(match refusal {
                        TunnelRefusal::Unknown | TunnelRefusal::Token => RefusedCode::BadToken,
                        TunnelRefusal::Archived => RefusedCode::Archived,
                    })
                }
                Err(error) => {
                    tracing::error!(%error, "a gateway's token could not be checked");
                    Err(RefusedCode::Unavailable)
                }
            }
        })
    }
}

impl TunnelEdge for LiveEdge {
    fn info(&self) -> Option<&EdgeInfo> {
        Some(&self.info)
    }

    fn connections(&self, tunnel: &TunnelId) -> Vec<TunnelConnection> {
        let connections = self.handle.connections(tunnel.as_str());
        connections
            .into_iter()
            .map(|connection| TunnelConnection {
                id: connection.id,
                remote_address: remote(connection.remote),
                transport: connection.transport.as_str().to_owned(),
                gateway: connection.software,
                instance: connection.instance,
                index: connection.index,
                token_generation: connection.generation,
                connected_at: connection.since,
                last_seen_at: connection.last_seen,
                in_flight: connection.in_flight as u64,
                draining: connection.draining,
            })
            .collect()
    }

    fn usage(&self) -> Vec<UsageDelta> {
        let mut calls = self.calls.all();
        let mut usage: Vec<UsageDelta> = self
            .handle
            .usage()
            .into_iter()
            .filter_map(|passed| {
                let tunnel_id: TunnelId = passed.tunnel_id.parse().ok()?;
                Some(UsageDelta {
                    calls: calls.remove(&(tunnel_id.clone(), passed.host.clone())).unwrap_or(0),
                    tunnel_id,
                    route: passed.host,
                    bytes_in: passed.received,
                    bytes_out: passed.sent,
                })
            })
            .collect();
        // Calls that found no gateway have no bytes.
        usage.extend(calls.into_iter().map(|((tunnel_id, route), calls)| UsageDelta {
            tunnel_id,
            route,
            calls,
            bytes_in: 0,
            bytes_out: 0,
        }));
        usage
    }

    fn pause(&self, tunnel: &TunnelId) {
        self.handle.pause(tunnel.as_str());
    }

    fn resume(&self, tunnel: &TunnelId) {
        self.handle.resume(tunnel.as_str());
    }

    fn close(&self, tunnel: &TunnelId) {
        self.handle.close(tunnel.as_str());
    }

    /// Nothing to be told: every new connection asks the store, and those that are there stay.
    fn token_rotated(&self, _: &TunnelId, _: u64) {}

    /// Nothing to be told: every call asks the store for the authorities.
    fn authorities_changed(&self, _: &TunnelId) {}
}

fn remote(address: SocketAddr) -> String {
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_public_address() {
        assert_eq!(host_of("edge.example:443"), Some("edge.example"));
        assert_eq!(host_of("[2001:db8::1]:443"), Some("2001:db8::1"));
        assert_eq!(host_of("edge.example"), None);
    }
}
