//! `outwork demo --private`: an agent answers a question with a tool of a server that the plane has no way to.
//!
//! The server stands in a network namespace (for root) or on a loopback address. The gateway runs beside it as a
//! process of its own and dials out to the plane's edge, which is tapped. Shown are the failed ways without the tunnel,
//! the answer, the gateway's record of the calls, and the bytes that the edge relayed, in which the words of question
//! and answer are looked for. It ends well only if the answer names what the server alone knew, the ways without the
//! tunnel failed, the record verifies, and none of the words was in what the edge saw.

mod host;
mod network;
mod seen;
mod server;
mod stage;

use std::time::{Duration, Instant};

use anyhow::Result;
use outwork_ledger::Record;
use serde_json::{Value, json};

pub(crate) use self::network::enter_network;
use self::seen::{Sight, hex};
use self::stage::Stage;
use crate::cli::task::{DemoArgs, DemoHostCommand};
use crate::conversation::{Approver, Conversation};
use crate::exit::Exit;
use crate::signals::Interrupts;
use crate::terminal::transcript::Shown;
use crate::terminal::view::View;
use crate::terminal::{Look, counted, span, style};

/// The name of the server in agents.
const SERVER: &str = "orders";
/// What the user asks.
const QUESTION: &str = "Which of Hartmann's orders is late, and where is its parcel?";
/// The tools that the play calls.
const TOOLS: [&str; 2] = ["late_orders", "track_parcel"];
/// A word of the last answer that no question has.
const PLACE: &str = "Bremerhaven";

/// `outwork demo-host`
pub(crate) async fn host(command: DemoHostCommand) -> Result<Exit> {
    host::host(command).await
}

/// A way without the tunnel that was tried.
struct Try {
    /// Whether it worked, which it must not.
    reached: bool,
    story: String,
}

/// What was found out.
struct Findings {
    exit: Exit,
    direct: Vec<Try>,
    /// The answer, and whether it names what only the server knew.
    answered: bool,
    calls: Vec<Record>,
    sound: bool,
    /// The words of the calls, and how many of them are in the session's events.
    words: Vec<String>,
    in_events: usize,
    sight: Sight,
}

impl Findings {
    fn is_good(&self) -> bool {
        self.exit == Exit::Done
            && !self.direct.is_empty()
            && self.direct.iter().all(|tried| !tried.reached)
            && self.answered
            && self.calls.len() >= TOOLS.len()
            && self.sound
            && self.in_events == self.words.len()
            && self.sight.to_gateway > 0
            && self.sight.from_gateway > 0
            && self.sight.found.is_empty()
    }
}

pub(super) async fn demo(
    args: &DemoArgs,
    look: Look,
    page: &mut View,
    interrupts: &mut Interrupts,
    started: Instant,
) -> Result<Exit> {
    let set = tokio::select! {
        biased;
        () = interrupts.recv() => return Ok(Exit::Interrupted),
        set = Stage::set(args) => set,
    };
    let stage = set?;
    let played = play(args, look, page, &stage, interrupts, started).await;
    stage.strike().await;
    played
}

async fn play(
    args: &DemoArgs,
    look: Look,
    page: &mut View,
    stage: &Stage,
    interrupts: &mut Interrupts,
    started: Instant,
) -> Result<Exit> {
    introduce(page, stage)?;
    let direct = tokio::select! {
        biased;
        () = interrupts.recv() => return Ok(Exit::Interrupted),
        tried = without_tunnel(stage) => tried?,
    };
    say_tries(page, &direct)?;
    page.page().space()?;
    let shown = Shown {
        verbose: args.verbose,
        user: true,
        clock: true,
    };
    let view = View::stdout(args.output.json, look, shown);
    let (exit, session) = tokio::select! {
        spoken = speak(stage, view, interrupts) => spoken?,
        ended = stage.ended() => return Err(ended),
    };
    page.page().space()?;
    let findings = find_out(stage, exit, &session, direct).await?;
    conclude(page, stage, &findings, started.elapsed())
}

