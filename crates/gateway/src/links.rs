//! The gateway on the tunnel's links: which streams are admitted, and who serves them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::BoxFuture;
use outwork_tunnel::link::{self, EdgeAddress, Mode};
use outwork_tunnel::tls::Trust;
use outwork_tunnel::{Accept, Inbound, Open, Rejection, RejectionCode, StreamKind};
use secrecy::SecretString;

use crate::config::{Edge, TransportChoice};
use crate::error::Error;
use crate::gateway::Gateway;

/// Serves what comes in over links.
pub struct Serve(pub Arc<Gateway>);

impl Accept for Serve {
    fn admit(&self, open: &Open) -> Result<(), Rejection> {
        if self.0.drain.is_cancelled() {
            return Err(Rejection::new(RejectionCode::Draining, "the gateway is shutting down"));
        }
        if open.kind == StreamKind::Probe {
            return Ok(());
        }
        let live = self.0.live();
        if crate::route::host(&open.host).is_some_and(|host| live.table.find(&host).is_some()) {
            return Ok(());
        }
        self.0.metrics.streams_refused.fetch_add(1, Relaxed);
        tracing::warn!(host = open.host, "no route for host: a stream was turned away");
        Err(Rejection::new(RejectionCode::UnknownHost, "no route for host"))
    }

    fn serve(&self, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        let gateway = self.0.clone();
        Box::pin(async move {
            match inbound.kind {
                StreamKind::Request => gateway.serve(&inbound.host, inbound.stream, inbound.draining).await,
                StreamKind::Probe => {
                    gateway.metrics.probes.fetch_add(1, Relaxed);
                    // A probe that broke off is the prober's to notice.
                    let _ = link::echo(&mut inbound.stream).await;
                }
            }
        })
    }
}

/// The options of links to an edge.
pub fn options(edge: &Edge, tunnel_id: &str, token: SecretString) -> Result<link::Options, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Links(error.to_string());
    let addresses: Vec<EdgeAddress> = edge
        .addresses
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, link::Error>>()
        .map_err(|error| failed(&error))?;
    let trust = match (&edge.ca_file, &edge.fingerprint) {
        (Some(path), _) => Trust::from_file(path).map_err(|error| failed(&error))?,
        (None, Some(fingerprint)) => Trust::from_fingerprint(fingerprint).map_err(|error| failed(&error))?,
        (None, None) => Trust::Public,
    };
    let mut options = link::Options::new(addresses, trust, tunnel_id, token);
    options.server_name = edge.server_name.clone();
    options.connections = edge.connections;
    options.mode = match edge.transport {
        TransportChoice::Auto => Mode::Auto,
        TransportChoice::Quic => Mode::Quic,
        TransportChoice::Tcp => Mode::Tcp,
    };
    Ok(options)
}
