//! Prints how fast sandboxes start and answer on this machine: `bench_sandbox [ROUNDS] [FILE]`.
//! The file is the entry of `@anthropic-ai/sandbox-runtime`, to have it in the comparison; bwrap and crun are taken from
//! the path.
//!
//! The static program is compiled with `cc`. Run it in a release build.

use std::process::{Command, ExitCode};

use outwork_sandbox::bench::{self, Peer};
use outwork_sandbox::{Launcher, LauncherOptions, Network};

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
    let entry = std::env::args().nth(2);
    match runtime.block_on(runtime.spawn(async move { run(rounds, entry.as_deref()).await })) {
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

async fn run(rounds: usize, srt: Option<&str>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let workspace = std::env::temp_dir().join(format!("outwork-bench-{}", std::process::id()));
    std::fs::create_dir(&workspace)?;
    let outcome = measure(&workspace, rounds, srt).await;
    std::fs::remove_dir_all(&workspace)?;
    outcome
}

/// `@anthropic-ai/sandbox-runtime` as a library, from the entry file of its package.
fn runtime(workspace: &std::path::Path, entry: Option<&str>) -> std::io::Result<Peer> {
    let entry = entry.ok_or_else(|| std::io::Error::other("the entry file of its package was not given"))?;
    let script = workspace.join("sandbox-runtime.mjs");
    std::fs::write(&script, RUNTIME)?;
    let mut command = Command::new("node");
    command.arg(&script).arg(entry).current_dir(workspace);
    Peer::lines("sandbox-runtime as a library", command)
}

/// Initialized once; then each line of standard input is wrapped and run.
const RUNTIME: &str = r#"import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
const { SandboxManager } = await import(pathToFileURL(process.argv[2]).href);
const filesystem = { denyRead: [], allowWrite: ["."], denyWrite: [] };
await SandboxManager.initialize({ network: { allowedDomains: [], deniedDomains: [] }, filesystem });
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const wrapped = await SandboxManager.wrapWithSandbox(line);
  const child = spawn(wrapped, { shell: true, stdio: "ignore" });
  console.log(String(await new Promise((ended) => child.on("exit", ended))));
}
"#;

async fn measure(
    workspace: &std::path::Path,
    rounds: usize,
    srt: Option<&str>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
    let program = workspace.join("true");
    let mut peers: Vec<Peer> = Peer::bwrap(&program).into_iter().collect();
    if peers.is_empty() {
        println!("bwrap is not installed: nothing to compare with");
    }
    for (name, peer) in [
        ("crun", Peer::crun(workspace, &program)),
        ("sandbox-runtime", runtime(workspace, srt)),
    ] {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(error) => println!("{name} is not measured: {error}"),
        }
    }
    for network in [Network::None, Network::Fenced] {
        let (ours, theirs) = bench::cold_start(&launcher, workspace, "true", rounds, network, &mut peers).await?;
        println!("{ours}");
        for theirs in theirs {
            println!("beside {theirs}");
        }
        let (at_once, times) = match network {
            Network::None => (16, rounds / 10 + 1),
            Network::Fenced => (100, rounds / 20 + 1),
        };
        println!(
            "{}",
            bench::burst(&launcher, workspace, "true", at_once, times, network).await?
        );
    }
    drop(peers);
    let standing = rounds / 10 + 2;
    let each = bench::idle_memory(&launcher, workspace, standing).await? as f64 / 1e6;
    println!(
        "{:<48} min {each:>7.3}  p50 {each:>7.3}  p95 {each:>7.3} MB",
        "a sandbox at rest, with its fence"
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
