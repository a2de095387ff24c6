//! `outwork demo`: everything at once, on this machine, in front of the reader.
//!
//! Starts a server, a worker and, unless a real model is named, a rehearsal model; makes a small project whose check
//! fails; lets an agent mend it in a sandbox; and runs the check again. Nothing is staged outside of the model's
//! words: server, worker, sandbox and checks are those of every other command. It ends well only if the check does.
//!
//! `--private` is another play, in [`private`]: a server in a private network, and a call through its tunnel. So is
//! `--boundary`, in [`boundary`]: an agent that was told to steal.

mod boundary;
mod private;
mod stage;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outwork_client::{Client, Credential, Options};
use outwork_sandbox::worker::Queue;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

pub(crate) use self::private::{enter_network, host};
use self::stage::{Check, Stage};
use super::agents::toolset;
use crate::cli::task::DemoArgs;
use crate::config::LogConfig;
use crate::conversation::{Approver, Conversation};
use crate::exit::Exit;
use crate::roles::{Job, LocalWorker};
use crate::signals::Interrupts;
use crate::telemetry;
use crate::terminal::transcript::{Shown, Tally};
use crate::terminal::view::View;
use crate::terminal::{Look, counted, span, style};

const SYSTEM: &str = "You mend software. The project is in your working folder, /workspace. Find the cause of a fault \
                      before you change anything, change as little as possible, and run the check to see whether it \
                      helped. End with a short account of the cause and of what you changed.";

pub(crate) async fn demo(args: DemoArgs, look: Look) -> Result<Exit> {
    telemetry::start(&LogConfig {
        format: args.log.log_format.unwrap_or(crate::cli::plane::LogFormat::Text),
        // The demonstration itself says what happens; its log is for those who ask for it.
        level: args.log.log_level.clone().unwrap_or_else(|| "error".to_owned()),
    })?;
    let mut interrupts = Interrupts::install()?;
    let started = Instant::now();
    let mut page = View::stdout(
        args.output.json,
        look,
        Shown {
            verbose: false,
            user: true,
            clock: false,
        },
    );
    if args.private {
        return private::demo(&args, look, &mut page, &mut interrupts, started).await;
    }
    if args.boundary {
        return boundary::demo(&args, look, &mut page, &mut interrupts, started).await;
    }
    let stage = Stage::set(&args).await?;
    introduce(&mut page, &stage)?;
    let played = play(&args, look, &mut page, &stage, &mut interrupts, started).await;
    stage.strike().await;
    played
}

/// Check, session, check.
async fn play(
    args: &DemoArgs,
    look: Look,
    page: &mut View,
    stage: &Stage,
    interrupts: &mut Interrupts,
    started: Instant,
) -> Result<Exit> {
    let before = tokio::select! {
        biased;
        () = interrupts.recv() => return Ok(Exit::Interrupted),
        before = check(page, stage, "before") => before?,
    };
    let (exit, tally) = act(args, look, stage, interrupts).await?;
    page.page().space()?;
    let (exit, after) = if exit == Exit::Interrupted {
        (exit, None)
    } else {
        tokio::select! {
            biased;
            () = interrupts.recv() => (Exit::Interrupted, None),
            after = check(page, stage, "after") => (exit, after?),
        }
    };
    summarize(
        page,
        stage,
        started.elapsed(),
        exit,
        &tally,
        before.as_ref(),
        after.as_ref(),
    )
}

/// What stands on the stage, before anything happens.
fn introduce(page: &mut View, stage: &Stage) -> Result<()> {
    page.object(&json!({
        "type": "demo.started",
        "plane": stage.base_url(),
        "model": stage.model,
        "sandbox": stage.facts,
        "project": stage.project.display().to_string(),
    }))?;
    let lines = [
        (
            "server",
            format!(
                "{}, everything it keeps in {}",
                stage.base_url(),
                stage.data_dir.display()
            ),
        ),
        ("model", stage.model_story.clone()),
        ("worker", stage.worker_story().to_owned()),
        (
            "project",
            format!("{} ({})", stage.project.display(), counted(stage.files as u64, "file")),
        ),
    ];
    for (label, text) in lines {
        page.page().say(label, style::FAINT, &text)?;
    }
    Ok(())
}

/// Runs the project's check in a sandbox of its own and says how it went.
async fn check(page: &mut View, stage: &Stage, when: &str) -> Result<Option<Check>> {
    let Some(check) = stage.check().await? else {
        return Ok(None);
    };
    page.object(&json!({
        "type": "demo.check",
        "when": when,
        "command": check.command,
        "passed": check.passed(),
        "exit_code": check.exit_code,
        "milliseconds": check.took.as_millis() as u64,
    }))?;
    let verdict = if check.passed() { "passes" } else { "fails" };
    let colour = if check.passed() { style::GOOD } else { style::BAD };
    let code = check
        .exit_code
        .map_or("no exit code".to_owned(), |code| format!("exit code {code}"));
    let text = format!(
        "the check `{}` {verdict}: {code}, {}{}",
        check.command,
        span(check.took),
        check.last_line().map(|line| format!(", “{line}”")).unwrap_or_default()
    );
    page.page().say(when, colour, &text)?;
    if when == "before" {
        page.page().space()?;
    }
    Ok(Some(check))
}

