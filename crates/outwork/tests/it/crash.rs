//! The server is killed at 200 points over many sessions at work, and so are workers. Nothing that was
//! acknowledged is lost or doubled, every call has one answer, and every session reaches its end.
//!
//! Sessions run in three kinds of places: a self-hosted environment with the built worker, one with a worker of the
//! test that reconnects at once and notes every acknowledgement, and a cloud environment, whose worker dies with
//! the server. A driver plays the person of each session.

mod driver;
mod hand;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outwork_rehearsal::RehearsalHandle;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::sync::{Mutex, broadcast};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::world::log::Counted;
use crate::world::{Api, Isolation, MODEL_KEY, SCRIPT, Server, ServerOptions, Worker, WorkerOptions, log, rehearsal};
use driver::{Driver, Outcome};
use hand::Hand;

/// How often the server is killed.
const KILLS: usize = 200;
/// How often each of the two workers is killed.
const WORKER_KILLS: usize = 15;
/// How many sessions are at work at any time.
const AT_ONCE: usize = 18;
/// How long the sessions that are left may take after the last kill.
const TO_THE_END: Duration = Duration::from_secs(150);

/// What everybody on the stage shares.
pub struct Stage {
    pub api: Api,
    /// What was just seen to happen: types of events, and `sent`, `answered`, `polled`.
    pub moments: broadcast::Sender<&'static str>,
    /// The events of each session that the server acknowledged with a 2xx.
    pub acknowledged: std::sync::Mutex<HashMap<String, Vec<String>>>,
    /// True when no more sessions are begun.
    pub closing: AtomicBool,
    pub agent: String,
    pub places: Vec<Place>,
    /// How often an item had to be released for a worker that could not.
    pub released: AtomicUsize,
}

/// Where sessions run.
pub struct Place {
    pub environment: String,
    pub name: &'static str,
}

impl Stage {
    pub fn happened(&self, moment: &'static str) {
        let _ = self.moments.send(moment);
    }

