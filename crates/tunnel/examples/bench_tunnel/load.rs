//! The load: the same for every way, in turn, round by round, since the machine is never the same twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ours::{RAW, WARM};
use crate::way::{Duplex, Line, To, Way};
use crate::{Failure, Plan, show};

/// A small JSON message's length.
const MESSAGE: usize = 75;
const WARM_UP: usize = 500;

/// There and back.
pub(crate) async fn trip(stream: &mut Box<dyn Duplex>) -> Result<(), Failure> {
    stream.write_all(&[0x42; MESSAGE]).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0; MESSAGE]).await?;
    Ok(())
}

/// One call at a time on one stream: the median, and what it is above the direct one of the same round.
pub(crate) async fn latency(ways: &[Arc<Way>], plan: &Plan) -> Result<(), Failure> {
    let mut direct = Vec::new();
    let mut added = vec![Vec::new(); ways.len()];
    for round in 0..plan.rounds(12) {
        let mut medians = Vec::new();
        for index in order(ways.len(), round) {
            medians.push((index, median(ways[index].open(To::Echo).await?, 3000).await?));
        }
        medians.sort_by_key(|(index, _)| *index);
        direct.push(medians[0].1);
        for (index, median) in &medians[1..] {
            added[*index].push(median - medians[0].1);
        }
    }
    show(Line {
        what: "p50, one call at a time",
        whose: "direct",
        unit: "us",
        values: &direct,
    });
    for (way, values) in ways.iter().zip(&added).skip(1) {
        show(Line {
            what: "added p50, one call at a time",
            whose: &way.name(),
            unit: "us",
            values,
        });
    }
    Ok(())
}

/// Who goes first changes from round to round.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

async fn median(mut stream: Box<dyn Duplex>, rounds: usize) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + WARM_UP {
        let start = Instant::now();
        trip(&mut stream).await?;
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// 32 streams at a time.
pub(crate) async fn throughput(ways: &[Arc<Way>], plan: &Plan) -> Result<(), Failure> {
    let mut rates = vec![Vec::new(); ways.len()];
    for round in 0..plan.rounds(6) {
        for index in order(ways.len(), round) {
            let mut streams = Vec::new();
            for _ in 0..32 {
                streams.push(ways[index].open(To::Echo).await?);
            }
            rates[index].push(rate(streams, plan.span()).await?);
        }
    }
    for (way, values) in ways.iter().zip(&rates) {
        show(Line {
            what: "32 at a time",
            whose: &way.name(),
            unit: "req/s",
            values,
        });
    }
    Ok(())
}

async fn rate(streams: Vec<Box<dyn Duplex>>, time: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut done = 0u64;
                while start.elapsed() < time {
                    trip(&mut stream).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// What a new connection is made of.
#[derive(Clone, Copy, PartialEq)]
enum Fresh {
    /// The whole way, with a TCP connection to the origin.
    Whole,
    /// To the gateway, which answers itself: inner TLS on a warm link.
    Warm,
    /// The same without inner TLS.
    Raw,
}

/// New connections, eight at a time, one call on each.
pub(crate) async fn fresh(ways: &[Arc<Way>], plan: &Plan) -> Result<(), Failure> {
    let mut cases = Vec::new();
    for (index, way) in ways.iter().enumerate() {
        cases.push((index, Fresh::Whole, "new connections"));
        if matches!(**way, Way::Ours(_)) {
            cases.push((index, Fresh::Warm, "new connections, inner TLS on a warm link"));
            cases.push((index, Fresh::Raw, "new connections, on a warm link"));
        }
    }
    let mut rates = vec![Vec::new(); cases.len()];
    for round in 0..plan.rounds(4) {
        for at in order(cases.len(), round) {
            let (index, kind, _) = cases[at];
            rates[at].push(connections(ways[index].clone(), kind, 8, plan.span()).await?);
        }
    }
    for ((index, _, what), values) in cases.iter().zip(&rates) {
        show(Line {
            what,
            whose: &ways[*index].name(),
            unit: "conn/s",
            values,
        });
    }
    Ok(())
}

async fn connections(way: Arc<Way>, kind: Fresh, clients: usize, time: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let way = way.clone();
            tokio::spawn(async move {
                let mut done = 0u64;
                while start.elapsed() < time {
                    let mut stream = match (kind, &*way) {
                        (Fresh::Warm, Way::Ours(ours)) => ours.open(WARM).await?,
                        (Fresh::Raw, Way::Ours(ours)) => ours.open_raw(RAW).await?,
                        _ => way.open(To::Echo).await?,
                    };
                    trip(&mut stream).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Bulk on one stream.
pub(crate) async fn bulk(ways: &[Arc<Way>], plan: &Plan) -> Result<(), Failure> {
    let total = if plan.quick { 256 << 20 } else { 1 << 30 };
    let mut speeds = vec![Vec::new(); ways.len()];
    for round in 0..plan.rounds(6) {
        for index in order(ways.len(), round) {
            let mut stream = ways[index].open(To::Sink).await?;
            let block = vec![0x5a; 256 << 10];
            let start = Instant::now();
            for _ in 0..total / block.len() {
                stream.write_all(&block).await?;
            }
            stream.shutdown().await?;
            stream.read_exact(&mut [0; 1]).await?;
            speeds[index].push(total as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    for (way, values) in ways.iter().zip(&speeds) {
        show(Line {
            what: "bulk, one stream",
            whose: &way.name(),
            unit: "Gbit/s",
            values,
        });
    }
    Ok(())
}
