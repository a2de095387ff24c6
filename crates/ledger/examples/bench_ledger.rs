//! How many records a second a ledger takes: `cargo run --release -p outwork-ledger --example bench_ledger`.
//!
//! Arguments: records in all (default 500000), threads (default 8), records in flight for each thread (default 512),
//! and a folder, whose disk is what is measured (default: a temporary one). Every record is durable and acknowledged
//! within the time; checkpoints are signed as by default.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use outwork_ledger::{Append, Decision, Error, Expect, Filter, Hash, Kind, Ledger, Options, Record, verify};
use outwork_wire::Time;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (records, threads, in_flight) = (number(500_000), number(8), number(512) as usize);
    let temporary = tempfile::tempdir()?;
    let dir = arguments
        .next()
        .map_or_else(|| temporary.path().join("ledger"), PathBuf::from);

    let ledger = Ledger::open(&dir, Options::default())?;
    let start = Instant::now();
    let mut waits: Vec<Duration> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                let ledger = ledger.clone();
                scope.spawn(move || task(&ledger, thread, records / threads, in_flight))
            })
            .collect();
        let done = tasks.into_iter().map(|task| task.join().unwrap_or(Err(Error::Closed)));
        done.collect::<Result<Vec<_>, Error>>()
    })?
    .concat();
    let waited = start.elapsed();
    waits.sort_unstable();
    let kept = records / threads * threads;
    println!(
        "awaited    {:>9.0} records/s   {kept} records, {threads} threads, {in_flight} in flight each; wait p50 {:.2?}, p99 {:.2?}",
        kept as f64 / waited.as_secs_f64(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
    );

    let start = Instant::now();
    for n in 0..kept {
        ledger.append_later(sample(0, n)).wait()?;
    }
    ledger.flush().wait()?;
    println!(
        "not awaited{:>9.0} records/s   one thread, flushed at the end",
        kept as f64 / start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    for n in 0..200 {
        ledger.append(sample(0, n)).wait()?;
    }
    println!(
        "one by one {:>9.0} records/s   one thread that waits for each",
        200.0 / start.elapsed().as_secs_f64()
    );
    let key = ledger.public_key();
    ledger.close()?;

    let start = Instant::now();
    let report = verify(&dir, &Expect::keys([key]))?.sound()?;
    println!(
        "verify     {:>9.0} records/s   {} checkpoints, {} segments",
        report.records as f64 / start.elapsed().as_secs_f64(),
        report.checkpoints,
        report.segments
    );
    let start = Instant::now();
    let ledger = Ledger::open(&dir, Options::default())?;
    println!("open       {:>9.2?}", start.elapsed());
    let start = Instant::now();
    let mut bytes = Vec::new();
    let made = ledger.export(&Filter::session("sesn_bench_0").range(1, 5000), &mut bytes)?;
    println!(
        "export     {:>9.2?}   {} of its records in {} bytes",
        start.elapsed(),
        made.records,
        bytes.len()
    );
    Ok(())
}

fn task(ledger: &Ledger, thread: u64, records: u64, in_flight: usize) -> Result<Vec<Duration>, Error> {
    let mut open: VecDeque<(Instant, Append)> = VecDeque::with_capacity(in_flight);
    let mut waits = Vec::with_capacity(records as usize);
    let mut settle = |(since, append): (Instant, Append)| -> Result<(), Error> {
        append.wait()?;
        waits.push(since.elapsed());
        Ok(())
    };
    for n in 0..records {
        if open.len() == in_flight
            && let Some(first) = open.pop_front()
        {
            settle(first)?;
        }
        open.push_back((Instant::now(), ledger.append(sample(thread, n))));
    }
    open.into_iter().try_for_each(&mut settle)?;
    Ok(waits)
}

/// A record of the usual size, about 600 bytes.
fn sample(thread: u64, n: u64) -> Record {
    Record::new(Kind::McpCall, Time::now())
        .workspace("wrkspc_01HZY7M3Q6V0K4E8N2B5C9D1F")
        .session(format!("sesn_bench_{thread}"))
        .agent("agent_01HZY7M3Q6V0K4E8N2B5C9D1F", Some(3))
        .tunnel("tunl_01HZY7M3Q6V0K4E8N2B5C9D1F")
        .hostname("wiki.tunnel.example")
        .route("wiki")
        .mcp_method("tools/call")
        .tool("search")
        .call(format!("call_{n}"))
        .input_hash(Hash::of(&n.to_be_bytes()))
        .decided(Decision::Allowed, "routes/wiki/tools")
        .status(200)
        .bytes_in(512)
        .bytes_out(4096)
        .duration_micros(1830)
}
