//! How an installation ends that is not let to its own end, and who waits for it.

use std::time::Duration;

use serde_json::json;

use super::{cached, patient, processes, publish_source, publish_wheel, with};
use crate::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_slow_is_ended() {
    for (code, disk, time, says) in [
        (
            "open('/usr/local/large', 'wb').write(b'x' * (64 << 20)); import time; time.sleep(600)",
            16 << 20,
            300,
            "more than 16777216 bytes",
        ),
        ("import time; time.sleep(600)", 16 << 20, 3, "3s"),
    ] {
        let world = World::with(Some(with(json!({"pip": ["endless"]}))), |boundary| {
            boundary.packages.disk_bytes = disk;
            boundary.packages.time = Duration::from_secs(time);
        })
        .await;
        publish_source(&world.internet, "endless", code);
        let text = patient(&world, "true").await;
        assert!(text.contains(says), "{text}");
        assert!(cached(&world, "packages").is_empty() && cached(&world, "staging").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_stopped_in_the_middle_leaves_nothing() {
    let mut world = World::new(with(json!({"pip": ["endless"]}))).await;
    let code = "import subprocess; subprocess.run(['/bin/bash', '-c', 'exec -a endless-mark sleep 1000'])";
    publish_source(&world.internet, "endless", code);
    world.ask("true");
    let begun = async {
        while processes("endless-mark") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun)
        .await
        .expect("the installation begins");
    assert_eq!(cached(&world, "staging").len(), 1);
    world.end().await;
    let gone = async {
        while processes("endless-mark") > 0 || !cached(&world, "staging").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("nothing is left");
    assert!(cached(&world, "packages").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_wait_for_one_installation() {
    let mut world = World::new(with(json!({"pip": ["greeting"]}))).await;
    publish_wheel(&world.internet, "greeting", "hello");
    *world.internet.slow.lock().unwrap() = Duration::from_millis(700);
    let first = world.ask("greeting");
    let asked = async {
        while world.internet.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked)
        .await
        .expect("the installation begins");
    let (other, stop) = (
        std::mem::replace(&mut world.worker, tokio::spawn(async { Ok(Default::default()) })),
        world.stop.clone(),
    );
    world.plane.offer("work_2", "sesn_2");
    world.start(|_| {}).await;
    let event =
        json!({"type": "agent.tool_use", "id": "call_of_two", "name": "bash", "input": {"command": "greeting"}});
    world.plane.emit("sesn_2", event);
    for call in [first.as_str(), "call_of_two"] {
        let said = || world.plane.results().into_iter().find(|(id, ..)| id == call);
        let answered = async {
            while said().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), answered)
            .await
            .expect("both are answered");
        assert_eq!(said().unwrap().2, "hello");
    }
    let fetched = world
        .internet
        .seen()
        .iter()
        .filter(|seen| seen.path.ends_with(".whl"))
        .count();
    assert_eq!(fetched, 1);
    stop.drain.cancel();
    other.await.unwrap().unwrap();
    world.end().await;
}
