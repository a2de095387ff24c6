//! What the plane does with the edge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, OpenFailure, Place};
use super::options::Options;
use super::stream::Stream;
use super::tap::Direction;
use super::tunnel::{Tunnel, Tunnels};
use super::{Event, OpenError, Usage};
use crate::frame::{RejectionCode, StreamKind, is_host};

/// What the parts of an edge share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) address: SocketAddr,
    pub(super) tunnels: Tunnels,
    pub(super) events: broadcast::Sender<Event>,
    /// Cancelled when no stream is to be opened any more.
    pub(super) draining: CancellationToken,
    pub(super) started: Instant,
}

impl Shared {
    pub(super) fn tell(&self, event: Event) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }
}

/// Opens streams and rules tunnels; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// A stream to the handler of a gateway of the tunnel. Takes the connection with the fewest streams, and another one
    /// if that is lost, drains, or gives no answer in good time. Waits a moment for a gateway that is expected back; see
    /// [`Options::reconnect`]. When an error comes back, no gateway took a byte of
    /// payload.
    pub async fn open(&self, tunnel_id: &str, host: &str, deadline: Instant) -> Result<Stream, OpenError> {
        self.open_with(tunnel_id, host, &Bytes::new(), deadline).await
    }

    /// As [`Handle::open`], and `early` goes along with the question, which saves a round trip. It may be sent to more
    /// than one gateway, so it must be something that does no harm twice: the first flight of a TLS handshake.
    pub(crate) async fn open_with(
        &self,
        tunnel_id: &str,
        host: &str,
        early: &Bytes,
        deadline: Instant,
    ) -> Result<Stream, OpenError> {
        let tunnel = self.find(tunnel_id, host)?;
        let ask = self.ask(&tunnel, host, StreamKind::Request, early);
        let (plain, place) = tokio::time::timeout_at(deadline, ask)
            .await
            .map_err(|_| OpenError::TimedOut)??;
        let meter = tunnel.meters.of(host, self.0.options.max_hosts);
        meter.sent.fetch_add(early.len() as u64, Ordering::Relaxed);
        let tap = self.0.options.tap.as_ref().map(|tap| (tap.clone(), Arc::from(host)));
        if let Some((tap, host)) = tap.as_ref().filter(|_| !early.is_empty()) {
            tap.show(Direction::ToGateway, host, early);
        }
        Stream::new(plain, tunnel, meter, place, tap)
    }

    /// Tests the data path to a host: bytes go through a gateway's handler and come back. Returns the id of the
    /// connection that was tested.
    pub async fn probe(&self, tunnel_id: &str, host: &str, deadline: Instant) -> Result<String, OpenError> {
        let tunnel = self.find(tunnel_id, host)?;
        let place = tunnel.pick(&[], self.0.options.max_streams)?;
        match tokio::time::timeout_at(deadline, place.connection().probe(host)).await {
            Ok(Ok(())) => Ok(place.connection_id().to_owned()),
            Ok(Err(OpenFailure::Rejected(rejection))) => Err(OpenError::Rejected(rejection)),
            Ok(Err(OpenFailure::Lost(detail))) => Err(OpenError::Lost(detail)),
            Err(_) => Err(OpenError::TimedOut),
        }
    }

    /// Stops a tunnel: when this returns, its open streams are cut and no byte passes, and opens fail at once until
    /// [`Handle::resume`]. Its connections stay.
    pub fn pause(&self, tunnel_id: &str) {
        self.0.tunnels.get_or_add(tunnel_id).pause();
    }

    /// Lets streams be opened again.
    pub fn resume(&self, tunnel_id: &str) {
        if let Some(tunnel) = self.0.tunnels.get(tunnel_id) {
            tunnel.resume();
        }
    }

    /// Whether a tunnel is paused.
    pub fn is_paused(&self, tunnel_id: &str) -> bool {
        self.0.tunnels.get(tunnel_id).is_some_and(|tunnel| tunnel.is_paused())
    }

    /// Closes a tunnel for good: its streams are cut, its connections die, later ones are refused.
    pub fn close(&self, tunnel_id: &str) {
        self.0.tunnels.get_or_add(tunnel_id).close();
    }

    /// The live connections of a tunnel, the oldest first.
    pub fn connections(&self, tunnel_id: &str) -> Vec<Connection> {
        let connections = self
            .0
            .tunnels
            .get(tunnel_id)
            .map(|tunnel| tunnel.connections())
            .unwrap_or_default();
        connections.iter().map(|connection| connection.show()).collect()
    }

    /// What passed since the edge started, by tunnel and host.
    pub fn usage(&self) -> Vec<Usage> {
        let mut tunnels = self.0.tunnels.all();
        tunnels.sort_by(|a, b| a.id.cmp(&b.id));
        tunnels
            .iter()
            .flat_map(|tunnel| tunnel.meters.read(&tunnel.id))
            .collect()
    }

    /// What passed through one tunnel since the edge started, by host.
    pub fn usage_of(&self, tunnel_id: &str) -> Vec<Usage> {
        self.0
            .tunnels
            .get(tunnel_id)
            .map(|tunnel| tunnel.meters.read(tunnel_id))
            .unwrap_or_default()
    }

    /// What happens from now on. A subscriber that is too slow misses the oldest events and is told so.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    fn find(&self, tunnel_id: &str, host: &str) -> Result<Arc<Tunnel>, OpenError> {
        if !is_host(host) {
            return Err(OpenError::InvalidHost(host.chars().take(64).collect()));
        }
        if self.0.draining.is_cancelled() {
            return Err(OpenError::Stopping);
        }
        let tunnel = match self.0.tunnels.get(tunnel_id) {
            Some(tunnel) => tunnel,
            // Its gateway may be on the way back to an edge that was restarted.
            None if self.0.started.elapsed() < self.0.options.reconnect => self.0.tunnels.get_or_add(tunnel_id),
            None => return Err(OpenError::NotConnected),
        };
        tunnel.check()?;
        Ok(tunnel)
    }

    /// Waits for a connection that is not among `tried`, where one is expected. Whether one came.
    async fn comes_back(&self, tunnel: &Tunnel, tried: &[Arc<str>], lost: bool) -> Result<bool, OpenError> {
        let since = [Some(self.0.started), tunnel.parted(), lost.then(Instant::now)];
        let Some(until) = since
            .into_iter()
            .flatten()
            .max()
            .map(|at| at + self.0.options.reconnect)
        else {
            return Ok(false);
        };
        loop {
            let changed = tunnel.changed.notified();
            tunnel.check()?;
            if tunnel.offers(tried, usize::MAX) {
                return Ok(true);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until) => return Ok(false),
                () = self.0.draining.cancelled() => return Err(OpenError::Stopping),
            }
        }
    }

    async fn ask(
        &self,
        tunnel: &Arc<Tunnel>,
        host: &str,
        kind: StreamKind,
        early: &Bytes,
    ) -> Result<(crate::stream::Stream, Place), OpenError> {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let place = match tunnel.pick(&tried, self.0.options.max_streams) {
                Ok(place) => place,
                Err(OpenError::NotConnected) => {
                    let lost = matches!(last, Some(OpenError::Lost(_)));
                    if self.comes_back(tunnel, &tried, lost).await? {
                        continue;
                    }
                    return Err(last.unwrap_or(OpenError::NotConnected));
                }
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let connection = place.connection().clone();
            tried.push(connection.id.clone());
            // Only who has an alternative is in a hurry; the caller's deadline holds anyway.
            let hasty = tunnel.offers(&tried, self.0.options.max_streams);
            let patience = if hasty {
                self.0.options.open_attempt
            } else {
                Duration::MAX
            };
            let failure = match tokio::time::timeout(patience, connection.open(host, kind, early)).await {
                Ok(Ok(stream)) => return Ok((stream, place)),
                Ok(Err(OpenFailure::Rejected(rejection))) if rejection.code == RejectionCode::Draining => {
                    connection.drain();
                    OpenError::Rejected(rejection)
                }
                // The gateway has decided.
                Ok(Err(OpenFailure::Rejected(rejection))) => return Err(OpenError::Rejected(rejection)),
                Ok(Err(OpenFailure::Lost(detail))) => OpenError::Lost(detail),
                Err(_) => OpenError::TimedOut,
            };
            tunnel.check()?;
            last = Some(failure);
        }
    }
}
