//! How fast a sandbox starts and answers, against other sandboxes.
//!
//! Ours and the peers run in turn, one of each per round, so that noise falls on all. Quote the ratio.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::SandboxError;
use crate::launcher::Launcher;
use crate::options::{Network, SandboxOptions};
use crate::output::ToolCall;

mod peer;

pub use peer::Peer;

/// Durations of one thing, sorted.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What was measured.
    pub name: String,
    sorted: Vec<Duration>,
}

impl Figures {
    fn new(name: &str, mut durations: Vec<Duration>) -> Self {
        durations.sort();
        Self {
            name: name.to_owned(),
            sorted: durations,
        }
    }

    /// The value below which this share (0 to 1) of the durations lies.
    pub fn at(&self, share: f64) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.sorted.get(index.min(last)).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |share| self.at(share).as_secs_f64() * 1e3;
        write!(
            f,
            "{:<48} min {:>7.3}  p50 {:>7.3}  p95 {:>7.3} ms",
            self.name,
            ms(0.0),
            ms(0.5),
            ms(0.95)
        )
    }
}

/// Rounds that only warm caches.
const WARMING: usize = 5;
/// Between two measurements, so that what one leaves behind does not slow the other.
const SETTLE: Duration = Duration::from_millis(10);

/// Cold start of a static program to its exit: ours, and each peer's in turn. `program` is a path in the workspace.
/// With a fence the sandbox has its listeners and rules; the peers have no network at all, which is less work.
pub async fn cold_start(
    launcher: &Launcher,
    workspace: &Path,
    program: &str,
    rounds: usize,
    network: Network,
    peers: &mut [Peer],
) -> Result<(Figures, Vec<Figures>), SandboxError> {
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); peers.len()];
    for round in 0..rounds + WARMING {
        tokio::time::sleep(SETTLE).await;
        let begun = Instant::now();
        let outcome = launcher
            .run_once(
                SandboxOptions {
                    network,
                    ..SandboxOptions::new(workspace)
                },
                vec![format!("/workspace/{program}")],
                false,
            )
            .await?;
        let took = begun.elapsed();
        if outcome.end.code != Some(0) {
            return Err(SandboxError::Ended(outcome.end.to_string()));
        }
        if round >= WARMING {
            ours.push(took);
        }
        for (peer, theirs) in peers.iter_mut().zip(&mut theirs) {
            tokio::time::sleep(SETTLE).await;
            let took = peer.once().map_err(|error| SandboxError::Ended(error.to_string()))?;
            if round >= WARMING {
                theirs.push(took);
            }
        }
    }
    let name = match network {
        Network::None => "sandbox cold start to exit, static program",
        Network::Fenced => "sandbox with its fence, cold start, static program",
    };
    let named = peers.iter().zip(theirs);
    let theirs = named
        .map(|(peer, durations)| Figures::new(&peer.name, durations))
        .collect();
    Ok((Figures::new(name, ours), theirs))
}

/// Cold starts asked for all at once: more than the launcher has prepared for, so each is made from the beginning.
/// The figure is the time per sandbox until all have ended.
pub async fn burst(
    launcher: &Launcher,
    workspace: &Path,
    program: &str,
    at_once: u32,
    rounds: usize,
    network: Network,
) -> Result<Figures, SandboxError> {
    let mut durations = Vec::new();
    for _ in 0..rounds {
        let mut tasks = tokio::task::JoinSet::new();
        let begun = Instant::now();
        for _ in 0..at_once {
            let launcher = launcher.clone();
            let options = SandboxOptions {
                network,
                ..SandboxOptions::new(workspace)
            };
            let argv = vec![format!("/workspace/{program}")];
            tasks.spawn(async move { launcher.run_once(options, argv, false).await });
        }
        while let Some(outcome) = tasks.join_next().await {
            let outcome = outcome.map_err(|error| SandboxError::Ended(error.to_string()))??;
            if outcome.end.code != Some(0) {
                return Err(SandboxError::Ended(outcome.end.to_string()));
            }
        }
        durations.push(begun.elapsed() / at_once);
        tokio::time::sleep(SETTLE).await;
    }
    let fence = match network {
        Network::None => "",
        Network::Fenced => " with their fences",
    };
    Ok(Figures::new(
        &format!("{at_once} cold starts{fence} at once, each"),
        durations,
    ))
}

