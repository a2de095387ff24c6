//! One of two connections goes while calls are made.

use std::time::{Duration, Instant};

use crate::world::World;
use crate::{Failure, Plan, show};

/// What happens to it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    /// It is closed.
    Cut,
    /// Nothing passes any more, and nobody says so.
    Silence,
}

/// Four callers call without pause while it happens to one of two. A call that fails is made once more, which is what the connector
/// does with tools that only read; one that fails again has failed.
pub(crate) async fn killed(mode: &'static str, how: Trouble, plan: &Plan) -> Result<(), Failure> {
    let (mut failed, mut repeated, mut longest, mut calls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.times(4) {
        let world = World::start(mode, plan, true).await?;
        let relay = world.relay.as_ref().ok_or("no relay")?;
        let start = Instant::now();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let world = world.clone();
                tokio::spawn(async move { persist(&world, start).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(700)).await;
        match how {
            Trouble::Cut => relay.cut(),
            Trouble::Silence => relay.silence(),
        }
        let mut sum = Tally::default();
        for task in tasks {
            let one = task.await??;
            sum.calls += one.calls;
            sum.repeated += one.repeated;
            sum.failed += one.failed;
            sum.longest = sum.longest.max(one.longest);
        }
        calls.push(sum.calls as f64);
        repeated.push(sum.repeated as f64);
        failed.push(sum.failed as f64);
        longest.push(sum.longest.as_secs_f64() * 1e3);
    }
    let what = match how {
        Trouble::Cut => "one of two connections closed",
        Trouble::Silence => "one of two connections silent",
    };
    let whose = format!("ours {mode}");
    show(&format!("{what}: failed read-only calls"), &whose, "calls", &failed);
    show(&format!("{what}: calls made again"), &whose, "calls", &repeated);
    show(&format!("{what}: calls in all"), &whose, "calls", &calls);
    show(&format!("{what}: longest call"), &whose, "ms", &longest);
    Ok(())
}

#[derive(Default)]
struct Tally {
    calls: u64,
    repeated: u64,
    failed: u64,
    longest: Duration,
}

async fn persist(world: &World, start: Instant) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut caller = None;
    while start.elapsed() < Duration::from_secs(6) {
        let begun = Instant::now();
        tally.calls += 1;
        for attempt in 0..2 {
            let outcome = async {
                let with = match &mut caller {
                    Some(caller) => caller,
                    none => none.insert(world.caller("ruled").await?),
                };
                with.call().await
            };
            if outcome.await.is_ok() {
                break;
            }
            caller = None;
            if attempt == 0 {
                tally.repeated += 1;
            } else {
                tally.failed += 1;
            }
        }
        tally.longest = tally.longest.max(begun.elapsed());
    }
    Ok(tally)
}
