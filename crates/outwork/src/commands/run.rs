//! `outwork run`: one task, from the command line to its end.
//!
//! Makes what a session needs, or uses again what an earlier run made: an agent per model and permission policy,
//! marked in its metadata, and one `cloud` environment. Nothing of the user's own is changed.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Query};
use serde_json::{Value, json};

use super::agents::toolset;
use super::words_or_stdin;
use crate::cli::task::RunArgs;
use crate::config::process_environment;
use crate::connection;
use crate::conversation::{Approver, Conversation};
use crate::exit::Exit;
use crate::signals::Interrupts;
use crate::terminal::transcript::Shown;
use crate::terminal::view::View;
use crate::terminal::{Look, sanitize, style};

/// The metadata field by which a run finds what an earlier one made.
const MARK: &str = "outwork.run";
const NAME: &str = "outwork-run";
const SYSTEM: &str = "You work on tasks in a sandbox of your own, with the folder /workspace to keep files in. Look \
                      before you change something, check what you did by running it, and end with a short account of \
                      what you found and what you did.";
/// How many agents or environments are looked through for one to use again.
const SEARCHED: usize = 2000;

pub(crate) async fn run(args: RunArgs, look: Look) -> Result<Exit> {
    let task = words_or_stdin(&args.task, "task")?;
    let mut interrupts = Interrupts::install()?;
    let client = connection::client(&args.connection, &process_environment)?;
    let session = tokio::select! {
        biased;
        () = interrupts.recv() => return Ok(Exit::Interrupted),
        session = session(&client, &args) => session?,
    };
    let json = args.output.json;
    let approver = if args.yes {
        Approver::Always
    } else if !json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        Approver::Person
    } else {
        Approver::Nobody
    };
    announce(&session, json, &look)?;
    let view = View::stdout(
        json,
        look,
        Shown {
            verbose: args.verbose,
            user: false,
            clock: false,
        },
    );
    let mut conversation = Conversation::open(&client, &session, view, approver).await?;
    let exit = conversation.say(&task, &mut interrupts).await?;
    let page = conversation.view.page();
    page.pause()?;
    let line = page.tally().line();
    if !json {
        let label = match exit {
            Exit::Done => look.paint(style::GOOD, "done     "),
            Exit::Interrupted => look.paint(style::WARN, "stopped  "),
            _ => look.paint(style::BAD, "ended    "),
        };
        writeln!(std::io::stdout(), "\n{label}{}", look.paint(style::FAINT, &line))?;
    }
    if exit == Exit::RetriesExhausted {
        eprintln!(
            "outwork: the model did not answer; mend what the error names, then send the session another message"
        );
    }
    Ok(exit)
}

/// Says which session this is: on standard error for machines, whose standard output has events only.
fn announce(session: &Value, json: bool, look: &Look) -> Result<()> {
    let field = |pointer: &str| sanitize::line(session.pointer(pointer).and_then(Value::as_str).unwrap_or("-"));
    let line = format!(
        "{} · {} · {}",
        field("/id"),
        field("/agent/name"),
        field("/agent/model/id")
    );
    if json {
        eprintln!("session {line}");
    } else {
        writeln!(
            std::io::stdout(),
            "{} {}\n",
            look.paint(style::FAINT, "session "),
            look.paint(style::FAINT, &line)
        )?;
    }
    Ok(())
}

async fn session(client: &Client, args: &RunArgs) -> Result<Value> {
    if let Some(id) = &args.session {
        return Ok(client.sessions().get(id).await?);
    }
    let agent_id = match &args.agent {
        Some(name) if name.starts_with("agent_") => name.clone(),
        Some(name) => named(client.agents().list(page()).collect(SEARCHED).await?, name, "agent")?,
        None => agent(client, args.model.as_deref(), args.ask).await?,
    };
    let environment_id = match &args.environment {
        Some(name) if name.starts_with("env_") => name.clone(),
        Some(name) => named(
            client.environments().list(page()).collect(SEARCHED).await?,
            name,
            "environment",
        )?,
        None => environment(client).await?,
    };
    let mut body = json!({ "agent": agent_id, "environment_id": environment_id });
    if let Some(title) = &args.title {
        body["title"] = json!(title);
    }
    Ok(client.sessions().create(&body).await?)
}

