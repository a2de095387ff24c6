//! `outwork rehearsal`

use std::io::Write;

use anyhow::Result;
use outwork_rehearsal::{Options, Rehearsal, Scenario};

use crate::cli::plane::LogFormat;
use crate::cli::task::RehearsalArgs;
use crate::config::LogConfig;
use crate::exit::Exit;
use crate::{signals, telemetry};

pub(crate) async fn rehearsal(args: RehearsalArgs) -> Result<Exit> {
    telemetry::start(&LogConfig {
        format: args.log.log_format.unwrap_or(LogFormat::Text),
        level: args.log.log_level.clone().unwrap_or_else(|| "info".to_owned()),
    })?;
    let scenario = match &args.scenario {
        Some(path) => Scenario::from_path(path)?,
        None => Scenario::built_in(),
    };
    let asked = signals::drain_token()?;
    let server = Rehearsal::start(Options {
        listen: args.listen,
        ..Options::new(scenario)
    })
    .await?;
    writeln!(std::io::stdout(), "rehearsal: listening on {}", server.base_url())?;
    asked.cancelled().await;
    server.shutdown().await;
    Ok(Exit::Done)
}