fn introduce(page: &mut View, stage: &Stage) -> Result<()> {
    page.object(&json!({
        "type": "demo.started",
        "plane": stage.base_url(),
        "edge": stage.edge(),
        "private_server": stage.server,
        "namespace": stage.pair.is_some(),
        "tunnel_url": stage.tunnel_url(),
    }))?;
    let place = match (&stage.pair, &stage.why_not) {
        (Some(pair), _) => format!(
            "orders, a real MCP server on {} in a network namespace of its own; one pair of interfaces leads out of it",
            stage.server
        )
        .replace("pair of interfaces", &format!("pair of interfaces ({})", pair.inside)),
        (None, Some(why)) => format!(
            "orders, a real MCP server on {}, which the plane refuses to dial ({why}, so there is no network namespace)",
            stage.server
        ),
        (None, None) => format!(
            "orders, a real MCP server on {}, which the plane refuses to dial",
            stage.server
        ),
    };
    let rows = [
        ("server", format!("{}, its edge on {}", stage.base_url(), stage.edge())),
        ("private", place),
        (
            "gateway",
            format!(
                "beside it; dialled out to {}, two connections; it listens on nothing",
                stage.edge()
            ),
        ),
        ("called", stage.tunnel_url()),
    ];
    for (label, text) in rows {
        page.page().say(label, style::FAINT, &text)?;
    }
    Ok(())
}

