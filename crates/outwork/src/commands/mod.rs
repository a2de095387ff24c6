//! One module per command: each takes its parsed flags and answers with an [`Exit`] or an error.

pub(crate) mod agents;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod environments;
pub(crate) mod evidence;
pub(crate) mod files;
pub(crate) mod halt;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod policy;
pub(crate) mod rehearsal;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod sessions;
pub(crate) mod tunnel;
pub(crate) mod tunnels;
pub(crate) mod vaults;
pub(crate) mod worker;

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cli::{Cli, Command};
use crate::exit::Exit;
use crate::terminal::table::Table;
use crate::terminal::{Look, sanitize};

/// Runs a command.
pub(crate) async fn dispatch(cli: Cli) -> Result<Exit> {
    let look = Look::of_stdout(cli.color);
    match cli.command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Up(args) => serve::up(args).await,
        Command::Worker(args) => worker::worker(args).await,
        Command::Run(args) => run::run(args, look).await,
        Command::Agents(command) => agents::agents(command, look).await,
        Command::Environments(command) => environments::environments(command, look).await,
        Command::Sessions(command) => sessions::sessions(command, look).await,
        Command::Files(command) => files::files(command, look).await,
        Command::Halt(args) => halt::halt(args).await,
        Command::Policy(command) => policy::policy(command).await,
        Command::Evidence(args) => evidence::evidence(args).await,
        Command::Ledger(command) => evidence::ledger(&command),
        Command::Vaults(command) => vaults::vaults(command, look).await,
        Command::Tunnels(command) => tunnels::tunnels(command, look).await,
        Command::Tunnel(command) => tunnel::tunnel(command, look).await,
        Command::Keys(command) => keys::keys(command, look).await,
        Command::Models(command) => models::models(command, look).await,
        Command::Demo(args) => demo::demo(args, look).await,
        Command::DemoHost(command) => demo::host(command).await,
        Command::Rehearsal(args) => rehearsal::rehearsal(args).await,
        Command::Doctor(args) => doctor::doctor(args, look).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            crate::cli::completions(shell, &mut text);
            io::stdout().write_all(&text)?;
            Ok(Exit::Done)
        }
        Command::Version { output } => version(output.json),
    }
}

fn version(json: bool) -> Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        print_json(&serde_json::json!({ "name": "outwork", "version": version }))?;
    } else {
        writeln!(io::stdout(), "outwork {version}")?;
    }
    Ok(Exit::Done)
}

/// One object per line, for machines.
fn print_json(value: &Value) -> Result<()> {
    writeln!(io::stdout(), "{value}")?;
    Ok(())
}

/// One resource for people: its fields, one per line; nested values as indented JSON.
fn print_fields(value: &Value, look: &Look) -> Result<()> {
    let Some(fields) = value.as_object() else {
        return print_json(value);
    };
    let width = fields.keys().map(|name| name.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for (name, value) in fields {
        let text = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() => "-".to_owned(),
            Value::Object(map) if map.is_empty() => "-".to_owned(),
            Value::Array(_) | Value::Object(_) => serde_json::to_string_pretty(value)?,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
        };
        let text = sanitize::lines(&text).replace('\n', &format!("\n{}", " ".repeat(width + 2)));
        let label = format!("{:<width$}", sanitize::line(name));
        writeln!(out, "{}  {text}", look.paint(crate::terminal::style::FAINT, &label))?;
    }
    Ok(())
}

/// A resource, for whoever reads it.
fn print_one(value: &Value, json: bool, look: &Look) -> Result<Exit> {
    if json {
        print_json(value)?
    } else {
        print_fields(value, look)?
    }
    Ok(Exit::Done)
}

/// A list, for whoever reads it. `cells` makes a row of an item.
fn print_list(
    items: &[Value],
    json: bool,
    look: &Look,
    headings: &[&'static str],
    cells: impl Fn(&Value) -> Vec<String>,
) -> Result<Exit> {
    if json {
        items.iter().try_for_each(print_json)?;
    } else if items.is_empty() {
        eprintln!("none");
    } else {
        let mut table = Table::new(headings);
        for item in items {
            table.row(cells(item));
        }
        writeln!(io::stdout(), "{}", table.render(look))?;
    }
    Ok(Exit::Done)
}

/// What was done, for people; the server's answer, for machines.
fn print_done(answer: &Value, json: bool, sentence: &str) -> Result<Exit> {
    if json {
        print_json(answer)?
    } else {
        writeln!(io::stdout(), "{}", sanitize::line(sentence))?
    }
    Ok(Exit::Done)
}

/// A text field, or a dash.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// A point in time without its fraction, or a dash.
fn when(value: &Value, pointer: &str) -> String {
    let text = text(value, pointer);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => text.replace('T', " "),
    }
}

/// The words of the command line as one text, or standard input if there are none.
fn words_or_stdin(words: &[String], what: &str) -> Result<String> {
    let text = if words.is_empty() {
        if io::IsTerminal::is_terminal(&io::stdin()) {
            bail!("there is no {what}: give it as an argument, or on standard input");
        }
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .with_context(|| format!("could not read the {what}"))?;
        text
    } else {
        words.join(" ")
    };
    if text.trim().is_empty() {
        bail!("the {what} is empty");
    }
    Ok(text)
}