fn page() -> Query {
    Query::new().with("limit", 100)
}

fn id_of(item: &Value) -> Result<String> {
    item.get("id")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("the server answered without an id")
}

/// The one item of this name.
fn named(items: Vec<Value>, name: &str, what: &str) -> Result<String> {
    let mut found = items
        .iter()
        .filter(|item| item.get("name").and_then(Value::as_str) == Some(name));
    match (found.next(), found.next()) {
        (Some(one), None) => id_of(one),
        (None, _) => bail!("there is no {what} with the name `{name}`; see `outwork {what}s list`"),
        (Some(_), Some(_)) => bail!("several {what}s have the name `{name}`; give the id of one"),
    }
}

/// The agent that runs make for this model and policy: an earlier one, or a new one.
async fn agent(client: &Client, model: Option<&str>, ask: bool) -> Result<String> {
    let model = match model {
        Some(model) => model.to_owned(),
        None => first_model(client).await?,
    };
    let mark = format!("1 {} {model}", if ask { "ask" } else { "allow" });
    let agents = client.agents().list(page()).collect(SEARCHED).await?;
    // Somebody may have changed its model since: the mark alone does not say what it runs on.
    let same = |agent: &&Value| {
        agent.pointer(&format!("/metadata/{MARK}")).and_then(Value::as_str) == Some(&mark)
            && agent.pointer("/model/id").and_then(Value::as_str) == Some(&model)
            && agent.get("archived_at").is_none_or(Value::is_null)
    };
    if let Some(agent) = agents.iter().find(same) {
        return id_of(agent);
    }
    let agent = client
        .agents()
        .create(&json!({
            "name": NAME,
            "model": model,
            "system": SYSTEM,
            "description": "Made by `outwork run`",
            "tools": [toolset(ask)],
            "metadata": { MARK: mark },
        }))
        .await?;
    id_of(&agent)
}

async fn first_model(client: &Client) -> Result<String> {
    let first = client.models().list(Query::new()).next().await;
    match first {
        Some(Ok(model)) => id_of(&model),
        Some(Err(error)) if matches!(error.status(), Some(404 | 405 | 500..)) => {
            Err(error).context("the server does not tell its models; name one with --model")
        }
        Some(Err(error)) => Err(error.into()),
        None => bail!("the server names no model: give one with --model, as its model provider knows it"),
    }
}

async fn environment(client: &Client) -> Result<String> {
    let environments = client.environments().list(page()).collect(SEARCHED).await?;
    let same = |environment: &&Value| {
        environment.pointer(&format!("/metadata/{MARK}")).is_some()
            && environment.pointer("/config/type").and_then(Value::as_str) == Some("cloud")
            && environment.get("archived_at").is_none_or(Value::is_null)
    };
    if let Some(environment) = environments.iter().find(same) {
        return id_of(environment);
    }
    let body = json!({
        "name": NAME,
        "config": { "type": "cloud" },
        "description": "Made by `outwork run`",
        "metadata": { MARK: "1" },
    });
    id_of(&client.environments().create(&body).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_be_of_one_thing() {
        let items = || {
            vec![
                json!({"id": "agent_1", "name": "a"}),
                json!({"id": "agent_2", "name": "b"}),
                json!({"id": "agent_3", "name": "b"}),
            ]
        };
        assert_eq!(named(items(), "a", "agent").unwrap(), "agent_1");
        assert!(
            named(items(), "b", "agent")
                .unwrap_err()
                .to_string()
                .contains("several")
        );
        assert!(
            named(items(), "c", "agent")
                .unwrap_err()
                .to_string()
                .contains("outwork agents list")
        );
    }
}
