//! One message to a session, and everything until its turn is over.
//!
//! Shows the events, asks the person at the terminal for approvals, passes Ctrl-C on as an interrupt, and says
//! with an [`Exit`] how it ended. Calls that wait for a worker are waited for; calls that only another client can
//! answer (custom tools, approvals when nobody is at the terminal) end it with [`Exit::NeedsAction`].

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use outwork_client::{Client, ObservedEvent};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::follow::{Follow, Step};
use crate::signals::Interrupts;
use crate::terminal::view::View;
use crate::terminal::{calls, sanitize};

/// How long a call may wait before the queue is looked at for a worker.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);

/// Who answers calls that ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approver {
    /// The person at the terminal.
    Person,
    /// All are approved.
    Always,
    /// Nobody.
    Nobody,
}

/// A session that is followed, and how it is shown.
pub(crate) struct Conversation {
    client: Client,
    session_id: String,
    environment_id: Option<String>,
    follow: Follow,
    pub(crate) view: View,
    approver: Approver,
    turn: Turn,
}

/// What is known of the turn.
#[derive(Default)]
struct Turn {
    /// The message that began it; the turn counts from when the loop has taken it up.
    message_id: Option<String>,
    taken: bool,
    interrupted: bool,
    /// Calls without a result, and whether they ask or belong to another client.
    open: HashMap<String, WaitsFor>,
    /// Calls that ask, for who must decide.
    asks: HashMap<String, ObservedEvent>,
    worker_missing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Worker,
    Approval,
    Another,
}

/// What an event means for the turn.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    Ended(Exit),
    Answer(Vec<String>),
}

impl Conversation {
    /// Opens the session; what happened in it before is left out.
    pub(crate) async fn open(client: &Client, session: &Value, view: View, approver: Approver) -> Result<Self> {
        let session_id = session
            .get("id")
            .and_then(Value::as_str)
            .context("the server made a session without id")?;
        let mut follow = Follow::open(client, session_id, true).await?;
        let mut turn = Turn::default();
        for event in follow.skip_history() {
            turn.follow_calls(&event);
        }
        Ok(Self {
            client: client.clone(),
            session_id: session_id.to_owned(),
            environment_id: session.get("environment_id").and_then(Value::as_str).map(str::to_owned),
            follow,
            view,
            approver,
            turn,
        })
    }

