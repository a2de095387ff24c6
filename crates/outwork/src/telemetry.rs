//! The log: always on standard error, so that standard output stays for what a command answers.

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::cli::plane::LogFormat;
use crate::config::LogConfig;

/// Changes the level of the log.
pub(crate) type ChangeLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Starts the log of this process.
pub(crate) fn start(config: &LogConfig) -> Result<()> {
    start_changeable(config).map(drop)
}

/// Starts the log of this process, and gives the way to change its level: that of this project's own rooms, while
/// libraries stay at `info` at most.
pub(crate) fn start_changeable(config: &LogConfig) -> Result<ChangeLevel> {
    let filter = EnvFilter::try_new(&config.level).with_context(|| {
        format!(
            "`{}` is not a log level such as info, nor a filter such as info,outwork_plane=debug",
            config.level
        )
    })?;
    // The MCP library logs what servers send.
    let silent = format!("{}=off", outwork_mcp::SDK_LOG_TARGET);
    let filter = filter.add_directive(silent.parse().context("the target of the MCP library")?);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| anyhow!("could not start the log: {error}");
    // Reloading fails only when the log is gone.
    match config.format {
        LogFormat::Text => {
            let log = log
                .with_target(false)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map_err(failed)?;
            Ok(Box::new(move |level| drop(handle.reload(filter_of(level)))))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            log.try_init().map_err(failed)?;
            Ok(Box::new(move |level| drop(handle.reload(filter_of(level)))))
        }
    }
}

/// The filter of a level that a gateway's configuration names.
fn filter_of(level: &str) -> EnvFilter {
    let others = if matches!(level, "trace" | "debug") {
        "info"
    } else {
        level
    };
    let own = ["outwork", "outwork_gateway", "outwork_tunnel", "outwork_ledger"];
    let own: Vec<String> = own.iter().map(|room| format!("{room}={level}")).collect();
    EnvFilter::new(format!("{others},{}", own.join(",")))
}
