//! What becomes of entries of a log.

use outwork_wire::Time;
use outwork_wire::agent::McpServer;
use outwork_wire::id::{EnvironmentId, SessionId, WorkspaceId};
use serde_json::{Value, json};

use super::*;

fn subject() -> Subject {
    Subject {
        workspace: WorkspaceId::fresh(),
        environment: Some(EnvironmentId::fresh()),
        session: SessionId::fresh(),
        agent: Some(("agent_1".into(), 1)),
    }
}

fn entry(id: &EventId, body: Value) -> LogEntry {
    let mut event = body;
    event["id"] = json!(id);
    event["processed_at"] = json!("2026-01-01T00:00:00.000001Z");
    LogEntry {
        event: serde_json::from_value(event).unwrap(),
        created_at: "2026-01-01T00:00:00.000001Z".parse::<Time>().unwrap(),
        private: None,
    }
}

fn used(id: &EventId, permission: &str) -> LogEntry {
    let body = json!({
        "type": "agent.tool_use", "name": "bash", "input": { "b": 1, "a": "x" }, "evaluated_permission": permission,
        "evaluation": null, "session_thread_id": null,
    });
    entry(id, body)
}

fn mcp(id: &EventId) -> LogEntry {
    let body = json!({
        "type": "agent.mcp_tool_use", "mcp_server_name": "wiki", "name": "search", "input": {},
        "evaluated_permission": "allow", "evaluation": null, "session_thread_id": null,
    });
    entry(id, body)
}

fn answer(call: &EventId, is_error: bool) -> LogEntry {
    let body = json!({
        "type": "user.tool_result", "tool_use_id": call, "content": [{ "type": "text", "text": "out" }],
        "is_error": is_error, "session_thread_id": null,
    });
    entry(&EventId::fresh(), body)
}

fn whole(records: &Records) {
    for record in records.cross.iter().chain(&records.note).chain(&records.tell) {
        assert_eq!(record.missing(), [""; 0], "{record:?}");
    }
}