/// The session itself.
async fn act(args: &DemoArgs, look: Look, stage: &Stage, interrupts: &mut Interrupts) -> Result<(Exit, Tally)> {
    let client = stage.client()?;
    let environment = client
        .environments()
        .create(&json!({ "name": "demo", "config": { "type": "self_hosted" } }))
        .await
        .context("could not make the environment")?;
    let environment_id = id(&environment)?;
    let key = client
        .environment_keys(&environment_id)
        .create(&json!({ "name": "demo worker" }))
        .await?;
    let key = key
        .get("key")
        .and_then(Value::as_str)
        .context("the server made an environment key without a key")?;
    let agent = client
        .agents()
        .create(&json!({ "name": "demo", "model": stage.model, "system": SYSTEM, "tools": [toolset(false)] }))
        .await
        .context("could not make the agent")?;
    let session = client
        .sessions()
        .create(&json!({ "agent": id(&agent)?, "environment_id": environment_id, "title": "demo" }))
        .await
        .context("could not make the session")?;
    let job = Job {
        base_url: stage.base_url(),
        ca_files: Vec::new(),
        queue: Queue::Environment(environment_id),
        key: key.into(),
        workdir: stage.project.clone(),
        apart: false,
    };
    let mut worker = LocalWorker::start(job, &stage.worker)?;
    let shown = Shown {
        verbose: args.verbose,
        user: true,
        clock: true,
    };
    let view = View::stdout(args.output.json, look, shown);
    let spoken = async {
        let mut conversation = Conversation::open(&client, &session, view, Approver::Always).await?;
        let exit = conversation.say(&stage.task, interrupts).await?;
        conversation.view.page().pause()?;
        anyhow::Ok((exit, conversation.view.page().tally().clone()))
    };
    let result = tokio::select! {
        result = spoken => result,
        ended = worker.ended() => Err(ended),
    };
    worker.drain().await;
    result
}

fn summarize(
    page: &mut View,
    stage: &Stage,
    took: Duration,
    exit: Exit,
    tally: &Tally,
    before: Option<&Check>,
    after: Option<&Check>,
) -> Result<Exit> {
    let mended = after.is_none_or(Check::passed);
    let exit = match exit {
        Exit::Done if mended => Exit::Done,
        Exit::Done => Exit::Failed,
        other => other,
    };
    let changed = stage.changed()?;
    let word = |check: Option<&Check>| check.map_or("not run", |check| if check.passed() { "passes" } else { "fails" });
    page.object(&json!({
        "type": "demo.summary",
        "outcome": if exit == Exit::Done { "done" } else { "failed" },
        "check_before": word(before),
        "check_after": word(after),
        "changed": changed,
        "events": tally.events,
        "tool_calls": tally.calls,
        "failed_tool_calls": tally.failed_calls,
        "model_requests": tally.model_requests,
        "tokens_in": tally.tokens_in,
        "tokens_out": tally.tokens_out,
        "milliseconds": took.as_millis() as u64,
        "sandbox": stage.facts,
    }))?;
    let page = page.page();
    page.space()?;
    let code = |check: &Check| {
        check
            .exit_code
            .map_or("no exit code".to_owned(), |code| format!("exit code {code}"))
    };
    let rows = [
        (
            "events",
            format!("{}, each on disk before it was shown", counted(tally.events, "event")),
        ),
        (
            "calls",
            format!(
                "{} {}, {} failed",
                counted(tally.calls, "tool call"),
                stage.place(),
                tally.failed_calls
            ),
        ),
        (
            "model",
            format!("{}, {}", counted(tally.model_requests, "request"), tally.tokens()),
        ),
        ("sandbox", stage.facts.join(", ")),
    ];
    for (label, text) in rows {
        page.say(label, style::FAINT, &text)?;
    }
    if let Some(changed) = &changed {
        let text = if changed.is_empty() {
            "nothing".to_owned()
        } else {
            changed.join(", ")
        };
        page.say("changed", style::FAINT, &text)?;
    }
    if let (Some(before), Some(after)) = (before, after) {
        let (was, is) = (word(Some(before)), word(Some(after)));
        page.say(
            "check",
            style::FAINT,
            &format!("before: {was} ({}), after: {is} ({})", code(before), code(after)),
        )?;
    }
    if let Some(kept) = stage.kept() {
        page.say("kept", style::FAINT, &kept.display().to_string())?;
    }
    let (label, colour, text) = match (exit, before, after) {
        (Exit::Done, Some(before), Some(_)) if !before.passed() => {
            ("mended", style::GOOD, "the check failed before and passes now")
        }
        (Exit::Done, _, Some(_)) => ("done", style::GOOD, "the check passes"),
        (Exit::Done, ..) => (
            "done",
            style::GOOD,
            "the agent ended its turn; no check was given (--check)",
        ),
        (Exit::Failed, ..) => ("failed", style::BAD, "the check still fails"),
        (Exit::Interrupted, ..) => ("stopped", style::WARN, "interrupted"),
        (Exit::Refused, ..) => ("refused", style::BAD, "the model refused the task"),
        (Exit::RetriesExhausted, ..) => ("failed", style::BAD, "the model could not be reached"),
        (Exit::NeedsAction | Exit::Terminated | Exit::LeaseLost, ..) => {
            ("failed", style::BAD, "the session did not come to its end")
        }
    };
    page.say(label, colour, &format!("{text} ({})", span(took)))?;
    Ok(exit)
}

fn id(value: &Value) -> Result<String> {
    value
        .get("id")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("the server answered without an id")
}

impl Stage {
    fn client(&self) -> Result<Client> {
        Ok(Client::new(Options::new(
            self.base_url(),
            Credential::api_key(self.key.expose_secret()),
        ))?)
    }
}
