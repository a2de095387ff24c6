//! `outwork evidence` and `outwork ledger`: proof, fetched, verified and read without trusting whoever hands it over.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outwork_client::Client;
use outwork_ledger::evidence::{self, Evidence};
use outwork_ledger::exports::{Form, write_matching};
use outwork_ledger::{Expect, Filter, PublicKey, Report, verify};
use outwork_wire::Time;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::print_json;
use crate::cli::evidence::{EvidenceArgs, EvidenceCommand, ExportForm, LedgerCommand, LedgerPlace, VerifyArgs};
use crate::config::{self, process_environment};
use crate::connection;
use crate::exit::Exit;

pub(crate) async fn evidence(args: EvidenceArgs) -> Result<Exit> {
    match args.command {
        None => fetch(args).await,
        Some(EvidenceCommand::Verify(args)) => verified(&args),
        Some(EvidenceCommand::Report { verify, markdown }) => report(&verify, markdown),
    }
}

async fn fetch(args: EvidenceArgs) -> Result<Exit> {
    let session = args.session.context("name a session")?;
    let client = connection::client(&args.common.connection, &process_environment)?;
    let to = args
        .file
        .unwrap_or_else(|| PathBuf::from(format!("{session}.evidence.jsonl")));
    if to.as_os_str() == "-" {
        let made = client.session_files(session).evidence().await?;
        made.write_to(&mut tokio::io::stdout()).await?;
        return Ok(Exit::Done);
    }
    if !args.force && to.exists() {
        bail!(
            "{} is there already: give --force to replace it, or --output",
            to.display()
        );
    }
    let Fetched { bytes, key } = fetch_to(&client, &session, &to).await?;
    if args.common.output.json {
        print_json(&json!({ "session_id": session, "path": to, "size_bytes": bytes, "key": key }))?;
    } else {
        println!("{}: {bytes} bytes", to.display());
        if let Some(key) = key {
            println!("sealed by the key {key}: tell it to whoever verifies, on another way than the file");
        }
    }
    Ok(Exit::Done)
}

/// Evidence that was written to a file.
pub(crate) struct Fetched {
    bytes: u64,
    /// The fingerprint of the key that sealed it, as the server says.
    pub(crate) key: Option<String>,
}

/// Writes the evidence of a session to a file, whole or not at all.
pub(crate) async fn fetch_to(client: &Client, session: &str, to: &Path) -> Result<Fetched> {
    let made = client.session_files(session).evidence().await?;
    let key = made.header("outwork-ledger-key").map(str::to_owned);
    let mut unfinished: OsString = to.into();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let bytes = match write(made, &unfinished).await {
        Ok(bytes) => bytes,
        Err(error) => {
            // The error is what is told; a piece that cannot be removed is a small thing beside it.
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
    };
    std::fs::rename(&unfinished, to).with_context(|| format!("could not write {}", to.display()))?;
    Ok(Fetched { bytes, key })
}

async fn write(made: outwork_client::Download, to: &Path) -> Result<u64> {
    let fault = || format!("could not write {}", to.display());
    let mut file = tokio::fs::File::create(to).await.with_context(fault)?;
    let bytes = made.write_to(&mut file).await?;
    file.shutdown().await.with_context(fault)?;
    file.sync_all().await.with_context(fault)?;
    Ok(bytes)
}

fn expected(keys: &[String]) -> Result<Expect> {
    let mut expect = Expect::any_key();
    for (number, key) in keys.iter().enumerate() {
        let id = match (key.parse(), key.parse::<PublicKey>()) {
            (Ok(id), _) => id,
            (_, Ok(key)) => key.id(),
            _ => bail!("--key {key}: a fingerprint of 32 hexadecimal digits is expected, or a key of 64"),
        };
        expect = match number {
            0 => Expect::key_ids([id]),
            _ => expect.and_key_id(id),
        };
    }
    Ok(expect)
}

fn examined(args: &VerifyArgs) -> Result<Evidence> {
    Ok(evidence::verify_file(&args.file, &expected(&args.keys)?)?)
}

fn verified(args: &VerifyArgs) -> Result<Exit> {
    let found = examined(args)?;
    if args.output.json {
        print_json(&facts(&found))?;
    } else {
        tell(&found, args.keys.is_empty());
    }
    Ok(outcome(&found))
}

/// What is changed is a failure; what the sealed sources say against each other is one too.
fn outcome(found: &Evidence) -> Exit {
    if found.is_sound() && found.findings.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    }
}

