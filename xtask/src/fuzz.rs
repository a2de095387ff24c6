//! The fuzz targets: built with the coverage that libFuzzer steers by, which a stable compiler can do, and each run
//! for some seconds from its seeds (`fuzz/seeds/TARGET`) and from what earlier runs found (under the build folder).
//! An input that breaks a target is kept and named. `OUTWORK_FUZZ_SECONDS` gives each target longer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::Run;

/// Coverage as libFuzzer reads it, without a sanitizer: those need a nightly compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
const SECONDS: u64 = 3;
/// No input of a parser takes longer, on a machine that is busy.
const SLOWEST: u64 = 20;

/// Builds and runs every target.
pub(crate) fn check(run: &Run) -> Result<()> {
    let seconds = match std::env::var("OUTWORK_FUZZ_SECONDS") {
        Ok(text) => text
            .parse()
            .context("OUTWORK_FUZZ_SECONDS is not a number of seconds")?,
        Err(_) => SECONDS,
    };
    let host = host()?;
    let kept = run.workspace.kept("fuzz")?;
    let folder = run.workspace.root.join("fuzz");
    // Naming the target keeps the flags away from build scripts.
    let mut build = run.cargo(&["build", "--locked", "--bins", "--target", &host]);
    build
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &kept)
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run.run("fuzz-build", build, 30)
        .context("the fuzz targets do not build")?;
    let targets = targets(&folder)?;
    for target in &targets {
        let found = run.workspace.kept(&format!("fuzz/corpus/{target}"))?;
        let broken = run.workspace.kept(&format!("fuzz/broken/{target}"))?;
        let mut command = Command::new(kept.join(&host).join("debug").join(target));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={SLOWEST}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", broken.display()))
            .arg(&found);
        let seeds = folder.join("seeds").join(target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        let minutes = seconds / 60 + 3;
        run.run(&format!("fuzz-{target}"), command, minutes)
            .with_context(|| format!("the fuzz target {target} broke; the input is in {}", broken.display()))?;
    }
    println!("      {} targets, {seconds} s each", targets.len());
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("could not read {}", manifest.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("{} is not TOML", manifest.display()))?;
    let named = |bin: &toml::Value| bin.get("name")?.as_str().map(str::to_owned);
    let bins = table.get("bin").and_then(toml::Value::as_array);
    let targets: Vec<String> = bins.into_iter().flatten().filter_map(named).collect();
    let files = std::fs::read_dir(folder.join("fuzz_targets")).context("could not list the fuzz targets")?;
    for file in files {
        let path: PathBuf = file.context("could not list the fuzz targets")?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !targets.iter().any(|target| target == name) {
            bail!("{} is not named in {}", path.display(), manifest.display());
        }
    }
    Ok(targets)
}

/// The triple of the machine that this runs on.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("could not ask rustc for its host")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc did not name its host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_named_in_the_manifest() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let targets = targets(&folder).unwrap();
        assert!(targets.iter().any(|target| target == "tunnel_frames"), "{targets:?}");
    }
}
