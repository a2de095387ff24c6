//! The project's own tasks, run as `cargo xtask TASK`.
//!
//! `test` is the whole check that a change must pass, `parity` writes what the published SDK gets
//! back for every operation of the contract, `contract` refreshes the list of those operations, and
//! `bench` prints figures. Nothing here is part of the product; nothing here is installed outside
//! the build folder.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod contract;
mod deploy;
mod fuzz;
mod licences;
mod metadata;
mod parity;
mod process;
mod rooms;
mod sdk;
mod steps;
mod workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tasks of the Outwork project", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check that a change must pass; installs what the checks need under target/.
    Test(steps::TestArguments),
    /// Call every operation of the contract with the published SDK and write docs/parity.md.
    Parity(parity::ParityArguments),
    /// Refresh xtask/contract/operations.json from a contract file.
    Contract {
        /// The contract, an OpenAPI 3.1 file in JSON.
        contract: PathBuf,
    },
    /// Build for release and print figures: ours and, where there is one, the peer's in turn.
    Bench(bench::BenchArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Test(arguments) => steps::test(&arguments),
        Task::Parity(arguments) => parity::write(&arguments),
        Task::Contract { contract } => contract::refresh(&contract),
        Task::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
