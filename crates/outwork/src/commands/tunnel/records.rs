//! `outwork tunnel records`: the gateway's ledger, read while it is written.

use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use outwork_ledger::{Decision, Expect, Filter, PublicKey, Record, Report, scan, verify};
use outwork_wire::Time;
use serde_json::{Value, json};

use crate::cli::tunnel::RecordsArgs;
use crate::commands::print_json;
use crate::exit::Exit;
use crate::terminal::table::Table;
use crate::terminal::{Look, sanitize};

pub(super) fn records(args: &RecordsArgs, look: Look) -> Result<Exit> {
    let dir = match &args.ledger {
        Some(dir) => dir.clone(),
        None => ledger(args)?,
    };
    if !dir.is_dir() {
        bail!(
            "there is no ledger in {}: the gateway makes it when it starts",
            dir.display()
        );
    }
    if args.verify {
        return verified(args, &dir);
    }
    let mut filter = Filter::everything();
    if let Some(session) = &args.session {
        filter = Filter::session(session);
    }
    if let Some(span) = args.since {
        let back = i64::try_from(span.0.as_micros()).context("--since is too long")?;
        filter = filter.since(Time::from_micros(Time::now().as_micros().saturating_sub(back)));
    }
    let wanted = |record: &Record| {
        let is = |flag: &Option<String>, field: &Option<String>| flag.is_none() || flag == field;
        is(&args.route, &record.route)
            && is(&args.tool, &record.tool)
            && !(args.refused && record.decision == Some(Decision::Allowed))
    };
    let mut last: VecDeque<(u64, Record)> = VecDeque::new();
    let scanned = scan(&dir, &filter, |receipt, record| {
        if args.limit > 0 && wanted(record) {
            if last.len() == args.limit {
                last.pop_front();
            }
            last.push_back((receipt.sequence, record.clone()));
        }
    });
    show(&last, args, &look)?;
    // What was read before a fault is sound and was shown.
    scanned.context("the ledger is damaged from here on")?;
    Ok(Exit::Done)
}

fn ledger(args: &RecordsArgs) -> Result<PathBuf> {
    let config = args.place.load()?;
    match config.ledger {
        Some(place) => Ok(place.dir),
        None => bail!(
            "{} keeps no records: ledger.dir is missing in it",
            args.place.config().display()
        ),
    }
}

fn show(records: &VecDeque<(u64, Record)>, args: &RecordsArgs, look: &Look) -> Result<()> {
    if args.output.json {
        for (sequence, record) in records {
            let mut value = serde_json::to_value(record)?;
            value["sequence"] = json!(sequence);
            print_json(&value)?;
        }
        return Ok(());
    }
    if records.is_empty() {
        eprintln!("none");
        return Ok(());
    }
    let mut table = Table::new(&[
        "TIME", "ROUTE", "METHOD", "TOOL", "SESSION", "DECISION", "RULE", "STATUS", "IN", "OUT", "MS",
    ]);
    for (_, record) in records {
        let text = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), sanitize::line);
        let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let bytes = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let decision = record.decision.and_then(|decision| serde_json::to_value(decision).ok());
        table.row([
            seconds(record.at),
            text(&record.route),
            text(&record.mcp_method.clone().or(record.http_method.clone())),
            text(&record.tool),
            text(&record.session),
            decision.as_ref().and_then(Value::as_str).unwrap_or("-").to_owned(),
            text(&record.rule),
            number(record.status),
            bytes(record.bytes_in),
            bytes(record.bytes_out),
            record
                .duration_micros
                .map_or_else(|| "-".to_owned(), |micros| format!("{:.1}", micros as f64 / 1000.0)),
        ]);
    }
    println!("{}", table.render(look));
    Ok(())
}

fn seconds(time: Time) -> String {
    let text = time.to_string();
    let cut = text.split('.').next().unwrap_or_default();
    format!("{}Z", cut.trim_end_matches('Z').replace('T', " "))
}

/// Verifies the whole ledger.
fn verified(args: &RecordsArgs, dir: &std::path::Path) -> Result<Exit> {
    let keys: Vec<PublicKey> = args
        .keys
        .iter()
        .map(|key| {
            key.parse()
                .with_context(|| format!("--key {key}: 64 hexadecimal digits are expected"))
        })
        .collect::<Result<_>>()?;
    let expect = if keys.is_empty() {
        Expect::any_key()
    } else {
        Expect::keys(keys)
    };
    let report = verify(dir, &expect)?;
    if args.output.json {
        print_json(&facts(&report))?;
    } else {
        tell(&report, args.keys.is_empty());
    }
    Ok(if report.is_sound() { Exit::Done } else { Exit::Failed })
}

pub(crate) fn facts(report: &Report) -> Value {
    json!({
        "type": "ledger_report",
        "sound": report.is_sound(),
        "fault": report.fault.as_ref().map(ToString::to_string),
        "ledger": report.ledger,
        "records": report.records,
        "redacted": report.redacted,
        "last_sequence": report.last.map(|last| last.sequence),
        "last_hash": report.last.map(|last| last.hash),
        "signed_up_to": report.signed_up_to,
        "unsigned": report.unsigned,
        "checkpoints": report.checkpoints,
        "recovered": report.recovered,
        "interrupted": report.interrupted,
        "segments": report.segments,
        "keys": report.keys,
    })
}

pub(crate) fn tell(report: &Report, any_key: bool) {
    match &report.fault {
        None => println!(
            "sound: {} records, none changed, taken out or reordered; signed up to line {}, {} lines after it are chained \
             and not signed yet",
            report.records, report.signed_up_to, report.unsigned
        ),
        Some(fault) => println!("NOT sound: {fault}"),
    }
    if report.redacted > 0 {
        println!("{} records were redacted, and the ledger says which", report.redacted);
    }
    if report.interrupted + report.recovered > 0 {
        println!(
            "interrupted {} times, recovered after a crash {} times",
            report.interrupted, report.recovered
        );
    }
    if let Some(last) = report.last {
        println!("last line {} {}", last.sequence, last.hash);
    }
    for key in &report.keys {
        println!("key {key}");
    }
    if any_key {
        println!(
            "no key was named, so this shows that the ledger agrees with itself: keep its key elsewhere, and verify with --key"
        );
    }
}
