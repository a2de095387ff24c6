//! The person of one session: sends its messages, answers its questions and its custom tool calls, over a
//! connection that breaks again and again, and remembers everything that it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{HELD, Stage, release};
use crate::world::api::{id, last_message, of_type, text};
use crate::world::log::{answered_call, is_call, shown};
use crate::world::{Api, Stream, script};

/// A pause after a call that got no answer.
const AGAIN: Duration = Duration::from_millis(15);
/// A session that waits this long while its item was taken and never held is helped, as an operator would: the answer
/// to the worker's acknowledgement was lost, and the worker does not know that it has the item.
const UNTAKEN: Duration = Duration::from_secs(8);
/// The same for an item that was held: the worker lost its lease without an end of it.
const STALLED: Duration = Duration::from_secs(40);

/// What a driver knows in the end.
#[derive(Clone)]
pub struct Outcome {
    pub session: String,
    number: usize,
    messages: Vec<String>,
    /// Every event that was ever shown in a stream or a list.
    shown: BTreeSet<String>,
    denied: BTreeSet<String>,
}

impl Outcome {
    /// Checks a session's whole log against what was seen of it.
    pub fn check(&self, events: &[Value], acknowledged: &[String]) {
        let log = || shown(events);
        let ids: BTreeSet<&str> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
        for id in acknowledged {
            assert!(
                ids.contains(id.as_str()),
                "{id} was acknowledged and is lost; the log:\n{}",
                log()
            );
        }
        for id in &self.shown {
            assert!(
                ids.contains(id.as_str()),
                "{id} was shown and is lost; the log:\n{}",
                log()
            );
        }
        let said: Vec<String> = of_type(events, "user.message").into_iter().map(text).collect();
        assert_eq!(said, self.messages, "messages are lost, doubled or out of order");
        let last = format!("fin-{}-{}", self.number, self.messages.len() - 1);
        assert_eq!(last_message(events), last, "{}", log());
        assert!(of_type(events, "session.error").is_empty(), "{}", log());
        let mut confirmed = BTreeSet::new();
        for event in of_type(events, "user.tool_confirmation") {
            let call = event["tool_use_id"].as_str().unwrap();
            assert!(confirmed.insert(call), "{call} was confirmed twice");
            assert_eq!(
                event["result"] == "deny",
                self.denied.contains(call),
                "{call} was decided otherwise"
            );
        }
        for event in events.iter().filter(|e| answered_call(e).is_some()) {
            assert_ne!(event["is_error"], true, "{event}; the log:\n{}", log());
        }
    }
}

/// The person of one session.
pub struct Driver {
    stage: Arc<Stage>,
    number: usize,
    place: usize,
    messages: Vec<String>,
    session: String,
    /// What is known of the log, by id.
    known: BTreeMap<String, Value>,
    denied: BTreeSet<String>,
}

impl Driver {
    pub fn new(stage: Arc<Stage>, number: usize) -> Self {
        let place = number % stage.places.len();
        let count = 2 + number % 2;
        Self {
            messages: (0..count).map(|message| script(steps(number, message))).collect(),
            stage,
            number,
            place,
            session: String::new(),
            known: BTreeMap::new(),
            denied: BTreeSet::new(),
        }
    }