/// Holding a sandbox still and letting it go on, while something runs in it.
pub async fn pauses(launcher: &Launcher, workspace: &Path, rounds: usize) -> Result<Vec<Figures>, SandboxError> {
    let sandbox = launcher.launch(SandboxOptions::new(workspace)).await?;
    let busy = serde_json::json!({ "command": "for i in 1 2 3; do (while :; do sleep 0.01; done) & done" });
    sandbox.call(ToolCall::new("bash", busy)).await?;
    let (mut pauses, mut resumes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        sandbox.pause().await?;
        pauses.push(begun.elapsed());
        let begun = Instant::now();
        sandbox.resume().await?;
        resumes.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sandbox.kill().await?;
    Ok(vec![
        Figures::new("pause of a running sandbox", pauses),
        Figures::new("resume of a paused sandbox", resumes),
    ])
}

/// From the kill of a sandbox in which 300 processes spin to the end of the last of them.
pub async fn bomb_kills(launcher: &Launcher, workspace: &Path, rounds: usize) -> Result<Figures, SandboxError> {
    let bomb = "/usr/bin/env bash -c 'for i in $(seq 300); do (while :; do :; done) & done; touch lit; wait' >/dev/null 2>&1 & until test -e lit; do sleep 0.01; done; rm lit";
    let mut kills = Vec::new();
    for _ in 0..rounds {
        let sandbox = launcher.launch(SandboxOptions::new(workspace)).await?;
        sandbox
            .call(ToolCall::new("bash", serde_json::json!({ "command": bomb })))
            .await?;
        let begun = Instant::now();
        sandbox.kill().await?;
        kills.push(begun.elapsed());
    }
    Ok(Figures::new("kill of 300 spinning processes to gone", kills))
}

/// Saving and restoring 10 MiB of files in `folder`, which is left empty: forty small ones and one large one.
pub fn checkpoints(folder: &Path, rounds: usize) -> Result<Vec<Figures>, SandboxError> {
    let io = SandboxError::io("write the bench's files");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder.join("files/small"))?;
        for number in 0..40_u8 {
            std::fs::write(folder.join(format!("files/small/{number}")), vec![number; 64 << 10])?;
        }
        let large: Vec<u8> = (0..(10 << 20) - 40 * (64 << 10))
            .map(|at: u32| (at % 251) as u8)
            .collect();
        std::fs::write(folder.join("files/large"), large)
    };
    write().map_err(io)?;
    let (mut saves, mut restores) = (Vec::new(), Vec::new());
    for round in 0..rounds + 3 {
        let (at, to) = (folder.join("saved"), folder.join("restored"));
        let begun = Instant::now();
        let saved = crate::checkpoint::save(&folder.join("files"), &at)?;
        let saving = begun.elapsed();
        let begun = Instant::now();
        crate::checkpoint::restore(&at, &saved.digest, &to)?;
        let restoring = begun.elapsed();
        if round >= 3 {
            saves.push(saving);
            restores.push(restoring);
        }
        for folder in [at, to] {
            std::fs::remove_dir_all(folder).map_err(SandboxError::io("clear the bench's folder"))?;
        }
    }
    std::fs::remove_dir_all(folder.join("files")).map_err(SandboxError::io("clear the bench's folder"))?;
    Ok(vec![
        Figures::new("checkpoint of 10 MiB of files", saves),
        Figures::new("restore of 10 MiB of files, verified", restores),
    ])
}

/// Calls in a running sandbox.
pub async fn calls(launcher: &Launcher, workspace: &Path, rounds: usize) -> Result<Vec<Figures>, SandboxError> {
    std::fs::write(workspace.join("small.txt"), "a small file\n")
        .map_err(SandboxError::io("write the bench's file"))?;
    let begun = Instant::now();
    let sandbox = launcher.launch(SandboxOptions::new(workspace)).await?;
    let mut figures = vec![Figures::new("launch to ready (one)", vec![begun.elapsed()])];
    for (name, tool, input) in [
        ("bash `true`", "bash", serde_json::json!({ "command": "true" })),
        (
            "bash `/bin/true`",
            "bash",
            serde_json::json!({ "command": "/bin/true" }),
        ),
        (
            "read of a small file",
            "read",
            serde_json::json!({ "file_path": "small.txt" }),
        ),
    ] {
        let mut durations = Vec::new();
        for round in 0..rounds + 5 {
            let output = sandbox.call(ToolCall::new(tool, input.clone())).await?;
            if output.is_error {
                return Err(SandboxError::Ended(output.text()));
            }
            if round >= 5 {
                durations.push(output.duration);
            }
        }
        figures.push(Figures::new(&format!("call in a running sandbox: {name}"), durations));
    }
    let mut durations = Vec::new();
    for _ in 0..rounds.min(100) {
        let sandbox = launcher.launch(SandboxOptions::new(workspace)).await?;
        let begun = Instant::now();
        sandbox.kill().await?;
        durations.push(begun.elapsed());
    }
    figures.push(Figures::new("kill to gone", durations));
    Ok(figures)
}

/// What a sandbox that rests costs, in bytes: with its fence, after a first command. The memory of the launcher and of
/// all processes below it (shared pages by their share), with so many sandboxes less without any, for each of them.
pub async fn idle_memory(launcher: &Launcher, workspace: &Path, sandboxes: usize) -> Result<u64, SandboxError> {
    let before = below(std::process::id());
    let mut standing = Vec::with_capacity(sandboxes);
    for _ in 0..sandboxes {
        let options = SandboxOptions {
            network: Network::Fenced,
            ..SandboxOptions::new(workspace)
        };
        let sandbox = launcher.launch(options).await?;
        let input = serde_json::json!({ "command": "true" });
        sandbox.call(ToolCall::new("bash", input)).await?;
        standing.push(sandbox);
    }
    let after = below(std::process::id());
    for sandbox in standing {
        sandbox.kill().await?;
    }
    Ok(after.saturating_sub(before) / sandboxes.max(1) as u64)
}

/// The memory of all processes below one, in bytes.
fn below(parent: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children: String = children.collect();
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(|pid: u32| memory(pid) + below(pid)).sum()
}

fn memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
