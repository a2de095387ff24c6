//! What is stopped, and how fast.

use std::time::{Duration, Instant};

use outwork_ledger::{Kind, Scope};
use serde_json::{Value, json};

use crate::plane::own::Own;
use crate::{World, of_kind};

/// How long after the word something of a sandbox may live.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Starts a call with a process whose command line is its own mark, and waits until it runs.
async fn running(world: &World, mark: &str) -> String {
    let call = world.ask(&format!(
        "(exec -a {mark} sleep 1000) & setsid bash -c 'exec -a {mark} sleep 1001' & touch began; wait"
    ));
    let began = world.folder.path().join("began");
    let wait = async {
        while !began.exists() || count(mark) < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the command begins");
    call
}

/// Processes of this machine with this mark.
fn count(mark: &str) -> usize {
    let listing = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = listing.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(mark.as_bytes())).count()
}

/// How long until none is left.
async fn gone(mark: &str, since: Instant) -> Duration {
    while count(mark) > 0 {
        assert!(since.elapsed() < Duration::from_secs(20), "something lives on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_kills_every_sandbox_and_says_so() {
    let mut world = World::new(Own::of("self_hosted", Value::Null)).await;
    let call = running(&world, "halt-mark").await;
    let begun = Instant::now();
    world.stop.halt.cancel();
    let took = gone("halt-mark", begun).await;
    world.ended().await;
    println!("halt took {took:?}");
    assert!(took < AT_ONCE * 4, "{took:?}: even on a busy machine");
    assert!(world.answer(&call).await.0);
    let records = world.kept();
    let stops = of_kind(&records, Kind::Stop);
    let stop = stops[0].stop.as_ref().unwrap();
    assert!(
        stop.forced && stop.scope == Scope::Worker && stop.ended == ["sesn_1"],
        "{stop:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stops_a_session_by_force() {
    let mut world = World::new(Own::of("self_hosted", Value::Null)).await;
    running(&world, "force-mark").await;
    let begun = Instant::now();
    world.say(|own| own.boundary["stop"] = json!("forced"));
    let took = gone("force-mark", begun).await;
    println!("stop took {took:?}");
    assert!(took < AT_ONCE * 4, "{took:?}: even on a busy machine");
    world
        .plane
        .until("the item is let go", |script| script.count("POST", "/stop") > 0)
        .await;
    let records = world.records().await;
    let stops = of_kind(&records, Kind::Stop);
    let stop = stops[0].stop.as_ref().unwrap();
    assert!(
        stop.forced && stop.scope == Scope::Session && stop.ended == ["call_0", "sesn_1"],
        "{stop:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stops_a_session_in_order() {
    let mut world = World::new(Own::of("self_hosted", Value::Null)).await;
    let call = running(&world, "grace-mark").await;
    world.say(|own| own.boundary["stop"] = json!("graceful"));
    let (is_error, text) = world.answer(&call).await;
    assert!(is_error, "{text}");
    gone("grace-mark", Instant::now()).await;
    let records = world.records().await;
    let stop = of_kind(&records, Kind::Stop)[0].stop.clone().unwrap();
    assert!(!stop.forced);
}