/// Tries to reach the private server without the tunnel: with a plain connection, and as the plane does for an agent.
/// For a server on loopback the first shows nothing: every process of this machine reaches it.
async fn without_tunnel(stage: &Stage) -> Result<Vec<Try>> {
    let mut tries = Vec::new();
    if stage.pair.is_some() {
        let limit = Duration::from_secs(6);
        let found = tokio::time::timeout(limit, tokio::net::TcpStream::connect(stage.server)).await;
        let story = match &found {
            Ok(Ok(_)) => "answered".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        tries.push(Try {
            reached: matches!(found, Ok(Ok(_))),
            story: format!("a connection from this machine to {}: {story}", stage.server),
        });
    }
    let url = format!("https://{}/mcp", stage.server);
    let client = stage.client()?;
    let session = stage.session(&client, "rehearsal/direct", &url).await?;
    let events = stage.ask(&client, &stage::id(&session)?).await?;
    let error = events.iter().find(|event| event["type"] == "session.error");
    let message = error.and_then(|event| event["error"]["message"].as_str());
    tries.push(Try {
        reached: message.is_none(),
        story: format!("the plane, asked for {url}: {}", message.unwrap_or("reached")),
    });
    Ok(tries)
}

fn say_tries(page: &mut View, tries: &[Try]) -> Result<()> {
    for tried in tries {
        let colour = if tried.reached { style::BAD } else { style::GOOD };
        page.page().say("no way", colour, &tried.story)?;
    }
    Ok(())
}

/// The question, through the tunnel.
async fn speak(stage: &Stage, view: View, interrupts: &mut Interrupts) -> Result<(Exit, String)> {
    let client = stage.client()?;
    let session = stage.session(&client, "rehearsal/private", &stage.tunnel_url()).await?;
    let id = stage::id(&session)?;
    let mut conversation = Conversation::open(&client, &session, view, Approver::Always).await?;
    let exit = conversation.say(QUESTION, interrupts).await?;
    conversation.view.page().pause()?;
    Ok((exit, id))
}

async fn find_out(stage: &Stage, exit: Exit, session: &str, direct: Vec<Try>) -> Result<Findings> {
    let client = stage.client()?;
    let events = stage::events(&client, session).await?;
    let answer: String = events
        .iter()
        .rfind(|event| event["type"] == "agent.message")
        .map(Value::to_string)
        .unwrap_or_default();
    let words: Vec<String> = TOOLS
        .iter()
        .map(|tool| (*tool).to_owned())
        .chain([stage.parcel.clone(), PLACE.to_owned(), "Hartmann".to_owned()])
        .collect();
    let text = Value::from(events).to_string();
    let in_events = words.iter().filter(|word| text.contains(word.as_str())).count();
    let (calls, sound) = stage.records(session).await?;
    Ok(Findings {
        exit,
        direct,
        answered: answer.contains(&stage.parcel) && answer.contains(PLACE),
        calls,
        sound,
        sight: stage.seen.look(&words),
        words,
        in_events,
    })
}

fn conclude(page: &mut View, stage: &Stage, findings: &Findings, took: Duration) -> Result<Exit> {
    let good = findings.is_good();
    let exit = match findings.exit {
        Exit::Done if good => Exit::Done,
        Exit::Done => Exit::Failed,
        other => other,
    };
    let sight = &findings.sight;
    page.object(&json!({
        "type": "demo.summary",
        "outcome": if exit == Exit::Done { "done" } else { "failed" },
        "without_tunnel": findings.direct.iter().map(|tried| json!({ "reached": tried.reached, "story": tried.story }))
            .collect::<Vec<_>>(),
        "answered": findings.answered,
        "records": findings.calls,
        "ledger_sound": findings.sound,
        "edge_bytes": { "to_gateway": sight.to_gateway, "from_gateway": sight.from_gateway },
        "edge_excerpts": sight.excerpts.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
        "words": findings.words,
        "words_in_events": findings.in_events,
        "words_at_edge": sight.found,
        "milliseconds": took.as_millis() as u64,
    }))?;
    let page = page.page();
    for record in &findings.calls {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let decision = serde_json::to_value(record.decision).unwrap_or_default();
        page.say(
            "record",
            style::FAINT,
            &format!(
                "{} {} {} for agent {} in {}: {} by rule {}, status {}, {} bytes in, {} out",
                or_dash(&record.route),
                or_dash(&record.mcp_method),
                or_dash(&record.tool),
                record.agent.as_ref().map_or("-", |agent| agent.id.as_str()),
                or_dash(&record.session),
                decision.as_str().unwrap_or("-"),
                or_dash(&record.rule),
                record
                    .status
                    .map_or_else(|| "-".to_owned(), |status| status.to_string()),
                record.bytes_in.unwrap_or(0),
                record.bytes_out.unwrap_or(0),
            ),
        )?;
    }
    let verdict = |good: bool| if good { style::GOOD } else { style::BAD };
    page.say(
        "ledger",
        verdict(findings.sound),
        if findings.sound {
            "kept by the gateway; verified: no record was changed, taken out or reordered"
        } else {
            "NOT sound"
        },
    )?;
    page.say(
        "edge saw",
        style::FAINT,
        &format!(
            "{} bytes on the way to the gateway, {} on the way back, for example",
            sight.to_gateway, sight.from_gateway
        ),
    )?;
    for excerpt in &sight.excerpts {
        page.say("", style::FAINT, &format!("{}…", hex(excerpt)))?;
    }
    let list = findings.words.join(", ");
    let text = if sight.found.is_empty() {
        format!("{list}: each is in the session's events, none is in what the edge relayed")
    } else {
        format!("in clear text at the edge: {}", sight.found.join(", "))
    };
    page.say(
        "words",
        verdict(sight.found.is_empty() && findings.in_events == findings.words.len()),
        &text,
    )?;
    if let Some(kept) = stage.kept() {
        page.say("kept", style::FAINT, &kept.display().to_string())?;
    }
    let (label, colour, text) = match exit {
        Exit::Done => (
            "done",
            style::GOOD,
            format!(
                "the agent knew {} from a server without a way in, by {} through its tunnel",
                stage.parcel,
                counted(findings.calls.len() as u64, "call")
            ),
        ),
        Exit::Interrupted => ("stopped", style::WARN, "interrupted".to_owned()),
        _ if !findings.answered => (
            "failed",
            style::BAD,
            "the agent did not answer with what the server knew".to_owned(),
        ),
        _ => ("failed", style::BAD, "not everything held; see above".to_owned()),
    };
    page.say(label, colour, &format!("{text} ({})", span(took)))?;
    Ok(exit)
}
