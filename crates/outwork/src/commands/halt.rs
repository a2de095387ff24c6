//! `outwork halt`

use anyhow::Result;
use serde_json::Value;

use super::{print_json, text};
use crate::cli::evidence::{HaltArgs, HaltWhat};
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::sanitize;

pub(crate) async fn halt(args: HaltArgs) -> Result<Exit> {
    let client = connection::client(&args.common.connection, &process_environment)?;
    let kind = match args.what {
        HaltWhat::Call => "calls",
        HaltWhat::Session => "sessions",
        HaltWhat::Environment => "environments",
        HaltWhat::Workspace => "workspaces",
    };
    let answer = client.halt(kind, &args.id, args.force, args.reason.as_deref()).await?;
    if args.common.output.json {
        print_json(&answer)?;
        return Ok(Exit::Done);
    }
    let sessions = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if sessions.is_empty() {
        println!("nothing was at work");
    }
    for session in sessions {
        let calls = session["calls"].as_array().map_or(0, Vec::len);
        let how = match (args.what, args.force) {
            (HaltWhat::Call, _) => "its call was ended",
            (_, true) => "ended for good",
            (_, false) => "interrupted",
        };
        let id = sanitize::line(&text(session, "/session_id"));
        println!(
            "{id}: {how}, with {calls} open call{}",
            if calls == 1 { "" } else { "s" }
        );
    }
    let by = answer.get("by").and_then(Value::as_str).unwrap_or_default();
    println!("recorded as ordered by {}", sanitize::line(by));
    Ok(Exit::Done)
}