    /// Plays the session to its end.
    pub async fn run(mut self) -> Outcome {
        self.session = self.make().await;
        let (mut moved, mut helped) = (Instant::now(), Instant::now());
        loop {
            let mut stream = self.open().await;
            while let Some(new) = self.follow(&mut stream).await {
                if new {
                    moved = Instant::now();
                }
                if self.is_over() {
                    return Outcome {
                        session: self.session,
                        number: self.number,
                        messages: self.messages,
                        shown: self.known.into_keys().collect(),
                        denied: self.denied,
                    };
                }
                if !self.act().await {
                    break;
                }
                if moved.elapsed() > UNTAKEN && helped.elapsed() > UNTAKEN {
                    self.help(moved.elapsed()).await;
                    helped = Instant::now();
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Makes the session, half of them with their first message. An answer that is lost is looked for in the list.
    async fn make(&self) -> String {
        let mut body = json!({
            "agent": self.stage.agent,
            "environment_id": self.stage.places[self.place].environment,
            "metadata": { "driver": self.number.to_string() },
        });
        if self.number % 4 < 2 {
            body["initial_events"] = json!([message(&self.messages[0])]);
        }
        loop {
            self.stage.happened("sent");
            match Api::try_send(self.stage.api.request(Method::POST, "/v1/sessions").json(&body)).await {
                Ok(answer) if answer.status == 200 => return id(&answer.body),
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                Err(_) => {}
            }
            loop {
                sleep(AGAIN).await;
                let list = Api::try_send(self.stage.api.request(Method::GET, "/v1/sessions?limit=100")).await;
                let Some(list) = list.ok().filter(|a| a.status == 200) else {
                    continue;
                };
                let own = self.number.to_string();
                let mine = |s: &&Value| s["metadata"]["driver"] == own.as_str();
                match list.body["data"].as_array().unwrap().iter().find(mine) {
                    Some(session) => return id(session),
                    None => break,
                }
            }
        }
    }

    /// Opens the stream, then reads the whole log, so that nothing falls between them.
    async fn open(&mut self) -> Stream {
        let path = format!("/v1/sessions/{}/events/stream", self.session);
        loop {
            let request = self.stage.api.request(Method::GET, &path).send();
            if let Ok(Ok(response)) = timeout(Duration::from_secs(5), request).await
                && response.status() == 200
            {
                let stream = Stream::new(response);
                if let Ok(events) = self.stage.api.try_events(&self.session).await {
                    for event in events {
                        self.learn(event);
                    }
                    return stream;
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Waits a little for news. `None` if the stream broke, else whether there was any.
    async fn follow(&mut self, stream: &mut Stream) -> Option<bool> {
        let mut patience = if self.has_to_act() {
            Duration::ZERO
        } else {
            Duration::from_millis(500)
        };
        let mut new = false;
        loop {
            match timeout(patience, stream.try_next()).await {
                Err(_) => return Some(new),
                Ok(Ok(Some(seen))) => {
                    if seen.event != "ping" {
                        new |= self.learn(seen.data);
                    }
                    // What is there already is read before anything is done.
                    patience = Duration::ZERO;
                }
                Ok(Ok(None) | Err(_)) => return None,
            }
        }
    }

    fn learn(&mut self, event: Value) -> bool {
        let key = id(&event);
        if let Some(known) = self.known.get(&key) {
            assert_eq!(without_time(known), without_time(&event), "an event changed");
            if !known["processed_at"].is_null() {
                assert!(
                    event["processed_at"].is_null() || known == &event,
                    "an event was taken up twice"
                );
                return false;
            }
        } else {
            self.stage.happened(moment(event["type"].as_str().unwrap()));
        }
        self.known.insert(key, event);
        true
    }

    /// What is to be sent now.
    fn due(&self) -> Vec<Value> {
        let mut due = Vec::new();
        let answered: BTreeSet<&str> = self.known.values().filter_map(answered_call).collect();
        let confirmed: BTreeSet<&str> = self
            .known
            .values()
            .filter_map(|e| (e["type"] == "user.tool_confirmation").then(|| e["tool_use_id"].as_str())?)
            .collect();
        for (call, event) in self.known.iter().filter(|(_, e)| is_call(e)) {
            if event["type"] == "agent.custom_tool_use" && !answered.contains(call.as_str()) {
                let content =
                    json!([{ "type": "text", "text": format!("ticket {}", event["input"]["n"].as_str().unwrap()) }]);
                due.push(json!({ "type": "user.custom_tool_result", "custom_tool_use_id": call, "content": content }));
            } else if event["evaluated_permission"] == "ask" && !confirmed.contains(call.as_str()) {
                let deny = event["input"]["file_path"].as_str().unwrap().ends_with("odd");
                let result = if deny { "deny" } else { "allow" };
                due.push(json!({ "type": "user.tool_confirmation", "tool_use_id": call, "result": result }));
            }
        }
        // The next message goes out while the one before is worked on, so that it waits in the queue.
        let said: BTreeSet<String> = self
            .known
            .values()
            .filter(|e| e["type"] == "user.message")
            .map(text)
            .collect();
        if let Some(next) = self.messages.iter().position(|m| !said.contains(m)) {
            let began = |number: usize| {
                let sign = format!("out-{}-{number}-a", self.number);
                self.known
                    .values()
                    .any(|e| is_call(e) && e["input"]["command"].as_str().is_some_and(|c| c.contains(&sign)))
            };
            if next == 0 || began(next - 1) {
                due.push(message(&self.messages[next]));
            }
        }
        due
    }

    fn has_to_act(&self) -> bool {
        !self.due().is_empty()
    }

    /// Sends what is due, in one request or in several. False if the log has to be read again.
    async fn act(&mut self) -> bool {
        let due = self.due();
        for event in &due {
            if event["type"] == "user.tool_confirmation" && event["result"] == "deny" {
                self.denied.insert(event["tool_use_id"].as_str().unwrap().to_owned());
            }
        }
        let together = rand::rng().random_bool(0.5);
        let batches: Vec<Vec<Value>> = match (due.is_empty(), together) {
            (true, _) => Vec::new(),
            (_, true) => vec![due],
            (_, false) => due.into_iter().map(|e| vec![e]).collect(),
        };
        for batch in batches {
            let path = format!("/v1/sessions/{}/events", self.session);
            self.stage.happened("sent");
            let request = self
                .stage
                .api
                .request(Method::POST, &path)
                .json(&json!({ "events": batch }));
            match Api::try_send(request).await {
                Ok(answer) if answer.status == 200 => {
                    self.stage.happened("answered");
                    self.stage.acknowledge(&self.session, &answer.body);
                    for event in answer.body["data"].as_array().unwrap() {
                        self.learn(event.clone());
                    }
                }
                // Nothing was kept, or nobody knows: the log says which.
                Ok(answer) if answer.status == 503 => return false,
                Err(_) => return false,
                Ok(answer) => panic!("{batch:?} was refused: {} {}", answer.status, answer.text),
            }
        }
        true
    }

    fn is_over(&self) -> bool {
        let last = self
            .known
            .values()
            .filter(|e| e["type"].as_str().unwrap().starts_with("session.status_"))
            .max_by_key(|e| e["processed_at"].as_str());
        let said = self.known.values().filter(|e| e["type"] == "user.message");
        said.clone().count() == self.messages.len()
            && said.clone().all(|e| !e["processed_at"].is_null())
            && last.is_some_and(|e| {
                crate::world::api::is_rest(e)
                    && said
                        .clone()
                        .all(|m| m["processed_at"].as_str() < e["processed_at"].as_str())
            })
    }

    /// Releases the item of a session that does not move, if no worker can be expected to.
    async fn help(&self, since: Duration) {
        let place = &self.stage.places[self.place];
        let states = if since > STALLED { &HELD[..] } else { &HELD[..1] };
        if place.name != "cloud" && release(&self.stage, &place.environment, Some(&self.session), states).await > 0 {
            self.stage.released.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the model does with a message: parallel calls of two kinds, then one that asks beside one that does not.
fn steps(number: usize, message: usize) -> Value {
    let tag = format!("{number}-{message}");
    let bash = |part: &str| json!({ "tool_use": { "name": "bash", "input": { "command": format!("echo out-{tag}-{part}") } } });
    let file = if number.is_multiple_of(3) { "odd" } else { "even" };
    let pace = json!({ "first_token_ms": 20, "per_chunk_ms": 2 });
    json!([
        {
            "say": [
                { "thinking": "There is something to find out." },
                { "text": format!("I begin with {tag}.") },
                bash("a"),
                { "tool_use": { "name": "ticket", "input": { "n": tag } } },
                bash("b"),
            ],
            "pace": pace,
        },
        {
            "expect": [format!("out-{tag}-a"), format!("ticket {tag}"), format!("out-{tag}-b")],
            "say": [
                { "tool_use": { "name": "write", "input": { "file_path": format!("{tag}-{file}"), "content": tag } } },
                bash("c"),
            ],
            "pace": pace,
        },
        { "expect": format!("out-{tag}-c"), "say": [bash("d")], "pace": pace },
        { "expect": format!("out-{tag}-d"), "say": [{ "text": format!("fin-{tag}") }], "pace": pace },
    ])
}

fn message(text: &str) -> Value {
    crate::world::message(text)
}

fn without_time(event: &Value) -> Value {
    let mut event = event.clone();
    event.as_object_mut().unwrap().remove("processed_at");
    event
}

/// The moments that cues are given by.
fn moment(kind: &str) -> &'static str {
    match kind {
        "session.status_running" => "session.status_running",
        "span.model_request_start" => "span.model_request_start",
        "span.model_request_end" => "span.model_request_end",
        "agent.message" => "agent.message",
        "agent.tool_use" => "agent.tool_use",
        "agent.custom_tool_use" => "agent.custom_tool_use",
        "agent.tool_result" => "agent.tool_result",
        "user.tool_result" => "user.tool_result",
        "session.status_idle" => "session.status_idle",
        _ => "another",
    }
}
