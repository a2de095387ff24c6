//! `outwork sessions`

use anyhow::{Result, bail};
use outwork_client::{Client, ObservedEvent, Query};
use serde_json::{Value, json};

use super::agents::query;
use super::{print_done, print_list, print_one, text, when, words_or_stdin};
use crate::cli::resources::{Common, One, SessionsCommand};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::follow::{Follow, Step};
use crate::signals::Interrupts;
use crate::terminal::Look;
use crate::terminal::transcript::Shown;
use crate::terminal::view::View;

pub(crate) async fn sessions(command: SessionsCommand, look: Look) -> Result<Exit> {
    match command {
        SessionsCommand::Create {
            agent,
            environment,
            title,
            vaults,
            message,
            common,
        } => {
            let mut body = json!({ "agent": agent, "environment_id": environment });
            if let Some(title) = title {
                body["title"] = title.into();
            }
            if !vaults.is_empty() {
                body["vault_ids"] = vaults.into();
            }
            if let Some(message) = message {
                body["initial_events"] = json!([user_message(&message)]);
            }
            let session = connect(&common)?.sessions().create(&body).await?;
            print_one(&session, common.output.json, &look)
        }
        SessionsCommand::List { list, agent, status } => {
            let mut query = query(&list).maybe("agent_id", agent);
            for status in status {
                query = query.with("statuses[]", status);
            }
            let items = connect(&list.common)?
                .sessions()
                .list(query)
                .collect(list.limit)
                .await?;
            rows(&items, list.common.output.json, &look)
        }
        SessionsCommand::Show(one) => {
            let session = connect(&one.common)?.sessions().get(&one.id).await?;
            print_one(&session, one.common.output.json, &look)
        }
        SessionsCommand::Archive(one) => {
            let answer = connect(&one.common)?.sessions().archive(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("archived {}", one.id))
        }
        SessionsCommand::Delete(one) => {
            let answer = connect(&one.common)?.sessions().delete(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("deleted {}", one.id))
        }
        SessionsCommand::Events { one, types, verbose } => events(&one, &types, verbose, look).await,
        SessionsCommand::Stream { one, verbose } => stream(&one, verbose, look).await,
        SessionsCommand::Send { id, message, common } => {
            let message = words_or_stdin(&message, "message")?;
            let answer = send(&connect(&common)?, &id, &[user_message(&message)]).await?;
            print_done(&answer, common.output.json, "sent")
        }
        SessionsCommand::Interrupt(one) => {
            let answer = send(&connect(&one.common)?, &one.id, &[json!({ "type": "user.interrupt" })]).await?;
            print_done(&answer, one.common.output.json, "interrupted")
        }
        SessionsCommand::Approve { one, event_ids } => {
            decide(
                &one,
                event_ids,
                "approved",
                |id| json!({ "type": "user.tool_confirmation", "tool_use_id": id, "result": "allow" }),
            )
            .await
        }
        SessionsCommand::Deny {
            one,
            event_ids,
            message,
        } => {
            decide(&one, event_ids, "denied", |id| {
                let mut answer = json!({ "type": "user.tool_confirmation", "tool_use_id": id, "result": "deny" });
                if let Some(message) = &message {
                    answer["deny_message"] = json!(message);
                }
                answer
            })
            .await
        }
    }
}

/// The event of a message.
pub(crate) fn user_message(text: &str) -> Value {
    json!({ "type": "user.message", "content": [{ "type": "text", "text": text }] })
}

fn connect(common: &Common) -> Result<Client> {
    connection::client(&common.connection, &process_environment)
}

async fn send(client: &Client, session_id: &str, events: &[Value]) -> Result<Value> {
    Ok(client.sessions().events(session_id).send(events).await?)
}

fn rows(items: &[Value], json: bool, look: &Look) -> Result<Exit> {
    print_list(
        items,
        json,
        look,
        &["ID", "STATUS", "AGENT", "CREATED", "TITLE"],
        |item| {
            vec![
                text(item, "/id"),
                text(item, "/status"),
                text(item, "/agent/name"),
                when(item, "/created_at"),
                text(item, "/title"),
            ]
        },
    )
}

fn view(one: &One, verbose: bool, look: Look) -> View {
    View::stdout(
        one.common.output.json,
        look,
        Shown {
            verbose,
            user: true,
            clock: true,
        },
    )
}

async fn events(one: &One, types: &[String], verbose: bool, look: Look) -> Result<Exit> {
    let client = connect(&one.common)?;
    let mut query = Query::new().with("limit", 100);
    for kind in types {
        query = query.with("types[]", kind);
    }
    let mut pages = client.sessions().events(&one.id).list(query)?;
    let mut view = view(one, verbose, look);
    while let Some(event) = pages.next().await {
        view.observe(&event?)?;
    }
    view.page().pause()?;
    Ok(Exit::Done)
}

async fn stream(one: &One, verbose: bool, look: Look) -> Result<Exit> {
    let client = connect(&one.common)?;
    let mut interrupts = Interrupts::install()?;
    let mut follow = Follow::open(&client, &one.id, !one.common.output.json).await?;
    let mut view = view(one, verbose, look);
    loop {
        let step = tokio::select! {
            biased;
            () = interrupts.recv() => {
                view.page().pause()?;
                return Ok(Exit::Interrupted);
            }
            step = follow.next() => step?,
        };
        match step {
            Step::Event(event) => {
                view.observe(&event)?;
                if event.ends_session() {
                    return Ok(Exit::Done);
                }
            }
            Step::Lost(cause) => view.note("stream", &format!("lost ({cause}); reconnecting"))?,
        }
    }
}

async fn decide(one: &One, ids: Vec<String>, done: &str, answer: impl Fn(&str) -> Value) -> Result<Exit> {
    let client = connect(&one.common)?;
    let ids = if ids.is_empty() {
        waiting(&client, &one.id).await?
    } else {
        ids
    };
    if ids.is_empty() {
        bail!("no call of {} waits for an approval", one.id);
    }
    let answers: Vec<Value> = ids.iter().map(|id| answer(id)).collect();
    let sent = send(&client, &one.id, &answers).await?;
    print_done(&sent, one.common.output.json, &format!("{done} {}", ids.join(", ")))
}

/// The calls of a session that ask and have no answer yet, oldest first.
async fn waiting(client: &Client, session_id: &str) -> Result<Vec<String>> {
    let events = client
        .sessions()
        .events(session_id)
        .list(Query::new().with("limit", 100))?
        .collect(usize::MAX)
        .await?;
    Ok(unanswered(&events))
}

fn unanswered(events: &[ObservedEvent]) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for event in events {
        if event.permission() == Some("ask") {
            open.push(event.id.clone());
        } else if let Some(call) = event.call_id() {
            open.retain(|id| id != call);
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_still_ask_are_answered() {
        let events = [
            json!({ "type": "agent.tool_use", "id": "a", "evaluated_permission": "ask" }),
            json!({ "type": "agent.tool_use", "id": "b", "evaluated_permission": "allow" }),
            json!({ "type": "agent.tool_use", "id": "c", "evaluated_permission": "ask" }),
            json!({ "type": "user.tool_confirmation", "id": "d", "tool_use_id": "a", "result": "deny" }),
        ];
        let events = events.map(|value| ObservedEvent::from_object(value.as_object().unwrap().clone()).unwrap());
        assert_eq!(unanswered(&events), ["c"]);
    }
}
