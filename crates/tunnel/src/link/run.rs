//! The life of one link: dial, serve, dial again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outwork_wire::Time;
use rand::Rng;
use secrecy::SecretString;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dial::{self, DialError};
use super::state::Counts;
use super::{Accept, Counters, Error, LinkState, LinkStatus, Options, serve};
use crate::frame::{Frame, Hello, PROTOCOL};
use crate::transport;

/// What the links of a gateway have in common.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) accept: Arc<dyn Accept>,
    pub(super) status: watch::Sender<Vec<LinkStatus>>,
    pub(super) counts: Vec<Arc<Counts>>,
    pub(super) token: watch::Sender<SecretString>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) quic: quinn::ClientConfig,
    /// Cancelled when no stream is to be accepted any more.
    pub(super) draining: CancellationToken,
    /// Cancelled when everything is to end now.
    pub(super) stopped: CancellationToken,
    /// Attempts so far, so that links that fail together do not try the same address again.
    failed: Mutex<u32>,
}

impl Shared {
    pub(super) fn new(options: Options, accept: Arc<dyn Accept>) -> Result<Arc<Self>, Error> {
        if options.edges.is_empty() {
            return Err(Error::NoAddress);
        }
        if !(1..=64).contains(&options.connections) {
            return Err(Error::Connections);
        }
        let tls = options.trust.client_config(transport::ALPN_TCP)?;
        let crypto = options.trust.client_config(transport::ALPN_QUIC)?;
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto)
            .map_err(|error| crate::tls::TlsError::Authorities(error.to_string()))?;
        let mut quic = quinn::ClientConfig::new(Arc::new(crypto));
        // A quarter of the heartbeat: see `transport::quic`.
        let keep_alive = Some(options.heartbeat.interval / 4);
        quic.transport_config(transport::quic(options.windows, options.heartbeat, options.max_streams, keep_alive));
        let status = (0..options.connections)
            .map(|index| LinkStatus {
                index,
                edge: options.edges[index % options.edges.len()].to_string(),
                state: LinkState::Connecting,
                since: Time::now(),
                connects: 0,
                last_error: None,
            })
            .collect();
        let shared = Self {
            accept,
            status: watch::Sender::new(status),
            counts: (0..options.connections).map(|_| Arc::default()).collect(),
            token: watch::Sender::new(options.token.clone()),
            tls,
            quic,
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
            failed: Mutex::new(0),
            options,
        };
        shared.hello(0, shared.options.token.clone())?;
        Ok(Arc::new(shared))
    }

    /// The hello of a link, refused if a field breaks its rule.
    pub(super) fn hello(&self, index: usize, token: SecretString) -> Result<Frame, Error> {
        let hello = Frame::Hello(Hello {
            protocol: PROTOCOL,
            tunnel_id: self.options.tunnel_id.clone(),
            token,
            instance: self.options.instance.clone(),
            index: u16::try_from(index).unwrap_or(u16::MAX),
            software: self.options.software.clone(),
        });
        hello.encode(&mut zeroize::Zeroizing::new(Vec::with_capacity(4096)))?;
        Ok(hello)
    }

    pub(super) fn set_token(&self, token: SecretString) -> Result<(), Error> {
        self.hello(0, token.clone())?;
        self.token.send_replace(token);
        Ok(())
    }

    pub(super) fn counters(&self) -> Vec<Counters> {
        self.counts.iter().map(|counts| counts.read()).collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.counters().iter().map(|counters| counters.in_flight).sum()
    }

    pub(super) fn set(&self, index: usize, change: impl FnOnce(&mut LinkStatus)) {
        self.status.send_modify(|all| {
            let before = all[index].state.clone();
            change(&mut all[index]);
            if all[index].state != before {
                all[index].since = Time::now();
            }
        });
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, u32> {
        // A counter is whole whatever panicked beside it.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a served connection gives its link free.
#[derive(Debug)]
pub(super) enum Freed {
    /// The edge drains: the connection ends by itself, another one is wanted now.
    EdgeDrains,
    /// It was lost.
    Lost(String),
}

/// Runs a link until the links stop or drain.
pub(super) async fn link(shared: Arc<Shared>, index: usize, tracker: TaskTracker) {
    let ended = shared.stopped.clone().run_until_cancelled_owned(live(&shared, index, &tracker)).await;
    shared.set(index, |status| {
        status.state = if ended.is_some() { LinkState::Draining } else { LinkState::Stopped };
    });
}

/// Ends when the links drain; the connection then goes on in its own task.
async fn live(shared: &Arc<Shared>, index: usize, tracker: &TaskTracker) {
    let mut outage: Option<Instant> = None;
    let mut round = 0u32;
    loop {
        let mut token = shared.token.subscribe();
        let secret = token.borrow_and_update().clone();
        let turn = usize::try_from(*shared.failures()).unwrap_or(0);
        let edge = &shared.options.edges[(index + turn) % shared.options.edges.len()];
        shared.set(index, |status| {
            status.edge = edge.to_string();
            if !matches!(status.state, LinkState::Refused { .. }) {
                status.state = LinkState::Connecting;
            }
        });
        let dialled = tokio::select! {
            dialled = dial::connect(shared, index, edge, turn, round / 5, secret) => dialled,
            () = shared.draining.cancelled() => return,
        };
        let pause = match dialled {
            Ok(session) => {
                (outage, round) = (None, 0);
                tracing::info!(link = index, %edge, transport = %session.transport(), "connected to the edge");
                let (free, freed) = oneshot::channel();
                tracker.spawn(serve::serve(shared.clone(), index, session, free));
                let freed = tokio::select! {
                    freed = freed => freed.unwrap_or_else(|_| Freed::Lost("the connection's task ended".into())),
                    () = shared.draining.cancelled() => return,
                };
                match freed {
                    Freed::EdgeDrains => Duration::ZERO,
                    Freed::Lost(reason) => {
                        tracing::warn!(link = index, %edge, %reason, "the connection to the edge is lost");
                        shared.set(index, |status| status.last_error = Some(reason));
                        jitter(shared.options.first_backoff / 4)
                    }
                }
            }
            Err(error) => {
                let since = *outage.get_or_insert_with(Instant::now);
                round = round.saturating_add(1);
                let pause = backoff(&shared.options, &error, since.elapsed(), round);
                if matches!(error, DialError::Refused(_)) {
                    tracing::error!(link = index, %edge, %error, "the edge refuses the connection");
                } else {
                    tracing::warn!(link = index, %edge, %error, retry_in = ?pause, "the edge can not be reached");
                    *shared.failures() += 1;
                }
                shared.set(index, |status| {
                    status.last_error = Some(error.to_string());
                    status.state = match error {
                        DialError::Refused(refused) => {
                            LinkState::Refused { code: refused.code, message: refused.message }
                        }
                        _ => LinkState::Backoff,
                    };
                });
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Another token is a reason to try at once; the sender lives as long as `shared`.
            _ = token.changed() => {}
            () = shared.draining.cancelled() => return,
        }
    }
}

/// Full jitter: anything up to `limit`.
pub(super) fn jitter(limit: Duration) -> Duration {
    limit.mul_f64(rand::rng().random::<f64>())
}

/// How long to wait after a failed attempt. While an outage is young the pauses stay short, so that an edge that comes
/// back is used at once; then they double up to the cap. A refusal that only a person can lift waits for the cap.
fn backoff(options: &Options, error: &DialError, outage: Duration, round: u32) -> Duration {
    match error {
        DialError::Refused(refused) if refused.code == crate::frame::RefusedCode::Draining => {
            jitter(options.first_backoff)
        }
        DialError::Refused(_) => options.backoff_cap / 2 + jitter(options.backoff_cap / 2),
        _ if outage < options.fast_phase => jitter(options.first_backoff),
        _ => jitter((options.first_backoff * (1 << round.min(10))).min(options.backoff_cap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Refused, RefusedCode};
    use crate::tls::Trust;

    fn options() -> Options {
        Options::new(vec!["edge.example:7844".parse().unwrap()], Trust::Public, "tnl_1", String::from("t").into())
    }

    #[test]
    fn a_young_outage_is_retried_fast_and_an_old_one_at_the_cap() {
        let options = options();
        let error = DialError::TimedOut;
        for round in 1..100 {
            assert!(backoff(&options, &error, Duration::from_secs(14), round) <= Duration::from_millis(100));
            assert!(backoff(&options, &error, Duration::from_secs(60), round) <= Duration::from_secs(5));
        }
        let longest = (0..200).map(|_| backoff(&options, &error, Duration::from_secs(60), 50)).max().unwrap();
        assert!(longest > Duration::from_secs(3), "the cap is used: {longest:?}");
    }

    #[test]
    fn a_refusal_is_not_hammered() {
        let options = options();
        let refused = |code| DialError::Refused(Refused { code, message: String::new() });
        for _ in 0..100 {
            let pause = backoff(&options, &refused(RefusedCode::BadToken), Duration::ZERO, 1);
            assert!((Duration::from_millis(2500)..=Duration::from_secs(5)).contains(&pause));
            assert!(backoff(&options, &refused(RefusedCode::Draining), Duration::ZERO, 1) <= Duration::from_millis(100));
        }
    }
}