    pub fn acknowledge(&self, session: &str, events: &Value) {
        let ids = events["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["id"].as_str());
        let mut acknowledged = self.acknowledged.lock().unwrap();
        acknowledged
            .entry(session.to_owned())
            .or_default()
            .extend(ids.map(str::to_owned));
    }
}

/// The server, the model and the workers of one run.
struct Theatre {
    server: Server,
    model: RehearsalHandle,
    stage: Arc<Stage>,
    workers: Vec<(String, Arc<Mutex<Worker>>)>,
    hand: Hand,
}

impl Theatre {
    /// A server with its own worker is killed with it. A drained one would answer the calls that its worker leaves
    /// with errors, so the drains go without.
    async fn open(how: End) -> Self {
        let model = rehearsal().await;
        let mut options = match how {
            End::Killed => {
                ServerOptions::default()
                    .up()
                    .flags(&["--isolation", "none", "--concurrency", "8", "--max-idle", "1s"])
            }
            End::Drained => ServerOptions::default(),
        };
        options.port = quiet_port();
        let server = Server::start(options.model(&model.base_url(), MODEL_KEY)).await;
        let api = server.api();
        let agent = api.agent(SCRIPT, tools()).await;
        let mut places = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..2 {
            let environment = api.environment("self_hosted").await;
            let worker = Worker::start(WorkerOptions {
                base_url: api.base_url().to_owned(),
                key: api.environment_key(&environment).await,
                environment: environment.clone(),
                isolation: Isolation::None,
                concurrency: 5,
                flags: vec!["--max-idle".into(), "1s".into()],
            });
            workers.push((environment.clone(), Arc::new(Mutex::new(worker))));
            places.push(Place {
                environment,
                name: "worker",
            });
        }
        let environment = api.environment("self_hosted").await;
        let key = api.environment_key(&environment).await;
        places.push(Place {
            environment: environment.clone(),
            name: "hand",
        });
        if how == End::Killed {
            places.push(Place {
                environment: api.environment("cloud").await,
                name: "cloud",
            });
        }
        let stage = Arc::new(Stage {
            api,
            moments: broadcast::channel(4096).0,
            acknowledged: Default::default(),
            closing: AtomicBool::new(false),
            agent,
            places,
            released: AtomicUsize::new(0),
        });
        let hand = Hand::start(stage.clone(), environment, key);
        Self {
            server,
            model,
            stage,
            workers,
            hand,
        }
    }
}

/// Built-in tools that run at once, one that asks, and one that the test runs.
fn tools() -> Value {
    json!([
        {
            "type": "agent_toolset_20260401",
            "configs": [{ "name": "write", "permission_policy": { "type": "always_ask" } }],
        },
        { "type": "custom", "name": "ticket", "description": "Opens a ticket.", "input_schema": { "type": "object" } },
    ])
}

/// A free port that the system does not give to outgoing connections: a client that tries to reach a server that
/// is down could otherwise end up connected to itself.
fn quiet_port() -> u16 {
    (0..1000)
        .map(|_| rand::rng().random_range(15_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// How a server ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Drained,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_the_server_and_the_workers_are_killed() {
    let mut theatre = Theatre::open(End::Killed).await;
    let began = Instant::now();
    let company = company(&theatre.stage);
    let workers: Vec<_> = theatre
        .workers
        .iter()
        .map(|(environment, worker)| {
            tokio::spawn(kill_worker(theatre.stage.clone(), environment.clone(), worker.clone()))
        })
        .collect();
    let ended = end_often(&mut theatre, End::Killed, KILLS).await;
    let mut worker_kills = 0;
    for worker in workers {
        worker_kills += worker.await.unwrap();
    }
    theatre.stage.closing.store(true, Ordering::Relaxed);
    let outcomes = finish(company).await;
    let counted = judge(&theatre, &outcomes).await;
    println!(
        "{ended} kills of the server, {worker_kills} of workers, {} of the test's worker, in {:?}: {} sessions, {} events, \
         {} acknowledged, {} calls ({} denied), {} model requests of which {} were given up, {} items released by hand",
        theatre.hand.dropped(),
        began.elapsed(),
        outcomes.len(),
        counted.events,
        theatre
            .stage
            .acknowledged
            .lock()
            .unwrap()
            .values()
            .map(Vec::len)
            .sum::<usize>(),
        counted.calls,
        counted.denied,
        counted.requests,
        counted.requests_given_up,
        theatre.stage.released.load(Ordering::Relaxed),
    );
    assert_eq!(ended, KILLS);
    assert!(
        outcomes.len() >= AT_ONCE && counted.requests_given_up > 0,
        "the kills met nothing at work"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_drained_hands_everything_over() {
    let mut theatre = Theatre::open(End::Drained).await;
    let company = company(&theatre.stage);
    let ended = end_often(&mut theatre, End::Drained, 12).await;
    theatre.stage.closing.store(true, Ordering::Relaxed);
    let outcomes = finish(company).await;
    let counted = judge(&theatre, &outcomes).await;
    println!(
        "{ended} drains, {} sessions, {} events, {} requests",
        outcomes.len(),
        counted.events,
        counted.requests
    );
    assert_eq!(counted.requests_given_up, 0, "a drained server gave a model request up");
}

/// Keeps sessions at work until the stage closes.
fn company(stage: &Arc<Stage>) -> Vec<tokio::task::JoinHandle<Vec<Outcome>>> {
    let numbers = Arc::new(AtomicUsize::new(0));
    (0..AT_ONCE)
        .map(|_| {
            let (stage, numbers) = (stage.clone(), numbers.clone());
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                while !stage.closing.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    outcomes.push(Driver::new(stage.clone(), number).run().await);
                    stage.happened("finished");
                }
                outcomes
            })
        })
        .collect()
}

async fn finish(company: Vec<tokio::task::JoinHandle<Vec<Outcome>>>) -> Vec<Outcome> {
    let end = Instant::now() + TO_THE_END;
    let mut outcomes = Vec::new();
    for member in company {
        let member = tokio::time::timeout_at(end, member).await;
        outcomes.extend(member.expect("some sessions did not reach their end").unwrap());
    }
    outcomes
}

/// Ends the server and starts it again, each time a moment after something was seen to happen.
async fn end_often(theatre: &mut Theatre, how: End, times: usize) -> usize {
    const CUES: [&str; 12] = [
        "session.status_running",
        "span.model_request_start",
        "span.model_request_end",
        "agent.message",
        "agent.tool_use",
        "agent.custom_tool_use",
        "agent.tool_result",
        "user.tool_result",
        "session.status_idle",
        "sent",
        "answered",
        "polled",
    ];
    for number in 1..=times {
        let (cue, delay) = {
            let mut random = rand::rng();
            (
                *CUES.choose(&mut random).expect("there are cues"),
                random.random_range(0..80),
            )
        };
        wait_for_moment(&theatre.stage, cue, 1, Duration::from_millis(700)).await;
        sleep(Duration::from_millis(delay)).await;
        match how {
            End::Killed => theatre.server.kill().await,
            End::Drained => {
                theatre.server.terminate();
                assert!(theatre.server.ended().await.success(), "{}", theatre.server.log());
                let wal = theatre.server.data_dir().join("outwork.db-wal");
                assert!(!wal.exists(), "a drained server left its journal behind");
            }
        }
        theatre.server.restart().await;
        if number % 8 == 0 {
            // Now and then a breath, so that workers that wait longer and longer come back.
            wait_for_moment(&theatre.stage, "finished", 3, Duration::from_secs(2)).await;
        }
    }
    times
}

async fn wait_for_moment(stage: &Stage, cue: &str, mut count: usize, patience: Duration) {
    let mut moments = stage.moments.subscribe();
    let _ = timeout(patience, async {
        while count > 0 {
            match moments.recv().await {
                Ok(moment) => count -= usize::from(moment == cue),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    })
    .await;
}

/// Kills a worker while it runs calls; as an operator would, releases what it held, and starts it again.
async fn kill_worker(stage: Arc<Stage>, environment: String, worker: Arc<Mutex<Worker>>) -> usize {
    for _ in 0..WORKER_KILLS {
        wait_for_moment(&stage, "user.tool_result", 8, Duration::from_secs(6)).await;
        let mut worker = worker.lock().await;
        worker.kill().await;
        release(&stage, &environment, None, &HELD).await;
        worker.restart();
    }
    WORKER_KILLS
}

/// The states of an item that a worker holds or seems to hold.
pub const HELD: [&str; 3] = ["starting", "active", "stopping"];

/// Stops the items of an environment, or the one of a session, that are in these states, by force. Their sessions get
/// new ones.
pub async fn release(stage: &Stage, environment: &str, session: Option<&str>, states: &[&str]) -> usize {
    let path = format!("/v1/environments/{environment}/work");
    let mut count = 0;
    loop {
        let list = Api::try_send(stage.api.request(reqwest::Method::GET, &format!("{path}?limit=1000"))).await;
        let Some(list) = list.ok().filter(|a| a.status == 200) else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let live: Vec<&str> = list.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|w| states.iter().any(|s| w["state"] == *s))
            .filter(|w| session.is_none_or(|s| w["data"]["id"] == s))
            .filter_map(|w| w["id"].as_str())
            .collect();
        if live.is_empty() {
            return count;
        }
        for work in live {
            let stop = stage.api.request(reqwest::Method::POST, &format!("{path}/{work}/stop"));
            count += usize::from(
                Api::try_send(stop.json(&json!({ "force": true })))
                    .await
                    .is_ok_and(|a| a.status == 200),
            );
        }
    }
}

/// Reads every session's log once more and checks it against all that was seen on the way.
async fn judge(theatre: &Theatre, outcomes: &[Outcome]) -> Counted {
    let stage = &theatre.stage;
    let mut all = Counted::default();
    let mut checks = JoinSet::new();
    for outcome in outcomes {
        let (stage, outcome) = (stage.clone(), outcome.clone());
        checks.spawn(async move {
            let events = stage.api.wait_idle(&outcome.session).await;
            let acknowledged = stage
                .acknowledged
                .lock()
                .unwrap()
                .get(&outcome.session)
                .cloned()
                .unwrap_or_default();
            outcome.check(&events, &acknowledged);
            log::check(&events)
        });
    }
    while let Some(counted) = checks.join_next().await {
        all += counted.unwrap();
    }
    // No session is there that nobody plays, and the model was never asked anything odd.
    let mut listed = 0;
    let mut page = String::new();
    loop {
        let body = stage.api.get(&format!("/v1/sessions?limit=100{page}")).await.ok();
        listed += body["data"].as_array().unwrap().len();
        match body["next_page"].as_str() {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    assert_eq!(listed, outcomes.len(), "sessions are lost or doubled");
    for request in theatre.model.requests() {
        assert!(
            matches!(request.outcome.as_str(), "answer"),
            "the model was asked wrongly: {:?} {}",
            request.refusal,
            request.body
        );
    }
    all
}
