//! The log: always on standard error, so that standard output stays for what a command answers.

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::cli::plane::LogFormat;
use crate::config::LogConfig;

/// Starts the log of this process.
pub(crate) fn start(config: &LogConfig) -> Result<()> {
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
    let started = match config.format {
        LogFormat::Text => log
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("could not start the log: {error}"))
}
