//! The rules that the log of every session keeps, seen from outside: what a client could know from its events.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// What was counted on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub events: usize,
    pub calls: usize,
    pub denied: usize,
    pub requests: usize,
    pub requests_given_up: usize,
}

impl std::ops::AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.calls += other.calls;
        self.denied += other.denied;
        self.requests += other.requests;
        self.requests_given_up += other.requests_given_up;
    }
}

/// Checks the log of a session whose turn is over. Says what is wrong, with the log.
pub fn check(events: &[Value]) -> Counted {
    match check_all(events) {
        Ok(counted) => counted,
        Err(fault) => panic!("{fault}; the log:\n{}", shown(events)),
    }
}

/// A log, for a person.
pub fn shown(events: &[Value]) -> String {
    let lines: Vec<String> = events
        .iter()
        .map(|e| e.to_string().chars().take(300).collect())
        .collect();
    lines.join("\n")
}

fn kind(event: &Value) -> &str {
    event["type"].as_str().unwrap_or_default()
}

fn id(event: &Value) -> &str {
    event["id"].as_str().unwrap_or_default()
}

/// The call that an event answers.
pub fn answered_call(event: &Value) -> Option<&str> {
    match kind(event) {
        "user.tool_result" | "agent.tool_result" => event["tool_use_id"].as_str(),
        "user.custom_tool_result" => event["custom_tool_use_id"].as_str(),
        _ => None,
    }
}

/// Whether an event is a call.
pub fn is_call(event: &Value) -> bool {
    matches!(kind(event), "agent.tool_use" | "agent.custom_tool_use")
}

fn check_all(events: &[Value]) -> Result<Counted, String> {
    let mut counted = Counted {
        events: events.len(),
        ..Counted::default()
    };
    check_identity_and_time(events)?;
    check_calls(events, &mut counted)?;
    check_spans(events, &mut counted)?;
    check_status(events)?;
    Ok(counted)
}

fn check_identity_and_time(events: &[Value]) -> Result<(), String> {
    let mut ids = HashSet::new();
    let mut last = "";
    for event in events {
        if !id(event).starts_with("sevt_") || !ids.insert(id(event)) {
            return Err(format!("{} is no id or comes twice", id(event)));
        }
        let Some(at) = event["processed_at"].as_str() else {
            return Err(format!("{} was never processed", id(event)));
        };
        // Timestamps have one form and one length, so their texts order as their times do.
        if at.len() != "2026-01-01T00:00:00.000000Z".len() || at <= last {
            return Err(format!("processed_at of {} is {at}, not later than {last}", id(event)));
        }
        last = at;
    }
    Ok(())
}

fn check_calls(events: &[Value], counted: &mut Counted) -> Result<(), String> {
    let mut answers: HashMap<&str, usize> = HashMap::new();
    let mut denied: HashSet<&str> = HashSet::new();
    let mut calls: HashSet<&str> = HashSet::new();
    for event in events {
        if is_call(event) {
            calls.insert(id(event));
            if event["evaluated_permission"] == "deny" {
                denied.insert(id(event));
            }
        } else if let Some(call) = answered_call(event) {
            if !calls.contains(call) {
                return Err(format!("{} answers {call}, which was not called before", id(event)));
            }
            *answers.entry(call).or_default() += 1;
        } else if kind(event) == "user.tool_confirmation" && event["result"] == "deny" {
            denied.insert(event["tool_use_id"].as_str().unwrap_or_default());
        }
    }
    for call in &calls {
        let answers = answers.get(call).copied().unwrap_or_default();
        // A call that a person or the policy denied is answered by that, and has no result.
        let wanted = usize::from(!denied.contains(call));
        if answers != wanted {
            return Err(format!("{call} has {answers} results, not {wanted}"));
        }
    }
    counted.calls += calls.len();
    counted.denied += denied.len();
    Ok(())
}

fn check_spans(events: &[Value], counted: &mut Counted) -> Result<(), String> {
    let mut open: Option<&str> = None;
    for event in events {
        match kind(event) {
            "span.model_request_start" => {
                if let Some(open) = open {
                    return Err(format!("{} begins before {open} ended", id(event)));
                }
                open = Some(id(event));
                counted.requests += 1;
            }
            "span.model_request_end" => {
                if open.take() != event["model_request_start_id"].as_str() {
                    return Err(format!("{} ends a request that is not open", id(event)));
                }
                counted.requests_given_up += usize::from(event["is_error"] == true);
            }
            "agent.message" | "agent.thinking" | "agent.tool_use" | "agent.custom_tool_use" if open.is_none() => {
                return Err(format!("{} comes outside a model request", id(event)));
            }
            _ => {}
        }
    }
    open.map_or(Ok(()), |open| Err(format!("the request {open} never ended")))
}

fn check_status(events: &[Value]) -> Result<(), String> {
    let mut status = "idle";
    let mut waits = true;
    for (index, event) in events.iter().enumerate() {
        let before = index.checked_sub(1).map_or("", |i| kind(&events[i]));
        match kind(event) {
            "session.status_running" => {
                if status == "running" {
                    return Err(format!("{} says running twice", id(event)));
                }
                status = "running";
            }
            "session.thread_status_running" if before != "session.status_running" => {
                return Err(format!("{} does not follow its session", id(event)));
            }
            "session.status_rescheduled" => {
                if status != "running" {
                    return Err(format!("{} reschedules what does not run", id(event)));
                }
                status = "rescheduling";
            }
            "session.status_idle" => {
                if status == "idle" && !waits {
                    return Err(format!("{} says idle twice", id(event)));
                }
                if before != "session.thread_status_idle" {
                    return Err(format!("{} comes without its thread", id(event)));
                }
                status = "idle";
                waits = event["stop_reason"]["type"] == "requires_action";
            }
            "session.thread_status_idle" if before != "session.usage" => {
                return Err(format!("{} comes without session.usage", id(event)));
            }
            _ => {}
        }
    }
    if status != "idle" || waits {
        return Err("it did not come to rest".to_owned());
    }
    Ok(())
}