#[test]
fn a_call_is_recorded_before_it_and_with_its_result() {
    let (subject, mut recorder, call) = (subject(), Recorder::default(), EventId::fresh());
    let made = recorder.records(&subject, &[], &[used(&call, "allow")]);
    whole(&made);
    let input = Hash::of(br#"{"a":"x","b":1}"#);
    assert_eq!((made.cross.len(), made.note.len(), made.tell.len()), (1, 0, 0));
    assert_eq!(made.cross[0].input_hash, Some(input));
    assert_eq!(made.cross[0].decision, Some(Decision::Allowed));
    let done = recorder.records(&subject, &[], &[answer(&call, false)]);
    whole(&done);
    assert_eq!(
        done.note[0].output_hash,
        Some(Hash::of(br#"[{"text":"out","type":"text"}]"#))
    );
    assert_eq!(done.note[0].input_hash, Some(input));
    // A result of no known call says nothing.
    let none = recorder.records(&subject, &[], &[answer(&call, false)]);
    assert!(none.cross.is_empty() && none.note.is_empty() && none.tell.is_empty());
}

#[test]
fn a_person_lets_a_call_through_or_not() {
    for (verdict, decision) in [("allow", Decision::Allowed), ("deny", Decision::Denied)] {
        let (subject, mut recorder, call) = (subject(), Recorder::default(), EventId::fresh());
        let asked = recorder.records(&subject, &[], &[used(&call, "ask")]);
        assert!(asked.cross.is_empty() && asked.tell.is_empty());
        let confirmation = entry(
            &EventId::fresh(),
            json!({
                "type": "user.tool_confirmation", "tool_use_id": call, "result": verdict, "deny_message": null,
                "session_thread_id": null,
            }),
        );
        recorder.caused(
            std::slice::from_ref(&confirmation.event),
            &Cause::Sent("apikey_1".into()),
        );
        let records = recorder.records(&subject, &[], &[confirmation]);
        whole(&records);
        let (given, other) = match decision {
            Decision::Allowed => (&records.cross, &records.tell),
            _ => (&records.tell, &records.cross),
        };
        assert!(other.is_empty());
        let kinds: Vec<_> = given.iter().map(|r| (r.kind, r.decision.unwrap())).collect();
        assert_eq!(kinds, [(Kind::Approval, decision), (Kind::ToolCall, decision)]);
        assert_eq!(given[0].approver.as_deref(), Some("apikey_1"));
        assert_eq!(recorder.rule(&call), "approval by apikey_1");
    }
}

#[test]
fn an_interrupt_is_a_stop_unless_an_order_is() {
    let (subject, mut recorder, call) = (subject(), Recorder::default(), EventId::fresh());
    let interrupt = || {
        let body = json!({ "type": "user.interrupt", "session_thread_id": null });
        entry(&EventId::fresh(), body)
    };
    assert!(!recorder.records(&subject, &[], &[used(&call, "allow")]).ends);
    let sent = interrupt();
    recorder.caused(std::slice::from_ref(&sent.event), &Cause::Sent("apikey_1".into()));
    let records = recorder.records(&subject, &[], &[answer(&call, true), sent]);
    whole(&records);
    assert!(records.ends);
    assert_eq!(records.note[0].decision, Some(Decision::Failed));
    assert_eq!(records.tell[0].actor.as_deref(), Some("apikey_1"));
    assert_eq!(records.tell[0].stop.as_ref().unwrap().ended, [call.to_string()]);

    let ordered = interrupt();
    recorder.caused(std::slice::from_ref(&ordered.event), &Cause::Ordered);
    recorder.ordered(Order {
        actor: "apikey_2".into(),
        reason: "runaway".into(),
        scope: Scope::Workspace,
        forced: true,
        ended: vec![subject.session.to_string()],
    });
    assert!(recorder.has_orders());
    let records = recorder.records(&subject, &[], &[ordered]);
    whole(&records);
    assert_eq!(records.tell.len(), 1);
    assert_eq!(records.tell[0].reason.as_deref(), Some("runaway"));
    assert!(!recorder.has_orders());

    // An order for one call makes no interrupt.
    let call = EventId::fresh();
    recorder.records(&subject, &[], &[used(&call, "allow")]);
    recorder.ordered(Order {
        actor: "apikey_2".into(),
        reason: "too long".into(),
        scope: Scope::Call,
        forced: false,
        ended: vec![call.to_string()],
    });
    let records = recorder.records(&subject, &[], &[answer(&call, true)]);
    assert!(records.ends && records.note.len() == 1);
    let call = EventId::fresh();
    recorder.records(&subject, &[], &[used(&call, "allow")]);
    assert!(!recorder.records(&subject, &[], &[answer(&call, true)]).ends);
}

#[test]
fn a_call_of_a_server_is_recorded_when_it_is_made_and_with_its_result() {
    let (subject, call) = (subject(), EventId::fresh());
    let servers = [McpServer::Url {
        name: "wiki".into(),
        url: "https://wiki.example/mcp".into(),
    }];
    // As after a restart: the call is in the log only.
    let log = [mcp(&call)];
    let mut recorder = Recorder::of_log(log.iter());
    assert_eq!(recorder.rule(&call), "always_allow");
    let body = json!({
        "type": "agent.mcp_tool_result", "mcp_tool_use_id": call, "content": [], "is_error": false,
    });
    let records = recorder.records(&subject, &servers, &[entry(&EventId::fresh(), body)]);
    whole(&records);
    assert!(records.cross.is_empty());
    assert_eq!(records.note[0].destination.as_deref(), Some("wiki.example:443"));
    let mut again = Recorder::of_log([mcp(&call), answer(&call, false)].iter());
    assert!(again.records(&subject, &servers, &[mcp(&call)]).cross.is_empty());
}

#[tokio::test]
async fn the_log_is_hashed_as_it_is_kept() {
    let (subject, mut recorder) = (subject(), Recorder::default());
    let idle = || {
        let body = json!({ "type": "session.status_idle", "stop_reason": { "type": "end_turn" } });
        entry(&EventId::fresh(), body)
    };
    let (first, second, third) = (used(&EventId::fresh(), "allow"), idle(), idle());
    let mut kept = LogHash::default();
    let line = |entry: &LogEntry| serde_json::to_vec(&entry.event).unwrap();
    kept.add(&line(&first));
    let nothing = async || -> Result<LogHash, ()> { unreachable!("it did not come to rest") };
    assert!(recorder.committed(&subject, &[first], nothing).await.unwrap().is_none());
    kept.add(&line(&second));
    let read = kept.clone();
    let record = recorder
        .committed(&subject, &[second], async || Ok::<_, ()>(read))
        .await;
    assert_eq!(record.unwrap().unwrap().events, Some(2));
    kept.add(&line(&third));
    let known = async || -> Result<LogHash, ()> { unreachable!("it is known from here on") };
    let record = recorder.committed(&subject, &[third], known).await.unwrap().unwrap();
    assert_eq!(record.output_hash, kept.record(&subject).output_hash);
    assert_eq!((record.events, record.missing().len()), (Some(3), 0));
}