fn facts(found: &Evidence) -> Value {
    let ledgers: Vec<Value> = found
        .ledgers
        .iter()
        .map(|part| json!({ "name": part.name, "ledger": part.ledger, "records": part.records, "keys": part.keys }))
        .collect();
    json!({
        "type": "evidence_report",
        "sound": found.is_sound(),
        "fault": found.fault.as_ref().map(ToString::to_string),
        "fault_part": found.fault_part,
        "session_id": found.session,
        "at": found.at,
        "sealed_by": found.sealed_by.map(|key| key.id().to_string()),
        "ledgers": ledgers,
        "events": found.events,
        "calls_matched": found.calls_matched,
        "findings": found.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn tell(found: &Evidence, any_key: bool) {
    match &found.fault {
        Some(fault) => {
            let part = found.fault_part.as_deref().unwrap_or("the file");
            println!("NOT sound: {fault} (in {part})");
            return;
        }
        None => println!(
            "sound: nothing in it was changed, taken out or reordered; session {}",
            found.session.as_deref().unwrap_or("-")
        ),
    }
    for part in &found.ledgers {
        println!("ledger {}: {} records", part.name, part.records);
    }
    println!(
        "{} events, {} calls the same in the log and in a ledger",
        found.events, found.calls_matched
    );
    for finding in &found.findings {
        println!("finding: {finding}");
    }
    if let Some(key) = found.sealed_by {
        println!("sealed by the key {}", key.id());
    }
    if any_key {
        println!("no key was named, so this shows that the file agrees with itself: verify with --key");
    }
}

fn report(args: &VerifyArgs, markdown: bool) -> Result<Exit> {
    let found = examined(args)?;
    if args.output.json {
        print_json(&facts(&found))?;
    } else {
        let text = if markdown { found.markdown() } else { found.text() };
        io::stdout().write_all(text.as_bytes())?;
    }
    Ok(outcome(&found))
}

pub(crate) fn ledger(command: &LedgerCommand) -> Result<Exit> {
    match command {
        LedgerCommand::Verify { place, keys, output } => {
            let found = verify(folder(place)?, &expected(keys)?)?;
            if output.json {
                print_json(&crate::commands::tunnel::ledger_facts(&found))?;
            } else {
                crate::commands::tunnel::ledger_tell(&found, keys.is_empty());
            }
            Ok(sound(&found))
        }
        LedgerCommand::Export {
            place,
            session,
            workspace,
            since,
            form,
        } => {
            let mut filter = match session {
                Some(session) => Filter::session(session.as_str()),
                None => Filter::everything(),
            };
            if let Some(workspace) = workspace {
                filter = filter.in_workspace(workspace.as_str());
            }
            if let Some(span) = since {
                let back = i64::try_from(span.0.as_micros()).context("--since is too long")?;
                filter = filter.since(Time::from_micros(Time::now().as_micros().saturating_sub(back)));
            }
            let form = match form {
                ExportForm::Lines => Form::Lines,
                ExportForm::Ocsf => Form::Ocsf,
            };
            let count = write_matching(folder(place)?, &filter, form, io::stdout().lock())?;
            eprintln!("{count} records");
            Ok(Exit::Done)
        }
    }
}

fn sound(report: &Report) -> Exit {
    if report.is_sound() { Exit::Done } else { Exit::Failed }
}

fn folder(place: &LedgerPlace) -> Result<PathBuf> {
    let folder = match &place.ledger {
        Some(folder) => folder.clone(),
        None => config::ledger_dir(place.data_dir.clone(), place.config.as_deref(), &process_environment)?,
    };
    if !folder.is_dir() {
        bail!(
            "there is no ledger in {}: the server makes it when it starts",
            folder.display()
        );
    }
    Ok(folder)
}
