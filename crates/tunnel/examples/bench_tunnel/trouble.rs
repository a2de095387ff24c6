//! Trouble: the edge is killed and comes back, the network goes silent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outwork_tunnel::edge::{self, Edge, Event, LostReason};
use outwork_tunnel::inner::Connector;
use outwork_tunnel::tls::Identity;
use tokio_util::sync::CancellationToken;

use crate::load::trip;
use crate::ours::{Anybody, HOST, Identities, TUNNEL, authorities, links};
use crate::rathole::{Rathole, free};
use crate::relay::Relay;
use crate::way::{Duplex, Line, Ports, Process};
use crate::{Failure, Plan, show};

const LIMIT: Duration = Duration::from_secs(60);

/// An edge that was away for about three seconds, from the start of its process to the first call that passes; it is
/// ended by SIGKILL. The same with rathole's server.
pub(crate) async fn restart(plan: &Plan, origin: Ports) -> Result<(), Failure> {
    for mode in ["tcp", "quic"] {
        let identities = Identities::make(&format!("restart-{mode}"))?;
        let address = free()?;
        let folder = identities.folder.0.to_string_lossy().into_owned();
        let role = ["edge".to_owned(), folder, address.to_string()];
        let (mut edge, gateway) = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| identities.gateway(address, mode, origin).map_err(|e| e.to_string()));
                let edge = Process::role(&role);
                (edge, waiting.join())
            })
        });
        let _gateway = gateway.map_err(|_| "a thread of the benchmark panicked")??;
        let mut times = Vec::new();
        for round in 0..plan.rounds(8) {
            drop(edge?);
            tokio::time::sleep(away(round)).await;
            let start = Instant::now();
            edge = tokio::task::block_in_place(|| Process::role(&role));
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        show(Line {
            what: "edge restarted to first success",
            whose: &format!("ours {mode}"),
            unit: "ms",
            values: &times,
        });
    }
    if let Some(program) = &plan.rathole {
        let mut rathole = Rathole::start(program, origin).await?;
        let mut times = Vec::new();
        for round in 0..plan.rounds(8) {
            rathole.server = None;
            tokio::time::sleep(away(round)).await;
            let start = Instant::now();
            rathole.revive()?;
            rathole.ready(LIMIT).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        show(Line {
            what: "edge restarted to first success",
            whose: "rathole",
            unit: "ms",
            values: &times,
        });
    }
    Ok(())
}

/// About three seconds, so that nobody's clock fits by chance.
fn away(round: usize) -> Duration {
    Duration::from_millis(2500 + 130 * (round as u64 % 8))
}

/// What an edge's process does: it is up, and says so when the first call has passed.
pub(crate) async fn edge(arguments: &[String]) -> Result<(), Failure> {
    let [folder, address] = arguments else {
        return Err("arguments of an edge".into());
    };
    let folder = Path::new(folder);
    let identity = Identity::self_signed(&folder.join("edge"), &["127.0.0.1".into()])?;
    let options = edge::Options::new(address.parse()?, identity);
    let (service, handle) = Edge::bind(options, Arc::new(Anybody)).await?;
    tokio::spawn(service.run(CancellationToken::new()));
    let (connector, authorities) = (Connector::new(), authorities(folder)?);
    loop {
        let deadline = tokio::time::Instant::now() + LIMIT;
        if let Ok(stream) = connector.open(&handle, TUNNEL, HOST, &authorities, deadline).await {
            let mut stream: Box<dyn Duplex> = Box::new(stream);
            if trip(&mut stream).await.is_ok() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("passed");
    // The parent kills this process.
    std::future::pending().await
}

/// The network forwards nothing any more and closes nothing: until each side has noticed.
pub(crate) async fn silence(plan: &Plan, origin: Ports) -> Result<(), Failure> {
    for mode in ["tcp", "quic"] {
        let (mut at_edge, mut at_gateway) = (Vec::new(), Vec::new());
        for round in 0..plan.rounds(8) {
            let (edge, gateway) = silent(mode, round, origin).await?;
            at_edge.push(edge);
            at_gateway.push(gateway);
        }
        for (what, values) in [
            ("silent loss noticed by the edge", &at_edge),
            ("silent loss noticed by the gateway", &at_gateway),
        ] {
            show(Line {
                what,
                whose: &format!("ours {mode}"),
                unit: "s",
                values,
            });
        }
    }
    let Some(program) = plan.rathole.as_ref().filter(|_| !plan.quick) else {
        return Ok(());
    };
    let control = free()?;
    let relay = Relay::start(control, false).await;
    let rathole = Rathole::through(program, origin, control, relay.address).await?;
    let before = rathole
        .log()
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .count();
    relay.silence();
    let start = Instant::now();
    // Its client says in its log that it has given the connection up.
    let noticed = loop {
        let lines = rathole.log();
        if lines
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"))
            .count()
            > before
        {
            break Some(start.elapsed());
        }
        if start.elapsed() > LIMIT * 2 {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    match noticed {
        Some(time) => show(Line {
            what: "silent loss noticed by the gateway",
            whose: "rathole",
            unit: "s",
            values: &[time.as_secs_f64()],
        }),
        None => eprintln!(
            "rathole's client did not notice a silent loss within {} s",
            (LIMIT * 2).as_secs()
        ),
    }
    Ok(())
}

async fn silent(mode: &str, round: usize, origin: Ports) -> Result<(f64, f64), Failure> {
    let identities = Identities::make(&format!("silence-{mode}"))?;
    let options = edge::Options::new("127.0.0.1:0".parse()?, identities.edge.clone());
    let (service, handle) = Edge::bind(options, Arc::new(Anybody)).await?;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(service.run(stop));
    let address: SocketAddr = handle.address();
    let relay = Relay::start(address, true).await;
    let links = links(&identities.folder.0, &identities.pin, mode, relay.address, origin)?;
    let mut status = links.status();
    status
        .wait_for(|all| all.iter().all(|link| link.is_connected()))
        .await?;
    let count = status.borrow().len();
    let mut events = handle.events();
    // Anywhere between two heartbeats.
    tokio::time::sleep(Duration::from_millis(1000 + 137 * (round as u64 % 8))).await;
    relay.silence();
    let start = Instant::now();
    let at_edge = async {
        let mut lost = 0;
        while lost < count {
            if let Event::Lost { reason, .. } = events.recv().await?
                && reason == LostReason::Silent
            {
                lost += 1;
            }
        }
        Ok::<_, Failure>(start.elapsed().as_secs_f64())
    };
    let at_gateway = async {
        status
            .wait_for(|all| all.iter().all(|link| !link.is_connected()))
            .await?;
        Ok::<_, Failure>(start.elapsed().as_secs_f64())
    };
    tokio::time::timeout(LIMIT, async { tokio::try_join!(at_edge, at_gateway) })
        .await
        .map_err(|_| "silence was not noticed")?
}