    /// Sends the message and follows the session until its turn is over.
    pub(crate) async fn say(&mut self, message: &str, interrupts: &mut Interrupts) -> Result<Exit> {
        let event = json!({ "type": "user.message", "content": [{ "type": "text", "text": message }] });
        let sent = self.send(&[event]).await?;
        self.turn.message_id = sent.pointer("/data/0/id").and_then(Value::as_str).map(str::to_owned);
        loop {
            let step = tokio::select! {
                biased;
                () = interrupts.recv() => {
                    if self.turn.interrupted {
                        return Ok(Exit::Interrupted);
                    }
                    self.interrupt().await?;
                    continue;
                }
                step = self.follow.next() => step?,
                () = tokio::time::sleep(WORKER_PATIENCE), if self.turn.waits_for_worker() => {
                    self.look_for_worker().await?;
                    continue;
                }
            };
            let event = match step {
                Step::Event(event) => event,
                Step::Lost(cause) => {
                    self.view.note("stream", &format!("lost ({cause}); reconnecting"))?;
                    continue;
                }
            };
            self.view.observe(&event)?;
            match self.turn.next(&event) {
                Next::GoOn => {}
                Next::Ended(exit) => return Ok(exit),
                Next::Answer(calls) => {
                    if let Some(exit) = self.answer(&calls, interrupts).await? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    async fn send(&self, events: &[Value]) -> Result<Value> {
        let sessions = self.client.sessions();
        Ok(sessions.events(&self.session_id).send(events).await?)
    }

    async fn interrupt(&mut self) -> Result<()> {
        self.turn.interrupted = true;
        self.view
            .note("stop", "interrupting; press Ctrl-C again to leave at once")?;
        self.send(&[json!({ "type": "user.interrupt" })]).await?;
        Ok(())
    }

    /// Answers calls that ask. `Some` if it is over because nobody can answer.
    async fn answer(&mut self, calls: &[String], interrupts: &mut Interrupts) -> Result<Option<Exit>> {
        let mut answers = Vec::new();
        for id in calls {
            let decision = match self.approver {
                Approver::Always => Decision::Allow,
                Approver::Nobody => {
                    self.view.page().pause()?;
                    eprintln!(
                        "outwork: the session waits for an approval that nobody here can give; answer it with\n  \
                         outwork sessions approve {0}\n  outwork sessions deny {0}",
                        sanitize::line(&self.session_id)
                    );
                    return Ok(Some(Exit::NeedsAction));
                }
                Approver::Person => tokio::select! {
                    biased;
                    () = interrupts.recv() => {
                        self.interrupt().await?;
                        return Ok(None);
                    }
                    decision = ask(&mut self.view, self.turn.asks.get(id)) => decision?,
                },
            };
            let mut answer = json!({ "type": "user.tool_confirmation", "tool_use_id": id, "result": "allow" });
            match decision {
                Decision::Allow => {}
                Decision::AllowAll => self.approver = Approver::Always,
                Decision::Deny(why) => {
                    answer["result"] = "deny".into();
                    if let Some(why) = why {
                        answer["deny_message"] = why.into();
                    }
                }
            }
            answers.push(answer);
        }
        self.send(&answers).await?;
        // The session may say again what it waits for, before it says that it has these answers.
        calls.iter().for_each(|id| self.turn.answered(id));
        Ok(None)
    }

    /// A call waits: says so once if no worker takes it.
    async fn look_for_worker(&mut self) -> Result<()> {
        let Some(environment_id) = self.environment_id.clone() else {
            return Ok(());
        };
        // Best effort: the hint is a kindness, and other servers may not answer this.
        let Ok(stats) = self.client.work(&environment_id).stats().await else {
            self.turn.worker_missing = true;
            return Ok(());
        };
        if stats.depth + stats.pending > 0 {
            self.turn.worker_missing = true;
            self.view.note(
                "waiting",
                &format!(
                    "no worker takes the session's work: start one with `outwork worker --environment-id \
                     {environment_id}`, or the server with `outwork up` for a cloud environment"
                ),
            )?;
        }
        Ok(())
    }
}

impl Turn {
    fn next(&mut self, event: &ObservedEvent) -> Next {
        self.follow_calls(event);
        if event.kind == "user.message" && self.message_id.as_deref().is_none_or(|id| id == event.id) {
            self.taken = true;
        }
        if event.ends_session() {
            return Next::Ended(Exit::Terminated);
        }
        if event.kind != "session.status_idle" {
            return Next::GoOn;
        }
        let reason = event.stop_reason().unwrap_or_default();
        if reason == "requires_action" {
            let wanted = event.required_actions();
            if wanted.iter().any(|id| self.open.get(*id) == Some(&WaitsFor::Another)) && !self.interrupted {
                return Next::Ended(Exit::NeedsAction);
            }
            let asks = wanted
                .iter()
                .filter(|id| self.open.get(**id) == Some(&WaitsFor::Approval));
            let asks: Vec<String> = asks.map(|id| (*id).to_owned()).collect();
            return if asks.is_empty() || self.interrupted {
                Next::GoOn
            } else {
                Next::Answer(asks)
            };
        }
        // Input that was queued is dropped when the retries are used up: the message may never be taken.
        if !self.taken && reason != "retries_exhausted" {
            return Next::GoOn;
        }
        Next::Ended(match reason {
            _ if self.interrupted => Exit::Interrupted,
            "end_turn" => Exit::Done,
            "refusal" => Exit::Refused,
            "retries_exhausted" => Exit::RetriesExhausted,
            // A budget, or what a newer server may say: somebody must do something before it goes on.
            _ => Exit::NeedsAction,
        })
    }

    fn follow_calls(&mut self, event: &ObservedEvent) {
        match event.kind.as_str() {
            "agent.tool_use" | "agent.mcp_tool_use" => {
                let asks = event.permission() == Some("ask");
                if asks {
                    self.asks.insert(event.id.clone(), event.clone());
                }
                self.open.insert(
                    event.id.clone(),
                    if asks { WaitsFor::Approval } else { WaitsFor::Worker },
                );
            }
            "agent.custom_tool_use" => {
                self.open.insert(event.id.clone(), WaitsFor::Another);
            }
            "user.tool_confirmation" => {
                if let Some(id) = event.call_id() {
                    self.answered(id);
                }
            }
            _ if event.is_result() => {
                if let Some(id) = event.call_id() {
                    self.open.remove(id);
                    self.asks.remove(id);
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, call: &str) {
        self.asks.remove(call);
        if let Some(waiting) = self.open.get_mut(call) {
            *waiting = WaitsFor::Worker;
        }
    }

    fn waits_for_worker(&self) -> bool {
        !self.worker_missing && self.open.values().any(|waiting| *waiting == WaitsFor::Worker)
    }
}

enum Decision {
    Allow,
    AllowAll,
    Deny(Option<String>),
}

/// Asks the person, who sees the whole input. The end of the input denies: silence is no approval.
async fn ask(view: &mut View, call: Option<&ObservedEvent>) -> Result<Decision> {
    let name = call.and_then(ObservedEvent::name).unwrap_or("this call");
    let about = calls::whole(name, call.and_then(ObservedEvent::input));
    view.page().ask(
        &about,
        &format!("allow {name}?"),
        "[y]es, [n]o, [a]ll, or say why not: ",
    )?;
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = line
        .await
        .context("could not read the answer")?
        .context("could not read the answer")?;
    view.page().answered();
    Ok(decision(&line))
}

fn decision(line: &str) -> Decision {
    match sanitize::line(line.trim()).as_str() {
        "y" | "Y" | "yes" => Decision::Allow,
        "a" | "A" | "all" | "always" => Decision::AllowAll,
        "" | "n" | "N" | "no" => Decision::Deny(None),
        why => Decision::Deny(Some(why.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(value: Value) -> ObservedEvent {
        ObservedEvent::from_object(value.as_object().unwrap().clone()).unwrap()
    }

    fn idle(reason: Value) -> ObservedEvent {
        event(json!({ "type": "session.status_idle", "id": "i", "stop_reason": reason }))
    }

    fn begun() -> Turn {
        let mut turn = Turn {
            message_id: Some("m".into()),
            ..Turn::default()
        };
        assert_eq!(
            turn.next(&event(json!({ "type": "user.message", "id": "m" }))),
            Next::GoOn
        );
        turn
    }

    #[test]
    fn the_exit_says_how_the_turn_ended() {
        for (reason, exit) in [
            ("end_turn", Exit::Done),
            ("refusal", Exit::Refused),
            ("retries_exhausted", Exit::RetriesExhausted),
            ("budget_reached", Exit::NeedsAction),
        ] {
            assert_eq!(begun().next(&idle(json!({ "type": reason }))), Next::Ended(exit));
        }
        assert_eq!(
            begun().next(&event(json!({ "type": "session.deleted" }))),
            Next::Ended(Exit::Terminated)
        );
    }

    #[test]
    fn an_idle_of_an_earlier_turn_is_not_the_end() {
        let mut turn = Turn {
            message_id: Some("m".into()),
            ..Turn::default()
        };
        assert_eq!(turn.next(&idle(json!({ "type": "end_turn" }))), Next::GoOn);
        assert_eq!(
            turn.next(&event(json!({ "type": "user.message", "id": "other" }))),
            Next::GoOn
        );
        assert_eq!(turn.next(&idle(json!({ "type": "end_turn" }))), Next::GoOn);
        assert_eq!(
            turn.next(&idle(json!({ "type": "retries_exhausted" }))),
            Next::Ended(Exit::RetriesExhausted)
        );
    }

    #[test]
    fn only_calls_that_ask_are_asked_about_and_only_once() {
        let mut turn = begun();
        turn.next(&event(
            json!({ "type": "agent.tool_use", "id": "a", "evaluated_permission": "allow" }),
        ));
        assert!(turn.waits_for_worker());
        turn.next(&event(
            json!({ "type": "agent.tool_use", "id": "b", "evaluated_permission": "ask" }),
        ));
        let both = json!({ "type": "requires_action", "event_ids": ["a", "b"] });
        assert_eq!(turn.next(&idle(both.clone())), Next::Answer(vec!["b".into()]));
        turn.next(&event(
            json!({ "type": "user.tool_confirmation", "id": "c", "tool_use_id": "b" }),
        ));
        assert_eq!(turn.next(&idle(both)), Next::GoOn);
        turn.next(&event(
            json!({ "type": "user.tool_result", "id": "d", "tool_use_id": "a" }),
        ));
        turn.next(&event(
            json!({ "type": "user.tool_result", "id": "e", "tool_use_id": "b" }),
        ));
        assert!(!turn.waits_for_worker());
    }

    #[test]
    fn a_custom_tool_is_for_another_client() {
        let mut turn = begun();
        turn.next(&event(
            json!({ "type": "agent.custom_tool_use", "id": "a", "name": "x" }),
        ));
        let wait = idle(json!({ "type": "requires_action", "event_ids": ["a"] }));
        assert_eq!(turn.next(&wait), Next::Ended(Exit::NeedsAction));
    }

    #[test]
    fn an_interrupted_turn_says_so() {
        let mut turn = begun();
        turn.interrupted = true;
        assert_eq!(
            turn.next(&idle(json!({ "type": "end_turn" }))),
            Next::Ended(Exit::Interrupted)
        );
    }

    #[test]
    fn silence_is_no_approval() {
        assert!(matches!(decision("\n"), Decision::Deny(None)));
        assert!(matches!(decision(" y \n"), Decision::Allow));
        assert!(matches!(decision("a"), Decision::AllowAll));
        assert!(matches!(decision("not that folder\n"), Decision::Deny(Some(why)) if why == "not that folder"));
    }
}
