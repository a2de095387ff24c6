//! Prints how fast sandboxes start and answer on this machine: `bench_sandbox [ROUNDS]`.
//!
//! The static program is compiled with `cc`. Run it in a release build.

use std::process::{Command, ExitCode};

use outwork_sandbox::{Launcher, LauncherOptions, Network, bench};

fn main() -> ExitCode {
    outwork_sandbox::entry();
    let rounds = std::env::args()
        .nth(1)
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(200);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // As a worker does it: in a task of the runtime, not on the thread that waits for it.
    match runtime.block_on(runtime.spawn(run(rounds))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("bench_sandbox: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench_sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(rounds: usize) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let workspace = std::env::temp_dir().join(format!("outwork-bench-{}", std::process::id()));
    std::fs::create_dir(&workspace)?;
    let outcome = measure(&workspace, rounds).await;
    std::fs::remove_dir_all(&workspace)?;
    outcome
}

async fn measure(workspace: &std::path::Path, rounds: usize) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let source = workspace.join("true.c");
    std::fs::write(&source, "int main(void) { return 0; }\n")?;
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(workspace.join("true"))
        .arg(&source)
        .status()?;
    if !compiled.success() {
        return Err("cc could not make a static program".into());
    }
    let launcher = Launcher::start(LauncherOptions::default()).await?;
    println!(
        "limits by {}. The launcher runs and keeps control groups and network namespaces for the next two sandboxes; all else is made per sandbox",
        launcher.limits_by()
    );
    let (ours, theirs) = bench::cold_start(&launcher, workspace, "true", rounds, Network::None).await?;
    println!("{ours}");
    match theirs {
        Some(theirs) => {
            println!("{theirs}");
            println!(
                "ratio of p50: {:.2}",
                ours.at(0.5).as_secs_f64() / theirs.at(0.5).as_secs_f64()
            );
        }
        None => println!("bwrap is not installed: nothing to compare with"),
    }
    println!(
        "{}",
        bench::burst(&launcher, workspace, "true", 16, rounds / 10 + 1, Network::None).await?
    );
    let (fenced, theirs) = bench::cold_start(&launcher, workspace, "true", rounds, Network::Fenced).await?;
    println!("{fenced}");
    if let Some(theirs) = theirs {
        println!(
            "ratio of p50 to bwrap in turn: {:.2}",
            fenced.at(0.5).as_secs_f64() / theirs.at(0.5).as_secs_f64()
        );
    }
    println!(
        "{}",
        bench::burst(&launcher, workspace, "true", 100, rounds / 20 + 1, Network::Fenced).await?
    );
    for figures in bench::pauses(&launcher, workspace, rounds).await? {
        println!("{figures}");
    }
    println!("{}", bench::bomb_kills(&launcher, workspace, rounds / 20 + 1).await?);
    for figures in bench::checkpoints(&workspace.join("checkpoints"), rounds / 4 + 1)? {
        println!("{figures}");
    }
    for figures in bench::calls(&launcher, workspace, rounds).await? {
        println!("{figures}");
    }
    Ok(())
}
