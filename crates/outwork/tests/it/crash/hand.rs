//! A worker of the test's own: it follows the contract, runs nothing, reconnects at once, notes what was
//! acknowledged, and is dropped in the middle of its work now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outwork_wire::work::WorkSecret;
use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::Stage;
use crate::world::Api;
use crate::world::api::{id, is_rest, last_status, queued};
use crate::world::log::answered_call;

/// The lease that it asks for: so long a dropped item waits for the next.
const LEASE_SECONDS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(15);

/// The worker; it ends when this is dropped.
pub struct Hand {
    task: JoinHandle<()>,
    dropped: Arc<AtomicUsize>,
}

impl Hand {
    pub fn start(stage: Arc<Stage>, environment: String, key: String) -> Self {
        let dropped = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(poll(stage, environment, key, dropped.clone()));
        Self { task, dropped }
    }

    /// How often it was dropped with an item in its hand.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll(stage: Arc<Stage>, environment: String, key: String, dropped: Arc<AtomicUsize>) {
    let api = stage.api.with_bearer(&key);
    let queue = format!("/v1/environments/{environment}/work");
    let mut items = JoinSet::new();
    loop {
        while items.try_join_next().is_some() {}
        let request = api.request(
            Method::GET,
            &format!("{queue}/poll?block_ms=300&reclaim_older_than_ms=500"),
        );
        let Ok(answer) = Api::try_send(request.header("anthropic-worker-id", "hand")).await else {
            sleep(AGAIN).await;
            continue;
        };
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.text);
            sleep(AGAIN).await;
            continue;
        }
        if answer.body.is_null() {
            continue;
        }
        stage.happened("polled");
        let secret = WorkSecret::unpack(answer.body["secret"].as_str().unwrap()).unwrap();
        let item = Item {
            stage: stage.clone(),
            path: format!("{queue}/{}", id(&answer.body)),
            session: id(&answer.body["data"]),
            worker: api.clone(),
            own: api.with_bearer(&secret.sessions_token),
        };
        // One in eight is dropped on the way.
        let patience = {
            let mut random = rand::rng();
            random
                .random_bool(0.125)
                .then(|| Duration::from_millis(random.random_range(0..400)))
        };
        let dropped = dropped.clone();
        items.spawn(async move {
            match patience {
                None => item.serve().await,
                Some(patience) => {
                    if tokio::time::timeout(patience, item.serve()).await.is_err() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
    }
}

struct Item {
    stage: Arc<Stage>,
    path: String,
    session: String,
    worker: Api,
    own: Api,
}

impl Item {
    async fn serve(&self) {
        let ack = self.until_answered(&self.worker, "/ack", Some("hand")).await;
        if ack.0 != 200 {
            return;
        }
        let mut last_beat = "NO_HEARTBEAT".to_owned();
        let mut beat_at = Instant::now();
        let mut answered = BTreeSet::new();
        let mut resting_since = None;
        loop {
            if Instant::now() >= beat_at {
                let beat =
                    format!("/heartbeat?desired_ttl_seconds={LEASE_SECONDS}&expected_last_heartbeat={last_beat}");
                let (status, body) = self.until_answered(&self.own, &beat, None).await;
                if status != 200 || body["lease_extended"] != true {
                    return;
                }
                last_beat = body["last_heartbeat"].as_str().unwrap().to_owned();
                beat_at = Instant::now() + Duration::from_millis(700);
            }
            let Ok(events) = self.own.try_events(&self.session).await else {
                sleep(AGAIN).await;
                continue;
            };
            for result in self.results(&events, &answered) {
                let path = format!("/v1/sessions/{}/events", self.session);
                let request = self
                    .own
                    .request(Method::POST, &path)
                    .json(&json!({ "events": [result] }));
                match Api::try_send(request).await {
                    Ok(answer) if answer.status == 200 => {
                        self.stage.acknowledge(&self.session, &answer.body);
                        self.stage.happened("answered");
                        answered.insert(result["tool_use_id"].as_str().unwrap().to_owned());
                    }
                    // Another worker, or this one before the cut: the log will show it.
                    Ok(answer) if answer.message().contains("answer already") => {}
                    Ok(answer) if answer.status == 401 => return,
                    Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                    Err(_) => break,
                }
            }
            let rests = last_status(&events).is_none_or(is_rest) && queued(&events) == 0;
            match (rests, resting_since) {
                (false, _) => resting_since = None,
                (true, None) => resting_since = Some(Instant::now()),
                (true, Some(since)) if since.elapsed() > Duration::from_secs(1) => {
                    self.until_answered(&self.own, "/stop?", None).await;
                    return;
                }
                _ => {}
            }
            sleep(Duration::from_millis(40)).await;
        }
    }

    /// The results of calls that may run and have none. What a call would print is known without running it.
    fn results(&self, events: &[Value], sent: &BTreeSet<String>) -> Vec<Value> {
        let settled: BTreeSet<&str> = events.iter().filter_map(answered_call).collect();
        let allowed = |call: &str| {
            events
                .iter()
                .any(|e| e["type"] == "user.tool_confirmation" && e["tool_use_id"] == call && e["result"] == "allow")
        };
        events
            .iter()
            .filter(|e| e["type"] == "agent.tool_use")
            .filter(|e| !settled.contains(e["id"].as_str().unwrap()) && !sent.contains(e["id"].as_str().unwrap()))
            .filter(|e| e["evaluated_permission"] == "allow" || allowed(e["id"].as_str().unwrap()))
            .map(|e| {
                let command = e["input"]["command"].as_str().unwrap_or_default();
                let text = command.strip_prefix("echo ").unwrap_or("written");
                json!({ "type": "user.tool_result", "tool_use_id": e["id"], "content": [{ "type": "text", "text": text }] })
            })
            .collect()
    }

    /// Posts to the item until there is an answer that is none of a server on its way.
    async fn until_answered(&self, api: &Api, path: &str, worker: Option<&str>) -> (u16, Value) {
        let body = if path == "/stop?" {
            json!({ "force": true })
        } else {
            json!({})
        };
        loop {
            let mut request = api.request(Method::POST, &format!("{}{path}", self.path)).json(&body);
            if let Some(worker) = worker {
                request = request.header("anthropic-worker-id", worker);
            }
            match Api::try_send(request).await {
                Ok(answer) if answer.status < 500 => return (answer.status, answer.body),
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
    }
}
