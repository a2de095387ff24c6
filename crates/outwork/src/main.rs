//! Outwork: managed agents on your own machines.
//!
//! This binary parses the command line, resolves the settings and runs one command; every command of a service
//! configures, builds, announces and drains. Exit codes are those of [`exit`].
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod config;
mod connection;
mod conversation;
mod exit;
mod follow;
mod roles;
mod signals;
mod telemetry;
mod terminal;
mod workload;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    // First of all: this process may be the inside of a sandbox, which must not see anything of what follows.
    outwork_sandbox::entry();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            let printed = error.print();
            return if asked_for && printed.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::USAGE)
            };
        }
    };
    // Namespaces are changed while there is one thread.
    if let cli::Command::DemoHost(command) = &cli.command
        && let Err(error) = commands::demo::enter_network(command)
    {
        return failed(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("could not start the runtime")),
    };
    let result = runtime.block_on(commands::dispatch(cli));
    // A thread may still wait for a line of standard input: it is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Whoever read our output has seen enough, as `head` does.
fn reader_left(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("outwork: {}", terminal::sanitize::lines(&format!("{error:#}")));
    if let Some(advice) = connection::advice(error) {
        eprintln!("         {advice}");
    }
    exit::Exit::Failed.into()
}
