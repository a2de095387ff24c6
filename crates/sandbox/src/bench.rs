//! How fast a sandbox starts and answers, against the peer that is on most machines.
//!
//! Ours and `bwrap` run in turn, one of each per round, so that noise falls on both. Quote the ratio.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::SandboxError;
use crate::launcher::Launcher;
use crate::options::SandboxOptions;
use crate::output::ToolCall;

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

/// Between two measurements, so that what one leaves behind does not slow the other.
const SETTLE: Duration = Duration::from_millis(10);

/// Cold start of a static program to its exit: ours, and bwrap's when it is installed. `program` is a path inside both.
pub async fn cold_start(
    launcher: &Launcher,
    workspace: &Path,
    program: &str,
    rounds: usize,
) -> Result<(Figures, Option<Figures>), SandboxError> {
    let bwrap = Command::new("bwrap")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..rounds + 5 {
        tokio::time::sleep(SETTLE).await;
        let begun = Instant::now();
        let outcome = launcher
            .run_once(
                SandboxOptions::new(workspace),
                vec![format!("/workspace/{program}")],
                false,
            )
            .await?;
        let took = begun.elapsed();
        if outcome.end.code != Some(0) {
            return Err(SandboxError::Ended(outcome.end.to_string()));
        }
        // The first rounds warm caches.
        if round >= 5 {
            ours.push(took);
        }
        if bwrap {
            let path = workspace.join(program);
            tokio::time::sleep(SETTLE).await;
            let begun = Instant::now();
            let status = Command::new("bwrap")
                .args([
                    "--unshare-all",
                    "--ro-bind",
                    "/",
                    "/",
                    "--proc",
                    "/proc",
                    "--dev",
                    "/dev",
                ])
                .arg(&path)
                .status();
            let took = begun.elapsed();
            if round >= 5 && status.is_ok_and(|status| status.success()) {
                theirs.push(took);
            }
        }
    }
    let theirs = (!theirs.is_empty()).then(|| Figures::new("bwrap --unshare-all, static program", theirs));
    Ok((Figures::new("sandbox cold start to exit, static program", ours), theirs))
}

/// Cold starts asked for all at once: more than the launcher has prepared for, so each is made from the beginning.
/// The figure is the time per sandbox until all have ended.
pub async fn burst(
    launcher: &Launcher,
    workspace: &Path,
    program: &str,
    at_once: u32,
    rounds: usize,
) -> Result<Figures, SandboxError> {
    let mut durations = Vec::new();
    for _ in 0..rounds {
        let mut tasks = tokio::task::JoinSet::new();
        let begun = Instant::now();
        for _ in 0..at_once {
            let (launcher, options) = (launcher.clone(), SandboxOptions::new(workspace));
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
    Ok(Figures::new(&format!("{at_once} cold starts at once, each"), durations))
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
